"""Upkeep changes no row, however many others are at work."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pytest
from pyiceberg.exceptions import CommitStateUnknownException
from pyiceberg.table import Transaction
from pyiceberg.transforms import DayTransform
from pyiceberg.types import StringType
from typer.testing import CliRunner

from thalweg import database, storage, warehouse
from thalweg.cli import app
from thalweg.errors import InvalidInput, NotFound
from thalweg.settings import Settings
from thalweg.warehouse import upkeep
from thalweg.warehouse.access import catalog
from thalweg.warehouse.schema import NAMESPACE

NAME = "primary_timeseries"
AUGUST, SEPTEMBER = (dt.datetime(2021, month, 1, tzinfo=dt.UTC) for month in (8, 9))
NOW = dt.timedelta(0)


@pytest.fixture(autouse=True)
def fresh(store: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty table of observations."""
    monkeypatch.setenv("COLUMNS", "160")
    database.migrate()
    warehouse.migrate()
    catalog().drop_table((NAMESPACE, NAME))
    warehouse.migrate()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No safety age: nobody else is at work."""
    monkeypatch.setattr(upkeep, "YOUNGEST", NOW)


def write(start: dt.datetime, *values: float, location: str = "usgs-1") -> warehouse.Written:
    hours = [start + dt.timedelta(hours=i) for i in range(len(values))]
    same = {
        "unit_name": "m^3/s",
        "location_id": location,
        "configuration_name": "usgs_observations",
        "variable_name": "streamflow_hourly_inst",
    }
    columns = {key: [value] * len(values) for key, value in same.items()}
    times = pa.array(hours, pa.timestamp("us", "UTC"))
    return warehouse.write(
        NAME, pa.table(columns | {"value_time": times, "value": pa.array(values, pa.float64())})
    )


def hourly(start: dt.datetime, number: int) -> None:
    """As many commits, each of an hour of two gauges."""
    for i in range(number):
        for location in ("usgs-2", "usgs-1"):
            write(start + dt.timedelta(hours=i), float(i), location=location)


def rows(snapshot_id: int | None = None) -> list[tuple[str, dt.datetime, float]]:
    columns = ["location_id", "value_time", "value"]
    read = warehouse.read(NAME, columns, snapshot_id=snapshot_id).to_pylist()
    return sorted(tuple(row[c] for c in columns) for row in read)


def maintain(**options: object) -> warehouse.Upkeep:
    (done,) = warehouse.maintain(NAME, **{"dry_run": False, **options})
    return done


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_small_files_become_one_a_month_in_order() -> None:
    hourly(AUGUST, 3)
    hourly(SEPTEMBER, 2)
    write(AUGUST, 20.0)  # a correction
    before, state = rows(), warehouse.table(NAME)
    assert len(before) == 10
    plan = maintain(dry_run=True)
    assert warehouse.table(NAME).metadata_location == state.metadata_location
    done = maintain()
    assert plan.files_before == done.files_before > plan.files_after == done.files_after == 2
    assert done.bytes_after < done.bytes_before == plan.bytes_before == plan.bytes_after
    assert rows() == before
    for month in (7, 8):  # each file holds its rows in order of the key
        part = warehouse.read(NAME, where=f"value_time {'<' if month == 7 else '>='} "
                              "'2021-09-01T00:00:00+00:00'")  # fmt: skip
        keys = list(
            zip(part["location_id"].to_pylist(), part["value_time"].to_pylist(), strict=True)
        )
        assert keys == sorted(keys)
    states = warehouse.snapshots(NAME)
    assert [states[-1].operation, states[-1].rows] == ["compaction", 10]
    assert len(states) == plan.snapshots_after == done.snapshots_after == done.snapshots_before + 1
    assert done.snapshots_expired == 0
    assert rows(state.current_snapshot().snapshot_id) == before  # the state before can be read
    again = maintain()
    assert (again.files_before, again.files_after) == (2, 2)
    assert warehouse.snapshots(NAME) == states


def test_a_table_that_others_have_laid_out_by_day_is_written_and_kept_by_day() -> None:
    hourly(AUGUST, 2)
    with warehouse.table(NAME).update_spec() as update:
        update.remove_field("value_time_month")
        update.add_field("value_time", DayTransform(), "value_time_day")
    written = write(AUGUST + dt.timedelta(hours=1), *range(25))
    assert (written.added, written.changed) == (24, 1)
    write(AUGUST + dt.timedelta(hours=26), *range(24))
    before = rows()
    assert len(before) == 52
    maintain()
    assert rows() == before
    days = "value_time >= '2021-08-02T00:00:00+00:00'"
    found = warehouse.table(NAME).scan(days).plan_files()
    assert sorted(task.file.record_count for task in found) == [2, 24]


def test_a_writer_who_is_faster_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """August is corrected while it is rewritten, September gets more: only August is left alone."""
    hourly(AUGUST, 2)
    hourly(SEPTEMBER, 2)
    rewrite, others = upkeep._rewrite, iter([lambda: write(AUGUST, 9.0, 9.0),
                                             lambda: write(SEPTEMBER, 0.0, 1.0, 2.0)])  # fmt: skip

    def slow(*arguments):
        made = rewrite(*arguments)
        for other in others:
            other()
            break
        return made

    monkeypatch.setattr(upkeep, "_rewrite", slow)
    done = maintain()
    found = {row[:2]: row[2] for row in rows()}
    assert len(found) == len(rows()) == 9
    assert found["usgs-1", AUGUST] == found["usgs-1", AUGUST + dt.timedelta(hours=1)] == 9.0
    assert found["usgs-1", SEPTEMBER + dt.timedelta(hours=2)] == 2.0
    # Two writes of one gauge in August and the rest of the other; in September one, and the new.
    assert done.files_after < done.files_before
    assert warehouse.snapshots(NAME)[-1].operation == "compaction"


def test_nothing_is_lost_or_doubled_beside_a_writer() -> None:
    def writer() -> None:
        for i in range(8):
            write(AUGUST, *[float(i)] * (i + 1))

    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(writer)
        while not writing.done():
            maintain()
        writing.result()
    assert rows() == [("usgs-1", AUGUST + dt.timedelta(hours=i), 7.0) for i in range(8)]


def test_a_commit_that_arrived_though_its_answer_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    hourly(AUGUST, 2)
    before, commit = rows(), Transaction.commit_transaction
    answers = iter([CommitStateUnknownException("the connection broke")])

    def unanswered(transaction: Transaction):
        done = commit(transaction)
        for error in answers:
            raise error
        return done

    monkeypatch.setattr(Transaction, "commit_transaction", unanswered)
    done = maintain()
    assert (done.files_after, rows()) == (1, before)
    assert [s.operation for s in warehouse.snapshots(NAME)].count("compaction") == 1


def test_a_state_stays_for_its_time_after_it_was_replaced() -> None:
    first = write(AUGUST, 1.0).snapshot_id
    write(AUGUST, 2.0)
    found, moment = warehouse.table(NAME), dt.timedelta(milliseconds=1)
    replaced = warehouse.snapshots(NAME)[-1].at
    assert first not in upkeep._expired(found, replaced)
    assert first in upkeep._expired(found, replaced + moment)
    young = maintain()
    assert (young.snapshots_expired, rows(first)) == (0, [("usgs-1", AUGUST, 1.0)])


@pytest.mark.usefixtures("at_once")
def test_old_states_end_but_for_tagged_ones() -> None:
    first, second, third = (write(AUGUST, value).snapshot_id for value in (1.0, 2.0, 3.0))
    with warehouse.table(NAME).manage_snapshots() as manage:
        manage.create_tag(first, "as-published")
    told_of = warehouse.snapshots(NAME)
    told = maintain(older_than=NOW, dry_run=True)
    done = maintain(older_than=NOW)
    assert told.snapshots_expired == done.snapshots_expired == done.snapshots_before - 2
    assert told.snapshots_after == done.snapshots_after == 2
    assert told.orphans
    assert set(told.orphans) <= set(done.orphans)
    assert rows(first) == [("usgs-1", AUGUST, 1.0)]
    assert rows() == rows(third) == [("usgs-1", AUGUST, 3.0)]
    with pytest.raises(NotFound, match=f"no snapshot {second}"):
        rows(second)
    with pytest.raises(NotFound, match="upkeep has ended the state"):
        warehouse.read(NAME, at=told_of[1].at)
    assert {s.id for s in warehouse.snapshots(NAME)} == {first, third}


@pytest.mark.usefixtures("at_once")
def test_a_time_whose_state_has_ended_is_not_taken_for_an_empty_table() -> None:
    for value in (1.0, 2.0, 3.0):
        write(AUGUST, value)
    first, _, third = (state.at for state in warehouse.snapshots(NAME))
    assert warehouse.read(NAME, at=first)["value"].to_pylist() == [1.0]
    maintain(older_than=NOW)
    ask = "SELECT value FROM primary_timeseries"
    for read in (partial(warehouse.read, NAME), partial(warehouse.sql, ask)):
        assert read(at=third)["value"].to_pylist() == [3.0]
        with pytest.raises(NotFound, match=f"has ended the state that {NAME} had at .*; the old"):
            read(at=first)


def test_a_correction_is_one_state() -> None:
    """It loses no row of its files, no column that others have added, and few manifests do."""
    found = warehouse.table(NAME)
    with found.update_schema() as update:
        update.add_column("note", StringType())
    with found.transaction() as transaction:
        transaction.set_properties({"commit.manifest.min-count-to-merge": "4"})
    write(AUGUST, 1.0)
    found = warehouse.table(NAME)
    (given,) = found.scan().to_arrow().to_pylist()
    others = [given | {"location_id": "usgs-2", "note": "seen"}]
    found.append(pa.Table.from_pylist(others, found.schema().as_arrow()))
    maintain()  # one file of both
    for value in range(8):
        write(AUGUST, float(value), location="usgs-1")
    states = [(s.operation, s.rows) for s in warehouse.snapshots(NAME)]
    assert states == [("append", 1), ("append", 2), ("compaction", 2)] + [("overwrite", 2)] * 8
    found = warehouse.table(NAME)
    notes = found.scan().to_arrow().sort_by("location_id").select(["value", "note"]).to_pylist()
    assert notes == [{"value": 7.0, "note": None}, {"value": 1.0, "note": "seen"}]
    assert len(found.current_snapshot().manifests(found.io)) < 8


def test_files_that_nothing_refers_to_are_removed_when_they_are_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hourly(AUGUST, 2)
    maintain()
    location, before = warehouse.table(NAME).location(), rows()
    files = storage.filesystem(location)
    lost, other = f"{location}/data/lost.parquet", f"{location}/data/other.orc"
    for uri in (lost, other):
        files.pipe_file(uri, b"abcde")
    assert maintain().orphans == ()  # somebody may be writing it
    monkeypatch.setattr(upkeep, "YOUNGEST", NOW)
    told = maintain(older_than=NOW, dry_run=True)
    path = lost.removeprefix("s3://")
    assert path in told.orphans
    assert files.exists(lost)
    done = maintain(older_than=NOW)
    assert path in done.orphans
    assert done.orphan_bytes >= 5
    files.invalidate_cache()
    assert not files.exists(lost)
    assert files.exists(other)
    assert rows() == before
    assert maintain(older_than=NOW, dry_run=True).orphans == ()


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(InvalidInput, match=r"older_than is 0:59:00: expected at least 1:00:00"):
        warehouse.maintain(older_than=dt.timedelta(minutes=59))
    with pytest.raises(NotFound, match="unknown table 'primary'"):
        warehouse.maintain("primary")
    with pytest.raises(NotFound, match="unknown table 'metric'; did you mean 'metrics'"):
        warehouse.snapshots("metric")


def test_the_run_of_a_state_is_told(begin_run: Callable[[], str]) -> None:
    first = begin_run()
    write(AUGUST, 1.0)
    write(AUGUST + dt.timedelta(hours=1), 1.0)
    second = begin_run()
    maintain()
    told = [(s.operation, s.added, s.run_id) for s in warehouse.snapshots(NAME)]
    assert told == [("append", 1, first), ("append", 1, first), ("compaction", 2, second)]


def test_by_command() -> None:
    hourly(AUGUST, 2)
    assert "Nothing was done" in call("warehouse", "maintain", NAME)
    assert len(warehouse.snapshots(NAME)) == 4
    given = ("--older-than", "30d", "--apply", "--json")
    (told,) = json.loads(call("warehouse", "maintain", NAME, *given))
    assert (told["table"], told["files_before"], told["files_after"]) == (NAME, 4, 1)
    assert "compaction" in call("warehouse", "snapshots", NAME)
    states = json.loads(call("warehouse", "snapshots", NAME, "--json"))
    assert [s["rows"] for s in states] == [1, 2, 3, 4, 4]
    assert json.loads(call("warehouse", "migrate", "--dry-run", "--json")) == []
    catalog().drop_table((NAMESPACE, NAME))
    assert f"make the table {NAME}" in call("warehouse", "migrate", "--dry-run")
    assert f"make the table {NAME}" in call("warehouse", "migrate")
    assert "newest version" in call("warehouse", "migrate")
    for age in ("soon", "nat"):
        with pytest.raises(InvalidInput, match=f"--older-than {age}: expected an age"):
            call("warehouse", "maintain", "--older-than", age)
