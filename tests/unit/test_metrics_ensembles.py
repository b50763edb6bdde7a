"""Metrics and curves of ensembles: by hand, by law, and against oracles on real ensembles."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import properscoring
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scores.continuous
import scores.probability
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg import metrics
from thalweg.errors import InvalidInput
from thalweg.metrics.probabilistic import QUANTILES

START = dt.datetime(2024, 9, 26, tzinfo=dt.UTC)
UTC = pa.timestamp("us", "UTC")
CROSSWALK = pa.table({"primary_location_id": ["gauge"], "secondary_location_id": ["reach"]})
ENSEMBLES = [m.name for m in metrics.METRICS.values() if m.kind == "probabilistic"]
OF_EVENTS = {
    "brier_score", "brier_score_fair", "brier_reliability", "brier_resolution",
    "brier_uncertainty", "roc_area",
}  # fmt: skip
HIGH = {"high": 3.0}
Forecasts = Sequence[tuple[float, Sequence[float]]]


def tables(forecasts: Forecasts, shuffled: int | None = None) -> tuple[pa.Table, pa.Table]:
    """Observed values, and the members of a forecast of each an hour ahead."""
    rows = [
        (i, str(j), float(value))
        for i, (_, members) in enumerate(forecasts)
        for j, value in enumerate(members)
    ]
    if shuffled is not None:
        random.Random(shuffled).shuffle(rows)  # noqa: S311 - not for secrets
    primary = series(range(len(forecasts)), [o for o, _ in forecasts], "gauge")
    secondary = series([i for i, _, _ in rows], [value for _, _, value in rows], "reach")
    members = pa.array([member for _, member, _ in rows], pa.string())
    return primary, secondary.append_column("member", members)


def series(hours: Sequence[int], values: Sequence[Any], location: str) -> pa.Table:
    def text(value: str) -> pa.Array:
        return pa.array([value] * len(hours), pa.string())

    times = [START + dt.timedelta(hours=i) for i in hours]
    return pa.table(
        {
            "reference_time": pa.array([t - dt.timedelta(hours=1) for t in times], UTC),
            "value_time": pa.array(times, UTC),
            "value": pa.array(values, pa.float64()),
            "unit_name": text("m^3/s"),
            "location_id": text(location),
            "configuration_name": text("hefs"),
            "variable_name": text("streamflow_hourly_inst"),
        }
    )


def score(
    forecasts: Forecasts, names: Sequence[str] = ENSEMBLES, shuffled: int | None = None
) -> dict[str, Any]:
    thresholds = HIGH if OF_EVENTS & set(names) else None
    rows = metrics.evaluate(
        *tables(forecasts, shuffled), CROSSWALK, names, thresholds=thresholds
    ).to_pylist()
    (row,) = rows
    assert row["count"] == sum(len(members) for _, members in forecasts)
    return {name: row[name] for name in names}


def test_by_hand() -> None:
    """Observed 3, forecast 4, 1, 2; observed 0, forecast 0, 0, 0. The event is 3 or more."""
    found = score([(3.0, [4.0, 1.0, 2.0]), (0.0, [0.0, 0.0, 0.0])])
    # of the first: mean |x - y| is 4/3 and the sum of |x_i - x_j| is 12
    expected = {
        "crps_ensemble": (4 / 3 - 12 / 18) / 2,
        "crps_fair": (4 / 3 - 12 / 12) / 2,
        "crps_uncertainty": 2 * 3 / (2 * 2**2),
        "ensemble_spread": math.sqrt((7 / 3) / 2),
        "ensemble_mean_rmse": math.sqrt((2 / 3) ** 2 / 2),
        "spread_skill_ratio": math.sqrt(4 / 3 * (7 / 3)) / (2 / 3),
        # quantiles of 1, 2, 4 at 1 + 2q: 1.1, 1.2, 1.5, 2, 3, 3.6, 3.8
        "pinball_loss_5": 0.05 * 1.9 / 2,
        "pinball_loss_10": 0.1 * 1.8 / 2,
        "pinball_loss_25": 0.25 * 1.5 / 2,
        "pinball_loss_50": 0.5 * 1 / 2,
        "pinball_loss_75": 0,
        "pinball_loss_90": 0.1 * 0.6 / 2,
        "pinball_loss_95": 0.05 * 0.8 / 2,
        "brier_score": (2 / 3) ** 2 / 2,
        "brier_score_fair": ((2 / 3) ** 2 - 1 / 3 * 2 / 3 / 2) / 2,
        "brier_reliability": (2 / 3) ** 2 / 2,
        "brier_resolution": 1 / 4,
        "brier_uncertainty": 1 / 4,
        "roc_area": 1,
    }
    # parts of the first between 0, 1, 2, 4: below by 0, 1, 1, 0 and above by 0, 0, 1, 0
    expected["crps_reliability"] = (1 * (0 - 1 / 3) ** 2 + 2 * (1 / 2 - 2 / 3) ** 2) / 2
    potential = 2 * (1 / 2) * (1 / 2) / 2
    expected["crps_resolution"] = expected["crps_uncertainty"] - potential
    assert found == pytest.approx(expected, rel=1e-14, abs=1e-15)


def test_members_that_differ_in_number() -> None:
    forecasts = [(3.0, [4.0, 1.0, 2.0]), (2.0, [1.0, 5.0]), (7.0, [6.0, 6.0, 8.0, 9.0, 1.0])]
    found = score(forecasts)
    each = [score([forecast]) for forecast in forecasts]
    for name in ("crps_ensemble", "crps_fair", "brier_score", "brier_score_fair",
                 *(f"pinball_loss_{100 * q:g}" for q in QUANTILES)):  # fmt: skip
        assert found[name] == pytest.approx(sum(e[name] for e in each) / 3, rel=1e-14), name
    spread = sum(e["ensemble_spread"] ** 2 for e in each) / 3
    assert found["ensemble_spread"] == pytest.approx(math.sqrt(spread), rel=1e-14)
    # the parts of the CRPS are made of the k-th of m members: there is no k-th of two numbers
    assert (found["crps_reliability"], found["crps_resolution"]) == (None, None)
    assert found["crps_uncertainty"] is not None
    parts = found["brier_reliability"] - found["brier_resolution"] + found["brier_uncertainty"]
    assert parts == pytest.approx(found["brier_score"], rel=1e-14)


def test_one_member() -> None:
    found = score([(3.0, [4.0]), (0.0, [0.0, 1.0])])
    fair = {"crps_fair", "brier_score_fair", "ensemble_spread", "spread_skill_ratio"}
    alike = {"crps_reliability", "crps_resolution"}
    assert {name for name in ENSEMBLES if found[name] is None} == fair | alike
    # a deterministic forecast has the mean absolute error for its CRPS
    found = score([(3.0, [4.0]), (0.0, [2.5])])
    assert found["crps_ensemble"] == pytest.approx(1.75, rel=1e-15)
    assert {name for name in ENSEMBLES if found[name] is None} == fair


def test_constant_and_perfect_and_empty() -> None:
    perfect = score([(o, [o] * 3) for o in (0.1, 3.3, 7.7)])
    for name in ENSEMBLES:
        best = metrics.METRICS[name].perfect
        assert best is None or perfect[name] in (best, None), name
    assert [name for name in ENSEMBLES if perfect[name] is None] == ["spread_skill_ratio"]
    constant = score([(0.1, [0.1] * 3)] * 4)
    missing = {"spread_skill_ratio", "roc_area"}
    assert {name for name in ENSEMBLES if constant[name] is None} == missing
    assert constant["crps_uncertainty"] == constant["brier_uncertainty"] == 0
    nothing = metrics.evaluate(*tables([]), CROSSWALK, ENSEMBLES, thresholds=HIGH)
    assert len(nothing) == 0
    assert nothing.column_names[-len(ENSEMBLES) :] == ENSEMBLES


def test_a_missing_member_is_one_less() -> None:
    found = score([(3.0, [4.0, 1.0, 2.0])])
    primary, secondary = tables([(3.0, [4.0, 1.0, 2.0, float("nan")])])
    rows = metrics.evaluate(primary, secondary, CROSSWALK, ENSEMBLES, thresholds=HIGH).to_pylist()
    assert {name: rows[0][name] for name in ENSEMBLES} == found


def test_members_stay_together() -> None:
    both = tables([(3.0, [4.0, 1.0, 2.0])])
    for names, thresholds in ((["rmse", "crps_ensemble"], None), (["roc_area"], HIGH)):
        with pytest.raises(InvalidInput, match="all members of a forecast"):
            metrics.evaluate(*both, CROSSWALK, names, ["member"], thresholds=thresholds)
    with pytest.raises(InvalidInput, match="all members of a forecast"):
        metrics.rank_histogram(*both, CROSSWALK, ["member"])
    with pytest.raises(InvalidInput, match="thresholds="):
        metrics.roc(*both, CROSSWALK)


def test_forecasts_of_the_same_time_are_apart() -> None:
    """Of two locations and two configurations, though all are in one group."""
    primary, secondary = tables([(3.0, [4.0, 1.0, 2.0])])
    names = secondary.column_names
    other = secondary.set_column(
        names.index("configuration_name"), "configuration_name", pa.array(["gefs"] * 3)
    )
    there = secondary.set_column(names.index("location_id"), "location_id", pa.array(["r2"] * 3))
    crosswalk = pa.table(
        {"primary_location_id": ["gauge"] * 2, "secondary_location_id": ["reach", "r2"]}
    )
    rows = metrics.evaluate(
        primary, pa.concat_tables([secondary, other, there]), crosswalk,
        ["crps_ensemble", "crps_fair"], ["primary_location_id"],
    ).to_pylist()  # fmt: skip
    assert rows[0]["count"] == 9
    assert rows[0]["crps_ensemble"] == pytest.approx(2 / 3, rel=1e-15)
    assert rows[0]["crps_fair"] == pytest.approx(1 / 3, rel=1e-15)


def test_ensembles_are_grouped_by_event() -> None:
    """The observations reach 3 at the second time and stay there: one event, and quiet before."""
    both = tables([(1.0, [4.0, 1.0]), (5.0, [4.0, 1.0]), (4.0, [4.0, 4.0])])
    rows = metrics.evaluate(
        *both, CROSSWALK, ["brier_score", "crps_ensemble"], ["event"], thresholds=HIGH
    ).to_pylist()
    assert [(row["event"], row["count"], row["brier_score"]) for row in rows] == [
        (None, 2, 0.25), (START + dt.timedelta(hours=1), 4, 0.125)
    ]  # fmt: skip


ANY = st.lists(
    st.tuples(st.integers(0, 40), st.lists(st.integers(0, 40), min_size=3, max_size=3)),
    min_size=1,
    max_size=15,
)


def place(
    forecasts: Forecasts, name: str, shuffled: int | None = None
) -> tuple[pa.Table, pa.Table]:
    """As `tables`, at another place."""
    primary, secondary = tables(forecasts, shuffled)
    i = primary.column_names.index("location_id")
    primary, secondary = (
        table.set_column(i, "location_id", pa.array([name] * len(table), pa.string()))
        for table in (primary, secondary)
    )
    return primary, secondary


# All at once, as a query of all metrics is long.
@settings(deadline=None, max_examples=6)
@given(ANY)
def test_laws(drawn: list[tuple[int, list[int]]]) -> None:
    """In range; the parts make up the whole; order does not matter; a unit changes what it has."""
    forecasts = [(o / 8, [s / 8 for s in members]) for o, members in drawn]
    places = {
        "as drawn": place(forecasts, "as drawn"),
        "shuffled": place(forecasts, "shuffled", 1),
        "in feet": place([(o * 35.0, [s * 35.0 for s in x]) for o, x in forecasts], "in feet"),
    }
    primary, secondary = (pa.concat_tables(each) for each in zip(*places.values(), strict=True))
    names = list(places)
    crosswalk = pa.table({"primary_location_id": names, "secondary_location_id": names})
    limits = pa.table({
        "primary_location_id": names, "threshold": ["high"] * 3, "value": [3.0, 3.0, 105.0]
    })  # fmt: skip
    rows = metrics.evaluate(primary, secondary, crosswalk, ENSEMBLES, thresholds=limits)
    of = {row["primary_location_id"]: row for row in rows.to_pylist()}
    for name in ENSEMBLES:
        metric, value = metrics.METRICS[name], of["as drawn"][name]
        feet, shuffled = of["in feet"][name], of["shuffled"][name]
        if value is None:
            assert (feet, shuffled) == (None, None), name
            continue
        assert metric.range[0] <= value <= metric.range[1] + 1e-12, name
        assert shuffled == pytest.approx(value, rel=1e-13, abs=1e-15), name
        factor = 35.0 if metric.has_unit else 1.0
        assert feet == pytest.approx(factor * value, rel=1e-9, abs=1e-9), name
    for whole, parts in (("crps_ensemble", "crps"), ("brier_score", "brier")):
        reliability, resolution, uncertainty = (
            of["as drawn"][f"{parts}_{part}"]
            for part in ("reliability", "resolution", "uncertainty")
        )
        total = reliability - resolution + uncertainty
        assert total == pytest.approx(of["as drawn"][whole], rel=1e-12, abs=1e-12)


def test_roc_by_hand() -> None:
    """Probabilities 1, 1/2, 1/2, 0 of which the first and third were followed by the event."""
    high, half, low = [4.0, 4.0], [4.0, 1.0], [1.0, 1.0]
    forecasts = [(5.0, high), (1.0, half), (5.0, half), (1.0, low)]
    found = metrics.roc(*tables(forecasts), CROSSWALK, thresholds=HIGH).to_pylist()
    points = [
        (
            row["probability"], row["count"],
            row["probability_of_false_detection"], row["probability_of_detection"],
        )
        for row in found
    ]  # fmt: skip
    assert points == [(None, 0, 0, 0), (1, 1, 0, 0.5), (0.5, 2, 0.5, 1), (0, 1, 1, 1)]
    quiet = metrics.roc(*tables([(1.0, half)]), CROSSWALK, thresholds=HIGH).to_pylist()
    assert {row["probability_of_detection"] for row in quiet} == {None}


def test_reliability_by_hand() -> None:
    forecasts = [(5.0, [4.0] * 4), (5.0, [4.0, 4.0, 4.0, 1.0]), (1.0, [4.0, 4.0, 4.0, 1.0]),
                 (1.0, [1.0] * 4)]  # fmt: skip
    both = (*tables(forecasts), CROSSWALK)

    def rows(bins: int | None) -> list[tuple[float, float, int]]:
        found = metrics.reliability(*both, bins=bins, thresholds=HIGH).to_pylist()
        return [(row["probability"], row["observed_frequency"], row["count"]) for row in found]

    assert rows(None) == [(0, 0, 1), (0.75, 0.5, 2), (1, 1, 1)]
    assert rows(4) == [(0, 0, 1), (2.5 / 3, pytest.approx(2 / 3), 3)]
    assert rows(1) == [(0.625, 0.5, 4)]
    with pytest.raises(InvalidInput, match="at least 1"):
        rows(0)


def test_ranks_by_hand() -> None:
    """Ties are spread evenly; another number of members has a histogram of its own."""
    forecasts = [(1.0, [2.0, 3.0]), (2.0, [2.0, 2.0]), (9.0, [2.0, 3.0]), (2.0, [1.0])]
    found = metrics.rank_histogram(*tables(forecasts), CROSSWALK).to_pylist()
    counts = [(row["members"], row["rank"], row["count"]) for row in found]
    assert counts == [
        (1, 1, 0), (1, 2, 1),
        (2, 1, pytest.approx(4 / 3)), (2, 2, pytest.approx(1 / 3)), (2, 3, pytest.approx(4 / 3)),
    ]  # fmt: skip
    assert [row["frequency"] for row in found[2:]] == pytest.approx([4 / 9, 1 / 9, 4 / 9])


def test_flow_duration_by_hand() -> None:
    both = tables([(o, [10 * o]) for o in (4.0, 1.0, 3.0, 2.0, 5.0)])
    found = metrics.flow_duration(*both, CROSSWALK, exceedance=[0.5, 0, 1, 0.125]).to_pylist()
    points = [(row["exceedance"], row["primary_value"], row["secondary_value"]) for row in found]
    assert points == [(0, 5, 50), (0.125, 4.5, 45), (0.5, 3, 30), (1, 1, 10)]
    with pytest.raises(InvalidInput, match="0 to 1"):
        metrics.flow_duration(*both, CROSSWALK, exceedance=[50])


@pytest.fixture(scope="module")
def hefs(shared_data: Path) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Ensembles of 42 members for 30 days at two gauges, April 2024, with what was observed."""
    folder = shared_data / "usgs_nwm_hefs_examples" / "hefs_example"
    names = ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
    primary, secondary, crosswalk = (pq.read_table(folder / f"{name}.parquet") for name in names)
    return in_utc(primary), in_utc(secondary), crosswalk


