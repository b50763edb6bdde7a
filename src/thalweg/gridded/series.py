"""Timeseries out of fields, at points and over areas: each is a mean of cells with fixed weights.

The weights depend on grid and geometry alone, and are computed once in a process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
import xarray as xr

from thalweg.errors import InvalidInput, nearest
from thalweg.gridded.repository import RAW_FILE, file_ids

__all__ = ["VARIABLES", "area_mean", "at_points"]

TIME = pa.timestamp("us", "UTC")
#: Variables of the warehouse by CF name.
VARIABLES = {
    "t2m": "air_temperature_hourly_inst",
    "d2m": "dew_point_temperature_hourly_inst",
}
#: Names of the warehouse's units by those of CF.
UNITS = {"m s-1": "m/s", "(0 - 1)": "1", "m3 s-1": "m^3/s"}
PLANE = ("latitude", "longitude", "y", "x")
#: The part of a mean's weight that has to have values.
TOLERATED = 0.5
#: The part of a polygon that has to lie on the grid.
COVERED = 0.999
#: Degrees after which an edge of a polygon gets another point before it is projected.
SEGMENT = 0.05
#: The grid may count longitudes from elsewhere, in radians.
TURNS = (-2 * np.pi, 0.0, 2 * np.pi)
#: Values read at once.
SLAB = 2**26

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Weights:
    """Cells by row and column, and how much each counts; the sum is 1."""

    rows: Array
    columns: Array
    weights: Array


@dataclass(frozen=True, eq=False)
class _Grid:
    """Cells of a grid: centres (y, x) and corners (y + 1, x + 1), in degrees."""

    latitude: Array
    longitude: Array
    corner_latitude: Array
    corner_longitude: Array
    is_regular: bool  # a row has one latitude, a column one longitude

    @cached_property
    def centres(self) -> Array:
        """Unit vectors to the centres."""
        return _vectors(self.longitude, self.latitude)

    @cached_property
    def flat_corners(self) -> tuple[Array, Array]:
        """The corners in the plane of longitude and sine of latitude, both in radians."""
        return np.radians(self.corner_longitude), np.sin(np.radians(self.corner_latitude))

    @cached_property
    def outline(self) -> Any:
        """The border of all cells in that plane."""
        rims = [(c[0, :], c[1:, -1], c[-1, -2::-1], c[-2:0:-1, 0]) for c in self.flat_corners]
        outline = shapely.Polygon(np.column_stack([np.concatenate(rim) for rim in rims]))
        shapely.prepare(outline)
        return outline

    @cached_property
    def bounds(self) -> list[tuple[Array, Array]]:
        """West and east, south and north end of each cell in that plane."""
        around = [_around(corners) for corners in self.flat_corners]
        return [(each.min(-1), each.max(-1)) for each in around]

    def cells(self, rows: Array, columns: Array) -> Array:
        """Polygons of these cells in that plane."""
        corners = [_around(values)[rows, columns] for values in self.flat_corners]
        return np.asarray(shapely.polygons(np.stack(corners, -1)))


def at_points(
    dataset: xr.Dataset,
    locations: pa.Table,
    *,
    method: str = "nearest",
    variables: Mapping[str, str] | None = None,
    configuration: str | None = None,
) -> pa.Table:
    """Series of the cells at points.

    Parameters
    ----------
    dataset
        Fields as `open` gives them; choose times, steps or one level before, with `sel`.
    locations
        Table with `id` and `geometry` (points as WKB, longitude latitude in degrees).
    method
        `nearest`: the cell whose centre is nearest, on the sphere. `bilinear`: of the four centres
        around the point, on grids of latitudes and longitudes.
    variables
        Names in the warehouse by names in the dataset; by default those of `VARIABLES`.
    configuration
        Name of the configuration; by default what the dataset says in `configuration_name`.

    Returns
    -------
    pyarrow.Table
        Rows for `primary_timeseries`, or with members or issue times `secondary_timeseries`:
        `reference_time` is null for analyses; `raw_file_id` names the file of the field. Missing
        cells leave the mean with their weight; where more than half of it is missing is no row.

    Raises
    ------
    InvalidInput
        A point outside the grid, a geometry of another kind, an unknown method or variable, or
        fields on several levels.
    """
    weigh = {"nearest": _nearest, "bilinear": _bilinear}.get(method)
    if weigh is None:
        raise InvalidInput(f"unknown method {method!r}{nearest(method, ['nearest', 'bilinear'])}")
    return _series(dataset, locations, weigh, variables, configuration)


def area_mean(
    dataset: xr.Dataset,
    polygons: pa.Table,
    *,
    variables: Mapping[str, str] | None = None,
    configuration: str | None = None,
) -> pa.Table:
    """Series of means over areas: each cell counts by its part in the polygon, in square metres.

    Areas are those on the sphere: exact for cells between parallels and meridians, because the
    plane of longitude and sine of latitude keeps areas (Lambert's cylindrical projection, Snyder
    1987, doi:10.3133/pp1395, equations 10-1 and 10-2). Edges of polygons are straight in longitude
    and latitude, as in GeoJSON.

    Parameters and rows are those of `at_points`, with polygons instead of points.

    Raises
    ------
    InvalidInput
        As `at_points`; a polygon that is invalid or lies in part outside the grid.
    """
    return _series(dataset, polygons, _overlap, variables, configuration)


def _series(
    dataset: xr.Dataset,
    locations: pa.Table,
    weigh: Callable[[_Grid, bytes], _Weights],
    variables: Mapping[str, str] | None,
    configuration: str | None,
) -> pa.Table:
    configuration = configuration or dataset.attrs.get("configuration_name")
    if not configuration:
        raise InvalidInput("the fields do not say their configuration: give configuration='…'")
    there = [str(n) for n in dataset.data_vars if not str(n).endswith(RAW_FILE)]
    chosen = variables or {name: VARIABLES[name] for name in there if name in VARIABLES}
    if not chosen or set(chosen) - set(there):
        raise InvalidInput(
            f"fields of {', '.join(there)}: say which, and how the warehouse calls them, as in "
            f"variables={{'{there[0]}': 'air_temperature_hourly_inst'}}"
        )
    latitude, longitude = (dataset[name].values.astype(float) for name in ("latitude", "longitude"))
    grid = _grid(latitude.tobytes(), longitude.tobytes(), latitude.shape, longitude.shape)
    weights = {}
    for id, geometry in zip(*(locations[c].to_pylist() for c in ("id", "geometry")), strict=True):
        try:
            weights[id] = weigh(grid, geometry or b"")
        except (InvalidInput, shapely.errors.GEOSException) as error:
            raise InvalidInput(f"{id}: {error}") from None
    if not weights:
        raise InvalidInput("no locations: give a table with a row for each point or polygon")
    return pa.concat_tables(
        _rows(dataset, name, called, configuration, weights) for name, called in chosen.items()
    )


def _rows(
    dataset: xr.Dataset,
    name: str,
    called: str,
    configuration: str,
    weights: Mapping[str, _Weights],
) -> pa.Table:
    fields, files = _lined_up(dataset[name]), _lined_up(dataset[f"{name}{RAW_FILE}"])
    values = _means(fields, list(weights.values()))
    time, step = fields["time"].values, fields["step"].values
    axes = np.meshgrid(time, step, *(fields[n].values for n in fields.dims[2:-2]), indexing="ij")
    kept = np.isfinite(values)

    def column(each: Array) -> Array:
        """One value a field, or a location, as one a row."""
        return np.broadcast_to(each, values.shape)[kept]

    issued = column(axes[0][..., None])
    n = len(issued)
    is_analysis = fields.attrs.get("GRIB_dataType") == "an"
    unit = fields.attrs["units"]
    columns = {
        "reference_time": pa.nulls(n, TIME) if is_analysis else _times(issued),
        "value_time": _times(column((axes[0] + axes[1])[..., None])),
        "value": pa.array(values[kept], pa.float64()),
        "unit_name": pa.repeat(UNITS.get(unit, unit), n),
        "location_id": pa.array(column(np.array(list(weights), object)), pa.string()),
        "configuration_name": pa.repeat(configuration, n),
        "variable_name": pa.repeat(called, n),
        "raw_file_id": pa.array(column(file_ids(files.values)[..., None]), pa.string()),
    }
    if "number" in fields.dims:
        columns["member"] = pa.array(column(axes[2][..., None].astype(str)), pa.string())
    return pa.table(columns)


def _lined_up(fields: xr.DataArray) -> xr.DataArray:
    """Dimensions time, step, number where there is an ensemble, then the two of the field."""
    for axis in ("step", "time"):
        if axis not in fields.dims:
            fields = fields.expand_dims(axis)
    axes = [axis for axis in ("time", "step", "number") if axis in fields.dims]
    last = [dim for dim in fields.dims if dim in (*PLANE, "half")]
    if more := set(fields.dims) - {*axes, *last}:
        axis = str(more.pop())
        raise InvalidInput(
            f"{fields.name} is on {fields.sizes[axis]} levels: choose one, as in "
            f"dataset.sel({axis}={fields[axis].values[0]:g})"
        )
    return fields.transpose(*axes, *last)


def _means(fields: xr.DataArray, weights: Sequence[_Weights]) -> Array:
    """Weighted means of each field (time, step, …) for each location (last dimension)."""
    rows = np.unique(np.concatenate([w.rows for w in weights]))
    columns = np.unique(np.concatenate([w.columns for w in weights]))
    y, x = fields.dims[-2:]
    needed = fields.isel({y: rows, x: columns})
    means = np.full((*fields.shape[:-2], len(weights)), np.nan)
    slab = max(1, SLAB // max(1, needed[0].size))
    for start in range(0, len(means), slab):
        block = needed[start : start + slab].values
        for i, each in enumerate(weights):
            at = np.searchsorted(rows, each.rows), np.searchsorted(columns, each.columns)
            cells = block[..., at[0], at[1]].astype(float)
            weight = np.isfinite(cells) @ each.weights
            total = np.nan_to_num(cells, nan=0.0) @ each.weights
            mean = np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0)
            means[start : start + slab, ..., i] = np.where(weight >= TOLERATED, mean, np.nan)
    return means


@lru_cache(maxsize=8)
def _grid(latitude: bytes, longitude: bytes, *shapes: tuple[int, ...]) -> _Grid:
    """The cells of a grid, from its coordinates; borders are half-way between centres."""
    lat, lon = (
        np.frombuffer(each).reshape(shape)
        for each, shape in zip((latitude, longitude), shapes, strict=True)
    )
    is_regular = lat.ndim == 1
    if is_regular:
        lat, lon = np.meshgrid(lat, lon, indexing="ij")
    else:  # from one cell to the next, also across the date line
        lon = np.unwrap(np.unwrap(lon, period=360, axis=1), period=360, axis=0)
    corner_lat, corner_lon = (
        _around(np.pad(each, 1, "reflect", reflect_type="odd"))[..., :4].mean(-1)
        for each in (lat, lon)
    )
    return _Grid(lat, lon, corner_lat.clip(-90, 90), corner_lon, is_regular)


@lru_cache(maxsize=10_000)
def _nearest(grid: _Grid, wkb: bytes) -> _Weights:
    """The cell whose centre is nearest on the sphere."""
    at = _geometry(wkb, "Point")
    (x, y) = _flatten(np.array([[at.x, at.y]]))[0]
    if not any(shapely.intersects_xy(grid.outline, x + turn, y) for turn in TURNS):
        raise InvalidInput(f"the point {at.x:g} E, {at.y:g} N is outside the grid")
    near = grid.centres @ _vectors(np.array(at.x), np.array(at.y))
    row, column = np.unravel_index(np.argmax(near), near.shape)
    return _Weights(np.array([row]), np.array([column]), np.array([1.0]))


@lru_cache(maxsize=10_000)
def _bilinear(grid: _Grid, wkb: bytes) -> _Weights:
    """The four centres around a point, by the distances in longitude and latitude."""
    if not grid.is_regular:
        raise InvalidInput(
            "bilinear needs a grid of latitudes and longitudes; use method='nearest'"
        )
    _nearest(grid, wkb)  # says if the point is outside
    at = _geometry(wkb, "Point")
    latitude, longitude = grid.latitude[:, 0], grid.longitude[0]
    spacing = (grid.corner_longitude[0, -1] - grid.corner_longitude[0, 0]) / len(longitude)
    is_ring = spacing * len(longitude) > 360 - spacing / 2
    around = np.append(longitude, longitude[0] + 360) if is_ring else longitude
    west = longitude[0] - (0 if is_ring else spacing / 2)
    y = np.interp(at.y, latitude, np.arange(len(latitude)))
    x = np.interp((at.x - west) % 360 + west, around, np.arange(len(around)))
    rows = np.minimum([int(y), int(y) + 1], len(latitude) - 1)
    columns = np.minimum([int(x), int(x) + 1], len(around) - 1) % len(longitude)
    weights = np.outer([1 - y % 1, y % 1], [1 - x % 1, x % 1])
    return _Weights(np.repeat(rows, 2), np.tile(columns, 2), weights.ravel())


@lru_cache(maxsize=10_000)
def _overlap(grid: _Grid, wkb: bytes) -> _Weights:
    """The cells that a polygon covers, by the area covered of each."""
    polygon = _geometry(wkb, "Polygon", "MultiPolygon")
    if not polygon.is_valid:
        raise InvalidInput(f"the polygon is not valid: {shapely.is_valid_reason(polygon)}")
    flat = shapely.transform(shapely.segmentize(polygon, SEGMENT), _flatten)
    found: list[tuple[Array, Array, Array]] = []
    for turn in TURNS:
        turned = shapely.transform(flat, lambda points, by=turn: points + np.array([by, 0]))
        west, south, east, north = turned.bounds
        (wests, easts), (souths, norths) = grid.bounds
        touched = (easts > west) & (wests < east) & (norths > south) & (souths < north)
        rows, columns = np.nonzero(touched)
        cells = grid.cells(rows, columns)
        areas = shapely.area(cells)
        shapely.prepare(turned)
        cut = ~shapely.contains_properly(turned, cells)
        areas[cut] = shapely.area(shapely.intersection(cells[cut], turned))
        found.append((rows, columns, areas))
    rows, columns, areas = (np.concatenate(each) for each in zip(*found, strict=True))
    if areas.sum() < COVERED * flat.area:
        outside = 1 - areas.sum() / flat.area
        raise InvalidInput(f"{outside:.1%} of the polygon lies outside the grid")
    some = areas > 0
    return _Weights(rows[some], columns[some], areas[some] / areas.sum())


def _geometry(wkb: bytes, *kinds: str) -> Any:
    geometry = shapely.from_wkb(wkb) if wkb else None
    if geometry is None or geometry.is_empty or geometry.geom_type not in kinds:
        came = "none" if geometry is None else geometry.geom_type
        raise InvalidInput(f"expected a {' or '.join(kinds)}, got {came}")
    return geometry


def _around(corners: Array) -> Array:
    """The four corners of each cell, and the first again, in the last dimension."""
    c = corners
    return np.stack([c[:-1, :-1], c[:-1, 1:], c[1:, 1:], c[1:, :-1], c[:-1, :-1]], -1)


def _flatten(points: Array) -> Array:
    """Longitude and sine of latitude of points in degrees."""
    return np.column_stack([np.radians(points[:, 0]), np.sin(np.radians(points[:, 1]))])


def _vectors(longitude: Array, latitude: Array) -> Array:
    lon, lat = np.radians(longitude), np.radians(latitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


def _times(values: Array) -> pa.Array:
    return pa.array(values.astype("datetime64[us]"), pa.timestamp("us")).cast(TIME)
