"""The catalogue on a real store: names, part reads, snapshots, and clear errors."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import intake
import pyarrow as pa
import pytest
import shapely
from typer.testing import CliRunner

import thalweg
from thalweg import catalog, database, raw, sources, warehouse
from thalweg.cli import app
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.settings import Settings
from thalweg.sources._common import point

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def filled(store: Settings) -> Settings:
    """The store with a warehouse and two locations of these tests."""
    database.migrate()
    warehouse.migrate()
    rows = {"id": ["catalog-test-1", "catalog-test-2"], "name": ["one", "two"]}
    rows["geometry"] = [point(-80.5, 37.1)] * 2
    warehouse.write("locations", pa.table(rows))
    return store


def test_the_names_of_the_hub() -> None:
    found = thalweg.open_catalog()
    assert list(found) == ["raw", "warehouse", "gridded", "public"]
    assert set(found["warehouse"]) == set(warehouse.names())
    assert found.warehouse.metrics.metadata["units"]


def test_plain_intake_opens_the_same(filled: Settings) -> None:
    plain = intake.open_catalog(str(filled.home / "catalogs" / "main.yaml"))
    table = plain["warehouse"]["locations"].read()
    assert table.equals(catalog.open_catalog(settings=filled)["warehouse"]["locations"].read())


def test_part_of_a_table(filled: Settings) -> None:
    reader = catalog.open_catalog()["warehouse"]["locations"]
    part = reader.read(columns=["id", "name"], where="id = 'catalog-test-2'")
    assert part.to_pylist() == [{"id": "catalog-test-2", "name": "two"}]
    assert reader.discover().column_names == ["id", "name", "geometry", "raw_file_id", "run_id"]


def test_an_earlier_snapshot(filled: Settings) -> None:
    before = warehouse.table("locations").current_snapshot()
    assert before is not None
    warehouse.write("locations", pa.table({"id": ["catalog-test-1"], "name": ["renamed"]}))
    reader = catalog.open_catalog()["warehouse"]["locations"]
    mine = "id = 'catalog-test-1'"
    now = reader.read(columns=["name", "geometry"], where=mine).to_pylist()
    assert now == [{"name": "renamed", "geometry": point(-80.5, 37.1)}]  # of which nothing was said
    earlier = reader.read(where=mine, snapshot_id=before.snapshot_id)
    assert earlier["name"].to_pylist() == ["one"]


def test_a_table_at_a_time(filled: Settings) -> None:
    mine, reader = "id = 'catalog-at'", catalog.open_catalog()["warehouse"]["locations"]
    snapshots = []
    for name in ("first", "second"):
        warehouse.write("locations", pa.table({"id": ["catalog-at"], "name": [name]}))
        snapshots.append(warehouse.table("locations").current_snapshot().timestamp_ms)
    first, second = (dt.datetime.fromtimestamp(ms / 1000, dt.UTC) for ms in snapshots)
    assert reader.read(where=mine, at=first)["name"].to_pylist() == ["first"]
    assert reader.read(where=mine, at=second)["name"].to_pylist() == ["second"]
    before = reader.read(columns=["name"], where=mine, at=dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
    assert (before.num_rows, before.column_names) == (0, ["name"])
    with pytest.raises(InvalidInput, match="expected a time with a time zone"):
        reader.read(at=dt.datetime(2000, 1, 1))  # noqa: DTZ001


def test_an_entry_says_where_and_when_its_data_are(filled: Settings) -> None:
    """The reach of a gauge lies where the gauge lies; a place without a geometry counts nowhere."""
    at = [dt.datetime(2024, 9, day, tzinfo=dt.UTC) for day in (26, 28)]
    for table, prefix in (("primary_timeseries", "a"), ("secondary_timeseries", "b")):
        rows = pa.table(
            {
                "location_id": [f"{prefix}-extent-1", f"{prefix}-extent-2"],
                "value_time": pa.array(at, pa.timestamp("us", "UTC")),
                "value": [1.0, 2.0],
                "unit_name": ["m^3/s"] * 2,
                "configuration_name": ["extent"] * 2,
                "variable_name": ["streamflow_hourly_inst"] * 2,
            }
        )
        warehouse.write(table, rows)
    ids = ["a-extent-1", "a-extent-2"]
    reaches = ["b-extent-1", "b-extent-2"]
    warehouse.write(
        "location_crosswalks",
        pa.table({"primary_location_id": ids, "secondary_location_id": reaches}),
    )
    places = pa.array([point(-80.5, 37.1), point(13.7, -51.1)], pa.binary())
    warehouse.write("locations", pa.table({"id": ids, "geometry": places}))
    crosswalk = warehouse.read("location_crosswalks").to_pylist()
    gauges = {row["secondary_location_id"]: row["primary_location_id"] for row in crosswalk}
    shapes = {row["id"]: row["geometry"] for row in warehouse.read("locations").to_pylist()}
    for table in ("primary_timeseries", "secondary_timeseries"):
        extent = catalog.entry(f"warehouse.{table}").reader.extent()
        rows = warehouse.read(table, ["location_id", "value_time"])
        places = {gauges.get(id, id) for id in rows["location_id"].unique().to_pylist()}
        points = [shapely.from_wkb(wkb) for id in places if (wkb := shapes.get(id))]
        assert len(points) >= 2
        assert extent.box == tuple(shapely.total_bounds(points))
        times = rows["value_time"].to_pylist()
        assert extent.times == (min(times), max(times))
    assert catalog.entry("warehouse.units").reader.extent() == catalog.Extent()
    shown = CliRunner().invoke(app, ["catalog", "show", "warehouse.primary_timeseries"]).stdout
    assert {line[:10].strip() for line in shown.splitlines()} > {"where now", "when now"}


def test_raw_files_by_name(filled: Settings) -> None:
    start = dt.datetime(2024, 9, 26, tzinfo=dt.UTC)
    file = raw.land("usgs", "catalog-test", b"{}", extension="json", url="test:", valid_from=start)
    table = catalog.open_catalog()["raw"]["usgs"].read(dataset="catalog-test")
    assert table.schema == catalog.REGISTRY
    (row,) = table.to_pylist()
    assert (row["id"], row["uri"], row["size"]) == (file.id, file.uri, 2)
    assert row["valid_from"] == start
    times = catalog.entry("raw.usgs").reader.extent().times
    assert times is not None
    assert times[0] <= start <= times[1]


def test_a_new_source_is_in_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "newcomer.py").write_text('TITLE = "A new agency"\nLICENCE = "CC0-1.0"\n')
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    found = catalog.entry("raw.newcomer")
    assert (found.description, found.licence, found.source) == (
        "A new agency", "CC0-1.0", "newcomer",
    )  # fmt: skip
    assert all(getattr(found, said) for said in catalog.SAID)
    assert catalog.entry("raw.usgs").units.startswith("ft^3/s")


def test_public_data_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALWEG_PUBLIC_ENDPOINT", NOWHERE)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    with pytest.raises(Unavailable, match="public data needs a network") as caught:
        catalog.open_catalog()["public"]["era5"].read()
    assert "\n" not in str(caught.value)


def test_a_mistyped_entry_names_the_nearest() -> None:
    with pytest.raises(NotFound, match=r"did you mean 'warehouse\.metrics'"):
        catalog.entry("warehouse.metric")


def test_no_catalogue_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no catalogue at"):
        catalog.open_catalog(tmp_path / "main.yaml")


def test_check_tells_broken_from_unreachable(
    filled: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert catalog.check(catalog.entry("warehouse.units")).state == "ok"

    def damaged(*_: object, **__: object) -> None:
        raise InvalidInput("damaged")

    monkeypatch.setattr(warehouse, "table", damaged)
    broken = catalog.check(catalog.entry("warehouse.units"))
    assert (broken.state, broken.message) == ("broken", "InvalidInput: damaged")


def test_an_entry_that_does_not_say_its_licence_is_broken(filled: Settings) -> None:
    silent = replace(catalog.entry("warehouse.units"), licence="", temporal_extent="")
    assert catalog.check(silent).message == (
        "InvalidInput: the entry does not say its licence, temporal_extent"
    )


def test_commands(filled: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALWEG_PUBLIC_ENDPOINT", NOWHERE)
    run = CliRunner().invoke
    listed = json.loads(run(app, ["catalog", "list", "--json"]).stdout)
    assert {row["name"] for row in listed} == {each.name for each in catalog.entries()}
    shown = json.loads(run(app, ["catalog", "show", "warehouse.metrics", "--json"]).stdout)
    assert shown["columns"]["value"] == "double"
    assert set(catalog.SAID) < set(shown)
    assert "warehouse.metrics" in run(app, ["catalog", "list"]).stdout
    assert '["warehouse"]["metrics"].read()' in run(app, ["catalog", "show", "warehouse.metrics"]).stdout  # fmt: skip  # noqa: E501
    checked = run(app, ["catalog", "check", "--json"])
    states = {row["name"]: row["state"] for row in json.loads(checked.stdout)}
    assert states.pop("public.era5") == states.pop("public.nwm_retrospective") == "unreachable"
    assert set(states.values()) == {"ok"}
    assert checked.exit_code == 0
    assert run(app, ["catalog", "check", "--strict"]).exit_code == 1