def in_utc(table: pa.Table) -> pa.Table:
    for i, name in enumerate(table.column_names):
        if name in ("reference_time", "value_time"):
            table = table.set_column(i, name, table[name].cast(pa.timestamp("us")).cast(UTC))
    return table


@pytest.fixture(scope="module")
def real(hefs: tuple[pa.Table, pa.Table, pa.Table]) -> dict[str, tuple[Any, Any]]:
    """By location the observed values and the members, a row a forecast."""
    found = {}
    for place, pairs in metrics.joined(*hefs).to_pandas().groupby("primary_location_id"):
        members = pairs.pivot(index="value_time", columns="member", values="secondary_value")
        observed = pairs.groupby("value_time")["primary_value"].first()
        found[str(place)] = (observed.to_numpy(), members.to_numpy())
        assert found[str(place)][1].shape == (721, 42)
    return found


THRESHOLD = {"usgs-11402000": 640.0, "usgs-11421000": 3600.0}


@pytest.fixture(scope="module")
def limits() -> pa.Table:
    return pa.table(
        {
            "primary_location_id": list(THRESHOLD),
            "threshold": ["high"] * 2,
            "value": list(THRESHOLD.values()),
        }
    )


def test_against_oracles(
    hefs: tuple[pa.Table, pa.Table, pa.Table], real: dict[str, tuple[Any, Any]], limits: pa.Table
) -> None:
    rows = metrics.evaluate(*hefs, ENSEMBLES, thresholds=limits).to_pylist()
    assert [row["primary_location_id"] for row in rows] == sorted(real)
    for row in rows:
        y, x = real[row["primary_location_id"]]
        expected = oracles(y, x, THRESHOLD[row["primary_location_id"]])
        assert sorted(expected) == sorted(ENSEMBLES)
        for name, value in expected.items():
            assert row[name] == pytest.approx(float(value), rel=1e-10), name


