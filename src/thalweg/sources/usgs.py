"""USGS observations: the NWIS and Water Data services, or NOAA's TimeSlice files.

Of the instantaneous values, the warehouse gets those on the full hour (TEEHR's default), as
`streamflow_hourly_inst` and `stage_hourly_inst`; of the daily values, the means, as
`streamflow_daily_mean` at midnight UTC of the site's own day. All are `usgs_observations` at
`usgs-{site number}`, in the provider's unit (`thalweg.ingest` converts it) and with the provider's
words on their quality. Values that are marked as missing (-999999) are left out; their number is in
the table's metadata, `rows.schema.metadata[b"missing"]`.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import numpy as np
import pandas as pd
import pyarrow as pa

from thalweg import http, raw
from thalweg.errors import InvalidInput, NotFound, Unavailable, nearest
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import Contract, _usgs, _waterdata
from thalweg.sources._common import (
    CONFIGURATIONS,
    LOCATIONS,
    PRIMARY,
    Moment,
    Progress,
    RemoteObject,
    fetch_objects,
    hours,
    period,
    understood,
)
from thalweg.sources._usgs import DISCHARGE

__all__ = ["CONTRACT", "LICENCE", "TITLE", "fetch", "fetch_sites", "read"]

TITLE = "USGS discharge and stage, instantaneous or daily, and what is known of the sites"
LICENCE = "public domain (U.S. Geological Survey)"
CONFIGURATION = {
    "name": "usgs_observations",
    "type": "primary",
    "description": "USGS streamflow observations",
}
STAGE = "00065"
MEAN = "00003"  # statistic code: mean of the day
#: Variable by parameter code, and whether the values are those of days.
VARIABLES = {
    (DISCHARGE, False): "streamflow_hourly_inst",
    (STAGE, False): "stage_hourly_inst",
    (DISCHARGE, True): "streamflow_daily_mean",
}
#: What NWIS calls a unit that the Water Data API calls by its UDUNITS name.
UNITS = {"ft3/s": "ft^3/s"}
CONTRACT = Contract(
    tables={
        "configurations": CONFIGURATIONS,
        "locations": LOCATIONS,
        "primary_timeseries": PRIMARY,
        **_usgs.TABLES,
    },
    units={
        "streamflow_hourly_inst": ("ft^3/s", "m^3/s"),  # the latter in TimeSlices
        "streamflow_daily_mean": ("ft^3/s",),
        "stage_hourly_inst": ("ft",),
    },
    configurations={CONFIGURATION["name"]: dt.timedelta(days=2)},
)
MISSING = -999999.0
PER_REQUEST = 50  # sites or series
#: The longest period of one request. The Water Data API gives 50,000 values a page and three years
#: at most; without a key it answers 50 requests an hour.
DAYS_PER_REQUEST = {
    "instantaneous_values": 31,
    "daily_values": 3653,
    "continuous": 365,
    "daily": 3653,
}
PAGE = "50000"
REQUESTS_PER_SECOND = 5
FIRST_WAIT = 1.0  # seconds
#: Where a user's own key to the Water Data API is: with one it answers 1,000 requests an hour.
KEY = "API_USGS_PAT"
ZONED = r".*T.*(Z|[+-]\d\d:?\d\d)"
DAY = r"\d{4}-\d\d-\d\d(T00:00:00(\.0+)?)?"
READERS = {
    "instantaneous_values": _usgs.read_json,
    "daily_values": _usgs.read_json,
    "sites": _usgs.read_rdb,
    "continuous": _usgs.read_features,
    "daily": _usgs.read_features,
    "monitoring-locations": _usgs.read_features,
    "timeslices": _usgs.read_timeslice,
}
#: Dataset by service, and whether the values are those of days.
VALUES = {
    ("nwis", False): "instantaneous_values",
    ("nwis", True): "daily_values",
    ("waterdata", False): "continuous",
    ("waterdata", True): "daily",
}
PAGED = ("continuous", "daily", "monitoring-locations")
OF_DAYS = ("daily_values", "daily")


@dataclass(frozen=True)
class _Request:
    """A question to a service, and the period that its answer speaks of."""

    dataset: str
    url: str
    query: Mapping[str, str]
    valid_from: dt.datetime | None = None
    valid_to: dt.datetime | None = None
    kind: str = "json"
    extension: str = "json"


def fetch(
    sites: Sequence[str],
    start: Moment,
    end: Moment,
    *,
    parameters: Sequence[str] = (DISCHARGE,),
    daily: bool = False,
    service: str = "nwis",
    timeslices: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land the observations from `start` to `end` (a date is its midnight, UTC).

    Parameters
    ----------
    sites
        USGS site numbers, as strings: `"01013500"`. Not used for TimeSlices, which hold all.
    parameters
        `"00060"` (discharge) and, unless daily, `"00065"` (stage).
    daily
        The means of days, and not the instantaneous values.
    service
        `"nwis"`, which the USGS will close in 2027, or `"waterdata"`. The latter says nothing of
        the sites here (see `fetch_sites`), and answers more often with a key, which it takes from
        the environment variable API_USGS_PAT.
    timeslices
        Take the hourly ones of NOAA's TimeSlice files instead of a web service.

    Raises
    ------
    InvalidInput
        A site number that is none, an unknown parameter or service, or an empty period.
    NotFound
        The provider knows none of these sites, or no series or TimeSlice of what is asked for. A
        series without values in the period is an answer without rows.
    Unavailable
        The provider does not answer, also after waiting.
    """
    settings = settings or load()
    first, last = period(start, end)
    if timeslices:
        wanted = [_timeslice(hour, settings) for hour in hours(first, last, what="a TimeSlice")]
        return fetch_objects("usgs", "timeslices", wanted, "ncdf", settings, progress)
    for parameter in parameters:
        if (parameter, daily) not in VARIABLES:
            known = [code for code, of_days in VARIABLES if of_days == daily]
            raise InvalidInput(f"unknown parameter {parameter!r}{nearest(parameter, known)}")
    dataset, batches = VALUES[_known(service), daily], _batches(sites)
    with _client(settings) as client:
        if dataset in PAGED:
            asked = _series(client, dataset, batches, parameters, (first, last), settings)
        else:
            asked = [(batch, (first, last)) for batch in batches]
        requests = [
            _values(dataset, batch, parameters, window, settings)
            for batch, span in asked
            for window in _windows(*span, DAYS_PER_REQUEST[dataset])
        ]
        return _land_all(client, requests, settings, progress)


