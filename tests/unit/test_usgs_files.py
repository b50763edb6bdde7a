"""Files of the USGS, recorded and damaged, and the rows that are read from them."""

from __future__ import annotations

import io
import json
import struct
import sys
from datetime import datetime
from pathlib import Path

import dataretrieval.rdb
import h5py
import pyarrow as pa
import pytest
from damage import ERROR_PAGE, damaged
from on_disk import raw_file
from usgs_answers import RECORDED, landed, page, values

from thalweg import database, ingest, warehouse
from thalweg.errors import InvalidInput
from thalweg.settings import Settings
from thalweg.sources import usgs


@pytest.fixture
def ready(store: Settings) -> Settings:
    database.migrate()
    return store


@pytest.fixture
def potomac(shared_data: Path) -> bytes:
    """A recorded answer: 92 values of 01646500 and 94 of 02458502, 23 and 24 on the hour."""
    return (shared_data / "nwis_and_crosswalk" / "nwis_test_data.json").read_bytes()


@pytest.fixture
def recorded(shared_data: Path) -> dict[str, dict]:
    """A recorded page of each collection of the Water Data API."""
    return json.loads((shared_data / RECORDED / "waterdata_ogc_fixtures.json").read_bytes())


def test_sites_of_nwis_are_those_that_dataretrieval_reads(
    ready: Settings, shared_data: Path
) -> None:
    body = (shared_data / RECORDED / "nwis_sites.txt").read_bytes()
    mine = usgs.read([landed(body, "sites", "txt")])["locations"].to_pylist()
    theirs = dataretrieval.rdb.read_rdb(body.decode(), {"site_no": str})
    assert len(mine) == len(theirs) > 200
    expected = theirs.drop_duplicates("site_no", keep="last").set_index("site_no")
    for place in mine:
        site = expected.loc[place["id"].removeprefix("usgs-")]
        assert place["name"] == site["station_nm"]
        at = struct.unpack("<dd", place["geometry"][5:])
        assert at == pytest.approx((site["dec_long_va"], site["dec_lat_va"]), rel=1e-15)


def test_clocks_that_go_back_lose_and_double_nothing(ready: Settings, potomac: bytes) -> None:
    """1:00 comes twice on 2020-11-01, an hour apart; the offsets tell which is which."""
    moments = {
        "2020-11-01T00:00:00.000-04:00": "1",
        "2020-11-01T01:00:00.000-04:00": "2",
        "2020-11-01T01:00:00.000-05:00": "3",
        "2020-11-01T02:00:00.000-05:00": "4",
        "2021-03-14T01:00:00.000-05:00": "5",
        "2021-03-14T03:00:00.000-04:00": "6",
    }
    answer = with_readings(potomac, list(moments.items()))
    rows = usgs.read([landed(answer, "instantaneous_values")])
    found = [(time.isoformat(), value) for time, value in values(rows, "value_time", "value")]
    assert found == [
        ("2020-11-01T04:00:00+00:00", 1),
        ("2020-11-01T05:00:00+00:00", 2),
        ("2020-11-01T06:00:00+00:00", 3),
        ("2020-11-01T07:00:00+00:00", 4),
        ("2021-03-14T06:00:00+00:00", 5),
        ("2021-03-14T07:00:00+00:00", 6),
    ]


def test_arrow_keeps_the_zones_of_times() -> None:
    """Importing pandera, which checks contracts, would make Arrow take clocks for UTC."""
    assert "pandera" in sys.modules
    time = datetime.fromisoformat("2026-03-29T03:00:00+02:00")
    assert pa.array([time], pa.timestamp("us", "UTC"))[0].as_py() == time


def test_times_out_of_order_and_twice(ready: Settings, potomac: bytes) -> None:
    readings = [("2020-11-01T03:00:00Z", "3"), ("2020-11-01T01:00:00Z", "1")]
    readings += [("2020-11-01T03:00:00Z", "4"), ("2020-11-01T02:00:00Z", "2")]
    rows = usgs.read([landed(with_readings(potomac, readings), "instantaneous_values")])
    assert [(t.hour, v) for t, v in values(rows, "value_time", "value")] == [(1, 1), (2, 2), (3, 4)]


