"""What a pipeline.yaml may say, and what is said when it is wrong."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from dagster._utils.schedules import is_valid_cron_schedule
from hypothesis import given
from hypothesis import strategies as st

from thalweg import settings as settings_module
from thalweg.errors import InvalidInput, NotFound
from thalweg.pipelines import specification
from thalweg.pipelines.specification import Parameter

GOOD = """\
title: Gauge heights
owner: stewards
description: Counts gauges.
parameters:
  gages:
    type: list
    description: gauges
    default: ["01013500"]
    pattern: "[0-9]{8,15}"
  days:
    type: integer
    description: how many days
    default: 2
    minimum: 1
    maximum: 31
schedule:
  cron: "15 * * * *"
  timezone: Europe/Berlin
needs: []
retries: {attempts: 2, delay: 5}
timeout: 60
"""


def write(home: Path, text: str = GOOD, cell: str = "gages = []\ndays = 1", name: str = "count"):
    folder = home / "pipelines" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pipeline.yaml").write_text(text)
    tagged = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": [cell]}
    notebook = {"cells": [tagged], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "notebook.ipynb").write_text(json.dumps(notebook))
    return folder


def parameter(type: str, **more: Any) -> Parameter:
    return Parameter.model_validate({"type": type, "description": "…"} | more)


def test_a_good_one_is_read(tmp_path: Path) -> None:
    pipeline = specification.load(write(tmp_path))
    assert (pipeline.name, pipeline.timeout, pipeline.retries.attempts) == ("count", 60, 2)
    assert pipeline.retries.backoff == "exponential"
    assert pipeline.values() == {"gages": ["01013500"], "days": 2}
    assert pipeline.values({"gages": "01013500,14316700", "days": "3"}) == {
        "gages": ["01013500", "14316700"],
        "days": 3,
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "says"),
    [
        ("owner: stewards", "ownr: stewards", 2, "ownr", "did you mean 'owner'?"),
        ("owner: stewards", "", 1, "owner", "Field required"),
        ("type: list", "type: lst", 6, "parameters.gages.type", "'list'"),
        ("minimum: 1\n", "minimun: 1\n", 14, "parameters.days.minimun", "did you mean 'minimum'?"),
        ("default: 2", "default: two", 10, "parameters.days", "expected integer, got 'two'"),
        ("default: 2", "default: 77", 10, "parameters.days", "above the maximum 31"),
        ("default: 2", "default: 010", 13, "", "010 would be read as 8: quote it"),
        ('["01013500"]', "[01013500]", 8, "", "quote it"),
        ('["01013500"]', "[14316700]", 5, "parameters.gages", "expected a list of texts"),
        ('"[0-9]{8,15}"', '"[0-9"', 9, "parameters.gages.pattern", "not a regular expression"),
        ("15 * * * *", "75 * * * *", 17, "schedule.cron", "'75' is not a minute (0-59)"),
        ("15 * * * *", "*/0 * * * *", 17, "schedule.cron", "'*/0' is not a minute"),
        ("15 * * * *", "jan * * * *", 17, "schedule.cron", "'jan' is not a minute"),
        ("15 * * * *", "@hourly", 17, "schedule.cron", "five fields"),
        ("Europe/Berlin", "Europe/Berlni", 18, "schedule.timezone", "did you mean 'Europe/Berlin'"),
        ("attempts: 2", "attempts: -1", 20, "retries.attempts", "greater than or equal to 0"),
        ("timeout: 60", "timeout: 1m", 21, "timeout", "valid integer"),
        ("timeout: 60", "timeout: 60\ntitle: again", 22, "title", "given twice"),
        ("timeout: 60", "timeout: [", 22, "", "not valid YAML"),
        ("timeout: 60", "timeout: 2024-13-45", 1, "", "month must be in 1..12"),
        ("type: list", "minimum: 1\n    type: list", 5, "parameters.gages", "are for integer"),
        ("  days:", "  api_token:", 4, "parameters", "'api_token' looks like a secret"),
    ],
)
def test_an_error_names_file_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, key: str, says: str
) -> None:
    folder = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(InvalidInput) as caught:
        specification.load(folder)
    lines = str(caught.value).splitlines()
    told = [t for t in lines if t.startswith(f"{folder / 'pipeline.yaml'}:{line}: {key}")]
    assert says in "".join(told), lines


def test_the_notebook_must_take_the_declared_parameters(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"assigns \['days', 'gauges'\].*\['days', 'gages'\]"):
        specification.load(write(tmp_path, cell="gauges = []\ndays = 1"))
    folder = write(tmp_path)
    (folder / "notebook.ipynb").write_text('{"cells": []}')
    with pytest.raises(InvalidInput, match="one cell tagged `parameters`, found 0"):
        specification.load(folder)
    for content in ("", "[]", '{"cells": [{}]}'):
        (folder / "notebook.ipynb").write_text(content)
        with pytest.raises(InvalidInput, match="expected a notebook"):
            specification.load(folder)
    with pytest.raises(InvalidInput, match="the parameters cell is not Python"):
        specification.load(write(tmp_path / "other", cell="days = = 1"))
    (folder / "notebook.ipynb").unlink()
    with pytest.raises(InvalidInput, match="expected a notebook"):
        specification.load(folder)


def test_order_of_flow_unknown_needs_and_circles(tmp_path: Path) -> None:
    settings = settings_module.load({}, home=tmp_path)
    write(tmp_path, GOOD.replace("needs: []", "needs: [zero]"), name="alpha")
    with pytest.raises(InvalidInput, match="unknown pipeline 'zero'"):
        specification.all(settings)
    write(tmp_path, name="zero")
    assert list(specification.all(settings)) == ["zero", "alpha"]
    write(tmp_path, GOOD.replace("needs: []", "needs: [alpha]"), name="zero")
    with pytest.raises(InvalidInput, match="circle"):
        specification.all(settings)
    with pytest.raises(NotFound, match="did you mean 'alpha'"):
        specification.get("alhpa", settings)


def test_unknown_missing_and_wrong_values_are_refused(tmp_path: Path) -> None:
    required = GOOD.replace("    default: 2\n", "")
    pipeline = specification.load(write(tmp_path, required))
    with pytest.raises(InvalidInput, match=r"needs the parameter 'days'.*-p days="):
        pipeline.values()
    with pytest.raises(InvalidInput, match="no parameter 'dayz'; did you mean 'days'"):
        pipeline.values({"dayz": "3"})
    with pytest.raises(InvalidInput, match="'days': expected a whole number, got 'three'"):
        pipeline.values({"days": "three"})
    with pytest.raises(InvalidInput, match="'days': 0 is below the minimum 1"):
        pipeline.values({"days": "0"})
    with pytest.raises(InvalidInput, match="'gages': 'abc' does not match the pattern"):
        pipeline.values({"gages": "01013500,abc", "days": 1})


@given(st.from_regex(r"0[0-7]{7}", fullmatch=True))
def test_an_identifier_stays_a_string(gage: str) -> None:
    assert parameter("string").convert(gage) == gage
    assert parameter("list").convert(f"{gage},{gage}") == [gage, gage]
    assert parameter("list").convert(json.dumps([gage])) == [gage]
    with pytest.raises(ValueError, match="expected text"):
        parameter("string").convert(int(gage))


@pytest.mark.parametrize(
    ("type", "text", "value"),
    [
        ("integer", "7", 7),
        ("number", "7.5", 7.5),
        ("boolean", "No", False),
        ("boolean", True, True),
        ("date", "2024-09-26", "2024-09-26"),
        ("date", dt.date(2024, 9, 26), "2024-09-26"),
        ("date", "2024-09-26T13:00", "2024-09-26T13:00:00+00:00"),
        ("date", "2024-09-26T13:00+02:00", "2024-09-26T11:00:00+00:00"),
        ("list", "", []),
    ],
)
def test_conversion(type: str, text: Any, value: Any) -> None:
    assert parameter(type).convert(text) == value


@pytest.mark.parametrize(
    ("type", "text"),
    [
        ("integer", "7.5"),
        ("integer", True),
        ("number", "7,5"),
        ("boolean", "maybe"),
        ("date", "26.9.2024"),
        ("date", "now+1d"),
        ("date", "now-99999999d"),
        ("list", "[1, 2]"),
        ("list", 7),
        ("string", None),
    ],
)
def test_refusal(type: str, text: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        parameter(type).convert(text)


@pytest.mark.parametrize("cron", ["*/15 * * * *", "0,30 6-18/2 1 jan-MAR 1-5", "05 22-4 * * sun,7"])
def test_crons_that_dagster_takes(cron: str) -> None:
    assert specification.Schedule(cron=cron).cron == cron
    assert is_valid_cron_schedule(cron)


def test_relative_times_become_absolute() -> None:
    time = dt.datetime.fromisoformat(parameter("date", default="now-2d").convert("now-2d"))
    age = dt.datetime.now(dt.UTC) - time
    assert dt.timedelta(days=2) <= age < dt.timedelta(days=2, hours=1, seconds=5)
    assert (time.minute, time.second, time.microsecond) == (0, 0, 0)


def test_none_is_a_value_only_where_it_is_the_default() -> None:
    assert parameter("date", default=None).convert(None) is None
    with pytest.raises(ValueError, match="expected a date"):
        parameter("date").convert(None)
