"""The chart as helm renders it: with the real charts of its parts, or with stand-ins for them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from toolbox import ROOT, helm

__all__ = [
    "CHART",
    "OPTIONS",
    "OURS",
    "PROFILES",
    "REAL",
    "ROOT",
    "by_kind",
    "named",
    "render",
    "run",
    "staged",
]

CHART = ROOT / "helm" / "thalweg"
PROFILES = {path.stem: path for path in sorted((CHART / "profiles").glob("*.yaml"))}
OURS = ROOT / "tests" / "chart" / "ours.yaml"
#: A cluster with the Prometheus operator.
OPTIONS = ("--api-versions=monitoring.coreos.com/v1",)
#: Folder with the charts of the parts, each unpacked under its name.
REAL = os.environ.get("THALWEG_CHARTS")


def staged(folder: Path) -> Path:
    """A copy of the chart in `folder`, with the charts of its parts."""
    chart = folder / "thalweg"
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "charts")
    shutil.copytree(CHART, chart, ignore=ignored)
    for part in yaml.safe_load((chart / "Chart.yaml").read_text())["dependencies"]:
        target = chart / "charts" / part["name"]
        if REAL:
            shutil.copytree(Path(REAL) / part["name"], target)
            prepare(target, part["version"])
        else:
            stand_in(target, part)
    return chart


def stand_in(target: Path, part: dict[str, str]) -> None:
    """A chart that takes any values and makes nothing."""
    target.mkdir(parents=True)
    about = {"apiVersion": "v2", "name": part["name"], "version": part["version"]}
    (target / "Chart.yaml").write_text(yaml.safe_dump(about))


def prepare(chart: Path, version: str) -> None:
    """What the authors' own release does: the version, and the schema as JSON.

    References to schemas on the network are left open.
    """
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": version}))
    if (source := chart / "values.schema.yaml").exists():
        (chart / "values.schema.json").write_text(json.dumps(yaml.safe_load(source.read_text())))
    for schema in chart.rglob("values.schema.json"):
        schema.write_text(json.dumps(offline(json.loads(schema.read_text()))))


def offline(schema: Any) -> Any:
    if isinstance(schema, dict):
        if str(schema.get("$ref", "")).startswith("http"):
            return {}
        return {key: offline(value) for key, value in schema.items() if key != "$id"}
    return [offline(each) for each in schema] if isinstance(schema, list) else schema


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """helm, with what it says."""
    command = [helm(), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@cache
def render(chart: Path, *values: Path, options: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The objects that helm makes with these files of values."""
    files = [f"--values={path}" for path in values]
    done = run("template", "thalweg", chart, "--namespace=thalweg", *files, *options)
    assert done.returncode == 0, done.stderr
    made = yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)
    return [each for each in made if each]


def by_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in by_kind(objects, kind) if each["metadata"]["name"] == name]
    return found