@pytest.mark.parametrize("time", ["2020-11-01T03:00:00", "2020-11-01", "yesterday", "", None, 7])
def test_a_time_without_its_offset_is_no_time(
    ready: Settings, potomac: bytes, time: object
) -> None:
    file = landed(with_readings(potomac, [(time, "3")]), "instantaneous_values")
    with pytest.raises(InvalidInput, match="is not what the USGS promises"):
        usgs.read([file])


def test_feet_in_place_of_cubic_feet_are_kept_aside(ready: Settings, potomac: bytes) -> None:
    warehouse.migrate()
    file = landed(potomac.replace(b'"ft3/s"', b'"ft"', 1), "instantaneous_values")
    loaded = ingest.load(usgs.read, [file])
    kept = {(entry.table, entry.count) for entry in loaded.quarantined}
    assert kept == {("primary_timeseries", 23)}  # those of the first site; of the other one, 24


def with_readings(answer: bytes, readings: list[tuple[object, str]]) -> bytes:
    """The answer, with these readings of its first site alone."""
    content = json.loads(answer)
    series = content["value"]["timeSeries"][:1]
    series[0]["values"][0]["value"] = [
        {"dateTime": time, "value": value, "qualifiers": ["P"]} for time, value in readings
    ]
    content["value"]["timeSeries"] = series
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "is not JSON but cut or damaged"),
        (lambda text: ERROR_PAGE, "is not JSON but a page titled '503 Service Unavailable'"),
        (lambda text: b"[1, 2]", "is not what the USGS promises"),
        (lambda text: text.replace(b'"5980"', b'"high"'), "is not what the USGS promises"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    ready: Settings, potomac: bytes, damage: object, says: str
) -> None:
    file = landed(damage(potomac), "instantaneous_values")  # type: ignore[operator]
    with pytest.raises(InvalidInput, match=says):
        usgs.read([file])


