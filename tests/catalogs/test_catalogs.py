"""Every entry opens; public buckets are stood in for by buckets of the same names."""

from __future__ import annotations

import os

import numpy as np
import pytest
import s3fs
import xarray as xr
from zarr.storage import FsspecStore

from thalweg import catalog, database, warehouse
from thalweg.settings import Settings


@pytest.fixture
def stand_ins(store: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The public Zarr stores, small, in buckets of the same names in the local store."""
    database.migrate()
    warehouse.migrate()
    monkeypatch.setenv("THALWEG_PUBLIC_ENDPOINT", os.environ["AWS_ENDPOINT_URL"])
    files = s3fs.S3FileSystem()
    small = xr.Dataset({"streamflow": (("time", "feature_id"), np.arange(6.0).reshape(3, 2))})
    for entry in catalog.entries():
        if entry.is_public:
            url = entry.reader.kwargs["url"]
            files.mkdirs(url.removeprefix("s3://").split("/")[0], exist_ok=True)
            target = FsspecStore.from_mapper(files.get_mapper(url))
            small.to_zarr(target, mode="w", zarr_format=2, consolidated=True)
    return store


def test_every_entry_opens(stand_ins: Settings) -> None:
    checks = [catalog.check(entry) for entry in catalog.entries()]
    assert len(checks) >= 13
    assert [each for each in checks if each.state != "ok"] == []


def test_public_data_is_read_lazily_and_right(stand_ins: Settings) -> None:
    dataset = catalog.open_catalog()["public"]["nwm_retrospective"].read()
    assert dataset["streamflow"].chunks is not None
    assert dataset["streamflow"].isel(feature_id=1).values.tolist() == [1.0, 3.0, 5.0]


def test_every_entry_says_what_it_is() -> None:
    for entry in catalog.entries():
        assert all(getattr(entry, said) for said in catalog.SAID), entry.name


def test_every_table_and_source_has_an_entry() -> None:
    from thalweg import sources

    names = {entry.name for entry in catalog.entries()}
    assert {f"warehouse.{name}" for name in warehouse.names()} <= names
    assert {f"raw.{name}" for name in sources.names()} <= names
