from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    ForbiddenError,
)
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import MonthTransform
from pyiceberg.types import (
    BinaryType,
    DoubleType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)

from thalweg import database, warehouse
from thalweg.database import RunUse, new_id
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.settings import Settings, load
from thalweg.warehouse import files, merge, versions
from thalweg.warehouse.access import catalog
from thalweg.warehouse.schema import CHANGES, NAMESPACE, SEEDS, TABLES

START = dt.datetime(2021, 8, 23, tzinfo=dt.UTC)
TIME = pa.timestamp("us", "UTC")


@pytest.fixture
def location(store: Settings) -> str:
    """A location that no other test writes, in a migrated warehouse."""
    database.migrate()
    warehouse.migrate()
    return f"usgs-{new_id()}"


def observations(location: str, values: list[float], start: dt.datetime = START) -> pa.Table:
    times = [start + dt.timedelta(hours=i) for i in range(len(values))]
    return pa.table(
        {
            "value_time": pa.array(times, TIME),
            "value": pa.array(values, pa.float32()),
            "unit_name": ["m^3/s"] * len(values),
            "location_id": [location] * len(values),
            "configuration_name": ["usgs_observations"] * len(values),
            "variable_name": ["streamflow_hourly_inst"] * len(values),
        }
    )


def metrics(location: str) -> pa.Table:
    return pa.table(
        {
            "primary_location_id": [location] * 2,
            "configuration_name": ["nwm30_medium_range"] * 2,
            "variable_name": ["streamflow_hourly_inst"] * 2,
            "unit_name": ["m^3/s"] * 2,
            "lead_time_bin": pa.array([None, 24], pa.int64()),
            "metric_name": ["kge"] * 2,
            "value": pa.array([None, 0.5], pa.float64()),
            "count": [2, 1],
        }
    )


def stored(location: str, name: str = "primary_timeseries") -> list[float]:
    rows = warehouse.read(name, where=f"location_id = '{location}'").sort_by("value_time")
    return rows["value"].to_pylist()


def counts(written: warehouse.Written) -> tuple[int, int, int]:
    return written.added, written.changed, written.unchanged


def test_rows_are_added_changed_and_left_alone(location: str) -> None:
    first = warehouse.write("primary_timeseries", observations(location, [1, 2, 3]))
    assert counts(first) == (3, 0, 0)
    again = warehouse.write("primary_timeseries", observations(location, [1, 2, 3]))
    assert counts(again) == (0, 0, 3)
    assert again.snapshot_id == first.snapshot_id
    later = warehouse.write("primary_timeseries", observations(location, [1, 20, 3, 4]))
    assert counts(later) == (1, 1, 2)
    assert stored(location) == [1, 20, 3, 4]
    assert later.snapshot_id != first.snapshot_id
    old = warehouse.read(
        "primary_timeseries", ["value"], f"location_id = '{location}'", first.snapshot_id
    )
    assert sorted(old["value"].to_pylist()) == [1, 2, 3]


def test_the_last_row_of_a_key_wins(location: str) -> None:
    rows = pa.concat_tables([observations(location, [1, 2]), observations(location, [1, 7])])
    assert counts(warehouse.write("primary_timeseries", rows)) == (2, 0, 0)
    assert stored(location) == [1, 7]


def test_numbers_of_keys_are_in_their_order() -> None:
    """Null is last; also where a key has more values than 64 bits can count at once."""
    n = 3000
    wide = {f"k{i}": [f"{i}-{(row * 7919) % n:04d}" for row in range(n)] for i in range(6)}
    rows = pa.table(wide | {"last": pa.array([row % 2 or None for row in range(n)])})
    key = (*wide, "last")
    expected = sorted(range(n), key=lambda row: [rows[k][row].as_py() for k in wide])
    assert np.argsort(merge.key_codes(rows, key), kind="stable").tolist() == expected
    chunked = pa.concat_tables([rows.slice(10), rows.slice(0, 10)])
    few = pa.table({"a": ["b", "a", None, "a"], "b": [1, None, 1, 2]})
    assert np.argsort(merge.key_codes(few, ("a", "b"))).tolist() == [3, 1, 0, 2]
    codes = merge.key_codes(pa.concat_tables([chunked, rows]), key)
    assert len(np.unique(codes)) == n
    assert merge.key_codes(rows.slice(0, 0), key).tolist() == []


