"""Bootstrap: repeatable, by theory, and what is drawn stays together."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from thalweg import metrics
from thalweg.errors import InvalidInput
from thalweg.metrics import Bootstrap, bootstrap

START = dt.datetime(2000, 10, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
CROSSWALK = pa.table({"primary_location_id": ["gauge"], "secondary_location_id": ["reach"]})
METHODS = ("circular", "stationary", "gumboot")
FIVE = ["kge", "nse", "rmse", "relative_bias", "pearson_r"]


def series(
    values: Any, location: str, step: dt.timedelta = DAY, repeat: int = 1, **columns: Any
) -> pa.Table:
    """Values of one location in steps of time, each time `repeat` times."""
    count = len(values)
    times = [START + (i // repeat) * step for i in range(count)]
    return pa.table(
        {
            "reference_time": pa.nulls(count, pa.timestamp("us", "UTC")),
            "value_time": pa.array(times, pa.timestamp("us", "UTC")),
            "value": pa.array(values, pa.float64()),
            "unit_name": pa.array(["m^3/s"] * count, pa.string()),
            "location_id": pa.array([location] * count, pa.string()),
            "configuration_name": pa.array(["nwm30_analysis_assim"] * count, pa.string()),
            "variable_name": pa.array(["streamflow_daily_mean"] * count, pa.string()),
        }
        | columns
    )


def errors(values: Any, how: Bootstrap, names: list[str] | None = None, **more: Any) -> Any:
    """The bootstrapped metrics of a forecast with these errors; observed is 10 always."""
    primary = series(np.full(len(values), 10.0), "gauge")
    secondary = series(10.0 + np.asarray(values), "reach")
    (row,) = metrics.evaluate(
        primary, secondary, CROSSWALK, names or ["mean_error"], bootstrap=how, **more
    ).to_pylist()
    return row


@pytest.fixture(scope="module")
def gauges(shared_data: Path) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Two years of both real gauges."""
    folder = shared_data / "usgs_nwm_two_gauges"
    names = ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
    primary, secondary, crosswalk = (pq.read_table(folder / f"{name}.parquet") for name in names)
    end = START + 730 * DAY
    return primary.filter(pc.field("value_time") < end), secondary, crosswalk


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_gives_the_same_whatever_else_is_asked(
    gauges: tuple[pa.Table, pa.Table, pa.Table], method: Any
) -> None:
    how = Bootstrap(method, replicates=20, seed=7)
    both = metrics.evaluate(*gauges, FIVE, bootstrap=how)
    again = metrics.evaluate(*gauges, FIVE, bootstrap=how)
    alone = metrics.evaluate(*gauges[:2], gauges[2].slice(0, 1), FIVE[:2], bootstrap=how)
    other = metrics.evaluate(*gauges, FIVE, bootstrap=Bootstrap(method, replicates=20, seed=8))
    assert both.equals(again)
    assert both.slice(1, 1).select(alone.column_names).equals(alone)
    plain = metrics.evaluate(*gauges, FIVE)
    assert both.select(plain.column_names).equals(plain)
    for row, next_seed in zip(both.to_pylist(), other.to_pylist(), strict=True):
        # Two years can be drawn in three ways only.
        assert method == "gumboot" or row["kge_p50"] != next_seed["kge_p50"]
        for name in FIVE:
            low, middle, high = (row[f"{name}_p{q}"] for q in (5, 50, 95))
            assert low < middle < high
            assert low - (high - low) < row[name] < high + (high - low)


def test_blocks_of_one_have_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(2, 3, 400)
    expected = values.std() / np.sqrt(len(values))
    for method in ("circular", "stationary"):
        row = errors(values, Bootstrap(method, replicates=4000, block=1, quantiles=(0.16, 0.84)))
        assert list(row)[-3:] == ["mean_error", "mean_error_p16", "mean_error_p84"]
        half = (row["mean_error_p84"] - row["mean_error_p16"]) / 2
        assert half == pytest.approx(0.9945 * expected, rel=0.05)
        assert row["mean_error_p16"] + half == pytest.approx(values.mean(), abs=0.1 * expected)


