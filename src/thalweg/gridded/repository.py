"""Repositories of fields: Zarr in Icechunk, merged by field, one commit a write.

Each type of level is a group of the repository. A field has its place by reference time, step,
member and level; a place that is new is added at the end of its axis, `open` puts them in order.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt, prod
from typing import Any
from urllib.parse import urlsplit

import icechunk
import numpy as np
import xarray as xr
import zarr

from thalweg import raw, record, storage
from thalweg.errors import InvalidInput, NotFound, Unavailable, nearest
from thalweg.settings import Settings, load

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

#: `t2m_raw_file` says which raw file each field of `t2m` is from.
RAW_FILE = "_raw_file"
BRANCH = "main"
ATTEMPTS = 20
#: Values in a chunk, 1 MB of float32.
CHUNK = 2**18
#: The longest chunks along time and step; a batch that is shorter makes shorter ones.
LONGEST = {"time": 168, "step": 24}
AXIS_CHUNK = 4096
GRID = ("latitude", "longitude")
#: Attributes in which all fields of a variable agree: units, analysis or forecast.
MEANING = ("units", "GRIB_dataType")
#: How times and steps are stored: type, attributes.
STORED = {
    "M": ("datetime64[s]", {"units": "seconds since 1970-01-01", "calendar": "standard"}),
    "m": ("timedelta64[s]", {"units": "seconds"}),
}


#: A Zarr group, whose items have for types all that an item may be.
Group = Any


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
    """Types of level (groups) of a repository, such as `surface` and `isobaricInhPa`."""
    session = _repository(name, settings or load()).readonly_session(BRANCH)
    return sorted(zarr.open_group(session.store, mode="r").group_keys())


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
        No repository, type of level or snapshot of this name.
    Unavailable
        The store does not answer.
    """
    repository = _repository(name, settings or load())
    session = _session(repository, name, snapshot)
    groups = sorted(zarr.open_group(session.store, mode="r").group_keys())
    if level is None and len(groups) == 1:
        level = groups[0]
    if level not in groups:
        hint = (
            f"; say which level: {', '.join(groups)}" if level is None else nearest(level, groups)
        )
        raise NotFound(f"{name} has fields of {len(groups)} types of level, not of {level!r}{hint}")
    # A variable in seconds, as the period of waves, is no timedelta; only step is one.
    options = {"chunks": None, "decode_timedelta": False} | options
    dataset: xr.Dataset = xr.open_zarr(session.store, group=level, consolidated=False, **options)
    dataset["step"] = dataset["step"].astype("timedelta64[s]").astype("timedelta64[ns]")
    dataset["step"].attrs = {"standard_name": "forecast_period"}
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
    repository = _repository(name, settings, create=True)
    ids = [v.values for d in fields.values() for n, v in d.items() if str(n).endswith(RAW_FILE)]
    brought = sorted({id for halves in ids for id in file_ids(halves).flat if id})
    metadata = {"raw_file_ids": brought, "run_id": record.current_run_id()}
    for attempt in range(ATTEMPTS):
        session = repository.writable_session(BRANCH)
        root = zarr.open_group(session.store, mode="a")
        counts = np.zeros(3, int)
        for level, dataset in fields.items():
            counts += _merge(root.require_group(level), dataset, chunks or {})
        added, changed, unchanged = map(int, counts)
        if not added + changed:
            return Written(name, 0, 0, unchanged, session.snapshot_id)
        message = f"{added} fields added, {changed} changed; raw files {', '.join(brought)}"
        try:
            snapshot = session.commit(message, metadata)
        except icechunk.ConflictError:
            # Others write too: wait a little longer each time, never in step with them.
            time.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))  # noqa: S311
            continue
        except icechunk.IcechunkError as error:
            raise _unavailable(name, error) from error
        record.note("wrote", "gridded", name, snapshot, added + changed)
        return Written(name, added, changed, unchanged, snapshot)
    raise Unavailable(f"{name}: {ATTEMPTS} commits in a row lost to other writers; write again")


def _repository(name: str, settings: Settings, *, create: bool = False) -> icechunk.Repository:
    known = names(settings)  # also says, sooner than Icechunk, that the store is gone
    if not create and name not in known:
        hint = nearest(name, known)
        raise NotFound(f"no repository of fields {name!r} at {settings.gridded_uri}{hint}")
    place = _storage(f"{settings.gridded_uri}/{name}")
    try:
        if not create:
            return icechunk.Repository.open(place)
        try:
            return icechunk.Repository.open_or_create(place)
        except icechunk.IcechunkError:  # another writer made it first
            return icechunk.Repository.open(place)
    except icechunk.IcechunkError as error:
        raise _unavailable(name, error) from error


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
        if snapshot is None:
            return repository.readonly_session(BRANCH)
        if isinstance(snapshot, dt.datetime):
            return repository.readonly_session(BRANCH, as_of=snapshot)
        return repository.readonly_session(snapshot_id=snapshot)
    except (icechunk.IcechunkError, ValueError) as error:
        raise NotFound(f"{name} has no state {snapshot}: {_said(error)}") from error


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


