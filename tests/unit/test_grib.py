"""GRIB as fields: real files against what ecCodes says; damage; fetching by an index."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from damage import damaged
from replay import Replay, eccodes, lay_out_ifs, messages, replay

from thalweg import database, raw
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import _grib, cams, era5, gfs, ifs

FILES = {
    "ecmwf_ifs_open/ecmwf_019cf6d7.grib": 4,
    "era5_uk/era5-2mt-2019-03-uk.grib": 744,
    "grib_samples/cams-egg4-monthly.grib": 4,
    "grib_samples/era5-levels-members.grib": 160,
    "grib_samples/era5-single-level-scalar-time.grib": 1,
    "grib_samples/fields_with_missing_values.grib": 2,
    "grib_samples/nam.t00z.awp21100.tm00.grib2": 181,
    "grib_samples/t_analysis_and_fc_0.grib": 1,
}


@pytest.fixture
def ready(store: Settings) -> Settings:
    database.migrate()
    return store


def landed(content: bytes, name: str = "test:grib") -> RawFile:
    return raw.land("grib", "test", content, extension="grib", url=name)


def made(**keys: object) -> bytes:
    """A message of 3 by 4 points, longitudes 0 to 3, latitudes 2 to 0; values count from 0."""
    message = eccodes.GRIBMessage(eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2"))
    grid = {"Ni": 4, "Nj": 3, "latitudeOfFirstGridPointInDegrees": 2.0,
            "latitudeOfLastGridPointInDegrees": 0.0, "longitudeOfFirstGridPointInDegrees": 0.0,
            "longitudeOfLastGridPointInDegrees": 3.0, "iDirectionIncrementInDegrees": 1.0,
            "jDirectionIncrementInDegrees": 1.0, "dataDate": 20260316, "dataTime": 0}  # fmt: skip
    values = np.asarray(keys.pop("values", np.arange(12.0)))
    for key, value in (grid | keys).items():
        message.set(key, value, check_values=False)
    message.set("values", values, check_values=False)
    return bytes(message.get_buffer())


@pytest.mark.parametrize(("name", "count"), FILES.items())
def test_every_field_has_the_values_that_eccodes_reads(
    ready: Settings, shared_data: Path, name: str, count: int
) -> None:
    """At five points of a message, and how many values it misses; of a hundred messages or so."""
    path = shared_data / name
    found = _grib.read([landed(path.read_bytes(), name)])
    ids = [v for d in found.values() for n, v in d.items() if n.endswith("_raw_file")]
    assert sum(int(v.any("half").sum()) for v in ids) == count
    seen, cells = 0, {}
    for message in islice(messages(path), 0, None, 1 + count // 100):
        kind = message["stepType"]
        group = found[message["typeOfLevel"] + ("" if kind == "instant" else f"_{kind}")]
        field = group[_grib._name(message)]
        date, hour = str(message["dataDate"]), message["dataTime"] // 100
        issued = np.datetime64(f"{date[:4]}-{date[4:6]}-{date[6:]}T{hour:02d}", "ns")
        at = {
            "time": issued,
            "step": np.timedelta64(int(message["endStep:int"]), "h"),
            "number": message.get("number"),
            message["typeOfLevel"]: (message["topLevel"] + message["bottomLevel"]) / 2,
        }
        index = [int(group.indexes[axis].get_loc(at[axis])) for axis in field.dims[:-2]]
        values = field.values[tuple(index)]
        assert int(np.isnan(values).sum()) == message["numberOfMissing"]
        message.set("missingValue", 1e30, check_values=False)
        flat, grid = message["values"], message["md5GridSection"]
        if grid not in cells:
            lat, lon = message["latitudes"], message["longitudes"]
            some = np.linspace(0, flat.size - 1, 5).astype(int)
            cells[grid] = {i: _cell(group, lat[i], lon[i]) for i in some}
        for i, cell in cells[grid].items():
            expected = np.nan if flat[i] == 1e30 else np.float32(flat[i])
            np.testing.assert_array_equal(values[cell], expected)
        seen += 1
    assert seen == -(-count // (1 + count // 100))


def _cell(group: xr.Dataset, latitude: float, longitude: float) -> tuple[int, ...]:
    """Row and column of the cell at a point."""
    lat, lon = group["latitude"].values, group["longitude"].values
    if lat.ndim == 1:
        lat, lon = lat[:, None], lon[None, :]
    far = abs(lat - latitude) + abs((lon - longitude + 180) % 360 - 180)
    cell = np.unravel_index(np.argmin(far), far.shape)
    assert far[cell] < 1e-4
    return cell


def test_fields_say_what_they_are(ready: Settings, shared_data: Path) -> None:
    path = shared_data / "grib_samples" / "era5-levels-members.grib"
    fields = era5.read([landed(path.read_bytes())])["isobaricInhPa"]
    said = fields["t"].attrs
    assert (said["standard_name"], said["units"]) == ("air_temperature", "K")
    assert (said["cell_methods"], said["GRIB_dataType"]) == ("time: point", "an")
    assert fields["z"].attrs["units"] == "m2 s-2"
    assert fields["isobaricInhPa"].attrs == {
        "standard_name": "air_pressure", "units": "hPa", "positive": "down", "axis": "Z"
    }  # fmt: skip
    assert fields["number"].values.tolist() == list(range(10))
    for axis in ("time", "step", "number", "isobaricInhPa", "latitude", "longitude"):
        assert fields.indexes[axis].is_monotonic_increasing, axis
    assert (fields["longitude"].min(), fields["longitude"].max()) == (-180, 177)
    assert fields.attrs["Conventions"] == "CF-1.11"
    assert fields.attrs["configuration_name"] == "era5_reanalysis"


def test_a_map_projection_keeps_rows_and_columns(ready: Settings, shared_data: Path) -> None:
    """NAM grid 211: both winds of one message, and a parameter that ecCodes cannot name."""
    path = shared_data / "grib_samples" / "nam.t00z.awp21100.tm00.grib2"
    found = _grib.read([landed(path.read_bytes())])
    levels = found["isobaricInhPa"]
    assert levels["u"].dims == levels["v"].dims == ("time", "step", "isobaricInhPa", "y", "x")
    assert levels["latitude"].dims == ("y", "x")
    assert levels["latitude"][0].mean() < levels["latitude"][-1].mean()
    assert found["surface_accum"]["tp"].attrs["cell_methods"] == "time: sum"
    assert "unknown_0_3_196" in found["surface"]


def test_a_part_of_the_globe(ready: Settings, shared_data: Path) -> None:
    file = landed((shared_data / "ecmwf_ifs_open" / "ecmwf_019cf6d7.grib").read_bytes())
    whole = ifs.read([file])["heightAboveGround"]
    part = ifs.read([file], area=(-82.0, 36.0, -79.0, 38.0))["heightAboveGround"]
    assert part["latitude"].values.tolist() == np.arange(36, 38.25, 0.25).tolist()
    assert part["longitude"].values.tolist() == np.arange(-82, -78.75, 0.25).tolist()
    xr.testing.assert_equal(part["t2m"], whole["t2m"].sel(part[["latitude", "longitude"]].coords))
    with pytest.raises(InvalidInput, match="no point of the grid"):
        ifs.read([file], area=(0.01, 0.01, 0.02, 0.02))


@pytest.mark.parametrize("down", [0, 1])
@pytest.mark.parametrize("west", [0, 1])
def test_rows_and_columns_are_put_in_order(ready: Settings, down: int, west: int) -> None:
    """However a grid is scanned, a value stays at its place."""
    values = np.arange(12.0).reshape(3, 4)  # north to south, west to east
    ends = {"iScansNegatively": west, "jScansPositively": down}
    if down:
        ends |= {"latitudeOfFirstGridPointInDegrees": 0.0, "latitudeOfLastGridPointInDegrees": 2.0}
    if west:
        ends |= {
            "longitudeOfFirstGridPointInDegrees": 3.0,
            "longitudeOfLastGridPointInDegrees": 0.0,
        }
    scanned = values[:: -1 if down else 1, :: -1 if west else 1]
    field = _grib.read([landed(made(**ends, values=scanned.ravel()))])["surface"]["t"]
    assert field.sel(latitude=2.0, longitude=1.0).item() == 1
    np.testing.assert_array_equal(field.squeeze(), values[::-1])


def test_a_grid_across_the_date_line_stays_whole(ready: Settings) -> None:
    ends = {"longitudeOfFirstGridPointInDegrees": 178.0, "longitudeOfLastGridPointInDegrees": 181.0}
    field = _grib.read([landed(made(**ends))])["surface"]["t"]
    assert field["longitude"].values.tolist() == [178, 179, 180, 181]
    assert field.sel(latitude=2.0, longitude=181.0).item() == 3


def test_spans_of_time_are_kept_apart(ready: Settings) -> None:
    """Rain since the issue, and in the last three of six hours, of one name and one valid time."""

    def rain(first: int, last: int, value: float) -> bytes:
        keys = {"productDefinitionTemplateNumber": 8, "shortName": "tp", "stepType": "accum"}
        return made(**keys, stepRange=f"{first}-{last}", values=np.full(12, value))

    found = _grib.read([landed(rain(0, 3, 1.0) + rain(0, 6, 3.0) + rain(3, 6, 2.0))])
    assert set(found) == {"surface_accum", "surface_accum_3h"}
    total = found["surface_accum"]["tp"]
    assert total.isel(latitude=0, longitude=0).values.tolist() == [[1.0, 3.0]]
    assert (total["step"] / np.timedelta64(1, "h")).values.tolist() == [3, 6]
    assert found["surface_accum_3h"]["tp"].isel(latitude=0, longitude=0).values.tolist() == [[2.0]]


def test_of_the_same_field_the_last_file_counts_and_one_file_has_one(ready: Settings) -> None:
    first, second = landed(made()), landed(made(values=np.arange(12.0) + 1))
    fields = _grib.read([first, second])["surface"]
    assert fields["t"].max() == 12
    halves = fields["t_raw_file"].values[0, 0]
    assert f"{(int(halves[0]) << 64) | int(halves[1]):032x}" == second.id.replace("-", "")
    both = landed(made() + made(dataDate=20260317) + made(values=np.arange(12.0) + 1))
    with pytest.raises(InvalidInput, match=r"two different fields t \(surface\).*select"):
        _grib.read([both])
    only = ifs.read([both], select={"dataDate": 20260317})["surface"]
    assert only["time"].values.astype("datetime64[D]").astype(str).tolist() == ["2026-03-17"]


def test_what_cannot_be_read_is_said(ready: Settings) -> None:
    other = made(longitudeOfLastGridPointInDegrees=1.5, iDirectionIncrementInDegrees=0.5)
    with pytest.raises(InvalidInput, match="on another grid than the ones before: read them apart"):
        _grib.read([landed(made()), landed(other)])
    spectral = eccodes.GRIBMessage(eccodes.codes_grib_new_from_samples("sh_ml_grib2"))
    with pytest.raises(InvalidInput, match="grid of type 'sh' is not read"):
        _grib.read([landed(bytes(spectral.get_buffer()))])
    mixed = made(typeOfProcessedData=0) + made(typeOfProcessedData=1, stepRange="3")
    with pytest.raises(InvalidInput, match="t of surface has two meanings"):
        _grib.read([landed(mixed)])
    assert _grib.read([landed(mixed)], select={"dataType": "fc"})["surface"].sizes["step"] == 1
    # Padding with zeros is no damage, anything else between messages is.
    padded = _grib.read([landed(made() + bytes(18) + made(dataDate=20260317) + bytes(7))])
    assert padded["surface"].sizes["time"] == 2
    with pytest.raises(InvalidInput, match="is not whole GRIB"):
        _grib.read([landed(made() + b"rubbish" + made(dataDate=20260317))])
    for count in (11, 13):
        content = bytearray(made(values=np.arange(float(count))))
        content[43:47] = (12).to_bytes(4)  # points of the grid
        with pytest.raises(InvalidInput, match=f"{count} values of t on a grid of 12 points"):
            _grib.read([landed(bytes(content))])


@pytest.mark.parametrize("name", [*FILES, "two"])
def test_damage_is_refused_or_seen_by_nobody(ready: Settings, shared_data: Path, name: str) -> None:
    """Cut, emptied or replaced: refused. One flipped byte, for which GRIB has no checksum: refused
    or read, but no other error; what landed is guarded by its SHA-256."""
    two = made(shortName="2t") + made(shortName="2d", dataDate=20260317)
    content = two if name == "two" else (shared_data / name).read_bytes()
    refused: list[str] = []
    # A large file is long in decoding: cut as often, but flipped in one place.
    flips = 20 if len(content) < 100_000 else 1
    for what, bytes_ in damaged(content):
        if "flipped" in what:
            flips -= 1
            if flips < 0:
                continue
        try:
            found = _grib.read([landed(bytes_, what)])
        except InvalidInput as error:
            refused.append(str(error))
            continue
        if "flipped" in what:
            continue
        # Cut between messages or in the padding after one, it is a shorter file, and right.
        assert content.startswith(bytes_), what
        whole = _grib.read([landed(content)])
        for group, fields in found.items():
            for field in fields.data_vars:
                if not field.endswith("_raw_file"):
                    part = whole[group][field].sel(fields[field].indexes)
                    known = fields[f"{field}_raw_file"].any("half")
                    xr.testing.assert_equal(fields[field].where(known), part.where(known))
    assert len(refused) >= 20
    assert not any("\n" in said for said in refused)


def test_a_file_is_what_its_bytes_say(ready: Settings, shared_data: Path) -> None:
    """Renamed, GRIB is GRIB; and what is called GRIB but is none is refused."""
    content = (shared_data / "grib_samples" / "cams-egg4-monthly.grib").read_bytes()
    renamed = raw.land("cams", "test", content, extension="nc", url="test:renamed")
    assert set(cams.read([renamed])) == set(cams.read([landed(content)]))
    for kind in ("ncdf", "json", "parquet", "csv"):
        other = next(shared_data.glob(f"**/*.{kind}")).read_bytes()
        with pytest.raises(InvalidInput, match=r"is not whole GRIB: .* fetch it again"):
            cams.read([landed(other, f"test:{kind}")])


@pytest.mark.parametrize("other", ["pyproj", "psycopg"])
def test_others_work_beside_eccodes(other: str) -> None:
    """In a process in which GRIB comes first: unguarded, that ends with a segmentation fault."""
    code = (
        f"from thalweg.sources import ifs; import {other}; from pyproj import Transformer; "
        "print(Transformer.from_crs(4326, 3857).transform(0, 180))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("(20037508.34")


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Replay]:
    """A folder, and the server that gives its files."""
    with replay(tmp_path) as bucket:
        yield bucket


def test_ifs_messages_by_their_index(ready: Settings, shared_data: Path, bucket: Replay) -> None:
    path = shared_data / "ecmwf_ifs_open" / "ecmwf_019cf6d7.grib"
    lay_out_ifs(bucket, path, [("msl", made(shortName="msl"))], [("10u", made())])
    settings = load(ifs_url=bucket.url)
    seen: list[tuple[int, int]] = []
    ask = {"fields": ["2t", "2d", "t"], "steps": [0, 3, 6], "settings": settings}
    files = ifs.fetch("2026-03-16", "2026-03-16T05:00", **ask, progress=lambda *s: seen.append(s))
    assert seen[-1] == (3, 3)  # the third is not there
    assert [f.valid_from.hour for f in files] == [0, 3]
    assert all(re.fullmatch(r"bytes=\d+-\d+", f.headers["range"]) for f in files)
    assert (
        files[0].url == f"{bucket.url}/20260316/00z/ifs/0p25/oper/20260316000000-0h-oper-fc.grib2"
    )
    whole = ifs.read([landed(path.read_bytes())])["heightAboveGround"]
    xr.testing.assert_equal(ifs.read(files)["heightAboveGround"][["t2m", "d2m"]], whole[["t2m", "d2m"]])  # noqa: E501  # fmt: skip
    bucket.asked.clear()
    assert ifs.fetch("2026-03-16", "2026-03-16T05:00", **ask) == files
    assert all("index" in asked or asked.endswith(f"-{int(asked.split('=')[1].split('-')[0]) + 3}")
               for asked in bucket.asked)  # fmt: skip
    with pytest.raises(InvalidInput, match="no step of 1 h"):
        ifs.fetch("2026-03-16", "2026-03-17", steps=[1], settings=settings)
    with pytest.raises(NotFound, match="nothing is there"):
        ifs.fetch("2026-03-18", "2026-03-19", steps=[0], settings=settings)
    with pytest.raises(NotFound, match="20260316/06z/ifs/0p25/scda/20260316060000-0h-scda-fc"):
        ifs.fetch("2026-03-16T06:00", "2026-03-16T07:00", steps=[0], settings=settings)
    with pytest.raises(NotFound, match="20260512/06z/ifs/0p25/oper/20260512060000-0h-oper-fc"):
        ifs.fetch("2026-05-12T06:00", "2026-05-12T07:00", steps=[0], settings=settings)
    bucket.put("20260316/00z/ifs/0p25/oper/20260316000000-6h-oper-fc.index", b"<html>busy</html>")
    with pytest.raises(InvalidInput, match="not an index of ECMWF's"):
        ifs.fetch("2026-03-16", "2026-03-16T05:00", **ask)


def test_of_a_server_that_is_gone_few_files_are_asked_for(
    ready: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def get(_: object, url: str) -> None:
        asked.append(url)
        time.sleep(0.05)
        raise Unavailable(f"{url} does not answer")

    monkeypatch.setattr("thalweg.http.Client.get", get)
    with pytest.raises(Unavailable, match="does not answer"):
        ifs.fetch("2026-03-16", "2026-03-17")
    assert len(asked) <= 8


def test_nam_messages_by_their_index(ready: Settings, shared_data: Path, bucket: Replay) -> None:
    path = shared_data / "grib_samples" / "nam.t00z.awp21100.tm00.grib2"
    names = {"2t": "TMP:2 m above ground", "tp": "APCP:surface"}
    lines = []
    for number, message in enumerate(messages(path), start=1):
        name = names.get(message["shortName"], f"{message['shortName']}:{message['level']} mb")
        lines.append(f"{number}:{int(message['offset'])}:d=2010010100:{name}:anl:")
    bucket.put("nam.20260316/nam.t00z.awp21100.tm00.grib2", path.read_bytes())
    bucket.put("nam.20260316/nam.t00z.awp21100.tm00.grib2.idx", "\n".join(lines).encode())
    ask = {"model": "nam", "steps": [0], "settings": load(nam_url=bucket.url)}
    (file,) = gfs.fetch("2026-03-16", "2026-03-16T01:00", **ask)
    found = gfs.read([file])
    whole = gfs.read([landed(path.read_bytes())], select={"shortName": "2t"})
    assert {(g, n) for g, d in found.items() for n in d if not n.endswith("_raw_file")} == {
        ("heightAboveGround", "t2m"), ("surface_accum", "tp")
    }  # fmt: skip
    xr.testing.assert_equal(found["heightAboveGround"]["t2m"], whole["heightAboveGround"]["t2m"])
    assert found["surface_accum"].attrs["configuration_name"] == "nam_forecast"
    assert file.size < path.stat().st_size / 50
    with pytest.raises(NotFound, match="lists none of the fields"):
        gfs.fetch("2026-03-16", "2026-03-16T01:00", **ask, fields=["SNOD:surface"])
    with pytest.raises(InvalidInput, match="did you mean 'nam'"):
        gfs.fetch("2026-03-16", "2026-03-17", model="namm")


def test_the_stores_are_asked_through_their_client(
    ready: Settings, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is not installed here: a stand-in gives a real file and keeps the request."""
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "cdsapi", None)
        with pytest.raises(Unavailable, match="not installed: `pip install cdsapi`"):
            era5.fetch("2019-03-01", "2019-03-02")
    content = (shared_data / "grib_samples" / "era5-single-level-scalar-time.grib").read_bytes()
    asked = []

    class Client:
        def __init__(self, url: str, quiet: bool) -> None:
            self.url = url

        def retrieve(self, collection: str, request: dict[str, object], target: str) -> None:
            if "ozone" in request["variable"]:
                raise Exception("Missing/incomplete configuration file: /root/.cdsapirc")
            if "no2" in request["variable"]:
                raise Exception("403 Client Error\nrequired licences not accepted\nvisit https://x")
            asked.append((self.url, collection, request))
            Path(target).write_bytes(content)

    monkeypatch.setitem(sys.modules, "cdsapi", SimpleNamespace(Client=Client))
    (file,) = era5.fetch("2019-03-30T22:00", "2019-04-01", variables=["2m_temperature"],
                         area=(-10.0, 50.0, 2.0, 58.0))  # fmt: skip
    url, collection, request = asked[0]
    assert (url, collection) == (load().cds_url, "reanalysis-era5-single-levels")
    assert (request["year"], request["month"], request["day"]) == (["2019"], ["03"], ["30", "31"])
    assert len(request["time"]) == 24
    assert request["area"] == [58.0, -10.0, 50.0, 2.0]
    assert json.loads(file.headers["request"]) == request
    assert file.valid_from == dt.datetime(2019, 3, 30, 22, tzinfo=dt.UTC)
    assert list(era5.read([file])["surface"])[:1] == ["t2m"]
    cams.fetch("2019-03-01", "2019-03-02", steps=[0, 3])
    assert [r["time"] for _, _, r in asked[1:]] == [["00:00"], ["12:00"]]
    with pytest.raises(Unavailable, match=r"give cams.*: Missing/incomplete .*; set CDSAPI_KEY to"):
        cams.fetch("2019-03-01", "2019-03-02", variables=["ozone"])
    with pytest.raises(Unavailable, match="403 Client Error required licences not accepted visit"):
        cams.fetch("2019-03-01", "2019-03-02", variables=["no2"])
    with pytest.raises(InvalidInput, match="CAMS is issued at 0, 12 h UTC, of which none lies"):
        cams.fetch("2026-01-01T01", "2026-01-01T02")
