"""The pipelines of the clone, run as they are on real data."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import s3fs

from thalweg import database, storage, warehouse
from thalweg.pipelines import specification
from thalweg.pipelines.history import Run
from thalweg.pipelines.run import run
from thalweg.settings import Settings, load

HOME = Path(__file__).resolve().parents[2]
NAMES = sorted(folder.parent.name for folder in (HOME / "pipelines").glob("*/pipeline.yaml"))
NOAA = "noaa-nwm-pds"


@pytest.fixture
def home(store: Settings) -> Settings:
    """Settings of this clone, with the running store and its tables."""
    settings = replace(store, home=HOME)
    database.migrate(settings)
    warehouse.migrate(settings)
    return settings


@pytest.fixture
def noaa(home: Settings, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A bucket laid out as NOAA's: analyses and TimeSlices of a day on the Lower Colorado."""
    monkeypatch.setenv("THALWEG_PUBLIC_ENDPOINT", os.environ["AWS_ENDPOINT_URL"])
    folder = shared_data / "nwm_usgs_lower_colorado"
    bucket = s3fs.S3FileSystem(use_listings_cache=False)
    bucket.makedirs(NOAA, exist_ok=True)
    for file in sorted((folder / "channel_forcing").iterdir()):
        day, hour = file.name[:8], file.name[8:10]
        key = f"nwm.{day}/analysis_assim/nwm.t{hour}z.analysis_assim.channel_rt.tm00.conus.nc"
        bucket.pipe_file(f"{NOAA}/{key}", file.read_bytes())
    for file in (folder / "usgs_TimeSlice").glob("*_??:00:00*"):
        day = file.name[:10].replace("-", "")
        bucket.pipe_file(f"{NOAA}/nwm.{day}/usgs_timeslices/{file.name}", file.read_bytes())
    return load(home=HOME)


def written(done: Run) -> dict[str, int | None]:
    """Rows that a run wrote, by table."""
    return {u.name: u.rows for u in done.uses if (u.direction, u.kind) == ("wrote", "table")}


def outputs(done: Run) -> list[dict]:
    cells = json.loads(storage.read(done.notebook_uri))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_thin_and_have_no_outputs(name: str) -> None:
    notebook = json.loads(specification.load(HOME / "pipelines" / name).notebook_path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert notebook["cells"][0]["source"][0].startswith("# ")
    for cell in code:
        tree = ast.parse("".join(cell["source"]))
        assert len(cell["source"]) <= 10
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(tree))


def test_the_pipelines_stand_in_order_of_flow() -> None:
    names = list(specification.all(load({}, home=HOME)))
    assert names[-1] == "evaluate"
    assert set(names) == {"load_sample", "ingest_usgs", "ingest_nwm", "evaluate"}


def test_the_sample_becomes_skill_and_a_second_time_changes_nothing(home: Settings) -> None:
    run("load_sample", settings=home)
    first = run("evaluate", settings=home)
    read = {use.name for use in first.uses if use.direction == "read"}
    assert {"primary_timeseries", "secondary_timeseries", "location_crosswalks"} <= read
    where = "primary_location_id = 'usgs-03171000' and metric_name = 'kge'"
    kge = warehouse.read("metrics", where=where).to_pylist()
    overall = [row for row in kge if row["lead_time_bin"] is None]
    assert len(overall) == 1
    assert -1 < overall[0]["value"] < -0.41  # worse than the mean flow: nobody saw the flood
    assert {row["lead_time_bin"] for row in kge} >= {None, 0, 24, 48, 72}

    assert written(run("load_sample", settings=home)) == {}
    again = run("evaluate", settings=home)
    assert written(again) == {}
    read = {use.name for use in again.uses if use.direction == "read"}
    assert read == {"metrics"}  # of series that did not change nothing is read


def test_real_files_of_noaa_give_715_pairs(noaa: Settings, shared_data: Path) -> None:
    period = {"start": "2021-08-23T13:00", "end": "2021-08-24T17:00"}
    route_link = (shared_data / "nwm_usgs_lower_colorado" / "RouteLink.nc").as_uri()
    ingested = run("ingest_nwm", period | {"route_link": route_link}, settings=noaa)
    assert sum(use.kind == "raw" and use.direction == "wrote" for use in ingested.uses) >= 1
    for name in ("locations", "location_crosswalks"):
        rows = warehouse.read(name)
        assert rows.num_rows >= 76
        assert rows["raw_file_id"].null_count == rows["run_id"].null_count == 0
    run(
        "ingest_usgs",
        {"start": "2021-08-23", "end": "2021-08-24", "timeslices": "yes"},
        settings=noaa,
    )
    run("evaluate", {"metrics": "kge,rmse"}, settings=noaa)

    where = "configuration_name = 'nwm30_analysis_assim' and metric_name = 'rmse'"
    skill = warehouse.read("metrics", where=where).to_pylist()
    assert sum(row["count"] for row in skill) == 715
    assert len({row["primary_location_id"] for row in skill}) == 65
    assert written(run("ingest_nwm", period, settings=noaa)) == {}


def test_plots_need_no_network(home: Settings) -> None:
    run("load_sample", settings=home)
    drawn = outputs(run("evaluate", settings=home))
    scripts = [
        o["data"]["application/javascript"] for o in drawn if "application/javascript" in o["data"]
    ]
    assert any(
        "bokeh" in "".join(script) and len("".join(script)) > 1_000_000 for script in scripts
    )
    plots = [o for o in drawn if "application/vnd.holoviews_exec.v0+json" in o["data"]]
    assert len(plots) >= 2
