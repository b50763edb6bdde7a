"""GRIB of both editions as CF-named fields: what the gridded sources share.

A *field* is what one message holds: one variable at one reference time, step, member and level.
ecCodes decodes it; here it gets its name and its place in a cube.
"""

from __future__ import annotations

import datetime as dt
import re
import sqlite3  # noqa: F401
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import xarray as xr

from thalweg import raw
from thalweg.errors import InvalidInput
from thalweg.raw import RawFile
from thalweg.sources import Contract
from thalweg.sources._fields import MEANING, RAW_FILE

# ecCodes brings a PROJ and an old SQLite of its own: what is to have another is loaded before. So
# is PostgreSQL's client, or the interpreter crashes when it ends (139).
if find_spec("pyproj"):
    import_module("pyproj")
if find_spec("psycopg"):
    import_module("psycopg")
import eccodes  # type: ignore[import-untyped]

__all__ = ["Area", "read", "reader"]

#: West, south, east and north edge in degrees.
Area = tuple[float, float, float, float]
#: Global attributes of the datasets, or how they follow from the files.
About = Mapping[str, str] | Callable[[Sequence[RawFile]], Mapping[str, str]]

# The largest float32, which no field holds: ecCodes' own 9999 is a possible value.
MISSING = float(np.finfo("float32").max)
#: Dimensions of a field's file id: the upper and lower half of a UUID.
HALF = "half"
CELL_METHODS = {
    "instant": "time: point",
    "accum": "time: sum",
    "avg": "time: mean",
    "avgfc": "time: mean",
    "avgua": "time: mean",
    "max": "time: maximum",
    "min": "time: minimum",
}
#: Types of level that are an axis: standard name, units, direction.
LEVELS = {
    "isobaricInhPa": ("air_pressure", "hPa", "down"),
    "isobaricInPa": ("air_pressure", "Pa", "down"),
    "hybrid": ("atmosphere_hybrid_sigma_pressure_coordinate", "1", "down"),
    "sigma": ("atmosphere_sigma_coordinate", "1", "down"),
    "theta": ("air_potential_temperature", "K", "up"),
    "heightAboveGround": ("height", "m", "up"),
    "heightAboveSea": ("altitude", "m", "up"),
    "depthBelowLand": ("depth", "m", "down"),
    "depthBelowLandLayer": ("depth", "m", "down"),
}
ON_LATITUDES = {"regular_ll", "regular_gg"}
PROJECTED = {"lambert", "polar_stereographic", "mercator", "albers", "rotated_ll",
             "lambert_azimuthal_equal_area", "transverse_mercator"}  # fmt: skip
# A file at a time: messages with several fields are unpacked by a state that is ecCodes' own.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class _Grid:
    """Where the values of a message lie, and how to put them there."""

    latitude: np.ndarray[Any, Any]  # degrees north; 1-D ascending, or 2-D (y, x)
    longitude: np.ndarray[Any, Any]  # degrees east
    order: np.ndarray[Any, Any]  # 2-D, index into the values of the message
    size: int  # of these values

    @cached_property
    def dims(self) -> tuple[str, str]:
        return ("latitude", "longitude") if self.latitude.ndim == 1 else ("y", "x")

    def cut(self, area: Area) -> _Grid:
        """The rows and columns with points in the area."""
        west, south, east, north = area
        lat, lon = self.latitude, self.longitude
        if lat.ndim == 1:
            lat, lon = np.meshgrid(lat, lon, indexing="ij")
        inside = (lat >= south) & (lat <= north) & ((lon - west) % 360 <= east - west)
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        if not len(rows):
            raise InvalidInput(
                f"no point of the grid is in the area {area} (west, south, east, north)"
            )
        across = slice(columns[0], columns[-1] + 1)
        along = slice(rows[0], rows[-1] + 1)
        if self.latitude.ndim == 1:
            order = self.order[along, across]
            return _Grid(self.latitude[along], self.longitude[across], order, self.size)
        part = (along, across)
        return _Grid(self.latitude[part], self.longitude[part], self.order[part], self.size)


@dataclass(frozen=True)
class _Field:
    group: str
    name: str
    time: np.datetime64
    step: np.timedelta64
    number: int | None
    level: float | None
    level_type: str
    attributes: Mapping[str, Any]
    grid: _Grid
    file_id: str
    values: np.ndarray[Any, Any]

    @property
    def place(self) -> tuple[Any, ...]:
        return self.group, self.name, self.time, self.step, self.number, self.level


