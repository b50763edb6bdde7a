from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from thalweg import database, ingest, quarantine, raw, sources, storage, warehouse
from thalweg.cli import app
from thalweg.database import new_id
from thalweg.errors import InvalidInput, NotFound
from thalweg.raw import RawFile
from thalweg.settings import Settings

START = dt.datetime(2021, 8, 23, tzinfo=dt.UTC)
TIME = pa.timestamp("us", "UTC")
NAME = "primary_timeseries"


@pytest.fixture
def location(store: Settings) -> str:
    """A location that the warehouse does not know, and that no other test writes."""
    migrate(store.data_dir)
    return f"usgs-{new_id()}"


@cache
def migrate(data_dir: Path) -> None:
    database.migrate()
    warehouse.migrate()


def observations(location: str, values: list[float], file: str, unit: str = "m^3/s") -> pa.Table:
    n = len(values)
    times = [START + dt.timedelta(hours=i) for i in range(n)]
    return pa.table(
        {
            "reference_time": pa.nulls(n, TIME),
            "value_time": pa.array(times, TIME),
            "value": pa.array(values, pa.float64()),
            "unit_name": [unit] * n,
            "location_id": [location] * n,
            "configuration_name": ["usgs_observations"] * n,
            "variable_name": ["streamflow_hourly_inst"] * n,
            "quality_code": pa.nulls(n, pa.string()),
            "raw_file_id": [file] * n,
        }
    )


def known(location: str) -> None:
    warehouse.write("locations", pa.table({"id": [location]}))


def stored(location: str) -> list[float]:
    rows = warehouse.read(NAME, where=f"location_id = '{location}'").sort_by("value_time")
    return rows["value"].to_pylist()


def of(file: str) -> list[quarantine.Entry]:
    return [e for e in quarantine.list(released=True) if e.raw_file_id == file]


def landed(content: bytes, source: str = "usgs") -> RawFile:
    return raw.land(source, "test", content, extension="json", url="https://example.org/x")


def test_rows_wait_for_their_location_and_are_released_with_it(location: str) -> None:
    file = new_id()
    done = quarantine.admit({NAME: observations(location, [1.0, 2.0], file)})
    (entry,) = done.quarantined
    assert (entry.table, entry.count, entry.raw_file_id) == (NAME, 2, file)
    assert entry.reason == (f"location_id: expected one of `locations.id`, got {location} (2 rows)")
    assert str(entry).startswith("2 rows of primary_timeseries in quarantine: location_id")
    assert stored(location) == []
    rows = quarantine.show(entry.id)[1]
    assert rows is not None
    assert rows["value"].to_pylist() == [1.0, 2.0]

    assert quarantine.retry(entry.id).quarantined[0].count == 2  # nothing was mended
    known(location)
    done = quarantine.retry(entry.id)
    assert [w.added for w in done.written] == [2]
    assert stored(location) == [1.0, 2.0]
    (entry,) = of(file)
    assert entry.released_at is not None
    assert entry not in quarantine.list()
    assert quarantine.retry(entry.id).written[0].added == 0  # again changes nothing


def test_good_rows_pass_and_the_bad_ones_of_each_file_are_an_entry(location: str) -> None:
    known(location)
    files = [new_id(), new_id()]
    rows = pa.concat_tables(
        [
            observations(location, [1.0, -2.0, 3.0, -4.0], files[0]),
            observations(location, [9.0, 9.0, 9.0, 9.0], files[1], "cfs"),
        ]
    )
    done = quarantine.admit({NAME: rows})
    assert [(e.raw_file_id, e.count) for e in done.quarantined] == [(files[0], 2), (files[1], 4)]
    assert stored(location) == [1.0, 3.0]
    assert str(done).splitlines()[0] == ("primary_timeseries: 2 rows added, 0 changed, 0 unchanged")


def test_the_same_rows_again_are_kept_once_and_others_join_them(location: str) -> None:
    file = new_id()
    rows = observations(location, [1.0, 2.0], file)
    first = quarantine.admit({NAME: rows}).quarantined[0]
    again = quarantine.admit({NAME: rows}).quarantined[0]
    assert (again.id, again.count, again.uri) == (first.id, 2, first.uri)
    more = observations(location, [1.0, 2.0, 3.0], file)
    assert quarantine.admit({NAME: more}).quarantined[0].count == 3
    other = observations(location + "-other", [4.0], file)
    assert quarantine.admit({NAME: other}).quarantined[0].count == 4
    assert len(of(file)) == 1
    assert storage.read(first.uri)  # evidence is not taken away


