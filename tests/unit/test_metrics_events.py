"""Metrics of events: by hand, by law, and against `scores` on the real series of two gauges."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import xarray as xr
from hourly import series
from hypothesis import given, settings
from hypothesis import strategies as st
from scores.categorical import BasicContingencyManager, ThresholdEventOperator

from thalweg import metrics
from thalweg.errors import InvalidInput

CROSSWALK = pa.table({"primary_location_id": ["gauge"], "secondary_location_id": ["reach"]})
EVENTS = [m.name for m in metrics.METRICS.values() if m.kind == "categorical"]
#: What `scores` calls them.
ORACLE = {
    "accuracy": "accuracy",
    "probability_of_detection": "probability_of_detection",
    "probability_of_false_detection": "probability_of_false_detection",
    "false_alarm_ratio": "false_alarm_ratio",
    "success_ratio": "success_ratio",
    "critical_success_index": "critical_success_index",
    "frequency_bias_index": "frequency_bias",
    "heidke_skill_score": "heidke_skill_score",
    "peirce_skill_score": "peirce_skill_score",
    "equitable_threat_score": "equitable_threat_score",
}
COUNTS = {
    "true_positives": "tp_count",
    "false_positives": "fp_count",
    "false_negatives": "fn_count",
    "true_negatives": "tn_count",
}


def compare(
    observed: list[Any], simulated: list[Any], threshold: float | str = 3.0
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = metrics.evaluate(
        series(observed, "gauge"), series(simulated, "reach"), CROSSWALK, EVENTS,
        thresholds={"high": threshold},
    ).to_pylist()  # fmt: skip
    return rows


#: Three hits, one false alarm, two misses, four correct negatives; one of each on the threshold.
OBSERVED = [3, 5, 9, 1, 3, 8, 1, 2, 1, 0]
FORECAST = [3, 4, 7, 3, 1, 2, 1, 1, 2, 0]


def test_by_hand() -> None:
    (row,) = compare(OBSERVED, FORECAST)
    expected = {
        "true_positives": 3,
        "false_positives": 1,
        "false_negatives": 2,
        "true_negatives": 4,
        "accuracy": 7 / 10,
        "probability_of_detection": 3 / 5,
        "probability_of_false_detection": 1 / 5,
        "false_alarm_ratio": 1 / 4,
        "success_ratio": 3 / 4,
        "critical_success_index": 3 / 6,
        "frequency_bias_index": 4 / 5,
        # by chance 4 x 5 / 10 = 2 hits and 6 x 5 / 10 = 3 correct negatives
        "heidke_skill_score": (7 - 5) / (10 - 5),
        "peirce_skill_score": 3 / 5 - 1 / 5,
        "equitable_threat_score": (3 - 2) / (6 - 2),
    }
    assert {name: row[name] for name in EVENTS} == pytest.approx(expected, rel=1e-15)


def test_a_missing_value_is_no_event_and_no_quiet_time() -> None:
    gaps = [*OBSERVED, None, float("nan"), 9.0]
    (row,) = compare(gaps, [*FORECAST, 9.0, 9.0, None])
    (whole,) = compare(OBSERVED, FORECAST)
    assert row == whole


UNDEFINED = {
    "no event, none forecast": ([1, 2], [2, 1], {
        "probability_of_detection", "false_alarm_ratio", "success_ratio", "critical_success_index",
        "frequency_bias_index", "heidke_skill_score", "peirce_skill_score",
        "equitable_threat_score",
    }),
    "no event, one forecast": ([1, 2], [3, 1], {
        "probability_of_detection", "frequency_bias_index", "peirce_skill_score",
    }),
    "an event, none forecast": ([1, 3], [2, 1], {"false_alarm_ratio", "success_ratio"}),
    "nothing but events, all forecast": ([3, 4], [3, 4], {
        "probability_of_false_detection", "heidke_skill_score", "peirce_skill_score",
        "equitable_threat_score",
    }),
    "one hit": ([3], [3], {
        "probability_of_false_detection", "heidke_skill_score", "peirce_skill_score",
        "equitable_threat_score",
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", UNDEFINED)
def test_what_is_undefined_is_null(case: str) -> None:
    observed, simulated, missing = UNDEFINED[case]
    (row,) = compare(observed, simulated)
    assert {name for name in EVENTS if row[name] is None} == missing


def test_empty_series_have_no_row() -> None:
    assert compare([], []) == []
    assert compare([None], [1.0]) == []


def test_events_need_a_threshold_and_values_as_they_are() -> None:
    both = series([1, 2], "gauge"), series([1, 2], "reach"), CROSSWALK
    with pytest.raises(InvalidInput, match="thresholds="):
        metrics.evaluate(*both, ["accuracy"])
    with pytest.raises(InvalidInput, match="no transform"):
        metrics.evaluate(*both, ["accuracy"], thresholds={"high": 1.0}, transform="log")


# All at once, as a query takes longer to plan than to answer.
@settings(deadline=None, max_examples=10)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30))
def test_laws(pairs: list[tuple[int, int]]) -> None:
    """In range, perfect when perfect, one count a pair, the same in another unit and order."""
    observed, simulated = [o for o, _ in pairs], [s for _, s in pairs]
    places = {
        "as drawn": (observed, simulated),
        "perfect": (observed, observed),
        "in feet": ([o * 4 for o in observed][::-1], [s * 4 for s in simulated][::-1]),
    }
    names = list(places)
    rows = metrics.evaluate(
        pa.concat_tables([series(places[name][0], name) for name in names]),
        pa.concat_tables([series(places[name][1], name) for name in names]),
        pa.table({"primary_location_id": names, "secondary_location_id": names}),
        EVENTS,
        thresholds=pa.table({
            "primary_location_id": names, "threshold": ["high"] * 3, "value": [3.0, 3.0, 12.0]
        }),
    ).to_pylist()  # fmt: skip
    of = {row["primary_location_id"]: row for row in rows}
    row = of["as drawn"]
    assert sum(row[name] for name in COUNTS) == row["count"] == len(pairs)
    for name in EVENTS:
        low, high = metrics.METRICS[name].range
        best = metrics.METRICS[name].perfect
        assert row[name] is None or low - 1e-12 <= row[name] <= high + 1e-12
        assert best is None or of["perfect"][name] in (None, best)
        assert of["in feet"][name] == row[name]


@pytest.mark.parametrize("kind", ["fixed", "percentile", "of each location"])
def test_against_an_oracle(kind: str, two_gauges: tuple[pa.Table, pa.Table, pa.Table]) -> None:
    pairs = metrics.joined(*two_gauges).to_pandas()
    places = sorted(pairs["primary_location_id"].unique())
    observed = two_gauges[0].to_pandas().groupby("location_id")["value"]
    # of a column, so that a percentile is as exact as the values widened
    limits = {
        "fixed": dict.fromkeys(places, 30.0),
        "percentile": {p: observed.get_group(p).astype(float).quantile(0.9) for p in places},
        "of each location": dict(zip(places, (25.0, 90.0), strict=True)),
    }[kind]
    thresholds = {
        "fixed": {"high": 30.0},
        "percentile": {"high": "90%"},
        "of each location": pa.table({
            "primary_location_id": places, "threshold": ["high"] * 2, "value": [25.0, 90.0]
        }),
    }[kind]  # fmt: skip
    rows = metrics.evaluate(*two_gauges, EVENTS, thresholds=thresholds).to_pylist()
    assert [row["primary_location_id"] for row in rows] == places
    for row in rows:
        mine = pairs[pairs["primary_location_id"] == row["primary_location_id"]]
        oracle = table_of(mine, limits[row["primary_location_id"]])
        counts = oracle.get_counts()
        assert row["true_positives"] > 0
        assert row["threshold"] == "high"
        for name, theirs in COUNTS.items():
            assert row[name] == float(counts[theirs]), name
        for name, theirs in ORACLE.items():
            assert row[name] == pytest.approx(float(getattr(oracle, theirs)()), rel=1e-12), name


def table_of(pairs: Any, threshold: float) -> BasicContingencyManager:
    observed = xr.DataArray(pairs["primary_value"].to_numpy(), dims="time")
    simulated = xr.DataArray(pairs["secondary_value"].to_numpy(), dims="time")
    manager = ThresholdEventOperator().make_contingency_manager(
        simulated, observed, event_threshold=threshold
    )
    return manager.transform()


def test_every_metric_has_an_oracle() -> None:
    assert sorted(EVENTS) == sorted([*ORACLE, *COUNTS])
