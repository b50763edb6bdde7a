"""The retrospective of the National Water Model: by reach, out of a Zarr store as NOAA's."""

from __future__ import annotations

import datetime as dt
import io
import os
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
import s3fs
import xarray as xr
from damage import damaged
from on_disk import raw_file
from zarr.storage import FsspecStore

from thalweg import database, raw
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.settings import Settings, load
from thalweg.sources import nwm


@pytest.fixture
def route_link(shared_data: Path) -> bytes:
    return (shared_data / "nwm_usgs_lower_colorado" / "RouteLink.nc").read_bytes()


@pytest.fixture
def store_of_noaa(
    store: Settings, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> xr.Dataset:
    """The Zarr store of the retrospective, in form: the 28 real hours, moved to a turn of the year.

    As NOAA's: 32-bit packed streamflow, whole hours since 1979, Zarr 2 with consolidated metadata;
    only the chunks are smaller.
    """
    monkeypatch.setenv("THALWEG_PUBLIC_ENDPOINT", os.environ["AWS_ENDPOINT_URL"])
    database.migrate()
    folder = shared_data / "nwm_usgs_lower_colorado" / "channel_forcing"
    hours = []
    for path in sorted(folder.iterdir()):
        with h5py.File(path) as file:
            hours.append(file["streamflow"][()])
            reaches = file["feature_id"][()].astype("int64")
    flow = np.stack(hours)
    flow[20, :] = -999900
    times = np.array(["2021-12-31T13", "1979-02-01T01"], "datetime64[h]").astype(int)
    first = int(times[0] - times[1])
    attrs = {"long_name": "River Flow", "units": "m3 s-1", "missing_value": -999900}
    attrs |= {"scale_factor": 0.009999999776482582, "add_offset": 0.0, "_FillValue": -999900}
    made = xr.Dataset(
        {"streamflow": (("time", "feature_id"), flow, attrs)},
        {
            "time": ("time", np.arange(first, first + 28), {
                "units": "hours since 1979-02-01T01:00:00", "calendar": "proleptic_gregorian",
            }),
            "feature_id": ("feature_id", reaches),
        },
        {"TITLE": "OUTPUT FROM WRF-Hydro v5.3.0-alpha1", "code_version": "v5.3.0-alpha1"},
    )  # fmt: skip
    files = s3fs.S3FileSystem(use_listings_cache=False)
    url = nwm.STORES["nwm30"]
    files.mkdirs(url.removeprefix("s3://").split("/")[0], exist_ok=True)
    made.to_zarr(
        FsspecStore.from_mapper(files.get_mapper(url)), mode="w", zarr_format=2, consolidated=True,
        encoding={"streamflow": {"chunks": (10, 3000)}},
    )  # fmt: skip
    return made


def test_the_retrospective_is_read_by_reach(
    store_of_noaa: xr.Dataset, route_link: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    crosswalk = nwm.crosswalk(route_link)[1]
    reaches = [name.split("-")[1] for name in crosswalk["secondary_location_id"].to_pylist()]
    seen: list[tuple[int, int]] = []
    files = nwm.retrospective(
        reaches, "2021-12-31T14", "2023-01-01", progress=lambda *step: seen.append(step)
    )
    assert seen == [(1, 2), (2, 2)]
    assert [f.valid_from.isoformat()[:13] for f in files] == ["2021-12-31T14", "2022-01-01T00"]
    assert files[1].url.startswith(f"{nwm.STORES['nwm30']}?feature_id=")
    # The first file holds what the store holds, as it holds it.
    with xr.open_dataset(io.BytesIO(raw.read(files[0])), decode_cf=False) as kept:
        columns = kept["feature_id"].values
        same = store_of_noaa["streamflow"].sel(feature_id=columns).isel(time=slice(1, 11))
        np.testing.assert_array_equal(kept["streamflow"], same)
        assert kept["streamflow"].dtype == np.dtype("int32")
        assert kept.attrs["code_version"] == "v5.3.0-alpha1"

    tables = nwm.read(files, crosswalk)
    assert tables["configurations"]["name"].to_pylist() == ["nwm30_retrospective"]
    rows = tables["secondary_timeseries"]
    # Of 27 hours one is all fill values.
    assert (rows.num_rows, rows.schema.metadata) == (26 * 76, {b"missing": b"76"})
    assert rows["reference_time"].null_count == rows.num_rows
    expected = {
        (f"nwm30-{reach}", int(hour)): value / 100
        for hour, values in zip(
            store_of_noaa["time"].values, store_of_noaa["streamflow"].values, strict=True
        )
        for reach, value in zip(store_of_noaa["feature_id"].values, values, strict=True)
    }
    since = dt.datetime(1979, 2, 1, 1, tzinfo=dt.UTC)
    for row in rows.to_pylist():
        hour = (row["value_time"] - since) // dt.timedelta(hours=1)
        assert row["value"] == pytest.approx(expected[row["location_id"], hour], abs=1e-12)

    # Asked again, nothing is read; read again, the bytes are the same and are kept once.
    assert nwm.retrospective(reaches, "2021-12-31T14", "2023-01-01") == files
    monkeypatch.setattr(raw, "find", lambda *_: [])
    assert nwm.retrospective(reaches, "2021-12-31T14", "2023-01-01") == files


def test_a_damaged_extract_is_refused(tmp_path: Path, store_of_noaa: xr.Dataset) -> None:
    """Reaches, times and values have checksums: a flipped byte changes none of them."""
    reaches = store_of_noaa["feature_id"].values[:500]
    pairs = pa.table({"secondary_location_id": [f"nwm30-{i}" for i in reaches]})
    (file,) = nwm.retrospective(reaches.tolist(), "2022-01-01", "2022-01-02")

    def rows_of(file: raw.RawFile) -> pa.Table:
        return nwm.read([file], pairs)["secondary_timeseries"].drop_columns("raw_file_id")

    right, refused = rows_of(file), 0
    for what, content in damaged(raw.read(file)):
        try:
            rows = rows_of(raw_file(tmp_path, content, file.url, "nwm", "retrospective"))
        except InvalidInput:
            refused += 1
            continue
        assert "flipped" in what, what
        assert rows.equals(right), what
    assert refused >= 26


def test_what_the_retrospective_lacks_is_said(
    store_of_noaa: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    reach = int(store_of_noaa["feature_id"][0])
    usual = {"feature_ids": [reach], "start": "2021-12-31", "end": "2022-01-02"}
    gone = load(public_endpoint="http://127.0.0.1:9")
    cases: list[tuple[dict[str, object], type[Exception], str]] = [
        ({"feature_ids": []}, InvalidInput, "no reaches"),
        ({"feature_ids": ["nwm30-101"]}, InvalidInput, "not the number of a reach"),
        ({"version": "nwm3"}, InvalidInput, "did you mean 'nwm30'"),
        ({"version": "nwm21"}, NotFound, "nothing is stored at s3://noaa-nwm-retrospective-2-1"),
        ({"feature_ids": [12]}, NotFound, r"has no reach \[12\]"),
        ({"start": "1950-01-01", "end": "1951-01-01"}, NotFound, "has values from 2021-12-31T13"),
        ({"settings": gone}, Unavailable, "does not give s3://noaa-nwm-retrospective-3-0"),
    ]
    for asked, error, says in cases:
        with pytest.raises(error, match=says):
            nwm.retrospective(**(usual | asked))  # type: ignore[arg-type]
