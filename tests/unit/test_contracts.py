from __future__ import annotations

import datetime as dt
import json
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from thalweg import database, warehouse
from thalweg.cli import app
from thalweg.database import new_id
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.settings import Settings
from thalweg.warehouse import contracts

START = dt.datetime(2021, 8, 23, tzinfo=dt.UTC)
TIME = pa.timestamp("us", "UTC")


@pytest.fixture
def location(store: Settings) -> str:
    """A location that the warehouse knows, and that no other file of tests writes."""
    return known(store.data_dir)


@cache
def known(data_dir: Path) -> str:
    database.migrate()
    warehouse.migrate()
    name = f"usgs-{new_id()}"
    warehouse.write("locations", pa.table({"id": [name]}))
    return name


def observations(location: str, values: list[Any], **columns: list[Any]) -> pa.Table:
    n = len(values)
    rows = {
        "value_time": [START + dt.timedelta(hours=i) for i in range(n)],
        "value": values,
        "unit_name": ["m^3/s"] * n,
        "location_id": [location] * n,
        "configuration_name": ["usgs_observations"] * n,
        "variable_name": ["streamflow_hourly_inst"] * n,
        "raw_file_id": ["file-1"] * n,
    } | columns
    times = {"value_time": pa.array(rows.pop("value_time"), TIME)}
    return pa.table(times | {name: pa.array(items) for name, items in rows.items()})


def reasons(rows: pa.Table) -> list[str | None]:
    """The reason of each row by its hour, None for a good one."""
    good, bad = contracts.check("primary_timeseries", rows)
    assert good.num_rows + bad.num_rows == rows.num_rows
    assert "reason" not in good.column_names
    found: list[str | None] = [None] * rows.num_rows
    for row in bad.to_pylist():
        found[row["value_time"].hour if row["value_time"] else -1] = row["reason"]
    return found


def test_good_rows_pass_with_the_columns_that_they_have(location: str) -> None:
    rows = observations(location, [1.0, 0.0, 2e5])
    good, bad = contracts.check("primary_timeseries", rows)
    assert {*good.column_names} == {*rows.column_names}
    assert good["value"].to_pylist() == [1.0, 0.0, 2e5]
    assert bad.num_rows == 0
    assert bad.column_names == [*good.column_names, "reason"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"value": [1.0, None]}, "value: expected a value, never null"),
        ({"value": [1.0, float("nan")]}, "value: expected a finite number"),
        ({"value": [1.0, float("-inf")]}, "value: expected a finite number"),
        ({"value": [1.0, -0.1]}, "value: expected 0 to 500,000 m^3/s of streamflow"),
        ({"value": [1.0, -999999.0]}, "value: expected 0 to 500,000 m^3/s of streamflow"),
        ({"value": [1.0, 600_000.0]}, "value: expected 0 to 500,000 m^3/s of streamflow"),
        ({"unit_name": ["m^3/s", "cfs"]}, "unit_name: expected one of `units.name`"),
        ({"unit_name": ["m^3/s", "m"]}, "unit_name: expected a unit that measures the variable"),
        ({"unit_name": ["m^3/s", None]}, "unit_name: expected a value, never null"),
        (
            {"variable_name": ["streamflow_hourly_inst", "x"]},
            "variable_name: expected one of `variables.name`",
        ),
        ({"location_id": [None, "usgs-0"]}, "location_id: expected one of `locations.id`"),
        (
            {"value_time": [START, START.replace(year=1799, hour=1)]},
            "value_time: expected a time from 1800 to a year ahead",
        ),
        (
            {"value_time": [START, START.replace(year=2999, hour=1)]},
            "value_time: expected a time from 1800 to a year ahead",
        ),
        ({"value_time": [START, None]}, "value_time: expected a value, never null"),
    ],
)
def test_a_row_that_breaks_a_clause_is_told_apart_with_its_reason(
    location: str, change: dict[str, list[Any]], reason: str
) -> None:
    if None in change.get("location_id", []):
        change = {"location_id": [location, "usgs-0"]}
    first, second = reasons(observations(location, [1.0, 2.0], **change))
    assert first is None
    assert second is not None
    assert reason in second.split("; ")


def test_ranges_hold_in_any_unit(location: str) -> None:
    """Seventeen million cubic feet a second are less than 500,000 m^3/s; eighteen are more."""
    rows = observations(location, [17.6e6, 17.7e6], unit_name=["ft^3/s"] * 2)
    first, second = reasons(rows)
    assert first is None
    assert second == "value: expected 0 to 500,000 m^3/s of streamflow"
    temperature = {
        "variable_name": ["air_temperature_hourly_inst"] * 3,
        "unit_name": ["K", "K", "degC"],
    }
    found = reasons(observations(location, [300.0, 20.0, 20.0], **temperature))
    assert found == [None, "value: expected -95 to 65 degC of air_temperature", None]


