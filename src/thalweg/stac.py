"""The raw files and the gridded repositories as a static STAC catalogue, for tools that know STAC.

A collection holds the files of one dataset of a source, with a file an item: its times, where it
lies, its size and sha256, and a link to where it came from. The collection `gridded` holds one item
a repository, with its extent, dimensions and variables, an asset a type of level.

>>> from thalweg import stac
>>> stac.write("stac")  # doctest: +SKIP
"""

from __future__ import annotations

import datetime as dt
import re
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg import gridded, raw, sources
from thalweg.catalog import extent_of
from thalweg.errors import InvalidInput
from thalweg.gridded.repository import RAW_FILE
from thalweg.raw import RawFile
from thalweg.settings import Settings, load

if TYPE_CHECKING:
    import pystac
    import xarray as xr

__all__ = ["build", "write"]

CHECKED = 20  # items of a collection; each takes some 20 ms
WORLD = [-180.0, -90.0, 180.0, 90.0]
#: A multihash (sha2-256, 32 bytes) is this and then the digest.
MULTIHASH = "1220"
#: By extension; not of GRIB: odc-stac takes a file without a type for a raster, of GRIB's type not.
MEDIA_TYPES = {
    "csv": "text/csv",
    "gz": "application/gzip",
    "json": "application/json",
    "nc": "application/netcdf",
    "ncdf": "application/netcdf",
    "parquet": "application/vnd.apache.parquet",
    "xml": "application/xml",
}
ZARR = "application/vnd.zarr; version=3"
AXES = {"longitude": "x", "latitude": "y"}


def write(folder: str | Path, settings: Settings | None = None) -> pystac.Catalog:
    """Write the catalogue into a folder, with links that are relative: it can be moved or served.

    It is checked against the schema of STAC 1.1 before anything is written, of each collection the
    first items, for all are made alike. Raises `InvalidInput` for a folder that cannot be written.
    """
    import pystac

    catalogue = build(settings)
    catalogue.normalize_hrefs(str(folder))
    collections = [*catalogue.get_collections()]
    items = chain.from_iterable(islice(each.get_items(), CHECKED) for each in collections)
    for each in (catalogue, *collections, *items):
        # The schemas of the core come with pystac; those of extensions it would get by network.
        pystac.validation.validate_dict(
            each.to_dict(), each.STAC_OBJECT_TYPE, pystac.get_stac_version(), extensions=[]
        )
    try:
        catalogue.save(pystac.CatalogType.SELF_CONTAINED)
    except OSError as error:
        raise InvalidInput(f"cannot write the catalogue into {folder}: {error}") from None
    return catalogue


def build(settings: Settings | None = None) -> pystac.Catalog:
    """The catalogue, in memory."""
    import pystac

    settings = settings or load()
    catalogue = pystac.Catalog("thalweg", "Raw files and gridded data of this hub", "Thalweg")

    written = {name: gridded.levels(name, settings) for name in gridded.names(settings)}
    repositories = [
        _repository(name, levels, settings) for name, levels in written.items() if levels
    ]
    # A raw file lies where the repository lies that was made of it; of others nothing is known.
    footprints = {
        id: item
        for item in repositories
        for state in gridded.snapshots(item.id, settings)
        for id in state.raw_file_ids
    }

    def dataset(file: RawFile) -> tuple[str, str]:
        return file.source, file.dataset

    files = sorted(raw.find(settings=settings), key=dataset)
    for (source, name), group in groupby(files, key=dataset):
        items = [_file(file, footprints.get(file.id)) for file in group]
        catalogue.add_child(_files(source, name, items))
    if repositories:
        text = "Fields as Zarr with versions; open one with thalweg.gridded.open(name)"
        catalogue.add_child(_collection("gridded", text, "other", repositories))
    return catalogue


def _files(source: str, dataset: str, items: list[pystac.Item]) -> pystac.Collection:
    known = sources.get(source) if source in sources.names() else None
    title, licence = (known.TITLE, known.LICENCE) if known else (source, "unknown")
    text = f"{title}: {dataset}, as it came. Licence: {licence}."
    # STAC wants an SPDX identifier, or "other" and words.
    spdx = licence if re.fullmatch(r"[\w.+-]+-[\d.]+", licence) else "other"
    return _collection(f"{source}-{dataset}", text, spdx, items)


