"""Merging fields into a group of a repository: to their places, of which new ones come last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt, prod
from typing import Any

import numpy as np
import xarray as xr

from thalweg.errors import InvalidInput
from thalweg.sources._fields import MEANING, RAW_FILE

__all__ = ["compare", "merge"]

#: Values in a chunk, 1 MB of float32.
CHUNK = 2**18
#: The longest chunks along time and step; a batch that is shorter makes shorter ones.
LONGEST = {"time": 168, "step": 24}
AXIS_CHUNK = 4096
GRID = ("latitude", "longitude")
#: How times and steps are stored: type, attributes.
STORED = {
    "M": ("datetime64[s]", {"units": "seconds since 1970-01-01", "calendar": "standard"}),
    "m": ("timedelta64[s]", {"units": "seconds"}),
}

#: A Zarr group, whose items have for types all that an item may be.
Group = Any


def merge(group: Group, dataset: xr.Dataset, chunks: Mapping[str, int]) -> Any:
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


def compare(stored: xr.Dataset, dataset: xr.Dataset) -> Any:
    """How many fields `merge` would add, change and leave as they are; nothing is written."""
    counts = np.zeros(3, int)
    axes = {n: i for n, i in dataset.indexes.items() if n not in GRID and n in stored.indexes}
    for name in map(str, dataset.data_vars):
        ids = f"{name}{RAW_FILE}"
        if ids not in dataset:
            continue
        given = dataset[ids].values.any(-1)
        known: Any = np.zeros_like(given)
        same = known
        is_there = ids in stored and {*stored[name].dims} == {*dataset[name].dims}
        if is_there and all(np.array_equal(stored[g], dataset[g]) for g in GRID):
            there = stored[[name, ids]].reindex(axes, fill_value={name: np.nan, ids: 0})
            known = there[ids].transpose(*dataset[ids].dims).values.any(-1)
            old, new = there[name].transpose(*dataset[name].dims).values, dataset[name].values
            same = known & ((old == new) | (np.isnan(old) & np.isnan(new))).all((-2, -1))
        is_each = given & ~known, given & known & ~same, given & same
        counts += [int(each.sum()) for each in is_each]
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
