"""Files of one's own, real and damaged, all the way into the warehouse."""

from __future__ import annotations

import datetime as dt
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import xarray as xr
from damage import damaged
from typer.testing import CliRunner

from thalweg import database, ingest, quarantine, raw, warehouse
from thalweg.cli import app
from thalweg.database import new_id
from thalweg.errors import InvalidInput, NotFound
from thalweg.raw import RawFile
from thalweg.settings import Settings
from thalweg.sources import sample, table
from thalweg.sources._common import understood
from thalweg.sources.table import Layout
from thalweg.warehouse.schema import TABLES
from thalweg.warehouse.units import line

START = dt.datetime(2021, 8, 23, tzinfo=dt.UTC)
ROWS = "".join(f"2021-08-23T{h:02d}:00:00Z,{h}.25,07331600\n" for h in range(24))
CSV = f"when,flow,gauge\n{ROWS}"
OWN = Layout(
    fields={"value_time": "when", "value": "flow", "location_id": "gauge"},
    constants={
        "unit_name": "m^3/s",
        "configuration_name": "own",
        "variable_name": "streamflow_hourly_inst",
    },
)


@pytest.fixture
def own(store: Settings) -> Layout:
    """A layout whose locations have a prefix that no other test has; the warehouse knows them."""
    migrate(store.data_dir)
    prefix = f"t{new_id()[-12:]}"
    warehouse.write("locations", pa.table({"id": [f"{prefix}-07331600"]}))
    return replace(OWN, prefix=prefix)


@cache
def migrate(data_dir: Path) -> None:
    database.migrate()
    warehouse.migrate()


def landed(content: bytes, name: str = "own.csv") -> RawFile:
    extension = name.split(".", 1)[1]
    return raw.land("table", "test", content, extension=extension, url=f"file:///tmp/{name}")


def rows_of(content: bytes | str, layout: Layout, name: str = "own.csv") -> pa.Table:
    content = content.encode() if isinstance(content, str) else content
    return table.read([landed(content, name)], layout)[layout.table]


def loaded(folder: Path, layout: Layout) -> ingest.Loaded:
    files = table.fetch([(folder / f"{layout.table}.parquet").as_uri()])
    return ingest.load(partial(table.read, layout=layout), files)


def test_two_gauges_and_twelve_years(store: Settings, shared_data: Path) -> None:
    """The whole of a TEEHR data set, each table from its own file, and then all again."""
    migrate(store.data_dir)
    folder = shared_data / "usgs_nwm_two_gauges"
    counts = {
        "locations": 2, "location_crosswalks": 2, "attributes": 26, "location_attributes": 50,
        "primary_timeseries": 200_350, "secondary_timeseries": 210_384,
    }  # fmt: skip
    for again in (False, True):
        for name, count in counts.items():
            done = loaded(folder, Layout(name))
            (written,) = done.written
            found = (written.added, written.changed, written.unchanged)
            assert found == ((0, 0, count) if again else (count, 0, 0)), name
            assert done.quarantined == ()
    gauges = ["usgs-14138800", "usgs-14316700"]
    where = " or ".join(f"location_id = '{gauge}'" for gauge in gauges)
    rows = warehouse.read("primary_timeseries", where=where)
    assert rows.num_rows == 200_350
    assert rows["raw_file_id"].null_count == 0
    given = pq.read_table(folder / "primary_timeseries.parquet")
    assert pc.sum(rows["value"]).as_py() == pytest.approx(
        pc.sum(given["value"].cast(pa.float64())).as_py()
    )


