"""What sources share: times, units, points, and fetching many objects of a public bucket."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from posixpath import dirname
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from thalweg import http, raw, storage
from thalweg.errors import InvalidInput, NotFound, ThalwegError
from thalweg.raw import Progress, RawFile
from thalweg.settings import Settings

__all__ = [
    "CONFIGURATIONS",
    "CROSSWALKS",
    "LOCATIONS",
    "PRIMARY",
    "SECONDARY",
    "SERIES",
    "SIX_HOURLY",
    "TIME",
    "UNITS",
    "VARIABLE",
    "Moment",
    "Progress",
    "RemoteObject",
    "fetch_files",
    "fetch_objects",
    "hours",
    "instant",
    "netcdf",
    "parsed_json",
    "period",
    "point",
    "points",
    "text",
    "understood",
    "workers",
]

TIME = pa.timestamp("us", "UTC")
VARIABLE = "streamflow_hourly_inst"
#: Hours of the day (UTC) at which most models are started.
SIX_HOURLY = (0, 6, 12, 18)
#: Columns of any timeseries; `reference_time` may be null.
SERIES = pa.schema(
    {
        "reference_time": TIME,
        "value_time": TIME,
        "value": pa.float64(),
        "unit_name": pa.string(),
        "location_id": pa.string(),
        "configuration_name": pa.string(),
        "variable_name": pa.string(),
        "raw_file_id": pa.string(),
    }
)
#: Columns of an observed timeseries, and of a simulated one; the last may be null in both.
PRIMARY = SERIES.append(pa.field("quality_code", pa.string()))
SECONDARY = SERIES.append(pa.field("member", pa.string()))
CONFIGURATIONS = pa.schema(dict.fromkeys(("name", "type", "description"), pa.string()))
LOCATIONS = pa.schema({"id": pa.string(), "name": pa.string(), "geometry": pa.binary()})
CROSSWALKS = pa.schema(dict.fromkeys(("primary_location_id", "secondary_location_id"), pa.string()))
UNITS = pa.schema(dict.fromkeys(("name", "long_name"), pa.string()))
Moment = str | dt.date | dt.datetime
WEB = ("http://", "https://")


@dataclass(frozen=True)
class RemoteObject:
    """An object of a public bucket, and the first and last time it speaks of."""

    uri: str
    valid_from: dt.datetime
    valid_to: dt.datetime


def period(start: Moment, end: Moment) -> tuple[dt.datetime, dt.datetime]:
    """Start and end in UTC; a date is its midnight, a time without a zone is UTC.

    >>> period("2024-09-26", "2024-09-27T06:00")[1].isoformat()
    '2024-09-27T06:00:00+00:00'
    """
    first, last = _utc(start), _utc(end)
    if first >= last:
        raise InvalidInput(f"the period from {start} to {end} is empty: start must be before end")
    return first, last


def instant(text: str) -> dt.datetime:
    """The time in UTC of a text that says its offset; raises `ValueError` for one that does not.

    >>> instant("2020-11-01T01:00:00-04:00").isoformat()
    '2020-11-01T05:00:00+00:00'
    """
    time = dt.datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} does not say its offset from UTC")
    return time.astimezone(dt.UTC)


def hours(
    start: dt.datetime,
    end: dt.datetime,
    at: Collection[int] = range(24),
    what: str = "the source",
) -> list[dt.datetime]:
    """The full hours from `start` on and before `end`, those `at` which `what` issues something.

    Raises
    ------
    InvalidInput
        There is none in the period.
    """
    first = start.replace(minute=0, second=0, microsecond=0)
    first += dt.timedelta(hours=1) if first < start else dt.timedelta()
    count = -((first - end) // dt.timedelta(hours=1))
    found = [first + dt.timedelta(hours=i) for i in range(max(count, 0))]
    found = [hour for hour in found if hour.hour in at]
    if not found:
        when = "on each full hour" if len(at) == 24 else f"at {', '.join(map(str, at))} h UTC"
        raise InvalidInput(
            f"{what} is issued {when}, of which none lies from {start:%Y-%m-%d %H:%M} on and "
            f"before {end:%Y-%m-%d %H:%M}: widen the period (start, end)"
        )
    return found


def point(longitude: float, latitude: float) -> bytes:
    """A point as WKB, longitude latitude in degrees (EPSG:4326); `ValueError` for what is none."""
    for name, degrees, most in (("longitude", longitude, 180), ("latitude", latitude, 90)):
        if not (isinstance(degrees, int | float | np.floating) and -most <= degrees <= most):
            raise ValueError(f"{name} {degrees!r} is no number from -{most} to {most}")
    return struct.pack("<BIdd", 1, 1, longitude, latitude)


def points(longitude: Any, latitude: Any) -> pa.Array:
    """Two columns of degrees as one of points; null where a number is missing (null or NaN)."""
    places = np.column_stack([np.asarray(each, float) for each in (longitude, latitude)])
    known = ~np.isnan(places).any(axis=1)
    pairs = zip(places.tolist(), known, strict=True)
    return pa.array([point(*place) if here else None for place, here in pairs], pa.binary())


def text(characters: Any) -> list[str]:
    """Rows of single characters, as NetCDF keeps text, as stripped strings."""
    joined = np.ascontiguousarray(characters).view(f"S{characters.shape[1]}").ravel()
    return [bytes(item).decode().strip() for item in joined]


@contextmanager
def netcdf(content: bytes, name: str) -> Iterator[Any]:
    """A NetCDF-4 file in memory, as h5py sees it; what it lacks is said in one line."""
    advice = "it may have been cut short at the provider: fetch it again later"
    with (
        understood(name, "the NetCDF file it should be", advice),
        h5py.File(io.BytesIO(content)) as file,
    ):
        yield file


@contextmanager
def understood(file: RawFile | str, what: str, advice: str = "fetch it again") -> Iterator[None]:
    """Say in one line that a file is not `what` it should be, whatever its reader stumbled over."""
    try:
        yield
    except ThalwegError:
        raise
    except Exception as error:  # of damaged bytes, libraries raise what they like
        name = file if isinstance(file, str) else f"raw file {file.id} from {file.url}"
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        said = kind + str(error).partition("\n")[0]
        raise InvalidInput(f"{name} is not {what} ({said}); {advice}") from error


def parsed_json(file: RawFile) -> Any:
    """The JSON of a raw file; raises `InvalidInput` that tells an HTML page or a cut file."""
    content = raw.read(file)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        title = re.search(rb"<title>(.*?)</title>", content, re.I | re.S)
        page = f"a page titled {title[1].decode(errors='replace').strip()!r}" if title else None
        raise InvalidInput(
            f"{file.uri} is not JSON but {page or f'cut or damaged ({error})'}; it came from "
            f"{file.url}: fetch it again"
        ) from None


def fetch_files(
    source: str,
    dataset: str,
    uris: Sequence[str],
    extension: Callable[[bytes], str],
    settings: Settings,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land files from wherever they are, with an extension that follows from their bytes.

    Parameters
    ----------
    uris
        `https://…`, paths, or any URI of fsspec, also as a pattern: `s3://mine/2024/*.csv`.

    Raises
    ------
    NotFound, Unavailable
        There is nothing at a URI, or nobody answers.
    InvalidInput
        No URI at all, an empty file, a folder, or a URI of a kind that is not known.
    """
    if isinstance(uris, str) or not uris:
        raise InvalidInput(f"uris: expected a list of URIs, got {uris!r}")
    found = [uri for given in uris for uri in _expand(given)]
    files = []
    with http.Client() as client:
        for done, uri in enumerate(found, start=1):
            content, headers = _get(uri, client)
            if not content:
                raise InvalidInput(f"{uri} is empty; nothing of it landed")
            file = raw.land(
                source, dataset, content,
                extension=extension(content), url=uri, headers=headers, settings=settings,
            )  # fmt: skip
            files.append(file)
            if progress:
                progress(done, len(found))
    return files


@contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads, of which none begins anything more once there was an error."""
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def fetch_objects(
    source: str,
    dataset: str,
    wanted: Sequence[RemoteObject],
    extension: str,
    settings: Settings,
    progress: Progress | None = None,
) -> list[RawFile]:
    """Land those of the wanted objects that the public bucket has, eight at a time.

    An object that has landed before, by its URI and ETag, is not fetched again.

    Raises
    ------
    NotFound
        None of them is there.
    Unavailable
        The bucket does not answer.
    """
    store = storage.public_filesystem(settings)
    present = _listing(store, sorted({dirname(o.uri) for o in wanted}))
    there = [o for o in wanted if o.uri in present]
    if not there:
        first = wanted[0].uri if wanted else f"{source}/{dataset}"
        raise NotFound(f"none of {len(wanted)} files is there; the first would be {first}")
    landed = {(f.url, f.headers.get("etag")): f for f in raw.find(source, dataset, None, settings)}

    def land(item: RemoteObject) -> RawFile:
        headers = present[item.uri]
        if earlier := landed.get((item.uri, headers["etag"])):
            return earlier
        with storage.translated(item.uri):
            content = store.cat_file(item.uri)
        return raw.land(
            source, dataset, content, extension=extension, url=item.uri, headers=headers,
            valid_from=item.valid_from, valid_to=item.valid_to, settings=settings,
        )  # fmt: skip

    with workers(8) as pool:
        futures = [pool.submit(land, item) for item in there]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            if progress:
                progress(done, len(there))
        return [future.result() for future in futures]


def _expand(uri: str) -> list[str]:
    """The URIs that a pattern stands for; of what is there under just this name, it alone."""
    if uri.startswith(WEB) or not any(mark in uri for mark in "*?["):
        return [uri]
    with storage.translated(uri):
        store = storage.filesystem(uri)
        if store.exists(uri):
            return [uri]
        names = [store.unstrip_protocol(path) for path in sorted(store.glob(uri))]
    if not names:
        raise NotFound(f"no file is like {uri}")
    return names


def _get(uri: str, client: http.Client) -> tuple[bytes, Mapping[str, str]]:
    """The bytes at a URI, and what a web server said about them."""
    if uri.startswith(WEB):
        answer = client.get(uri)
        return answer.content, answer.headers
    return storage.read(uri), {}


def _listing(store: Any, folders: list[str]) -> dict[str, dict[str, str]]:
    """What the store says about each object in these folders: ETag, time of change, size."""
    present = {}
    for folder in folders:
        try:
            with storage.translated(folder):
                found = store.ls(folder, detail=True, refresh=True)
        except NotFound:
            continue
        for item in found:
            present[f"s3://{item['name']}"] = {
                "etag": str(item.get("ETag", "")),
                "last-modified": str(item.get("LastModified", "")),
                "content-length": str(item["size"]),
            }
    return present


def _utc(moment: Moment) -> dt.datetime:
    try:
        text = moment if isinstance(moment, str) else moment.isoformat()
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"{moment!r} is not a time: expected 2024-09-26 or 2024-09-26T06:00+00:00"
        ) from None
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
