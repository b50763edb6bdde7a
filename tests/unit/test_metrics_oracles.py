"""Metrics of single values and signatures, against other libraries and against plain numpy.

Every metric has an oracle here, and every oracle is asked about twelve years of hourly flows at two
gauges and about series made at random: with zeros, ties, gaps, trends and whole dry years.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import HydroErr
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.stats
import scores.continuous
import xarray as xr

from thalweg import metrics
from thalweg.metrics import METRICS

Array = np.ndarray[Any, np.dtype[Any]]
Oracle = Callable[[Array, Array, pd.DatetimeIndex], float]
PLAIN = [n for n, m in METRICS.items() if m.kind in ("deterministic", "signature")]
DAY = np.timedelta64(1, "D")


def from_scores(name: str) -> Oracle:
    function = getattr(scores.continuous, name)
    return lambda o, s, t: float(function(xr.DataArray(s, dims="t"), xr.DataArray(o, dims="t")))


def from_hydroerr(name: str) -> Oracle:
    return lambda o, s, t: float(getattr(HydroErr, name)(s, o))


def ratio(of: Callable[[Array], Any]) -> Oracle:
    return lambda o, s, t: of(s) / of(o)


def alpha_np(o: Array, s: Array, t: pd.DatetimeIndex) -> float:
    curves = [np.sort(x / (len(x) * x.mean())) for x in (o, s)]
    return 1 - np.abs(curves[1] - curves[0]).sum() / 2


def kge_np(o: Array, s: Array, t: pd.DatetimeIndex) -> float:
    rank_r = scipy.stats.spearmanr(o, s).statistic
    return 1 - math.hypot(rank_r - 1, alpha_np(o, s, t) - 1, s.mean() / o.mean() - 1)


def kge_2021(o: Array, s: Array, t: pd.DatetimeIndex) -> float:
    bias = (s.mean() - o.mean()) / o.std()
    return 1 - math.hypot(np.corrcoef(o, s)[0, 1] - 1, s.std() / o.std() - 1, bias)


def nse_log(o: Array, s: Array, t: pd.DatetimeIndex) -> float:
    epsilon = o.mean() / 100
    return float(HydroErr.nse(np.log(s + epsilon), np.log(o + epsilon)))


def annual_peak_relative_bias(o: Array, s: Array, t: pd.DatetimeIndex) -> float:
    peaks = pd.DataFrame({"o": o, "s": s}).groupby(t.year).max()
    return float((peaks["s"] - peaks["o"]).sum() / peaks["o"].sum())


def slope(x: Array, t: pd.DatetimeIndex) -> float:
    low, high = np.quantile(x, [1 - 0.66, 1 - 0.33])
    return float((np.log(high) - np.log(low)) / (0.66 - 0.33))


def of_water_years(
    x: Array, t: pd.DatetimeIndex, of_year: Callable[[Array, Array], float]
) -> float:
    """The mean of the years that have a value in each month, of their values and days."""
    found = []
    for year in range(t[0].year, t[-1].year + 2):
        begin, end = pd.Timestamp(year - 1, 10, 1), pd.Timestamp(year, 10, 1)
        inside = (t >= begin) & (t < end)
        if t[inside].month.nunique() == 12 and x[inside].sum() > 0:
            found.append(of_year(x[inside], ((t[inside] - begin) / DAY).to_numpy()))
    return float(np.mean(found)) if found else math.nan


def centre(x: Array, days: Array) -> float:
    return float(np.average(days, weights=x))


def spread(x: Array, days: Array) -> float:
    return math.sqrt(np.average((days - centre(x, days)) ** 2, weights=x))


def baseflow_index(x: Array, t: pd.DatetimeIndex) -> float:
    flow = pd.Series(x, t).groupby(t.floor("D")).mean().asfreq("D").to_numpy()
    blocks = flow[: len(flow) // 5 * 5].reshape(-1, 5)  # NaN in a block that is not whole
    low = blocks.min(axis=1)
    turns = [
        5 * k + int(blocks[k].argmin())
        for k in range(1, len(blocks) - 1)
        if 0.9 * low[k] <= low[k - 1] and 0.9 * low[k] <= low[k + 1]
    ]
    if len(turns) < 2:
        return math.nan
    days = np.arange(turns[0], turns[-1] + 1)
    base = np.minimum(np.interp(days, turns, flow[turns]), flow[days])
    return float(np.nansum(base) / np.nansum(flow[days]))


def seconds(x: Array, t: pd.DatetimeIndex) -> float:
    return float((t[x.argmax()] - pd.Timestamp(0)) / np.timedelta64(1, "s"))


SIGNATURES: dict[str, Callable[[Array, pd.DatetimeIndex], float]] = {
    "count": lambda x, t: len(x),
    "minimum": lambda x, t: x.min(),
    "maximum": lambda x, t: x.max(),
    "average": lambda x, t: math.fsum(x) / len(x),
    "sum": lambda x, t: math.fsum(x),
    "variance": lambda x, t: x.var(),
    "max_value_time": seconds,
    "flow_duration_curve_slope": slope,
    "centre_of_timing": lambda x, t: of_water_years(x, t, centre),
    "standard_deviation_of_timing": lambda x, t: of_water_years(x, t, spread),
    "baseflow_index": baseflow_index,
}
ORACLES: dict[str, Oracle] = {
    "kge": from_scores("kge"),
    "kge_2012": from_hydroerr("kge_2012"),
    "kge_2021": kge_2021,
    "kge_non_parametric": kge_np,
    "kge_alpha": ratio(np.std),
    "kge_beta": ratio(np.mean),
    "kge_gamma": ratio(scipy.stats.variation),
    "kge_bias_2021": lambda o, s, t: (s.mean() - o.mean()) / o.std(),
    "kge_alpha_non_parametric": alpha_np,
    "nse": from_scores("nse"),
    "nse_normalized": lambda o, s, t: 1 / (2 - HydroErr.nse(s, o)) if o.std() else math.nan,
    "nse_log": nse_log,
    "mean_error": from_scores("additive_bias"),
    "mean_absolute_error": from_scores("mae"),
    "mean_square_error": from_scores("mse"),
    "rmse": from_scores("rmse"),
    "rsr": lambda o, s, t: float(HydroErr.rmse(s, o)) / o.std(),
    "mean_absolute_relative_error": lambda o, s, t: float(HydroErr.mae(s, o)) / o.mean(),
    "relative_bias": lambda o, s, t: (s - o).sum() / o.sum(),
    "percent_bias": from_scores("pbias"),
    "multiplicative_bias": from_scores("multiplicative_bias"),
    "variability_ratio": ratio(np.std),
    "relative_mean": ratio(np.mean),
    "relative_median": ratio(np.median),
    "relative_minimum": ratio(np.min),
    "relative_maximum": ratio(np.max),
    "relative_standard_deviation": ratio(np.std),
    "pearson_r": lambda o, s, t: scipy.stats.pearsonr(s, o).statistic,
    "spearman_r": lambda o, s, t: scipy.stats.spearmanr(s, o).statistic,
    "r_squared": from_hydroerr("r_squared"),
    "max_value_delta": lambda o, s, t: s.max() - o.max(),
    "max_value_time_delta": lambda o, s, t: (seconds(s, t) - seconds(o, t)) / 3600,
    "annual_peak_relative_bias": annual_peak_relative_bias,
    **{f"primary_{n}": lambda o, s, t, f=f: f(o, t) for n, f in SIGNATURES.items()},
    **{f"secondary_{n}": lambda o, s, t, f=f: f(s, t) for n, f in SIGNATURES.items()},
}


def at_random(seed: int) -> pd.DataFrame:
    """A pair of series: hourly or daily, of a day to three years, in steps so that values tie."""
    rng = np.random.default_rng(seed)
    often = ["h", "D"][seed % 2]
    count = int(rng.choice([3, 24, 100, 500, 1200]))
    times = pd.date_range(
        f"200{seed % 10}-0{1 + seed % 9}-11 05:00", periods=count, freq=often, unit="us"
    )
    season = 1 + np.sin(2 * np.pi * (times.dayofyear.to_numpy() + 10 * seed) / 365)
    observed = np.round(rng.lognormal(1, 1, count) * season, seed % 3)
    simulated = np.round(observed * rng.lognormal(0.1, 0.4, count) + rng.normal(0, 0.1), 1)
    if seed % 4 == 0:
        observed[rng.random(count) < 0.3] = 0
    frame = pd.DataFrame({"o": observed, "s": np.abs(simulated)}, index=times)
    return frame[rng.random(count) < rng.choice([0.9, 1])] if count > 3 else frame


def frames(many: dict[str, pd.DataFrame]) -> list[pd.DataFrame]:
    """Primary, secondary and crosswalk of the series, each at a location of its own."""
    links = pd.DataFrame({"primary_location_id": list(many), "secondary_location_id": list(many)})
    sides = []
    for column in ("o", "s"):
        each = [
            pd.DataFrame({"value_time": f.index.tz_localize("UTC"), "value": f[column].to_numpy()})
            .assign(location_id=name, unit_name="m^3/s", variable_name="streamflow_daily_mean")
            .assign(configuration_name=column, reference_time=pd.NaT)
            for name, f in many.items()
        ]
        side = pd.concat(each).sample(frac=1, random_state=1)  # in no order
        sides.append(side.assign(reference_time=side["reference_time"].dt.tz_localize("UTC")))
    return [*sides, links]


def check(row: dict[str, Any], o: Array, s: Array, t: pd.DatetimeIndex) -> None:
    for name in PLAIN:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            expected = float(ORACLES[name](o, s, t))
        if not math.isfinite(expected):
            assert row[name] is None, name
        else:
            assert row[name] == pytest.approx(expected, rel=1e-8, abs=1e-9), name


def test_every_metric_has_an_oracle() -> None:
    assert set(ORACLES) == set(PLAIN)


def test_of_real_gauges(shared_data: Path) -> None:
    folder = shared_data / "usgs_nwm_two_gauges"
    names = ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
    sides = [pq.read_table(folder / f"{name}.parquet") for name in names]
    pairs = metrics.joined(*sides).to_pandas()
    for row in metrics.evaluate(*sides, PLAIN).to_pylist():
        mine = pairs[pairs["primary_location_id"] == row["primary_location_id"]]
        times = pd.DatetimeIndex(mine["value_time"]).tz_convert(None)
        check(row, mine["primary_value"].to_numpy(), mine["secondary_value"].to_numpy(), times)


def test_of_series_made_at_random() -> None:
    many = {f"{seed:03}": at_random(seed) for seed in range(60)}
    rows = metrics.evaluate(*frames(many), PLAIN).to_pylist()
    assert [row["primary_location_id"] for row in rows] == list(many)
    for row, frame in zip(rows, many.values(), strict=True):
        check(row, frame["o"].to_numpy(), frame["s"].to_numpy(), frame.index)
    # What the series are there for.
    for name in ("primary_centre_of_timing", "primary_baseflow_index", "relative_minimum"):
        assert 10 < sum(row[name] is not None for row in rows) < len(rows), name
