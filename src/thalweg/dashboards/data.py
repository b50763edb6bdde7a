"""Reads of the warehouse; what was read is kept until a table has a newer snapshot."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

import pandas as pd
from pyiceberg.expressions import AlwaysTrue, And, In

from thalweg import warehouse
from thalweg.metrics import METRICS

__all__ = ["ALL_LEAD_TIMES", "issue_months", "issued_in", "series", "skill"]

ALL_LEAD_TIMES = -1  # stands for the missing bin, so that it can be chosen and compared
#: What the metrics are made of, which says with which observations.
JUDGED, OBSERVED = "monthly_statistics", "primary_configuration_name"
GROUP = ["configuration_name", "variable_name", "lead_time_bin", "primary_location_id", "unit_name"]


def skill() -> pd.DataFrame:
    """Every metric of every gauge: a row a gauge, configuration, variable and lead-time bin.

    Returns
    -------
    pandas.DataFrame
        configuration_name, variable_name, lead_time_bin (hours, lower edge, or ALL_LEAD_TIMES),
        primary_location_id, unit_name, count (pairs), a column a metric, name, longitude and
        latitude (degrees; missing where the location is no point). Not to be changed: the next
        visitor gets the same one.
    """
    return _skill(_newest("metrics"), _newest("locations"))


@lru_cache(maxsize=2)
def _skill(*_snapshots: int | None) -> pd.DataFrame:
    long = _rows("metrics")
    long = long[long["metric_name"].isin(METRICS) & (long["count"] > 0)]  # 0: it is no more
    long = long.fillna({"lead_time_bin": ALL_LEAD_TIMES})
    if long.empty:
        return long
    long = long.astype({"lead_time_bin": int})
    wide = long.set_index([*GROUP, "metric_name"])["value"].unstack("metric_name")
    wide = wide.join(long.groupby(GROUP)["count"].max()).reset_index()
    places = _rows("locations").rename(columns={"id": "primary_location_id"})
    places[["longitude", "latitude"]] = [_point(wkb) for wkb in places.pop("geometry")]
    wide = wide.merge(places, on="primary_location_id", how="left")
    return wide.fillna({"name": wide["primary_location_id"]})


def series(
    location: str, configuration: str, variable: str
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Observations of a gauge, what was forecast for it, and the unit of both.

    Returns
    -------
    observed
        value_time (UTC), value: of the configuration that the forecasts were compared with.
    forecasts
        reference_time (UTC; missing for an analysis), value_time, median, low and high (10th
        and 90th percentile of the members), members (their number).
    unit
        The unit, or "" where there is no forecast.
    """
    tables = ("location_crosswalks", "primary_timeseries", "secondary_timeseries", JUDGED)
    return _series(location, configuration, variable, tuple(map(_newest, tables)))


@lru_cache(maxsize=16)
def _series(
    location: str, configuration: str, variable: str, _snapshots: tuple[int | None, ...]
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    crosswalk = _rows("location_crosswalks", primary_location_id=[location])
    secondary = _rows(
        "secondary_timeseries",
        ("reference_time", "value_time", "value", "unit_name"),
        location_id=crosswalk["secondary_location_id"],
        configuration_name=[configuration],
        variable_name=[variable],
    )
    values = secondary.groupby(["reference_time", "value_time"], dropna=False)["value"]
    forecasts = pd.DataFrame(
        {
            "median": values.median(),
            "low": values.quantile(0.1),
            "high": values.quantile(0.9),
            "members": values.size(),
        }
    ).reset_index()
    judged = _rows(
        JUDGED,
        (OBSERVED,),
        primary_location_id=[location],
        configuration_name=[configuration],
        variable_name=[variable],
    )
    networks = judged[OBSERVED].dropna().unique()
    primary = _rows(
        "primary_timeseries",
        ("value_time", "value"),
        location_id=[location],
        variable_name=[variable],
        unit_name=secondary["unit_name"].unique(),
        **({"configuration_name": networks} if len(networks) else {}),
    )
    unit = next(iter(secondary["unit_name"]), "")
    return primary.sort_values("value_time"), forecasts, unit


def issue_months(forecasts: pd.DataFrame) -> list[str]:
    """Months (`2024-09`) in which forecasts were issued, or for which there is analysis; newest
    first."""
    return sorted(_month(forecasts).unique(), reverse=True)


def issued_in(
    month: str, observed: pd.DataFrame, forecasts: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The forecasts issued in a month, and the observations of the time that they span."""
    forecasts = forecasts[_month(forecasts) == month]
    first, last = forecasts["value_time"].min(), forecasts["value_time"].max()
    return observed[observed["value_time"].between(first, last)], forecasts


def _month(forecasts: pd.DataFrame) -> pd.Series:
    times = forecasts["reference_time"].fillna(forecasts["value_time"])
    months: pd.Series = times.dt.strftime("%Y-%m")
    return months


def _newest(name: str) -> int | None:
    """Id of the newest snapshot of a table; None while it is empty."""
    snapshot = warehouse.table(name).current_snapshot()
    return snapshot.snapshot_id if snapshot else None


def _rows(name: str, columns: Sequence[str] = (), **equal: Iterable[str]) -> pd.DataFrame:
    """Rows of a table whose named columns have one of the given values."""
    conditions = [In(c, tuple(values)) for c, values in equal.items()]  # type: ignore[call-arg, arg-type]
    where = And(AlwaysTrue(), AlwaysTrue(), *conditions)
    frame: pd.DataFrame = warehouse.read(name, columns or None, where).to_pandas()
    return frame


def _point(wkb: bytes | None) -> tuple[float, float]:
    """Longitude and latitude of a WKB point; NaN for any other geometry."""
    order = "<" if wkb and wkb[0] else ">"
    if wkb is None or len(wkb) != 21 or struct.unpack(f"{order}I", wkb[1:5]) != (1,):
        return float("nan"), float("nan")
    return struct.unpack(f"{order}2d", wkb[5:])
