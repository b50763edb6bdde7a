"""What sources share: times, units, points, and fetching many objects of a public bucket."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from posixpath import dirname
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from thalweg import raw, storage
from thalweg.errors import InvalidInput, NotFound, ThalwegError
from thalweg.raw import Progress, RawFile
from thalweg.settings import Settings

__all__ = [
    "SERIES",
    "TIME",
    "VARIABLE",
    "Moment",
    "Progress",
    "RemoteObject",
    "fetch_objects",
    "hours",
    "instant",
    "netcdf",
    "parsed_json",
    "period",
    "point",
    "text",
    "understood",
]

TIME = pa.timestamp("us", "UTC")
VARIABLE = "streamflow_hourly_inst"
#: Columns of a timeseries, observed; `reference_time` and `quality_code` may be null.
SERIES = pa.schema(
    {
        "reference_time": TIME,
        "value_time": TIME,
        "value": pa.float64(),
        "unit_name": pa.string(),
        "location_id": pa.string(),
        "configuration_name": pa.string(),
        "variable_name": pa.string(),
        "quality_code": pa.string(),
        "raw_file_id": pa.string(),
    }
)
Moment = str | dt.date | dt.datetime


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


def hours(start: dt.datetime, end: dt.datetime) -> list[dt.datetime]:
    """The full hours from `start` on and before `end`."""
    first = start.replace(minute=0, second=0, microsecond=0)
    first += dt.timedelta(hours=1) if first < start else dt.timedelta()
    count = -((first - end) // dt.timedelta(hours=1))
    return [first + dt.timedelta(hours=i) for i in range(max(count, 0))]


def point(longitude: float, latitude: float) -> bytes:
    """A point as WKB, longitude latitude in degrees (EPSG:4326)."""
    return struct.pack("<BIdd", 1, 1, longitude, latitude)


def text(characters: Any) -> list[str]:
    """Rows of single characters, as NetCDF keeps text, as stripped strings."""
    joined = np.ascontiguousarray(characters).view(f"S{characters.shape[1]}").ravel()
    return [bytes(item).decode().strip() for item in joined]


@contextmanager
def netcdf(content: bytes, name: str) -> Iterator[Any]:
    """A NetCDF-4 file in memory, as h5py sees it; what it lacks is said in one line."""
    try:
        with h5py.File(io.BytesIO(content)) as file:
            yield file
    except InvalidInput:
        raise
    # What h5py raises on a damaged file depends on where the damage is.
    except (
        ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise InvalidInput(
            f"{name} is not the NetCDF file it should be ({error}); it may have been cut short at "
            f"the provider: fetch it again later"
        ) from error


@contextmanager
def understood(file: RawFile, what: str) -> Iterator[None]:
    """Say in one line that a file is not `what` it should be, whatever its reader stumbled over."""
    try:
        yield
    except ThalwegError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise InvalidInput(
            f"{file.uri} is not {what} ({type(e).__name__}: {e}); it came from {file.url}"
        ) from e


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

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(land, item) for item in there]
        for done, _ in enumerate(as_completed(futures), start=1):
            if progress:
                progress(done, len(there))
        return [future.result() for future in futures]


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
