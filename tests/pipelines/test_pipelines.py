"""The pipelines of the clone, run as they are on real data."""

from __future__ import annotations

import ast
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import s3fs
from on_disk import edited
from pi_xml import HEADER, as_series, document, members, one_series
from replay import lay_out_ifs, replay

from thalweg import dashboards, database, gridded, ingest, metrics, storage, warehouse
from thalweg.pipelines import specification
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
    assert len(examples) == 5
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


def test_two_days_of_noaa_are_ingested_judged_published_and_kept_fit(
    noaa: Settings, shared_data: Path
) -> None:
    """From raw files to a report: 715 pairs of analyses, and a forecast that has one to beat."""
    route_link = {"route_link": (shared_data / "nwm_usgs_lower_colorado/RouteLink.nc").as_uri()}
    hour = run("ingest_nwm_analysis", route_link, partition=f"{DAY}T13", settings=noaa)
    days = {"start": f"{DAY}T13:00", "end": "2021-08-24T17:00"}
    rest = run("ingest_nwm_analysis", days, settings=noaa)
    landed = [
        sum(u.kind == "raw" and u.direction == "wrote" for u in each.uses) for each in (hour, rest)
    ]
    assert landed == [2, 27], "the partition's hour and its RouteLink, then what is not there"
    for name in ("locations", "location_crosswalks"):
        rows = warehouse.read(name)
        assert rows.num_rows >= 76
        assert rows["raw_file_id"].null_count == rows["run_id"].null_count == 0
    day = {"start": DAY, "end": "2021-08-24"}
    run("ingest_usgs", day | {"timeslices": "yes"}, settings=noaa)

    forecast = run("ingest_nwm_medium_range", day, settings=noaa)
    assert written(forecast)["secondary_timeseries"] == 11 * 76
    made = run(
        "reference_forecasts", day | {"references": "persistence,climatology"}, settings=noaa
    )
    assert plots(forecast) == plots(made) == 1
    held = warehouse.read("secondary_timeseries", where="configuration_name = 'persistence'")
    held = held.to_pandas()
    assert written(made)["secondary_timeseries"] == len(held) == 11 * 65
    assert (held.groupby("location_id")["value"].nunique() == 1).all()
    noon = warehouse.read("primary_timeseries", where=f"value_time = '{DAY}T12:00:00+00:00'")
    assert sorted(held.drop_duplicates("location_id")["value"]) == sorted(noon["value"].to_pylist())
    skill = metrics.skill(metrics=["rmse"], where="configuration_name = 'nwm30_medium_range'")
    assert set(skill["count"].to_pylist()) == {11}

    run("evaluate", {"metrics": "kge,rmse"}, settings=noaa)
    where = "configuration_name = 'nwm30_analysis_assim' and metric_name = 'rmse'"
    judged = warehouse.read("metrics", where=where).to_pylist()
    assert sum(row["count"] for row in judged) == 715
    assert len({row["primary_location_id"] for row in judged}) == 65

    published = run("publish_reports", {"metrics": "kge,rmse"}, settings=noaa)
    (key,) = dashboards.published()
    assert key.endswith(published.id)
    report = storage.read(f"{noaa.runs_uri}/reports/{key}.html").decode()
    assert "nwm30_analysis_assim · streamflow_hourly_inst</a>: gauges: 65, pairs: 715" in report
    assert "persistence" in report
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?http", report)

    before = {name: warehouse.read(name).num_rows for name in warehouse.names()}
    fit = run("maintain_warehouse", settings=noaa)
    assert {name: warehouse.read(name).num_rows for name in warehouse.names()} == before
    left = warehouse.maintain(dry_run=True)
    assert all(each.files_before == each.files_after for each in left)
    assert {u.name for u in fit.uses if u.direction == "wrote"} >= {"secondary_timeseries"}


def test_ensembles_come_as_a_hydrologic_service_exports_them(
    home: Settings, shared_data: Path
) -> None:
    """Real ensembles of 42 members, as PI-XML, at the two gauges that the sample pairs."""
    ingest.load(sample.read, sample.fetch())
    folder = shared_data / "usgs_nwm_hefs_examples" / "hefs_example"
    rows = pq.read_table(folder / "secondary_timeseries.parquet")
    bucket = s3fs.S3FileSystem()
    bucket.makedirs("forecasts", exist_ok=True)
    elsewhere = one_series(EVENT, header=HEADER.replace("SCBC1", "ELSE1"))
    bucket.pipe_file("forecasts/elsewhere.xml", document(elsewhere).encode())
    with pytest.raises(RunFailed, match="NotFound: no row could be taken; why: `thalweg quarantin"):
        run("ingest_ensembles", {"uris": "s3://forecasts/elsewhere.xml"}, settings=home)
    for place in sorted(set(rows["location_id"].to_pylist())):
        chosen = rows.filter(np.equal(rows["location_id"].to_numpy(), place))
        content = document(*(as_series(member) for member in members(chosen)))
        bucket.pipe_file(f"forecasts/2024-04-01/{place}.xml", content.encode())
    uris = {"uris": "s3://forecasts/2024-04-01/*.xml"}
    done = run("ingest_ensembles", uris, settings=home)
    assert plots(done) == 1
    stored = warehouse.read("secondary_timeseries", where="configuration_name = 'CNRFC_HEFS'")
    assert stored.num_rows == 60_564
    assert set(stored["unit_name"].to_pylist()) == {"m^3/s"}
    largest = max(rows["value"].to_pylist()) * 0.3048**3
    assert max(stored["value"].to_pylist()) == pytest.approx(largest, rel=1e-12)


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
