"""Repositories of fields on a real store, and series with weights that are known by hand."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import icechunk
import numpy as np
import pyarrow as pa
import pytest
import shapely
import xarray as xr
from s3fs import S3FileSystem

from thalweg import catalog, database, gridded, ingest, raw, record, stac, warehouse
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.pipelines import history
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.sources import _grib, cams, era5, gfs, ifs

HOUR = np.timedelta64(1, "h")
LATITUDE, LONGITUDE = np.arange(40.0, 43.0), np.arange(-80.0, -76.0)
NOON = np.datetime64("2026-03-16T12", "ns")


@pytest.fixture
def ready(store: Settings) -> Settings:
    database.migrate()
    return store


@pytest.fixture
def name() -> str:
    """Of a repository that no other test has."""
    return f"test-{uuid.uuid4().hex[:8]}"


def fields(
    times: list[int],
    steps: list[int] = [0],  # noqa: B006
    *,
    add: float = 0.0,
    file: uuid.UUID | None = None,
    latitude: np.ndarray = LATITUDE,
    longitude: np.ndarray = LONGITUDE,
) -> xr.Dataset:
    """Fields of t2m whose values tell their place: time * 1000 + step * 100 + row * 10 + column."""
    shape = len(times), len(steps), len(latitude), len(longitude)
    parts = np.meshgrid(times, steps, range(shape[2]), range(shape[3]), indexing="ij")
    values = sum(p * w for p, w in zip(parts, (1000, 100, 10, 1), strict=True)) + add
    ids = np.empty((*shape[:2], 2), "uint64")
    ids[...] = divmod((file or uuid.uuid4()).int, 2**64)
    return xr.Dataset(
        {
            "t2m": (
                ("time", "step", "latitude", "longitude"),
                values.astype("float32"),
                {"units": "K", "GRIB_dataType": "fc"},
            ),
            "t2m_raw_file": (("time", "step", "half"), ids),
        },
        {
            "time": NOON + np.array(times) * HOUR,
            "step": np.array(steps) * HOUR,
            "latitude": latitude,
            "longitude": longitude,
        },
        {"configuration_name": "test_forecast"},
    )


def points(**at: tuple[float, float]) -> pa.Table:
    return places(**{id: shapely.Point(*where) for id, where in at.items()})


def places(**shapes: shapely.Geometry) -> pa.Table:
    wkb = [shapely.to_wkb(shape) for shape in shapes.values()]
    return pa.table({"id": list(shapes), "geometry": pa.array(wkb, pa.binary())})


def values(rows: pa.Table) -> dict[str, list[float]]:
    ids = dict.fromkeys(rows["location_id"].to_pylist())
    pairs = list(zip(rows["location_id"].to_pylist(), rows["value"].to_pylist(), strict=True))
    return {id: [v for other, v in pairs if other == id] for id in ids}


def test_real_files_come_back_as_they_were_read(
    ready: Settings, shared_data: Path, name: str
) -> None:
    """A month of ERA5 in one commit; the same file again changes nothing."""
    path = shared_data / "era5_uk" / "era5-2mt-2019-03-uk.grib"
    file = raw.land("era5", "uk", path.read_bytes(), extension="grib", url="test:era5")
    read = era5.read([file])
    written = gridded.write(name, read)
    assert (written.added, written.changed, written.unchanged) == (744, 0, 0)
    found = gridded.open(name)
    xr.testing.assert_identical(found.load(), read["surface"].load())
    again = gridded.write(name, read)
    assert (again.added, again.changed, again.unchanged) == (0, 0, 744)
    assert again.snapshot == written.snapshot
    newest = gridded.snapshots(name)[0]
    assert (newest.id, newest.raw_file_ids) == (written.snapshot, (file.id,))
    assert file.id in newest.message
    assert name in gridded.names()
    assert gridded.levels(name) == ["surface"]

    rows = gridded.at_points(found, points(greenwich=(0.0, 51.5)))
    expected = read["surface"]["t2m"].sel(latitude=51.5, longitude=0.0).values.ravel()
    assert rows["value"].to_numpy().tolist() == expected.astype(float).tolist()
    first = rows.slice(0, 1).to_pylist()[0]
    assert first["value_time"] == dt.datetime(2019, 3, 1, tzinfo=dt.UTC)
    assert (first["reference_time"], first["raw_file_id"]) == (None, file.id)
    assert (first["unit_name"], first["configuration_name"]) == ("K", "era5_reanalysis")
    assert first["variable_name"] == "air_temperature_hourly_inst"


@pytest.mark.parametrize(
    ("source", "path", "count"),
    [
        (ifs, "ecmwf_ifs_open/ecmwf_019cf6d7.grib", 4),
        (cams, "grib_samples/cams-egg4-monthly.grib", 4),
        (era5, "grib_samples/era5-levels-members.grib", 160),
        (era5, "grib_samples/era5-single-level-scalar-time.grib", 1),
        (era5, "grib_samples/fields_with_missing_values.grib", 2),
        (era5, "grib_samples/t_analysis_and_fc_0.grib", 1),
    ],
)
def test_of_every_source_the_same_file_twice_is_once(
    ready: Settings, shared_data: Path, name: str, source: ModuleType, path: str, count: int
) -> None:
    content = (shared_data / path).read_bytes()
    file = raw.land(source.__name__.split(".")[-1], "test", content, extension="grib", url=path)
    read = source.read([file])
    written = gridded.write(name, read)
    assert (written.added, written.changed, written.unchanged) == (count, 0, 0)
    assert gridded.write(name, read) == replace(written, added=0, unchanged=count)
    for level, expected in read.items():
        xr.testing.assert_identical(gridded.open(name, level).load(), expected.load())


def test_every_type_of_level_is_one_commit(ready: Settings, shared_data: Path, name: str) -> None:
    path = shared_data / "grib_samples" / "nam.t00z.awp21100.tm00.grib2"
    file = raw.land("gfs", "nam", path.read_bytes(), extension="grib2", url="test:nam")
    read = gfs.read([file])
    assert gridded.write(name, read).added == 181
    assert gridded.levels(name) == sorted(read)
    for level in ("isobaricInhPa", "surface_accum", "heightAboveGround"):
        xr.testing.assert_identical(gridded.open(name, level).load(), read[level].load())
    with pytest.raises(NotFound, match=r"say which level: .*surface_accum"):
        gridded.open(name)
    with pytest.raises(NotFound, match="did you mean 'surface'"):
        gridded.open(name, "surfce")
    rows = gridded.at_points(
        gridded.open(name, "heightAboveGround"), points(radford=(-80.55, 37.14))
    )
    (row,) = rows.to_pylist()
    temperature = read["heightAboveGround"]
    far = np.hypot(temperature["latitude"] - 37.14, (temperature["longitude"] + 80.55) * np.cos(np.radians(37.14)))  # noqa: E501  # fmt: skip
    y, x = np.unravel_index(int(np.argmin(far.values)), far.shape)
    assert row["value"] == float(temperature["t2m"].values[0, 0, y, x])
    with pytest.raises(InvalidInput, match="bilinear needs a grid of latitudes"):
        gridded.at_points(temperature, points(radford=(-80.55, 37.14)), method="bilinear")
    with pytest.raises(InvalidInput, match="t is on 19 levels: choose one"):
        gridded.at_points(gridded.open(name, "isobaricInhPa"), points(a=(-80.5, 37.1)), variables={"t": "t"})  # noqa: E501  # fmt: skip


def test_a_member_is_a_member(ready: Settings, shared_data: Path, name: str) -> None:
    path = shared_data / "grib_samples" / "era5-levels-members.grib"
    file = raw.land("era5", "members", path.read_bytes(), extension="grib", url="test:members")
    gridded.write(name, era5.read([file]))
    at_850 = gridded.open(name).sel(isobaricInhPa=850)
    rows = gridded.at_points(at_850, points(pole=(0.0, 90.0)), variables={"t": "t_850"})
    assert rows.num_rows == 4 * 10
    assert set(rows["member"].to_pylist()) == {str(i) for i in range(10)}
    third = rows.filter(pa.compute.equal(rows["member"], "3"))["value"].to_pylist()
    assert third == at_850["t"].sel(number=3, latitude=90, longitude=0).values.ravel().tolist()


def test_steps_and_times_come_in_any_order(ready: Settings, name: str) -> None:
    """One file a step, a late one, a hole: each field at its place, in order when opened."""
    for times, steps in (([6], [3]), ([0], [0, 3]), ([12], [6]), ([6], [0])):
        gridded.write(name, {"surface": fields(times, steps)})
    found = gridded.open(name)
    assert found["time"].values.tolist() == (NOON + np.array([0, 6, 12]) * HOUR).tolist()
    assert (found["step"] / HOUR).values.tolist() == [0, 3, 6]
    corner = found["t2m"].isel(latitude=0, longitude=0).values
    nan = np.nan
    np.testing.assert_array_equal(corner, [[0, 300, nan], [6000, 6300, nan], [nan, nan, 12600]])
    valid = found["valid_time"].sel(time=NOON + 6 * HOUR, step=3 * HOUR)
    assert valid.values == NOON + 9 * HOUR
    rows = gridded.at_points(found, points(a=(-80.0, 40.0)))
    assert rows["value"].to_pylist() == [0, 300, 6000, 6300, 12600]
    assert rows["reference_time"][4].as_py() == dt.datetime(2026, 3, 17, tzinfo=dt.UTC)
    assert rows["value_time"][4].as_py() == dt.datetime(2026, 3, 17, 6, tzinfo=dt.UTC)


def test_a_later_file_corrects_and_the_earlier_stays_reachable(ready: Settings, name: str) -> None:
    old, new = uuid.uuid4(), uuid.uuid4()
    before = gridded.write(name, {"surface": fields([0, 1, 2], file=old)})
    between = gridded.snapshots(name)[0].written_at
    corrected = fields([1, 3], file=new)
    corrected["t2m"][0] += 0.5
    after = gridded.write(name, {"surface": corrected})
    assert (after.added, after.changed, after.unchanged) == (1, 1, 0)
    found = gridded.open(name)
    assert found["t2m"].isel(latitude=0, longitude=0, step=0).values.tolist() == [0, 1000.5, 2000, 3000]  # noqa: E501  # fmt: skip
    rows = gridded.at_points(found, points(a=(-80.0, 40.0)))
    assert rows["raw_file_id"].to_pylist() == [str(old), str(new), str(old), str(new)]
    for state in (before.snapshot, between):
        earlier = gridded.open(name, snapshot=state)
        assert earlier["t2m"].isel(latitude=0, longitude=0, step=0).values.tolist() == [0, 1000, 2000]  # noqa: E501  # fmt: skip
    # The same values from another file: what is there stays, with the file that first brought it.
    same = gridded.write(name, {"surface": fields([0, 2])})
    assert (same.added, same.changed, same.unchanged) == (0, 0, 2)
    assert same.snapshot == after.snapshot
    # A field that has become missing is a correction too; a hole in the batch is none.
    holed = fields([2, 3])
    holed["t2m"][0] = np.nan
    holed["t2m_raw_file"][1] = 0
    assert gridded.write(name, {"surface": holed}).changed == 1
    corner = gridded.open(name)["t2m"].isel(latitude=0, longitude=0, step=0)
    np.testing.assert_array_equal(corner, [0, 1000.5, np.nan, 3000])
    with pytest.raises(NotFound, match=r"has no state 0+: .* not found:? `0+`$"):
        gridded.open(name, snapshot="00000000000000000000")


def test_a_rerun_is_compared_with_the_states_of_then(
    ready: Settings, name: str, begin_run: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another has changed the fields since; it writes nothing."""
    gridded.write(name, {"surface": fields([0])})
    first = begin_run()
    gridded.write(name, {"surface": fields([0, 1, 2])})
    unchanged = begin_run()
    gridded.write(name, {"surface": fields([1, 2])})
    begin_run()
    gridded.write(name, {"surface": fields([0, 1, 2, 3], add=5.0)})
    newest = gridded.snapshots(name)

    def again(run: str, *written: xr.Dataset) -> list[tuple[str, int | None]]:
        record._repeated.clear()
        done = begin_run()
        monkeypatch.setenv("THALWEG_PINNED", run)
        for each in written:
            gridded.write(name, {"surface": each})
        monkeypatch.delenv("THALWEG_PINNED")
        assert gridded.snapshots(name) == newest
        return [(use.direction, use.rows) for use in history.get(done).uses]

    assert again(first, fields([0, 1, 2])) == [("same", 2)]
    assert again(first, fields([0, 1])) == [("differs", 1)]
    assert again(first, fields([0, 1, 2, 3])) == [("differs", 1)]
    assert again(first, fields([1, 2], add=1.0)) == [("differs", 2)]
    assert again(first, fields([1, 2], latitude=LATITUDE + 1)) == [("differs", 2)]
    assert again(first, fields([1, 2]), fields([1])) == [("same", 2), ("read", None)]
    assert again(unchanged, fields([1, 2])) == [("read", None)]
    assert again(unchanged, fields([1], add=5.0)) == [("differs", 1)]


