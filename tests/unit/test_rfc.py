from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import s3fs
from damage import damaged
from on_disk import edited, raw_file

from thalweg import database
from thalweg.errors import InvalidInput, NotFound
from thalweg.raw import RawFile
from thalweg.settings import Settings
from thalweg.sources import rfc

NAMES = ["BCRT2", "BLKT2", "BUDT2", "CCRT2", "CLRT2", "EVST2"]
URL = "s3://noaa-nwm-pds/nwm.20210823/rfc_timeseries/2021-08-23_00.60min.BCRT2.RFCTimeSeries.ncdf"


@pytest.fixture
def forecast(shared_data: Path) -> bytes:
    return (
        shared_data / "nwm_usgs_lower_colorado" / "rfc_TimeSeries" / Path(URL).name
    ).read_bytes()


def on_disk(folder: Path, content: bytes) -> RawFile:
    return raw_file(folder, content, URL, "rfc", "timeseries")


def test_six_forecasts_from_the_bucket(
    store: Settings, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 241 hours 133 are the centre's own, all of them a dry river; 108 were filled in."""
    monkeypatch.setenv("THALWEG_PUBLIC_ENDPOINT", os.environ["AWS_ENDPOINT_URL"])
    database.migrate()
    bucket = s3fs.S3FileSystem()
    bucket.mkdirs("noaa-nwm-pds", exist_ok=True)
    for path in (shared_data / "nwm_usgs_lower_colorado" / "rfc_TimeSeries").iterdir():
        key = f"noaa-nwm-pds/nwm.20210823/rfc_timeseries/{path.name}"
        bucket.pipe_file(key, path.read_bytes())
    files = rfc.fetch([*NAMES, "NONE1"], "2021-08-23", "2021-08-24")
    assert [Path(f.url).name[20:25] for f in files] == NAMES
    tables = rfc.read(files)
    rows = tables["secondary_timeseries"]
    assert rows.num_rows == 6 * 133
    assert rows.schema.metadata == {b"missing": str(6 * 108).encode()}
    assert set(rows["value"].to_pylist()) == {0.0}
    assert sorted(set(rows["location_id"].to_pylist())) == NAMES
    times = rows["value_time"].slice(0, 133).to_pylist()
    issued = dt.datetime(2021, 8, 23, tzinfo=dt.UTC)
    assert times == [issued + dt.timedelta(hours=i) for i in range(133)]
    assert rows["reference_time"].unique().to_pylist() == [issued]
    assert tables["configurations"]["name"].to_pylist() == ["rfc_forecast"]
    with pytest.raises(NotFound, match="none of 24 files is there"):
        rfc.fetch(["BCRT2"], "2021-08-25", "2021-08-26")


def test_observed_missing_and_filled_in_values_are_no_forecast(
    tmp_path: Path, forecast: bytes
) -> None:
    def fill(file: h5py.File) -> None:
        file["discharges"][0, :] = np.arange(289)
        file["discharges"][0, 50] = -999.99

    rows = rfc.read([on_disk(tmp_path, edited(forecast, fill))])["secondary_timeseries"]
    assert rows["value"].to_pylist() == [i for i in map(float, range(48, 181)) if i != 50]
    assert rows.schema.metadata == {b"missing": b"109"}


def test_what_is_asked_amiss_is_said() -> None:
    for stations, says in (("BCRT2", "expected a list"), ([], "a list"), (["03171000"], "station")):
        with pytest.raises(InvalidInput, match=says):
            rfc.fetch(stations, "2021-08-23", "2021-08-24")


def test_a_damaged_file_is_refused(tmp_path: Path, forecast: bytes) -> None:
    """Values of these files have no checksum of their own: a flipped byte can be known only by the
    checksum of the raw file.
    """
    right = rfc.read([on_disk(tmp_path, forecast)])["secondary_timeseries"]
    feet = edited(forecast, lambda f: f["discharges"].attrs.create("units", np.bytes_(b"ft^3/s")))
    with pytest.raises(InvalidInput, match="in 'ft\\^3/s', expected"):
        rfc.read([on_disk(tmp_path, feet)])
    for what, content in damaged(forecast):
        try:
            rows = rfc.read([on_disk(tmp_path, content)])["secondary_timeseries"]
        except InvalidInput:
            continue
        same = rows.drop_columns("raw_file_id").equals(right.drop_columns("raw_file_id"))
        assert same or "flipped" in what, what
