from __future__ import annotations

import datetime as dt
import io
import os
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import s3fs
from damage import damaged
from on_disk import edited, raw_file

from thalweg import database, raw, warehouse
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import nwm, usgs

BUCKET = "noaa-nwm-pds"
URL = "s3://b/nwm.20210823/analysis_assim/nwm.t13z.analysis_assim.channel_rt.tm00.conus.nc"
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


def test_28_files_give_the_reaches_asked_for_and_no_other(
    tmp_path: Path, shared_data: Path, route_link: bytes
) -> None:
    """11,248 reaches an hour: as all of them, and as the 76 that carry a gauge."""
    folder = shared_data / "nwm_usgs_lower_colorado" / "channel_forcing"
    files, hours, present = [], [], 0
    for path in sorted(folder.iterdir()):
        files.append(raw_file(tmp_path, path.read_bytes(), URL, "nwm", "analysis_assim"))
        with h5py.File(path) as file:
            ids, packed = file["feature_id"][()], file["streamflow"][()]
        hours.append(dt.datetime.strptime(path.name[:12], "%Y%m%d%H%M").replace(tzinfo=dt.UTC))
        present += int((packed != -999900).sum())
    everything = pa.table({"secondary_location_id": [f"nwm30-{i}" for i in ids]})
    gauged = nwm.crosswalk(route_link)[1]
    for crosswalk, count in ((everything, present), (gauged, 28 * 76)):
        rows = nwm.read(files, crosswalk)["secondary_timeseries"]
        assert (len(files), rows.num_rows) == (28, count)
        missing = int(rows.schema.metadata[b"missing"])
        assert rows.num_rows + missing == 28 * crosswalk.num_rows
        assert rows["value_time"].unique().to_pylist() == hours
    assert present == 305_396


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


def test_an_ensemble_is_all_its_members(
    noaa: Settings, route_link: bytes, shared_data: Path
) -> None:
    """Members 1, 2 and 7 of a medium range and 4 of a long range, made from an analysis."""
    folder = shared_data / "nwm_usgs_lower_colorado" / "channel_forcing"
    path = folder / "202108231300.CHRTOUT_DOMAIN1"
    crosswalk = nwm.crosswalk(route_link)[1]
    store = s3fs.S3FileSystem()
    wanted = {"medium_range": ["1", "2", "7"], "long_range": ["4"]}
    for name, members in wanted.items():
        for member in members:

            def issue(file: h5py.File, member: str = member) -> None:
                file["reference_time"][0] = file["time"][0] - 6 * 60
                file["streamflow"][:] = int(member)

            made = edited(path.read_bytes(), issue)
            key = f"nwm.20220101/{name}_mem{member}/nwm.t06z.{name}.channel_rt_{member}"
            store.pipe_file(f"{BUCKET}/{key}.f006.conus.nc", made)
        files = nwm.fetch("2022-01-01", "2022-01-02", configuration=name)
        assert [f.dataset for f in files] == [f"{name}_mem{member}" for member in members]
        series = nwm.read(files, crosswalk)["secondary_timeseries"]
        assert series.num_rows == 76 * len(members)
        assert set(series["configuration_name"].to_pylist()) == {f"nwm30_{name}"}
        found = series.group_by(["member", "value"]).aggregate([]).sort_by("member")
        assert found["member"].to_pylist() == members
        assert found["value"].to_pylist() == pytest.approx([int(m) / 100 for m in members])
    with pytest.raises(NotFound, match=r"none of 240 files .*t00z\.medium_range\.channel_rt_1\."):
        nwm.fetch("2022-02-01T00", "2022-02-01T06", configuration="medium_range")


def test_files_are_asked_for_by_the_names_that_noaa_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[str]] = {}

    def note(source: str, dataset: str, wanted: list, *others: object) -> list:
        asked[dataset] = [each.uri.removeprefix("s3://noaa-nwm-pds/") for each in wanted]
        return []

    monkeypatch.setattr(nwm, "fetch_objects", note)
    for name in nwm.CONFIGURATIONS:
        nwm.fetch("2025-12-12", "2025-12-13", configuration=name)
    counts = {name: len(files) for name, files in asked.items()}
    members = {f"medium_range_mem{i}": 4 * 204 for i in range(2, 8)}
    members |= {f"long_range_mem{i}": 4 * 120 for i in range(1, 5)}
    assert counts == {
        "analysis_assim": 24,
        "analysis_assim_extend": 28,
        "short_range": 24 * 18,
        "medium_range_mem1": 4 * 240,
        "medium_range_blend": 4 * 240,
        "medium_range_no_da": 4 * 80,
    } | members  # fmt: skip
    for folder, name in {
        "analysis_assim": "nwm.t12z.analysis_assim.channel_rt.tm00.conus.nc",
        "analysis_assim_extend": "nwm.t16z.analysis_assim_extend.channel_rt.tm27.conus.nc",
        "short_range": "nwm.t23z.short_range.channel_rt.f018.conus.nc",
        "medium_range_mem2": "nwm.t00z.medium_range.channel_rt_2.f003.conus.nc",
        "medium_range_mem7": "nwm.t12z.medium_range.channel_rt_7.f204.conus.nc",
        "medium_range_blend": "nwm.t06z.medium_range_blend.channel_rt.f240.conus.nc",
        "medium_range_no_da": "nwm.t18z.medium_range_no_da.channel_rt.f003.conus.nc",
        "long_range_mem1": "nwm.t00z.long_range.channel_rt_1.f006.conus.nc",
    }.items():
        assert f"nwm.20251212/{folder}/{name}" in asked[folder]


