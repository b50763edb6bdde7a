"""`thalweg evaluate` and `thalweg metrics`: on the tables of a real warehouse."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import re

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from thalweg import database, metrics, warehouse
from thalweg.cli import app
from thalweg.cli.metrics import _columns, _metrics
from thalweg.errors import InvalidInput, NotFound
from thalweg.settings import Settings

TIME = pa.timestamp("us", "UTC")
START = dt.datetime(1999, 5, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def rows(location: str, values: list[float], configuration: str, **columns: pa.Array) -> pa.Table:
    n = len(values)
    same = {
        "value_time": pa.array([START + i * HOUR for i in range(n)], TIME),
        "value": pa.array(values, pa.float64()),
        "unit_name": pa.array(["m^3/s"] * n),
        "location_id": pa.array([location] * n),
        "configuration_name": pa.array([configuration] * n),
        "variable_name": pa.array(["streamflow_hourly_inst"] * n),
    }
    return pa.table(same | columns)


@pytest.fixture
def filled(store: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two gauges observed for 30 hours, each with a forecast that is 1 m3/s too high."""
    monkeypatch.setenv("COLUMNS", "160")
    database.migrate()
    warehouse.migrate()
    observed = [float(1 + i % 7) for i in range(30)]
    for name in ("a", "b"):
        warehouse.write("primary_timeseries", rows(f"usgs-{name}", observed, "usgs_observations"))
        forecast = rows(
            f"nwm-{name}", [value + 1 for value in observed], f"forecast_{name}",
            reference_time=pa.array([START] * 30, TIME),
        )  # fmt: skip
        warehouse.write("secondary_timeseries", forecast)
    links = {
        "primary_location_id": ["usgs-a", "usgs-b"],
        "secondary_location_id": ["nwm-a", "nwm-b"],
    }
    warehouse.write("location_crosswalks", pa.table(links))
    known = {"name": ["ecoregion"], "type": ["categorical"], "description": ["where it lies"]}
    warehouse.write("attributes", pa.table(known))
    attributes = pa.table(
        {"location_id": ["usgs-a", "usgs-b"], "attribute_name": ["ecoregion", "ecoregion"],
         "value": ["hills", "plain"]}
    )  # fmt: skip
    warehouse.write("location_attributes", attributes)


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.usefixtures("filled")
def test_evaluate() -> None:
    text = call("evaluate")
    same, head, first, second, hint = text.splitlines()
    assert same == "variable_name streamflow_hourly_inst, unit_name m^3/s"
    assert head.split() == [
        "primary_location_id", "configuration_name", "count", *metrics.DEFAULT,
    ]  # fmt: skip
    assert first.split()[:3] == ["usgs-a", "forecast_a", "30"]
    assert first.split()[head.split().index("rmse")] == "1"
    assert second.startswith("usgs-b ")
    assert hint == "What it means: thalweg metrics kge; all digits: --csv or --json"

    (row,) = json.loads(call("evaluate", "-m", "mean_error", "-c", "forecast_b", "--json"))
    assert (row["primary_location_id"], row["count"], row["mean_error"]) == ("usgs-b", 30, 1.0)
    (row,) = json.loads(call("evaluate", "-m", "mean_error", "--location", "usgs-a", "--json"))
    assert (row["primary_location_id"], row["lead_time_bin"]) == ("usgs-a", None)
    binned = call("evaluate", "-m", "rmse", "-l", "usgs-a", "--lead-time-bin", "24", "--csv")
    counts = [line["count"] for line in csv.DictReader(io.StringIO(binned))]
    assert counts == ["30", "24", "6"]
    lines = call("evaluate", "-m", "rmse", "-l", "usgs-a", "--lead-time-bin", "24").splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["lead_time_bin", "all", "0", "24"]

    few = call("evaluate", "-m", "mean_error", "--where", "primary_value > 6 -- the top", "--json")
    assert [each["count"] for each in json.loads(few)] == [4, 4]
    pooled = json.loads(call("evaluate", "-m", "mean_error", "-b", "ecoregion", "--json"))
    assert [each["ecoregion"] for each in pooled] == ["hills", "plain"]
    (hills,) = json.loads(call("evaluate", "--where", "ecoregion = 'hills'", "--json"))
    assert hills["primary_location_id"] == "usgs-a"
    arguments = ("evaluate", "-m", "mean_error", "-l", "usgs-a", "--transform", "power")
    (row,) = json.loads(call(*arguments, "--exponent", "2", "--epsilon", "1", "--json"))
    observed = [2 + i % 7 for i in range(30)]  # (o + 2)^2 - (o + 1)^2
    assert row["mean_error"] == pytest.approx(sum(2 * o + 1 for o in observed) / 30)
    events = json.loads(
        call("evaluate", "-m", "probability_of_false_detection", "-t", "high=7", "-t", "low=1",
             "-l", "usgs-a", "--json")
    )  # fmt: skip
    assert [(e["threshold"], e["probability_of_false_detection"]) for e in events] == [
        ("high", pytest.approx(4 / 26)),
        ("low", None),
    ]


