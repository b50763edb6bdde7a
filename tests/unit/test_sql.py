"""SQL over the warehouse: by name, only reading, and only what it needs."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from typer.testing import CliRunner

from thalweg import database, metrics, storage, warehouse
from thalweg.cli import app
from thalweg.database import RunUse, new_id
from thalweg.errors import InvalidInput, NotFound
from thalweg.settings import Settings
from thalweg.warehouse import query
from thalweg.warehouse.access import catalog
from thalweg.warehouse.schema import NAMESPACE, TABLES

TIME = pa.timestamp("us", "UTC")
START = dt.datetime(1998, 5, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def series(location: str, times: list[dt.datetime], values: list[float], configuration: str):
    n = len(times)
    return pa.table(
        {
            "value_time": pa.array(times, TIME),
            "value": pa.array(values, pa.float64()),
            "unit_name": ["m^3/s"] * n,
            "location_id": [location] * n,
            "configuration_name": [configuration] * n,
            "variable_name": ["streamflow_hourly_inst"] * n,
        }
    )


@pytest.fixture
def gauge(store: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """A gauge of its own with four hours observed, and forecasts of two members for two of them."""
    monkeypatch.setenv("COLUMNS", "160")
    database.migrate()
    warehouse.migrate()
    id = new_id()
    times = [START + i * HOUR for i in range(4)]
    warehouse.write(
        "primary_timeseries", series(f"usgs-{id}", times, [1.0, 2.0, 3.0, 4.0], "usgs_observations")
    )
    forecast = [
        series(f"nwm-{id}", times[1:3], [member, 2.0 * member], "a_forecast")
        .append_column("member", pa.array([str(member)] * 2))
        .append_column("reference_time", pa.array([START] * 2, TIME))
        for member in (1, 2)
    ]
    warehouse.write("secondary_timeseries", pa.concat_tables(forecast))
    pair = {"primary_location_id": [f"usgs-{id}"], "secondary_location_id": [f"nwm-{id}"]}
    warehouse.write("location_crosswalks", pa.table(pair))
    return id


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_tables_are_asked_by_name_with_bound_values(gauge: str) -> None:
    found = warehouse.sql(
        "SELECT value_time, value FROM primary_timeseries WHERE location_id = ? AND value_time >= ?"
        " ORDER BY value_time",
        [f"usgs-{gauge}", START + 2 * HOUR],
    )
    assert found.schema.types == [TIME, pa.float64()]
    assert found.to_pylist() == [
        {"value_time": START + 2 * HOUR, "value": 3.0},
        {"value_time": START + 3 * HOUR, "value": 4.0},
    ]
    hostile = "x' OR true OR location_id = '"
    mean = (
        "WITH mine AS (FROM Primary_Timeseries WHERE location_id = $id) SELECT avg(value) FROM mine"
    )
    assert warehouse.sql(mean, {"id": f"usgs-{gauge}"})[0].to_pylist() == [2.5]
    assert warehouse.sql(mean, {"id": hostile})[0].to_pylist() == [None]
    assert warehouse.sql("SELECT 1 AS one").to_pylist() == [{"one": 1}]
    assert warehouse.sql(mean.replace("FROM P", "FROM hydro.P"), {"id": f"usgs-{gauge}"}) == (
        warehouse.sql(mean, {"id": f"usgs-{gauge}"})
    )


@pytest.mark.usefixtures("gauge")
def test_what_there_is_can_be_asked() -> None:
    shown = warehouse.sql("SHOW TABLES")["name"].to_pylist()
    assert sorted(shown) == sorted([*TABLES, *query.VIEWS])
    for name, columns in ((n, list(TABLES[n].columns)) for n in TABLES):
        assert warehouse.sql(f"DESCRIBE FROM {name}")["column_name"].to_pylist() == columns
    described = warehouse.sql("DESCRIBE joined_timeseries")["column_name"].to_pylist()
    assert described == list(query.JOINED)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("SELECT * FROM primary_timeserie", NotFound, "unknown table 'primary_timeserie'; did you"),
        ("SELECT valeu FROM primary_timeseries", InvalidInput, "valeu.*\n*.*value"),
        ("SELEC 1", InvalidInput, "syntax error at or near"),
        ("SELECT * FROM units WHERE name = ?", InvalidInput, "parameter"),
        ("SELECT 1; SELECT 2", InvalidInput, "expected one SELECT"),
        ("", InvalidInput, "expected one SELECT"),
        ("INSERT INTO units VALUES ('cfs', '')", InvalidInput, "only read here.*Only SELECT"),
        ("DELETE FROM units", InvalidInput, "expected one SELECT"),
        ("DROP TABLE units", InvalidInput, "expected one SELECT"),
        ("CREATE TABLE t AS SELECT 1", InvalidInput, "expected one SELECT"),
        ("COPY (SELECT 1) TO '{folder}/out.csv'", InvalidInput, "expected one SELECT"),
        ("ATTACH '{folder}/other.db'", InvalidInput, "expected one SELECT"),
        ("INSTALL httpfs", InvalidInput, "expected one SELECT"),
        ("SET enable_external_access = true", InvalidInput, "expected one SELECT"),
        ("SELECT * FROM read_csv('{folder}/secret.csv')", InvalidInput, "disabled"),
        ("SELECT * FROM read_text('{folder}/secret.csv')", InvalidInput, "disabled"),
        ("SELECT * FROM glob('{folder}/*')", InvalidInput, "disabled"),
        ("SELECT * FROM '{folder}/secret.csv'", NotFound, "unknown table"),
        ("SELECT * FROM query('SELECT * FROM read_csv(''{folder}/secret.csv'')')",
         InvalidInput, "disabled"),
        ("SELECT * FROM gauge", NotFound, "unknown table 'gauge'"),
        ("SELECT * FROM other.units", InvalidInput, "does not exist"),
        ("SELECT getenv('AWS_SECRET_ACCESS_KEY')", InvalidInput, "getenv does not exist"),
    ],
)  # fmt: skip
def test_what_is_no_reading_of_a_table_is_refused(
    gauge: str, tmp_path: Path, text: str, error: type[Exception], says: str
) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(error, match=f"(?s){says}"):
        warehouse.sql(text.format(folder=tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["secret.csv"]


def test_the_view_is_what_metrics_are_computed_from(gauge: str) -> None:
    times, other = [START + i * HOUR for i in range(4)], "streamflow_daily_mean"
    beside = series(f"usgs-{gauge}", times, [5.0] * 4, "usgs_observations").to_pandas()
    feet = series(f"nwm-{gauge}", times, [6.0] * 4, "in_feet").to_pandas()
    for name, frame in (
        ("primary_timeseries", beside.assign(variable_name=other)),
        ("secondary_timeseries", feet.assign(unit_name="ft^3/s")),
    ):
        warehouse.write(name, pa.Table.from_pandas(frame, preserve_index=False))
    rows = warehouse.joined(where="primary_location_id = ?", parameters=[f"usgs-{gauge}"])
    assert rows.column_names == list(query.JOINED)
    mine = {
        name: warehouse.read(name, where=f"{column} = '{prefix}-{gauge}'")
        for name, column, prefix in (
            ("primary_timeseries", "location_id", "usgs"),
            ("secondary_timeseries", "location_id", "nwm"),
            ("location_crosswalks", "primary_location_id", "usgs"),
        )
    }
    expected = metrics.joined(*mine.values())
    assert expected.num_rows == 4
    by = [("member", "ascending"), ("value_time", "ascending")]
    shared = rows.select(expected.column_names)
    assert shared.sort_by(by).to_pylist() == expected.sort_by(by).to_pylist()
    assert set(rows["primary_configuration_name"].to_pylist()) == {"usgs_observations"}
    part = warehouse.sql(
        "SELECT max(lead_time) AS longest, count(*) AS pairs FROM joined_timeseries"
        " WHERE primary_location_id = $gauge AND member = '2'",
        {"gauge": f"usgs-{gauge}"},
    )
    assert part.to_pylist() == [{"longest": 2.0, "pairs": 2}]
    with pytest.raises(NotFound, match="unknown column 'valeu' of joined_timeseries"):
        warehouse.joined(["valeu"])


def test_the_view_is_a_table_only_when_asked(gauge: str) -> None:
    def is_there() -> bool:
        return catalog().table_exists((NAMESPACE, "joined_timeseries"))

    where = {"where": "primary_location_id = ?", "parameters": [f"usgs-{gauge}"]}
    warehouse.joined(**where)
    assert not is_there()
    for columns in (["value_time", "lead_time"], ["value_time", "lead_time"]):
        rows = warehouse.joined(columns, **where, materialise=True)
        stored = catalog().load_table((NAMESPACE, "joined_timeseries")).scan().to_arrow()
        by = [("value_time", "ascending")]
        assert stored.sort_by(by).to_pylist() == rows.sort_by(by).to_pylist()
    assert rows.num_rows == 4
    catalog().drop_table((NAMESPACE, "joined_timeseries"))


def test_only_the_files_that_are_needed_are_read(gauge: str) -> None:
    """The file of another month is taken away, and nobody misses it."""
    later = START + dt.timedelta(days=200)
    table = f"usgs-{gauge}"
    warehouse.write("primary_timeseries", series(table, [later], [9.0], "usgs_observations"))
    lazy = query._rows("primary_timeseries", None, None)
    assert isinstance(lazy, ds.Dataset)
    found = warehouse.table("primary_timeseries").scan(f"value_time = '{later.isoformat()}'")
    (taken,) = [t.file.file_path for t in found.plan_files() if t.file.record_count == 1]
    files = storage.filesystem(taken)
    content = files.cat_file(taken)
    files.rm_file(taken)
    ask = "SELECT sum(value) AS total FROM primary_timeseries WHERE location_id = ?"
    month = " AND value_time < $2 AND value_time >= $3"
    try:
        total = warehouse.sql(
            ask.replace("?", "$1") + month, [table, later - HOUR, START]
        ).to_pylist()
        with pytest.raises(Exception, match=r"(?i)not found|does not exist|404|no such"):
            warehouse.sql(ask, [table])
    finally:
        files.pipe_file(taken, content)
    assert total == [{"total": 10.0}]
    assert warehouse.sql(ask, [table]).to_pylist() == [{"total": 19.0}]


def test_an_earlier_time_is_asked_for(gauge: str) -> None:
    before = warehouse.snapshots("primary_timeseries")[-1].at
    warehouse.write(
        "primary_timeseries", series(f"usgs-{gauge}", [START], [7.0], "usgs_observations")
    )
    ask = "SELECT value FROM primary_timeseries WHERE location_id = ? ORDER BY value_time LIMIT 1"
    assert warehouse.sql(ask, [f"usgs-{gauge}"])[0].to_pylist() == [7.0]
    assert warehouse.sql(ask, [f"usgs-{gauge}"], at=before)[0].to_pylist() == [1.0]
    assert warehouse.sql(ask, [f"usgs-{gauge}"], at=START).num_rows == 0
    with pytest.raises(InvalidInput, match="expected a time with a time zone"):
        warehouse.sql(ask, [f"usgs-{gauge}"], at=dt.datetime(2024, 1, 1))  # noqa: DTZ001


def test_a_column_that_was_taken_away_and_added_again_is_read_as_the_table_says(gauge: str) -> None:
    row = {name: ["x"] for name in ("primary_location_id", "configuration_name", "metric_name")}
    row |= {"variable_name": ["streamflow_hourly_inst"], "unit_name": ["m^3/s"]}
    row["metric_name"] = [gauge]
    warehouse.write("metrics", pa.table(row | {"value": [0.5], "count": [3]}))
    with warehouse.table("metrics").update_schema(allow_incompatible_changes=True) as update:
        update.delete_column("count")
    warehouse.migrate()
    found = warehouse.sql("SELECT value, count FROM metrics WHERE metric_name = ?", [gauge])
    assert found.to_pylist() == [{"value": 0.5, "count": None}]


def test_each_table_can_be_asked_with_its_own_types(gauge: str) -> None:
    for name in warehouse.names():
        rows = warehouse.sql(f"FROM {name} LIMIT 3")
        assert rows.column_names == list(TABLES[name].columns)
        assert rows.schema.types == TABLES[name].arrow.types


def test_reading_is_on_the_record_of_the_run(gauge: str, begin_run: Callable[[], str]) -> None:
    run_id = begin_run()
    warehouse.joined(["value_time"])
    with database.session() as session:
        uses = session.query(RunUse).filter_by(run_id=run_id).all()
    newest = {name: warehouse.table(name).current_snapshot() for name in warehouse.names()}
    assert {(u.direction, u.name, u.version) for u in uses} == {
        ("read", name, str(newest[name].snapshot_id))
        for name in ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
    }


def test_by_command(gauge: str) -> None:
    ask = "select value_time, value from primary_timeseries where location_id = $id order by 1"
    given = (ask, "-p", f"id=usgs-{gauge}")
    said = call("sql", *given)
    assert "1998-05-01 03:00" in said
    assert "4.0" in said
    assert [row["value"] for row in json.loads(call("sql", *given, "--json"))] == [1, 2, 3, 4]
    assert call("sql", *given, "--at", "1998-05-02", "--json") == "[]\n"
    many = call("sql", "select range as number, null as nothing from range(60)", "--csv")
    assert list(csv.DictReader(io.StringIO(many)))[59] == {"number": "59", "nothing": ""}
    short = call("sql", "select range as number from range(60)")
    assert "50 of 60 rows" in short
    assert "59" not in short
    with pytest.raises(InvalidInput, match="expected a parameter as NAME=VALUE, got 'id'"):
        call("sql", ask, "-p", "id")
    twice = "select a.id, b.id from locations a join locations b using (name)"
    with pytest.raises(InvalidInput, match="several columns are named id: give each a name"):
        call("sql", twice)
    assert call("sql", r"select '\x01\xff'::blob as g", "--csv") == '"g"\n"01ff"\n'
    for value in ("[1, 2]", "{'a': 1}", "interval 1 day"):
        with pytest.raises(InvalidInput, match=r"--csv: .*cast it"):
            call("sql", f"select {value} as v", "--csv")
