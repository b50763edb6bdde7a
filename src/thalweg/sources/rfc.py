"""Streamflow forecasts of NOAA's River Forecast Centers, as the National Water Model takes them in.

A file holds one forecast of one station: two days observed, then about ten days ahead, in m^3/s.
The warehouse gets what was forecast, from the issue time on, as `rfc_forecast` at the station's
name, such as `BCRT2`. What was filled in to make the series whole (`synthetic_values`) and missing
values are left out; their number is in the rows' metadata, `rows.schema.metadata[b"missing"]`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from thalweg import raw
from thalweg.errors import InvalidInput
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import Contract
from thalweg.sources._common import (
    CONFIGURATIONS,
    SECONDARY,
    VARIABLE,
    Moment,
    Progress,
    RemoteObject,
    fetch_objects,
    hours,
    netcdf,
    period,
)
from thalweg.sources._series import series, tables, utc

__all__ = ["CONTRACT", "LICENCE", "TITLE", "fetch", "read"]

TITLE = "Forecasts of NOAA's River Forecast Centers at reservoirs and gauges"
LICENCE = "public domain (NOAA)"
NAME = "rfc_forecast"
CONTRACT = Contract(
    tables={"configurations": CONFIGURATIONS, "secondary_timeseries": SECONDARY},
    units={VARIABLE: ("m^3/s",)},
    configurations={NAME: dt.timedelta(hours=36)},
)
AHEAD = dt.timedelta(hours=240)


def fetch(
    stations: Sequence[str],
    start: Moment,
    end: Moment,
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land the forecasts issued from `start` on and before `end` (a date is its midnight, UTC).

    Parameters
    ----------
    stations
        Names of the National Weather Service, as `BCRT2`.

    Raises
    ------
    InvalidInput
        A name that is none, or a period without a full hour.
    NotFound, Unavailable
        The bucket has none of the files, or does not answer.
    """
    settings = settings or load()
    if isinstance(stations, str) or not stations:
        raise InvalidInput(f"stations: expected a list such as ['BCRT2'], got {stations!r}")
    for station in stations:
        if not re.fullmatch(r"[A-Z0-9]{5}", station):
            raise InvalidInput(f"{station!r} is no station: expected five letters, as 'BCRT2'")
    wanted = [
        RemoteObject(
            f"{settings.nwm_uri}/nwm.{hour:%Y%m%d}/rfc_timeseries/"
            f"{hour:%Y-%m-%d_%H}.60min.{station}.RFCTimeSeries.ncdf",
            hour,
            hour + AHEAD,
        )
        for hour in hours(*period(start, end), what="a forecast")
        for station in stations
    ]
    return fetch_objects("rfc", "timeseries", wanted, "ncdf", settings, progress)


def read(files: Iterable[RawFile]) -> dict[str, pa.Table]:
    """Rows of `secondary_timeseries` and `configurations`.

    Raises
    ------
    InvalidInput
        A file is damaged, is of another kind, or not in m^3/s.
    """
    parts = []
    missing = 0
    for file in files:
        with netcdf(raw.read(file), f"raw file {file.id} from {file.url}") as content:
            rows, dropped = _series(content, file)
        parts.append(rows)
        missing += dropped
    used = {NAME: "Forecasts of NOAA's River Forecast Centers"} if parts else {}
    return tables(parts, used, missing)


def _series(content: Any, file: RawFile) -> tuple[pa.Table, int]:
    """The forecast of a file, and how many of its values are missing or were filled in."""
    discharge = content["discharges"]
    unit = _text(discharge.attrs["units"])
    if unit != "m^3/s":
        raise InvalidInput(f"{file.url}: discharge is in {unit!r}, expected 'm^3/s'")
    issued = _moment(content["issueTimeUTC"][0].tobytes())
    first = _moment(content.attrs["sliceStartTimeUTC"])
    step = np.timedelta64(int(content["timeSteps"][0]), "s")
    values = discharge[0].astype(float)
    when = first + np.arange(len(values)) * step
    ahead = (when >= issued) & (when == when.astype("datetime64[h]"))
    present = (values >= 0) & (content["synthetic_values"][0] == 0)
    keep = ahead & present
    constant = {
        "reference_time": utc(issued),
        "unit_name": unit,
        "location_id": _text(content["stationId"][()].tobytes()).strip(),
        "configuration_name": NAME,
        "variable_name": VARIABLE,
        "member": None,
        "raw_file_id": file.id,
    }
    rows = series(constant, value=values[keep], value_time=when[keep])
    return rows, int((ahead & ~present).sum())


def _moment(text: bytes) -> np.datetime64:
    return np.datetime64(_text(text).replace("_", "T"), "us")


def _text(stored: bytes) -> str:
    return bytes(stored).decode()
