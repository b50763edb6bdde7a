"""What pairs are grouped and chosen by: against pandas on the real series, and by hand."""

from __future__ import annotations

import datetime as dt
from functools import partial
from pathlib import Path
from typing import Any

import hourly
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from thalweg import metrics
from thalweg.errors import InvalidInput, NotFound
from thalweg.metrics import FIELDS

START = dt.datetime(2024, 2, 28, 20, tzinfo=dt.UTC)
TIME = pa.timestamp("us", "UTC")
KEYS = ["variable_name", "unit_name"]
Series = tuple[pa.Table, pa.Table, pa.Table]
#: Hourly values of one location, over the end of a leap February.
series = partial(hourly.series, start=START)


def links(**places: str) -> pa.Table:
    return pa.table(
        {"primary_location_id": list(places), "secondary_location_id": list(places.values())}
    )


def evaluate(observed: list[float], forecast: list[float], **options: Any) -> list[dict[str, Any]]:
    options = {"metrics": ["mean_error"], "by": ["primary_location_id"]} | options
    rows: list[dict[str, Any]] = metrics.evaluate(
        series(observed, "gauge"), series(forecast, "reach"), links(gauge="reach"), **options
    ).to_pylist()
    return rows


@pytest.fixture(scope="module")
def gauges(shared_data: Path) -> Series:
    """Both real gauges over two and a half years that begin in February."""
    folder = shared_data / "usgs_nwm_two_gauges"
    names = ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
    primary, secondary, crosswalk = (pq.read_table(folder / f"{name}.parquet") for name in names)
    begin, end = (dt.datetime(2004 + i, 2 + 6 * (i > 0), 1, tzinfo=dt.UTC) for i in (0, 2))
    field = pc.field("value_time")
    chosen = (field >= begin) & (field < end)
    return primary.filter(chosen), secondary.filter(chosen), crosswalk


@pytest.fixture(scope="module")
def helene(shared_data: Path) -> Series:
    """Four forecasts of ten days, of which five days are observed."""
    folder = shared_data / "usgs_nwm_hefs_examples" / "fetch_nwm_streamflow"

    def read(name: str) -> pa.Table:
        table = pq.read_table(folder / f"{name}.parquet")
        utc = [f.with_type(TIME) if pa.types.is_timestamp(f.type) else f for f in table.schema]
        return table.cast(pa.schema(utc))

    return read("usgs_timeseries"), read("nwm_forecasts"), read("location_crosswalks")


def paired(data: Series) -> pd.DataFrame:
    """The pairs, joined by pandas."""
    primary, secondary, crosswalk = (table.to_pandas() for table in data)
    pairs = secondary.merge(crosswalk, left_on="location_id", right_on="secondary_location_id")
    pairs = pairs.merge(
        primary[["location_id", "value_time", "value"]].rename(
            columns={"location_id": "primary_location_id", "value": "observed"}
        ),
        on=["primary_location_id", "value_time"],
    )
    pairs = pairs[np.isfinite(pairs["value"]) & np.isfinite(pairs["observed"])]
    for name in ("value", "observed"):
        pairs[name] = pairs[name].astype(float)
    pairs["error"] = pairs["value"] - pairs["observed"]
    lead = pairs["value_time"] - pd.to_datetime(pairs["reference_time"], utc=True)
    return pairs.assign(lead_time=lead / pd.Timedelta(hours=1))


def by_pandas(pairs: pd.DataFrame, key: Any) -> dict[Any, tuple[int, float]]:
    """Number of pairs and mean error of each group."""
    grouped = pairs.groupby(key, dropna=False)["error"].agg(["count", "mean"])
    return {k: (int(row["count"]), float(row["mean"])) for k, row in grouped.iterrows()}


def by_us(data: Series, key: str, **options: Any) -> dict[Any, tuple[int, float]]:
    rows = metrics.evaluate(*data, ["mean_error"], by=[key], **options).to_pylist()
    return {row[key]: (row["count"], row["mean_error"]) for row in rows}


def alike(ours: dict[Any, tuple[int, float]], theirs: dict[Any, tuple[int, float]]) -> bool:
    assert list(ours) == sorted(theirs)
    for key, (count, mean) in theirs.items():
        assert ours[key] == (count, pytest.approx(mean, rel=1e-9)), key
    return len(ours) > 1