def test_replace_false_only_adds(location: str) -> None:
    warehouse.write("primary_timeseries", observations(location, [1, 2]))
    rows = observations(location, [8, 9, 10])
    assert counts(warehouse.write("primary_timeseries", rows, replace=False)) == (1, 0, 2)
    assert stored(location) == [1, 2, 10]


def test_a_change_touches_only_its_own_range(location: str) -> None:
    other = location + "-other"
    long = observations(location, [float(i) for i in range(24 * 70)])
    warehouse.write("primary_timeseries", pa.concat_tables([long, observations(other, [5, 6])]))
    change = observations(location, [-1.0], START + dt.timedelta(days=65))
    assert counts(warehouse.write("primary_timeseries", change)) == (0, 1, 0)
    expected = [float(i) for i in range(24 * 70)]
    expected[24 * 65] = -1.0
    assert stored(location) == expected
    assert stored(other) == [5, 6]


def test_members_and_issue_times_are_different_rows(location: str) -> None:
    rows = observations(location, [1, 2])
    series = [
        rows.append_column("member", pa.array([member] * 2, pa.string())).append_column(
            "reference_time", pa.array([reference] * 2, TIME)
        )
        for member in (None, "1", "2")
        for reference in (None, START, START - dt.timedelta(hours=6))
    ]
    written = warehouse.write("secondary_timeseries", pa.concat_tables(series))
    assert counts(written) == (18, 0, 0)
    again = warehouse.write("secondary_timeseries", pa.concat_tables(series[::-1]))
    assert counts(again) == (0, 0, 18)


def test_two_writers_lose_and_double_nothing(location: str) -> None:
    """Each writes its own location and both write a shared one, at the same time."""
    shared = location + "-shared"

    def work(writer: int) -> list[warehouse.Written]:
        return [
            warehouse.write(
                "primary_timeseries",
                pa.concat_tables(
                    [
                        observations(f"{location}-{writer}", [float(i)] * (i + 1)),
                        observations(shared, [42.0] * (i + 1)),
                    ]
                ),
            )
            for i in range(4)
        ]

    with ThreadPoolExecutor(2) as pool:
        written = [w for both in pool.map(work, range(2)) for w in both]
    assert stored(f"{location}-0") == stored(f"{location}-1") == [3.0] * 4
    assert stored(shared) == [42.0] * 4
    # Two times four own rows and 4 shared ones: what both wrote is counted once.
    assert sum(w.added for w in written) == 12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": [1.0, float("nan")]}, "value holds NaN or infinity; leave out"),
        ({"value": [1.0, None]}, r"value is null in 1 of 2 rows"),
        ({"value": [1.0, float("inf")]}, "NaN or infinity"),
        ({"value": ["1", "high"]}, "value is string: expected double"),
        ({"location_id": ["a", None]}, "location_id is null in 1 of 2 rows"),
        ({"unit_name": ["m^3/s", "cfs"]}, r"unknown 'cfs'.*m\^3/s.*add it first"),
        ({"variable_name": ["streamflow"] * 2}, "unknown 'streamflow'; did you mean"),
        ({"value_time": [dt.datetime(2021, 8, 23)] * 2}, "expected times with a time zone"),  # noqa: DTZ001
        ({"vaule_time": [1, 2]}, "no column 'vaule_time'; did you mean 'value_time'"),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_written(
    location: str, change: dict[str, list[object]], says: str
) -> None:
    rows = observations(location, [1, 2])
    for name, values in change.items():
        rows = rows.drop_columns(name) if name in rows.column_names else rows
        rows = rows.append_column(name, pa.array(values))
    before = warehouse.table("primary_timeseries").current_snapshot()
    with pytest.raises(InvalidInput, match=says):
        warehouse.write("primary_timeseries", rows)
    assert warehouse.table("primary_timeseries").current_snapshot() == before


def test_a_missing_column_is_named(location: str) -> None:
    rows = observations(location, [1]).drop_columns("unit_name")
    with pytest.raises(InvalidInput, match="needs column 'unit_name': unit of the value"):
        warehouse.write("primary_timeseries", rows)


