"""`thalweg run`, `thalweg runs`, `thalweg pipeline`: as a person and as a script use them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thalweg import database
from thalweg.cli import app
from thalweg.errors import InvalidInput
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
    assert json.loads(call("pipeline", "validate", "--json")) == {
        "tell": None,
        "all together": None,
    }
    (home.home / "pipelines/tell/pipeline.yaml").write_text(YAML.replace("owner", "ownr"))
    assert "did you mean 'owner'" in call("pipeline", "validate", code=1)


def test_help_has_examples() -> None:
    for command in (["run"], ["runs", "list"], ["runs", "show"], ["pipeline", "show"]):
        assert "thalweg" in call(*command, "--help").split("Usage", 1)[1].split("\n", 1)[1]