SEASON = {1: "DJF", 2: "DJF", 12: "DJF", 3: "MAM", 4: "MAM", 5: "MAM", 6: "JJA", 7: "JJA",
          8: "JJA", 9: "SON", 10: "SON", 11: "SON"}  # fmt: skip


def test_fields_of_the_time(gauges: Series) -> None:
    pairs = paired(gauges)
    time = pairs["value_time"].dt
    ours = {
        "year": time.year,
        "month": time.month,
        "season": time.month.map(SEASON),
        "water_year": time.year + (time.month >= 10),
        "day_of_year": time.dayofyear,
        "hour": time.hour,
    }
    for name, key in ours.items():
        assert alike(by_us(gauges, name), by_pandas(pairs, key)), name
    assert {*ours, "issue_hour", "lead_time"} == {*FIELDS}


def test_fields_of_the_forecast(helene: Series) -> None:
    pairs = paired(helene)
    assert len(pairs) > 100
    issued = pd.to_datetime(pairs["reference_time"], utc=True)
    assert alike(by_us(helene, "lead_time"), by_pandas(pairs, "lead_time"))
    assert {*by_us(helene, "issue_hour")} == {*issued.dt.hour}
    by_issue = by_us(helene, "reference_time")
    assert alike(by_issue, by_pandas(pairs, issued))
    assert len(by_us(helene, "value_time")) == pairs["value_time"].nunique()