def read(
    files: Iterable[RawFile],
    *,
    area: Area | None = None,
    select: Mapping[str, Any] | None = None,
    attributes: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
) -> dict[str, xr.Dataset]:
    """The fields of GRIB files; of the same field the last one counts.

    Parameters
    ----------
    area
        West, south, east, north in degrees; only this part of the grid is kept.
    select
        Only messages with these values of ecCodes keys: `{"shortName": "2t", "dataType": "an"}`.
    attributes
        Global attributes of the datasets.
    units
        Unit that a field has to have, by its CF name; others may have any.

    Returns
    -------
    dict
        A dataset for each type of level, by its name, as `surface` or `isobaricInhPa`. Where values
        hold for a span of time its kind follows: `surface_accum` since the reference time,
        `surface_accum_6h` in the 6 h before, `heightAboveGround_max` …

        Variables are called by their CF names (`t2m`), float32, with dimensions time (reference
        time), step, number (where there is an ensemble), level (where the type has one, called by
        its type; of a layer the middle) and latitude, longitude (ascending, degrees; longitude from
        -180, or from 0 where the grid crosses the date line), or y, x with 2-D coordinates. What is
        missing is NaN. `{name}_raw_file` says which file a field is from; 0: there is no field.

    Raises
    ------
    InvalidInput
        A file is no GRIB or damaged, has another grid than the others, a grid of another kind than
        latitudes and longitudes or a map projection, two different fields for one place, or a field
        in another unit than it has to have.
    """
    fields: dict[tuple[Any, ...], _Field] = {}
    grids: dict[str, _Grid] = {}
    used: dict[str, _Grid] = {}
    for file in files:
        here: dict[tuple[Any, ...], _Field] = {}
        for field in _fields(file, grids, area, select or {}):
            _check_unit(field, units or {}, file)
            twin = here.get(field.place)
            if twin is not None and not np.array_equal(field.values, twin.values, equal_nan=True):
                raise InvalidInput(
                    f"{_says(file)} has two different fields {field.name} ({field.group}) for "
                    f"{field.time}, step {field.step}: choose one with select, by a key in which "
                    f"they differ, such as {{'dataType': 'an'}}"
                )
            if used.setdefault(field.group, field.grid) is not field.grid:
                raise InvalidInput(
                    f"{_says(file)} has fields of {field.group} on another grid than the ones "
                    f"before: read them apart"
                )
            here[field.place] = field
        fields |= here
    groups: dict[str, list[_Field]] = {}
    for field in fields.values():
        groups.setdefault(field.group, []).append(field)
    common = {"Conventions": "CF-1.11", **(attributes or {})}
    return {name: _dataset(name, members, common) for name, members in sorted(groups.items())}


def reader(contract: Contract, about: About) -> Callable[..., dict[str, xr.Dataset]]:
    """The function `read` of a source that promises this, with global attributes for its datasets.

    A field that is in another unit than the contract says is refused.
    """

    def read_fields(
        files: Iterable[RawFile],
        *,
        area: Area | None = None,
        select: Mapping[str, Any] | None = None,
    ) -> dict[str, xr.Dataset]:
        """Fields by type of level, for `thalweg.gridded.write`.

        Parameters
        ----------
        area
            West, south, east, north in degrees, to keep a part of the grid.
        select
            Only messages with these values of ecCodes keys, as in `{"shortName": "2t"}`.

        Raises
        ------
        InvalidInput
            A file is damaged or no GRIB, the files have no one grid, or a field is in another unit
            than the source promises.
        """
        files = list(files)
        attributes = about(files) if callable(about) else about
        promised = contract.fields
        return read(files, area=area, select=select, attributes=attributes, units=promised)

    read_fields.__name__ = read_fields.__qualname__ = "read"
    return read_fields


def _fields(
    file: RawFile, grids: dict[str, _Grid], area: Area | None, select: Mapping[str, Any]
) -> Iterator[_Field]:
    try:
        for message in _messages(raw.read(file), file):
            if all(str(message.get(key)) == str(value) for key, value in select.items()):
                yield _field(message, file, grids, area)
    except InvalidInput:
        raise
    except (
        eccodes.CodesInternalError, ArithmeticError, AttributeError, LookupError, RuntimeError,
        TypeError, ValueError,
    ) as error:  # fmt: skip
        raise InvalidInput(f"{_says(file)} cannot be decoded: {error}; fetch it again") from error


def _check_unit(field: _Field, units: Mapping[str, str], file: RawFile) -> None:
    came = field.attributes["units"]
    if came != (promised := units.get(field.name, came)):
        raise InvalidInput(
            f"{_says(file)} has {field.name} ({field.group}) in {came!r}, its source promises "
            f"{promised!r}: if the provider has changed, mend the CONTRACT of "
            f"thalweg.sources.{file.source}, and convert what it is compared with"
        )


