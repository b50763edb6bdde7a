"""A pipeline whose rows are known: each run writes the hours of its partition, a row an hour."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nbformat
import pyarrow as pa

from benchmarks import stores
from thalweg import warehouse
from thalweg.settings import Settings

__all__ = [
    "CONFIGURATION",
    "NAME",
    "TABLE",
    "backfill",
    "expected",
    "home",
    "keys",
    "papermill",
    "rows",
    "served",
]

NAME = "known"
TABLE = "secondary_timeseries"
CONFIGURATION = "nwm30_retrospective"
START = dt.datetime(2023, 1, 1, tzinfo=dt.UTC)
STEPS = {"hourly": dt.timedelta(hours=1), "daily": dt.timedelta(days=1)}
FORMATS = {"hourly": "%Y-%m-%dT%H", "daily": "%Y-%m-%d"}
YAML = """\
title: Known rows
owner: benchmarks
description: Writes a row for each partition, whose value says when it is.
parameters:
  time: {{type: string, description: "begin of the partition, UTC"}}
partitions:
  by: {by}
  start: "{first}"
  end: "{last}"
  parameters: {{time: "{{start}}"}}
retries: {{attempts: {attempts}, delay: 2}}
concurrency: {concurrency}
timeout: 300
"""
CELLS = (
    """\
import datetime as dt, os, pathlib
import pyarrow as pa
from thalweg import warehouse""",
    """\
at = dt.datetime.fromisoformat(time)
if trace := os.environ.get("BENCHMARK_TRACE"):
    (pathlib.Path(trace) / os.environ["THALWEG_RUN_ID"]).touch()""",
    f"""\
row = {{"value_time": [at], "value": [at.timestamp() / 3600], "unit_name": ["m^3/s"],
       "location_id": ["nwm30-1"], "configuration_name": ["{CONFIGURATION}"],
       "variable_name": ["streamflow_hourly_inst"]}}
print(warehouse.write("{TABLE}", pa.table(row)))""",
)


def keys(number: int, by: str) -> list[str]:
    """So many partitions, the first of 2023 first."""
    return [f"{START + i * STEPS[by]:{FORMATS[by]}}" for i in range(number)]


def home(
    folder: Path, settings: Settings, number: int, by: str, concurrency: int = 2, attempts: int = 3
) -> Settings:
    """The settings with a home in this folder that has the pipeline, with so many partitions."""
    place = folder / "pipelines" / NAME
    place.mkdir(parents=True)
    first, *_, last = keys(number, by)
    about = {"by": by, "first": first, "last": last, "concurrency": concurrency}
    (place / "pipeline.yaml").write_text(YAML.format(**about, attempts=attempts))
    parameters = nbformat.v4.new_code_cell('time = ""', metadata={"tags": ["parameters"]})
    cells = [parameters, *map(nbformat.v4.new_code_cell, CELLS)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, place / "notebook.ipynb")
    return replace(settings, home=folder)


@contextlib.contextmanager
def served(number: int, by: str, concurrency: int = 2) -> Iterator[tuple[stores.Server, Settings]]:
    """A store that runs, and, in the environment, a home with the pipeline: both are gone after."""
    with stores.server() as server, tempfile.TemporaryDirectory(prefix="thalweg-bench-") as folder:
        settings = home(Path(folder, "home"), server.settings, number, by, concurrency)
        os.environ["THALWEG_HOME"] = str(settings.home)
        yield server, settings


def backfill(keys: list[str]) -> list[str]:
    """What is said to `thalweg` to run these partitions."""
    return ["backfill", NAME, f"{keys[0]}..{keys[-1]}"]


def papermill(settings: Settings, output: str, time: str) -> None:
    """Execute the notebook for a time by Papermill's own command."""
    notebook = settings.home / "pipelines" / NAME / "notebook.ipynb"
    command = [sys.executable, "-m", "papermill", str(notebook), output, "-p", "time", time]
    subprocess.run(command, check=True, capture_output=True)


def expected(number: int, by: str) -> dict[dt.datetime, float]:
    """Times and values of the rows that so many partitions write."""
    times = [START + i * STEPS[by] for i in range(number)]
    return {time: time.timestamp() / 3600 for time in times}


def rows() -> list[tuple[dt.datetime, float]]:
    """Times and values of the rows that the table has."""
    table: pa.Table = warehouse.read(TABLE, ["value_time", "value"])
    return list(zip(table["value_time"].to_pylist(), table["value"].to_pylist(), strict=True))
