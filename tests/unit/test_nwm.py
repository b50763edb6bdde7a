from __future__ import annotations

import io
import os
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import s3fs

from thalweg import database, raw, warehouse
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.settings import Settings, load
from thalweg.sources import nwm, usgs

BUCKET = "noaa-nwm-pds"
START, END = "2021-08-23T13:00", "2021-08-24T17:00"


@pytest.fixture
def noaa(store: Settings, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A bucket laid out as NOAA's: 28 analyses and the TimeSlices of a day, in Texas."""
    monkeypatch.setenv("THALWEG_PUBLIC_ENDPOINT", os.environ["AWS_ENDPOINT_URL"])
    database.migrate()
    warehouse.migrate()
    folder = shared_data / "nwm_usgs_lower_colorado"
    bucket = s3fs.S3FileSystem(use_listings_cache=False)
    if bucket.exists(BUCKET):
        return load()
    bucket.mkdir(BUCKET)
    for file in sorted((folder / "channel_forcing").iterdir()):
        day, hour = file.name[:8], file.name[8:10]
        key = f"nwm.{day}/analysis_assim/nwm.t{hour}z.analysis_assim.channel_rt.tm00.conus.nc"
        bucket.pipe_file(f"{BUCKET}/{key}", file.read_bytes())
    for file in (folder / "usgs_TimeSlice").iterdir():
        day = file.name[:10].replace("-", "")
        bucket.pipe_file(f"{BUCKET}/nwm.{day}/usgs_timeslices/{file.name}", file.read_bytes())
    return load()


@pytest.fixture
def route_link(shared_data: Path) -> bytes:
    return (shared_data / "nwm_usgs_lower_colorado" / "RouteLink.nc").read_bytes()


def edited(content: bytes, edit: object) -> bytes:
    """The NetCDF file after `edit(h5py file)`."""
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        edit(file)  # type: ignore[operator]
    return buffer.getvalue()


def test_715_pairs_from_raw_files_to_the_warehouse(noaa: Settings, route_link: bytes) -> None:
    """65 gauges of 11 hours, from NOAA's layout; a second run changes nothing."""
    snapshots = []
    for first in (True, False):
        observed = usgs.fetch([], "2021-08-23", "2021-08-24", timeslices=True)
        simulated = nwm.fetch(START, END)
        assert (len(observed), len(simulated)) == (24, 28)
        locations, crosswalk = nwm.crosswalk(route_link)
        written = warehouse.write_all(
            {"locations": locations, "location_crosswalks": crosswalk}, replace=False
        )
        written += warehouse.write_all(usgs.read(observed))
        written += warehouse.write_all(nwm.read(simulated, crosswalk))
        assert first or all(w.added == w.changed == 0 for w in written), written
        snapshots.append([warehouse.table(n).current_snapshot() for n in warehouse.names()])
    assert snapshots[0] == snapshots[1]

    gauges = pc.is_in(
        pc.field("location_id"), value_set=crosswalk["primary_location_id"].combine_chunks()
    )
    primary = warehouse.read(
        "primary_timeseries",
        where="value_time >= '2021-08-23T00:00:00+00:00' and "
        "value_time < '2021-08-24T00:00:00+00:00'",
    ).filter(gauges)
    secondary = warehouse.read(
        "secondary_timeseries", where="configuration_name = 'nwm30_analysis_assim'"
    )
    pairs = (
        primary.select(["location_id", "value_time", "value"])
        .join(crosswalk, "location_id", "primary_location_id", join_type="inner")
        .join(
            secondary.select(["location_id", "value_time", "value"]),
            ["secondary_location_id", "value_time"],
            ["location_id", "value_time"],
            right_suffix="_nwm",
            join_type="inner",
        )
    )
    assert pairs.num_rows == 715
    assert len(pairs["location_id"].unique()) == 65
    assert len(pairs["value_time"].unique()) == 11


def test_values_are_those_of_the_file(noaa: Settings, route_link: bytes, shared_data: Path) -> None:
    _, crosswalk = nwm.crosswalk(route_link)
    files = nwm.fetch(START, "2021-08-23T14:00")
    rows = nwm.read(files, crosswalk)["secondary_timeseries"]
    path = shared_data / "nwm_usgs_lower_colorado/channel_forcing/202108231300.CHRTOUT_DOMAIN1"
    with h5py.File(path) as file:
        expected = {
            f"nwm30-{i}": packed / 100
            for i, packed in zip(file["feature_id"][()], file["streamflow"][()], strict=True)
        }
    assert rows.num_rows == 76
    for row in rows.to_pylist():
        assert row["value"] == pytest.approx(expected[row["location_id"]], abs=1e-12)
        assert row["value_time"].isoformat() == "2021-08-23T13:00:00+00:00"
        assert (row["reference_time"], row["member"]) == (None, None)
        assert (row["unit_name"], row["raw_file_id"]) == ("m^3/s", files[0].id)
    assert nwm.read(files, crosswalk)["configurations"].to_pylist() == [
        {
            "name": "nwm30_analysis_assim",
            "type": "secondary",
            "description": "National Water Model 3.0, analysis and assimilation, at its own time",
        }
    ]


def test_the_crosswalk_names_76_gauges(route_link: bytes) -> None:
    locations, crosswalk = nwm.crosswalk(route_link)
    assert locations.num_rows == crosswalk.num_rows == 76
    pairs = dict(zip(*(c.to_pylist() for c in crosswalk.columns), strict=True))
    with h5py.File(io.BytesIO(route_link)) as file:
        for gauge, link in zip(file["gages"][()], file["link"][()], strict=True):
            if name := gauge.tobytes().decode().strip():
                assert pairs[f"usgs-{name}"] == f"nwm30-{link}"


def test_what_has_landed_is_not_fetched_again(
    noaa: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nwm.fetch(START, END)
    seen: list[tuple[int, int]] = []
    fetched: list[str] = []
    original = s3fs.S3FileSystem.cat_file
    monkeypatch.setattr(
        s3fs.S3FileSystem,
        "cat_file",
        lambda self, path, **more: fetched.append(path) or original(self, path, **more),
    )
    again = nwm.fetch(START, END, progress=lambda *step: seen.append(step))
    assert again == first
    assert fetched == []
    assert seen[-1] == (28, 28)


def test_a_forecast_has_issue_time_and_member(
    noaa: Settings, route_link: bytes, shared_data: Path
) -> None:
    """A medium-range file, made from an analysis by giving it another issue time."""
    folder = shared_data / "nwm_usgs_lower_colorado" / "channel_forcing"

    def issue(file: h5py.File) -> None:
        file["reference_time"][0] = file["time"][0] - 60
        file.attrs["NWM_version_number"] = np.bytes_(b"v2.1")
        file["streamflow"][:5] = -999900

    made = edited((folder / "202108231300.CHRTOUT_DOMAIN1").read_bytes(), issue)
    key = "nwm.20210823/medium_range_mem1/nwm.t12z.medium_range.channel_rt_1.f001.conus.nc"
    s3fs.S3FileSystem().pipe_file(f"{BUCKET}/{key}", made)
    files = nwm.fetch("2021-08-23", "2021-08-24", configuration="medium_range_mem1")
    assert [f.url for f in files] == [f"s3://{BUCKET}/{key}"]
    assert files[0].valid_from.isoformat() == "2021-08-23T13:00:00+00:00"
    with pytest.raises(InvalidInput, match="is of nwm21, but the crosswalk has no location"):
        nwm.read(files, nwm.crosswalk(route_link)[1])
    with h5py.File(io.BytesIO(made)) as content:
        reaches = [f"nwm21-{i}" for i in content["feature_id"][:8]]
    rows = nwm.read(files, pa.table({"secondary_location_id": [*reaches, "SCBC1"]}))
    series = rows["secondary_timeseries"].to_pylist()
    # Five of the eight reaches hold the fill value.
    assert [r["location_id"] for r in series] == reaches[5:]
    assert {r["reference_time"].isoformat() for r in series} == {"2021-08-23T12:00:00+00:00"}
    assert {r["member"] for r in series} == {"1"}
    assert {r["configuration_name"] for r in series} == {"nwm21_medium_range"}


def test_what_is_not_there_is_said(noaa: Settings) -> None:
    with pytest.raises(NotFound, match=r"none of 24 files is there; .*nwm\.20210101/analysis"):
        nwm.fetch("2021-01-01", "2021-01-02")
    with pytest.raises(InvalidInput, match="did you mean 'short_range'"):
        nwm.fetch(START, END, configuration="short_rnge")
    gone = load(public_endpoint="http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="does not give s3://noaa-nwm-pds"):
        nwm.fetch(START, "2021-08-23T14:00", settings=gone)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: content[:20_000], "not the NetCDF file it should be .*cut short"),
        (lambda content: edited(content, lambda f: f.pop("streamflow")), "streamflow"),
        (
            lambda content: edited(
                content, lambda f: f["streamflow"].attrs.create("units", np.bytes_(b"ft3 s-1"))
            ),
            "in 'ft3 s-1', expected 'm3 s-1'",
        ),
        (
            lambda content: edited(content, lambda f: f.attrs.modify("code_version", b"v9")),
            "does not say which National Water Model",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(
    noaa: Settings, route_link: bytes, shared_data: Path, damage: object, says: str
) -> None:
    folder = shared_data / "nwm_usgs_lower_colorado" / "channel_forcing"
    content = damage((folder / "202108231300.CHRTOUT_DOMAIN1").read_bytes())  # type: ignore[operator]
    url = "s3://b/nwm.20210823/analysis_assim/nwm.t13z.analysis_assim.channel_rt.tm00.conus.nc"
    file = raw.land("nwm", "damaged", content, extension="nc", url=url)
    with pytest.raises(InvalidInput, match=says):
        nwm.read([file], nwm.crosswalk(route_link)[1])


def test_other_names_are_refused(noaa: Settings, route_link: bytes) -> None:
    file = raw.land("nwm", "damaged", b"x", extension="nc", url="s3://b/land.nc")
    with pytest.raises(InvalidInput, match="is not named like a channel file"):
        nwm.read([file], nwm.crosswalk(route_link)[1])


def test_a_route_link_lands(noaa: Settings, shared_data: Path, route_link: bytes) -> None:
    file = nwm.land_route_link((shared_data / "nwm_usgs_lower_colorado/RouteLink.nc").as_uri())
    assert raw.read(file) == route_link
    with pytest.raises(NotFound):
        nwm.land_route_link("s3://noaa-nwm-pds/none.nc")