def _messages(content: bytes, file: RawFile) -> Iterator[Any]:
    """The messages, once it is known that the file is whole."""
    with _ONE_AT_A_TIME, tempfile.NamedTemporaryFile() as named:
        named.write(content)
        named.flush()
        _check_whole(content, named.name, file)
        stream = named.file  # ecCodes takes no wrapper of a file
        stream.seek(0)
        eccodes.codes_grib_multi_support_on()
        eccodes.codes_grib_multi_support_reset_file(stream)
        while (handle := eccodes.codes_grib_new_from_file(stream)) is not None:
            yield eccodes.GRIBMessage(handle)


def _check_whole(content: bytes, path: str, file: RawFile) -> None:
    """Every byte that is in no message has to be padding with zeros."""
    eccodes.codes_grib_multi_support_off()  # for it counts messages, not the fields in them
    try:
        parts = list(eccodes.codes_extract_offsets_sizes(path, eccodes.CODES_PRODUCT_GRIB, False))
    except eccodes.CodesInternalError:  # there is none
        parts = []
    end = 0
    for start, size in parts:
        if content[end:start].strip(b"\0"):
            break
        end = start + size
    if not end or content[end:].strip(b"\0"):
        raise InvalidInput(
            f"{_says(file)} is not whole GRIB: of {len(content)} bytes the first {end} are "
            f"messages, what follows begins with {content[end : end + 12]!r}; fetch it again"
        )


def _field(message: Any, file: RawFile, grids: dict[str, _Grid], area: Area | None) -> _Field:
    name, level_type, kind = _name(message), message["typeOfLevel"], message["stepType"]
    reference = _moment(message["dataDate"], message["dataTime"])
    # Of a layer its middle, so that layers of one edge stay apart.
    level = (float(message.get("topLevel", 0)) + float(message.get("bottomLevel", 0))) / 2
    # t2m and u10 say their height; no2 has its number from elsewhere.
    is_said = level_type == "heightAboveGround" and f"{level:g}" in re.findall(r"\d+", name)
    is_axis = (level_type in LEVELS or level != 0) and not is_said
    grid, values = _grid(message, grids, area), _values(message)
    if values.size != grid.size:
        raise ValueError(f"{values.size} values of {name} on a grid of {grid.size} points")
    return _Field(
        group=level_type + ("" if kind == "instant" else _span(message, kind)),
        name=name,
        time=reference,
        step=_moment(message["validityDate"], message["validityTime"]) - reference,
        number=int(message["number"]) if message.get("totalNumber", 0) > 1 else None,
        level=level if is_axis else None,
        level_type=level_type,
        attributes=_attributes(message, name, kind, level),
        grid=grid,
        file_id=file.id,
        values=values[grid.order],
    )


def _name(message: Any) -> str:
    """The CF name of the variable; what ecCodes does not know is called by its numbers."""
    for key in ("cfVarName", "shortName"):
        name = str(message.get(key, "unknown"))
        if name.isidentifier() and name not in ("unknown", "undef"):
            return name
    keys = ("discipline", "parameterCategory", "parameterNumber", "table2Version",
            "indicatorOfParameter")  # fmt: skip
    numbers = [str(message[key]) for key in keys if key in message]
    return "_".join(["unknown", *numbers])


def _span(message: Any, kind: str) -> str:
    """What follows the type of level where values hold for a span of time."""
    start, end = (int(message[f"{key}:int"]) for key in ("startStep", "endStep"))
    return f"_{kind}" + (f"_{end - start}{message['stepUnits:str']}" if end > start > 0 else "")


def _attributes(message: Any, name: str, kind: str, level: float) -> dict[str, Any]:
    standard_name = str(message.get("cfName", "unknown"))
    said = {
        "standard_name": "" if standard_name == "unknown" else standard_name,
        "long_name": str(message.get("name", name)),
        "units": str(message["units"]).replace("**", ""),
        "cell_methods": CELL_METHODS.get(kind, ""),
        "ancillary_variables": f"{name}{RAW_FILE}",
    }
    keys = ("shortName", "paramId", "typeOfLevel", "stepType", "dataType")
    said |= {f"GRIB_{key}": message.get(key, "") for key in keys}
    return {key: value for key, value in said.items() if value != ""} | {"GRIB_level": level}


def _values(message: Any) -> np.ndarray[Any, Any]:
    message.set("missingValue", MISSING, check_values=False)
    values = np.asarray(message["values"], "float64")
    return np.where(values == MISSING, np.nan, values).astype("float32")


def _grid(message: Any, grids: dict[str, _Grid], area: Area | None) -> _Grid:
    """The grid of a message, made once for all that have the same."""
    key = message["md5GridSection"]
    if key not in grids:
        grid = _whole_grid(message)
        grids[key] = grid.cut(area) if area else grid
    return grids[key]