def test_blocks_of_correlated_errors_tell_that_they_are_less_certain() -> None:
    """Of a first-order autoregression with coefficient 0.8 the mean is three times less certain."""
    noise = np.random.default_rng(2).normal(size=3000)
    values = np.zeros(3000)
    for i in range(1, 3000):
        values[i] = 0.8 * values[i - 1] + noise[i]
    true = 1 / (1 - 0.8) / np.sqrt(3000)
    for method in ("circular", "stationary"):
        row = errors(values, Bootstrap(method, replicates=1000, quantiles=(0.16, 0.84)))
        single = errors(values, Bootstrap(method, 1000, block=1, quantiles=(0.16, 0.84)))
        half = (row["mean_error_p84"] - row["mean_error_p16"]) / 2
        assert half == pytest.approx(true, rel=0.25)
        assert half > 2 * (single["mean_error_p84"] - single["mean_error_p16"]) / 2
    # Of Politis and White: (2 g^2 / D n)^(1/3), with sums of the autocovariances 0.8^k.
    slope, long_run = 2 * 0.8 / 0.2**2, 1.8 / 0.2
    best = (2 * slope**2 / (4 / 3 * long_run**2) * 3000) ** (1 / 3)
    assert metrics.block_length(values) == pytest.approx(best, rel=0.35)
    assert metrics.block_length(values, "stationary") < metrics.block_length(values)
    assert metrics.block_length(noise) <= 3
    assert metrics.block_length(np.ones(50)) == metrics.block_length(values[:2]) == 1


def test_errors_of_flow_are_remembered_for_weeks(shared_data: Path) -> None:
    """Of twelve years of hours at Steamboat Creek, as the documentation tells."""
    folder = shared_data / "usgs_nwm_two_gauges"
    names = ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
    tables = [pq.read_table(folder / f"{name}.parquet") for name in names]
    pairs = metrics.joined(*tables).filter(pc.field("primary_location_id") == "usgs-14316700")
    found = pairs["secondary_value"].to_numpy() - pairs["primary_value"].to_numpy()
    assert len(found) == 100_072
    assert metrics.block_length(found) == 810


