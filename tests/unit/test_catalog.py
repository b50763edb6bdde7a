"""The catalogue on a real store: names, part reads, snapshots, and clear errors."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import intake
import pyarrow as pa
import pytest
from typer.testing import CliRunner

import thalweg
from thalweg import catalog, database, raw, warehouse
from thalweg.cli import app
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.settings import Settings

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def filled(store: Settings) -> Settings:
    """The store with a warehouse and two locations of these tests."""
    database.migrate()
    warehouse.migrate()
    rows = pa.table({"id": ["catalog-test-1", "catalog-test-2"], "name": ["one", "two"]})
    warehouse.write("locations", rows)
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
    assert reader.discover().column_names == ["id", "name", "geometry"]


def test_an_earlier_snapshot(filled: Settings) -> None:
    before = warehouse.table("locations").current_snapshot()
    assert before is not None
    warehouse.write("locations", pa.table({"id": ["catalog-test-1"], "name": ["renamed"]}))
    reader = catalog.open_catalog()["warehouse"]["locations"]
    mine = "id = 'catalog-test-1'"
    assert reader.read(where=mine)["name"].to_pylist() == ["renamed"]
    earlier = reader.read(where=mine, snapshot_id=before.snapshot_id)
    assert earlier["name"].to_pylist() == ["one"]


def test_raw_files_by_name(filled: Settings) -> None:
    start = dt.datetime(2024, 9, 26, tzinfo=dt.UTC)
    file = raw.land("usgs", "catalog-test", b"{}", extension="json", url="test:", valid_from=start)
    table = catalog.open_catalog()["raw"]["usgs"].read(dataset="catalog-test")
    assert table.schema == catalog.REGISTRY
    (row,) = table.to_pylist()
    assert (row["id"], row["uri"], row["size"]) == (file.id, file.uri, 2)
    assert row["valid_from"] == start


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


def test_commands(filled: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALWEG_PUBLIC_ENDPOINT", NOWHERE)
    run = CliRunner().invoke
    listed = json.loads(run(app, ["catalog", "list", "--json"]).stdout)
    assert {row["name"] for row in listed} == {each.name for each in catalog.entries()}
    shown = json.loads(run(app, ["catalog", "show", "warehouse.metrics", "--json"]).stdout)
    assert shown["columns"]["value"] == "double"
    assert "warehouse.metrics" in run(app, ["catalog", "list"]).stdout
    assert '["warehouse"]["metrics"].read()' in run(app, ["catalog", "show", "warehouse.metrics"]).stdout  # fmt: skip  # noqa: E501
    checked = run(app, ["catalog", "check", "--json"])
    states = {row["name"]: row["state"] for row in json.loads(checked.stdout)}
    assert states.pop("public.era5") == states.pop("public.nwm_retrospective") == "unreachable"
    assert set(states.values()) == {"ok"}
    assert checked.exit_code == 0
    assert run(app, ["catalog", "check", "--strict"]).exit_code == 1