def _whole_grid(message: Any) -> _Grid:
    kind = message["gridType"]
    if kind not in ON_LATITUDES | PROJECTED:
        raise InvalidInput(
            f"a grid of type {kind!r} is not read: ask the provider for one of latitudes and "
            f"longitudes (regular_ll), or interpolate it first"
        )
    latitude, longitude = (np.round(message[key], 6) for key in ("latitudes", "longitudes"))
    longitude = np.round((longitude + 180) % 360 - 180, 6)
    if kind in PROJECTED:
        shape = int(message["Ny"]), int(message["Nx"])
        order = np.arange(latitude.size)
        order = order.reshape(shape[::-1]).T if message["jPointsAreConsecutive"] else order.reshape(shape)  # fmt: skip  # noqa: E501
        if latitude[order[0]].mean() > latitude[order[-1]].mean():
            order = order[::-1]
        return _Grid(latitude[order], longitude[order], order, order.size)
    rows, columns = np.unique(latitude), np.unique(longitude)
    gaps = np.diff(columns)
    if len(gaps) and gaps.max() > 1.5 * gaps.min():  # it crosses the date line
        longitude = longitude % 360
        columns = np.unique(longitude)
    if rows.size * columns.size != latitude.size:
        raise InvalidInput(f"{latitude.size} points are no {rows.size} by {columns.size} grid")
    order = np.lexsort((longitude, latitude)).reshape(rows.size, columns.size)
    return _Grid(rows, columns, order, order.size)


def _moment(date: int, time: int) -> np.datetime64:
    text = f"{date:08d}T{time:04d}"
    return np.datetime64(dt.datetime.strptime(text, "%Y%m%dT%H%M"), "ns")  # noqa: DTZ007


def _dataset(name: str, fields: list[_Field], attributes: Mapping[str, str]) -> xr.Dataset:
    grid = fields[0].grid
    level = fields[0].level_type
    axes: dict[str, list[Any]] = {
        "time": sorted({field.time for field in fields}),
        "step": sorted({field.step for field in fields}),
        "number": sorted({field.number for field in fields if field.number is not None}),
        level: sorted({field.level for field in fields if field.level is not None}),
    }
    coordinates = _coordinates(axes, level, grid)
    places = {axis: {value: i for i, value in enumerate(values)} for axis, values in axes.items()}
    variables: dict[str, Any] = {}
    for field in fields:
        there = {"time": field.time, "step": field.step, "number": field.number, level: field.level}
        dims = tuple(axis for axis, value in there.items() if value is not None)
        if field.name not in variables:
            shape = tuple(len(axes[axis]) for axis in dims)
            values = np.full(shape + grid.order.shape, np.nan, "float32")
            ids = np.zeros((*shape, 2), "uint64")
            variables[field.name] = ((*dims, *grid.dims), values, dict(field.attributes))
            about = {
                "long_name": f"UUID of the raw file of {field.name}, in two halves; 0: no field"
            }
            variables[f"{field.name}{RAW_FILE}"] = ((*dims, HALF), ids, about)
        known, values, said = variables[field.name]
        if known[:-2] != dims or any(said.get(k) != field.attributes.get(k) for k in MEANING):
            raise InvalidInput(
                f"{field.name} of {name} has two meanings, as analysis and forecast, or two units: "
                f"read them apart with select, as in {{'dataType': 'an'}}"
            )
        at = tuple(places[axis][there[axis]] for axis in dims)
        values[at] = field.values
        variables[f"{field.name}{RAW_FILE}"][1][at] = divmod(uuid.UUID(field.file_id).int, 2**64)
    return xr.Dataset(variables, coordinates, dict(attributes))


def _coordinates(axes: Mapping[str, Any], level: str, grid: _Grid) -> dict[str, Any]:
    standard_name, units, positive = LEVELS.get(level, ("", "", ""))
    about = {"standard_name": standard_name, "units": units, "positive": positive, "axis": "Z"}
    north = {"standard_name": "latitude", "units": "degrees_north"}
    east = {"standard_name": "longitude", "units": "degrees_east"}
    where = (grid.dims[:1], grid.dims[1:]) if grid.latitude.ndim == 1 else (grid.dims, grid.dims)
    made = {
        "time": ("time", axes["time"], {"standard_name": "forecast_reference_time"}),
        "step": ("step", axes["step"], {"standard_name": "forecast_period"}),
        "number": ("number", axes["number"], {"standard_name": "realization", "units": "1"}),
        level: (level, axes[level], {key: value for key, value in about.items() if value}),
    }
    kept = {name: each for name, each in made.items() if len(each[1])}
    valid = np.array(axes["time"])[:, None] + np.array(axes["step"])[None, :]
    return kept | {
        "valid_time": (("time", "step"), valid, {"standard_name": "time"}),
        "latitude": (where[0], grid.latitude, north),
        "longitude": (where[1], grid.longitude, east),
    }


def _says(file: RawFile) -> str:
    return f"raw file {file.id} from {file.url}"
