"""Repositories of fields: Zarr in Icechunk, merged by field, one commit a write.

Each type of level is a group of the repository. A field has its place by reference time, step,
member and level; a place that is new is added at the end of its axis (`thalweg.gridded.merge`),
`open` puts them in order.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import icechunk
import numpy as np
import xarray as xr
import zarr

from thalweg import raw, record, storage
from thalweg.errors import InvalidInput, NotFound, Unavailable, nearest
from thalweg.gridded.merge import compare, merge
from thalweg.settings import Settings, load
from thalweg.sources._fields import RAW_FILE

__all__ = [
    "RAW_FILE",
    "Snapshot",
    "Written",
    "file_ids",
    "levels",
    "names",
    "open",
    "snapshots",
    "write",
]

BRANCH = "main"
ATTEMPTS = 20


@dataclass(frozen=True)
class Written:
    """What a write did: fields added, changed, found unchanged; the snapshot that holds them."""

    name: str
    added: int
    changed: int
    unchanged: int
    snapshot: str


@dataclass(frozen=True)
class Snapshot:
    """A state of a repository: when it was written, and from which raw files."""

    id: str
    written_at: dt.datetime
    message: str
    raw_file_ids: tuple[str, ...]
    run_id: str | None


def names(settings: Settings | None = None) -> list[str]:
    """Names of the repositories."""
    uri = (settings or load()).gridded_uri
    try:
        with storage.translated(uri):
            store = storage.filesystem(uri)
            found = store.ls(uri, detail=True, refresh=True)
    except NotFound:
        return []
    return sorted(item["name"].rsplit("/", 1)[-1] for item in found if item["type"] == "directory")


def levels(name: str, settings: Settings | None = None) -> list[str]:
    """Types of level (groups) of a repository, such as `surface`; none before the first write."""
    return _groups(_session(_repository(name, settings or load()), name, None), name)


def snapshots(name: str, settings: Settings | None = None) -> list[Snapshot]:
    """The states of a repository, the newest first."""
    found = _repository(name, settings or load()).ancestry(branch=BRANCH)
    return [
        Snapshot(
            each.id,
            each.written_at,
            each.message,
            tuple(each.metadata.get("raw_file_ids", ())),
            each.metadata.get("run_id"),
        )
        for each in found
    ]


def open(
    name: str,
    level: str | None = None,
    *,
    snapshot: str | dt.datetime | None = None,
    settings: Settings | None = None,
    **options: Any,
) -> xr.Dataset:
    """The fields of a repository, read when they are used.

    Parameters
    ----------
    level
        Type of level; not needed where there is one.
    snapshot
        Id of the state to open, or a time: the state that was valid then. By default the newest.
    options
        For `xarray.open_zarr`; `chunks={}` gives Dask arrays.

    Returns
    -------
    xarray.Dataset
        As the source's `read` gave it, all axes ascending, with `valid_time` (time, step).

    Raises
    ------
    NotFound
        No repository, type of level or snapshot of this name, or nothing is written yet.
    Unavailable
        The store does not answer.
    """
    repository = _repository(name, settings or load())
    session = _session(repository, name, snapshot)
    groups = _groups(session, name)
    if not groups:
        raise NotFound(
            f"{name} holds no fields: nothing was written {'by then' if snapshot else 'yet'}"
        )
    if level is None and len(groups) == 1:
        level = groups[0]
    if level not in groups:
        hint = (
            f"; say which level: {', '.join(groups)}" if level is None else nearest(level, groups)
        )
        raise NotFound(f"{name} has fields of {len(groups)} types of level, not of {level!r}{hint}")
    dataset = _stored(session, level, options)
    unsorted = [n for n, index in dataset.indexes.items() if not index.is_monotonic_increasing]
    dataset = dataset.sortby(unsorted) if unsorted else dataset
    valid = dataset["time"] + dataset["step"]
    valid.attrs = {"standard_name": "time"}
    record.note("read", "gridded", name, session.snapshot_id)
    return dataset.assign_coords(valid_time=valid)


def write(
    name: str,
    fields: Mapping[str, xr.Dataset],
    settings: Settings | None = None,
    *,
    chunks: Mapping[str, int] | None = None,
) -> Written:
    """Merge fields into a repository, all of them in one commit; it is made if it is not there.

    A field that is there with the same values stays, with the raw file that first brought it; with
    other values it is replaced, and stays reachable by its snapshot. What changes nothing makes no
    snapshot. If another writer was faster, all is compared again with the new state.

    Parameters
    ----------
    fields
        Datasets by type of level, as the `read` of a gridded source gives them.
    chunks
        Lengths of chunks by dimension, for variables that are new. By default a chunk has 1 MB: as
        many times and steps as this batch has, up to 168 and 24, and as large a part of the grid.

    Raises
    ------
    InvalidInput
        The repository has another grid, or a variable with other dimensions or units.
    Unavailable
        The store does not answer, or other writers were faster again and again.
    """
    settings = settings or load()
    if not raw.NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot name a repository: expected lower-case letters, digits, '_', '.', '-'"
        )
    if record.pinned():
        return _compared(name, fields, settings)
    repository = _repository(name, settings, create=True)
    ids = [v.values for d in fields.values() for n, v in d.items() if str(n).endswith(RAW_FILE)]
    brought = sorted({id for halves in ids for id in file_ids(halves).flat if id})
    metadata = {"raw_file_ids": brought, "run_id": record.current_run_id()}
    for attempt in range(ATTEMPTS):
        try:
            session = repository.writable_session(BRANCH)
            root = zarr.open_group(session.store, mode="a")
            counts = np.zeros(3, int)
            for level, dataset in fields.items():
                counts += merge(root.require_group(level), dataset, chunks or {})
            added, changed, unchanged = map(int, counts)
            if not added + changed:
                record.note("read", "gridded", name, session.snapshot_id)  # for a rerun
                return Written(name, 0, 0, unchanged, session.snapshot_id)
            message = f"{added} fields added, {changed} changed; raw files {', '.join(brought)}"
            snapshot = session.commit(message, metadata)
        except icechunk.ConflictError:
            _wait(attempt)
            continue
        except icechunk.IcechunkError as error:
            raise _unavailable(name, error) from error
        record.note("wrote", "gridded", name, snapshot, added + changed)
        return Written(name, added, changed, unchanged, snapshot)
    raise Unavailable(f"{name}: {ATTEMPTS} commits in a row lost to other writers; write again")


def _compared(name: str, fields: Mapping[str, xr.Dataset], settings: Settings) -> Written:
    """What a write did in the run that is repeated, if these fields are those; nothing is written.

    They are if they change as many fields of the state before it, and none of the state after it.
    """
    repository = _repository(name, settings)
    wrote = record.pinned_write("gridded", name)
    after = _session(repository, name, wrote.version if wrote else None)
    before = after
    if wrote:
        _, parent, *_ = repository.ancestry(snapshot_id=wrote.version)
        before = _session(repository, name, parent.id)
    added, changed, unchanged = map(int, _counts(before, name, fields))
    if wrote:
        differ = max(_counts(after, name, fields)[:2].sum(), abs(added + changed - wrote.rows))
        record.compared(
            "gridded", name, wrote.version, int(differ) or wrote.rows, is_same=not differ
        )
    elif added + changed:
        record.compared("gridded", name, "", added + changed, is_same=False)
    else:
        record.note("read", "gridded", name, after.snapshot_id)
    return Written(name, added, changed, unchanged, after.snapshot_id)


def _counts(session: icechunk.Session, name: str, fields: Mapping[str, xr.Dataset]) -> Any:
    """How many fields a state has not, has with other values, and has as they are."""
    groups, counts = _groups(session, name), np.zeros(3, int)
    for level, dataset in fields.items():
        counts += compare(_stored(session, level, {}) if level in groups else xr.Dataset(), dataset)
    return counts


def _stored(session: icechunk.Session, level: str, options: Mapping[str, Any]) -> xr.Dataset:
    """The fields of a group, as they lie there."""
    # A variable in seconds, as the period of waves, is no timedelta; only step is one.
    options = {"chunks": None, "decode_timedelta": False} | dict(options)
    dataset: xr.Dataset = xr.open_zarr(session.store, group=level, consolidated=False, **options)
    dataset["step"] = dataset["step"].astype("timedelta64[s]").astype("timedelta64[ns]")
    dataset["step"].attrs = {"standard_name": "forecast_period"}
    return dataset


def _repository(name: str, settings: Settings, *, create: bool = False) -> icechunk.Repository:
    known = names(settings)  # also says, sooner than Icechunk, that the store is gone
    if not create and name not in known:
        hint = nearest(name, known)
        raise NotFound(f"no repository of fields {name!r} at {settings.gridded_uri}{hint}")
    place = _storage(f"{settings.gridded_uri}/{name}")
    try:
        return _made(place) if create else icechunk.Repository.open(place)
    except icechunk.IcechunkError as error:
        raise _unavailable(name, error) from error


def _made(place: icechunk.Storage) -> icechunk.Repository:
    """The repository, new if need be; what another writer has made in part is waited for."""
    for attempt in range(8):
        with suppress(icechunk.IcechunkError):
            return icechunk.Repository.open_or_create(place)
        _wait(attempt)
    return icechunk.Repository.open(place)


def _wait(attempt: int) -> None:
    """Wait for other writers, a little longer each time, never in step with them."""
    time.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))  # noqa: S311


def _storage(uri: str) -> icechunk.Storage:
    """Icechunk's own way to the store, with the SDK's default chain as everywhere."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return icechunk.local_filesystem_storage(parts.path)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return icechunk.s3_storage(
        bucket=parts.netloc,
        prefix=parts.path.strip("/"),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        endpoint_url=endpoint,
        allow_http=bool(endpoint),
        force_path_style=bool(endpoint),
        from_env=True,
    )