def test_unknown_names_are_hinted(location: str) -> None:
    with pytest.raises(NotFound, match="unknown table 'primary_timeserie'; did you mean"):
        warehouse.read("primary_timeserie")
    with pytest.raises(NotFound, match="unknown column 'valu'"):
        warehouse.read("primary_timeseries", ["valu"])
    with pytest.raises(NotFound, match="no snapshot 1"):
        warehouse.read("primary_timeseries", snapshot_id=1)
    with pytest.raises(InvalidInput, match="cannot read primary_timeseries where"):
        warehouse.read("primary_timeseries", where="location_id === 3")
    with pytest.raises(NotFound, match="unknown table"):
        warehouse.write_all({"primary": observations(location, [1])})


def test_metrics_may_be_undefined_and_pool_all_lead_times(location: str) -> None:
    rows = metrics(location)
    assert counts(warehouse.write("metrics", rows)) == (2, 0, 0)
    assert counts(warehouse.write("metrics", rows)) == (0, 0, 2)


def test_migrating_again_changes_nothing(location: str) -> None:
    def state() -> list[str]:
        return [warehouse.table(name).metadata_location for name in warehouse.names()]

    before = state()
    warehouse.migrate()
    assert state() == before


def test_an_older_table_gets_the_new_column_and_keeps_its_rows(location: str) -> None:
    rows = metrics(location)
    warehouse.write("metrics", rows)
    table = warehouse.table("metrics")
    with table.update_schema(allow_incompatible_changes=True) as update:
        update.delete_column("count")
    assert "count" not in warehouse.table("metrics").schema().column_names
    warehouse.migrate()
    where = f"primary_location_id = '{location}'"
    read = warehouse.read("metrics", where=where)
    assert read["count"].to_pylist() == [None, None]
    assert read.column_names == list(TABLES["metrics"].columns)
    # One row gets its count again; the other stays as it is, null and all.
    assert counts(warehouse.write("metrics", rows.slice(1))) == (0, 1, 0)
    assert sorted(warehouse.read("metrics", where=where)["count"].to_pylist(), key=str) == [1, None]


