"""The documentation builds without a warning, tells all there is, and names only what there is."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer.main
import yaml

import thalweg
from thalweg import catalog, settings, sources, warehouse
from thalweg.cli import app
from thalweg.metrics import METRICS
from thalweg.pipelines import specification

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if not {"generated", "_build"} & set(page.parts)
)

#: What follows `thalweg.` in names of files, sites, labels, and properties of tables and snapshots.
NOT_PYTHON = {"toml", "db", "io", "readthedocs", "properties", "version", "upkeep", "times"}
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))


class Text(HTMLParser):
    """The text of a page, without its marks."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.feed(page.read_text())

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def __str__(self) -> str:
        return "".join(self.parts)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The HTML, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("html")
    flags = ["-W", "--keep-going", "-q", "-d", folder / "doctrees"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *flags, ROOT / "docs", folder],
        capture_output=True,
        text=True,
        env=os.environ | {"THALWEG_HOME": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return folder


def commands() -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Each command of `thalweg`, as its words, with its options."""

    def walk(command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], set[str]]]:
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        yield words, options | {"-h", "--help"}
        for name, each in getattr(command, "commands", {}).items():
            yield from walk(each, (*words, name))

    yield from walk(typer.main.get_command(app), ())


def documented() -> Iterator[tuple[str, str]]:
    """Page of the reference, and a name that has to stand there."""
    for words, _ in commands():
        yield "commands", " ".join(("thalweg", *words))
    for name, _, text in settings.describe():
        yield "settings", f"THALWEG_{name.upper()}"
        yield "settings", text
    for metric in METRICS.values():
        yield "metrics", metric.title
        yield "metrics", metric.doi
    for entry in catalog.entries(catalog.open_catalog(ROOT / "catalogs" / "main.yaml")):
        yield "catalogue", entry.name
        yield "catalogue", entry.licence
    for name in warehouse.names():
        for column in warehouse.access.definition(name).columns:
            yield "tables", column
    for name in sources.names():
        yield "sources", sources.get(name).LICENCE
        promised = sources.contract(name)
        for each in (*promised.tables, *promised.units, *promised.fields, *promised.configurations):
            yield "contracts", each
    for name in yaml.safe_load((ROOT / "hub-config" / "services.yaml").read_text()):
        yield "services", name
    chart = json.loads((ROOT / "helm" / "thalweg" / "values.schema.json").read_text())
    for name, value in chart["properties"].items():
        yield "chart", name
        for key in value.get("properties", ()):
            yield "chart", f"{name}.{key}"
    for name, pipeline in specification.all(settings.load({}, home=ROOT)).items():
        yield "pipelines", name
        for parameter in pipeline.parameters:
            yield "pipelines", parameter
    schema = json.loads(specification.schema())
    for model in (schema, *schema["$defs"].values()):
        for key in model["properties"]:
            yield "pipeline_file", key


def test_everything_is_documented(built: Path) -> None:
    pages = {p.stem: str(Text(p)) for p in (built / "reference" / "generated").glob("*.html")}
    squeezed = {name: " ".join(text.split()) for name, text in pages.items()}
    missing = [
        (page, name) for page, name in documented() if " ".join(name.split()) not in squeezed[page]
    ]
    assert missing == []


def test_the_documentation_asks_nothing_of_others_but_its_formulas(built: Path) -> None:
    loads = re.compile(r'<(?:script|link)[^>]+(?:src|href)="(https?://[^"]+)"')
    asked = {url for page in built.rglob("*.html") for url in loads.findall(page.read_text())}
    assert all("mathjax" in url for url in asked), asked


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_name_only_commands_and_options_that_exist(page: Path) -> None:
    known = dict(commands())
    text = page.read_text()
    lines = re.findall(r"^\$ thalweg (.*)$", text, re.M) + re.findall(r"`thalweg ([^`]+)`", text)
    for line in lines:
        words = shlex.split(line.split("#")[0])
        command: tuple[str, ...] = ()
        while words and (*command, words[0]) in known:
            command += (words.pop(0),)
        assert command, f"{page.name}: `thalweg {line}`: no such command"
        for option in (word.split("=")[0] for word in words if word.startswith("-")):
            assert option in known[command], f"{page.name}: `thalweg {line}`: no option {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_name_only_python_that_exists(page: Path) -> None:
    # `thalweg.io/…` is a label of Kubernetes.
    for name in set(re.findall(r"\bthalweg((?:\.[A-Za-z_]\w*)+)(?![\w/])", page.read_text())):
        found = thalweg
        for part in name.lstrip(".").split("."):
            if part in NOT_PYTHON:
                break
            if not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_examples_compile(page: Path) -> None:
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        compile(code, str(page), "exec")