def as_version_2(file: h5py.File) -> None:
    """As NWM 2.0 wrote it: other text of units, 32-bit ids, one of two marks for fill values."""
    file.attrs["NWM_version_number"] = np.bytes_(b"v2.0")
    file.attrs["code_version"] = np.bytes_(b"v5.1.0-alpha11")
    file["time"].attrs["units"] = np.bytes_(b"minutes since 1970-01-01 00:00:00 UTC")
    ids = file["feature_id"][()].astype("int32")
    del file["feature_id"]
    file["feature_id"] = ids
    del file["streamflow"].attrs["_FillValue"]


def as_unpacked(file: h5py.File) -> None:
    """As a tool writes it that has unpacked the values: no scale factor is left to apply."""
    packed = file["streamflow"]
    values = np.where(packed[()] == -999900, np.nan, packed[()] / 100)
    del file["streamflow"]
    file["streamflow"] = values
    file["streamflow"].attrs["units"] = np.bytes_(b"m3 s-1")


@pytest.mark.parametrize(("edit", "version"), [(as_version_2, "nwm20"), (as_unpacked, "nwm30")])
def test_values_are_the_same_however_a_version_keeps_them(
    tmp_path: Path, shared_data: Path, edit: object, version: str
) -> None:
    path = shared_data / "nwm_usgs_lower_colorado/channel_forcing/202108231300.CHRTOUT_DOMAIN1"
    with h5py.File(path) as file:
        ids, packed = file["feature_id"][()], file["streamflow"][()]
    pairs = pa.table({"secondary_location_id": [f"{version}-{i}" for i in ids]})
    file = raw_file(tmp_path, edited(path.read_bytes(), edit), URL, "nwm", "analysis_assim")
    rows = nwm.read([file], pairs)["secondary_timeseries"]
    # Of the 11,248 reaches 341 have no value in this hour.
    present = packed != -999900
    assert rows.schema.metadata == {b"missing": b"341"}
    assert rows["location_id"].to_pylist() == [f"{version}-{i}" for i in ids[present]]
    np.testing.assert_allclose(rows["value"], packed[present] / 100, rtol=1e-15)
    assert rows["value_time"].unique().to_pylist() == [dt.datetime(2021, 8, 23, 13, tzinfo=dt.UTC)]


def rows_of(file: RawFile, crosswalk: pa.Table) -> pa.Table | None:
    """What is read of a file, apart from its id; None if it is refused."""
    try:
        return nwm.read([file], crosswalk)["secondary_timeseries"].drop_columns("raw_file_id")
    except InvalidInput:
        return None


def test_a_damaged_file_is_refused(tmp_path: Path, shared_data: Path, route_link: bytes) -> None:
    """Cut, it never gives a row. A flipped byte outside the values (HDF5 checks those alone, by
    their compression) cannot be known here: raw files have a checksum for this.
    """
    path = shared_data / "nwm_usgs_lower_colorado/channel_forcing/202108231300.CHRTOUT_DOMAIN1"
    crosswalk = nwm.crosswalk(route_link)[1]
    refused = 0
    for what, content in damaged(path.read_bytes()):
        rows = rows_of(raw_file(tmp_path, content, URL, "nwm", "analysis_assim"), crosswalk)
        assert rows is None or "flipped" in what, what
        refused += rows is None
    assert refused >= 26
    for what, content in damaged(route_link):
        try:
            nwm.crosswalk(content)
        except InvalidInput:
            continue
        assert "flipped" in what, what


def test_what_is_not_there_is_said(noaa: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(NotFound, match=r"none of 24 files is there; .*nwm\.20210101/analysis"):
        nwm.fetch("2021-01-01", "2021-01-02")
    says = "medium_range is issued at 0, 6, 12, 18 h UTC, of which none lies .*: widen the period"
    with pytest.raises(InvalidInput, match=says):
        nwm.fetch("2021-01-01T14:50", "2021-01-01T17:50", configuration="medium_range")
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
    file = raw.land("nwm", "damaged", content, extension="nc", url=URL)
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
