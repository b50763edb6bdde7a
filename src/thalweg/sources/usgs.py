"""USGS streamflow observations: the instantaneous values service, or NOAA's TimeSlice files.

The warehouse gets `streamflow_hourly_inst`: of the 15-minute values, those on the full hour
(TEEHR's default), in m^3/s, as `usgs_observations` at `usgs-{site number}`. Values that the
provider marks as missing (-999999) are left out; their number is in the table's metadata,
`rows.schema.metadata[b"missing"]`.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa

from thalweg import raw
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources._common import (
    CUBIC_FOOT,
    TIME,
    VARIABLE,
    Moment,
    Progress,
    RemoteObject,
    fetch_objects,
    hours,
    netcdf,
    period,
    point,
    text,
)

__all__ = ["LICENCE", "TITLE", "fetch", "read"]

TITLE = "USGS instantaneous discharge (parameter 00060)"
LICENCE = "public domain (U.S. Geological Survey)"
CONFIGURATION = {
    "name": "usgs_observations",
    "type": "primary",
    "description": "USGS streamflow observations",
}
DISCHARGE = "00060"
SITES_PER_REQUEST = 50
DAYS_PER_REQUEST = 31
ATTEMPTS = 5
FIRST_WAIT = 1.0  # seconds; doubled each time
MISSING = -999999.0


def fetch(
    sites: Sequence[str],
    start: Moment,
    end: Moment,
    *,
    timeslices: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land the observations from `start` to `end` (a date is its midnight, UTC).

    Parameters
    ----------
    sites
        USGS site numbers, as strings: `"01013500"`. Not used for TimeSlices, which hold all.
    timeslices
        Take the hourly ones of NOAA's TimeSlice files instead of the USGS web service.

    Raises
    ------
    InvalidInput
        A site number that is none, or an empty period.
    NotFound
        The provider has nothing for these sites or this period.
    Unavailable
        The provider does not answer, also after waiting.
    """
    settings = settings or load()
    first, last = period(start, end)
    if timeslices:
        wanted = [_timeslice(hour, settings) for hour in hours(first, last)]
        return fetch_objects("usgs", "timeslices", wanted, "ncdf", settings, progress)
    _check_sites(sites)
    batches = [sites[i : i + SITES_PER_REQUEST] for i in range(0, len(sites), SITES_PER_REQUEST)]
    requests = list(product(batches, _windows(first, last)))
    files = []
    nothing = NotFound("USGS was asked for nothing")
    with httpx.Client(timeout=120, follow_redirects=True) as client:
        for done, (batch, window) in enumerate(requests, start=1):
            try:
                files.append(_request(client, batch, *window, settings))
            except NotFound as error:  # other batches and windows may have values
                nothing = error
            if progress:
                progress(done, len(requests))
    if not files:
        raise nothing
    return files


def read(files: Iterable[RawFile]) -> dict[str, pa.Table]:
    """Rows of `primary_timeseries`, `locations` (where the file has them) and `configurations`.

    Raises
    ------
    InvalidInput
        A file is damaged, is not what the provider promises, or has another unit than ft3/s.
    """
    series = []
    places: dict[str, dict[str, Any]] = {}
    missing = 0
    for file in files:
        reader = _read_timeslice if file.dataset == "timeslices" else _read_json
        rows, found, dropped = reader(file)
        series.append(rows)
        places |= found
        missing += dropped
    rows = pa.concat_tables(series) if series else _series([], [], [], "")
    return {
        "configurations": pa.Table.from_pylist([CONFIGURATION]),
        "locations": pa.Table.from_pylist(
            [{"id": key, **place} for key, place in places.items()],
            pa.schema({"id": pa.string(), "name": pa.string(), "geometry": pa.binary()}),
        ),
        "primary_timeseries": rows.replace_schema_metadata({"missing": str(missing)}),
    }


def _request(
    client: httpx.Client,
    sites: Sequence[str],
    start: dt.datetime,
    end: dt.datetime,
    settings: Settings,
) -> RawFile:
    query = {
        "format": "json",
        "sites": ",".join(sites),
        "parameterCd": DISCHARGE,
        "startDT": f"{start:%Y-%m-%dT%H:%MZ}",
        "endDT": f"{end:%Y-%m-%dT%H:%MZ}",
        "siteStatus": "all",
    }
    response = _patiently(client, f"{settings.usgs_url}/iv/", query)
    return raw.land(
        "usgs", "instantaneous_values", response.content, extension="json",
        url=str(response.url), headers=dict(response.headers),
        valid_from=start, valid_to=end, settings=settings,
    )  # fmt: skip


def _patiently(client: httpx.Client, url: str, query: dict[str, str]) -> httpx.Response:
    """GET, again after 1, 2, 4, 8 seconds where the service is busy or does not answer."""
    said = ""
    for attempt in range(ATTEMPTS):
        try:
            response = client.get(url, params=query)
        except httpx.TransportError as error:
            said, wait = str(error) or type(error).__name__, FIRST_WAIT * 2**attempt
        else:
            if response.is_success and "json" in response.headers.get("content-type", ""):
                return response
            said = f"{response.status_code} {response.reason_phrase}"
            if response.status_code == 404:
                raise NotFound(f"USGS has no discharge of {query['sites']} in this period: {url}")
            if response.is_client_error and response.status_code not in (408, 429):
                raise InvalidInput(f"USGS refuses the request ({said}): {response.url}")
            wait = _retry_after(response, FIRST_WAIT * 2**attempt)
        if attempt + 1 < ATTEMPTS:
            time.sleep(wait)
    raise Unavailable(f"USGS does not give {url} ({said} after {ATTEMPTS} attempts); try later")