def test_ensembles_in_feet_are_kept_in_metres_and_say_so(
    store: Settings, shared_data: Path
) -> None:
    migrate(store.data_dir)
    folder = shared_data / "usgs_nwm_hefs_examples" / "hefs_example"
    given = pq.read_table(folder / "secondary_timeseries.parquet")
    prefix = f"t{new_id()[-12:]}"
    places = [f"{prefix}-{id}" for id in given["location_id"].unique().to_pylist()]
    pairs = {"primary_location_id": places, "secondary_location_id": places}
    warehouse.write_all(
        {"locations": pa.table({"id": places}), "location_crosswalks": pa.table(pairs)}
    )
    layout = Layout("secondary_timeseries", prefix=prefix, timezone="UTC")
    done = loaded(folder, layout)
    assert [w.added for w in done.written] == [given.num_rows] == [60_564]
    assert sum(c.count for c in done.converted) == 60_564
    where = " or ".join(f"location_id = '{place}'" for place in places)
    rows = warehouse.read("secondary_timeseries", where=where)
    assert rows["unit_name"].unique().to_pylist() == ["m^3/s"]
    assert pc.count_distinct(rows["member"]).as_py() == 42
    factor = line("ft^3/s", "m^3/s")
    assert factor is not None
    order = [("location_id", "ascending"), ("member", "ascending"), ("value_time", "ascending")]
    kept = rows.sort_by(order)["value"].to_numpy()
    came = given.sort_by(order)["value"].to_numpy().astype(float)
    assert np.array_equal(kept, came * factor[0])


def test_the_sample_by_the_way_of_all_data(store: Settings) -> None:
    migrate(store.data_dir)
    files = sample.fetch()
    ingest.load(sample.read, files)
    steps: list[tuple[int, int]] = []
    again = ingest.load(sample.read, files, progress=lambda *step: steps.append(step))
    assert [(w.added, w.changed) for w in again.written] == [(0, 0)] * 5
    assert again.quarantined == ()
    assert steps[-1] == (len(files), len(files))


def test_a_csv_and_its_mapping(own: Layout) -> None:
    content = (
        "when;flow;gauge;remark\n"
        "2021-08-23T01:00:00-05:00;1.5;07331600;ice\n"
        "2021-08-23T02:00:00-05:00;;07331600;\n"
        "2021-08-23T03:00:00-05:00;-999;07331600;\n"
        "2021-08-23T04:00:00-05:00;2.5;07331600;\n"
    )
    layout = replace(own, missing=(-999.0,), fields={**own.fields, "quality_code": "remark"})
    rows = rows_of(content, layout)
    assert rows["value"].to_pylist() == [1.5, 2.5]
    assert rows["value_time"].to_pylist() == [START.replace(hour=6), START.replace(hour=9)]
    assert rows["location_id"].to_pylist() == [f"{own.prefix}-07331600"] * 2
    assert rows["quality_code"].to_pylist() == ["ice", None]
    assert rows.schema.metadata == {b"missing": b"2"}


def test_what_a_file_is_its_bytes_say_and_not_its_name(own: Layout) -> None:
    expected = rows_of(CSV, own).drop_columns(["raw_file_id"])
    packed, sink = io.BytesIO(), io.BytesIO()
    import gzip

    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        file.write(CSV.encode())
    plain = pa.table(
        {
            "when": [START + dt.timedelta(hours=h) for h in range(24)],
            "flow": [h + 0.25 for h in range(24)],
            "gauge": pa.array(["07331600"] * 24).dictionary_encode(),
        }
    )
    pq.write_table(plain, sink)
    for content in (packed.getvalue(), sink.getvalue(), netcdf()):
        rows = rows_of(content, own, "renamed.csv").drop_columns(["raw_file_id"])
        assert rows.sort_by("value_time").equals(expected), content[:4]


def netcdf() -> bytes:
    """The hours of the CSV, as a dataset of one station, packed in integers as CF has it."""
    dataset = xr.Dataset(
        {"flow": (("station", "when"), [[h + 0.25 for h in range(24)]], {"units": "m3 s-1"})},
        {"when": [np.datetime64("2021-08-23T00", "ns") + np.timedelta64(h, "h") for h in range(24)],
         "gauge": ("station", ["07331600"])},
    )  # fmt: skip
    packed = {"flow": {"dtype": "int32", "scale_factor": 0.25, "_FillValue": -1}}
    return bytes(dataset.to_netcdf(engine="h5netcdf", encoding=packed))