@pytest.mark.usefixtures("filled")
def test_evaluate_tells_how_uncertain_it_is() -> None:
    arguments = ["evaluate", "-m", "kge", "-l", "usgs-a", "--bootstrap", "circular",
                 "--replicates", "20", "--block", "7", "--seed", "3"]  # fmt: skip
    (row,) = json.loads(call(*arguments, "--json"))
    assert row["kge_p5"] <= row["kge_p50"] <= row["kge_p95"]
    same, head, line, _ = call(*arguments).splitlines()
    assert "primary_location_id usgs-a, configuration_name forecast_a" in same
    assert re.split("  +", head.strip()) == ["count", "kge", "0.05 to 0.95"]
    assert re.split("  +", line.strip())[2] == f"{row['kge_p5']:.4g} to {row['kge_p95']:.4g}"


@pytest.mark.usefixtures("filled")
def test_evaluate_against_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["evaluate", "-m", "mean_absolute_error", "--reference", "persistence"]
    rows = json.loads(call(*arguments, "--json"))
    name = "mean_absolute_error"
    for row in rows:
        skill = 1 - row[name] / row[f"{name}_reference"]
        assert row[f"{name}_skill"] == pytest.approx(skill)
    monkeypatch.setenv("COLUMNS", "200")
    _, head, *lines, _ = call(*arguments).splitlines()
    assert head.split()[-3:] == [name, f"{name}_reference", f"{name}_skill"]
    assert len(lines) == len(rows) > 0
    monkeypatch.setenv("COLUMNS", "80")
    _, _, *lines, _ = call(*arguments, "--bootstrap", "circular", "--block", "2",
                           "--replicates", "5").splitlines()  # fmt: skip
    assert [line.split()[-1] for line in lines] == ["m^3/s", "m^3/s", "1"] * len(rows)


@pytest.mark.usefixtures("filled")
def test_a_name_of_teehr_is_taken() -> None:
    (row, _) = json.loads(call("evaluate", "-m", "kling_gupta_efficiency", "--json"))
    assert "kge" in row
    assert call("metrics", "kling_gupta_efficiency").startswith("kge: ")
    assert len(json.loads(call("evaluate", "--primary-configuration", "usgs", "--json"))) == 0


@pytest.mark.usefixtures("filled")
def test_metrics_stand_below_each_other_where_the_screen_is_narrow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    chosen = [name for name, m in metrics.METRICS.items() if m.kind == "deterministic"]
    arguments = [word for name in chosen for word in ("-m", name)]
    text = call("evaluate", "-l", "usgs-a", *arguments)
    _, head, *lines, _ = text.splitlines()
    assert head.split() == ["count", "metric", "value", "in"]
    assert len(lines) == len(chosen)
    assert any(line.split() == ["30", "mean_error", "1", "m^3/s"] for line in lines)
    assert max(map(len, lines)) <= 80
    text = call("evaluate", "-l", "usgs-a", *arguments, "--transform", "log")
    units = {line.split()[1]: line.split()[-1] for line in text.splitlines()[2:-1]}
    assert (units["mean_error"], units["kge"]) == ("log(m^3/s)", "1")


@pytest.mark.usefixtures("filled")
def test_evaluate_says_what_is_wrong() -> None:
    assert "No pairs. What there is: thalweg sql" in call("evaluate", "-c", "forecast_c")
    assert "No pairs" in call("evaluate", "-l", "usgs-c")
    for arguments, error, says in (
        (["-m", "kgee"], NotFound, "unknown metric 'kgee'; did you mean 'kge'"),
        (["-b", "saeson"], NotFound, "did you mean 'season'"),
        (["-m", "accuracy"], InvalidInput, "need thresholds"),
        (["-t", "high"], InvalidInput, "NAME=VALUE"),
        (["-t", "high=much"], InvalidInput, "expected a value in the unit"),
        (["--where", "valeu > 1"], InvalidInput, "cannot choose pairs where"),
        (["--where", "true) OR (true"], InvalidInput, "cannot choose pairs where"),
        (["--bootstrap", "gumboot", "--block", "3"], InvalidInput, "whole water years"),
        (["--transform", "power"], InvalidInput, "power needs an exponent"),
        (["--exponent", "2"], InvalidInput, "name it by --transform"),
    ):
        with pytest.raises(error, match=says):
            CliRunner().invoke(app, ["evaluate", *arguments], catch_exceptions=False)


def test_metrics_are_explained() -> None:
    for name, metric in metrics.METRICS.items():
        text = call("metrics", name)
        assert text.startswith(f"{name}: {metric.title}\n")
        assert metric.doi in text
        assert f"thalweg evaluate -m {name}" in text
    about = json.loads(call("metrics", "--json"))
    assert [each["name"] for each in about] == list(metrics.METRICS)
    assert json.loads(call("metrics", "brier_score", "--json"))["needs"] == [
        "thresholds",
        "members",
    ]
    assert {
        each["kind"] for each in json.loads(call("metrics", "--kind", "signature", "--json"))
    } == {"signature"}
    with pytest.raises(NotFound, match="did you mean 'kge"):
        CliRunner().invoke(app, ["metrics", "kgee"], catch_exceptions=False)


def test_names_are_completed() -> None:
    assert ("kge", metrics.METRICS["kge"].title) in _metrics("kg")
    assert {name for name, _ in _columns("sea")} == {"season"}