def _session(
    repository: icechunk.Repository, name: str, snapshot: str | dt.datetime | None
) -> icechunk.Session:
    try:
        snapshot = snapshot or record.pinned_version("gridded", name)
        if snapshot is None:
            return repository.readonly_session(BRANCH)
        if isinstance(snapshot, dt.datetime):
            return repository.readonly_session(BRANCH, as_of=snapshot)
        return repository.readonly_session(snapshot_id=snapshot)
    except (icechunk.IcechunkError, ValueError) as error:
        raise NotFound(f"{name} has no state {snapshot}: {_said(error)}") from error


def _groups(session: icechunk.Session, name: str) -> list[str]:
    try:
        return sorted(zarr.open_group(session.store, mode="r").group_keys())
    except zarr.errors.GroupNotFoundError:  # the repository was made, nothing is written yet
        return []
    except icechunk.IcechunkError as error:
        raise _unavailable(name, error) from error


def _unavailable(name: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"the store does not give the fields {name!r}: {_said(error)}; see `thalweg status`"
    )


def _said(error: Exception) -> str:
    """The first line of an error of Icechunk, without what leads to it in the code."""
    return str(error).strip().removeprefix("x ").splitlines()[0]


def file_ids(halves: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Ids of raw files, as text, out of the halves (last dimension) of UUIDs; None for 0."""
    pairs, where = np.unique(halves.reshape(-1, 2), axis=0, return_inverse=True)
    ids = [str(uuid.UUID(int=(int(a) << 64) | int(b))) if a or b else None for a, b in pairs]
    return np.array(ids, object)[where].reshape(halves.shape[:-1])