@pytest.mark.parametrize(
    ("content", "change", "says"),
    [
        ("when,flow,gauge\n2021-08-23T01:00Z,abc,1\n", {}, "value cannot be read.*'abc'"),
        ("when,flow,gauge\n23.8.2021,1,1\n", {}, "value_time cannot be read.*'23.8.2021'"),
        ("when,flow,gauge\n2021-08-23 01:00,1,1\n", {}, "the times name no zone; say which"),
        ("when,flow,gauge\n2021-08-23T01:00Z,1\n", {}, "Expected 3 columns, got 2"),
        ("when,flow,gauge\n2021-08-23T01:00Z,1,1", {}, "its last line does not end"),
        (
            "when,flow,gauges\n2021-08-23T01:00Z,1,1\n",
            {},
            "no field 'gauge'.*did you mean 'gauges'",
        ),
        ("a,b\n1,2\n", {"fields": {}}, "none of its fields is asked for: a, b"),
        ("CDF\x01", {}, "it is NetCDF-3"),
        ("value,b\n1,2\n", {"fields": {}}, "no field for value_time, location_id: map one"),
        (CSV, {"fields": {"valu": "flow"}}, "no column 'valu' to map; did you mean 'value'"),
        ("when,flow,gauge,flow\n2021-08-23T01:00Z,1,1,2\n", {}, "several fields are called flow"),
        (CSV, {"table": "primary"}, "no table 'primary' for files; known: attributes"),
        ("when,flow,gauge\n2021-11-07 01:30,1,1\n", {"timezone": "America/Chicago"}, "ambiguous"),
        ("when,flow,gauge\n2021-03-14 02:30,1,1\n", {"timezone": "America/Chicago"}, "exist"),
        ("when,flow,gauge\n2021-08-23 02:30,1,1\n", {"timezone": "Mars/North"}, "Mars/North"),
    ],
)
def test_a_file_that_cannot_be_understood_says_why(
    own: Layout, content: str, change: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        rows_of(content, replace(own, **change))  # type: ignore[arg-type]


def test_a_zone_with_summer_time(own: Layout) -> None:
    content = "when,flow,gauge\n2021-11-07 00:30,1,1\n2021-11-07 02:30,2,1\n"
    rows = rows_of(content, replace(own, timezone="America/Chicago"))
    first, second = rows["value_time"].to_pylist()
    assert second - first == dt.timedelta(hours=3)


def test_numbers_with_decimals_are_no_names(own: Layout) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"when": [START], "flow": [1.0], "gauge": [7331600.0]}), sink)
    with pytest.raises(InvalidInput, match="numbers with decimals are no names"):
        rows_of(sink.getvalue(), own)


def test_numbers_are_no_times(own: Layout) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"when": [2021], "flow": [1.0], "gauge": ["1"]}), sink)
    with pytest.raises(InvalidInput, match="value_time cannot be read: numbers are no times"):
        rows_of(sink.getvalue(), replace(own, timezone="UTC"))


def test_attributes_that_are_numbers_are_kept_as_text(store: Settings) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"location_id": ["07"], "attribute_name": ["a"], "value": [1.5]}), sink)
    rows = rows_of(sink.getvalue(), Layout("location_attributes", prefix="x"), "a.parquet")
    assert rows.to_pylist() == [{"location_id": "x-07", "attribute_name": "a", "value": "1.5"}]


def test_places_by_longitude_and_latitude(store: Settings) -> None:
    rows = rows_of("id,name,longitude,latitude\n07,A,-80.5,37.1\n", Layout("locations", prefix="x"))
    assert rows["id"].to_pylist() == ["x-07"]
    assert np.frombuffer(rows["geometry"][0].as_py()[5:]).tolist() == [-80.5, 37.1]
    sink = io.BytesIO()
    places = {"longitude": [float("nan"), 1.0, 1.0], "latitude": [1.0, None, 2.0]}
    pq.write_table(pa.table({"id": ["1", "2", "3"], **places}), sink)
    rows = rows_of(sink.getvalue(), Layout("locations", prefix="x"))
    assert rows["geometry"].is_valid().to_pylist() == [False, False, True]
    with pytest.raises(InvalidInput, match=r"\(longitude 500000.0 is no number from -180 to 180\)"):
        rows_of("id,longitude,latitude\n1,500000,5400000\n", Layout("locations"))