def test_a_variable_may_come_later(ready: Settings, name: str) -> None:
    gridded.write(name, {"surface": fields([0, 1])})
    more = fields([1, 2]).rename(t2m="d2m", t2m_raw_file="d2m_raw_file")
    gridded.write(name, {"surface": more})
    found = gridded.open(name).isel(latitude=0, longitude=0, step=0)
    np.testing.assert_array_equal(found["t2m"], [0, 1000, np.nan])
    np.testing.assert_array_equal(found["d2m"], [np.nan, 1000, 2000])


def test_what_does_not_fit_is_refused_and_changes_nothing(ready: Settings, name: str) -> None:
    written = gridded.write(name, {"surface": fields([0])})
    with pytest.raises(InvalidInput, match=r"another grid \(latitude: 3, now 2\)"):
        gridded.write(name, {"surface": fields([1], latitude=np.arange(40.0, 42.0))})
    celsius = fields([1])
    celsius["t2m"].attrs["units"] = "degC"
    with pytest.raises(InvalidInput, match="dimensions, units and type"):
        gridded.write(name, {"surface": celsius})
    with pytest.raises(InvalidInput, match="cannot name a repository"):
        gridded.write("No/Way", {"surface": fields([0])})
    assert gridded.snapshots(name)[0].id == written.snapshot
    with pytest.raises(NotFound, match=f"did you mean '{name}'"):
        gridded.open(f"{name}x")


