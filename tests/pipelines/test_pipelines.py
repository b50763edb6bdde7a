"""The pipelines of the clone, run as they are on real data."""

from __future__ import annotations

import ast
import datetime as dt
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import dagster as dg
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from on_disk import edited
from pi_xml import HEADER, as_series, document, members, one_series
from replay import lay_out_ifs, replay
from typer.testing import CliRunner

from thalweg import dashboards, database, gridded, ingest, metrics, storage, warehouse
from thalweg.cli import app
from thalweg.pipelines import history, specification
from thalweg.pipelines.definitions import definitions
from thalweg.pipelines.history import Run
from thalweg.pipelines.run import RunFailed, run
from thalweg.settings import Settings, load
from thalweg.sources import sample

HOME = Path(__file__).resolve().parents[2]
NAMES = sorted(folder.parent.name for folder in (HOME / "pipelines").glob("*/pipeline.yaml"))
NOAA = "noaa-nwm-pds"
DAY = "2021-08-23"
EVENT = '<event date="2024-04-01" time="12:00:00" value="1.5" flag="0"/>'


def at_noon(file: h5py.File) -> None:
    """Make a forecast of an analysis: times are minutes since 1970."""
    file["reference_time"][0] = file["time"][0] // (24 * 60) * 24 * 60 + 12 * 60


@pytest.fixture
def home(store: Settings) -> Settings:
    """Settings of this clone, with the running store and its tables."""
    settings = replace(store, home=HOME)
    database.migrate(settings)
    warehouse.migrate(settings)
    return settings


