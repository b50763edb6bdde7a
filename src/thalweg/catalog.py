"""Data by name: intake catalogues of raw files, warehouse tables and public buckets.

The files in catalogs/ are the same on a laptop and on AWS; what differs stands in the environment.
A catalogue names the code that opens its entries: open only catalogues that you trust.

>>> from thalweg import open_catalog
>>> list(open_catalog())
['raw', 'warehouse', 'gridded', 'public']
>>> open_catalog()["warehouse"]["metrics"].read()  # doctest: +SKIP
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
import yaml
from botocore.exceptions import BotoCoreError
from intake import BaseReader
from intake.readers.entry import Catalog

from thalweg import raw, sources, storage, warehouse
from thalweg.errors import InvalidInput, NotFound, Unavailable, nearest
from thalweg.settings import Settings, load
from thalweg.warehouse.access import definition
from thalweg.warehouse.schema import SEEDS, TEXT

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "SAID",
    "Check",
    "Entry",
    "Extent",
    "GriddedFields",
    "IcebergTable",
    "PublicZarr",
    "RawFiles",
    "check",
    "entries",
    "entry",
    "extent_of",
    "gridded_catalog",
    "open_catalog",
    "raw_catalog",
    "warehouse_catalog",
]

#: What every entry says of itself, and of that what a source's files may say for it.
UNSAID = ("units", "spatial_extent", "temporal_extent")
SAID = ("description", "licence", "source", *UNSAID)

TIME = pa.timestamp("us", "UTC")
Box = tuple[float, float, float, float]
Times = tuple[dt.datetime, dt.datetime]
#: Columns that name a place, and questions to the warehouse; a reach lies where its gauge lies.
PLACES = ("primary_location_id", "location_id", "id")
TIMES = "SELECT min(value_time) AS first, max(value_time) AS last FROM {}"
WHERE = """
    WITH places AS (SELECT DISTINCT {place} AS id FROM {name})
    SELECT geometry FROM locations WHERE geometry IS NOT NULL AND id IN (
        FROM places UNION SELECT primary_location_id FROM location_crosswalks
        WHERE secondary_location_id IN (FROM places)
    )
"""
#: The columns of the registry that `RawFiles` gives.
REGISTRY = pa.schema(
    {name: pa.string() for name in ("id", "source", "dataset", "uri", "url", "sha256")}
    | {"size": pa.int64(), "valid_from": TIME, "valid_to": TIME}
    | {"run_id": pa.string(), "ingested_at": TIME}
)


def open_catalog(
    path: str | Path | None = None, settings: Settings | None = None, **_described: Any
) -> Catalog:
    """The intake catalogue at `path`; by default the hub's own, catalogs/main.yaml.

    It is also the reader of the catalogues nested in main.yaml, so that
    `catalogue["warehouse"]["metrics"]` needs no `read()` on the way; intake passes their
    description, which is not needed.

    Raises
    ------
    NotFound
        There is no such file.
    """
    path = str(path or (settings or load()).home / "catalogs" / "main.yaml")
    try:
        return Catalog.from_yaml_file(path)
    except FileNotFoundError:
        raise NotFound(
            f"no catalogue at {path}; set THALWEG_HOME to the clone of Thalweg"
        ) from None


def warehouse_catalog(**_described: Any) -> Catalog:
    """The catalogue `warehouse`: an entry a table, made of the tables' own declaration."""
    said = {}
    for name in warehouse.names():
        columns = definition(name).columns
        units = [
            f"{column}: {each.doc.partition(';')[0]}"
            for column, each in columns.items()
            if each.type != TEXT
        ]
        said[name] = {
            "description": definition(name).doc,
            "units": "; ".join(units) or "none",
            "licence": "BSD-3-Clause, Thalweg"
            if name in SEEDS
            else "of each row that of its source",
            "source": f"raw files and runs, see `thalweg lineage {name}`",
            "spatial_extent": "that of its locations" if {*PLACES} & {*columns} else "none",
            "temporal_extent": "that of its rows" if "value_time" in columns else "none",
        }
    return _made(IcebergTable, "name", said)


def raw_catalog(path: str, **_described: Any) -> Catalog:
    """The catalogue `raw`: an entry a source; the file says more of those that it knows."""
    known, said = _file(path), {}
    for name in sources.names():
        said[name] = dict.fromkeys(UNSAID, "that of each file") | {"source": name}
        if name not in known:
            module = sources.get(name)
            known[name] = {"description": module.TITLE, "licence": module.LICENCE}
        said[name] |= known[name]
    return _made(RawFiles, "source", said)