def test_before_anything_is_written_there_is_nothing(
    ready: Settings, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first write that is under way, or breaks off, has made a repository."""

    def gone(*_: object) -> None:
        raise icechunk.IcechunkError("x the store is gone")

    with monkeypatch.context() as broken:
        broken.setattr("thalweg.gridded.repository.merge", gone)
        with pytest.raises(Unavailable, match=r"the store is gone; see `thalweg status`$"):
            gridded.write(name, {"surface": fields([0])})
    assert name in gridded.names()
    assert gridded.levels(name) == []
    with pytest.raises(NotFound, match="holds no fields: nothing was written yet"):
        gridded.open(name)
    entry = replace(catalog.entry("gridded.ifs"), reader=catalog.GriddedFields(name=name))
    assert catalog.check(entry).state == "ok"
    assert entry.reader.extent() == catalog.Extent()
    assert len(entry.reader.discover()) == 0
    assert name not in {item.id for item in stac.build().get_items(recursive=True)}
    assert gridded.write(name, {"surface": fields([0])}).added == 1


def test_writers_at_once_lose_nothing(ready: Settings, name: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda t: gridded.write(name, {"surface": fields([t])}), range(6)))
    assert sum(each.added for each in done) == 6
    corner = gridded.open(name)["t2m"].isel(latitude=0, longitude=0, step=0)
    assert corner.values.tolist() == [0, 1000, 2000, 3000, 4000, 5000]


def test_a_store_that_is_gone_is_one_line(
    ready: Settings, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(Unavailable, match=r"does not give .*see `thalweg status`$") as caught:
        gridded.open(name)
    S3FileSystem.clear_instance_cache()
    assert "\n" not in str(caught.value)


def test_a_folder_does_as_well(tmp_path: Path) -> None:
    settings = load({}, data_dir=tmp_path, gridded_uri=f"file://{tmp_path}/gridded")
    assert gridded.names(settings) == []
    gridded.write("here", {"surface": fields([0])}, settings)
    assert gridded.names(settings) == ["here"]
    assert gridded.open("here", settings=settings)["t2m"].max() == 23


def test_the_catalogue_opens_fields(ready: Settings) -> None:
    entry = catalog.entry("gridded.ifs")
    assert catalog.check(entry).state == "ok"
    if "ifs" not in gridded.names():
        assert len(entry.reader.discover()) == 0
    gridded.write("ifs", {"heightAboveGround": fields([0])})
    assert catalog.check(entry).message.endswith("variables")
    opened = catalog.open_catalog()["gridded"]["ifs"].read(level="heightAboveGround")
    assert "t2m" in opened


def test_nearest_is_nearest_on_the_sphere() -> None:
    """At 80 N a degree of longitude is short: the centre in the next column is nearer."""
    grid = fields([0], latitude=np.array([78.0, 80.0, 82.0]), longitude=np.arange(0.0, 40, 10))
    rows = gridded.at_points(grid, points(a=(4.0, 80.9), b=(6.0, 81.1), c=(34.9, 78.0)))
    assert values(rows) == {"a": [10], "b": [21], "c": [3]}
    for outside in ((36.0, 80.0), (10.0, 84.0), (-10.0, 80.0), (180.0, 80.0)):
        with pytest.raises(InvalidInput, match=r"here: the point .* is outside the grid"):
            gridded.at_points(grid, points(here=outside))


def test_bilinear_is_exact_for_a_plane_and_around_the_globe() -> None:
    rows = gridded.at_points(fields([0, 1]), points(a=(-78.75, 41.5), b=(-80.0, 42.0), c=(-80.4, 40.0)), method="bilinear")  # noqa: E501  # fmt: skip
    assert values(rows) == {"a": [16.25, 1016.25], "b": [20, 1020], "c": [0, 1000]}
    globe = fields([0], latitude=np.arange(-90.0, 91, 30), longitude=np.arange(-180.0, 180, 90))
    around = points(west=(-180.0, 0.0), seam=(135.0, 0.0), east=(180.0, 0.0), near=(-181.0, 0.0))
    found = values(gridded.at_points(globe, around, method="bilinear"))
    assert found["west"] == found["east"] == [30]
    assert found["seam"] == [31.5]
    assert found["near"] == pytest.approx([30 * 89 / 90 + 33 / 90])


def test_an_area_counts_by_its_size_on_the_sphere() -> None:
    """Cells between parallels have areas as the difference of the sines of latitude."""
    grid = fields([0], latitude=np.array([0.0, 30.0, 60.0]), longitude=np.arange(0.0, 40, 10))
    sine = np.sin(np.radians([-15, 0, 15, 45, 60, 75]))
    lower, upper = sine[2] - sine[0], sine[3] - sine[2]
    basins = places(
        column=shapely.box(5, -15, 15, 45),
        half=shapely.box(5, 0, 15, 15),
        two=shapely.box(0, 15, 10, 45),
        parts=shapely.union(shapely.box(-5, 15, 5, 45), shapely.box(25, 15, 35, 45)),
        ring=shapely.difference(shapely.box(-5, 15, 35, 45), shapely.box(5, 15, 25, 45)),
    )
    found = values(gridded.area_mean(grid, basins))
    assert found["column"][0] == pytest.approx((1 * lower + 11 * upper) / (lower + upper), 1e-9)
    assert found["half"][0] == pytest.approx(1)
    assert found["two"][0] == pytest.approx(10.5)
    assert found["parts"][0] == found["ring"][0] == pytest.approx(11.5)
    # A triangle, against a fine grid of points that are weighed by the cosine of their latitude.
    triangle = shapely.Polygon([(0, 0), (30, 10), (12, 55)])
    lon, lat = np.meshgrid(np.arange(0.025, 30, 0.05), np.arange(0.025, 55, 0.05))
    inside = shapely.contains_xy(triangle, lon, lat)
    cells = np.round(lat / 30) * 10 + np.floor((lon + 5) / 10)
    expected = np.average(cells[inside], weights=np.cos(np.radians(lat[inside])))
    (mean,) = values(gridded.area_mean(grid, places(t=triangle)))["t"]
    assert mean == pytest.approx(expected, abs=0.01)


def test_an_area_across_the_date_line() -> None:
    grid = fields([0], latitude=np.array([0.0, 1.0]), longitude=np.arange(-180.0, 180, 1))
    for west in (178.5, -181.5):  # columns 359, 0 and 1 of row 1
        basin = places(a=shapely.box(west, 0.5, west + 3, 1.5))
        (mean,) = values(gridded.area_mean(grid, basin))["a"]
        assert mean == pytest.approx(10 + (359 + 0 + 1) / 3)


def test_areas_on_a_map_projection(ready: Settings, shared_data: Path) -> None:
    """The mean of latitude over a small box is its middle, whatever the grid."""
    path = shared_data / "grib_samples" / "nam.t00z.awp21100.tm00.grib2"
    file = raw.land("gfs", "nam", path.read_bytes(), extension="grib2", url="test:nam")
    temperature = gfs.read([file])["heightAboveGround"][["t2m", "t2m_raw_file"]]
    temperature["t2m"][...] = temperature["latitude"].values
    rows = gridded.area_mean(temperature, places(a=shapely.box(-104, 34, -96, 42)))
    assert rows["value"].to_pylist() == [pytest.approx(37.95, abs=0.05)]
    with pytest.raises(InvalidInput, match="% of the polygon lies outside the grid"):
        gridded.area_mean(temperature, places(a=shapely.box(-20, 34, -10, 42)))


def test_missing_cells_leave_the_mean() -> None:
    grid = fields([0, 1, 2])
    grid["t2m"][1, 0, 0, 0] = np.nan  # a quarter of the basin
    grid["t2m"][2, 0, 0:2, 0] = np.nan
    grid["t2m"][2, 0, 0, 1] = np.nan
    basin = places(a=shapely.box(-80.5, 39.5, -78.5, 41.5))
    rows = gridded.area_mean(grid, basin)
    assert rows["value_time"].to_pylist() == [
        dt.datetime(2026, 3, 16, hour, tzinfo=dt.UTC) for hour in (12, 13)
    ]
    lower, upper = np.diff(np.sin(np.radians([39.5, 40.5, 41.5])))
    full = (0.5 * lower + 10.5 * upper) / (lower + upper)
    without = 1000 + (1 * lower + 21 * upper) / (lower + 2 * upper)
    assert rows["value"].to_pylist() == pytest.approx([full, without])


def test_what_is_no_place_or_variable_is_said() -> None:
    grid = fields([0])
    bow = shapely.Polygon([(-80, 40), (-78, 42), (-78, 40), (-80, 42)])
    for geometry, says in (
        (shapely.Point(-79, 41), "a: expected a Polygon or MultiPolygon, got Point"),
        (bow, "a: the polygon is not valid: Self-intersection"),
        (shapely.Polygon(), "a: expected a Polygon"),
    ):
        with pytest.raises(InvalidInput, match=says):
            gridded.area_mean(grid, places(a=geometry))
    nowhere = pa.table({"id": ["a"], "geometry": pa.array([None], pa.binary())})
    with pytest.raises(InvalidInput, match="a: expected a Point, got none"):
        gridded.at_points(grid, nowhere)
    with pytest.raises(InvalidInput, match="no locations: give a table"):
        gridded.at_points(grid, nowhere.slice(0, 0))
    with pytest.raises(InvalidInput, match="did you mean 'nearest'"):
        gridded.at_points(grid, points(a=(-79, 41)), method="nearst")
    with pytest.raises(InvalidInput, match="fields of t2m: say which"):
        gridded.at_points(grid, points(a=(-79, 41)), variables={"tp": "rain"})
    del grid.attrs["configuration_name"]
    with pytest.raises(InvalidInput, match="do not say their configuration"):
        gridded.at_points(grid, points(a=(-79, 41)))


def test_rows_fit_the_warehouse(ready: Settings, shared_data: Path) -> None:
    """IFS at a gauge, past contracts and units; a damaged file is kept aside, the good passes."""
    warehouse.migrate()
    content = (shared_data / "ecmwf_ifs_open" / "ecmwf_019cf6d7.grib").read_bytes()
    good, cut = (
        raw.land("ifs", "oper", part, extension="grib2", url="test:ifs")
        for part in (content, content[:-1000])
    )
    radford = points(**{"usgs-radford": (-80.55, 37.14)})
    cells = radford.set_column(0, "id", [["ifs-radford"]])
    warehouse.write("locations", radford)
    pairs = {"primary_location_id": radford["id"], "secondary_location_id": cells["id"]}
    warehouse.write("location_crosswalks", pa.table(pairs))
    part: _grib.Area = (-82.0, 36.0, -79.0, 38.0)

    def at_gauges(files: Sequence[RawFile]) -> dict[str, pa.Table]:
        fields = ifs.read(files, area=part)["heightAboveGround"]
        return {"secondary_timeseries": gridded.at_points(fields, cells, method="bilinear")}

    loaded = ingest.load(at_gauges, [cut, good])
    assert [written.added for written in loaded.written] == [4]
    assert {(c.unit, c.to, c.count) for c in loaded.converted} == {("K", "degC", 2)}
    (kept,) = loaded.quarantined
    assert (kept.raw_file_id, kept.table) == (cut.id, None)
    assert "is not whole GRIB" in kept.reason
    again = ingest.load(at_gauges, [good])
    assert [(w.added, w.changed, w.unchanged) for w in again.written] == [(0, 0, 4)]
    back = warehouse.read("secondary_timeseries", where="location_id = 'ifs-radford'")
    assert set(back["raw_file_id"].to_pylist()) == {good.id}
    assert set(back["reference_time"].to_pylist()) == {dt.datetime(2026, 3, 16, tzinfo=dt.UTC)}
    t2m = back.filter(pa.compute.equal(back["variable_name"], "air_temperature_hourly_inst"))
    kelvin = ifs.read([good], area=part)["heightAboveGround"]["t2m"]
    expected = kelvin.interp(latitude=37.14, longitude=-80.55).values.ravel() - 273.15
    assert sorted(t2m["value"].to_pylist()) == pytest.approx(sorted(expected.tolist()), abs=1e-3)


def test_means_over_a_basin_are_observations(ready: Settings, shared_data: Path) -> None:
    """An analysis of ERA5 over a box of Wales: primary_timeseries, 744 hours."""
    warehouse.migrate()
    path = shared_data / "era5_uk" / "era5-2mt-2019-03-uk.grib"
    file = raw.land("era5", "uk", path.read_bytes(), extension="grib", url="test:era5")
    wales = places(**{"era5-wales": shapely.box(-4.125, 51.875, -3.625, 52.375)})
    warehouse.write("locations", wales)
    fields = era5.read([file])["surface"]
    means = {"primary_timeseries": gridded.area_mean(fields, wales)}
    loaded = ingest.load(lambda _: means, [file])
    assert [written.added for written in loaded.written] == [744]
    assert loaded.quarantined == ()
    rows = warehouse.read("primary_timeseries", where="location_id = 'era5-wales'")
    # The box has two by two whole cells; those of a row have one area.
    cells = fields["t2m"].sel(latitude=[52, 52.25], longitude=[-4, -3.75])
    areas = np.diff(np.sin(np.radians([51.875, 52.125, 52.375])))
    expected = np.average(cells.squeeze("step").mean("longitude").values, axis=1, weights=areas)
    found = rows.sort_by("value_time")["value"].to_numpy()
    np.testing.assert_allclose(found, expected - 273.15, atol=1e-4)