def test_all_reasons_of_a_row_are_told(location: str) -> None:
    change = {"unit_name": ["m^3/s", "cfs"], "location_id": [location, "usgs-0"]}
    _, bad = contracts.check("primary_timeseries", observations(location, [1.0, -5.0], **change))
    assert bad["reason"].to_pylist() == [
        "unit_name: expected one of `units.name`; "
        "unit_name: expected a unit that measures the variable; "
        "location_id: expected one of `locations.id`"
    ]


def test_one_file_says_one_value_of_a_time(location: str) -> None:
    """The same twice is no contradiction; a later file may correct."""
    times = [START, START, START + dt.timedelta(hours=1), START + dt.timedelta(hours=1)]
    rows = observations(location, [1.0, 2.0, 3.0, 3.0], value_time=times)
    good, bad = contracts.check("primary_timeseries", rows)
    assert good["value"].to_pylist() == [3.0, 3.0]
    assert bad["reason"].to_pylist() == ["value: expected one value a key and raw file"] * 2
    corrected = observations(
        location, [1.0, 2.0], value_time=times[:2], raw_file_id=["file-1", "file-2"]
    )
    assert contracts.check("primary_timeseries", corrected)[1].num_rows == 0


def test_forecasts_belong_to_the_crosswalk(location: str) -> None:
    reach = location.replace("usgs", "nwm30")
    rows = observations(reach, [1.0]).append_column("member", pa.array(["1"]))
    assert contracts.check("secondary_timeseries", rows)[1].num_rows == 1
    pair = pa.table({"primary_location_id": [location], "secondary_location_id": [reach]})
    assert contracts.check("location_crosswalks", pair)[1].num_rows == 0
    warehouse.write("location_crosswalks", pair)
    assert contracts.check("secondary_timeseries", rows)[1].num_rows == 0


def test_a_catalogue_that_does_not_answer_is_no_broken_clause(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__THALWEG__URI", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="does not answer"):
        contracts.check("primary_timeseries", observations(location, [1.0]))


def test_a_batch_that_is_no_table_of_ours_is_an_error(location: str) -> None:
    rows = observations(location, [1.0])
    with pytest.raises(InvalidInput, match="needs column 'unit_name'"):
        contracts.check("primary_timeseries", rows.drop_columns(["unit_name"]))
    with pytest.raises(InvalidInput, match="expected double"):
        contracts.check("primary_timeseries", rows.set_column(1, "value", pa.array(["a"])))
    with pytest.raises(NotFound, match="unknown table 'primary'"):
        contracts.check("primary", rows)


def test_an_empty_batch_keeps_every_contract(location: str) -> None:
    for name in warehouse.names():
        empty = warehouse.access.definition(name).arrow.empty_table()
        good, bad = contracts.check(name, empty)
        assert (good.num_rows, bad.num_rows) == (0, 0), name


def test_every_table_has_a_contract_in_words() -> None:
    for name in warehouse.names():
        assert contracts.clauses(name)
    says = [c.reason for c in contracts.clauses("primary_timeseries")]
    assert "value: expected 0 to 500,000 m^3/s of streamflow" in says
    assert len(says) == len(set(says))


def test_a_configuration_that_no_longer_comes_is_stale(location: str) -> None:
    now = dt.datetime(2031, 1, 10, tzinfo=dt.UTC)  # when nothing else is written for
    configurations = ["nwm99_analysis_assim", "nwm99_short_range", "nwm99_long_range"]
    warehouse.write(
        "configurations",
        pa.table({"name": configurations, "type": ["secondary"] * 3}),
    )
    fresh = observations(location, [1.0], value_time=[now], configuration_name=[configurations[0]])
    old = observations(
        location, [1.0], value_time=[now], configuration_name=[configurations[1]],
        reference_time=[now - dt.timedelta(hours=7)],
    )  # fmt: skip
    for rows in (fresh, old):
        warehouse.write("secondary_timeseries", rows)
    found = {f.configuration: f for f in contracts.freshness(now)}
    assert not found[configurations[0]].is_stale
    assert found[configurations[1]].is_stale
    assert found[configurations[1]].newest == now - dt.timedelta(hours=7)
    assert found["nwm99_short_range"].allowed == dt.timedelta(hours=6)
    told = CliRunner().invoke(app, ["warehouse", "freshness", "--json"])
    assert told.exit_code == 1  # of one nothing ever came
    assert {each["configuration"] for each in json.loads(told.output)} >= {*configurations}
    assert "stale" in CliRunner().invoke(app, ["warehouse", "freshness"]).output