def oracles(y: Any, x: Any, threshold: float) -> dict[str, Any]:
    obs = xr.DataArray(y, dims="time")
    fcst = xr.DataArray(x, dims=("time", "member"))
    event = obs >= threshold
    probability = (fcst >= threshold).mean("member")
    crps = scores.probability.crps_for_ensemble
    brier = scores.probability.brier_score_for_ensemble
    assert np.mean(properscoring.crps_ensemble(y, x)) == pytest.approx(
        float(crps(fcst, obs, "member", method="ecdf")), rel=1e-12
    )
    spread = math.sqrt(x.var(axis=1, ddof=1).mean())
    error = math.sqrt(((x.mean(axis=1) - y) ** 2).mean())
    quantiles = {
        f"pinball_loss_{100 * q:g}": scores.continuous.quantile_score(
            fcst.quantile(q, "member"), obs, q
        )
        for q in QUANTILES
    }
    return quantiles | hersbach(y, x) | murphy(probability.to_numpy(), event.to_numpy()) | {
        "crps_ensemble": crps(fcst, obs, "member", method="ecdf"),
        "crps_fair": crps(fcst, obs, "member", method="fair"),
        "ensemble_spread": spread,
        "ensemble_mean_rmse": error,
        "spread_skill_ratio": spread * math.sqrt(43 / 42) / error,
        "brier_score": brier(fcst, obs, "member", threshold, fair_correction=False).squeeze(),
        "brier_score_fair": brier(fcst, obs, "member", threshold).squeeze(),
        "roc_area": scores.probability.roc_auc(probability, event.astype(float)),
    }  # fmt: skip