def gridded_catalog(path: str, **_described: Any) -> Catalog:
    """The catalogue `gridded`: an entry a repository of fields, as the file says."""
    return _made(GriddedFields, "name", _file(path))


def _file(path: str) -> dict[str, dict[str, str]]:
    with fsspec.open(path) as file:
        return yaml.safe_load(file)  # type: ignore[no-any-return]


def _made(reader: type[Reader], key: str, said: Mapping[str, Mapping[str, str]]) -> Catalog:
    """A catalogue of entries with one reader, which differ in a name and in what they say."""
    frame = {
        "reader": f"{reader.__module__}:{reader.__name__}",
        "output_instance": reader.output_instance,
        "user_parameters": {},
    }
    return Catalog.from_dict(
        {
            "version": 2,
            "metadata": {},
            "user_parameters": {},
            "data": {},
            "aliases": {name: name for name in said},
            "entries": {
                name: frame | {"kwargs": {key: name}, "metadata": about}
                for name, about in said.items()
            },
        }
    )


@dataclass(frozen=True)
class Extent:
    """Where and when the data are that an entry has now; None where nothing in them says it.

    `box` is west, south, east, north in degrees, `times` the first and the last, in UTC.
    """

    box: Box | None = None
    times: Times | None = None


class Reader(BaseReader):  # type: ignore[misc]
    """What all entries can do."""

    def extent(self) -> Extent:
        """Where and when the data are that are there now."""
        return Extent()


class IcebergTable(Reader):
    """A table of the warehouse, whole or in part, now or as of a snapshot or time."""

    output_instance = "pyarrow:Table"

    def _read(self, name: str, **options: Any) -> pa.Table:
        """Rows, as `thalweg.warehouse.read(name, columns, where, snapshot_id, at=…)` gives them."""
        return warehouse.read(name, **options)

    def extent(self) -> Extent:
        import shapely

        name = self.kwargs["name"]
        columns = definition(name).columns
        found = Extent()
        if "value_time" in columns:
            times = warehouse.sql(TIMES.format(name))
            first, last = times["first"][0].as_py(), times["last"][0].as_py()
            found = replace(found, times=(first, last) if first else None)
        place = next((column for column in PLACES if column in columns), None)
        if place and (shapes := warehouse.sql(WHERE.format(place=place, name=name))).num_rows:
            bounds = shapely.total_bounds(shapely.from_wkb(shapes["geometry"].to_pylist()))
            found = replace(found, box=tuple(bounds.tolist()))
        return found

    def discover(self, **options: Any) -> pa.Table:
        """The first rows, to see the columns."""
        return warehouse.table(self.kwargs["name"]).scan(limit=10, **options).to_arrow()


class RawFiles(Reader):
    """What the registry knows of a source's raw files; `thalweg.raw.read` gives their bytes."""

    output_instance = "pyarrow:Table"

    def _read(self, source: str, dataset: str | None = None) -> pa.Table:
        """A row a file: its id, where it lies and came from, sha256, size in bytes, times, run."""
        files = raw.find(source, dataset)
        return pa.Table.from_pylist(
            [{name: getattr(file, name) for name in REGISTRY.names} for file in files], REGISTRY
        )

    def extent(self) -> Extent:
        return Extent(times=raw.period(self.kwargs["source"]))


class GriddedFields(Reader):
    """A repository of fields, opened lazily, now or as it was."""

    output_instance = "xarray:Dataset"

    def _read(self, name: str, **options: Any) -> Any:
        """Fields, as `thalweg.gridded.open(name, level, snapshot=…)` gives them."""
        from thalweg import gridded

        return gridded.open(name, **options)

    def discover(self, **options: Any) -> Any:
        """The fields of the first type of level; none where nothing was written yet."""
        import xarray

        from thalweg import gridded

        name, levels = self.kwargs["name"], self._levels()
        if not levels:
            return xarray.Dataset()
        return gridded.open(name, **({"level": levels[0]} | options))

    def extent(self) -> Extent:
        from thalweg import gridded

        name, levels = self.kwargs["name"], self._levels()
        if not levels:
            return Extent()
        return Extent(*extent_of(gridded.open(name, level) for level in levels))

    def _levels(self) -> list[str]:
        """None where nothing was written yet."""
        from thalweg import gridded

        name = self.kwargs["name"]
        return gridded.levels(name) if name in gridded.names() else []


