"""Notebooks that people schedule: what is kept, who may do what, when they run, and as whom."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import nbformat
import pytest
from typer.testing import CliRunner

import thalweg
from thalweg import accounts, database, record, storage
from thalweg.accounts import Account
from thalweg.cli import app
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.pipelines import (
    execute,
    history,
    inspection,
    notify,
    people,
    personal,
    specification,
    supervise,
)
from thalweg.pipelines import run as runner
from thalweg.pipelines.definitions import definitions
from thalweg.pipelines.parts import Schedule
from thalweg.pipelines.personal import Person
from thalweg.pipelines.run import RunFailed, run
from thalweg.settings import Settings

ADA, BOB, ROOT = Person("ada"), Person("bob"), Person("admin", is_admin=True)
DAILY = {"cron": "15 6 * * *", "timezone": "Europe/Berlin"}
CELL = 'days: int = 7  # how far back\nsite = "01013500"\nstart = "now-2d"\n'
MINUTE = dt.timedelta(minutes=1)


def notebook(*code: str, parameters: str = "") -> dict[str, Any]:
    """A notebook with outputs, as Jupyter saves one."""
    cells = [nbformat.v4.new_code_cell(each) for each in code]
    if parameters:
        tags = {"tags": ["parameters"]}
        cells.insert(0, nbformat.v4.new_code_cell(parameters, metadata=tags))
    for cell in cells:
        cell["outputs"] = [nbformat.v4.new_output("stream", text="said before")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return json.loads(json.dumps(nbformat.v4.new_notebook(cells=cells, metadata=kernel)))


@pytest.fixture
def home(store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home without pipelines and a database of its own, beside the running store."""
    settings = replace(store, home=tmp_path, data_dir=tmp_path / "data", database_url="")
    for name in ("home", "data_dir", "database_url"):
        monkeypatch.setenv(f"THALWEG_{name.upper()}", str(getattr(settings, name)))
    settings.data_dir.mkdir()
    database.migrate(settings)
    return settings


@pytest.fixture
def saved(home: Settings) -> Callable[..., dict[str, Any]]:
    """Schedules a notebook of Ada's, or of somebody else."""

    def save(name: str = "report", by: Person = ADA, **more: Any) -> dict[str, Any]:
        wanted = {"notebook": notebook("print(1)", parameters=CELL), **DAILY, **more}
        return personal.answer(by, "save", {"name": name, **wanted}, home)

    return save


# -- what is kept ----------------------------------------------------------------------------------