def hersbach(y: Any, x: Any) -> dict[str, float]:
    """Equations 22 to 37 of Hersbach (2000), and the CRPS of the sample for the uncertainty."""
    x = np.sort(x, axis=1)
    n, m = x.shape
    alpha, beta = np.zeros((n, m + 1)), np.zeros((n, m + 1))
    for k in range(n):
        for i in range(1, m):
            low, high = x[k, i - 1], x[k, i]
            alpha[k, i] = min(max(y[k] - low, 0), high - low)
            beta[k, i] = min(max(high - y[k], 0), high - low)
        alpha[k, m] = max(y[k] - x[k, -1], 0)
        beta[k, 0] = max(x[k, 0] - y[k], 0)
    a, b, p = alpha.mean(axis=0), beta.mean(axis=0), np.arange(m + 1) / m
    g, o = a + b, np.zeros(m + 1)
    o[1:m] = np.divide(b, g, out=np.zeros(m + 1), where=g > 0)[1:m]
    o[0], o[m] = np.mean(y < x[:, 0]), 1 - np.mean(y > x[:, -1])
    g[0] = b[0] / o[0] if o[0] > 0 else 0
    g[m] = a[m] / (1 - o[m]) if o[m] < 1 else 0
    climate = np.abs(y[:, None] - y[None, :]).mean() / 2
    return {
        "crps_reliability": float((g * (o - p) ** 2).sum()),
        "crps_resolution": float(climate - (g * o * (1 - o)).sum()),
        "crps_uncertainty": float(climate),
    }