def fetch_sites(
    sites: Sequence[str],
    *,
    service: str = "nwis",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land what the USGS knows of these sites: names, places, drainage areas, datums …

    Raises
    ------
    InvalidInput, NotFound, Unavailable
        As `fetch`.
    """
    settings = settings or load()
    requests = [_about(_known(service), batch, settings) for batch in _batches(sites)]
    with _client(settings) as client:
        return _land_all(client, requests, settings, progress)


def read(files: Iterable[RawFile]) -> dict[str, pa.Table]:
    """Rows of `primary_timeseries`, `locations` (where the file has them) and `configurations`.

    Files of `fetch_sites` also give `attributes`, `location_attributes` and `units` of these. Of
    two readings of the same time in one file, the later one counts.

    Raises
    ------
    InvalidInput
        A file is damaged, or is not what the provider promises.
    """
    series = [PRIMARY.empty_table()]
    places: dict[str, dict[str, Any]] = {}
    attributes: list[dict[str, Any]] = []
    missing = 0
    for file in files:
        with understood(file, "what the USGS promises"):
            content = READERS[file.dataset](file)
            rows, dropped = _rows(content.readings, file)
        series.append(rows)
        places |= content.places
        attributes += content.attributes
        missing += dropped
    tables = {
        "configurations": pa.Table.from_pylist([CONFIGURATION]),
        "locations": pa.Table.from_pylist(
            [{"id": key, **place} for key, place in places.items()],
            LOCATIONS,
        ),
        "primary_timeseries": pa.concat_tables(series).replace_schema_metadata(
            {"missing": str(missing)}
        ),
    }
    return tables | (_usgs.attribute_tables(attributes) if attributes else {})


def _series(
    client: http.Client,
    dataset: str,
    batches: Iterable[Sequence[str]],
    parameters: Sequence[str],
    period: _waterdata.Span,
    settings: Settings,
) -> list[tuple[Sequence[str], _waterdata.Span]]:
    """Ids of series of the Water Data API, as many as go into a request, and when they count."""
    daily = dataset in OF_DAYS
    asked: dict[_waterdata.Span, list[str]] = {}
    for sites in batches:
        query = {
            "f": "json",
            "limit": PAGE,
            "skipGeometry": "true",
            "monitoring_location_id": ",".join(f"USGS-{site}" for site in sites),
            "parameter_code": ",".join(parameters),
            "computation_period_identifier": "Daily" if daily else "Points",
        } | ({"statistic_id": MEAN} if daily else {})
        url = f"{settings.usgs_api_url}/collections/time-series-metadata/items"
        answer = client.get(url, query, kind="json")
        with _page(answer) as page:
            known = [feature["properties"] for feature in page["features"]]
            for span, ids in _waterdata.chosen(known, *period, daily=daily).items():
                asked.setdefault(span, []).extend(ids)
    return [(batch, span) for span, ids in asked.items() for batch in _parts(ids)]


def _values(
    dataset: str,
    of: Sequence[str],
    parameters: Sequence[str],
    window: tuple[dt.datetime, dt.datetime],
    settings: Settings,
) -> _Request:
    """For the values of these sites, or of these series of the Water Data API."""
    daily = dataset in OF_DAYS
    if dataset in PAGED:
        first, last = _days(*window) if daily else (f"{t:%Y-%m-%dT%H:%M:%SZ}" for t in window)
        url = f"{settings.usgs_api_url}/collections/{dataset}/items"
        query = {
            "f": "json",
            "limit": PAGE,
            "skipGeometry": "true",
            "time_series_id": ",".join(of),
            "time": f"{first}/{last}",
        }
    else:
        first, last = _days(*window) if daily else (f"{t:%Y-%m-%dT%H:%MZ}" for t in window)
        url = f"{settings.usgs_url}/{'dv' if daily else 'iv'}/"
        query = {
            "format": "json",
            "sites": ",".join(of),
            "parameterCd": ",".join(parameters),
            "startDT": first,
            "endDT": last,
            "siteStatus": "all",
        } | ({"statCd": MEAN} if daily else {})
    return _Request(dataset, url, query, *window)


def _about(service: str, sites: Sequence[str], settings: Settings) -> _Request:
    if service == "nwis":
        query = {"format": "rdb", "siteOutput": "expanded", "sites": ",".join(sites)}
        url = f"{settings.usgs_url}/site/"
        return _Request("sites", url, query, kind="text/plain", extension="txt")
    # This collection takes one id as a parameter, but many in a filter.
    ids = ",".join(f"'USGS-{site}'" for site in sites)
    query = {"f": "json", "limit": PAGE, "filter-lang": "cql-text", "filter": f"id IN ({ids})"}
    url = f"{settings.usgs_api_url}/collections/monitoring-locations/items"
    return _Request("monitoring-locations", url, query)


def _client(settings: Settings) -> http.Client:
    key = os.environ.get(KEY)
    keys = {settings.usgs_api_url: {"X-Api-Key": key}} if key else {}
    return http.Client(
        first_wait=FIRST_WAIT, per_second=REQUESTS_PER_SECOND, timeout=120, keys=keys
    )


def _land_all(
    client: http.Client,
    requests: Sequence[_Request],
    settings: Settings,
    progress: Progress | None,
) -> list[RawFile]:
    files: list[RawFile] = []
    nothing = NotFound("USGS has no series of these parameters at these sites in this period")
    for done, request in enumerate(requests, start=1):
        try:
            files += _land(client, request, settings)
        except NotFound as error:  # other batches and windows may have values
            nothing = NotFound(f"USGS has nothing of these sites in this period: {error}")
        if progress:
            progress(done, len(requests))
    if not files:
        raise nothing
    return files


def _land(client: http.Client, request: _Request, settings: Settings) -> list[RawFile]:
    """The files of an answer: one, or as many as the service has pages."""
    files: list[RawFile] = []
    url: str | None = request.url
    query: Mapping[str, str] | None = request.query
    asked: set[str] = set()
    while url:
        answer = client.get(url, query, kind=request.kind)
        files.append(
            raw.land(
                "usgs", request.dataset, answer.content, extension=request.extension,
                url=answer.url, headers=answer.headers,
                valid_from=request.valid_from, valid_to=request.valid_to, settings=settings,
            )
        )  # fmt: skip
        asked.add(answer.url)
        url, query = _next_page(answer) if request.dataset in PAGED else None, None
        if url in asked:
            raise Unavailable(f"the pages of {request.url} go in a circle at {url}; try later")
    return files


def _next_page(answer: http.Answer) -> str | None:
    with _page(answer) as page:
        links = [link["href"] for link in page.get("links", []) if link["rel"] == "next"]
        return urljoin(answer.url, links[0]) if page["features"] and links else None


@contextmanager
def _page(answer: http.Answer) -> Iterator[Any]:
    """A page of features; what it lacks is said in one line."""
    try:
        yield json.loads(answer.content)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise Unavailable(
            f"{answer.url} gave no page of features ({type(error).__name__}: {error}); what came "
            f"before it has landed; try later"
        ) from None


def _rows(readings: pd.DataFrame, file: RawFile) -> tuple[pa.Table, int]:
    """Rows of the variables known here, on the hour or of days, and how many are missing."""
    daily = file.dataset in OF_DAYS
    variables = {code: name for (code, of_days), name in VARIABLES.items() if of_days == daily}
    wanted = readings["parameter"].isin(variables.keys())
    readings = readings[wanted & (readings["statistic"] == MEAN) if daily else wanted]
    times = readings["value_time"]
    for time in times:
        if not re.fullmatch(DAY if daily else ZONED, time):
            raise ValueError(
                f"{time!r} is not {'a day' if daily else 'a time with its UTC offset'}"
            )
    rows = readings.assign(
        reference_time=None,
        value_time=pd.to_datetime(times, utc=True, format="ISO8601").dt.as_unit("us"),
        value=[np.nan if value in (None, "") else float(value) for value in readings["value"]],
        unit_name=[UNITS.get(unit, unit) for unit in readings["unit_name"]],
        configuration_name=CONFIGURATION["name"],
        variable_name=[variables[code] for code in readings["parameter"]],
        quality_code=readings["quality_code"].mask(readings["quality_code"] == ""),
        raw_file_id=file.id,
    )
    rows = rows[rows["value_time"] == rows["value_time"].dt.floor("h")]
    key = ["location_id", "variable_name", "value_time"]
    rows = rows.drop_duplicates(key, keep="last").sort_values(key)
    present = np.isfinite(rows["value"]) & (rows["value"] != MISSING)
    series = pa.Table.from_pandas(rows.loc[present, PRIMARY.names], PRIMARY, preserve_index=False)
    return series.replace_schema_metadata(None), int((~present).sum())


def _timeslice(hour: dt.datetime, settings: Settings) -> RemoteObject:
    # Readings on the full hour are in the slice around that hour, and only there.
    uri = (
        f"{settings.nwm_uri}/nwm.{hour:%Y%m%d}/usgs_timeslices/"
        f"{hour:%Y-%m-%d_%H:%M:%S}.15min.usgsTimeSlice.ncdf"
    )
    return RemoteObject(uri, hour, hour)


def _batches(sites: Sequence[str]) -> list[Sequence[str]]:
    _check_sites(sites)
    return _parts(sites)


def _parts(all: Sequence[str]) -> list[Sequence[str]]:
    return [all[i : i + PER_REQUEST] for i in range(0, len(all), PER_REQUEST)]


def _windows(
    start: dt.datetime, end: dt.datetime, days: int
) -> list[tuple[dt.datetime, dt.datetime]]:
    step = dt.timedelta(days=days)
    starts = [start + i * step for i in range(-((start - end) // step))]
    return [(first, min(first + step, end)) for first in starts]


def _days(start: dt.datetime, end: dt.datetime) -> tuple[str, str]:
    """The first and the last day of a period that ends before `end`."""
    return f"{start:%Y-%m-%d}", f"{end - dt.timedelta(microseconds=1):%Y-%m-%d}"


def _known(service: str) -> str:
    if service not in ("nwis", "waterdata"):
        raise InvalidInput(f"unknown service {service!r}{nearest(service, ['nwis', 'waterdata'])}")
    return service


def _check_sites(sites: Sequence[str]) -> None:
    if not sites:
        raise InvalidInput(
            "no sites to ask USGS for: name some, as in sites=03171000, or bring gauges into the "
            "warehouse first (`thalweg run load_sample`, or ingest_nwm_analysis with a route_link)"
        )
    if isinstance(sites, str):
        raise InvalidInput(f"sites: expected a list of USGS site numbers, got {sites!r}")
    for site in sites:
        if not isinstance(site, str) or not re.fullmatch(r"\d{8,15}", site):
            raise InvalidInput(
                f"{site!r} is not a USGS site number: expected 8 to 15 digits as a string, with "
                f"its leading zeros, such as '01013500'"
            )
