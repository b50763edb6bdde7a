"""Metrics: by hand, by law, and against `scores` on the real series of two gauges."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scores.continuous as oracle
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from thalweg import metrics
from thalweg.errors import InvalidInput, NotFound

START = dt.datetime(2024, 9, 26, tzinfo=dt.UTC)
GAUGE, REACH = "usgs-03171000", "nwm30-6884666"
CROSSWALK = pa.table({"primary_location_id": [GAUGE], "secondary_location_id": [REACH]})
# Each example starts a DuckDB, which is slow on a busy machine.
unhurried = settings(deadline=None, max_examples=20)
SERIES = st.lists(st.tuples(st.floats(0.01, 1e5), st.floats(0.01, 1e5)), min_size=3, max_size=40)


def series(values: list[Any], location: str, **columns: Any) -> pa.Table:
    """Hourly values of one location; a column given by name replaces the one made here."""
    count = len(values)
    made = {
        "reference_time": pa.nulls(count, pa.timestamp("us", "UTC")),
        "value_time": pa.array(
            [START + dt.timedelta(hours=i) for i in range(count)], pa.timestamp("us", "UTC")
        ),
        "value": pa.array(values, pa.float64()),
        "unit_name": pa.array(["m^3/s"] * count, pa.string()),
        "location_id": pa.array([location] * count, pa.string()),
        "configuration_name": pa.array(["nwm30_analysis_assim"] * count, pa.string()),
        "variable_name": pa.array(["streamflow_hourly_inst"] * count, pa.string()),
    }
    return pa.table(made | columns)


def compare(observed: list[Any], simulated: list[Any], **options: Any) -> list[dict[str, Any]]:
    """All metrics of two short series."""
    primary, secondary = series(observed, GAUGE), series(simulated, REACH)
    rows: list[dict[str, Any]] = metrics.evaluate(
        primary, secondary, CROSSWALK, **options
    ).to_pylist()
    return rows


@pytest.fixture(scope="session")
def two_gauges(shared_data: Path) -> tuple[pa.Table, pa.Table, pa.Table]:
    folder = shared_data / "usgs_nwm_two_gauges"
    names = ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
    primary, secondary, crosswalk = (pq.read_table(folder / f"{name}.parquet") for name in names)
    return primary, secondary, crosswalk


@pytest.fixture(scope="session")
def helene(shared_data: Path) -> tuple[pa.Table, pa.Table, pa.Table]:
    folder = shared_data / "usgs_nwm_hefs_examples" / "fetch_nwm_streamflow"
    names = ("usgs_timeseries", "nwm_forecasts", "location_crosswalks")
    primary, secondary, crosswalk = (pq.read_table(folder / f"{name}.parquet") for name in names)
    return primary, secondary, crosswalk


def test_by_hand() -> None:
    """o = 1, 2, 3, 4; s = 2, 2, 4, 6. Means 2.5, 3.5; variances 5/4, 11/4; covariance 7/4."""
    (row,) = compare([1, 2, 3, 4], [2, 2, 4, 6])
    r = 1.75 / math.sqrt(1.25 * 2.75)
    alpha, beta = math.sqrt(2.75 / 1.25), 3.5 / 2.5
    assert row["count"] == 4
    assert row["pearson_r"] == pytest.approx(r, rel=1e-14)
    assert row["rmse"] == pytest.approx(math.sqrt(6 / 4), rel=1e-14)
    assert row["relative_bias"] == pytest.approx(0.4, rel=1e-14)
    assert row["nse"] == pytest.approx(1 - 6 / 5, rel=1e-14)
    kge = 1 - math.sqrt((r - 1) ** 2 + (alpha - 1) ** 2 + (beta - 1) ** 2)
    assert row["kge"] == pytest.approx(kge, rel=1e-14)
    kge_2012 = 1 - math.sqrt((r - 1) ** 2 + (alpha / beta - 1) ** 2 + (beta - 1) ** 2)
    assert row["kge_2012"] == pytest.approx(kge_2012, rel=1e-14)


def test_published_figures_of_a_real_gauge(
    two_gauges: tuple[pa.Table, pa.Table, pa.Table],
) -> None:
    """Twelve years of Steamboat Creek near Glide, Oregon, against the NWM 3.0 retrospective."""
    rows = metrics.evaluate(*two_gauges).to_pylist()
    assert sum(row["count"] for row in rows) == 200_350
    row = next(row for row in rows if row["primary_location_id"] == "usgs-14316700")
    assert row["kge"] == pytest.approx(0.739879, abs=5e-7)
    assert row["kge_2012"] == pytest.approx(0.765085, abs=5e-7)
    assert row["nse"] == pytest.approx(0.568308, abs=5e-7)
    assert row["rmse"] == pytest.approx(20.0275, abs=5e-5)
    assert row["pearson_r"] == pytest.approx(0.837162, abs=5e-7)


def test_against_an_oracle(two_gauges: tuple[pa.Table, pa.Table, pa.Table]) -> None:
    pairs = metrics.joined(*two_gauges).to_pandas()
    for row in metrics.evaluate(*two_gauges).to_pylist():
        mine = pairs[pairs["primary_location_id"] == row["primary_location_id"]]
        observed = xr.DataArray(mine["primary_value"].to_numpy(), dims="time")
        simulated = xr.DataArray(mine["secondary_value"].to_numpy(), dims="time")
        assert row["count"] == len(mine)
        check_against_oracle(row, observed, simulated)


@unhurried
@given(SERIES)
def test_against_an_oracle_on_any_series(pairs: list[tuple[float, float]]) -> None:
    observed, simulated = [o for o, _ in pairs], [s for _, s in pairs]
    # The oracle divides by the rounding error of a series that hardly varies; we have our own test.
    assume(min(observed) * 1.001 < max(observed))
    assume(min(simulated) * 1.001 < max(simulated))
    (row,) = compare(observed, simulated)
    check_against_oracle(
        row, xr.DataArray(observed, dims="time"), xr.DataArray(simulated, dims="time")
    )


def check_against_oracle(row: dict[str, Any], o: xr.DataArray, s: xr.DataArray) -> None:
    expected = {
        "kge": oracle.kge(s, o),
        "nse": oracle.nse(s, o),
        "rmse": oracle.rmse(s, o),
        "pearson_r": oracle.correlation.pearsonr(s, o),
        "relative_bias": oracle.pbias(s, o) / 100,
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(float(value), rel=1e-8, abs=1e-9), name


@unhurried
@given(SERIES)
def test_laws(pairs: list[tuple[float, float]]) -> None:
    """Every metric lies in its range; a perfect simulation reaches the perfect value."""
    observed = [o for o, _ in pairs]
    (row,) = compare(observed, [s for _, s in pairs])
    (perfect,) = compare(observed, observed)
    for name, metric in metrics.METRICS.items():
        low, high = metric.range
        assert row[name] is None or low - 1e-12 <= row[name] <= high + 1e-12
        if min(observed) < max(observed):
            assert perfect[name] == pytest.approx(metric.perfect, abs=1e-6)


@unhurried
@given(SERIES, st.floats(0.1, 10))
def test_units_do_not_change_a_dimensionless_metric(
    pairs: list[tuple[float, float]], factor: float
) -> None:
    observed, simulated = [o for o, _ in pairs], [s for _, s in pairs]
    assume(min(observed) * 1.001 < max(observed))
    assume(min(simulated) * 1.001 < max(simulated))
    (row,) = compare(observed, simulated)
    (other,) = compare([o * factor for o in observed], [s * factor for s in simulated])
    for name, metric in metrics.METRICS.items():
        scale = factor if metric.has_unit else 1
        assert other[name] == pytest.approx(row[name] * scale, rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_pairs_with_a_missing_value_are_dropped(missing: float | None) -> None:
    (row,) = compare([1, 2, missing, 4, 9, 16], [2, 2, 5, missing, 9, 12])
    (same,) = compare([1, 2, 9, 16], [2, 2, 9, 12])
    assert row == same


@pytest.mark.parametrize(
    ("observed", "simulated", "defined"),
    [
        ([5, 5, 5], [4, 5, 7], {"rmse", "relative_bias"}),
        ([0.1] * 7, [0.1] * 7, {"rmse", "relative_bias"}),
        ([4, 5, 7], [5, 5, 5], {"rmse", "relative_bias", "nse"}),
        ([3], [4], {"rmse", "relative_bias"}),
        ([0, 0, 0], [1, 2, 3], {"rmse"}),
        ([-1, 0, 1], [1, 2, 4], {"rmse", "nse", "pearson_r"}),
    ],
    ids=["constant", "equal constants", "flat forecast", "one pair", "zeros", "mean of zero"],
)
def test_what_is_undefined_is_null(
    observed: list[float], simulated: list[float], defined: set[str]
) -> None:
    (row,) = compare(observed, simulated)
    assert {name for name in metrics.METRICS if row[name] is not None} == defined


@pytest.mark.parametrize(("observed", "simulated"), [([], []), ([None, None], [1, 2])])
def test_no_pairs_give_no_rows(observed: list[Any], simulated: list[Any]) -> None:
    assert compare(observed, simulated, lead_time_bin=24) == []


def test_a_second_time_gives_the_same_bits(
    two_gauges: tuple[pa.Table, pa.Table, pa.Table],
) -> None:
    first = metrics.evaluate(*two_gauges)
    assert all(metrics.evaluate(*two_gauges).equals(first) for _ in range(3))


def test_order_of_rows_does_not_matter(helene: tuple[pa.Table, pa.Table, pa.Table]) -> None:
    primary, secondary, crosswalk = helene
    backwards = secondary.take(pa.array(range(len(secondary) - 1, -1, -1)))
    ours = metrics.evaluate(primary, secondary, crosswalk).to_pylist()[0]
    theirs = metrics.evaluate(primary, backwards, crosswalk).to_pylist()[0]
    assert theirs == {k: pytest.approx(v, rel=1e-12) if k in metrics.METRICS else v
                      for k, v in ours.items()}  # fmt: skip


def test_lead_time_bins_of_real_forecasts(helene: tuple[pa.Table, pa.Table, pa.Table]) -> None:
    """Bins partition the pairs; the row of all lead times has no bin; a day is [0, 24)."""
    rows = metrics.evaluate(*helene, lead_time_bin=24).to_pylist()
    everything, *bins = rows
    assert everything["lead_time_bin"] is None
    assert [row["lead_time_bin"] for row in bins] == [0, 24, 48, 72, 96, 120]
    assert sum(row["count"] for row in bins) == everything["count"] == 444
    pairs = metrics.joined(*helene).to_pandas()
    assert bins[0]["count"] == (pairs["lead_time"] < 24).sum() == 4 * 23
    assert pairs["lead_time"].min() == 1
    (alone,) = metrics.evaluate(*helene).to_pylist()
    assert alone["kge"] == pytest.approx(everything["kge"], rel=1e-12)


def test_a_series_that_is_no_forecast_has_no_bins() -> None:
    (row,) = compare([1, 2, 4], [2, 2, 3], lead_time_bin=6)
    assert row["lead_time_bin"] is None


def test_members_are_pooled_unless_named() -> None:
    primary = series([1, 2, 4], GAUGE)
    members = [
        series(values, REACH, member=pa.array([name] * 3))
        for name, values in (("1", [1, 2, 4]), ("2", [2, 2, 3]))
    ]
    secondary = pa.concat_tables(members)
    (pooled,) = metrics.evaluate(primary, secondary, CROSSWALK).to_pylist()
    assert pooled["count"] == 6
    by = ("primary_location_id", "member")
    first, second = metrics.evaluate(primary, secondary, CROSSWALK, ["kge"], by).to_pylist()
    assert (first["member"], first["kge"]) == ("1", pytest.approx(1))
    assert second["count"] == 3
    assert second["kge"] < 1


def test_float32_is_counted_in_float64() -> None:
    primary = series([1e8, 1e8 + 8, 1e8 + 16], GAUGE)
    single = primary["value"].cast(pa.float32())
    secondary = series([0, 0, 0], REACH, value=single)
    table = metrics.evaluate(primary, secondary, CROSSWALK)
    assert table["rmse"].type == pa.float64()
    assert table["kge"].to_pylist() == [pytest.approx(1)]


def test_units_must_match() -> None:
    secondary = series([1, 2], REACH, unit_name=pa.array(["ft^3/s"] * 2))
    with pytest.raises(InvalidInput, match=r"m\^3/s in primary but in ft\^3/s in secondary"):
        metrics.evaluate(series([1, 2], GAUGE), secondary, CROSSWALK)


def test_two_primary_configurations_are_refused() -> None:
    other = pa.array(["usgs_observations", "lake_observations"])
    primary = series([1, 2], GAUGE, configuration_name=other)
    with pytest.raises(InvalidInput, match="filter it to one"):
        metrics.evaluate(primary, series([1, 2], REACH), CROSSWALK)


def test_mistakes_are_named() -> None:
    with pytest.raises(NotFound, match="did you mean 'kge'"):
        compare([1, 2], [1, 2], metrics=["kgee"])
    with pytest.raises(NotFound, match="did you mean 'member'"):
        compare([1, 2], [1, 2], by=["members"])
    with pytest.raises(InvalidInput, match="at least 1 hour"):
        compare([1, 2], [1, 2], lead_time_bin=0)
    primary = series([1], GAUGE).drop_columns("unit_name")
    with pytest.raises(InvalidInput, match="primary lacks unit_name"):
        metrics.evaluate(primary, series([1], REACH), CROSSWALK)


def test_to_long_keeps_every_figure(helene: tuple[pa.Table, pa.Table, pa.Table]) -> None:
    wide = metrics.evaluate(*helene, lead_time_bin=24)
    long = metrics.to_long(wide).to_pylist()
    assert len(long) == wide.num_rows * len(metrics.METRICS)
    found = {(row["lead_time_bin"], row["metric_name"]): row for row in long}
    for row in wide.to_pylist():
        for name in metrics.METRICS:
            assert found[row["lead_time_bin"], name]["value"] == row[name]
            assert found[row["lead_time_bin"], name]["count"] == row["count"]


def test_to_long_wants_the_groups_of_the_warehouse() -> None:
    primary, secondary = series([1, 2], GAUGE), series([1, 2], REACH)
    wide = metrics.evaluate(primary, secondary, CROSSWALK, by=["configuration_name"])
    with pytest.raises(InvalidInput, match="expected the columns primary_location_id"):
        metrics.to_long(wide)


def test_every_metric_says_what_it_is() -> None:
    for name, metric in metrics.METRICS.items():
        assert metric.name == name
        assert metric.title
        assert metric.formula
        assert metric.needs
        assert metric.doi.startswith("10.")
        assert metric.range[0] <= metric.perfect <= metric.range[1]
