"""The STAC catalogue: valid, true to the registry, and opened by the tools that people have."""

from __future__ import annotations

import configparser
import datetime as dt
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pystac
import pystac_client
import pytest
import xarray as xr
from pystac.extensions.file import FileExtension
from typer.testing import CliRunner

from thalweg import catalog, database, gridded, raw, stac
from thalweg.cli import app
from thalweg.database import new_id
from thalweg.errors import InvalidInput
from thalweg.settings import Settings
from thalweg.sources import gfs, ifs

START = dt.datetime(2026, 3, 16, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def settings(store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A registry and fields of this test alone, in a folder."""
    changed = {
        "database_url": f"sqlite:///{tmp_path / 'thalweg.db'}",
        "gridded_uri": f"file://{tmp_path}/gridded",
    }
    for name, value in changed.items():
        monkeypatch.setenv(f"THALWEG_{name.upper()}", value)
    settings = replace(store, **changed)
    database.migrate(settings)
    return settings


def fields(file: raw.RawFile) -> xr.Dataset:
    """Two times of a field of 3 by 4 cells, as the sources of fields give it."""
    number = int(file.id.replace("-", ""), 16)
    halves = np.array([number >> 64, number & (2**64 - 1)], np.uint64)
    dims = ("time", "step", "latitude", "longitude")
    about = {"units": "K", "long_name": "2 metre temperature", "standard_name": "air_temperature"}
    return xr.Dataset(
        {
            "t2m": (dims, np.arange(24, dtype="f4").reshape(2, 1, 3, 4), about),
            "t2m_raw_file": (("time", "step", "half"), np.tile(halves, (2, 1, 1))),
        },
        coords={
            "time": np.array(["2026-03-16T00", "2026-03-16T12"], "datetime64[ns]"),
            "step": np.array([3], "timedelta64[h]").astype("timedelta64[ns]"),
            "latitude": ("latitude", [49.0, 50.0, 51.0], {"units": "degrees_north"}),
            "longitude": ("longitude", [-4.0, -3.0, -2.0, -1.0], {"units": "degrees_east"}),
        },
    )


def land(dataset: str, content: bytes, **more: object) -> raw.RawFile:
    return raw.land("usgs", dataset, content, extension="json", **more)


def test_every_part_is_valid_and_opens(settings: Settings, tmp_path: Path) -> None:
    known = land("iv", b"{}", url="https://x/y?a=b", valid_from=START, valid_to=START + HOUR)
    unknown = land("iv", b"{1}", url="a file of mine")
    other = raw.land("other", "o", b"2", extension="bin", url="s3://x/y", valid_from=START)
    gridded.write("era5", {"surface": fields(other)})
    stac.write(tmp_path / "stac")

    (tmp_path / "stac").rename(tmp_path / "moved")
    client = pystac_client.Client.open(str(tmp_path / "moved" / "catalog.json"))
    items = {item.id: item for item in client.get_items(recursive=True)}
    assert set(items) == {known.id, unknown.id, other.id, "era5"}
    for part in (client, *client.get_collections(), *items.values()):
        pystac.validation.validate_dict(part.to_dict(), extensions=[])

    item = items[known.id]
    asset = item.assets["data"]
    about = FileExtension.ext(asset)
    assert (asset.href, asset.media_type) == (known.uri, "application/json")
    assert (about.size, about.checksum) == (2, f"1220{known.sha256}")
    assert (item.common_metadata.start_datetime, item.common_metadata.end_datetime) == (
        START, START + HOUR,
    )  # fmt: skip
    assert item.get_single_link("via").href == "https://x/y?a=b"
    assert items[unknown.id].get_single_link("via") is None
    assert items[unknown.id].common_metadata.start_datetime == unknown.ingested_at
    collection = client.get_child("usgs-iv")
    assert "public domain (U.S. Geological Survey)" in collection.description
    assert collection.extent.temporal.intervals == [[START, unknown.ingested_at]]


def test_fields_say_where_when_and_what(settings: Settings, tmp_path: Path) -> None:
    file = raw.land("other", "o", b"2", extension="bin", url="s3://x/y")
    written = gridded.write("era5", {"surface": fields(file)})
    stac.write(tmp_path / "stac")
    item = pystac.Item.from_file(tmp_path / "stac" / "gridded" / "era5" / "era5.json")
    assert item.bbox == [-4.0, 49.0, -1.0, 51.0]
    assert item.common_metadata.start_datetime == START + 3 * HOUR
    assert item.common_metadata.end_datetime == START + 15 * HOUR
    assert item.properties["thalweg:snapshot"] == written.snapshot
    entry = catalog.entry("gridded.era5")
    assert entry.reader.extent() == catalog.Extent(
        (-4.0, 49.0, -1.0, 51.0), (START + 3 * HOUR, START + 15 * HOUR)
    )
    assert catalog.check(entry).state == "ok"
    assert catalog.check(catalog.entry("gridded.ifs")).message == "nothing was written yet"
    cube = item.assets["surface"].extra_fields
    assert cube["cube:variables"] == {
        "t2m": {
            "type": "data",
            "dimensions": ["time", "step", "latitude", "longitude"],
            "description": "2 metre temperature",
            "unit": "K",
        }
    }
    assert cube["cube:dimensions"] == {
        "time": {"type": "temporal", "extent": ["2026-03-16T00:00:00Z", "2026-03-16T12:00:00Z"]},
        "step": {"type": "step", "unit": "h", "values": [3.0]},
        "latitude": {
            "type": "spatial", "axis": "y", "reference_system": 4326, "extent": [49.0, 51.0],
        },
        "longitude": {
            "type": "spatial", "axis": "x", "reference_system": 4326, "extent": [-4.0, -1.0],
        },
    }  # fmt: skip
    assert item.assets["surface"].title == 'thalweg.gridded.open("era5", "surface")'
    assert item.assets["surface"].href == f"file://{tmp_path}/gridded/era5"


def test_the_cells_of_a_projected_grid_are_no_degrees(
    settings: Settings, shared_data: Path
) -> None:
    path = shared_data / "grib_samples" / "nam.t00z.awp21100.tm00.grib2"
    file = raw.land("gfs", "nam", path.read_bytes(), extension="grib2", url="test:nam")
    gridded.write("nam", gfs.read([file]))
    (item,) = stac.build(settings).get_child("gridded").get_items()
    for level, asset in item.assets.items():
        sizes = gridded.open("nam", level).sizes
        for name in ("x", "y"):
            said = asset.extra_fields["cube:dimensions"][name]
            assert said == {"type": "cell", "extent": [0, sizes[name] - 1]}


LOAD = """
import sys, numpy, odc.stac, pystac_client
(item,) = pystac_client.Client.open(sys.argv[1]).get_child("ifs-open").get_items()
about = dict(crs="EPSG:4326", resolution=0.25, anchor="center", bbox=(-10.1, 39.9, 10.1, 50.1))
numpy.save(sys.argv[2], odc.stac.load([item], bands=["data"], **about)["data"].values)
"""


def test_odc_stac_loads_a_real_grib(settings: Settings, tmp_path: Path, shared_data: Path) -> None:
    """By what the catalogue says, through GDAL, from the store: the values that we have of it."""
    (path,) = (shared_data / "ecmwf_ifs_open").glob("*.grib")
    file = raw.land("ifs", "open", path.read_bytes(), extension="grib", url=path.as_uri())
    gridded.write("ifs", ifs.read([file], area=(-12, 38, 12, 52)))
    stac.write(tmp_path / "stac")
    keys = configparser.ConfigParser()
    keys.read(os.environ["AWS_SHARED_CREDENTIALS_FILE"])
    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    gdal = {"AWS_S3_ENDPOINT": endpoint, "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}
    gdal |= {"GRIB_NORMALIZE_UNITS": "NO"}  # kelvin stay kelvin
    # In a process of its own: its PROJ and that of ecCodes do not go together.
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "stac" / "catalog.json", tmp_path / "loaded.npy"],
        capture_output=True,
        text=True,
        env=os.environ | gdal | {key.upper(): value for key, value in keys["default"].items()},
    )
    assert done.returncode == 0, done.stderr
    (loaded,) = np.load(tmp_path / "loaded.npy")
    part = gridded.open("ifs").sel(latitude=slice(40, 50), longitude=slice(-10, 10))
    first = part["d2m"].isel(time=0, step=0)  # the first message of the file
    np.testing.assert_array_equal(loaded, first.values[::-1])


def test_the_command_counts_what_it_wrote(settings: Settings, tmp_path: Path) -> None:
    land("iv", new_id().encode(), url="https://x/y")
    folder = tmp_path / "stac"
    done = CliRunner().invoke(app, ["catalog", "stac", str(folder), "--json"])
    assert json.loads(done.stdout) == {
        "catalogue": str(folder / "catalog.json"),
        "items": {"usgs-iv": 1},
    }
    assert (folder / "usgs-iv" / "collection.json").is_file()
    with pytest.raises(InvalidInput, match="cannot write the catalogue into"):
        stac.write(folder / "catalog.json" / "below")
