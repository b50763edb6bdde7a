"""Data by name: intake catalogues of raw files, warehouse tables and public buckets.

The files in catalogs/ are the same on a laptop and on AWS; what differs stands in the environment.
A catalogue names the code that opens its entries: open only catalogues that you trust.

>>> from thalweg import open_catalog
>>> list(open_catalog())
['raw', 'warehouse', 'gridded', 'public']
>>> open_catalog()["warehouse"]["metrics"].read()  # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from botocore.exceptions import BotoCoreError
from intake import BaseReader
from intake.readers.entry import Catalog

from thalweg import raw, storage, warehouse
from thalweg.errors import NotFound, Unavailable, nearest
from thalweg.settings import Settings, load

__all__ = [
    "Check",
    "Entry",
    "GriddedFields",
    "IcebergTable",
    "PublicZarr",
    "RawFiles",
    "check",
    "entries",
    "entry",
    "open_catalog",
]

TIME = pa.timestamp("us", "UTC")
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


class IcebergTable(BaseReader):  # type: ignore[misc]
    """A table of the warehouse, whole or in part, now or as of a snapshot."""

    output_instance = "pyarrow:Table"

    def _read(self, name: str, **options: Any) -> pa.Table:
        """Rows, as `thalweg.warehouse.read(name, columns, where, snapshot_id)` gives them."""
        return warehouse.read(name, **options)

    def discover(self, **options: Any) -> pa.Table:
        """The first rows, to see the columns."""
        return warehouse.table(self.kwargs["name"]).scan(limit=10, **options).to_arrow()


class RawFiles(BaseReader):  # type: ignore[misc]
    """What the registry knows of a source's raw files; `thalweg.raw.read` gives their bytes."""

    output_instance = "pyarrow:Table"

    def _read(self, source: str, dataset: str | None = None) -> pa.Table:
        """A row a file: its id, where it lies and came from, sha256, size in bytes, times, run."""
        files = raw.find(source, dataset)
        return pa.Table.from_pylist(
            [{name: getattr(file, name) for name in REGISTRY.names} for file in files], REGISTRY
        )


class GriddedFields(BaseReader):  # type: ignore[misc]
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

        name = self.kwargs["name"]
        if name not in gridded.names():
            return xarray.Dataset()
        return gridded.open(name, **({"level": gridded.levels(name)[0]} | options))


class PublicZarr(BaseReader):  # type: ignore[misc]
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


@dataclass(frozen=True)
class Entry:
    """One entry of the catalogue, by its full name, as `warehouse.metrics`."""

    name: str
    description: str
    units: str
    licence: str
    reader: BaseReader

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
            said = {key: item.metadata.get(key, "") for key in ("description", "units", "licence")}
            yield Entry(f"{prefix}{name}", **said, reader=item)


def entry(name: str, catalogue: Catalog | None = None) -> Entry:
    """The entry of this full name; raises `NotFound` with the nearest known one."""
    known = {each.name: each for each in entries(catalogue)}
    if name not in known:
        raise NotFound(f"unknown catalogue entry {name!r}{nearest(name, known)}")
    return known[name]


def check(entry: Entry) -> Check:
    """Open an entry: its first rows, or a Zarr store's metadata."""
    started = time.perf_counter()
    try:
        found = entry.reader.discover()
        is_table = isinstance(found, pa.Table)
        seen = f"{found.num_columns} columns" if is_table else f"{len(found)} variables"
        state, message = "ok", seen
    except Unavailable as error:
        state, message = "unreachable", str(error)
    except Exception as error:
        state, message = "broken", f"{type(error).__name__}: {error}".splitlines()[0]
    seconds = round(time.perf_counter() - started, 2)
    return Check(entry.name, state, message, seconds, entry.is_public)