SERIES = (
    "reference_time t, value_time t!, value f!, unit_name s!, location_id s!, "
    "configuration_name s!, variable_name s!"
)
#: The tables as each version made them; what is written here is never changed again.
VERSIONS = {
    1: {
        "units": "name s!, long_name s",
        "variables": "name s!, long_name s",
        "configurations": "name s!, type s!, description s",
        "locations": "id s!, name s, geometry b",
        "location_crosswalks": "primary_location_id s!, secondary_location_id s!",
        "primary_timeseries": f"{SERIES}, raw_file_id s, run_id s",
        "secondary_timeseries": f"{SERIES}, member s, raw_file_id s, run_id s",
        "metrics": (
            "primary_location_id s!, configuration_name s!, variable_name s!, unit_name s!, "
            "lead_time_bin i, metric_name s!, value f, count i!, run_id s"
        ),
    }
}
_RAW = "raw_file_id s, run_id s"
VERSIONS[2] = {
    **{
        name: f"{VERSIONS[1][name]}, {_RAW}"
        for name in ("units", "variables", "configurations", "locations", "location_crosswalks")
    },
    "attributes": f"name s!, type s, description s, {_RAW}",
    "location_attributes": (f"location_id s!, attribute_name s!, value s!, unit_name s, {_RAW}"),
    "primary_timeseries": f"{SERIES}, quality_code s, {_RAW}",
    "secondary_timeseries": f"{SERIES}, member s, {_RAW}",
    "metrics": VERSIONS[1]["metrics"],
}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a warehouse of its own, empty, in a folder."""
    prefix = "PYICEBERG_CATALOG__ALONE__"
    monkeypatch.setenv(prefix + "TYPE", "sql")
    monkeypatch.setenv(prefix + "URI", f"sqlite:///{tmp_path / 'catalog.db'}")
    monkeypatch.setenv(prefix + "WAREHOUSE", tmp_path.as_uri())
    return load(warehouse="alone")


#: A value of each kind of column: Iceberg type, and what stands in the row that each table has.
KINDS = {
    "s": (StringType(), "x"), "t": (TimestamptzType(), START), "f": (DoubleType(), 1.5),
    "i": (LongType(), 7), "b": (BinaryType(), b"x"),
}  # fmt: skip


def make(version: int, settings: Settings) -> dict[str, dict[str, object]]:
    """The tables of a version, with the layout that they have had from the first; a row in each."""
    found = catalog(settings)
    found.create_namespace(NAMESPACE)
    rows = {}
    for name, text in VERSIONS[version].items():
        columns = [column.split() for column in text.split(", ")]
        fields = [
            NestedField(i, column, KINDS[kind[0]][0], required=kind.endswith("!"))
            for i, (column, kind) in enumerate(columns, start=1)
        ]
        has_time = name.endswith("timeseries")
        month = PartitionField(2, 1000, MonthTransform(), "value_time_month")
        spec = PartitionSpec(month) if has_time else PartitionSpec()
        made = found.create_table((NAMESPACE, name), Schema(*fields), partition_spec=spec)
        rows[name] = {column: KINDS[kind[0]][1] for column, kind in columns}
        made.append(pa.Table.from_pylist([rows[name]], made.schema().as_arrow()))
    return rows


@pytest.mark.parametrize("version", VERSIONS)
def test_tables_of_an_earlier_version_become_those_of_today(version: int, alone: Settings) -> None:
    rows = make(version, alone)
    steps = warehouse.plan(alone)
    missing = {table for table in TABLES if table not in rows}
    assert {f"make the table {table}" for table in missing} <= {*steps}
    assert ("add quality_code to primary_timeseries" in steps) == (version == 1)
    assert any(step.startswith("add m^3/s, ft^3/s, m, ft") for step in steps)
    assert warehouse.plan(alone) == steps  # a dry run changes nothing
    assert warehouse.migrate(alone) == steps
    assert warehouse.plan(alone) == warehouse.migrate(alone) == []

    for name, today in TABLES.items():
        made = warehouse.table(name, alone)
        assert made.schema().column_names == list(today.columns), name
        assert [str(f.transform) for f in made.spec().fields] == ["month"] * bool(today.month_of)
    for name, row in rows.items():
        kept = warehouse.read(name, settings=alone).to_pylist()
        assert dict.fromkeys(TABLES[name].columns) | row in kept
        assert len(kept) == 1 or name in SEEDS
    coded = rows["primary_timeseries"] | {"quality_code": "P"}
    batch = pa.Table.from_pylist([coded], TABLES["primary_timeseries"].arrow)
    assert counts(warehouse.write("primary_timeseries", batch, alone)) == (0, 1, 0)
    (now,) = warehouse.read("primary_timeseries", settings=alone).to_pylist()
    assert now == coded | {"run_id": None}


def test_an_empty_catalogue_gets_all_tables(alone: Settings) -> None:
    steps = warehouse.plan(alone)
    assert steps[0] == "make the namespace hydro"
    assert [f"make the table {name}" for name in TABLES] == steps[1 : len(TABLES) + 1]
    assert warehouse.migrate(alone) == steps
    assert warehouse.plan(alone) == []


def test_tables_of_a_later_version_are_left_alone(alone: Settings) -> None:
    warehouse.migrate(alone)
    with warehouse.table("units", alone).transaction() as transaction:
        transaction.set_properties({"thalweg.version": str(max(CHANGES) + 1)})
    with pytest.raises(InvalidInput, match="tables do not go back"):
        warehouse.migrate(alone)


def test_two_may_migrate_at_the_same_time(location: str) -> None:
    for name in TABLES:
        catalog().drop_table((NAMESPACE, name))
    steps = warehouse.plan()
    with ThreadPoolExecutor(2) as pool:
        done = [*pool.map(lambda _: warehouse.migrate(), range(2))]
    assert {*chain.from_iterable(done)} >= {*steps}
    assert warehouse.plan() == []


@pytest.mark.parametrize(
    "error", [CommitFailedException("late"), CommitStateUnknownException("the connection broke")]
)
def test_what_a_migration_has_done_is_told_whatever_comes_between(
    error: Exception, alone: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, make, errors = warehouse.plan(alone), versions._make, iter([error])

    def broken(found: Catalog, name: str, *more: Any) -> None:
        arrives = name != "locations" or isinstance(error, CommitStateUnknownException)
        if arrives:
            make(found, name, *more)
        for each in errors if name == "locations" else ():
            raise each
        if not arrives:
            make(found, name, *more)

    monkeypatch.setattr(versions, "_make", broken)
    assert warehouse.migrate(alone) == steps


def test_a_catalogue_that_refuses_a_migration_is_one_clear_line(
    alone: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise ForbiddenError("not for you")

    with monkeypatch.context() as patch:
        patch.setattr(versions, "_make", refused)
        with pytest.raises(Unavailable, match="does not answer: not for you"):
            warehouse.migrate(alone)
    warehouse.migrate(alone)
    monkeypatch.setattr(Table, "scan", refused)  # and no known name is taken for missing
    with pytest.raises(Unavailable, match="does not answer: not for you"):
        warehouse.plan(alone)


def test_a_state_that_has_ended_leaves_a_gap(alone: Settings) -> None:
    """This catalogue keeps the log of what came before it."""
    warehouse.migrate(alone)
    for name in ("one", "two", "three"):
        warehouse.write("locations", pa.table({"id": ["a"], "name": [name]}), alone)
    found = warehouse.table("locations", alone)
    first, second, third = found.snapshots()
    with found.manage_snapshots() as manage:
        manage.create_tag(first.snapshot_id, "as-published")
    found.maintenance.expire_snapshots().by_ids([second.snapshot_id]).commit()
    then, now = (
        dt.datetime.fromtimestamp(each.timestamp_ms / 1000, dt.UTC) for each in (second, third)
    )
    read = warehouse.read("locations", ["name"], settings=alone, at=now)
    assert read["name"].to_pylist() == ["three"]
    with pytest.raises(NotFound, match="upkeep has ended the state that locations had"):
        warehouse.read("locations", settings=alone, at=then)


def test_a_file_that_is_gone_is_said(alone: Settings) -> None:
    """Also of a table that this process has read before, and so does not ask for again."""
    warehouse.migrate(alone)
    rows = pa.table({"id": ["a"], "name": ["one"]})
    first = warehouse.write("locations", rows, alone).snapshot_id
    assert len(warehouse.read("locations", snapshot_id=first, settings=alone)) == 1
    (task,) = warehouse.table("locations", alone).scan().plan_files()
    Path(task.file.file_path.removeprefix("file://")).unlink()
    for given in ({"snapshot_id": first}, {}):
        with pytest.raises(NotFound, match=r"names a file that is gone.*upkeep has ended"):
            warehouse.read("locations", settings=alone, **given)


def test_tables_are_laid_out_as_declared(location: str) -> None:
    found = warehouse.table("secondary_timeseries")
    assert found.name()[-2:] == (NAMESPACE, "secondary_timeseries")
    assert found.schema().column_names == [
        "reference_time", "value_time", "value", "unit_name", "location_id",
        "configuration_name", "variable_name", "member", "raw_file_id", "run_id",
    ]  # fmt: skip
    assert str(found.spec().fields[0].transform) == "month"
    assert str(found.schema().find_type("value_time")) == "timestamptz"
    assert not any(t.columns[column].nullable for t in TABLES.values() for column in t.range)
    assert all(t.month_of is None or t.month_of in t.key for t in TABLES.values())
    assert all(
        references[0] in TABLES for t in TABLES.values() for references in t.references.values()
    )


def test_rows_read_as_declared(location: str) -> None:
    warehouse.write("primary_timeseries", observations(location, [1]))
    rows = warehouse.read("primary_timeseries", where=f"location_id = '{location}'")
    declared = TABLES["primary_timeseries"].arrow
    assert [(f.name, f.type) for f in rows.schema] == [(f.name, f.type) for f in declared]
    part = warehouse.read(
        "primary_timeseries", ["value", "location_id"], f"location_id = '{location}'"
    )
    assert set(part.column_names) == {"value", "location_id"}


def test_files_are_as_any_reader_expects_them(location: str) -> None:
    """Texts are texts, with the ids of the table's columns; only its own are in a file."""
    august, september = (dt.datetime(2024, month, 1, 23, tzinfo=dt.UTC) for month in (8, 9))
    here, there = f"{location}-here", f"{location}-there"
    warehouse.write(
        "primary_timeseries",
        pa.concat_tables(
            [
                observations(there, [3], september),
                observations(there, [2, 1], august),
                observations(here, [5], august),
            ]
        ),
    )
    found = warehouse.table("primary_timeseries")
    tasks = found.scan(f"location_id in ('{here}', '{there}')").plan_files()
    parts = sorted((task.file.partition[0], task.file) for task in tasks)
    assert [month for month, _ in parts] == [655, 656]
    for (_, file), places in zip(parts, ([here, there, there], [there]), strict=True):
        with found.io.new_input(file.file_path).open() as opened:
            read = pq.ParquetFile(opened)
            rows, group = read.read(), read.metadata.row_group(0)
            encoded = pq.ParquetFile(opened, read_dictionary=["location_id"]).read()
        assert rows["location_id"].to_pylist() == places
        assert {*encoded["location_id"].chunk(0).dictionary.to_pylist()} == {*places}
        assert file.record_count == len(places)
        for field, column in zip(found.schema().fields, rows.schema, strict=True):
            assert column.metadata[b"PARQUET:field_id"] == str(field.field_id).encode()
            assert not pa.types.is_dictionary(column.type)
        where = rows.schema.get_field_index("location_id")
        assert group.column(where).statistics.min == places[0]
        assert group.column(where).statistics.max == places[-1]
        id = found.schema().find_field("location_id").field_id
        assert file.lower_bounds[id].decode() <= places[0]
        assert file.null_value_counts[id] == 0