def test_bins_of_lead_time(helene: Series) -> None:
    pairs = paired(helene)
    for width in (1, 7, 24):
        rows = metrics.evaluate(*helene, ["mean_error"], lead_time_bin=width).to_pylist()
        theirs = by_pandas(pairs, pairs["lead_time"] // width * width)
        assert rows[0]["lead_time_bin"] is None
        assert rows[0]["count"] == len(pairs)
        ours = {row["lead_time_bin"]: (row["count"], row["mean_error"]) for row in rows[1:]}
        assert alike(ours, theirs)
    with pytest.raises(InvalidInput, match="at least 1 hour, got 0"):
        metrics.evaluate(*helene, lead_time_bin=0)


def test_percentiles_and_what_exceeds_them(gauges: Series) -> None:
    pairs = paired(gauges)
    observed = gauges[0].to_pandas().dropna(subset="value")
    limits = observed.groupby("location_id")["value"].quantile(0.9, interpolation="linear")
    pairs["exceeds"] = pairs["observed"] >= pairs["primary_location_id"].map(limits)
    keys = ["primary_location_id", "exceeds"]
    rows = metrics.evaluate(
        *gauges, ["mean_error"], by=keys, thresholds={"high": "90%"}
    ).to_pylist()
    ours = {(r["primary_location_id"], r["exceeds"]): (r["count"], r["mean_error"]) for r in rows}
    assert alike(ours, by_pandas(pairs, keys))
    assert {row["threshold"] for row in rows} == {"high"}


def test_events_of_the_real_series(gauges: Series) -> None:
    """An event is a run of observations at or above the threshold, called by its beginning."""
    pairs = paired(gauges)
    begins: dict[tuple[str, pd.Timestamp], pd.Timestamp] = {}
    for location, group in gauges[0].to_pandas().dropna(subset="value").groupby("location_id"):
        group = group.sort_values("value_time")
        is_there = (group["value"] >= group["value"].quantile(0.98)).to_numpy()
        start = None
        for there, time in zip(is_there, group["value_time"], strict=True):
            start = (start or time) if there else None
            if start is not None:
                begins[(str(location), time)] = start
    places = zip(pairs["primary_location_id"], pairs["value_time"], strict=True)
    pairs["event"] = [begins.get(place) for place in places]
    pairs = pairs[pairs["event"].notna()]
    keys = ["primary_location_id", "event"]
    rows = metrics.evaluate(
        *gauges, ["mean_error"], by=keys, thresholds={"high": "98%"}, where="event IS NOT NULL"
    ).to_pylist()
    ours = {
        (r["primary_location_id"], pd.Timestamp(r["event"])): (r["count"], r["mean_error"])
        for r in rows
    }
    assert alike(ours, by_pandas(pairs, keys))
    assert len(ours) > 20


def test_percentiles_are_of_what_is_observed() -> None:
    """Of all finite ones, also those without a forecast beside them; between two, linear."""
    odd = [1, 1, 2, 3, float("nan"), float("inf"), None, 9]
    (row,) = evaluate(
        odd, [0, 0, 0, 2.2], metrics=["false_negatives", "true_negatives", "true_positives"],
        thresholds={"high": "55%"},
    )  # fmt: skip
    assert np.quantile([1, 1, 2, 3, 9], 0.55) == pytest.approx(2.2)
    assert [row[name] for name in list(row)[-3:]] == [0, 3, 1]


def test_events_by_hand() -> None:
    nan = float("nan")
    observed = [1, 5, 6, 1, 5, nan, 7, 2, 9]  # a gap in the observations ends no event
    rows = evaluate(observed, [0] * 9, by=["event"], thresholds={"flood": 5})
    hours = [None if r["event"] is None else (r["event"] - START).seconds // 3600 for r in rows]
    assert list(zip(hours, [r["count"] for r in rows], strict=True)) == [
        (None, 3), (1, 2), (4, 2), (8, 1),
    ]  # fmt: skip
    # The other variable of the same location has events of its own.
    stage = {"variable_name": pa.array(["stage"] * 3), "unit_name": pa.array(["m"] * 3)}
    primary = pa.concat_tables([series([9, 9, 1], "gauge"), series([1, 9, 9], "gauge", **stage)])
    secondary = pa.concat_tables([series([9, 9, 1], "reach"), series([1, 9, 9], "reach", **stage)])
    found = metrics.evaluate(
        primary, secondary, links(gauge="reach"), [], by=["event"],
        thresholds={"flood": 5}, where="event IS NOT NULL",
    ).to_pylist()  # fmt: skip
    assert [(r["variable_name"], (r["event"] - START).seconds // 3600) for r in found] == [
        ("streamflow_hourly_inst", 0), ("stage", 1),
    ]  # fmt: skip


def test_a_table_gives_each_location_its_thresholds() -> None:
    both = [pa.concat_tables([series([1, 5, 9], a), series([2, 6, 8], b)])
            for a, b in (("one", "two"), ("r1", "r2"))]  # fmt: skip
    where = links(one="r1", two="r2", three="r3")
    wanted = pd.DataFrame(
        {"primary_location_id": ["one", "one", "nowhere"], "threshold": ["low", "high", "low"],
         "value": [2, 9, 1]}
    )  # fmt: skip
    rows = metrics.evaluate(*both, where, ["true_positives"], thresholds=wanted).to_pylist()
    assert [(r["primary_location_id"], r["threshold"], r["true_positives"]) for r in rows] == [
        ("one", "high", 1), ("one", "low", 2),
    ]  # fmt: skip
    for wrong, says in (
        (wanted.drop(columns="value"), "thresholds lacks value"),
        (pd.concat([wanted, wanted]), "thresholds has one, low more than once"),
        ({}, "thresholds is empty"),
        ({"high": "101%"}, "percentile of the observations"),
        ({"high": "NaN"}, "expected a value in the unit"),
        (wanted.assign(value="90%"), "value of thresholds is a number in the unit"),
    ):
        with pytest.raises(InvalidInput, match=says):
            metrics.evaluate(*both, where, ["true_positives"], thresholds=wrong)


def test_attributes_of_locations(gauges: Series) -> None:
    names = gauges[2]["primary_location_id"].to_pylist()
    odd = "drainage \"area\" 'km2' {keys}"
    attributes = pd.DataFrame(
        {"location_id": [names[0], names[1], names[0], names[0]],
         "attribute_name": ["state", "state", odd, "Month"], "value": ["OR", "WA", "587", "x"]}
    )  # fmt: skip
    pairs = paired(gauges)
    states = pairs["primary_location_id"].map(dict(zip(names, ["OR", "WA"], strict=True)))
    assert alike(by_us(gauges, "state", attributes=attributes), by_pandas(pairs, states))
    # A location without the attribute is in the group of none; every kind of metric has the key.
    rows = metrics.evaluate(
        *gauges, ["spearman_r", "nse_log", "primary_baseflow_index"], by=[odd], lead_time_bin=24,
        attributes=attributes, transform="log",
    ).to_pylist()  # fmt: skip
    assert [row[odd] for row in rows] == [None, "587"]
    (row,) = metrics.evaluate(
        *gauges, ["mean_error"], attributes=attributes, where="state = $s", parameters={"s": "WA"}
    ).to_pylist()
    assert row["primary_location_id"] == names[1]
    # As in all SQL, capitals make no difference.
    (row,) = metrics.evaluate(
        *gauges,
        ["mean_error"],
        ["state"],
        attributes=attributes,
        where="STATE = 'WA' AND Year = 2005",
    ).to_pylist()
    assert row["state"] == "WA"
    # What has a name already keeps its meaning.
    assert alike(
        by_us(gauges, "month", attributes=attributes, where="month < 13"),
        by_pandas(pairs, pairs["value_time"].dt.month),
    )
    for wrong, says in (
        (pd.concat([attributes, attributes[:1]]), "attributes has .*, state more than once"),
        (attributes.drop(columns="value"), "attributes lacks value"),
    ):
        with pytest.raises(InvalidInput, match=says):
            metrics.evaluate(*gauges, by=["state"], attributes=wrong)
    with pytest.raises(NotFound, match="unknown column to group by 'staet'; did you mean 'state'"):
        metrics.evaluate(*gauges, by=["staet"], attributes=attributes)


def test_a_name_of_an_attribute_disturbs_no_metric() -> None:
    """Neither one that a metric uses for itself, nor one that means something in SQL."""
    names = [n for n, m in metrics.METRICS.items() if m.kind != "categorical"]
    names = [n for n in names if "thresholds" not in metrics.requires(n)]
    observed = [float(1 + (i * 7) % 13) for i in range(1000)]
    forecast = [value + 1 for value in observed]
    (expected,) = evaluate(observed, forecast, metrics=names)
    for odd in ("flow", "size", "select", "pairs"):
        attributes = pd.DataFrame(
            {"location_id": ["gauge"], "attribute_name": [odd], "value": ["much"]}
        )
        (row,) = evaluate(observed, forecast, metrics=names, by=[odd], attributes=attributes)
        assert row.pop(odd) == "much"
        assert row == {k: v for k, v in expected.items() if k != "primary_location_id"}
    (row,) = evaluate(
        observed, forecast, by=["replicate"], bootstrap=metrics.Bootstrap(replicates=2, block=9),
        attributes=attributes.assign(attribute_name="replicate"),
    )  # fmt: skip
    assert row["mean_error_p50"] == pytest.approx(1)
    attributes = attributes.assign(attribute_name="epsilon")
    (row,) = evaluate(observed, forecast, by=["epsilon"], attributes=attributes, transform="log")
    assert row["count"] == 1000


def test_conditions(gauges: Series) -> None:
    pairs = paired(gauges)
    dry = pairs[(pairs["observed"] < 20) & pairs["value_time"].dt.month.isin([6, 7, 8])]
    found = by_us(
        gauges, "primary_location_id", where="season = 'JJA' AND primary_value < ?", parameters=[20]
    )
    assert alike(found, by_pandas(dry, "primary_location_id"))
    # The values are bound once, however often the pairs are read: here for epsilon, and in bins.
    (row,) = evaluate(
        [1, 2, 3, 4], [1, 2, 3, 8], where="secondary_value > ?", parameters=[1.5], transform="log",
        lead_time_bin=6,
    )  # fmt: skip
    assert row["count"] == 3
    assert row["mean_error"] == pytest.approx((np.log(8.03) - np.log(4.03)) / 3)
    (row,) = evaluate([1, 2, 3], [1, 2, 3], where="primary_value > 1 -- not all")
    assert row["count"] == 2


@pytest.mark.parametrize(
    "where",
    [
        "", "true; DROP TABLE limits", "true) UNION ALL SELECT (1", "true) OR (true", "true, true",
        "valeu > 1", "primary_value > ?", "primary_value > $n", "primary_value", "FROM secondary",
        "value_time > 'yesterday'", "(SELECT 1 FROM read_text('/etc/hostname')) IS NOT NULL",
        "(SELECT 1 FROM elsewhere) = 1", "sum(primary_value) > 1",
    ],
)  # fmt: skip
def test_a_condition_is_one_expression_on_the_pairs(where: str) -> None:
    if where in ("", "primary_value"):  # none; a number is a condition in SQL: not 0
        assert len(evaluate([1, 2], [1, 2], where=where)) == 1
        return
    with pytest.raises(InvalidInput, match="cannot choose pairs where"):
        evaluate([1, 2], [1, 2], where=where)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lead_time_bin": 1.5}, "whole hours, at least 1 hour, got 1.5"),
        ({"parameters": [1]}, "parameters are the values of where"),
        ({"metrics": ["accuracy"], "thresholds": {"low": 1}, "transform": "log"}, "no transform"),
    ],
)
def test_what_makes_no_sense_is_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        evaluate([1, 2], [1, 2], **options)


def test_transforms_take_finite_numbers() -> None:
    for wrong in ({"epsilon": float("nan")}, {"exponent": float("inf")}):
        with pytest.raises(InvalidInput, match=r"finite|exponent"):
            metrics.Transform("power", **{"exponent": 0.2, **wrong})


def test_groups_of_nothing() -> None:
    """Keys that are NULL are a group, also where a metric is of other rows than the pairs."""
    names = ["spearman_r", "nse_log", "annual_peak_relative_bias", "kge"]
    (row,) = evaluate([1, 2, 4, 3], [2, 1, 5, 4], metrics=names, by=["reference_time", "member"])
    assert row["reference_time"] is row["member"] is None
    (same,) = evaluate([1, 2, 4, 3], [2, 1, 5, 4], metrics=names)
    assert [row[name] for name in names] == [same[name] for name in names]
    assert None not in [row[name] for name in names]
    (plain,) = evaluate([1, 2, 4, 3], [2, 1, 5, 4], metrics=names, by=[])
    assert [plain[name] for name in names] == [same[name] for name in names]
    assert evaluate([], []) == []


def test_a_key_twice_is_a_key_once() -> None:
    (row,) = evaluate([1, 2], [2, 3], by=["season", "season", "unit_name", "variable_name"])
    assert list(row) == ["season", "lead_time_bin", *KEYS, "count", "mean_error"]
    (row,) = evaluate([1, 2], [2, 3], metrics="mean_error", by="season")
    assert (row["season"], row["mean_error"]) == ("DJF", 1.0)
    (row,) = evaluate([1, 2], [2, 3], metrics=["kge", "kge"])
    assert [name for name in row if name.startswith("kge")] == ["kge"]


def test_a_link_that_stands_twice_pairs_once() -> None:
    twice = pa.concat_tables([links(gauge="reach")] * 2)
    found = metrics.evaluate(series([1, 2], "gauge"), series([1, 3], "reach"), twice)
    assert found["count"].to_pylist() == [2]


def test_a_group_that_is_too_small_has_no_metric() -> None:
    rows = evaluate([1, 2, 3, 4, 5], [2, 3, 4, 5, 6], by=["day_of_year"], minimum=2)
    assert [(r["day_of_year"], r["count"], r["mean_error"]) for r in rows] == [
        (59, 4, 1.0), (60, 1, None),
    ]  # fmt: skip


def test_chunks_and_order_of_rows_do_not_matter(gauges: Series) -> None:
    names = ["kge", "nse", "rmse", "spearman_r", "primary_baseflow_index", "max_value_time_delta"]
    primary, secondary, crosswalk = gauges
    whole = metrics.evaluate(primary.combine_chunks(), secondary.combine_chunks(), crosswalk, names)
    pieces = [
        pa.Table.from_batches(table.combine_chunks().to_batches(max_chunksize=997))
        for table in (primary, secondary)
    ]
    assert metrics.evaluate(*pieces, crosswalk, names).equals(whole)
    order = np.random.default_rng(0).permutation(len(secondary))
    shuffled = metrics.evaluate(primary, secondary.take(order), crosswalk, names)
    for name in names:
        assert shuffled[name].to_pylist() == pytest.approx(whole[name].to_pylist(), rel=1e-9), name
