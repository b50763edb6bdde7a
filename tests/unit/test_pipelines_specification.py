"""What a pipeline.yaml may say, and what is said when it is wrong."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from dagster._utils.schedules import is_valid_cron_schedule
from hypothesis import example, given
from hypothesis import strategies as st

from thalweg import settings as settings_module
from thalweg.errors import InvalidInput, NotFound
from thalweg.pipelines import specification
from thalweg.pipelines.partitions import FORMATS, Partitions
from thalweg.pipelines.specification import Parameter

SCHEDULE = 'schedule:\n  cron: "15 * * * *"\n  timezone: Europe/Berlin\n'
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
        (
            "default: 2",
            "default: two",
            13,
            "parameters.days.default",
            "expected integer, got 'two'",
        ),
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
        ("timeout: 60", "timeout: 60\nfreshness: 2 days", 22, "freshness", "such as 90m, 6h or 2d"),
        ("timeout: 60", "timeout: 60\noverlap: wait", 22, "overlap", "'skip', 'queue' or 'allow'"),
        ("timeout: 60", "timeout: 60\nconcurrency: 0", 22, "concurrency", "or equal to 1"),
        ("timeout: 60", "resources: {profil: dask}", 21, "resources.profil", "mean 'profile'"),
        ("    default: 2\n", "", 10, "parameters.days", "by a schedule: give it a default"),
        ("Berlin", "Berlin\n  runs: partitions", 19, "schedule.runs", "there are no partitions"),
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


def test_who_is_told(tmp_path: Path) -> None:
    both = "notify:\n  - webhook: SLACK\n  - {email: a@b.org, on: [dead_letter]}\n"
    webhook, email = specification.load(write(tmp_path, GOOD + both)).notify
    assert (webhook.webhook, webhook.on) == ("SLACK", ["dead_letter", "late"])
    assert (email.email, email.on) == ("a@b.org", ["dead_letter"])
    for wrong, key, says in (
        ("webhook: https://hooks.example.org/x", ".webhook", "so it is a secret"),
        ("email: nobody", ".email", "expected one address (name@example.org), got 'nobody'"),
        ("{email: a@b.org, webhook: SLACK}", "", "either webhook or email"),
        ("{email: a@b.org, on: []}", ".on", "at least 1 item"),
    ):
        folder = write(tmp_path, f"{GOOD}notify:\n  - webhook: SLACK\n  - {wrong}\n")
        with pytest.raises(InvalidInput) as caught:
            specification.load(folder)
        assert f"{folder / 'pipeline.yaml'}:24: notify.1{key}: " in str(caught.value)
        assert says in str(caught.value)


# -- partitions ------------------------------------------------------------------------------------

DAILY = "partitions: {by: daily, start: 2024-09-25, parameters: {days: '1'}}\n"


def partitions(**given: Any) -> Partitions:
    return Partitions.model_validate(given)


@pytest.mark.parametrize(
    ("given", "key", "says"),
    [
        ("{by: weekly, start: 2024-09-25}", "by", "'hourly', 'daily', 'monthly' or 'key'"),
        ("{by: daily}", "start", "by: daily needs it (2024-09-26)"),
        ("{by: daily, start: 2024-09}", "", "expected a key such as 2024-09-26, got '2024-09'"),
        ("{by: monthly, start: 2024-09-25}", "", "such as 2024-09, got '2024-09-25'"),
        ("{by: daily, start: 2024-09-25, end: 2024-09-24}", "end", "2024-09-24 is before start"),
        ("{by: hourly, start: 2024-09-25T00, timezone: Europe/Berlin}", "timezone", "in UTC"),
        ("{by: daily, start: 2024-09-25, timezone: Berlin}", "timezone", "'Europe/Berlin'"),
        ("{by: key, keys: []}", "keys", "needs some"),
        ("{by: key, keys: [a, a]}", "keys", "each of them once"),
        ("{by: key, keys: [a..b]}", "keys", "got 'a..b'"),
        ("{by: key, keys: [a], start: 2024-09-25}", "by", "start, end and timezone are not"),
        ("{by: daily, start: 2024-09-25, keys: [a]}", "keys", "they are for by: key"),
        ("{by: daily, start: 2024-09-25, parameters: {days: '{stat}'}}", "parameters.days",
         "'{stat}' is not text with {key}, {start}, {end}, {start-2d}"),
        ("{by: key, keys: [a], parameters: {gages: '{start}'}}", "parameters.gages", "{key} only"),
        ("{by: daily, start: 2024-09-25, parameters: {day: '{key}'}}", "parameters.day",
         "no such parameter; did you mean 'days'"),
        ("{by: daily, start: 2024-09-25, parameters: {days: '{key}'}}", "parameters.days",
         "expected a whole number, got '2024-09-25'"),
        ("{by: daily, start: 2024-09-25, backfill: {order: up}}", "backfill.order", "'oldest_"),
    ],
)  # fmt: skip
def test_wrong_partitions(tmp_path: Path, given: str, key: str, says: str) -> None:
    folder = write(tmp_path, f"{GOOD}partitions: {given}\n")
    with pytest.raises(InvalidInput) as caught:
        specification.load(folder)
    where = ".".join(filter(None, ["partitions", key]))
    assert f"{folder / 'pipeline.yaml'}:22: {where}: " in str(caught.value)
    assert says in str(caught.value)


def test_a_partition_gives_parameters(tmp_path: Path) -> None:
    pipeline = specification.load(write(tmp_path, GOOD + DAILY))
    assert pipeline.values({"gages": "14316700"}, "2024-09-26") == {
        "gages": ["14316700"],
        "days": 1,
    }
    assert pipeline.values()["days"] == 2
    with pytest.raises(InvalidInput, match="partition 2024-09-26 gives 'days' already"):
        pipeline.values({"days": 3}, "2024-09-26")
    with pytest.raises(InvalidInput, match="'count': no partition '2024-09-24': they go from 2024"):
        pipeline.values(partition="2024-09-24")
    with pytest.raises(InvalidInput, match="such as 2024-09-26, got 'yesterday'"):
        pipeline.values(partition="yesterday")
    assert pipeline.partition_keys("2024-09-30", "2024-10-02") == [
        "2024-09-30", "2024-10-01", "2024-10-02",
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="'2024-09-30' comes before '2024-10-02'"):
        pipeline.partition_keys("2024-10-02", "2024-09-30")
    with pytest.raises(InvalidInput, match="'count': it has no partitions"):
        specification.load(write(tmp_path)).values(partition="2024-09-26")


def test_one_of_time_is_there_once_it_has_ended() -> None:
    hours = partitions(by="hourly", start="2024-09-26T13")
    at = dt.datetime(2024, 9, 26, 15, tzinfo=dt.UTC)
    assert hours.between(now=at) == ["2024-09-26T13", "2024-09-26T14"]
    assert hours.between(now=at - dt.timedelta(seconds=1)) == ["2024-09-26T13"]
    assert hours.due(None, at) == ["2024-09-26T14"]
    assert hours.due("2024-09-26T13", at + dt.timedelta(hours=2)) == [
        "2024-09-26T14", "2024-09-26T15", "2024-09-26T16",
    ]  # fmt: skip
    assert hours.between(now=dt.datetime(2024, 9, 26, 12, tzinfo=dt.UTC)) == []
    closed = partitions(by="monthly", start="2023-11", end="2024-02")
    assert closed.between() == ["2023-11", "2023-12", "2024-01", "2024-02"]
    berlin = partitions(by="daily", start="2024-09-26", timezone="Europe/Berlin")
    assert berlin.between(now=dt.datetime(2024, 9, 26, 22, tzinfo=dt.UTC)) == ["2024-09-26"]


def test_what_a_partition_gives_may_be_moved() -> None:
    given = {"start": "{start-2d}", "end": "{end+6h}", "file": "s3://x/{key}.nc"}
    days = partitions(by="daily", start="2024-09-25", timezone="Europe/Berlin", parameters=given)
    assert days.fill("2024-09-26") == {
        "start": "2024-09-23T22:00:00+00:00",
        "end": "2024-09-27T04:00:00+00:00",
        "file": "s3://x/2024-09-26.nc",
    }
    gauges = partitions(by="key", keys=["01013500", "14316700"], parameters={"gage": "{key}"})
    assert gauges.fill("01013500") == {"gage": "01013500"}
    assert gauges.between("14316700") == ["14316700"]
    with pytest.raises(InvalidInput, match="no partition '1013500'; did you mean '01013500'"):
        gauges.between("1013500")


@given(
    st.sampled_from(["hourly", "daily", "monthly"]),
    st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "Africa/Cairo"]),
    st.dates(dt.date(1990, 1, 1), dt.date(2025, 1, 1)),
)
@example("monthly", "Africa/Cairo", dt.date(2014, 2, 9))  # whose August had no midnight
def test_partitions_follow_each_other_without_gap_or_overlap(
    by: str, timezone: str, begin: dt.date
) -> None:
    zone = "UTC" if by == "hourly" else timezone
    start = begin.strftime(FORMATS[by])
    made = partitions(by=by, start=start, timezone=zone)
    later = made.window(start)[0] + dt.timedelta(days=400 if by == "monthly" else 12)
    keys = made.between(now=later)
    windows = [made.window(key) for key in keys]
    assert keys == sorted(set(keys))
    assert all(a[1] == b[0] for a, b in itertools.pairwise(windows))
    assert all(first < last for first, last in windows)
    assert made.between(keys[3], keys[5]) == keys[3:6]
    assert made.within(windows[3][0], windows[5][1]) == keys[3:6]


def test_a_day_on_which_clocks_change() -> None:
    days = partitions(by="daily", start="2024-03-30", timezone="Europe/Berlin")
    hours = {
        key: (last - first) / dt.timedelta(hours=1)
        for key in ("2024-03-30", "2024-03-31", "2024-10-27")
        for first, last in [days.window(key)]
    }
    assert hours == {"2024-03-30": 24, "2024-03-31": 23, "2024-10-27": 25}


# -- the notebook, the order, values ---------------------------------------------------------------


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
    """What is broken is left out and says why; the others stay."""
    settings = settings_module.load({}, home=tmp_path)

    def needs(name: str, need: str) -> None:
        write(tmp_path, GOOD.replace("needs: []", f"needs: [{need}]"), name=name)

    def found() -> tuple[list[str], dict[str, str]]:
        return list(specification.all(settings)), specification.broken(settings)

    needs("alpha", "zero")
    good, wrong = found()
    assert good == []
    assert "alpha/pipeline.yaml: needs: no pipeline or table 'zero'" in wrong["alpha"]
    write(tmp_path, name="zero")
    assert found() == (["zero", "alpha"], {})
    needs("tables", "metrics")
    assert set(specification.all(settings)) == {"zero", "alpha", "tables"}
    needs("zero", "alpha")
    needs("last", "zero")
    needs("alone", "alone")
    good, wrong = found()
    assert (set(good), set(wrong)) == ({"tables", "last"}, {"zero", "alpha", "alone"})
    assert re.search(
        "these need each other: (zero → alpha → zero|alpha → zero → alpha)", wrong["zero"]
    )
    for broken in (
        "",
        "- a list",
        "1: 2",
        "title: [",
        "\tx",
        "&a [*a]",
        "a: !!python/x",
        "{a: {b: ",
    ):
        (tmp_path / "pipelines" / "zero" / "pipeline.yaml").write_text(broken)
        good, wrong = found()
        assert (set(good), set(wrong)) == ({"tables", "last", "alpha"}, {"zero", "alone"})
        assert "zero/pipeline.yaml:1: " in wrong["zero"]
    with pytest.raises(NotFound, match="did you mean 'alpha'"):
        specification.get("alhpa", settings)


def test_unknown_missing_and_wrong_values_are_refused(tmp_path: Path) -> None:
    required = GOOD.replace("    default: 2\n", "").replace(SCHEDULE, "")
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


@pytest.mark.parametrize(
    "value",
    [
        "https://ada:pa55@example.org/f.csv",
        "s3://b/f?X-Amz-Signature=0a1b",
        "AKIAIOSFODNN7EXAMPLE",
        "x ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_a_value_that_lets_in_is_no_parameter_and_is_not_told(value: str) -> None:
    for type in ("string", "list"):
        with pytest.raises(ValueError, match="looks like a secret") as refused:
            parameter(type, pattern="x").convert([value] if type == "list" else value)
        assert value not in str(refused.value)
    with pytest.raises(ValueError, match="looks like a secret"):
        parameter("string", default=value)
    assert parameter("string").convert("https://example.org/f?site=1") != value


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


def test_the_schema_for_editors_is_that_of_the_models(tmp_path: Path) -> None:
    schema = json.loads(specification.schema())
    kept = Path(__file__).resolve().parents[2] / "pipelines" / "pipeline.schema.json"
    assert kept.read_text() == specification.schema(), "thalweg pipeline schema > " + str(kept)
    assert set(schema["required"]) == {"title", "owner", "description"}
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Partitions"]["properties"]["by"]["enum"] == [
        "hourly", "daily", "monthly", "key",
    ]  # fmt: skip
    described = [
        (name, key)
        for name, model in {"Pipeline": schema, **schema["$defs"]}.items()
        for key, each in model["properties"].items()
        if "description" not in each and "$ref" not in each
    ]
    assert described == [("Parameter", "type")]