def test_months_count_from_1970() -> None:
    far = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
    times = ("1970-01-01T00+00", "1969-12-31T23+00", "1801-03-01T00+00")
    zoned = [dt.datetime.fromisoformat(time) for time in times]
    months = files.months(pa.chunked_array([[*zoned, None], [far]], TIME))
    assert months.tolist() == [0, -1, -2026, 0, 96_359]
    assert files.months(pa.chunked_array([zoned], TIME)).dtype == np.int16
    assert files.months(pa.chunked_array([], TIME)).tolist() == []


def test_a_catalogue_that_does_not_answer_is_one_clear_line(
    store: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__THALWEG__URI", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"'thalweg' does not answer.*see `thalweg status`"):
        warehouse.read("units")
    with pytest.raises(Unavailable, match="no Iceberg catalogue named 'elsewhere' is configured"):
        warehouse.read("units", settings=load(warehouse="elsewhere"))


def test_a_run_is_on_record(location: str, begin_run: Callable[[], str]) -> None:
    run_id = begin_run()
    written = warehouse.write("primary_timeseries", observations(location, [1, 2]))
    rows = warehouse.read("primary_timeseries", where=f"location_id = '{location}'")
    assert set(rows["run_id"].to_pylist()) == {run_id}
    with database.session() as session:
        uses = session.query(RunUse).filter_by(run_id=run_id, name="primary_timeseries").all()
    assert [(u.direction, u.version, u.rows) for u in uses] == [
        ("wrote", str(written.snapshot_id), 2),
        ("read", str(written.snapshot_id), 2),
    ]


def test_a_commit_that_arrived_though_its_answer_did_not(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, answers = merge._commit, iter([CommitStateUnknownException("the connection broke")])

    def unanswered(*arguments: object) -> None:
        commit(*arguments)
        for error in answers:
            raise error

    monkeypatch.setattr(merge, "_commit", unanswered)
    rows = observations(location, [1, 2, 3])
    assert counts(warehouse.write("primary_timeseries", rows)) == (3, 0, 0)
    assert counts(warehouse.write("primary_timeseries", rows)) == (0, 0, 3)


def test_a_million_rows(location: str) -> None:
    """And a correction inside them, and the same rows again."""
    n, gauges = 1_000_000, 100
    hours = np.arange(n) // gauges
    base = np.datetime64("2015-01-01T00:00:00", "us")
    rows = pa.table(
        {
            "value_time": pa.array(base + hours.astype("timedelta64[h]")).cast(TIME),
            "value": np.random.default_rng(1).gamma(2.0, 50.0, n),
            "unit_name": pa.array(["m^3/s"]).take(pa.array(np.zeros(n, int))),
            "location_id": pa.array([f"{location}-{i}" for i in range(gauges)]).take(
                pa.array(np.arange(n) % gauges)
            ),
            "configuration_name": pa.array(["usgs_observations"]).take(pa.array(np.zeros(n, int))),
            "variable_name": pa.array(["streamflow_hourly_inst"]).take(pa.array(np.zeros(n, int))),
        }
    )
    for batch, expected in (
        (rows, (n, 0, 0)),
        (rows, (0, 0, n)),
        (rows.slice(500_000, 1).set_column(1, "value", pa.array([-5.0])), (0, 1, 0)),
    ):
        assert counts(warehouse.write("primary_timeseries", batch)) == expected
    mine = f"location_id >= '{location}-' and location_id < '{location}.'"
    back = warehouse.read("primary_timeseries", ["value"], mine)["value"].to_numpy()
    expected = rows["value"].to_numpy().copy()
    expected[500_000] = -5.0
    assert np.array_equal(np.sort(back), np.sort(expected))