def test_what_is_scheduled_is_a_pipeline_like_any_other(
    home: Settings, saved: Callable[..., Any]
) -> None:
    told = saved(parameters={"days": "30"}, time_limit="90m", notify=["ada@example.org"])
    pipeline = specification.get("ada/report", home)
    assert isinstance(pipeline, specification.Pipeline)
    assert (pipeline.person, pipeline.owner, pipeline.timeout) == ("ada", "ada", 5400)
    assert pipeline.schedule == Schedule(**DAILY)
    assert {name: p.type for name, p in pipeline.parameters.items()} == {
        "days": "integer", "site": "string", "start": "date",
    }  # fmt: skip
    assert pipeline.parameters["days"].description == "how far back"
    assert pipeline.retries.attempts == 3
    values = pipeline.values()
    assert (values["days"], values["site"]) == (30, "01013500")
    assert values["start"].startswith(str(dt.datetime.now(dt.UTC).year))  # of each run anew
    assert told["parameters"] == {"days": 30, "site": "01013500", "start": "now-2d"}
    assert "said before" not in str(personal.notebook("ada/report", home))
    assert "ada/report" not in specification.all(home)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cron": "61 * * * *"}, "cron: '61' is not a minute"),
        ({"cron": "@daily"}, "cron: expected five fields"),
        ({"timezone": "Europe/Berlim"}, "timezone: unknown time zone.*Europe/Berlin"),
        ({"parameters": {"dais": 3}}, "no 'dais'; did you mean 'days'"),
        ({"parameters": {"days": "many"}}, "'days': expected a whole number, got 'many'"),
        ({"time_limit": "soon"}, "time_limit: expected a duration"),
        ({"time_limit": 0}, "time_limit: .*greater than or equal to 1"),
        ({"freshness": "often"}, "freshness: expected a duration"),
        ({"notify": ["https://x.example/hook"]}, "expected one address"),
        ({"name": "My report"}, "lower_case_with_underscores"),
        ({"name": "../bob/x"}, "lower_case_with_underscores"),
        ({"name": "a" * 61}, "60 characters"),
        ({"notebook": {"cells": "none"}}, "expected a notebook as Jupyter saves it"),
        ({"notebook": notebook(parameters="api_token = 'x'")}, "looks like a secret"),
        ({"notebook": notebook(parameters="import os\nx = 1")}, "holds `import os`"),
        ({"notebook": notebook(parameters="x = sites()")}, "'x': expected a number, text"),
        ({"notebook": notebook(parameters="x: str = 7")}, "expected a number, text"),
        ({"owner": "bob"}, "owner: Extra inputs"),
    ],
)
def test_what_cannot_be_scheduled_says_why(
    home: Settings, saved: Callable[..., Any], wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        saved(**wrong)
    assert personal.answer(ROOT, "find", {}, home) == []


def test_types_of_parameters_follow_the_notebook() -> None:
    cell = """
    a: float | None = None
    b = 3  # a number # of days
    c = "x # y"
    d: "list[str]" = [  # names
        "p", "q",
    ]
    e: datetime.date = "2024-09-26"
    f = True
    "text that stands for itself"
    """.replace("\n    ", "\n")
    found = inspection.parameters(inspection.plain(notebook(parameters=cell)))
    assert {name: (each.type, each.default) for name, each in found.items()} == {
        "a": ("number", None), "b": ("integer", 3), "c": ("string", "x # y"),
        "d": ("list", ["p", "q"]), "e": ("date", "2024-09-26"), "f": ("boolean", True),
    }  # fmt: skip
    assert found["b"].description == "a number # of days"


def test_the_copy_stays_as_it_is_until_it_is_scheduled_again(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home.home / "01-My report.ipynb"
    file.write_text(json.dumps(notebook("print('first')")))
    scheduled = thalweg.schedule(file, cron="0 6 * * *")
    assert scheduled.name == f"{personal.this_account().name}/my_report"
    file.write_text(json.dumps(notebook("print('second')")))
    assert "first" in str(personal.notebook(scheduled.name, home))
    thalweg.schedule(file, cron="0 7 * * *")
    assert "second" in str(personal.notebook(scheduled.name, home))
    file.unlink()
    assert "second" in str(personal.notebook(scheduled.name, home))
    (mine,) = thalweg.schedules().values()
    assert mine.cron == "0 7 * * *"
    assert mine.pause().next_at is None
    assert mine.resume().next_at
    mine.remove()
    assert thalweg.schedules() == {}
    with pytest.raises(InvalidInput, match="cannot read"):
        thalweg.schedule(file, cron="0 7 * * *")
    monkeypatch.setenv("THALWEG_RUN_ID", "x")  # whose account may be that of the database
    with pytest.raises(InvalidInput, match="a run cannot"):
        thalweg.schedules()


# -- who may do what -------------------------------------------------------------------------------


def test_a_person_knows_of_their_own_and_an_admin_of_all(
    home: Settings, saved: Callable[..., Any]
) -> None:
    saved()
    saved("table", BOB)

    def seen(by: Person) -> list[str]:
        return [each["name"] for each in personal.answer(by, "find", {}, home)]

    assert (seen(ADA), seen(BOB), seen(ROOT)) == (
        ["ada/report"], ["bob/table"], ["ada/report", "bob/table"],
    )  # fmt: skip
    for verb in ("show", "pause", "resume", "run", "remove"):
        for name in ("ada/report", "report"):
            with pytest.raises(NotFound, match="no schedule"):
                personal.answer(BOB, verb, {"name": name}, home)
    assert personal.answer(ADA, "show", {"name": "report"}, home)["paused_by"] is None
    saved(by=BOB)  # of the same name
    assert "ada/report" in seen(ADA)

    assert personal.answer(ROOT, "pause", {"name": "ada/report"}, home)["paused_by"] == "admin"
    with pytest.raises(InvalidInput, match="paused by admin"):
        personal.answer(ADA, "resume", {"name": "report"}, home)
    assert saved()["paused_by"] == "admin"  # also when it is scheduled again
    assert personal.answer(ROOT, "resume", {"name": "ada/report"}, home)["paused_by"] is None
    personal.answer(ADA, "pause", {"name": "report"}, home)
    assert saved()["paused_by"] is None
    for wrong in ("save", "forget"):
        with pytest.raises(InvalidInput):
            personal.answer(ADA, wrong, {"person": ROOT}, home)
    for name in ("a/b", "..", "", "a b", ".hidden"):
        with pytest.raises(InvalidInput, match="cannot own a schedule"):
            saved(by=Person(name))


# -- when they run ---------------------------------------------------------------------------------


def keys(settings: Settings, since: dt.datetime, until: dt.datetime) -> list[str]:
    return [each.key for each in personal.due(since, until, settings)]


def test_due_is_the_last_time_since(home: Settings, saved: Callable[..., Any]) -> None:
    saved(cron="* * * * *", timezone="UTC")
    now = dt.datetime.now(dt.UTC)
    assert keys(home, now - 60 * MINUTE, now) == []  # what was before it is not made up for
    later = now + 10 * MINUTE  # after an outage, the last one alone
    (key,) = keys(home, now, later)
    assert key == f"ada/report {later.replace(second=0, microsecond=0).isoformat()}"
    assert keys(home, later, later) == []
    personal.answer(ADA, "pause", {"name": "report"}, home)
    assert keys(home, now, later) == []
    personal.answer(ADA, "run", {"name": "report"}, home)
    (asked,) = personal.due(now, later, home)
    assert (asked.trigger, asked.pipeline.name) == ("command", "ada/report")
    personal.answer(ADA, "resume", {"name": "report"}, home)
    assert len(keys(home, now, later)) == 2
    personal.answer(ADA, "remove", {"name": "report"}, home)
    assert keys(home, now, later) == []


@pytest.mark.parametrize("day", [dt.date(2027, 3, 28), dt.date(2027, 10, 31)])
def test_clocks_that_change_lose_and_double_no_run(
    home: Settings, saved: Callable[..., Any], day: dt.date
) -> None:
    saved("nightly", cron="30 2 * * *")
    saved("hourly", cron="15 * * * *")
    zone = ZoneInfo("Europe/Berlin")
    first = dt.datetime.combine(day - dt.timedelta(days=1), dt.time(12), zone)
    last = dt.datetime.combine(day, dt.time(12), zone)
    hours = (last.astimezone(dt.UTC) - first.astimezone(dt.UTC)) // dt.timedelta(hours=1)
    found, since = set(), first.astimezone(dt.UTC)
    for _ in range(2 * hours):  # as the sensor looks, with what it looks at again
        found |= set(keys(home, since - 10 * MINUTE, since + 30 * MINUTE))
        since += 30 * MINUTE
    count = Counter(key.split()[0] for key in found)
    assert count == {"ada/nightly": 1, "ada/hourly": hours}


def test_the_sensor_asks_once_also_after_a_restart(
    home: Settings, saved: Callable[..., Any]
) -> None:
    saved()
    personal.answer(ADA, "run", {"name": "report"}, home)
    with dg.DagsterInstance.ephemeral() as instance:

        def tick(cursor: str | None) -> Any:
            made = definitions(home).get_repository_def()  # as a new scheduler does
            (sensor,) = [s for s in made.sensor_defs if s.name.startswith(personal.POOL)]
            with dg.build_sensor_context(instance, cursor, repository_def=made) as context:
                return sensor.evaluate_tick(context)

        first = tick(None)
        (request,) = first.run_requests
        assert request.run_config["ops"][personal.POOL]["config"] == {
            "name": "ada/report", "trigger": "command",
        }  # fmt: skip
        assert request.tags["thalweg/schedule"] == "ada/report"
        assert request.tags["dagster/max_runtime"].isdigit()
        (again,) = tick(first.cursor).run_requests
        assert again.run_key == request.run_key  # which Dagster launches one time
        job = definitions(home).resolve_job_def("Personal_schedules")
        waits = {"tags": request.tags, "run_config": request.run_config}
        instance.create_run_for_job(job, **waits)
        assert not tick(first.cursor).run_requests


# -- as whom they run ------------------------------------------------------------------------------

LOOK = """
import json, os
print(json.dumps([dict(os.environ), os.getcwd(), days]))
"""


def printed(settings: Settings, uri: str) -> Any:
    cells = json.loads(storage.read(uri))["cells"]
    return json.loads("".join(cells[-1]["outputs"][0]["text"]))


def test_a_run_is_its_owners_and_holds_nothing_of_the_hub(
    home: Settings, saved: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JUPYTERHUB_API_TOKEN", "DAGSTER_POSTGRES_URL", "SLACK", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-hub")
    settings = replace(home, smtp_url="smtp://of-the-hub@127.0.0.1:1")
    folder = home.data_dir / "home" / "ada"
    folder.mkdir(parents=True)
    saved(notebook=notebook(LOOK, parameters=CELL), parameters={"days": 3})
    job = definitions(settings).resolve_job_def("Personal_schedules")
    config = {"ops": {personal.POOL: {"config": {"name": "ada/report", "trigger": "schedule"}}}}
    personal.answer(ADA, "pause", {"name": "report"}, home)  # while it waits in the queue
    assert job.execute_in_process(config).success
    assert history.find("ada/report", settings=home) == []
    personal.answer(ADA, "resume", {"name": "report"}, home)
    assert job.execute_in_process(config).success
    (done,) = history.find("ada/report", settings=home)
    assert (done.user, done.trigger, done.state) == ("ada", "schedule", "succeeded")
    environ, cwd, days = printed(home, str(done.notebook_uri))
    assert "of-the-hub" not in str(environ)
    assert not [name for name in environ if "TOKEN" in name or name.startswith("JUPYTERHUB")]
    assert (environ["USER"], environ["HOME"], cwd, days) == ("ada", str(folder), str(folder), 3)
    told = personal.answer(ADA, "show", {"name": "report"}, home)
    assert told["last_run"]["id"] == done.id
    assert told["last_run"]["state"] == "succeeded"


def test_a_failure_for_good_and_lateness_are_told(
    home: Settings, saved: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(notebook=notebook("1 / 0"), freshness="1h", notify=["ada@example.org"])
    letters: list[tuple[str, str]] = []
    home = replace(home, smtp_url="smtp://127.0.0.1:1")
    monkeypatch.setattr(notify, "_mail", lambda to, subject, text, _: letters.append((to, text)))
    with pytest.raises(RunFailed):
        run("ada/report", attempt=4, trigger="schedule", settings=home)
    (run_,) = history.find("ada/report", settings=home)
    assert (run_.state, run_.user) == ("dead", "ada")
    assert notify.late(home) == []
    with database.session(home) as session, session.begin():
        row = session.get_one(database.ScheduleRow, "ada/report")
        row.since -= 2 * 60 * MINUTE
    assert notify.tell_late([], home) == ["ada/report"]
    notify.deliver(home)
    assert [to for to, _ in letters] == ["ada@example.org"] * 2
    assert "ZeroDivisionError" in letters[0][1]
    personal.answer(ADA, "pause", {"name": "report"}, home)
    assert notify.late(home) == []


def test_a_run_without_an_account_is_on_record(
    home: Settings, saved: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(notify=["ada@example.org"])

    def none(person: str | None, settings: Settings) -> None:
        raise Unavailable(f"cannot make the account of {person}")

    monkeypatch.setattr(people, "account", none)
    with pytest.raises(Unavailable):
        run("ada/report", attempt=4, trigger="schedule", settings=home)
    (run_,) = history.find("ada/report", settings=home)
    assert (run_.state, run_.error) == ("dead", "cannot make the account of ada")
    with database.session(home) as session:
        assert "cannot make the account" in session.query(database.NoticeRow).one().text


def test_what_a_persons_process_tells_and_leaves_is_held_to_a_form(
    home: Settings, saved: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = 'no json\n[1]\n{"cell": 1}\n' + "x" * 300_000 + '\n{"error": null}\n{"cell": 2}\n'
    assert list(supervise._told(io.StringIO(told))) == [{"cell": 1}, {"error": None}]
    assert len(execute.advised("No space left [Errno 28] " * 10_000)) < 6_000
    assert execute.advised("[Errno 28]" + "x" * 10_000).endswith("make room on it")

    def gone(*_: Any) -> None:
        raise Unavailable("the database does not answer")

    saved()
    mine = Account("ada", "ada", os.getuid(), os.getgid(), tmp_path, tmp_path)
    task = supervise.Task(personal.get("ada/report", home), {}, None, "schedule", 1)
    (tmp_path / "notes").write_text("{}")
    (tmp_path / "notebook.ipynb").write_text(json.dumps(notebook("1")))
    monkeypatch.setattr(record, "take", gone)  # and the run is stamped all the same
    for largest, state in ((10_000, "succeeded"), (100, "failed")):
        monkeypatch.setattr(accounts, "LARGEST", largest)
        begun = history.begin(database.new_id(), "ada/report", {}, "schedule", home)
        ended = runner._finish(begun, task, supervise.End(account=mine), tmp_path, home)
        assert ended.state == state == history.get(begun.id, home).state, ended.error
    assert "too large to be kept" in str(ended.error)


def test_a_home_is_the_hubs_or_ones_own(home: Settings) -> None:
    assert people.home("nobody_here", home) is None
    assert people.home(personal.this_account().name, home) == Path.home()


# -- the command -----------------------------------------------------------------------------------


def test_the_command_does_the_same(home: Settings, saved: Callable[..., Any]) -> None:
    saved()
    file = home.home / "mine.ipynb"
    file.write_text(json.dumps(notebook("1", parameters=CELL)))

    def thalweg_schedule(*arguments: str, code: int = 0) -> str:
        flag = f"--data-dir={home.data_dir}"
        done = CliRunner().invoke(app, ["schedule", *arguments, flag])
        assert done.exit_code == code, done.output
        return done.output if code == 0 else str(done.exception)

    added = thalweg_schedule(
        "add", str(file), "--cron=0 7 * * mon", "-p", "days=30", "--time-limit=2h", "--json"
    )
    assert json.loads(added)["parameters"]["days"] == 30
    assert json.loads(added)["time_limit"] == 7200
    assert "paused by" in thalweg_schedule("pause", "mine")
    listed = json.loads(thalweg_schedule("list", "--json"))
    assert {each["name"].partition("/")[2] for each in listed} == {"mine", "report"}
    assert "paused by" not in thalweg_schedule("resume", "mine")
    assert "will run" in thalweg_schedule("run", "ada/report")
    assert "{'days': 30" in thalweg_schedule("show", "mine")
    assert "is removed" in thalweg_schedule("remove", "mine")
    assert "no schedule 'mine'" in thalweg_schedule("show", "mine", code=1)
