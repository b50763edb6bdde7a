"""Streamflow of NOAA's National Water Model, from files laid out as in NOAA's open buckets.

One operational file holds one time of 2.7 million reaches, the retrospective Zarr all times of all
reaches; the warehouse gets the reaches of the crosswalk, as `nwm30-{feature_id}` of the
configuration `nwm30_analysis_assim` and the like, in m^3/s. The version (30 is 3.0) is what the
file itself says. Fill values are left out; their number is in the rows' metadata,
`rows.schema.metadata[b"missing"]`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from thalweg import raw, storage
from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import Contract, _common, _nwm
from thalweg.sources._common import (
    SECONDARY,
    VARIABLE,
    Moment,
    Progress,
    RemoteObject,
    fetch_files,
    fetch_objects,
    hours,
    netcdf,
    period,
    point,
    text,
)
from thalweg.sources._nwm import CONFIGURATIONS, RETROSPECTIVE, Configuration
from thalweg.sources._series import tables, utc

__all__ = [
    "CONFIGURATIONS",
    "CONTRACT",
    "LICENCE",
    "STORES",
    "TITLE",
    "crosswalk",
    "fetch",
    "land_route_link",
    "read",
    "read_route_link",
    "retrospective",
]

TITLE = "NOAA National Water Model, streamflow at river reaches"
LICENCE = "public domain (NOAA)"
#: How old the newest forecast may be, or analysis, at its own time.
AGES = {
    "analysis_assim": dt.timedelta(hours=6),
    "short_range": dt.timedelta(hours=6),
    "medium_range": dt.timedelta(hours=24),
    "long_range": dt.timedelta(hours=36),
}
CONTRACT = Contract(
    tables={
        "configurations": _common.CONFIGURATIONS,
        "secondary_timeseries": SECONDARY,
        # of a RouteLink, which has no names of gauges
        "locations": pa.schema({"id": pa.string(), "geometry": pa.binary()}),
        "location_crosswalks": _common.CROSSWALKS,
    },
    units={VARIABLE: ("m^3/s",)},
    configurations={
        f"nwm*_{each.name}": AGES.get(each.name)
        for each in (*CONFIGURATIONS.values(), RETROSPECTIVE)
    },
)
# Retrospective simulations as Zarr, hourly at all reaches, by version.
STORES = {
    "nwm30": "s3://noaa-nwm-retrospective-3-0-pds/CONUS/zarr/chrtout.zarr",
    "nwm21": "s3://noaa-nwm-retrospective-2-1-zarr-pds/chrtout.zarr",
}


def fetch(
    start: Moment,
    end: Moment,
    *,
    configuration: str = "analysis_assim",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land the channel files of all cycles issued from `start` on and before `end`.

    Parameters
    ----------
    start, end
        Issue times; a date is its midnight, UTC.
    configuration
        A name of `CONFIGURATIONS`, such as `short_range` or `medium_range_mem1`; `medium_range` and
        `long_range` are all their members.

    Raises
    ------
    InvalidInput
        An unknown configuration, or a period in which it is not issued.
    NotFound, Unavailable
        The bucket has none of the files, or does not answer.
    """
    settings = settings or load()
    chosen = {k: c for k, c in CONFIGURATIONS.items() if configuration in (k, c.name)}
    if not chosen:
        hint = nearest(configuration, CONFIGURATIONS)
        raise InvalidInput(f"unknown configuration {configuration!r}{hint}")
    span = period(start, end)
    files: list[RawFile] = []
    nothing = None
    for folder, issues in chosen.items():
        issued = hours(*span, issues.cycles, configuration)
        wanted = _wanted(folder, issues, issued, settings)
        try:
            files += fetch_objects("nwm", folder, wanted, "nc", settings, progress)
        except NotFound as error:  # NOAA's later versions have fewer members
            nothing = nothing or error
    if nothing and not files:
        raise nothing
    return files


