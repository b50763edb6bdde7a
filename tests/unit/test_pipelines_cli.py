"""`thalweg run`, `thalweg runs`, `thalweg pipeline`: as a person and as a script use them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from thalweg import database, warehouse
from thalweg.cli import app, pipelines
from thalweg.errors import InvalidInput, NotFound
from thalweg.pipelines import backfill, history, specification, supervise
from thalweg.pipelines.run import RunFailed
from thalweg.settings import Settings

YAML = """\
title: A test
owner: tests
description: Prints a gauge.
parameters:
  gage: {type: string, description: a gauge, pattern: "[0-9]{8,15}", default: "03171000"}
"""


@pytest.fixture
def home(store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("THALWEG_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    settings = replace(store, home=tmp_path)
    database.migrate(settings)
    folder = tmp_path / "pipelines" / "tell"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(YAML)
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {"tags": tags}, "source": source}
        for i, (source, tags) in enumerate(
            [("gage = ''", ["parameters"]), ("assert gage != '99999999', f'[/{gage}]'\ngage", [])]
        )
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for cell in cells:
        cell |= {"outputs": [], "execution_count": None}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4}
    (folder / "notebook.ipynb").write_text(json.dumps(notebook | {"nbformat_minor": 5}))
    return settings


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def test_run_list_and_show(home: Settings) -> None:
    done = json.loads(call("run", "tell", "-p", "gage=01013500", "--json"))
    assert (done["state"], done["parameters"]) == ("succeeded", {"gage": "01013500"})
    listed = json.loads(call("runs", "list", "--pipeline", "tell", "--json"))
    assert listed[0]["id"] == done["id"]
    assert json.loads(call("runs", "show", done["id"][-12:], "--json")) == done
    shown = call("runs", "show", done["id"])
    assert done["notebook_uri"] in shown
    assert "01013500" in shown
    assert "succeeded" in call("runs", "list")


def test_a_failed_run(home: Settings) -> None:
    failed = json.loads(call("run", "tell", "-p", "gage=99999999", "--json", code=1))
    assert failed["error"] == "In [3]: AssertionError: [/99999999]"
    with pytest.raises(RunFailed, match=r"run .* of 'tell' failed: In \[3\]: AssertionError"):
        call("run", "tell", "-p", "gage=99999999")
    assert json.loads(call("runs", "list", "--state", "failed", "--limit", "1", "--json"))
    assert "[/99999999]" in call("runs", "list", "--pipeline", "tell")  # text, and no markup
    call("runs", "list", "--state", "lost", code=2)


def test_fields_are_told_as_tables_are(home: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    begun = history.begin(database.new_id(), "tell", {}, "command", home)
    uses = [history.Use("wrote", "raw", "fields", "a", None)]
    pipelines._print_written(replace(begun, uses=tuple(uses)))
    assert capsys.readouterr().out == "nothing has changed in the warehouse\n"
    uses.append(history.Use("wrote", "gridded", "ifs", "XK31", 1200))
    pipelines._print_written(replace(begun, uses=tuple(uses)))
    assert capsys.readouterr().out.split()[-3:] == ["ifs", "1,200", "XK31"]


def test_wrong_arguments_are_one_line(home: Settings) -> None:
    for arguments, says in (
        (["-p", "gage"], "expected a parameter as NAME=VALUE, got 'gage'"),
        (["-p", "gag=1"], "did you mean 'gage'"),
        (["-p", "gage=one"], "does not match the pattern"),
    ):
        with pytest.raises(InvalidInput, match=says):
            call("run", "tell", *arguments)


def test_pipelines_are_listed_shown_and_checked(home: Settings) -> None:
    assert "A test" in call("pipeline", "list")
    assert json.loads(call("pipeline", "list", "--json"))[0]["name"] == "tell"
    assert "03171000" in call("pipeline", "show", "tell")
    assert json.loads(call("pipeline", "validate", "--json")) == {"tell": None}
    call("pipeline", "new", "after")
    made = home.home / "pipelines/after/pipeline.yaml"
    made.write_text(f"{made.read_text()}needs: [tell]\n")
    (home.home / "pipelines/tell/pipeline.yaml").write_text(YAML.replace("owner", "ownr"))
    checked = json.loads(call("pipeline", "validate", "--json", code=1))
    assert checked["after"] is None
    assert "pipeline.yaml:2: ownr: unknown key; did you mean 'owner'" in checked["tell"]
    after, tell = json.loads(call("pipeline", "list", "--json"))
    assert (after["name"], after["needs"]) == ("after", ["tell"])
    assert tell == {"name": "tell", "error": checked["tell"]}
    assert re.search("after .*\ntell +broken", call("pipeline", "list"))
    assert "tell  broken: thalweg pipeline validate" in call("pipeline", "graph")
    with pytest.raises(InvalidInput, match="did you mean 'owner'"):
        call("pipeline", "graph", "tell")


def test_a_new_pipeline_runs_at_once(home: Settings) -> None:
    folder = home.home / "pipelines" / "count_rows"
    assert str(folder) in call("pipeline", "new", "count_rows", "--title", 'Rows: "all"')
    assert "count_rows: ok" in call("pipeline", "validate")
    nbformat.validate(nbformat.read(folder / "notebook.ipynb", as_version=4))
    assert json.loads((folder.parent / "pipeline.schema.json").read_text())["title"]
    warehouse.migrate()
    done = json.loads(call("run", "count_rows", "--json"))
    assert (done["state"], done["parameters"]) == ("succeeded", {"table": "locations"})
    with pytest.raises(InvalidInput, match="is there already: choose another name"):
        call("pipeline", "new", "count_rows")
    with pytest.raises(InvalidInput, match="lower_case_with_underscores, got"):
        call("pipeline", "new", "../x")
    made = folder / "pipeline.yaml"
    # Each key that it offers is allowed.
    made.write_text(re.sub(r"^# (\w+: )", r"\1", made.read_text(), flags=re.MULTILINE))
    assert specification.load(folder).partition_keys() == ["locations", "metrics"]
    assert "no pipeline or table 'ingest_usgs'" in call("pipeline", "validate", code=1)


def test_the_graph(home: Settings) -> None:
    for name, needs in (("after", "[tell, metrics]"), ("last", "[after]"), ("alone", "[]")):
        call("pipeline", "new", name)
        file = home.home / "pipelines" / name / "pipeline.yaml"
        file.write_text(f"{file.read_text()}needs: {needs}\n")
    graph = json.loads(call("pipeline", "graph", "after", "--json"))
    assert graph["edges"] == [
        {"from": "tell", "to": "after"},
        {"from": "metrics", "to": "after"},
        {"from": "after", "to": "last"},
    ]
    assert {node["name"]: node["kind"] for node in graph["nodes"]} == {
        "metrics": "table", "tell": "pipeline", "after": "pipeline", "last": "pipeline",
    }  # fmt: skip
    shown = call("pipeline", "graph").splitlines()
    assert [line.split("  ")[-1] for line in shown if "after what it needs, and tell" in line]
    assert any(line.lstrip("│├└─ ").startswith("alone  on demand") for line in shown)
    assert "    metrics --> after" in call("pipeline", "graph", "--mermaid")
    assert "    metrics[(metrics)]" in call("pipeline", "graph", "--mermaid")
    with pytest.raises(NotFound, match="did you mean 'after'"):
        call("pipeline", "graph", "aftr")


def test_a_backfill_goes_on_where_it_was(home: Settings) -> None:
    file = home.home / "pipelines/tell/pipeline.yaml"
    file.write_text(
        YAML + "partitions: {by: monthly, start: 1999-11, end: 2000-02, parameters: {gage: "
        '"99999999"}}\nconcurrency: 2\nretries: {attempts: 1, delay: 0}\n'
    )
    text = file.read_text()
    file.write_text(text.replace('"99999999"', '"01013500"'))
    done = json.loads(call("backfill", "tell", "1999-11..1999-12", "--json"))
    assert sorted(done["succeeded"]) == ["1999-11", "1999-12"]

    file.write_text(text)  # now each fails
    said = call("backfill", "tell", "..2000-01", code=1)
    assert "tell: 2 succeeded before, 1 failed" in said
    assert "thalweg backfill tell ..2000-01" in said
    runs = history.find("tell", partition="2000-01", settings=home)
    assert [(run.state, run.attempt, run.trigger) for run in runs] == [
        ("dead", 2, "backfill"),
        ("failed", 1, "backfill"),
    ]

    file.write_text(text.replace('"99999999"', '"01013500"'))
    done = json.loads(call("backfill", "tell", "2000-01", "--json"))
    assert (done["succeeded"], done["done_before"]) == (["2000-01"], [])
    assert "tell: 3 succeeded before" in call("backfill", "tell", "1999-11..2000-01")
    again = json.loads(call("backfill", "tell", "1999-12", "--again", "--json"))
    assert again["succeeded"] == ["1999-12"]
    one = json.loads(call("run", "tell", "--partition", "2000-02", "--json"))
    assert (one["partition"], one["parameters"]) == ("2000-02", {"gage": "01013500"})
    with pytest.raises(
        InvalidInput, match="no partition '2000-03': they go from 1999-11 to 2000-02"
    ):
        call("backfill", "tell", "2000-01..2000-03")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_backfill_that_is_interrupted_leaves_nothing_running(
    home: Settings, tmp_path: Path, stop: signal.Signals
) -> None:
    folder = home.home / "pipelines" / "tell"
    more = "partitions: {by: key, keys: [a, b, c]}\n"
    (folder / "pipeline.yaml").write_text(f"{YAML}{more}concurrency: 3\n")
    notebook = json.loads((folder / "notebook.ipynb").read_text())
    notebook["cells"][1]["source"] = f"import time; open({str(tmp_path / 'on')!r}, 'a').write('x')"
    notebook["cells"][1]["source"] += "; time.sleep(60)"
    (folder / "notebook.ipynb").write_text(json.dumps(notebook))
    theirs = history.begin(  # of another backfill, for which the partition c waits
        database.new_id(), "tell", {}, "backfill", home, partition="c", overlap="queue"
    )
    command = [sys.executable, "-m", "thalweg", "backfill", "tell", "a..c"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (tmp_path / "on").exists() or (tmp_path / "on").read_text() != "xx":
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.1)
    process.send_signal(stop)
    process.communicate(timeout=120)
    assert process.returncode not in (0, -stop), "it tidied up"
    states = {run.partition: run.state for run in history.find("tell", limit=3, settings=home)}
    assert states == {"a": "cancelled", "b": "cancelled", "c": "running"}
    assert history.beat(theirs.id, home) is None, "nobody has asked it to stop"
    history.end(replace(theirs, state="succeeded", ended_at=theirs.started_at), home)


def test_what_a_person_cancels_is_not_tried_again(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home.home / "pipelines" / "tell"
    (folder / "pipeline.yaml").write_text(f"{YAML}partitions: {{by: key, keys: [x, y]}}\n")
    notebook = folder / "notebook.ipynb"
    notebook.write_text(notebook.read_text().replace("\\ngage", "; import time; time.sleep(60)"))
    monkeypatch.setattr(supervise, "BEAT", 0.5)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(backfill.backfill, "tell", "x", "x", settings=home)
        while not (running := history.find("tell", "running", partition="x", settings=home)):
            time.sleep(0.1)
        history.cancel(running[0].id, home)
        assert made.result(60).failed == {"x": f"cancelled by {running[0].user}"}
    assert len(history.find("tell", partition="x", settings=home)) == 1


def test_what_tells_something_tells_it_to_machines_too() -> None:
    def without_json(command: Any, *path: str) -> Iterator[str]:
        for name, each in getattr(command, "commands", {}).items():
            yield from without_json(each, *path, name)
        if path and not hasattr(command, "commands"):
            is_told = any("--json" in option.opts for option in command.params)
            yield from [] if is_told else [" ".join(path)]

    people = {"up", "down", "logs", "user add", "user password", "deploy values"}
    assert set(without_json(get_command(app))) <= people | {"pipeline schema"}  # which is JSON


def test_help_has_examples() -> None:
    for command in (
        ["run"], ["runs", "list"], ["runs", "show"], ["pipeline", "show"], ["backfill"],
        ["pipeline", "new"], ["pipeline", "graph"], ["pipeline", "schema"],
    ):  # fmt: skip
        assert "thalweg" in call(*command, "--help").split("Usage", 1)[1].split("\n", 1)[1]