@pytest.mark.parametrize("name", ["none.csv", "none.parquet"])
def test_a_file_without_rows_brings_none(own: Layout, name: str) -> None:
    content = CSV.partition("\n")[0].encode() + b"\n"
    if name == "none.parquet":
        sink = io.BytesIO()
        pq.write_table(pq.read_table(io.BytesIO(parquet())).slice(0, 0), sink)
        content = sink.getvalue()
    done = ingest.load(
        partial(table.read, layout=own), [landed(content, name), landed(CSV.encode())]
    )
    assert (sum(w.added for w in done.written), done.quarantined) == (24, ())


def test_whatever_a_reader_stumbles_over_is_one_line() -> None:
    with (
        pytest.raises(InvalidInput, match=r"^f is not a page \(error: Error -3\); fetch it again$"),
        understood("f", "a page"),
    ):
        raise zlib.error("Error -3\nmore")


def test_columns_are_those_of_the_warehouse() -> None:
    others = {"raw_file_id", "run_id", "longitude", "latitude"}
    for name, columns in table.COLUMNS.items():
        theirs = {column: not each.nullable for column, each in TABLES[name].columns.items()}
        assert {c: n for c, n in columns.items() if c not in others} == {
            c: n for c, n in theirs.items() if c not in others
        }


def parquet() -> bytes:
    sink = io.BytesIO()
    rows = {
        "when": pa.array([START + dt.timedelta(hours=h) for h in range(24)]),
        "flow": [h + 0.25 for h in range(24)],
        "gauge": ["07331600"] * 24,
    }
    pq.write_table(pa.table(rows), sink, write_page_checksum=True, compression="zstd")
    return sink.getvalue()


@pytest.mark.parametrize("make", [CSV.encode, parquet, netcdf], ids=["csv", "parquet", "netcdf"])
def test_a_damaged_file_is_an_error_or_gives_right_rows(
    own: Layout, make: Callable[[], bytes]
) -> None:
    """Of text, a cut at the end of a line leaves right rows; a flipped byte is never UTF-8.

    Parquet has checksums of its pages here. NetCDF-4 without a filter has none: a flipped byte of a
    value cannot be known from the file, what landed is guarded by the registry's sha256.
    """
    content = make()
    right = {(r["value_time"], r["value"]) for r in rows_of(content, own).to_pylist()}
    assert len(right) == 24
    refused = []
    for what, bad in damaged(content):
        if not bad:
            continue  # nothing lands that is empty
        try:
            rows = rows_of(bad, own).to_pylist()
        except InvalidInput as error:
            refused.append(str(error))
            continue
        if not (make is netcdf and "flipped" in what):
            assert {(r["value_time"], r["value"]) for r in rows} <= right, what
    assert len(refused) >= 20
    assert not any("\n" in said for said in refused)


def test_one_damaged_file_does_not_keep_the_others_from_loading(own: Layout) -> None:
    lines = ROWS.splitlines(keepends=True)
    head = "when,flow,gauge\n"
    good = [landed((head + "".join(lines[i : i + 8])).encode()) for i in (0, 8, 16)]
    page = landed(f"<!DOCTYPE html><html>{own.prefix}</html>\n".encode())
    read = partial(table.read, layout=own)
    done = ingest.load(read, [good[0], page, *good[1:]])
    assert [w.added for w in done.written] == [24]
    (entry,) = done.quarantined
    assert (entry.table, entry.raw_file_id) == (None, page.id)
    assert "no field 'when' for value_time" in entry.reason
    again = ingest.load(read, [good[0], page, *good[1:]])
    assert [(w.added, w.unchanged) for w in again.written] == [(0, 24)]
    assert [e.id for e in again.quarantined] == [entry.id]

    # The source is mended: it reads what it could not.
    def mended(files: list[RawFile]) -> dict[str, pa.Table]:
        return table.read([file for file in files if file.id != page.id], own)

    assert ingest.load(mended, [good[0], page, *good[1:]]).quarantined == ()  # type: ignore[arg-type]
    assert quarantine.show(entry.id)[0].released_at is not None