@pytest.fixture
def noaa(home: Settings, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A bucket laid out as NOAA's: analyses, a forecast and TimeSlices on the Lower Colorado.

    The forecast is made of the analyses: their values, issued at noon.
    """
    monkeypatch.setenv("THALWEG_PUBLIC_ENDPOINT", os.environ["AWS_ENDPOINT_URL"])
    folder = shared_data / "nwm_usgs_lower_colorado"
    bucket = s3fs.S3FileSystem(use_listings_cache=False)
    bucket.makedirs(NOAA, exist_ok=True)
    for file in sorted((folder / "channel_forcing").iterdir()):
        day, hour = file.name[:8], file.name[8:10]
        key = f"nwm.{day}/analysis_assim/nwm.t{hour}z.analysis_assim.channel_rt.tm00.conus.nc"
        bucket.pipe_file(f"{NOAA}/{key}", file.read_bytes())
        if file.name.startswith("20210823"):
            name = f"nwm.t12z.medium_range.channel_rt_1.f{int(hour) - 12:03d}.conus.nc"
            issued = edited(file.read_bytes(), at_noon)
            bucket.pipe_file(f"{NOAA}/nwm.{day}/medium_range_mem1/{name}", issued)
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


def plots(done: Run) -> int:
    """How many plots a notebook shows; the first such output is of hvPlot itself."""
    kind = "application/vnd.holoviews_exec.v0+json"
    return sum(kind in output.get("data", {}) for output in outputs(done)) - 1


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
    assert set(names) == {
        "load_sample", "ingest_usgs", "ingest_nwm_analysis", "ingest_nwm_medium_range",
        "ingest_ensembles", "ingest_ifs", "reference_forecasts", "evaluate", "publish_reports",
        "maintain_warehouse",
    }  # fmt: skip
    flow = ["ingest_usgs", "reference_forecasts", "evaluate", "publish_reports"]
    assert [name for name in names if name in flow] == flow


def test_partitions_of_examples_are_there() -> None:
    """Of all that help and documents give: `thalweg backfill ingest_usgs 2024-…..2024-…`."""
    pages = [*(HOME / "docs" / "howto").glob("*.md"), *(HOME / "src/thalweg/cli").glob("*.py")]
    text = "\n".join(page.read_text() for page in pages)
    pattern = (
        r"thalweg (?:run|backfill) ([a-z_]+) (?:--partition )?(20[\w:-]+)(?:\.\.(20[\w:-]+)?)?"
    )
    examples = re.findall(pattern, text)
    assert len(examples) == 8
    for name, first, last in examples:
        assert specification.load(HOME / "pipelines" / name).partition_keys(first, last or None)


def test_the_sample_becomes_skill_and_a_second_time_changes_nothing(home: Settings) -> None:
    assert written(run("evaluate", settings=home)) == {}  # of nothing yet, as on a new hub
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
    drawn = outputs(again)
    scripts = [
        o["data"]["application/javascript"] for o in drawn if "application/javascript" in o["data"]
    ]
    assert any(
        "bokeh" in "".join(script) and len("".join(script)) > 1_000_000 for script in scripts
    ), "plots need no network"
    assert plots(again) == 2


def backfilled(*arguments: str) -> list[str]:
    """The partitions that `thalweg backfill` has run."""
    done = CliRunner().invoke(app, ["backfill", *arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return list(json.loads(done.stdout)["succeeded"])


def follow(name: str, since: dt.datetime, settings: Settings) -> list[Run]:
    """Run a pipeline as Dagster does: by what its sensor or its schedule asks for."""
    made = definitions(settings).get_repository_def()
    if made.has_sensor_def(f"follow_{name}"):
        with dg.build_sensor_context(cursor=since.isoformat(), repository_def=made) as sensing:
            asked = made.get_sensor_def(f"follow_{name}").evaluate_tick(sensing).run_requests
    else:
        with dg.build_schedule_context(scheduled_execution_time=since) as scheduling:
            schedule = made.get_schedule_def(f"run_{name}_schedule")
            asked = schedule.evaluate_tick(scheduling).run_requests
    job = made.get_job(f"run_{name}")
    for each in asked or []:
        assert job.execute_in_process(partition_key=each.partition_key).success
    return history.find(name, "succeeded", since=since, settings=settings)[::-1]


def test_the_days_of_the_data_are_backfilled_judged_published_and_kept_fit(
    noaa: Settings, shared_data: Path
) -> None:
    """`thalweg backfill` of each pipeline that brings data; what needs them follows.

    Two days of analyses, a forecast and ensembles of 42 members, from raw files to a report.
    """
    since = dt.datetime.now(dt.UTC)
    ensembles = laid_out(shared_data / "usgs_nwm_hefs_examples" / "hefs_example")
    route_link = (shared_data / "nwm_usgs_lower_colorado" / "RouteLink.nc").as_uri()
    days = [DAY, "2021-08-24"]
    given = f"route_link={route_link}"
    assert backfilled("ingest_nwm_analysis", "..".join(days), "-p", given) == days
    files = [
        sum(u.kind == "raw" and u.direction == "wrote" for u in history.get(each.id, noaa).uses)
        for each in history.find("ingest_nwm_analysis", settings=noaa)
    ]
    assert files == [17, 12], "the second day, and the first with the RouteLink"
    for name in ("locations", "location_crosswalks"):
        rows = warehouse.read(name)
        assert rows.num_rows >= 76
        assert rows["raw_file_id"].null_count == rows["run_id"].null_count == 0
    assert backfilled("ingest_usgs", DAY, "-p", "timeslices=yes") == [DAY]
    assert backfilled("ingest_nwm_medium_range", DAY) == [DAY]
    ingest.load(sample.read, sample.fetch())  # where the ensembles are
    uris = "uris=s3://forecasts/{day}/*.xml"
    assert backfilled("ingest_ensembles", "2024-04-01..2024-04-01", "-p", uris) == ["2024-04-01"]
    counts = rows_of("secondary_timeseries")
    assert counts["nwm30_analysis_assim"] == 28 * 76
    assert counts["nwm30_medium_range"] == 11 * 76 + 960, "and the sample's"
    assert counts["CNRFC_HEFS"] == len(ensembles) == 60_564
    stored = warehouse.read("secondary_timeseries", where="configuration_name = 'CNRFC_HEFS'")
    assert set(stored["unit_name"].to_pylist()) == {"m^3/s"}
    largest = max(ensembles["value"].to_pylist()) * 0.3048**3
    assert max(stored["value"].to_pylist()) == pytest.approx(largest, rel=1e-12)

    made = follow("reference_forecasts", since, noaa)
    assert [each.partition for each in made] == [DAY, "2024-04-01"]
    held = warehouse.read("secondary_timeseries", where="configuration_name = 'persistence'")
    held = held.to_pandas()
    held = held[held["reference_time"] < "2022"]
    assert len(held) == 11 * 65
    assert (held.groupby("location_id")["value"].nunique() == 1).all()
    noon = warehouse.read("primary_timeseries", where=f"value_time = '{DAY}T12:00:00+00:00'")
    assert sorted(held.drop_duplicates("location_id")["value"]) == sorted(noon["value"].to_pylist())
    skill = metrics.skill(metrics=["rmse"], where="configuration_name = 'nwm30_medium_range'")
    assert set(skill["count"].to_pylist()) == {11}

    assert len(follow("evaluate", since, noaa)) == 1
    where = "configuration_name = 'nwm30_analysis_assim' and metric_name = 'rmse'"
    judged = warehouse.read("metrics", where=where).to_pylist()
    assert sum(row["count"] for row in judged) == 715
    assert len({row["primary_location_id"] for row in judged}) == 65

    (published,) = follow("publish_reports", since, noaa)
    (key,) = dashboards.published()
    assert key.endswith(published.id)
    report = storage.read(f"{noaa.runs_uri}/reports/{key}.html").decode()
    assert "nwm30_analysis_assim · streamflow_hourly_inst</a>: gauges: 65, pairs: 715" in report
    assert "persistence" in report
    assert "CNRFC_HEFS" in report
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?http", report)

    before = {name: warehouse.read(name).num_rows for name in warehouse.names()}
    assert backfilled("ingest_nwm_medium_range", f"{DAY}..{DAY}", "--again") == [DAY]
    fit = run("maintain_warehouse", settings=noaa)
    assert {name: warehouse.read(name).num_rows for name in warehouse.names()} == before
    left = warehouse.maintain(dry_run=True)
    assert all(each.files_before == each.files_after for each in left)
    assert {u.name for u in fit.uses if u.direction == "wrote"} >= {"secondary_timeseries"}


def laid_out(folder: Path) -> pa.Table:
    """Real ensembles at two gauges as a hydrologic service exports them: PI-XML in a bucket."""
    rows = pq.read_table(folder / "secondary_timeseries.parquet")
    bucket = s3fs.S3FileSystem(use_listings_cache=False)
    bucket.makedirs("forecasts", exist_ok=True)
    for place in sorted(set(rows["location_id"].to_pylist())):
        chosen = rows.filter(np.equal(rows["location_id"].to_numpy(), place))
        content = document(*(as_series(member) for member in members(chosen)))
        bucket.pipe_file(f"forecasts/2024-04-01/{place}.xml", content.encode())
    return rows


def rows_of(table: str) -> dict[str, int]:
    """How many rows a table has of each configuration."""
    names = warehouse.read(table, ["configuration_name"])["configuration_name"]
    return {each["values"]: each["counts"] for each in names.value_counts().to_pylist()}


def test_ensembles_of_a_place_that_nobody_knows_wait_in_quarantine(home: Settings) -> None:
    bucket = s3fs.S3FileSystem()
    bucket.makedirs("forecasts", exist_ok=True)
    elsewhere = one_series(EVENT, header=HEADER.replace("SCBC1", "ELSE1"))
    bucket.pipe_file("forecasts/elsewhere.xml", document(elsewhere).encode())
    with pytest.raises(RunFailed, match="NotFound: no row could be taken; why: `thalweg quarantin"):
        run("ingest_ensembles", {"uris": "s3://forecasts/elsewhere.xml"}, settings=home)


def test_fields_of_ecmwf_come_by_their_index(
    home: Settings, shared_data: Path, tmp_path: Path
) -> None:
    with replay(tmp_path) as bucket:
        lay_out_ifs(bucket, shared_data / "ecmwf_ifs_open" / "ecmwf_019cf6d7.grib")
        here = replace(home, ifs_url=bucket.url)
        day = {"start": "2026-03-16", "end": "2026-03-17", "hours": 3}
        done = run("ingest_ifs", day, settings=here)
    dataset = gridded.open("ifs")
    assert dataset["t2m"].shape == dataset["d2m"].shape == (1, 2, 721, 1440)
    assert 180 < float(dataset["t2m"].min()) < float(dataset["t2m"].max()) < 330
    assert [(u.name, u.rows) for u in done.uses if u.direction == "wrote" and u.kind != "raw"] == [
        ("ifs", 4)
    ]
    assert plots(done) == 1


@pytest.mark.parametrize("name", ["evaluate", "publish_reports"])
def test_every_metric_without_thresholds_can_be_asked_for(name: str) -> None:
    parameter = specification.get(name, load({}, home=HOME)).parameters["metrics"]
    kept = [each for each in metrics.METRICS if "thresholds" not in metrics.requires(each)]
    assert parameter.enum == kept