def retrospective(
    feature_ids: Iterable[int | str],
    start: Moment,
    end: Moment,
    *,
    version: str = "nwm30",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land the retrospective streamflow of these reaches, a NetCDF file a calendar year.

    A file holds what the public Zarr store holds, bit by bit: packed values, times as numbers,
    attributes; `read` makes rows of it. A year that has landed from the same store is not read
    again.

    Parameters
    ----------
    feature_ids
        Reaches, by their numbers: 6884666 or "6884666".
    start, end
        Times of the values, from `start` on and before `end`; a date is its midnight, UTC.
    version
        A name of `STORES`: `nwm30` (1979-02 to 2023-01) or `nwm21` (1979-02 to 2020-12).

    Raises
    ------
    InvalidInput
        No reach, one that is not a number, an unknown version, or an empty period.
    NotFound, Unavailable
        The store lacks a reach or all of the times, is not there, or does not answer.
    """
    settings = settings or load()
    span = [np.datetime64(time.replace(tzinfo=None), "us") for time in period(start, end)]
    if version not in STORES:
        raise InvalidInput(f"no retrospective of {version!r}{nearest(version, STORES)}")
    url, reaches = STORES[version], _numbers(feature_ids)
    earlier = raw.find("nwm", RETROSPECTIVE.name, None, settings)
    landed = {(file.url, file.headers.get("etag")): file for file in earlier}
    files = []
    with storage.translated(url):
        store, etag = _open_store(url, settings)
        columns = store.indexes["feature_id"].get_indexer(reaches)
        if (columns < 0).any():
            raise NotFound(f"{url} has no reach {reaches[columns < 0].tolist()}")
        times = _nwm.times(store["time"])
        years = _years(times, *span)
        if not years:
            raise NotFound(f"{url} has values from {times[0]} to {times[-1]} only")
        for done, rows in enumerate(years, start=1):
            ends = [utc(time) for time in times[rows][[0, -1]]]
            part = (
                f"{url}?feature_id={','.join(map(str, reaches))}"
                f"&time={'/'.join(f'{time:%Y-%m-%dT%HZ}' for time in ends)}"
            )
            if (part, etag) not in landed:
                extract = store[["streamflow"]].isel(time=rows, feature_id=columns).load()
                landed[part, etag] = raw.land(
                    "nwm", RETROSPECTIVE.name, _file(extract),
                    extension="nc", url=part, headers={"etag": etag},
                    valid_from=ends[0], valid_to=ends[1], settings=settings,
                )  # fmt: skip
            files.append(landed[part, etag])
            if progress:
                progress(done, len(years))
    return files


def read(files: Iterable[RawFile], crosswalk: pa.Table) -> dict[str, pa.Table]:
    """Rows of `secondary_timeseries` and `configurations` for the reaches of the crosswalk.

    Parameters
    ----------
    crosswalk
        Table with `secondary_location_id`, of which the ids `nwm…-{feature_id}` count.

    Raises
    ------
    InvalidInput
        A file is damaged or of another kind, or the crosswalk has no reach of its version.
    """
    reaches = _reaches(crosswalk)
    parts = []
    used = {}
    missing = 0
    for file in files:
        chosen = _nwm.configuration(file)
        with netcdf(raw.read(file), f"raw file {file.id} from {file.url}") as content:
            version = _nwm.version(content, file)
            if version not in reaches:
                raise InvalidInput(
                    f"{file.url} is of {version}, but the crosswalk has no location "
                    f"'{version}-…'; add the crosswalk of this version first"
                )
            rows, dropped = _nwm.rows(content, reaches[version], chosen, version, file)
        parts.append(rows)
        missing += dropped
        number = f"{version[3]}.{version[4:]}"
        used[f"{version}_{chosen.name}"] = f"National Water Model {number}, {chosen.title}"
    return tables(parts, used, missing)


def land_route_link(uri: str, settings: Settings | None = None) -> RawFile:
    """Land a RouteLink.nc, which says which reach carries which gauge; `uri` is any fsspec URI."""
    settings = settings or load()
    if not uri.startswith("s3://"):
        return fetch_files("nwm", "route_link", [uri], lambda _: "nc", settings)[0]
    with storage.translated(uri):
        content = storage.public_filesystem(settings).cat_file(uri)
    return raw.land("nwm", "route_link", content, extension="nc", url=uri, settings=settings)


def read_route_link(files: Iterable[RawFile]) -> dict[str, pa.Table]:
    """Rows of `locations` and `location_crosswalks` of RouteLink files, as `crosswalk` has them.

    Raises
    ------
    InvalidInput
        A file is damaged, or no RouteLink.
    """
    parts: dict[str, list[pa.Table]] = {"locations": [], "location_crosswalks": []}
    for file in files:
        for part, rows in zip(parts.values(), crosswalk(raw.read(file)), strict=True):
            part.append(rows.append_column("raw_file_id", pa.repeat(file.id, rows.num_rows)))
    return {name: pa.concat_tables(part) for name, part in parts.items()}


def crosswalk(route_link: bytes, version: str = "nwm30") -> tuple[pa.Table, pa.Table]:
    """Gauges of a RouteLink.nc, and the reach of each.

    Parameters
    ----------
    route_link
        The file; of its variables `gages`, `link`, `lon`, `lat` (degrees) are used.
    version
        Prefix of the reaches' ids. The ids of reaches are the same from NWM 2.1 to 3.0, so that
        a file of the one serves the other.

    Returns
    -------
    locations, location_crosswalks
        Rows for the tables of these names. A location has no name and lies at the midpoint of its
        reach: write it with `replace=False`, so that what USGS says of a gauge stays.
    """
    with netcdf(route_link, "RouteLink") as content:
        gauges = text(content["gages"][()])
        links = content["link"][()]
        longitude, latitude = content["lon"][()], content["lat"][()]
        # Some reaches carry gauges of others than USGS, under names that are not numbers.
        rows = [i for i, gauge in enumerate(gauges) if re.fullmatch(r"\d{8,15}", gauge)]
        ids = pa.array([f"usgs-{gauges[i]}" for i in rows], pa.string())
        points = [point(float(longitude[i]), float(latitude[i])) for i in rows]
        reaches = pa.array([f"{version}-{links[i]}" for i in rows], pa.string())
    locations = pa.table({"id": ids, "geometry": pa.array(points, pa.binary())})
    return locations, pa.table({"primary_location_id": ids, "secondary_location_id": reaches})


def _wanted(
    folder: str, issues: Configuration, issued: Iterable[dt.datetime], settings: Settings
) -> list[RemoteObject]:
    return [
        RemoteObject(
            f"{settings.nwm_uri}/nwm.{cycle:%Y%m%d}/{folder}/"
            + issues.file.format(cycle=cycle.hour, step=step),
            *[cycle + dt.timedelta(hours=step if issues.forecast else -step)] * 2,
        )
        for cycle in issued
        for step in issues.steps
    ]


def _numbers(feature_ids: Iterable[int | str]) -> np.ndarray[Any, Any]:
    """Sorted numbers of reaches, each once."""
    given = [feature_ids] if isinstance(feature_ids, str) else list(feature_ids)
    for each in given:
        if not str(each).isdecimal():
            raise InvalidInput(f"{each!r} is not the number of a reach, as 6884666 is")
    if not given:
        raise InvalidInput("no reaches: name some, as in feature_ids=[6884666]")
    return np.unique([int(each) for each in given])


def _open_store(url: str, settings: Settings) -> tuple[Any, str]:
    """A public Zarr store with nothing decoded, and the ETag of its metadata."""
    import xarray
    from zarr.storage import FsspecStore

    files = storage.public_filesystem(settings)
    # Asked first, and one at a time: Zarr asks for all metadata at once.
    etag = files.info(f"{url}/.zmetadata")["ETag"]
    store = FsspecStore.from_mapper(files.get_mapper(url))
    return xarray.open_zarr(store, chunks=None, decode_cf=False, consolidated=True), str(etag)


def _file(extract: Any) -> bytes:
    """A dataset as the bytes of a NetCDF-4 file with checksums, the same each time."""
    packed = {name: {"zlib": True, "fletcher32": True} for name in extract.variables}
    return bytes(extract.to_netcdf(engine="h5netcdf", encoding=packed))


def _years(times: np.ndarray[Any, Any], first: Any, last: Any) -> list[slice]:
    """Where the calendar years lie in the times from `first` on and before `last`."""
    start, end = np.searchsorted(times, [first, last])
    turns = np.flatnonzero(np.diff(times[start:end].astype("datetime64[Y]").astype(int))) + 1
    cuts = [start, *(start + turns), end]
    return [slice(int(a), int(b)) for a, b in pairwise(cuts) if a < b]


def _reaches(crosswalk: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    """Reach ids of the crosswalk by version."""
    found: dict[str, set[int]] = {}
    for location in crosswalk["secondary_location_id"].to_pylist():
        if match := re.fullmatch(r"(nwm\d+)-(\d+)", location):
            found.setdefault(match[1], set()).add(int(match[2]))
    return {version: np.array(sorted(ids)) for version, ids in found.items()}