def test_real_files_damaged(own: Layout, shared_data: Path) -> None:
    """Twelve years of hours, and the pairs of two gauges; these files have no checksums of pages.

    So a flipped byte of a value cannot be known from them; what is cut is never read.
    """
    folder = shared_data / "usgs_nwm_two_gauges"
    for name in ("primary_timeseries", "location_crosswalks"):
        content = (folder / f"{name}.parquet").read_bytes()
        right = rows_of(content, Layout(name), f"{name}.parquet")
        refused = []
        for what, bad in damaged(content):
            if not bad:
                continue
            try:
                rows = rows_of(bad, Layout(name), f"{name}.parquet")
            except InvalidInput as error:
                refused.append(str(error))
            else:
                assert rows.num_rows == right.num_rows, what
                assert "flipped" in what
        assert len(refused) >= 21
        assert not any("\n" in said for said in refused)


def test_an_empty_file_does_not_land(store: Settings, tmp_path: Path) -> None:
    (tmp_path / "none.csv").touch()
    with pytest.raises(InvalidInput, match=r"none\.csv is empty"):
        table.fetch([(tmp_path / "none.csv").as_uri()])
    with pytest.raises(InvalidInput, match="expected a list of URIs"):
        table.fetch("none.csv")


def test_a_name_may_look_like_a_pattern(own: Layout, tmp_path: Path) -> None:
    for name in ("a1.csv", "a2.csv", "a[12].csv"):
        (tmp_path / name).write_text(f"{name}\n")
    for pattern, count in (("a[12].csv", 1), ("a?.csv", 2), ("*", 3)):
        assert len(table.fetch([f"{tmp_path}/{pattern}"])) == count


def test_doubled_and_out_of_order_times(own: Layout) -> None:
    """The same twice is one row; two values of one time wait; a later file corrects."""
    head = "when,flow,gauge\n"
    lines = ["2021-08-23T02:00Z,3,07331600\n", "2021-08-23T00:00Z,1,07331600\n"]
    contradiction = ["2021-08-23T01:00Z,2,07331600\n", "2021-08-23T01:00Z,22,07331600\n"]
    read = partial(table.read, layout=own)
    mixed = [lines[0], contradiction[0], lines[1], lines[0], contradiction[1]]
    done = ingest.load(read, [landed((head + "".join(mixed) + "\n").encode())])
    assert [(w.added, w.changed) for w in done.written] == [(2, 0)]
    (entry,) = done.quarantined
    assert (entry.count, entry.reason.split(",")[0]) == (
        2, "value: expected one value a key and raw file",
    )  # fmt: skip
    first = done.written[0].snapshot_id
    done = ingest.load(read, [landed(f"{head}2021-08-23T00:00Z,1.5,07331600\n".encode())])
    assert [(w.added, w.changed) for w in done.written] == [(0, 1)]
    where = f"location_id = '{own.prefix}-07331600'"
    now, then = (
        warehouse.read("primary_timeseries", ["value_time", "value"], where, snapshot)
        .sort_by("value_time")["value"].to_pylist()
        for snapshot in (None, first)
    )  # fmt: skip
    assert (now, then) == ([1.5, 3.0], [1.0, 3.0])


def test_of_a_column_that_it_lacks_a_file_says_nothing(own: Layout) -> None:
    """Alone, or among files that have it; an empty field says that there is no value."""
    read = partial(table.read, layout=Layout("locations", prefix=own.prefix))
    mine = f"id = '{own.prefix}-1'"

    def stored(*contents: str) -> tuple[str, bool]:
        done = ingest.load(read, [landed(content.encode()) for content in contents])
        (row,) = warehouse.read("locations", where=mine).to_pylist()
        (now,) = done.rows("locations").filter(pc.field("id") == row["id"])["name"].to_pylist()[-1:]
        assert now == row["name"]
        return row["name"], row["geometry"] is not None

    there = "id,name,longitude,latitude\n1,there,-80.5,37.1\n"
    assert stored(there, "id,name\n1,renamed\n") == ("renamed", True)
    assert stored("id,name\n1,again\n") == ("again", True)
    assert stored("id,name\n1,\n") == (None, True)