def murphy(p: Any, event: Any) -> dict[str, float]:
    base, n = event.mean(), len(p)
    groups = [(value, event[p == value]) for value in np.unique(p)]
    return {
        "brier_reliability": sum(len(e) * (v - e.mean()) ** 2 for v, e in groups) / n,
        "brier_resolution": sum(len(e) * (e.mean() - base) ** 2 for _, e in groups) / n,
        "brier_uncertainty": base * (1 - base),
    }


def test_curves_against_oracles(
    hefs: tuple[pa.Table, pa.Table, pa.Table], real: dict[str, tuple[Any, Any]], limits: pa.Table
) -> None:
    by = ["primary_location_id"]
    ranks = metrics.rank_histogram(*hefs, by).to_pandas()
    roc = metrics.roc(*hefs, by, thresholds=limits).to_pandas()
    reliability = metrics.reliability(*hefs, by, thresholds=limits).to_pandas()
    durations = metrics.flow_duration(*hefs, by, exceedance=[0.1, 0.37]).to_pandas()
    for row in metrics.evaluate(*hefs, ENSEMBLES, by, thresholds=limits).to_pylist():
        place = row["primary_location_id"]
        y, x = real[place]
        expected = scores.probability.rank_histogram(
            xr.DataArray(x, dims=("time", "member")), xr.DataArray(y, dims="time"), "member"
        )
        mine = ranks[ranks["primary_location_id"] == place]
        assert mine["frequency"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-12)
        assert mine["count"].sum() == pytest.approx(721, rel=1e-12)
        mine = roc[roc["primary_location_id"] == place]
        area = np.trapezoid(
            mine["probability_of_detection"], mine["probability_of_false_detection"]
        )
        assert area == pytest.approx(row["roc_area"], rel=1e-12)
        mine = reliability[reliability["primary_location_id"] == place]
        distance = (mine["probability"] - mine["observed_frequency"]) ** 2
        parts = (mine["count"] * distance).sum() / 721
        assert parts == pytest.approx(row["brier_reliability"], rel=1e-12)
        mine = durations[durations["primary_location_id"] == place]
        flows = np.quantile(np.repeat(y, 42), [0.9, 0.63])
        assert mine["primary_value"].to_numpy() == pytest.approx(flows, rel=1e-12)
        flows = np.quantile(x, [0.9, 0.63])
        assert mine["secondary_value"].to_numpy() == pytest.approx(flows, rel=1e-12)


def test_lead_time_bins_are_scored_alone(
    hefs: tuple[pa.Table, pa.Table, pa.Table], real: dict[str, tuple[Any, Any]]
) -> None:
    rows = metrics.evaluate(*hefs, ["crps_ensemble", "crps_reliability"], lead_time_bin=240)
    for row in rows.to_pylist():
        y, x = real[row["primary_location_id"]]
        first = row["lead_time_bin"]
        part = slice(None) if first is None else slice(first, first + 240)
        crps = properscoring.crps_ensemble(y[part], x[part]).mean()
        assert row["crps_ensemble"] == pytest.approx(crps, rel=1e-10)
        expected = hersbach(y[part], x[part])["crps_reliability"]
        assert row["crps_reliability"] == pytest.approx(expected, rel=1e-10)
