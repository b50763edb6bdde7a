"""Metrics kept up to date are those of an evaluation of everything, whatever changed and how."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hourly import START, series

from thalweg import database, metrics, warehouse
from thalweg.errors import InvalidInput, NotFound
from thalweg.metrics import METRICS, increment, inputs, monthly
from thalweg.settings import Settings
from thalweg.warehouse import upkeep
from thalweg.warehouse.access import catalog
from thalweg.warehouse.schema import NAMESPACE, TABLES

OBSERVED, FORECAST, LINKS = "primary_timeseries", "secondary_timeseries", "location_crosswalks"
OTHERS = ["relative_median", "spearman_r", "nse_log", "annual_peak_relative_bias"]
NAMES = [name for name in METRICS if monthly.add_up([name])] + OTHERS
KEYS = ["primary_location_id", "configuration_name", "variable_name", "unit_name"]
KEYS += ["lead_time_bin", "metric_name"]
HOURS = 24 * 40  # from September to November


@pytest.fixture(autouse=True)
def fresh(store: Settings) -> None:
    """Empty tables."""
    database.migrate()
    warehouse.migrate()
    for name in (OBSERVED, FORECAST, LINKS, "metrics", "monthly_statistics"):
        catalog().drop_table((NAMESPACE, name))
    warehouse.migrate()


def values(count: int, seed: int) -> list[float]:
    return [100 + 50 * ((i * (seed + 7) % 31) / 31) + i % 24 for i in range(count)]


def load(count: int = HOURS) -> None:
    """Two gauges; the first with an analysis and a forecast a day, the other with an analysis."""
    issued = pa.array([START + dt.timedelta(days=i // 24) for i in range(count)], TIME)
    named = pa.array(["nwm30_medium_range"] * count)
    network = pa.array(["usgs_observations"] * count)
    rows = {
        LINKS: [links(f"usgs-{i}", f"nwm30-{i}") for i in (1, 2)],
        OBSERVED: [
            series(values(count, i), f"usgs-{i}", configuration_name=network) for i in (1, 2)
        ],
        FORECAST: [
            *(series(values(count, i + 3), f"nwm30-{i}") for i in (1, 2)),
            series(values(count, 9), "nwm30-1", configuration_name=named, reference_time=issued),
        ],
    }
    warehouse.write_all({name: pa.concat_tables(each) for name, each in rows.items()})


TIME = pa.timestamp("us", "UTC")


def links(primary: str, secondary: str) -> pa.Table:
    return pa.table({"primary_location_id": [primary], "secondary_location_id": [secondary]})


def observe(numbers: list[float], location: str, start: dt.datetime = START) -> None:
    times = pa.array([start + dt.timedelta(hours=i) for i in range(len(numbers))], TIME)
    network = pa.array(["usgs_observations"] * len(numbers))
    rows = series(numbers, location, configuration_name=network, value_time=times)
    warehouse.write(OBSERVED, rows)


def kept(names: list[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    where = pc.field("metric_name").isin(names)
    rows = warehouse.read("metrics").filter(where).to_pylist()
    return {tuple(row[key] for key in KEYS): row for row in rows}


def check(names: list[str] = NAMES, lead_time_bin: int = 24) -> None:
    """What is in the table is what an evaluation of everything gives."""
    found = metrics.evaluate(metrics=names, lead_time_bin=lead_time_bin)
    now, expected = kept(names), metrics.to_long(found).to_pylist()
    assert expected
    for row in expected:
        same = now[tuple(row[key] for key in KEYS)]
        assert same["count"] == row["count"], row
        value = row["value"]
        assert same["value"] == (value and pytest.approx(value, rel=1e-9, abs=1e-9)), row


def test_first_everything_and_then_what_changed() -> None:
    load()
    done = metrics.update(NAMES)
    assert (done.places, done.months) == (2, 3)
    check()
    again = metrics.update(NAMES)
    assert str(again) == "metrics: nothing has changed since they were computed"

    observe([400.0] * 5, "usgs-2", START + dt.timedelta(days=30))  # corrects what is there
    done = metrics.update(NAMES)
    assert (done.places, done.months) == (1, 1)
    check()
    observe(values(48, 2), "usgs-1", START + dt.timedelta(hours=HOURS))  # no forecast beside it
    warehouse.write(LINKS, links("usgs-2", "nwm30-1"))  # two reaches for one gauge
    done = metrics.update(NAMES)
    assert (done.places, done.months) == (2, 3)
    check()

    # What was put together over time is what is made at once, to the last digit.
    key = [("primary_location_id", "ascending"), ("configuration_name", "ascending")]
    order = {
        "metrics": [*key, ("lead_time_bin", "ascending"), ("metric_name", "ascending")],
        "monthly_statistics": [*key, ("lead_time_bin", "ascending"), ("month", "ascending")],
    }
    over_time = {name: warehouse.read(name).sort_by(by) for name, by in order.items()}
    for name in order:
        catalog().drop_table((NAMESPACE, name))
    warehouse.migrate()
    metrics.update(NAMES)
    for name, by in order.items():
        assert warehouse.read(name).sort_by(by).equals(over_time[name])


def test_only_what_changed_is_read(rows_read: Counter[str]) -> None:
    load()
    metrics.update(["kge"])
    observe([400.0], "usgs-2")
    rows_read.clear()
    metrics.update(["kge"])
    hours = (dt.datetime(2024, 10, 1, tzinfo=dt.UTC) - START) // dt.timedelta(hours=1)
    assert (rows_read[OBSERVED], rows_read[FORECAST]) == (hours, hours)


def test_rows_written_anew_are_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    observe([400.0], "usgs-2")
    metrics.update(["kge"])
    monkeypatch.setattr(upkeep, "YOUNGEST", dt.timedelta(0))
    (kept_up,) = upkeep.maintain(OBSERVED, dry_run=False)
    assert kept_up.files_after < kept_up.files_before
    done = metrics.update(["kge"])
    assert (done.places, done.months) == (0, 0)
    # What upkeep has ended cannot be compared with: everything is made again.
    observe([401.0], "usgs-2")
    upkeep.maintain(older_than=dt.timedelta(0), dry_run=False)
    done = metrics.update(["kge"])
    assert (done.places, done.months) == (2, 3)
    check(["kge"])


def test_other_bins_and_more_metrics() -> None:
    load(24 * 12)
    metrics.update(["kge"])
    done = metrics.update(["kge", "rmse", "relative_median"])
    assert (done.places, done.months) == (2, 0)  # no month is paired again for it
    check(["kge", "rmse", "relative_median"])
    done = metrics.update(["kge"], 6)
    assert (done.places, done.months) == (2, 2)
    check(["kge", "rmse", "relative_median"], 6)  # those of before are not left behind
    observe([400.0] * 5, "usgs-2")
    metrics.update(["rmse"], 6)
    check(["kge", "rmse", "relative_median"], 6)
    assert str(metrics.update(["kge"], 6)) == str(metrics.update(lead_time_bin=6, metrics=["rmse"]))


def test_months_of_many_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    monkeypatch.setattr(inputs, "ROWS", 500)
    metrics.update(NAMES)
    check()


def test_observations_of_several_configurations() -> None:
    load(48)
    warehouse.write(OBSERVED, series([1.0] * 48, "usgs-1"))
    with pytest.raises(InvalidInput, match="2 configurations"):
        metrics.update()
    assert metrics.update(primary_configuration="usgs_observations").places == 2
    assert len(kept(["kge"])) == 4  # two analyses, a forecast with one bin


def test_what_cannot_be_kept_up_to_date_is_refused() -> None:
    with pytest.raises(InvalidInput, match="thresholds"):
        metrics.update(["brier_score"])
    with pytest.raises(NotFound, match="'kge'"):
        metrics.update(["kga"])
    assert metrics.update().places == 0  # an empty warehouse


def test_another_update_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came meanwhile is not lost: neither values nor a metric that the other was asked for."""
    load(24 * 12)
    keep = increment._put_together
    turns = iter([True])

    def slow(*arguments: Any) -> Any:
        done = keep(*arguments)
        if next(turns, False):
            observe([400.0] * 9, "usgs-1")
            metrics.update(["rmse"])
        return done

    monkeypatch.setattr(increment, "_put_together", slow)
    metrics.update(["kge"])
    check(["kge", "rmse"])
    assert metrics.update(["kge"]).places == 0
    observe([401.0] * 9, "usgs-1")
    metrics.update(["kge"])
    check(["kge", "rmse"])