class PublicZarr(Reader):
    """A Zarr store in a public bucket, opened lazily."""

    output_instance = "xarray:Dataset"

    def _read(self, url: str, endpoint: str | None = None, **options: Any) -> Any:
        """The dataset; `options` go to `xarray.open_zarr`.

        `endpoint` is the bucket's home where that is not AWS; a mirror set by
        THALWEG_PUBLIC_ENDPOINT holds all buckets and goes before it.
        """
        import xarray
        from zarr.storage import FsspecStore

        settings = load()
        if endpoint and settings.public_endpoint == Settings.public_endpoint:
            settings = replace(settings, public_endpoint=endpoint)
        files = storage.public_filesystem(settings)
        try:
            # Asked first, and one at a time: Zarr asks for all metadata at once.
            if not any(files.exists(f"{url}/{name}") for name in (".zmetadata", "zarr.json")):
                raise NotFound(f"no Zarr store with consolidated metadata at {url}")
            return xarray.open_zarr(FsspecStore.from_mapper(files.get_mapper(url)), **options)
        except (OSError, BotoCoreError) as error:
            raise Unavailable(
                f"cannot read {url} at {settings.public_endpoint} ({type(error).__name__}): "
                "public data needs a network"
            ) from error


def extent_of(datasets: Iterable[xr.Dataset]) -> tuple[Box, Times]:
    """The box of all cell centres, and the first and last time for which fields hold."""
    boxes, times = [], []
    for dataset in datasets:
        x, y, valid = (dataset[name].values for name in ("longitude", "latitude", "valid_time"))
        boxes.append([x.min(), y.min(), -x.max(), -y.max()])
        times += [valid.min(), valid.max()]
    west, south, east, north = (float(value) for value in np.min(boxes, axis=0))
    first, last = (
        dt.datetime.fromtimestamp(int(each.astype("datetime64[s]").astype(int)), dt.UTC)
        for each in (min(times), max(times))
    )
    return (west, south, -east, -north), (first, last)


@dataclass(frozen=True)
class Entry:
    """One entry of the catalogue, by its full name, as `warehouse.metrics`."""

    name: str
    description: str
    units: str
    licence: str
    source: str
    spatial_extent: str
    temporal_extent: str
    reader: Reader

    @property
    def is_public(self) -> bool:
        """Whether it lies in a bucket of somebody else's."""
        return isinstance(self.reader, PublicZarr)


@dataclass(frozen=True)
class Check:
    """Whether an entry opened: ok, unreachable (nobody answers) or broken; and what was said."""

    name: str
    state: str
    message: str
    seconds: float
    is_public: bool


def entries(catalogue: Catalog | None = None, prefix: str = "") -> Iterator[Entry]:
    """All entries of the catalogue and of those nested in it; opens none of them."""
    catalogue = open_catalog() if catalogue is None else catalogue
    for name in catalogue:
        item = catalogue[name]
        if isinstance(item, Catalog):
            yield from entries(item, f"{prefix}{name}.")
        else:
            said = {key: item.metadata.get(key, "") for key in SAID}
            yield Entry(f"{prefix}{name}", **said, reader=item)


def entry(name: str, catalogue: Catalog | None = None) -> Entry:
    """The entry of this full name; raises `NotFound` with the nearest known one."""
    known = {each.name: each for each in entries(catalogue)}
    if name not in known:
        raise NotFound(f"unknown catalogue entry {name!r}{nearest(name, known)}")
    return known[name]


def check(entry: Entry) -> Check:
    """Open an entry, its first rows or a Zarr store's metadata; broken where it says too little."""
    started = time.perf_counter()
    try:
        if silent := [key for key in SAID if not getattr(entry, key)]:
            raise InvalidInput(f"the entry does not say its {', '.join(silent)}")
        found = entry.reader.discover()
        is_table = isinstance(found, pa.Table)
        seen = f"{found.num_columns} columns" if is_table else f"{len(found)} variables"
        state, message = "ok", seen if is_table or len(found) else "nothing was written yet"
    except Unavailable as error:
        state, message = "unreachable", str(error)
    except Exception as error:
        state, message = "broken", f"{type(error).__name__}: {error}".splitlines()[0]
    seconds = round(time.perf_counter() - started, 2)
    return Check(entry.name, state, message, seconds, entry.is_public)