def test_what_is_missing_is_told(own: Layout) -> None:
    """Also of NetCDF, where a fill value stands for none."""
    content = CSV.replace(",3.25,", ",,").encode()
    done = ingest.load(partial(table.read, layout=own), [landed(content)])
    assert (done.written[0].added, done.missing) == (23, 1)
    assert "1 missing values left out" in str(done).splitlines()
    values = np.array([[1.0, np.nan]])
    times = np.array(["2021-08-23T00", "2021-08-23T01"], "datetime64[ns]")
    dataset = xr.Dataset(
        {"flow": (("station", "when"), values)}, {"when": times, "gauge": ("station", ["07331600"])}
    )
    packed = {"flow": {"dtype": "int32", "scale_factor": 0.5, "_FillValue": -9999}}
    content = bytes(dataset.to_netcdf(engine="h5netcdf", encoding=packed))
    rows = rows_of(content, own, "own.nc")
    assert (rows["value"].to_pylist(), rows.schema.metadata) == ([1.0], {b"missing": b"1"})


def test_damage_of_the_stored_bytes_goes_to_quarantine(own: Layout) -> None:
    from thalweg import storage

    file = landed(CSV.replace("flow", own.prefix).encode())
    storage.filesystem(file.uri).pipe_file(file.uri, b"something else")
    read = partial(table.read, layout=replace(own, fields={**own.fields, "value": own.prefix}))
    done = ingest.load(read, [file])
    assert done.written == ()
    assert "is damaged" in done.quarantined[0].reason


def test_feet_in_place_of_metres(own: Layout) -> None:
    """A level in feet is converted; a discharge in feet is none; feet said to be metres are."""
    constants = {**own.constants, "variable_name": "stage_hourly_inst", "unit_name": "ft"}
    head = "when,flow,gauge\n2021-08-23T01:00Z,10,07331600\n"
    rows = rows_of(head, replace(own, constants=constants))
    done = quarantine.admit({"primary_timeseries": rows})
    assert [(c.unit, c.to, c.count) for c in done.converted] == [("ft", "m", 1)]
    as_came = quarantine.admit({"primary_timeseries": rows}, units={})
    assert as_came.converted == ()
    constants["variable_name"] = "streamflow_hourly_inst"
    rows = rows_of(head, replace(own, constants=constants))
    (entry,) = quarantine.admit({"primary_timeseries": rows}).quarantined
    assert "a unit that measures the variable, got ft" in entry.reason
    assert line("m^3/0", "m^3/s") is None


def test_the_command(own: Layout, tmp_path: Path) -> None:
    file = tmp_path / "my flöw 1%20.csv"
    file.write_text(CSV.replace("gauge\n", f"gauge,{own.prefix}\n", 1).replace("600\n", "600,x\n"))
    options = [
        "--map", "value_time=when", "--map", "value=flow", "--map", "location_id=gauge",
        "--set", "unit_name=m^3/s", "--set", "configuration_name=own",
        "--set", "variable_name=streamflow_hourly_inst", "--prefix", own.prefix,
    ]  # fmt: skip
    run = CliRunner().invoke
    done = run(app, ["ingest", str(file), *options])
    assert done.exit_code == 0, done.output
    assert "24 rows added, 0 changed, 0 unchanged" in done.stdout
    told = json.loads(run(app, ["ingest", str(file), *options, "--json"]).stdout)
    (written,) = told["written"]
    assert (written["added"], written["changed"], written["unchanged"]) == (0, 0, 24)
    wrong = run(app, ["ingest", str(file), "--map", "value=flaw"])
    assert wrong.exit_code == 1
    assert "no field 'flaw' for value; did you mean 'flow'?" in wrong.stdout.replace("\n", "")
    with pytest.raises(InvalidInput, match="expected a parameter as NAME=VALUE, got 'value'"):
        run(app, ["ingest", str(file), "--map", "value"], catch_exceptions=False)
    with pytest.raises(NotFound, match="nothing is stored at"):
        run(app, ["ingest", str(tmp_path / "none.csv")], catch_exceptions=False)
    waiting = json.loads(run(app, ["quarantine", "list", "--json"]).stdout)
    assert any(file.name in e["reason"] for e in waiting)