def _collection(id: str, text: str, licence: str, items: list[pystac.Item]) -> pystac.Collection:
    import pystac

    starts, ends = zip(*map(_times, items), strict=True)
    boxes = [item.bbox for item in items if item.bbox] or [WORLD]
    box = [min(b[0] for b in boxes), min(b[1] for b in boxes)]
    box += [max(b[2] for b in boxes), max(b[3] for b in boxes)]
    extent = pystac.Extent(
        pystac.SpatialExtent([box]), pystac.TemporalExtent([[min(starts), max(ends)]])
    )
    made = pystac.Collection(id, text, extent, license=licence)
    made.add_items(items)
    return made


def _times(item: pystac.Item) -> tuple[dt.datetime, dt.datetime]:
    known = item.common_metadata
    at = item.datetime or dt.datetime.now(dt.UTC)
    return known.start_datetime or at, known.end_datetime or at


def _file(file: RawFile, place: pystac.Item | None) -> pystac.Item:
    """A raw file, with the footprint of the repository that was made of it, if there is one."""
    import pystac
    from pystac.extensions.file import FileExtension

    # What speaks of no time of its own has that of its arrival.
    first = file.valid_from or file.valid_to or file.ingested_at
    item = pystac.Item(
        file.id,
        geometry=place.geometry if place else None,
        bbox=place.bbox if place else None,
        datetime=None,
        start_datetime=first,
        end_datetime=file.valid_to or first,
        properties={
            "created": pystac.utils.datetime_to_str(file.ingested_at),
            "thalweg:run_id": file.run_id,
        },
    )
    extension = file.uri.rsplit(".", 1)[-1]
    asset = pystac.Asset(file.uri, media_type=MEDIA_TYPES.get(extension), roles=["data"])
    item.add_asset("data", asset)
    FileExtension.ext(asset, add_if_missing=True).apply(
        checksum=MULTIHASH + file.sha256, size=file.size
    )
    if "://" in file.url:
        item.add_link(pystac.Link("via", file.url, title="where it came from"))
    return item


def _repository(name: str, names: list[str], settings: Settings) -> pystac.Item:
    import pystac
    from pystac.extensions.datacube import DatacubeExtension

    levels = {level: gridded.open(name, level, settings=settings) for level in names}
    (west, south, east, north), (first, last) = extent_of(levels.values())
    corners = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    item = pystac.Item(
        name,
        geometry={"type": "Polygon", "coordinates": [corners]},
        bbox=[west, south, east, north],
        datetime=None,
        start_datetime=first,
        end_datetime=last,
        properties={"thalweg:snapshot": gridded.snapshots(name, settings)[0].id},
    )
    for level, dataset in levels.items():
        asset = pystac.Asset(
            f"{settings.gridded_uri}/{name}",
            title=f'thalweg.gridded.open("{name}", "{level}")',
            description=f"Zarr group {level} of an Icechunk repository",
            media_type=ZARR,
            roles=["data"],
        )
        item.add_asset(level, asset)
        DatacubeExtension.ext(asset, add_if_missing=True)
        asset.extra_fields |= _cube(dataset)
    return item


def _cube(dataset: xr.Dataset) -> dict[str, Any]:
    """Dimensions and variables of a dataset, as STAC's extension `datacube` has them."""
    variables = {
        str(name): {
            "type": "data",
            "dimensions": [str(dim) for dim in each.dims],
            "description": str(each.attrs.get("long_name", name)),
            "unit": str(each.attrs.get("units", "1")),
        }
        for name, each in dataset.data_vars.items()
        if not str(name).endswith(RAW_FILE)
    }
    used = {dim for each in variables.values() for dim in each["dimensions"]}
    dimensions = {str(dim): _dimension(dataset, str(dim)) for dim in dataset.dims if dim in used}
    return {"cube:dimensions": dimensions, "cube:variables": variables}


def _dimension(dataset: xr.Dataset, name: str) -> dict[str, Any]:
    if name not in dataset.indexes:  # of a projected grid: not spatial, which would say degrees
        return {"type": "cell", "extent": [0, dataset.sizes[name] - 1]}
    values = dataset[name].values
    if name in AXES:
        about = {"type": "spatial", "axis": AXES[name], "reference_system": 4326}
        return about | {"extent": [float(values.min()), float(values.max())]}
    if values.dtype.kind == "M":
        return {
            "type": "temporal",
            "extent": [
                f"{np.datetime_as_string(end, 's')}Z" for end in (values.min(), values.max())
            ],
        }
    if values.dtype.kind == "m":
        hours = values / np.timedelta64(1, "h")
        return {"type": "step", "unit": "h", "values": hours.tolist()}
    unit = {"unit": units} if (units := dataset[name].attrs.get("units")) else {}
    return {"type": name, "values": values.tolist(), **unit}