def test_the_truth_is_covered_about_as_often_as_said() -> None:
    """90 % intervals of the mean of 150 independent errors, 60 times."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        row = errors(generator.normal(1, 1, 150), Bootstrap(replicates=300, block=1))
        covered += row["mean_error_p5"] <= 1 <= row["mean_error_p95"]
    assert 48 <= covered <= 59


def test_the_gumboot_draws_whole_water_years() -> None:
    """Errors of 1, 10, 100 and 1000 in four water years: a sum tells how often each was drawn."""
    year = [(START + i * DAY + dt.timedelta(days=92)).year - 2001 for i in range(1461)]
    values = [10.0**y for y in year]
    quantiles = tuple(i / 200 for i in range(201))
    row = errors(values, Bootstrap("gumboot", replicates=201, quantiles=quantiles))
    days = [year.count(y) for y in range(4)]
    possible = []
    for a in range(5):
        for b in range(5 - a):
            for c in range(5 - a - b):
                drawn = (a, b, c, 4 - a - b - c)
                counts = np.array(drawn) * days
                possible.append(counts @ 10.0 ** np.arange(4) / counts.sum())
    found = [row[name] for name in row if name.startswith("mean_error_p")]
    assert len(found) == 201
    assert all(np.isclose(possible, each, rtol=1e-9).any() for each in found)
    assert len({round(each, 6) for each in found}) > 10


def test_years_are_drawn_into_the_places_of_years() -> None:
    """Each has its peak in January, twice as high in the forecast, whichever years are drawn."""
    flow = [100.0 if (START + i * DAY).timetuple().tm_yday == 15 else 1.0 for i in range(1461)]
    primary, secondary = series(flow, "gauge"), series([2 * f for f in flow], "reach")
    names = ["annual_peak_relative_bias", "primary_centre_of_timing", "baseflow_index"]
    names = [name for name in names if name in metrics.METRICS]
    (row,) = metrics.evaluate(
        primary, secondary, CROSSWALK, names, bootstrap=Bootstrap("gumboot", replicates=50)
    ).to_pylist()
    assert row["annual_peak_relative_bias_p5"] == row["annual_peak_relative_bias_p95"] == 1.0


def test_times_of_drawn_series_are_distinct() -> None:
    rows = metrics.joined(
        series(np.arange(1461.0), "gauge"), series(np.arange(1461.0), "reach"), CROSSWALK
    )
    for method in METHODS:
        how = Bootstrap(method, replicates=5, block=None if method == "gumboot" else 30)
        drawn = bootstrap._samples(
            how, rows, ["value_time", "primary_value"], np.random.default_rng(0)
        )
        table = pa.concat_tables(drawn)
        counts = table.group_by(["replicate", "value_time"]).aggregate([([], "count_all")])
        assert pc.max(counts["count_all"]).as_py() == 1
        assert len(set(table["replicate"].to_pylist())) == 5


def test_members_of_a_forecast_stay_together() -> None:
    """Three members a time: a replicate in which members were mixed would have another CRPS."""
    observed = np.zeros(40)
    members = np.tile([-1.0, 0.0, 1.0], 40)
    secondary = series(
        members, "reach", repeat=3, member=pa.array(["1", "2", "3"] * 40, pa.string()),
        reference_time=pa.array([START] * 120, pa.timestamp("us", "UTC")),
    )  # fmt: skip
    for method in ("circular", "stationary"):
        how = Bootstrap(method, replicates=30, block=4)
        (row,) = metrics.evaluate(
            series(observed, "gauge"), secondary, CROSSWALK, ["crps_ensemble"], bootstrap=how
        ).to_pylist()
        assert row["count"] == 120
        assert row["crps_ensemble_p5"] == pytest.approx(2 / 9)
        assert row["crps_ensemble_p95"] == pytest.approx(2 / 9)


def test_all_metrics_can_be_bootstrapped() -> None:
    """With thresholds, lead times and members."""
    generator = np.random.default_rng(5)
    members = generator.gamma(2, 10, 800 * 2)
    secondary = series(
        members, "reach", repeat=2, member=pa.array(["1", "2"] * 800, pa.string()),
        reference_time=pa.array([START] * 1600, pa.timestamp("us", "UTC")),
    )  # fmt: skip
    how = Bootstrap(replicates=3, block=40)
    rows = metrics.evaluate(
        series(generator.gamma(2, 10, 800), "gauge"), secondary, CROSSWALK, list(metrics.METRICS),
        bootstrap=how, thresholds={"high": "75%"}, lead_time_bin=24 * 300,
    ).to_pylist()  # fmt: skip
    assert [row["lead_time_bin"] for row in rows] == [None, 0, 7200, 14400]
    for name in metrics.METRICS:
        assert (rows[0][name] is None) == (rows[0][f"{name}_p50"] is None), name
        if rows[0][name] is not None:
            assert rows[0][f"{name}_p5"] <= rows[0][f"{name}_p50"] <= rows[0][f"{name}_p95"]


def test_too_short_is_no_interval() -> None:
    assert errors([1.0], Bootstrap())["mean_error_p50"] is None
    assert errors([1.0, 2.0, 3.0], Bootstrap(block=2))["mean_error_p50"] is None
    assert errors([1.0, 2.0, 3.0, 4.0], Bootstrap(block=2))["mean_error_p50"] is not None
    assert errors([1.0] * 300, Bootstrap("gumboot"))["mean_error_p50"] is None
    few = errors([1.0, 2.0, 3.0, 4.0], Bootstrap(block=1), minimum=5)
    assert few["mean_error"] is few["mean_error_p50"] is None
    # Constant observations have no KGE, nor has any series drawn out of them.
    assert errors([1.0, 2.0, 3.0, 4.0], Bootstrap(block=1), ["kge"])["kge_p50"] is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"method": "cirular"}, "did you mean 'circular'"),
        ({"replicates": 0}, "at least 1 replicate"),
        ({"seed": -1}, "seed of at least 0"),
        ({"block": 0}, "at least 1"),
        ({"method": "gumboot", "block": 3}, "whole water years"),
        ({"quantiles": (5,)}, "0 to 1"),
        ({"quantiles": ()}, "0 to 1"),
    ],
)
def test_what_makes_no_sense_is_said(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        Bootstrap(**wrong)


def ensemble(times: int, members: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """Observations, and ensembles of which half the members forecast the observed value."""
    generator = np.random.default_rng(seed)
    observed = generator.gamma(2, 10, times).round()
    drawn = generator.gamma(2, 10, (times, members)).round()
    drawn[:, : members // 2] = observed[:, None]
    names = pa.array([str(i) for i in range(members)] * times, pa.string())
    issued = pa.array([START] * times * members, pa.timestamp("us", "UTC"))
    secondary = series(
        drawn.ravel(), "reach", repeat=members, member=names, reference_time=issued
    )  # fmt: skip
    return series(observed, "gauge"), secondary


CURVES: dict[str, tuple[Any, list[str], list[str]]] = {
    "roc": (
        lambda *a, **o: metrics.roc(*a, thresholds={"high": 20.0}, **o),
        ["probability"], ["probability_of_detection", "probability_of_false_detection"],
    ),
    "reliability": (
        lambda *a, **o: metrics.reliability(*a, thresholds={"high": 20.0}, **o),
        ["probability"], ["observed_frequency"],
    ),
    "rank_histogram": (metrics.rank_histogram, ["members", "rank"], ["frequency"]),
    "flow_duration": (
        metrics.flow_duration, ["exceedance"], ["primary_value", "secondary_value"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CURVES)
def test_curves_of_the_drawn_series_by_themselves(name: str) -> None:
    """The bounds are the quantiles of the curves of the drawn series, each computed alone."""
    curve, along, judged = CURVES[name]
    primary, secondary = ensemble(30, 5, seed=6)
    how = Bootstrap("stationary", replicates=20, block=2, seed=3)
    found = curve(primary, secondary, CROSSWALK, bootstrap=how).to_pandas()
    plain = curve(primary, secondary, CROSSWALK).to_pandas()
    assert found[plain.columns].equals(plain)

    pairs = metrics.joined(primary, secondary, CROSSWALK).sort_by(
        [(column, "ascending") for column in bootstrap.IN_TIME]
    )
    key = {c: plain[c].iloc[0] for c in ("primary_location_id", "configuration_name")}
    key |= {"threshold": "high"} if "threshold" in plain else {}
    key |= {"lead_time_bin": None, "variable_name": "streamflow_daily_mean", "unit_name": "m^3/s"}
    columns = ["value_time", "primary_value", "secondary_value", "member"]
    (drawn,) = bootstrap._samples(how, pairs, columns, bootstrap._generator(3, key))
    alone: dict[tuple[Any, ...], list[Any]] = {}
    for replicate in range(20):
        rows = drawn.filter(pc.field("replicate") == replicate)
        sides = [
            rows.rename_columns({f"{side}_value": "value"})
            .append_column("location_id", pa.array([place] * len(rows), pa.string()))
            .append_column("unit_name", pa.array(["m^3/s"] * len(rows), pa.string()))
            .append_column("variable_name", pa.array([key["variable_name"]] * len(rows)))
            .append_column("configuration_name", pa.array([key["configuration_name"]] * len(rows)))
            .append_column("reference_time", pa.array([START] * len(rows), rows["value_time"].type))
            for side, place in (("primary", "gauge"), ("secondary", "reach"))
        ]
        once = sides[0].filter(pc.field("member") == "0")
        of = curve(once.drop_columns("configuration_name"), sides[1], CROSSWALK).to_pandas()
        if name == "roc":  # a level that was not forecast warns as the next one above it
            of = of.fillna({"probability": 2.0}).set_index("probability").sort_index()
            of = of.reindex(plain["probability"].fillna(2.0), method="bfill").reset_index()
        for _, row in of.iterrows():
            place = tuple(row[along])
            alone.setdefault(place, []).append(row[judged].astype(float))
    for _, row in found.iterrows():
        values = alone[tuple(row[along].fillna(2.0))]
        for column in judged:
            each = [value[column] for value in values if not np.isnan(value[column])]
            for quantile, bound in zip(how.quantiles, how.columns(column), strict=True):
                assert row[bound] == pytest.approx(np.quantile(each, quantile)), (column, row)


def test_bins_of_a_reliability_diagram_keep_their_bounds() -> None:
    primary, secondary = ensemble(60, 10, seed=7)
    found = metrics.reliability(
        primary, secondary, CROSSWALK, bins=4, thresholds={"high": 20.0},
        bootstrap=Bootstrap(replicates=60, block=1),
    ).to_pylist()  # fmt: skip
    assert len(found) == 4
    for row in found:
        low, high = row["observed_frequency_p5"], row["observed_frequency_p95"]
        assert low <= row["observed_frequency"] <= high
    assert any(row["observed_frequency_p5"] < row["observed_frequency_p95"] for row in found)


@pytest.mark.parametrize("method", METHODS)
def test_a_forecast_and_its_reference_are_drawn_together(method: Any) -> None:
    """Half the error of the reference at each time: half, whichever times are drawn."""
    generator = np.random.default_rng(8)
    observed, wrong = generator.gamma(2, 10, 800), generator.normal(0, 4, 800)
    issued = pa.array([START] * 800, pa.timestamp("us", "UTC"))
    both = [
        series(observed + share * wrong, "reach", reference_time=issued,
               configuration_name=pa.array([name] * 800, pa.string()))
        for name, share in (("ours", 0.5), ("theirs", 1.0))
    ]  # fmt: skip
    how = Bootstrap(method, replicates=60, seed=2)
    (row,) = metrics.skill(
        series(observed, "gauge"), pa.concat_tables(both), CROSSWALK,
        ["mean_absolute_error", "rmse"], reference="theirs", bootstrap=how,
    ).to_pylist()  # fmt: skip
    for name in ("mean_absolute_error", "rmse"):
        assert row[f"{name}_p5"] < row[f"{name}_p95"]
        assert row[f"{name}_reference_p5"] < row[f"{name}_reference_p95"]
        for bound in how.columns(f"{name}_skill"):
            assert row[bound] == pytest.approx(0.5, abs=1e-12)
    ours = pa.concat_tables(both).filter(pc.field("configuration_name") == "ours")
    (alone,) = metrics.evaluate(
        series(observed, "gauge"), ours, CROSSWALK, ["rmse"], bootstrap=how
    ).to_pylist()
    if method == "gumboot":  # the others draw by the longer block of the two
        assert {name: row[name] for name in how.columns("rmse")} == pytest.approx(
            {name: alone[name] for name in how.columns("rmse")}
        )


def test_skill_of_independent_errors_by_theory() -> None:
    """Of 1 - a/b for means of n independent errors, by the delta method."""
    generator = np.random.default_rng(9)
    ours, theirs = np.abs(generator.normal(0, 1, (2, 3000))) * [[1.0], [2.0]]
    issued = pa.array([START] * 3000, pa.timestamp("us", "UTC"))
    both = [
        series(10 + error, "reach", reference_time=issued,
               configuration_name=pa.array([name] * 3000, pa.string()))
        for name, error in (("ours", ours), ("theirs", theirs))
    ]  # fmt: skip
    (row,) = metrics.skill(
        series(np.full(3000, 10.0), "gauge"), pa.concat_tables(both), CROSSWALK,
        ["mean_absolute_error"], reference="theirs",
        bootstrap=Bootstrap(replicates=1000, block=1, quantiles=(0.16, 0.84)),
    ).to_pylist()  # fmt: skip
    ratio = ours.mean() / theirs.mean()
    expected = ratio * np.sqrt(
        (ours.var() / ours.mean() ** 2 + theirs.var() / theirs.mean() ** 2) / 3000
    )
    name = "mean_absolute_error_skill"
    assert row[name] == pytest.approx(1 - ratio)
    assert (row[f"{name}_p84"] - row[f"{name}_p16"]) / 2 == pytest.approx(expected, rel=0.1)


def test_a_group_that_is_too_small_has_no_curve() -> None:
    primary, secondary = ensemble(30, 5, seed=6)
    assert len(metrics.flow_duration(primary, secondary, CROSSWALK, minimum=150)) == 15
    for how in (None, Bootstrap(replicates=3, block=1)):
        options: Any = {"minimum": 151, "bootstrap": how}
        assert len(metrics.flow_duration(primary, secondary, CROSSWALK, **options)) == 0