def test_only_what_is_good_now_is_released(location: str) -> None:
    file = new_id()
    rows = observations(location, [1.0, -2.0], file)
    (entry,) = quarantine.admit({NAME: rows}).quarantined
    known(location)
    (left,) = quarantine.retry(entry.id).quarantined
    assert (left.count, left.released_at) == (1, None)
    assert left.reason == ("value: expected 0 to 500,000 m^3/s of streamflow, got -2.0 (1 rows)")
    assert stored(location) == [1.0]
    # The whole file once more: what waits still waits once.
    assert quarantine.admit({NAME: rows}).quarantined[0].count == 1


def test_a_unit_that_is_made_known_is_converted_on_release(location: str) -> None:
    known(location)
    unit = "gallon/minute"
    done = quarantine.admit({NAME: observations(location, [1000.0], new_id(), unit)})
    (entry,) = done.quarantined
    assert "units" in entry.reason
    warehouse.write("units", pa.table({"name": [unit]}))
    done = quarantine.retry(entry.id)
    assert [str(c) for c in done.converted] == [
        "1 values of streamflow_hourly_inst converted from gallon/minute to m^3/s"
    ]
    assert stored(location) == pytest.approx([0.0630901964], rel=1e-9)


@pytest.mark.parametrize(
    ("units", "unit", "value"),
    [({}, "gallon/hour", 1000.0), ({"streamflow": "ft^3/s"}, "ft^3/s", 0.0371335)],
)
def test_what_is_released_is_in_the_units_that_were_asked_for(
    location: str, units: dict[str, str], unit: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = "gallon/hour"
    rows = observations(location, [1000.0], new_id(), came)
    (entry,) = quarantine.admit({NAME: rows}, units=units).quarantined
    assert entry == quarantine.show(entry.id)[0]
    known(location)
    warehouse.write("units", pa.table({"name": [came]}))
    quarantine.retry(entry.id)
    file = landed(location.encode(), "table")
    rows = observations(location, [0.0, 1000.0], file.id, came)

    def read(files: object) -> dict[str, pa.Table]:
        if not mended:
            raise InvalidInput("not understood yet")
        return {NAME: rows}

    mended = False
    (entry,) = ingest.load(read, [file], units=units).quarantined
    mended = True
    monkeypatch.setattr(sources.get("table"), "read", read)
    quarantine.retry(entry.id)
    found = warehouse.read(NAME, where=f"location_id = '{location}'").sort_by("value_time")
    assert found["unit_name"].to_pylist() == [unit] * 2
    assert found["value"].to_pylist() == pytest.approx([0.0, value], rel=1e-5)


def test_a_released_row_never_replaces_what_a_later_file_said(location: str) -> None:
    """It finds one value changed, one as it was, and says nothing of the third."""
    unit = "liter/s"  # is not known yet
    hour = dt.timedelta(hours=1)
    first, late, last = (
        raw.land(
            "table", f"test-{location}", content, extension="json", url="https://example.org/x",
            valid_from=START, valid_to=START + hours * hour,
        )
        for content, hours in ((b"1", 2), (b"2", 2), (b"3", 1))
    )  # fmt: skip
    newer = {NAME: observations(location, [3.0, 10.0], last.id)}
    known(location)
    quarantine.admit({NAME: observations(location, [1.0, 10.0, 5.0], first.id)})
    rows = observations(location, [2000.0, 99000.0, 7000.0], late.id, unit)
    (entry,) = quarantine.admit({NAME: rows}).quarantined
    quarantine.admit(newer)
    warehouse.write("units", pa.table({"name": [unit]}))
    done = quarantine.retry(entry.id)
    assert (done.written[0].changed, done.written[0].unchanged) == (1, 1)
    assert stored(location) == pytest.approx([3.0, 10.0, 7.0])
    (left,) = done.quarantined
    assert left.reason == f"{quarantine.admission.DOUBT}, got {late.id} (1 rows)"
    assert quarantine.show(entry.id)[1]["value"].to_pylist() == [99000.0]  # as it came
    # Loaded again in their order, they say what holds.
    quarantine.admit({NAME: rows})
    quarantine.admit(newer)
    assert stored(location) == pytest.approx([3.0, 10.0, 7.0])
    assert quarantine.retry(entry.id).quarantined[0].released_at is not None
    assert stored(location) == pytest.approx([3.0, 10.0, 7.0])


def test_rows_that_are_written_as_older_correct_what_is_as_old(location: str) -> None:
    known(location)
    quarantine.admit({NAME: observations(location, [3.0], new_id())})
    newest = new_id()
    for value in (4.0, 5.0):  # an earlier file's, and what the same file was read as before
        rows = observations(location, [value], newest)
        assert warehouse.write(NAME, rows, replace="older").changed == 1
        assert stored(location) == [value]


def test_rows_without_a_raw_file_are_kept_by_what_they_are(location: str) -> None:
    rows = pa.table({"primary_location_id": [location], "secondary_location_id": ["nwm30-1"]})
    first = quarantine.admit({"location_crosswalks": rows}).quarantined[0]
    again = quarantine.admit({"location_crosswalks": rows}).quarantined[0]
    assert (first.id, first.count, first.raw_file_id) == (again.id, 1, None)
    known(location)
    assert quarantine.retry(first.id).written[0].added == 1


def test_tables_that_others_refer_to_come_first(location: str) -> None:
    tables = {
        NAME: observations(location, [1.0], new_id()),
        "locations": pa.table({"id": [location]}),
    }
    done = quarantine.admit(tables)
    assert [w.table for w in done.written] == ["locations", NAME]
    assert done.quarantined == ()
    assert str(quarantine.admit({})) == "nothing to write"
    with pytest.raises(NotFound, match="unknown table"):
        quarantine.admit({"primary": tables[NAME]})


def test_a_whole_file_is_kept_once_and_read_again(location: str) -> None:
    file = landed(f"<html>{location}</html>".encode())
    first = quarantine.keep_file(file, "no JSON")
    assert quarantine.keep_file(file, "still no JSON").id == first.id
    (entry,) = of(file.id)
    assert (entry.table, entry.reason, entry.uri) == (None, "still no JSON", file.uri)
    assert quarantine.show(entry.id)[1] is None
    with pytest.raises(InvalidInput):
        quarantine.retry(entry.id)
    assert of(file.id)[0].released_at is None
    quarantine.release([file.id])
    assert of(file.id)[0].released_at is not None


def test_a_file_that_is_read_again_replaces_nothing_of_a_later_one(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(location)
    file = landed(f"[{location!r}]".encode())
    entry = quarantine.keep_file(file, "not understood yet")
    quarantine.admit({NAME: observations(location, [3.0], new_id())})
    rows = observations(location, [1.0, 2.0], file.id)
    monkeypatch.setattr(sources.get("usgs"), "read", lambda files: {NAME: rows})  # it is mended
    (written,) = quarantine.retry(entry.id).written
    assert (written.added, written.changed) == (1, 0)
    assert stored(location) == [3.0, 2.0]
    assert of(file.id)[0].released_at is not None


def test_what_is_discarded_is_listed_no_more_and_stays_stored(location: str) -> None:
    file = new_id()
    rows = observations(location, [-1.0], file)
    (entry,) = quarantine.admit({NAME: rows}).quarantined
    left = quarantine.discard(entry.id[:13])
    assert str(left) == "1 rows of primary_timeseries discarded from quarantine"
    assert left.reason == f"discarded: {entry.reason}"
    assert quarantine.discard(entry.id) == left
    assert entry.id not in {e.id for e in quarantine.list()}
    assert storage.read(left.uri)
    # The same again waits again.
    (again,) = quarantine.admit({NAME: rows}).quarantined
    assert (again.id, again.reason, again.released_at) == (entry.id, entry.reason, None)


def test_what_is_discarded_and_tried_again_is_discarded_no_more(location: str) -> None:
    (entry,) = quarantine.admit({NAME: observations(location, [1.0, -2.0], new_id())}).quarantined
    quarantine.discard(entry.id)
    known(location)
    (left,) = quarantine.retry(entry.id).quarantined
    assert (left.count, left.released_at, left.is_discarded) == (1, None, False)
    file = landed(location.encode())
    entry = quarantine.keep_file(file, "no JSON")
    quarantine.discard(entry.id)
    quarantine.release([file.id])
    assert str(of(file.id)[0]) == "a whole file released from quarantine"

    (entry,) = quarantine.admit(
        {NAME: observations(location, [0.1], new_id(), "gallon/day")}
    ).quarantined
    quarantine.discard(entry.id)
    warehouse.write("units", pa.table({"name": ["gallon/day"]}))
    (left,) = quarantine.retry(entry.id).quarantined
    assert str(left) == "1 rows of primary_timeseries released from quarantine"
    assert not left.is_discarded


def test_an_entry_waits_since_it_came_first(location: str) -> None:
    file = new_id()
    first = quarantine.admit({NAME: observations(location, [1.0], file)}).quarantined[0]
    more = quarantine.admit({NAME: observations(location, [1.0, 2.0], file)}).quarantined[0]
    retried = quarantine.retry(first.id).quarantined[0]
    assert first.at == more.at == retried.at


def test_a_source_that_needs_to_be_told_more_says_so(location: str) -> None:
    file = landed(location.encode(), source="table")
    entry = quarantine.keep_file(file, "no table")
    with pytest.raises(InvalidInput, match="without being told layout: ingest it again"):
        quarantine.retry(entry.id)


def test_a_file_of_fields_is_ingested_again_as_before(location: str, shared_data: Path) -> None:
    content = (shared_data / "grib_samples" / "t_analysis_and_fc_0.grib").read_bytes()
    file = raw.land("era5", "fields", content, extension="grib", url="https://example.org/fields")
    entry = quarantine.keep_file(file, "cut")
    with pytest.raises(InvalidInput, match="holds fields, and the warehouse takes rows"):
        quarantine.retry(entry.id)


def test_many_keep_the_rows_of_one_file_at_the_same_time(location: str) -> None:
    file = new_id()

    def work(hour: int) -> None:
        rows = observations(location, [float(hour)] * (hour + 1), file)
        quarantine.admit({NAME: rows.slice(hour)})

    with ThreadPoolExecutor(4) as pool:
        [*pool.map(work, range(8))]
    (entry,) = of(file)
    rows = quarantine.show(entry.id)[1]
    assert rows is not None
    assert sorted(rows["value"].to_pylist()) == [float(i) for i in range(8)]


def test_an_id_that_there_is_not(location: str) -> None:
    with pytest.raises(NotFound, match="nothing in quarantine has the id 'x'"):
        quarantine.show("x")
    with pytest.raises(NotFound, match="nothing in quarantine has the id '%'"):
        quarantine.show("%")


def test_rows_come_back_as_they_were(location: str) -> None:
    """Also those that have NaN, null and times before 1677, which nanoseconds cannot say."""
    old = dt.datetime(1600, 1, 1, tzinfo=dt.UTC)
    rows = observations(location, [float("nan"), 2.0], new_id())
    rows = rows.set_column(1, "value_time", pa.array([old, None], TIME))
    (entry,) = quarantine.admit({NAME: rows}).quarantined
    kept = quarantine.show(entry.id)[1]
    assert kept is not None
    assert kept["value_time"].to_pylist() == [old, None]
    assert str(kept["value"].to_pylist()) == "[nan, 2.0]"
    assert {*kept.column_names} == {*rows.column_names, "reason"}


def test_the_commands(location: str) -> None:
    run = CliRunner().invoke
    file = new_id()
    quarantine.admit({NAME: observations(location, [1.0, 2.0], file)})
    (entry,) = of(file)
    listed = json.loads(run(app, ["quarantine", "list", "--json"]).stdout)
    assert [e["count"] for e in listed if e["id"] == entry.id] == [2]
    command = [sys.executable, "-m", "thalweg", "quarantine", "list"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert entry.id[:8] in done.stdout
    assert done.stderr == ""
    shown = run(app, ["quarantine", "show", entry.id[:8]]).stdout
    assert file in shown
    rows = json.loads(run(app, ["quarantine", "show", entry.id, "--json"]).stdout)["rows"]
    assert [row["value"] for row in rows] == [1.0, 2.0]
    known(location)
    done = run(app, ["quarantine", "retry", entry.id])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"{entry.id[:8]}  primary_timeseries: 2 rows added, 0 changed, 0 unchanged",
        f"{entry.id[:8]}  2 rows of primary_timeseries released from quarantine",
    ]
    lost = landed(location.encode(), source="usgs")
    keep = quarantine.keep_file(lost, "no JSON")
    storage.filesystem(lost.uri).rm_file(lost.uri)
    (entry,) = quarantine.admit({NAME: observations(location, [-1.0], file)}).quarantined
    done = run(app, ["quarantine", "retry", keep.id, entry.id])
    assert done.exit_code == 1
    assert f"{keep.id[:8]}  stays: " in done.stderr
    assert f"{entry.id[:8]}  1 rows of primary_timeseries in quarantine" in done.stdout
    done = run(app, ["quarantine", "retry", keep.id, entry.id, "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told[keep.id]["error"]
    assert [each["id"] for each in told[entry.id]["quarantined"]] == [entry.id]
    assert told[entry.id]["written"][0]["added"] == 0
    quarantine.discard(keep.id)
    assert "retry" in run(app, ["quarantine", "show", entry.id]).stdout
    done = run(app, ["quarantine", "discard", entry.id])
    assert (
        done.stdout == f"{entry.id[:8]}  1 rows of primary_timeseries discarded from quarantine\n"
    )
    done = run(app, ["quarantine", "discard", entry.id, "--json"])
    assert [each["id"] for each in json.loads(done.stdout)] == [entry.id]
    assert "discard" not in run(app, ["quarantine", "show", entry.id]).stdout.splitlines()[-1]
