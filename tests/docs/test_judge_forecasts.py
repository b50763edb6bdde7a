"""The page "Judge forecasts" does what it says: its commands and code are run on real series."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from thalweg import database, warehouse
from thalweg.cli import app
from thalweg.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "judge-forecasts.md"


@pytest.fixture
def helene(store: Settings, shared_data: Path) -> None:
    """Hurricane Helene at Radford, Virginia: observed, and forecast four times."""
    database.migrate()
    warehouse.migrate()
    folder = shared_data / "usgs_nwm_hefs_examples" / "fetch_nwm_streamflow"
    for name, file in (
        ("primary_timeseries", "usgs_timeseries"),
        ("secondary_timeseries", "nwm_forecasts"),
        ("location_crosswalks", "location_crosswalks"),
    ):
        rows = pq.read_table(folder / f"{file}.parquet")
        rows = rows.cast(pa.schema([_column(field) for field in rows.schema]))
        rows = rows.drop("reference_time") if name == "primary_timeseries" else rows
        warehouse.write(name, rows)


def _column(field: pa.Field) -> pa.Field:
    """Times are in UTC there, and members numbers."""
    if pa.types.is_timestamp(field.type):
        return field.with_type(pa.timestamp("us", "UTC"))
    return field.with_type(pa.string()) if field.name == "member" else field


@pytest.mark.usefixtures("helene")
def test_the_page_judges_forecasts() -> None:
    text = PAGE.read_text()
    commands = re.findall(r"^\$ thalweg (.*)$", text, re.M)
    assert len(commands) > 6
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
        assert done.exit_code == 0, command
        assert done.stdout.strip(), command
        assert "No pairs" not in done.stdout, command
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102
    assert names["mine"]["mean_error"].to_pylist() == [10.0]
    (row,) = names["sure"].to_pylist()
    assert row["nse_p5"] < row["nse"] < row["nse_p95"]
    metrics = names["metrics"]
    by_warehouse = metrics.evaluate(
        secondary=names["model"], crosswalk=names["links"], metrics=["kge"]
    )
    assert by_warehouse["count"].to_pylist() == [48]