def _retry_after(response: httpx.Response, default: float) -> float:
    given = response.headers.get("retry-after", "")
    return min(float(given), 60.0) if given.isdigit() else default


def _read_json(file: RawFile) -> tuple[pa.Table, dict[str, dict[str, Any]], int]:
    try:
        answer = json.loads(raw.read(file))["value"]["timeSeries"]
        parts = [s for s in answer if s["variable"]["variableCode"][0]["value"] == DISCHARGE]
        return _read_series(parts, file)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(
            f"{file.uri} is not an answer of the USGS instantaneous values service "
            f"({type(error).__name__}: {error}); it came from {file.url}"
        ) from error


def _read_series(
    parts: list[dict[str, Any]], file: RawFile
) -> tuple[pa.Table, dict[str, dict[str, Any]], int]:
    times: list[str] = []
    values: list[str] = []
    ids: list[str] = []
    places: dict[str, dict[str, Any]] = {}
    for part in parts:
        site = part["sourceInfo"]
        location = f"usgs-{site['siteCode'][0]['value']}"
        unit = part["variable"]["unit"]["unitCode"]
        if unit != "ft3/s":
            raise InvalidInput(f"{file.uri}: {location} is in {unit!r}, expected 'ft3/s'")
        at = site["geoLocation"]["geogLocation"]
        geometry = point(at["longitude"], at["latitude"])
        places[location] = {"name": site["siteName"], "geometry": geometry}
        # A site may have more than one sensor; the first that has values is the main one.
        blocks = [block["value"] for block in part["values"] if block["value"]]
        readings = blocks[0] if blocks else []
        times += [reading["dateTime"] for reading in readings]
        values += [reading["value"] for reading in readings]
        ids += [location] * len(readings)
    when = pd.to_datetime(pd.Series(times, dtype=object), utc=True, format="ISO8601")
    discharge = np.array(values, dtype=float)
    hourly = ((when.dt.minute == 0) & (when.dt.second == 0)).to_numpy(bool)
    present = np.isfinite(discharge) & (discharge != MISSING)
    keep = hourly & present
    rows = _series(
        when[keep].dt.tz_convert(None).to_numpy("datetime64[us]"),
        discharge[keep] * CUBIC_FOOT,
        np.array(ids, dtype=object)[keep],
        file.id,
    )
    return rows, places, int((hourly & ~present).sum())


def _read_timeslice(file: RawFile) -> tuple[pa.Table, dict[str, dict[str, Any]], int]:
    """A TimeSlice: one reading a gauge, m^3/s, with the time of the reading itself.

    A discharge of zero comes with quality 0, all others with 100: zero is kept, a dry river is
    an observation too.
    """
    with netcdf(raw.read(file), f"raw file {file.id} from {file.url}") as content:
        unit = bytes(content["discharge"].attrs["units"]).decode()
        if unit != "m^3/s":
            raise InvalidInput(f"{file.uri}: discharge is in {unit!r}, expected 'm^3/s'")
        sites = text(content["stationId"][()])
        moments = text(content["time"][()])
        discharge = content["discharge"][()].astype(float)
    when = np.array([moment.replace("_", "T") for moment in moments], "datetime64[us]")
    hourly = when == when.astype("datetime64[h]")
    present = np.isfinite(discharge) & (discharge >= 0)
    keep = hourly & present
    ids = np.array([f"usgs-{site}" for site in sites], dtype=object)
    rows = _series(when[keep], discharge[keep], ids[keep], file.id)
    return rows, {}, int((hourly & ~present).sum())


def _series(when: Any, values: Any, locations: Any, raw_file_id: str) -> pa.Table:
    n = len(values)
    return pa.table(
        {
            "reference_time": pa.nulls(n, TIME),
            "value_time": pa.array(when, pa.timestamp("us")).cast(TIME),
            "value": pa.array(values, pa.float64()),
            "unit_name": pa.array(["m^3/s"] * n, pa.string()),
            "location_id": pa.array(locations, pa.string()),
            "configuration_name": pa.array([CONFIGURATION["name"]] * n, pa.string()),
            "variable_name": pa.array([VARIABLE] * n, pa.string()),
            "raw_file_id": pa.array([raw_file_id] * n, pa.string()),
        }
    )


def _timeslice(hour: dt.datetime, settings: Settings) -> RemoteObject:
    # Readings on the full hour are in the slice around that hour, and only there.
    uri = (
        f"{settings.nwm_uri}/nwm.{hour:%Y%m%d}/usgs_timeslices/"
        f"{hour:%Y-%m-%d_%H:%M:%S}.15min.usgsTimeSlice.ncdf"
    )
    return RemoteObject(uri, hour, hour)


def _windows(start: dt.datetime, end: dt.datetime) -> list[tuple[dt.datetime, dt.datetime]]:
    step = dt.timedelta(days=DAYS_PER_REQUEST)
    starts = [start + i * step for i in range(-((start - end) // step))]
    return [(first, min(first + step, end)) for first in starts]


def _check_sites(sites: Sequence[str]) -> None:
    if not sites:
        raise InvalidInput(
            "no sites to ask USGS for: name some, as in sites=03171000, or bring gauges into the "
            "warehouse first (`thalweg run load_sample`, or ingest_nwm with a route_link)"
        )
    if isinstance(sites, str):
        raise InvalidInput(f"sites: expected a list of USGS site numbers, got {sites!r}")
    for site in sites:
        if not isinstance(site, str) or not re.fullmatch(r"\d{8,15}", site):
            raise InvalidInput(
                f"{site!r} is not a USGS site number: expected 8 to 15 digits as a string, with "
                f"its leading zeros, such as '01013500'"
            )