def test_numbers_beyond_float64_are_not_defined() -> None:
    warehouse.write(LINKS, links("usgs-1", "nwm30-1"))
    observe([1e300, -1e300, 3.0], "usgs-1")
    warehouse.write(FORECAST, series([1e300, 1e300, 2.0], "nwm30-1"))
    metrics.update(NAMES)
    check()


def test_a_year_of_the_real_gauges(two_gauges: tuple[pa.Table, pa.Table, pa.Table]) -> None:
    until = pc.field("value_time") < dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    for name, rows in zip((OBSERVED, FORECAST, LINKS), two_gauges, strict=True):
        columns = [c for c in TABLES[name].columns if c in rows.column_names]
        chosen = rows if name == LINKS else rows.filter(until)
        warehouse.write(name, chosen.select(columns))
    assert len(NAMES) > 25
    metrics.update(NAMES)
    check()


def test_large_tables_are_evaluated_by_the_month(monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    names = ["kge", "rmse", "max_value_time_delta", "secondary_variance"]
    asked: list[dict[str, Any]] = [
        {"lead_time_bin": 6},
        {"by": ["configuration_name", "month"], "minimum": 300},
        {"by": ["season"], "where": "primary_value > ? AND hour > 3", "parameters": [120.0]},
        {"by": [], "lead_time_bin": 24},
    ]
    whole = [metrics.evaluate(metrics=names, **options) for options in asked]
    monkeypatch.setattr(inputs, "ROWS", 500)
    used = []
    merged = monthly.merged
    monkeypatch.setattr(monthly, "merged", lambda *given: used.append(1) or merged(*given))
    for options, expected in zip(asked, whole, strict=True):
        found = metrics.evaluate(metrics=names, **options)
        assert found.schema == expected.schema
        for row, same in zip(expected.to_pylist(), found.to_pylist(), strict=True):
            assert same == {
                name: pytest.approx(v, rel=1e-12) if isinstance(v, float) else v
                for name, v in row.items()
            }
    assert len(used) == len(asked)


class Stop(Exception):
    """Somebody pulls the plug."""


@pytest.mark.parametrize("place", ["monthly_statistics", "metrics"])
def test_an_update_that_was_stopped_is_made_good(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other bins, after its statistics or after its metrics were written."""
    load(24 * 12)
    metrics.update(["kge"])
    write = warehouse.write

    def stopped(name: str, *given: Any) -> warehouse.Written:
        write(name, *given)
        if name == place:
            raise Stop
        return write(name, *given)

    monkeypatch.setattr(warehouse, "write", stopped)
    with pytest.raises(Stop):
        metrics.update(["kge"], 6)
    monkeypatch.setattr(warehouse, "write", write)
    metrics.update(["kge"])
    observe([400.0], "usgs-2")
    metrics.update(["kge"])
    check(["kge"])
    bins = {row["lead_time_bin"] for row in kept(["kge"]).values() if row["count"]}
    assert bins == {None, 0}


def test_what_is_no_more_is_counted_no_more() -> None:
    load(24 * 12)
    metrics.update(["rmse"])
    for name in (OBSERVED, FORECAST, "metrics"):
        catalog().drop_table((NAMESPACE, name))
    warehouse.migrate()
    load(24 * 3)
    metrics.update(["rmse"])
    check(["rmse"])


def test_observations_of_other_configurations_in_other_months() -> None:
    load(24 * 12)
    metrics.update(["rmse"])
    december = pa.array([dt.datetime(2024, 12, 1, hour, tzinfo=dt.UTC) for hour in range(3)], TIME)
    warehouse.write(OBSERVED, series([1.0, 2.0, 3.0], "usgs-1", value_time=december))
    warehouse.write(FORECAST, series([1.0, 2.0, 3.0], "nwm30-1", value_time=december))
    with pytest.raises(InvalidInput, match="2 configurations"):
        metrics.update(["rmse"])


def test_variables_and_units_in_files_of_their_own() -> None:
    load(48)
    for unit, variable in (("m", "stage_hourly_inst"), ("ft^3/s", "streamflow_hourly_inst")):
        columns = {
            "unit_name": pa.array([unit] * 9),
            "variable_name": pa.array([variable] * 9),
            "value_time": pa.array([START + dt.timedelta(days=9, hours=i) for i in range(9)], TIME),
        }
        network = pa.array(["usgs_observations"] * 9)
        warehouse.write(
            OBSERVED, series(values(9, 1), "usgs-1", configuration_name=network, **columns)
        )
        warehouse.write(FORECAST, series(values(9, 2), "nwm30-1", **columns))
    metrics.update(["rmse", "relative_median"])
    check(["rmse", "relative_median"])
    assert {row["unit_name"] for row in kept(["rmse"]).values()} == {"m^3/s", "m", "ft^3/s"}
