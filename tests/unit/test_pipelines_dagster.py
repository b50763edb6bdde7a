"""Dagster's side: what the factory makes of pipeline.yaml, and the two services as they run."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import httpx
import psutil
import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config_schema
from dagster._utils.schedules import schedule_execution_time_iterator

from thalweg import database, record
from thalweg import settings as settings_module
from thalweg.errors import InvalidInput
from thalweg.pipelines import due, history, specification
from thalweg.pipelines.definitions import definitions
from thalweg.pipelines.scheduler import dagster_home, set_pools
from thalweg.pipelines.webserver import listen
from thalweg.settings import Settings

CLONE = Path(__file__).resolve().parents[2]
RUNS = "{runsOrError{... on Runs{results{runId jobName status}}}}"
#: What dagster-k8s documents of its launcher, which is not installed on a laptop.
LAUNCHER_FIELDS = {
    "env_config_maps", "env_secrets", "env_vars", "fail_pod_on_run_failure", "image_pull_policy",
    "image_pull_secrets", "instance_config_map", "job_image", "job_namespace", "kubeconfig_file",
    "labels", "load_incluster_config", "postgres_password_secret", "resources", "run_k8s_config",
    "dagster_home", "scheduler_name", "security_context", "service_account_name", "volume_mounts",
    "volumes",
}  # fmt: skip
RAW_FIELDS = {
    "container_config", "job_config", "job_metadata", "job_spec_config", "pod_spec_config",
    "pod_template_spec_metadata",
}  # fmt: skip
LAUNCH = """mutation { launchRun(executionParams: {runConfigData: {}, selector: {
  repositoryLocationName: "thalweg", repositoryName: "__repository__", pipelineName: "run_%s"}})
  { ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


def write_pipeline(
    home: Path, name: str, code: str, more: str = "", tags: Sequence[str] = ()
) -> None:
    folder = home / "pipelines" / name
    folder.mkdir(parents=True)
    text = f"title: T\nowner: o\ndescription: d\nretries: {{attempts: 1, delay: 1}}\n{more}"
    (folder / "pipeline.yaml").write_text(text)
    cell = {
        "cell_type": "code",
        "id": "c",
        "metadata": {"tags": tags},
        "source": code,
        "outputs": [],
    }
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": [cell | {"execution_count": None}], "metadata": {"kernelspec": kernel}}
    (folder / "notebook.ipynb").write_text(
        json.dumps(notebook | {"nbformat": 4, "nbformat_minor": 5})
    )


# -- the factory -----------------------------------------------------------------------------------


@pytest.fixture
def made() -> dg.Definitions:
    return definitions(settings_module.load({}, home=CLONE))


def test_every_pipeline_is_an_asset_with_its_needs_and_a_job(made: dg.Definitions) -> None:
    graph = made.resolve_asset_graph()
    pipelines = specification.all(settings_module.load({}, home=CLONE))
    needs = {need for pipeline in pipelines.values() for need in pipeline.needs}
    assert {key.path[-1] for key in graph.get_all_asset_keys()} == {*pipelines, *needs}
    for name, pipeline in pipelines.items():
        parents = {key.path[-1] for key in graph.get(dg.AssetKey(name)).parent_keys}
        assert parents == set(pipeline.needs)
        assert made.resolve_job_def(f"run_{name}")
    steps = made.resolve_job_def("first_light").graph.node_dict
    assert set(steps) == {"load_sample", "evaluate"}


def test_schedules_are_on_only_if_the_settings_say_so() -> None:
    for on, expected in ((False, "STOPPED"), (True, "RUNNING")):
        repository = definitions(
            settings_module.load({}, home=CLONE, schedules=on)
        ).get_repository_def()
        pipelines = specification.all(settings_module.load({}, home=CLONE)).values()
        statuses = {s.job_name: s.default_status.value for s in repository.schedule_defs}
        assert statuses == {f"run_{p.name}": expected for p in pipelines if p.schedule}
        sensors = {s.name: s.default_status.value for s in repository.sensor_defs}
        follow = {f"follow_{p.name}" for p in pipelines if p.needs and not p.schedule}
        always = {"first_light_sensor", "tell_people", "Personal_schedules_sensor"}
        assert sensors == dict.fromkeys([*follow, *always], "RUNNING")


def test_one_that_is_broken_disables_itself_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pipeline(tmp_path, "wrong", "1", "schedule: {cron: never}\n")
    write_pipeline(tmp_path, "daily", "1", "schedule: {cron: 15 6 * * *}\n")
    write_pipeline(tmp_path, "after", "1", "needs: [wrong, metrics]\n")
    made = definitions(settings_module.load({}, home=tmp_path))
    graph = made.resolve_asset_graph()
    why = str(graph.get(dg.AssetKey("wrong")).description)
    assert "wrong/pipeline.yaml:5: schedule.cron: expected five fields" in why
    assert why in caplog.text
    assert not graph.get(dg.AssetKey("wrong")).is_executable
    parents = graph.get(dg.AssetKey("after")).parent_keys
    assert parents == {dg.AssetKey("wrong"), dg.AssetKey(["warehouse", "metrics"])}
    repository = made.get_repository_def()
    assert {each.job_name for each in repository.schedule_defs} == {"run_daily"}
    assert "follow_after" in {each.name for each in repository.sensor_defs}


def test_parameters_are_checked_by_dagster_too(made: dg.Definitions) -> None:
    job = made.resolve_job_def("run_evaluate")
    given = {"metrics": ["kge"], "lead_time_bin": 48}
    dg.validate_run_config(job, {"ops": {"evaluate": {"config": given}}})
    for wrong in ({"lead_time_bin": "two"}, {"metric": ["kge"]}, {"metrics": "kge"}):
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.validate_run_config(job, {"ops": {"evaluate": {"config": wrong}}})


@pytest.fixture
def home(store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home of its own, with a data folder of its own, that uses the running store."""
    settings = replace(store, home=tmp_path, data_dir=tmp_path / "data", database_url="")
    for name in ("home", "data_dir", "database_url", "sample"):
        monkeypatch.setenv(f"THALWEG_{name.upper()}", str(getattr(settings, name)))
    settings.data_dir.mkdir()
    database.migrate(settings)
    return settings


def materialize(settings: Settings, name: str, **config: Any) -> dg.ExecuteInProcessResult:
    job = definitions(settings).resolve_job_def(f"run_{name}")
    run_config = {"ops": {name: {"config": config}}} if config else None
    return job.execute_in_process(run_config, raise_on_error=False)


def test_a_materialization_names_our_run(home: Settings) -> None:
    write_pipeline(home.home, "work", "print(1)")
    result = materialize(home, "work")
    assert result.success
    (event,) = result.asset_materializations_for_node("work")
    run = history.get(event.metadata["run_id"].value, home)
    assert (run.state, run.trigger) == ("succeeded", "dagster")
    assert event.metadata["notebook"].value == run.notebook_uri


def test_a_failed_notebook_is_tried_again_and_a_wrong_parameter_is_not(home: Settings) -> None:
    declared = "parameters:\n  days: {type: integer, description: d, default: 1, maximum: 9}\n"
    write_pipeline(home.home, "broken", "1 / 0")
    assert not materialize(home, "broken").success
    why = "In [1]: ZeroDivisionError: division by zero"
    assert [(r.state, r.attempt, r.error) for r in history.find("broken", settings=home)] == [
        ("dead", 2, why),
        ("failed", 1, why),
    ]
    write_pipeline(home.home, "strict", "days = 1", declared, ["parameters"])
    result = materialize(home, "strict", days=77)
    assert not result.success
    assert "above the maximum 9" in str(result.all_events)
    assert history.find("strict", settings=home) == []


DAILY = "partitions: {by: daily, start: 2026-03-27, timezone: Europe/Berlin}\n"


def test_a_run_of_a_partition_and_one_without(home: Settings) -> None:
    declared = "parameters:\n  days: {type: string, description: d, default: now}\n"
    divided = DAILY.replace("}", ", parameters: {days: '{key}'}}")
    write_pipeline(home.home, "work", "days = 1", declared + divided, ["parameters"])
    job = definitions(home).resolve_job_def("run_work")
    result = job.execute_in_process(partition_key="2026-03-28")
    (event,) = result.asset_materializations_for_node("work")
    assert event.partition == "2026-03-28"
    assert materialize(home, "work").success
    assert [(run.partition, run.parameters) for run in history.find("work", settings=home)] == [
        (None, {"days": "now"}),
        ("2026-03-28", {"days": "2026-03-28"}),
    ]
    config = {"ops": {"work": {"config": {"days": "x"}}}}
    result = job.execute_in_process(config, partition_key="2026-03-28", raise_on_error=False)
    assert "gives 'days' already" in str(result.all_events)


def test_what_another_run_works_on_is_left_out(home: Settings) -> None:
    write_pipeline(home.home, "work", "print(1)", "overlap: skip\n")
    history.begin(database.new_id(), "work", {}, "command", home, overlap="skip")
    result = materialize(home, "work")
    assert result.success
    assert result.asset_materializations_for_node("work") == []
    assert len(history.find("work", settings=home)) == 1


def ticks(made: dg.Definitions, name: str, first: dt.datetime, days: float) -> list[dt.datetime]:
    """When a schedule ticks, as Dagster's daemon reckons."""
    (schedule,) = [s for s in made.schedules or [] if s.job_name == f"run_{name}"]
    last = first + dt.timedelta(days=days)
    times = schedule_execution_time_iterator(
        first.timestamp(), schedule.cron_schedule, schedule.execution_timezone
    )
    return list(itertools.takewhile(lambda time: time < last, times))


@pytest.mark.parametrize("day", [dt.date(2026, 3, 29), dt.date(2026, 10, 25)])
def test_clocks_that_change_lose_and_double_no_tick(home: Settings, day: dt.date) -> None:
    zone = ZoneInfo("Europe/Berlin")
    for name, cron in (("nightly", "30 2 * * *"), ("hourly", "15 * * * *")):
        more = f"schedule: {{cron: {cron!r}, timezone: Europe/Berlin}}\n"
        write_pipeline(home.home, name, "1", more)
    made = definitions(home)
    first = dt.datetime.combine(day - dt.timedelta(days=1), dt.time(), zone)
    nightly = ticks(made, "nightly", first, 3)
    assert [time.astimezone(zone).date() for time in nightly] == [
        day + dt.timedelta(days=n) for n in (-1, 0, 1)
    ]
    hours = [time.timestamp() for time in ticks(made, "hourly", first, 3)]
    assert {b - a for a, b in itertools.pairwise(hours)} == {3600}
    last = (first + dt.timedelta(days=3)).timestamp()
    assert len(hours) == (last - first.timestamp()) / 3600


def test_a_schedule_asks_for_all_that_ended_since_the_newest(home: Settings) -> None:
    when = "schedule: {cron: '15 3 * * *', timezone: Europe/Berlin, runs: partitions}\n"
    write_pipeline(home.home, "work", "1", DAILY + when)
    write_pipeline(home.home, "each", "1", when + "partitions: {by: key, keys: [a, b]}\n")
    write_pipeline(home.home, "last", "1", DAILY + when.replace(", runs: partitions", ""))
    made = definitions(home)

    def asked(name: str) -> list[str | None]:
        (schedule,) = [s for s in made.schedules or [] if s.job_name == f"run_{name}"]
        time = dt.datetime(2026, 4, 1, 3, 15, tzinfo=ZoneInfo("Europe/Berlin"))
        with dg.build_schedule_context(
            scheduled_execution_time=time, repository_def=made.get_repository_def()
        ) as context:
            requests = schedule.evaluate_tick(context).run_requests or []
        assert len({request.run_key for request in requests}) == len(requests)
        return [request.partition_key for request in requests]

    assert asked("work") == ["2026-03-31"]  # the first time, the last
    history.begin(database.new_id(), "work", {}, "dagster", home, partition="2026-03-28")
    assert asked("work") == ["2026-03-29", "2026-03-30", "2026-03-31"]
    assert asked("each") == ["a", "b"]
    assert asked("last") == [None]  # the default values


def ran(settings: Settings, name: str, **more: Any) -> None:
    """Put a run on record that succeeded."""
    run = history.begin(database.new_id(), name, {}, "command", settings, **more)
    history.end(replace(run, state="succeeded", ended_at=dt.datetime.now(dt.UTC)), settings)


def test_what_follows_new_data(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pipeline(home.home, "hours", "1", "partitions: {by: hourly, start: 2026-03-28T00}\n")
    write_pipeline(home.home, "days", "1", "needs: [hours]\n" + DAILY)
    write_pipeline(home.home, "all", "1", "needs: [days, primary_timeseries]\n")
    pipelines = specification.all(home)
    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)

    def after(name: str, since: dt.datetime = start) -> list[str | None]:
        return list(due.follow(pipelines[name], pipelines, since, home).runs)

    assert after("days") == after("all") == []
    for hour in ("2026-03-28T05", "2026-03-28T23", "2026-03-29T22"):  # in UTC, not in Berlin
        ran(home, "hours", partition=hour)
    assert after("days") == ["2026-03-28", "2026-03-29", "2026-03-30"]
    ran(home, "days", partition="2026-03-29")
    assert after("days") == ["2026-03-28", "2026-03-30"]
    assert after("all") == [None]
    ran(home, "hours")  # with its default values
    assert after("days") == ["2026-03-28", "2026-03-30", None]
    made = definitions(home).get_repository_def()
    with dg.build_sensor_context(cursor=start.isoformat(), repository_def=made) as context:
        tick = made.get_sensor_def("follow_days").evaluate_tick(context)
    requests = tick.run_requests or []
    assert [r.partition_key for r in requests] == ["2026-03-28", "2026-03-30", None]
    assert dt.datetime.fromisoformat(str(tick.cursor)) > start
    with dg.build_sensor_context(repository_def=made) as context:  # for the first time
        assert made.get_sensor_def("follow_days").evaluate_tick(context).cursor

    running = history.begin(database.new_id(), "days", {}, "command", home, partition="2026-03-28")
    assert after("days") == ["2026-03-30"]
    assert after("all") == []  # until none is going on
    history.end(replace(running, state="failed", ended_at=dt.datetime.now(dt.UTC)), home)
    ran(home, "all")
    assert after("all") == []

    again = history.begin(database.new_id(), "days", {}, "rerun", home)  # which writes nothing
    history.end(replace(again, state="succeeded", ended_at=dt.datetime.now(dt.UTC)), home)
    assert after("all") == []

    run = history.begin(database.new_id(), "other", {}, "command", home)
    monkeypatch.setenv("THALWEG_RUN_ID", run.id)
    record.note("wrote", "table", "primary_timeseries", "42", 7)
    history.end(replace(run, state="succeeded", ended_at=dt.datetime.now(dt.UTC)), home)
    found = due.follow(pipelines["all"], pipelines, start, home)
    assert found.runs == {None: run.id}
    assert found.until > start
    assert after("all", found.until + 2 * due.LATE) == []


def test_as_many_runs_go_on_at_once_as_a_pipeline_says(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home(home)))
    write_pipeline(home.home, "work", "1", "concurrency: 3\n")
    write_pipeline(home.home, "alone", "1")
    write_pipeline(home.home, "wrong", "1", "concurrency: none\n")
    set_pools(home)
    limits = dg.DagsterInstance.get().event_log_storage.get_pool_limits
    assert {pool.name: pool.limit for pool in limits()} == {"work": 3}
    file = home.home / "pipelines/work/pipeline.yaml"
    file.write_text(file.read_text().replace("concurrency: 3", "concurrency: 1"))
    set_pools(home)
    assert {pool.name: pool.limit for pool in limits()} == {"work": 1}
    (home.home / "pipelines/wrong/pipeline.yaml").unlink()
    assert definitions(home).resolve_job_def("run_alone").nodes[0].definition.pools == {"alone"}


# -- the services ----------------------------------------------------------------------------------


def test_home_keeps_everything_in_the_data_folder_and_sends_nothing(home: Settings) -> None:
    folder = dagster_home(home)
    written = yaml.safe_load((folder / "dagster.yaml").read_text())
    assert written["telemetry"] == {"enabled": False}
    assert written["storage"]["sqlite"]["base_dir"].startswith(str(home.data_dir))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (server,) = yaml.safe_load((folder / "workspace.yaml").read_text())["load_from"]
    assert "port" not in server["grpc_server"]
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_retries_enabled


def test_two_that_start_at_once_make_one_state(home: Settings) -> None:
    code = "from thalweg.pipelines.scheduler import dagster_home as h; print(h())"
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    (folder, other) = [process.communicate(timeout=60)[0].decode().strip() for process in both]
    assert folder == other
    with dg.DagsterInstance.from_config(folder) as instance:
        assert instance.get_runs() == []
    files = list((Path(folder) / "storage").rglob("*.db"))
    assert len(files) >= 3
    for file in files:
        with sqlite3.connect(file) as made:
            assert made.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,), file


def test_on_kubernetes_a_run_is_a_job(home: Settings) -> None:
    with pytest.raises(InvalidInput, match="set `image`"):
        dagster_home(replace(home, launcher="kubernetes"))
    folder = dagster_home(replace(home, launcher="kubernetes", image="r/thalweg@sha256:0"))
    written = yaml.safe_load((folder / "dagster.yaml").read_text())
    checked = validate_config(dagster_instance_config_schema(), written)
    assert checked.success, checked.errors
    launcher = written["run_launcher"]
    assert (launcher["module"], launcher["class"]) == ("dagster_k8s", "K8sRunLauncher")
    assert (launcher["config"]["job_image"], launcher["config"]["job_namespace"]) == (
        "r/thalweg@sha256:0",
        "thalweg",
    )
    assert launcher["config"].keys() <= LAUNCHER_FIELDS
    assert launcher["config"]["run_k8s_config"].keys() <= RAW_FIELDS
    assert "postgresql://" not in str(written)

    write_pipeline(home.home, "large", "1", "resources: {cpu: 0.5, memory: 16}\n")
    tags = definitions(home).resolve_job_def("run_large").tags
    container = json.loads(tags["dagster-k8s/config"])["container_config"]
    assert container == {
        "resources": {
            "requests": {"cpu": "500m", "memory": "16000M"},
            "limits": {"memory": "16000M"},
        }
    }


def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "ui.sock"
    path.touch()  # left behind by a server that was killed
    with listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@pytest.mark.hub
def test_the_scheduler_runs_follows_and_survives(home: Settings, tmp_path: Path) -> None:
    """First light by itself, chaining, kill -9 in the middle of a run, nothing on TCP."""
    gate = tmp_path / "gate"
    gate.touch()
    wait = f"import time, pathlib\nwhile not pathlib.Path('{gate}').exists(): time.sleep(0.1)"
    write_pipeline(home.home, "load_sample", wait)
    write_pipeline(home.home, "evaluate", "1", "needs: [load_sample]\n")
    write_pipeline(home.home, "divided", "1", "needs: [load_sample]\n" + DAILY)
    with _service("webserver", "--unix-socket", str(tmp_path / "ui"), "--prefix", "/x") as (ui):
        with _service("scheduler") as scheduler:
            ask = _client(tmp_path / "ui")
            wait_for(lambda: ("first_light", "SUCCESS") in statuses(ask))
            assert _listening(ui, scheduler) == []

            gate.unlink()
            before = len(history.find("evaluate", settings=home))
            for _ in range(2):
                ask(LAUNCH % "load_sample")  # the second waits in the queue
            wait_for(lambda: history.find("load_sample", "running", settings=home) != [])
            scheduler.kill()  # -9
        with _service("scheduler") as scheduler:  # at once, while the other's server still goes
            wait_for(lambda: "stopped" in errors("load_sample", home))
            gate.touch()
            # One is repeated, the other has waited.
            wait_for(lambda: statuses(ask).count(("run_load_sample", "SUCCESS")) == 2, 240)
            assert statuses(ask).count(("run_load_sample", "FAILURE")) == 1
            wait_for(lambda: len(history.find("evaluate", settings=home)) > before)  # follows
            wait_for(lambda: history.find("divided", "succeeded", settings=home) != [])
            wait_for(lambda: {s for _, s in statuses(ask)} <= {"SUCCESS", "FAILURE"})
            tree = psutil.Process(scheduler.pid).children(recursive=True)
            scheduler.send_signal(signal.SIGTERM)
            scheduler.wait(40)
    _, alive = psutil.wait_procs(tree, 20)
    assert alive == []
    names = [name for name, _ in statuses_on_disk(home)]
    assert names.count("first_light") == 1  # once, also after a restart


def errors(name: str, settings: Settings) -> str:
    return " ".join(str(run.error) for run in history.find(name, settings=settings))


@contextmanager
def _service(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", f"thalweg.pipelines.{module}", *arguments]
    process = subprocess.Popen(command, env=os.environ)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(40)


def _client(path: Path) -> Callable[[str], Any]:
    wait_for(path.exists)
    client = httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=60)

    def ask(query: str) -> Any:
        answer = client.post("http://ui/x/graphql", json={"query": query})
        return answer.raise_for_status().json()["data"]

    return ask


def statuses(ask: Callable[[str], Any]) -> list[tuple[str, str]]:
    return [(run["jobName"], run["status"]) for run in ask(RUNS)["runsOrError"]["results"]]


def statuses_on_disk(settings: Settings) -> list[tuple[str, str]]:
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        return [(run.job_name, run.status.value) for run in instance.get_runs()]


def _listening(*services: subprocess.Popen[bytes]) -> list[Any]:
    tree = [psutil.Process(each.pid) for each in services]
    tree += [child for each in tree for child in each.children(recursive=True)]
    sockets = [c for each in tree for c in each.net_connections("inet")]
    # A kernel's own sockets come and go with a run.
    return [c for c in sockets if c.status == psutil.CONN_LISTEN and c.family == socket.AF_INET]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)
