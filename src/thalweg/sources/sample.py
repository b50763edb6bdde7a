"""The embedded sample: Hurricane Helene on the New River, and two HEFS ensembles in California.

Real figures of USGS and NOAA (`sample_data/README.md`), which go the way of all data: into `raw`,
and from there into the warehouse.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from importlib import resources

import pyarrow as pa
from pyarrow import csv

from thalweg import raw
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import Contract, _common
from thalweg.sources._common import SECONDARY, SERIES, VARIABLE, Progress, points
from thalweg.sources.usgs import CONFIGURATION as OBSERVATIONS

__all__ = ["CONTRACT", "LICENCE", "TITLE", "fetch", "read"]

TITLE = "USGS observations and NOAA forecasts of three gauges (embedded sample)"
LICENCE = "public domain (USGS, NOAA)"
CONFIGURATIONS = [
    OBSERVATIONS,
    {
        "name": "nwm30_medium_range",
        "type": "secondary",
        "description": "National Water Model 3.0, medium range",
    },
    {
        "name": "CNRFC_HEFS",
        "type": "secondary",
        "description": "Hydrologic Ensemble Forecast Service of the California Nevada RFC",
    },
]
CONTRACT = Contract(
    tables={
        "configurations": _common.CONFIGURATIONS,
        "locations": _common.LOCATIONS,
        "location_crosswalks": _common.CROSSWALKS,
        "primary_timeseries": SERIES,
        "secondary_timeseries": SECONDARY,
    },
    units={VARIABLE: ("ft^3/s", "m^3/s")},
    configurations=dict.fromkeys(each["name"] for each in CONFIGURATIONS),
)
PLACE = dict.fromkeys(("longitude", "latitude"), pa.float64())
TYPES = {field.name: field.type for field in SECONDARY} | PLACE


def fetch(settings: Settings | None = None, progress: Progress | None = None) -> list[RawFile]:
    """Land the sample's files; a dataset is named after its event and table."""
    settings = settings or load()
    folder = resources.files(__package__) / "sample_data"
    names = sorted(item.name for item in folder.iterdir() if ".csv" in item.name)
    files = []
    for done, name in enumerate(names, start=1):
        dataset, extension = name.split(".", 1)
        files.append(
            raw.land(
                "sample",
                dataset,
                (folder / name).read_bytes(),
                extension=extension,
                url=f"thalweg/sources/sample_data/{name}",
                settings=settings,
            )
        )
        if progress:
            progress(done, len(names))
    return files


def read(files: Iterable[RawFile]) -> dict[str, pa.Table]:
    """Rows of the sample's files by table, in the units of the files; times in UTC.

    Raises
    ------
    InvalidInput
        A file is damaged.
    """
    parts: dict[str, list[pa.Table]] = {}
    for file in files:
        table = file.dataset.split("_", 1)[1]
        parts.setdefault(table, []).append(_rows(file))
    tables = {name: pa.concat_tables(rows) for name, rows in parts.items()}
    return tables | {"configurations": pa.Table.from_pylist(CONFIGURATIONS)}


def _rows(file: RawFile) -> pa.Table:
    content = raw.read(file)
    plain = gzip.decompress(content) if file.uri.endswith(".gz") else content
    header = plain[: plain.index(b"\n")].decode().strip().split(",")
    options = csv.ConvertOptions(
        column_types={name: TYPES.get(name, pa.string()) for name in header},
        strings_can_be_null=True,
    )
    rows = csv.read_csv(pa.BufferReader(plain), convert_options=options)
    if "longitude" in header:
        places = points(rows["longitude"], rows["latitude"])
        return rows.select(["id", "name"]).append_column("geometry", places)
    if "unit_name" in header:
        return rows.append_column("raw_file_id", pa.repeat(file.id, rows.num_rows))
    return rows