def _merge(group: Group, dataset: xr.Dataset, chunks: Mapping[str, int]) -> Any:
    """Put the fields of a dataset in their places; how many are added, changed, unchanged."""
    _check_grid(group, dataset)
    if dict(group.attrs) != dataset.attrs:
        group.update_attributes(dataset.attrs)
    places = {n: _places(group, dataset[n]) for n in map(str, dataset.indexes) if n not in GRID}
    lengths = {axis: group[axis].shape[0] for axis in places}
    for _, array in group.arrays():
        dims = array.metadata.dimension_names
        shape = tuple(lengths.get(d, n) for d, n in zip(dims, array.shape, strict=True))
        if shape != array.shape:
            array.resize(shape)
    counts = np.zeros(3, int)
    for name in dataset.data_vars:
        if f"{name}{RAW_FILE}" in dataset:
            counts += _put(group, dataset, str(name), places, chunks)
    return counts


def _put(
    group: Group,
    dataset: xr.Dataset,
    name: str,
    places: Mapping[str, Any],
    chunks: Mapping[str, int],
) -> Any:
    new, new_ids = dataset[name], dataset[f"{name}{RAW_FILE}"]
    axes = [str(dim) for dim in new.dims[:-2]]
    stored = _array(group, new, np.nan, _chunks(new, chunks))
    stored_ids = _array(group, new_ids, 0, [*(AXIS_CHUNK // 8 ** (len(axes) - 1) for _ in axes), 2])
    there = tuple(places[axis] for axis in axes)
    old_ids = stored_ids.oindex[(*there, slice(None))]
    is_given, is_known = new_ids.values.any(-1), old_ids.any(-1)
    differs = is_given & (new_ids.values != old_ids).any(-1)
    values = new.values
    if differs.any() and (is_known.any() or not differs.all()):
        old = stored.oindex[(*there, slice(None), slice(None))]
        same = ((old == values) | (np.isnan(old) & np.isnan(values))).all((-2, -1))
        differs &= ~(is_known & same)
        values = np.where(differs[..., None, None], values, old)
    if differs.any():
        stored.oindex[(*there, slice(None), slice(None))] = values
        ids = np.where(differs[..., None], new_ids.values, old_ids)
        stored_ids.oindex[(*there, slice(None))] = ids
    added, changed = int((differs & ~is_known).sum()), int((differs & is_known).sum())
    return np.array([added, changed, int(is_given.sum()) - added - changed])


def _check_grid(group: Group, dataset: xr.Dataset) -> None:
    for name in GRID:
        values = dataset[name].values
        if name not in group:
            _array(group, dataset[name], 0, list(values.shape))[...] = values
        elif not np.array_equal(group[name][...], values):
            known, given = "x".join(map(str, group[name].shape)), "x".join(map(str, values.shape))
            raise InvalidInput(
                f"{group.path} of this repository has another grid ({name}: {known}, now {given}): "
                f"write this one to a repository of its own"
            )


def _places(group: Group, axis: xr.DataArray) -> Any:
    """Where the values of an axis are in the stored one; those that are new are added to it."""
    kind, about = STORED.get(axis.dtype.kind, ("", {}))
    values = axis.values.astype(kind).astype("int64") if kind else axis.values
    name = str(axis.name)
    if name not in group:
        empty = xr.DataArray(values[:0], dims=name, name=name, attrs=axis.attrs | about)
        _array(group, empty, 0, [AXIS_CHUNK])
    known = group[name][...]
    new = values[~np.isin(values, known)]
    if len(new):
        group[name].resize((len(known) + len(new),))
        group[name][len(known) :] = new
    stored = np.concatenate([known, new])
    order = np.argsort(stored)
    return order[np.searchsorted(stored, values, sorter=order)]


def _array(group: Group, variable: xr.DataArray, fill: float, chunks: Sequence[int]) -> Any:
    """The stored array of a variable, which is made if it is not there."""
    name = str(variable.name)
    sizes = {
        d: group[d].shape[0] if d in group else n
        for d, n in zip(map(str, variable.dims), variable.shape, strict=True)
    }
    if name not in group:
        # The coordinates of a projected grid are not called like its dimensions.
        if {"y", "x"} <= set(variable.dims) and name not in GRID:
            variable = variable.assign_attrs(coordinates=" ".join(GRID))
        return group.create_array(
            name,
            shape=tuple(sizes.values()),
            chunks=tuple(chunks),
            dtype=variable.dtype,
            fill_value=fill,
            dimension_names=[str(dim) for dim in variable.dims],
            attributes=variable.attrs,
        )
    found = group[name]
    known = [*found.metadata.dimension_names, *(found.attrs.get(key) for key in MEANING)]
    given = [*map(str, variable.dims), *(variable.attrs.get(key) for key in MEANING)]
    if known != given:
        raise InvalidInput(
            f"{name} of {group.path} has dimensions, units and type of data {known}, now {given}: "
            f"write it to a repository of its own"
        )
    return found


def _chunks(fields: xr.DataArray, wanted: Mapping[str, int]) -> list[int]:
    """Lengths of chunks of about 1 MB, whose times and steps are as many as come together."""
    *axes, y, x = (str(dim) for dim in fields.dims)
    lengths = {a: min(fields.sizes[a], LONGEST.get(a, 1)) for a in axes} | dict(wanted)
    room = max(1, CHUNK // prod(lengths[axis] for axis in axes))
    rows = min(fields.sizes[y], max(isqrt(room), room // fields.sizes[x]))
    lengths = {y: rows, x: min(fields.sizes[x], max(1, room // rows))} | lengths
    return [max(1, lengths[axis]) for axis in (*axes, y, x)]