def test_damaged_files_give_an_error_or_nothing_wrong(
    ready: Settings, shared_data: Path, recorded: dict[str, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text has no checksum of its own: a table cut between two lines is a shorter table.

    What landed is guarded by the registry's sha256, and what came by the length that HTTP states.
    """
    nwis = shared_data / RECORDED
    slices = shared_data / "nwm_usgs_lower_colorado" / "usgs_TimeSlice"
    whole = {
        "instantaneous_values": (nwis / "hist_waterservices_iv.json").read_bytes(),
        "daily_values": (nwis / "waterservices_dv.txt").read_bytes(),
        "sites": (nwis / "waterservices_site.txt").read_bytes(),
        "continuous": page(recorded["continuous"]["features"]),
        "daily": page(recorded["daily"]["features"]),
        "monitoring-locations": page(recorded["monitoring-locations"]["features"]),
        "timeslices": next(slices.glob("*_13:00:00*")).read_bytes(),
    }
    content = b""
    monkeypatch.setattr("thalweg.raw.read", lambda file: content)
    for dataset, healthy in whole.items():
        file = landed(healthy, dataset)
        content = healthy
        right = usgs.read([file])
        assert right["primary_timeseries"].num_rows or right["locations"].num_rows
        for what, content in damaged(healthy):
            try:
                rows = usgs.read([file])
            except InvalidInput:
                continue
            # A flipped byte in the values of a NetCDF file cannot be known, and no cut is read.
            if dataset == "timeslices":
                assert "flipped" in what, what
                continue
            assert dataset == "sites", f"{dataset}, {what}"
            assert content.endswith(b"\n"), what
            for table in ("locations", "location_attributes"):
                some = rows[table].to_pylist() if table in rows else []
                assert all(row in right[table].to_pylist() for row in some), what


@pytest.mark.parametrize(
    ("name", "dataset", "rows", "places"),
    [
        ("nwis_and_crosswalk/nwis_test_data.json", "instantaneous_values", 47, 2),
        (f"{RECORDED}/waterservices_iv.txt", "instantaneous_values", 6, 2),
        (f"{RECORDED}/hist_waterservices_iv.json", "instantaneous_values", 0, 2),
        (f"{RECORDED}/nwis_iv_empty_mock.json", "instantaneous_values", 0, 0),
        (f"{RECORDED}/waterservices_dv.txt", "daily_values", 4, 2),
        (f"{RECORDED}/hist_waterservices_dv.json", "daily_values", 2, 2),
        (f"{RECORDED}/waterservices_site.txt", "sites", 0, 2),
        (f"{RECORDED}/nwis_sites.txt", "sites", 0, 206),
    ],
)
def test_rows_of_the_recorded_answers(
    tmp_path: Path, shared_data: Path, name: str, dataset: str, rows: int, places: int
) -> None:
    content = (shared_data / name).read_bytes()
    tables = usgs.read([raw_file(tmp_path, content, name, "usgs", dataset)])
    found = (tables["primary_timeseries"].num_rows, tables["locations"].num_rows)
    assert found == (rows, places)


def test_recorded_answers_of_other_services_are_refused(tmp_path: Path, shared_data: Path) -> None:
    """What the USGS says of peaks, ratings, statistics, basins or samples is no series or site."""
    ours = {"hist_waterservices_iv.json", "hist_waterservices_dv.json", "nwis_iv_empty_mock.json"}
    ours |= {"waterservices_iv.txt", "waterservices_dv.txt", "waterservices_site.txt"}
    ours |= {"nwis_sites.txt"}
    others = [path for path in (shared_data / RECORDED).iterdir() if path.name not in ours]
    assert len(others) == 25
    for path in others:
        for dataset in usgs.READERS:
            file = raw_file(tmp_path, path.read_bytes(), path.name, "usgs", dataset)
            with pytest.raises(InvalidInput):
                usgs.read([file])


def test_96_timeslices(tmp_path: Path, shared_data: Path) -> None:
    """Every reading of a day on the full hour, whichever slice it is in."""
    files, expected = [], {}
    for path in sorted((shared_data / "nwm_usgs_lower_colorado" / "usgs_TimeSlice").iterdir()):
        content = path.read_bytes()
        files.append(raw_file(tmp_path, content, path.name, "usgs", "timeslices"))
        with h5py.File(io.BytesIO(content)) as slice:
            stations = [bytes(s.tobytes()).decode().strip() for s in slice["stationId"][()]]
            times = [bytes(t.tobytes()).decode() for t in slice["time"][()]]
            values = slice["discharge"][()].tolist()
            for station, time, value in zip(stations, times, values, strict=True):
                if time[13:19] == ":00:00":
                    expected[f"usgs-{station}", f"{time.replace('_', 'T')}+00:00"] = value
    rows = usgs.read(files)["primary_timeseries"].to_pylist()
    assert (len(files), len(rows)) == (96, 1_559)
    assert {(r["location_id"], r["value_time"].isoformat()): r["value"] for r in rows} == expected


def test_a_timeslice_says_its_quality(ready: Settings, shared_data: Path) -> None:
    slices = shared_data / "nwm_usgs_lower_colorado" / "usgs_TimeSlice"
    content = next(slices.glob("*_13:00:00*")).read_bytes()
    rows = usgs.read([landed(content, "timeslices", "ncdf")])["primary_timeseries"].to_pylist()
    with h5py.File(io.BytesIO(content)) as file:
        sites = [bytes(site.tobytes()).decode().strip() for site in file["stationId"][()]]
        said = dict(zip(sites, file["discharge_quality"][()].tolist(), strict=True))
    assert {row["quality_code"] for row in rows} >= {"100"}
    for row in rows:
        assert row["quality_code"] == str(said[row["location_id"].removeprefix("usgs-")])
        assert row["unit_name"] == "m^3/s"
