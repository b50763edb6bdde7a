"""Metrics of single values and signatures: by hand, by law, and what each odd series gives."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hourly import START, series
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg import metrics
from thalweg.errors import InvalidInput, NotFound
from thalweg.metrics import METRICS

#: Metrics that need neither thresholds nor members.
PLAIN = [n for n, m in METRICS.items() if m.kind in ("deterministic", "signature")]
GAUGE, REACH = "usgs-03171000", "nwm30-6884666"
CROSSWALK = pa.table({"primary_location_id": [GAUGE], "secondary_location_id": [REACH]})
# Each example starts a DuckDB, which is slow on a busy machine.
unhurried = settings(deadline=None, max_examples=10)
Pairs: TypeAlias = list[tuple[float, float]]
SERIES = st.lists(st.tuples(st.floats(0.01, 1e5), st.floats(0.01, 1e5)), min_size=3, max_size=40)


def compare_each(many: list[Pairs]) -> list[dict[str, Any]]:
    """All metrics of many short series, each at a location of its own."""
    names = [f"{i:03}" for i in range(len(many))]
    sides = [
        pa.concat_tables(
            [series([], "")]
            + [series([pair[k] for pair in pairs], n) for n, pairs in zip(names, many, strict=True)]
        )
        for k in (0, 1)
    ]
    crosswalk = pa.table({"primary_location_id": names, "secondary_location_id": names})
    rows: list[dict[str, Any]] = metrics.evaluate(*sides, crosswalk, PLAIN).to_pylist()
    return rows


def varies(values: Iterable[float]) -> bool:
    """Whether a series varies by more than rounding makes of it."""
    found = list(values)
    return min(found) * 1.001 < max(found)


def compare(observed: list[Any], simulated: list[Any], **options: Any) -> list[dict[str, Any]]:
    """All metrics of two short series that need neither thresholds nor members."""
    options.setdefault("metrics", PLAIN)
    primary, secondary = series(observed, GAUGE), series(simulated, REACH)
    rows: list[dict[str, Any]] = metrics.evaluate(
        primary, secondary, CROSSWALK, **options
    ).to_pylist()
    return rows


@pytest.fixture(scope="session")
def helene(shared_data: Path) -> tuple[pa.Table, pa.Table, pa.Table]:
    folder = shared_data / "usgs_nwm_hefs_examples" / "fetch_nwm_streamflow"
    names = ("usgs_timeseries", "nwm_forecasts", "location_crosswalks")
    primary, secondary, crosswalk = (pq.read_table(folder / f"{name}.parquet") for name in names)
    return in_utc(primary), in_utc(secondary), crosswalk


def in_utc(table: pa.Table) -> pa.Table:
    """The table with its times, which are in UTC, saying so."""
    for i, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            times = table[field.name].cast(pa.timestamp("us", "UTC"))
            table = table.set_column(i, field.name, times)
    return table


def test_by_hand() -> None:
    """o = 1, 2, 3, 4; s = 2, 2, 4, 6. Means 2.5, 3.5; variances 5/4, 11/4; covariance 7/4."""
    (row,) = compare([1, 2, 3, 4], [2, 2, 4, 6])
    r, rank_r = 1.75 / math.sqrt(1.25 * 2.75), math.sqrt(0.9)
    alpha, beta, bias = math.sqrt(2.2), 1.4, 1 / math.sqrt(1.25)
    logs = [(math.log(o + 0.025), math.log(s + 0.025)) for o, s in ((1, 2), (2, 2), (3, 4), (4, 6))]
    middle = sum(o for o, _ in logs) / 4
    noon = START.timestamp() + 3 * 3600
    sides = {
        "primary": ([1, 2, 3, 4], 1.25, 3.01 / 2.02),
        "secondary": ([2, 2, 4, 6], 2.75, 4.02 / 2.04),
    }
    expected = {
        "kge": 1 - math.hypot(r - 1, alpha - 1, beta - 1),
        "kge_2012": 1 - math.hypot(r - 1, alpha / beta - 1, beta - 1),
        "kge_2021": 1 - math.hypot(r - 1, alpha - 1, bias),
        # sorted shares: 1/10, 2/10, 3/10, 4/10 and 1/7, 1/7, 2/7, 3/7, together 1/7 apart
        "kge_non_parametric": 1 - math.hypot(rank_r - 1, 13 / 14 - 1, beta - 1),
        "kge_alpha": alpha,
        "kge_beta": beta,
        "kge_gamma": alpha / beta,
        "kge_bias_2021": bias,
        "kge_alpha_non_parametric": 13 / 14,
        "nse": -0.2,
        "nse_normalized": 1 / 2.2,
        "nse_log": 1 - sum((s - o) ** 2 for o, s in logs) / sum((o - middle) ** 2 for o, _ in logs),
        "mean_error": 1,
        "mean_absolute_error": 1,
        "mean_square_error": 1.5,
        "rmse": math.sqrt(1.5),
        "rsr": math.sqrt(1.2),
        "mean_absolute_relative_error": 0.4,
        "relative_bias": 0.4,
        "percent_bias": 40,
        "multiplicative_bias": 1.4,
        "variability_ratio": alpha,
        "relative_mean": 1.4,
        "relative_median": 1.2,
        "relative_minimum": 2,
        "relative_maximum": 1.5,
        "relative_standard_deviation": alpha,
        "pearson_r": r,
        "spearman_r": rank_r,  # ranks 1.5, 1.5, 3, 4: covariance and variance 9/8
        "r_squared": r * r,
        "max_value_delta": 2,
        "max_value_time_delta": 0,
        "annual_peak_relative_bias": 0.5,
    }
    for side, (values, variance, ratio) in sides.items():
        expected |= {
            f"{side}_count": 4,
            f"{side}_minimum": min(values),
            f"{side}_maximum": max(values),
            f"{side}_average": sum(values) / 4,
            f"{side}_sum": sum(values),
            f"{side}_variance": variance,
            f"{side}_max_value_time": noon,
            f"{side}_flow_duration_curve_slope": math.log(ratio) / 0.33,
            f"{side}_centre_of_timing": None,
            f"{side}_standard_deviation_of_timing": None,
            f"{side}_baseflow_index": None,
        }
    assert set(expected) == set(PLAIN)
    for name, value in expected.items():
        assert row[name] == (value if value is None else pytest.approx(value, rel=1e-13)), name


def daily(start: dt.date, observed: list[float], simulated: list[float]) -> dict[str, Any]:
    """All metrics of two daily series."""
    times = pa.array(
        [dt.datetime.combine(start, dt.time(), dt.UTC) + dt.timedelta(days=i)
         for i in range(len(observed))], pa.timestamp("us", "UTC"),
    )  # fmt: skip
    primary = series(observed, GAUGE, value_time=times)
    secondary = series(simulated, REACH, value_time=times)
    (row,) = metrics.evaluate(primary, secondary, CROSSWALK, PLAIN).to_pylist()
    return row


def test_time_of_the_greatest_value_is_the_first_of_equals() -> None:
    (row,) = compare([1, 5, 5, 2], [3, 3, 1, 4])
    assert row["primary_max_value_time"] == (START + dt.timedelta(hours=1)).timestamp()
    assert row["max_value_time_delta"] == 2


def test_annual_peaks_are_those_of_calendar_years() -> None:
    """Peaks 10 and 20 observed, 11 and 25 forecast; both years lie in one water year."""
    row = daily(dt.date(2023, 12, 30), [10, 1, 2, 20], [9, 11, 25, 3])
    assert row["annual_peak_relative_bias"] == pytest.approx(6 / 30, rel=1e-14)


def test_centre_of_timing_of_whole_water_years() -> None:
    """Constant flow: the middle of 365 days. September before, of another water year, is no part.

    The forecast runs in one half of the year at 1 and in the other at 3 (days 182 to 364).
    """
    forecast = [9.0] * 30 + [1.0] * 182 + [3.0] * 183
    row = daily(dt.date(2022, 9, 1), [5.0] * 395, forecast)
    assert row["primary_centre_of_timing"] == pytest.approx(182, rel=1e-14)
    name = "primary_standard_deviation_of_timing"
    assert row[name] == pytest.approx(math.sqrt((365**2 - 1) / 12), rel=1e-13)
    tide = [1.5 if 120 <= i < 304 else -1.0 for i in range(395)]
    assert daily(dt.date(2022, 9, 1), tide, forecast)[name] is None  # it flows in no one direction
    centre = (sum(range(182)) + 3 * sum(range(182, 365))) / (182 + 3 * 183)
    assert row["secondary_centre_of_timing"] == pytest.approx(centre, rel=1e-14)
    assert daily(dt.date(2022, 9, 1), [5.0] * 300, [5.0] * 300)["primary_centre_of_timing"] is None


def test_baseflow_index() -> None:
    """A flood on a baseflow of 10, that is 0.9 of none of its neighbours: 15 days from 10 to 10."""
    flood = [10, 12, 14, 16, 18, 20, 30, 40, 30, 20, 18, 16, 14, 12, 10]
    flows = [11.0] * 5 + flood + [11.0] * 5
    row = daily(dt.date(2023, 1, 1), flows, [5.0] * 25)
    assert row["primary_baseflow_index"] == pytest.approx(150 / 280, rel=1e-14)
    assert row["secondary_baseflow_index"] == 1
    falling = [2.0**-i for i in range(25)]
    assert daily(dt.date(2023, 1, 1), falling, falling)["primary_baseflow_index"] is None


def test_published_figures_of_a_real_gauge(
    two_gauges: tuple[pa.Table, pa.Table, pa.Table],
) -> None:
    """Twelve years of Steamboat Creek near Glide, Oregon, against the NWM 3.0 retrospective."""
    names = [*metrics.DEFAULT, "kge_2021"]
    rows = metrics.evaluate(*two_gauges, names).to_pylist()
    assert sum(row["count"] for row in rows) == 200_350
    row = next(row for row in rows if row["primary_location_id"] == "usgs-14316700")
    assert row["kge"] == pytest.approx(0.739879, abs=5e-7)
    assert row["kge_2012"] == pytest.approx(0.765085, abs=5e-7)
    assert row["kge_2021"] == pytest.approx(0.740860, abs=5e-7)
    assert row["nse"] == pytest.approx(0.568308, abs=5e-7)
    assert row["rmse"] == pytest.approx(20.0275, abs=5e-5)
    assert row["pearson_r"] == pytest.approx(0.837162, abs=5e-7)


@unhurried
@given(st.lists(SERIES, min_size=1, max_size=8))
def test_laws(many: list[Pairs]) -> None:
    """Every metric lies in its range; a perfect simulation reaches the perfect value."""
    rows = compare_each(many + [[(o, o) for o, _ in pairs] for pairs in many])
    for row in rows:
        for name in PLAIN:
            low, high = METRICS[name].range
            assert row[name] is None or low - 1e-12 <= row[name] <= high + 1e-12, name
    for pairs, row in zip(many, rows[len(many) :], strict=True):
        # Logarithms of values that are nearly the same are the same.
        for name in PLAIN if varies(o for o, _ in pairs) else []:
            perfect = METRICS[name].perfect
            assert perfect is None or row[name] == pytest.approx(perfect, abs=1e-6), name


@unhurried
@given(st.lists(SERIES, min_size=1, max_size=8), st.integers(-10, 10))
def test_units_change_a_metric_as_they_should(many: list[Pairs], power: int) -> None:
    """A factor of a power of 2 rounds nothing, so that what was equal stays equal."""
    factor = 2.0**power
    many = [pairs for pairs in many if all(map(varies, zip(*pairs, strict=True)))]
    rows = compare_each(many + [[(o * factor, s * factor) for o, s in pairs] for pairs in many])
    for row, other in zip(rows[: len(many)], rows[len(many) :], strict=True):
        for name in PLAIN:
            has_unit, unit = METRICS[name].has_unit, METRICS[name].in_unit
            scale = factor ** (2 if "^2" in unit else 1) if has_unit else 1
            assert (row[name] is None) == (other[name] is None), name
            assert row[name] is None or other[name] == pytest.approx(
                row[name] * scale, rel=1e-6, abs=1e-9
            ), name


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_pairs_with_a_missing_value_are_dropped(missing: float | None) -> None:
    (row,) = compare([1, 2, missing, 4, 9, 16], [2, 2, 5, missing, 9, 12])
    (same,) = compare([1, 2, 9, 16], [2, 2, 9, 12])
    at = dict.fromkeys(("primary_max_value_time", "secondary_max_value_time"))
    assert row | at == same | at


#: Undefined in any series of a few hours.
LONG = {
    f"{side}_{name}" for side in ("primary", "secondary")
    for name in ("centre_of_timing", "standard_deviation_of_timing", "baseflow_index")
}  # fmt: skip
#: What divides by the mean of the observations, and by their deviation; what needs both to vary.
BY_MEAN = {
    "relative_bias", "percent_bias", "multiplicative_bias", "relative_mean", "kge_beta",
    "kge_alpha_non_parametric", "mean_absolute_relative_error", "kge_gamma", "kge", "kge_2012",
    "kge_non_parametric",
}  # fmt: skip
TOGETHER = {
    "pearson_r", "spearman_r", "r_squared", "kge", "kge_2012", "kge_2021", "kge_non_parametric",
}  # fmt: skip
BY_SPREAD = TOGETHER | {
    "nse", "nse_normalized", "nse_log", "rsr", "variability_ratio", "relative_standard_deviation",
    "kge_alpha", "kge_gamma", "kge_bias_2021",
}  # fmt: skip


@pytest.mark.parametrize(
    ("observed", "simulated", "undefined"),
    [
        ([5, 5, 5], [4, 5, 7], BY_SPREAD),
        ([0.1] * 7, [0.1] * 7, BY_SPREAD),
        ([4, 5, 7], [5, 5, 5], TOGETHER),
        ([3], [4], BY_SPREAD),
        (
            [0, 0, 0],
            [1, 2, 3],
            BY_SPREAD
            | BY_MEAN
            | {
                "relative_median",
                "relative_minimum",
                "relative_maximum",
                "annual_peak_relative_bias",
                "primary_flow_duration_curve_slope",
            },
        ),
        (
            [-1, 0, 1],
            [1, 2, 4],
            BY_MEAN | {"nse_log", "relative_median", "primary_flow_duration_curve_slope"},
        ),
        ([1, 2, 4], [-9, -9, -9], TOGETHER | {"nse_log", "secondary_flow_duration_curve_slope"}),
        (
            [1e200, 2e200, 4e200],
            [1, 2, 3],
            BY_SPREAD - {"spearman_r", "nse_log", "kge_non_parametric"}
            | {"mean_square_error", "rmse", "primary_variance"},
        ),
    ],
    ids=[
        "constant", "equal constants", "flat forecast", "one pair", "zeros", "mean of zero",
        "below zero", "beyond float64",
    ],
)  # fmt: skip
def test_what_is_undefined_is_null(
    observed: list[float], simulated: list[float], undefined: set[str]
) -> None:
    (row,) = compare(observed, simulated)
    assert {name for name in PLAIN if row[name] is None} == undefined | LONG


def test_a_flat_forecast_has_no_variability() -> None:
    (row,) = compare([4, 5, 7], [5, 5, 5])
    assert row["variability_ratio"] == row["kge_gamma"] == row["secondary_variance"] == 0


def test_logarithms_are_of_the_pairs_that_have_them() -> None:
    """As with the transform `log`: the same epsilon, and pairs without a logarithm left out."""
    observed, simulated = [3, 0, 4, 9, -2, 5], [2, 0, -8, 7, 1, 6]
    (row,) = compare(observed, simulated)
    (same,) = compare(observed, simulated, metrics=["nse"], transform="log")
    assert row["nse_log"] == pytest.approx(same["nse"], rel=1e-13)
    assert (row["count"], same["count"]) == (6, 4)


def test_a_time_that_is_there_twice_is_paired_twice() -> None:
    times = pa.array([START, START, START + dt.timedelta(hours=1)], pa.timestamp("us", "UTC"))
    primary = series([1, 3, 6], GAUGE, value_time=times)
    secondary = series([2, 4], REACH)
    (row,) = metrics.evaluate(primary, secondary, CROSSWALK, PLAIN).to_pylist()
    (same,) = compare([1, 3, 6], [2, 2, 4])
    for name in set(PLAIN) - LONG - {"primary_max_value_time", "secondary_max_value_time"}:
        assert row[name] == pytest.approx(same[name], rel=1e-13), name


def test_a_key_that_is_null_is_a_group() -> None:
    """Every relation is grouped and joined by keys that may be null, such as the member."""
    observed, simulated = [1, 4, 2, 8], [2, 3, 3, 9]
    (row,) = compare(observed, simulated, by=("primary_location_id", "member"))
    (same,) = compare(observed, simulated)
    assert {name: row[name] for name in PLAIN} == {name: same[name] for name in PLAIN}


@pytest.mark.parametrize(("observed", "simulated"), [([], []), ([None, None], [1, 2])])
def test_no_pairs_give_no_rows(observed: list[Any], simulated: list[Any]) -> None:
    assert compare(observed, simulated, lead_time_bin=24) == []


def test_a_second_time_gives_the_same_bits(
    two_gauges: tuple[pa.Table, pa.Table, pa.Table],
) -> None:
    first = metrics.evaluate(*two_gauges, PLAIN)
    assert metrics.evaluate(*two_gauges, PLAIN).equals(first)
    assert not any(math.isnan(row[n] or 0) for row in first.to_pylist() for n in PLAIN)


def test_order_of_rows_does_not_matter(helene: tuple[pa.Table, pa.Table, pa.Table]) -> None:
    primary, secondary, crosswalk = helene
    backwards = secondary.take(pa.array(range(len(secondary) - 1, -1, -1)))
    (ours,) = metrics.evaluate(primary, secondary, crosswalk, PLAIN).to_pylist()
    (theirs,) = metrics.evaluate(primary, backwards, crosswalk, PLAIN).to_pylist()
    assert theirs == {
        k: pytest.approx(v, rel=1e-11) if k in METRICS and v is not None else v
        for k, v in ours.items()
    }


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
    tables = primary, series([1, 2], REACH), CROSSWALK
    with pytest.raises(InvalidInput, match="choose one by primary_configuration"):
        metrics.evaluate(*tables)
    name: Any = {"primary_configuration": "lake_observations"}
    assert metrics.evaluate(*tables, **name)["count"].to_pylist() == [1]
    assert metrics.joined(*tables, **name)["primary_value"].to_pylist() == [2.0]
    assert set(metrics.flow_duration(*tables, **name)["primary_value"].to_pylist()) == {2.0}
    plain = series([1, 2], GAUGE)
    if "configuration_name" in plain.column_names:
        plain = plain.drop_columns("configuration_name")
    with pytest.raises(InvalidInput, match="primary lacks configuration_name"):
        metrics.evaluate(plain, *tables[1:], **name)


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
    assert len(long) == wide.num_rows * len(metrics.DEFAULT)
    found = {(row["lead_time_bin"], row["metric_name"]): row for row in long}
    for row in wide.to_pylist():
        for name in metrics.DEFAULT:
            assert found[row["lead_time_bin"], name]["value"] == row[name]
            assert found[row["lead_time_bin"], name]["count"] == row["count"]


def test_to_long_wants_the_groups_of_the_warehouse() -> None:
    primary, secondary = series([1, 2], GAUGE), series([1, 2], REACH)
    wide = metrics.evaluate(primary, secondary, CROSSWALK, by=["configuration_name"])
    with pytest.raises(InvalidInput, match="expected the columns primary_location_id"):
        metrics.to_long(wide)


def test_every_metric_says_what_it_is() -> None:
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.title
        assert metric.formula
        assert metric.sql
        assert metric.doi.startswith("10.")
        low, high = metric.range
        assert low < high
        assert metric.perfect is None or low <= metric.perfect <= high
