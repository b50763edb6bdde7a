"""The chart as helm renders it: with the real charts of its parts, or with stand-ins for them.

`python rendered.py "of what"` writes what an upgrade is held to later; see `test_upgrade.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
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
    "identities",
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


#: By kind, what Kubernetes refuses to change in an object that is there.
FIXED = {
    "Deployment": ("selector",),
    "DaemonSet": ("selector",),
    "StatefulSet": ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"),
    "PersistentVolumeClaim": ("accessModes", "storageClassName", "volumeMode", "selector"),
    "Service": ("clusterIP",),
    "RoleBinding": ("roleRef",),
    "ClusterRoleBinding": ("roleRef",),
    "PriorityClass": ("value", "preemptionPolicy"),
    "Secret": ("type",),
}


def identities(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each object but hooks, by kind and name: whose it is, and what can never change."""
    found = {}
    for each in objects:
        about = each["metadata"]
        if "helm.sh/hook" in (about.get("annotations") or {}):
            continue
        chart = (about.get("labels") or {}).get("helm.sh/chart", "")
        fixed = {
            key: each.get("spec", {}).get(key, each.get(key)) for key in FIXED.get(each["kind"], ())
        }
        found[f"{each['kind']}/{about['name']}"] = {
            "is_ours": chart.startswith("thalweg-"),
            "fixed": fixed,
        }
    return found


def record(of_what: str) -> dict[str, Any]:
    """What an institution has of this version: its values, and the objects of each profile."""
    if not REAL:
        raise SystemExit("set THALWEG_CHARTS to the folder with the charts of the parts")
    with tempfile.TemporaryDirectory() as folder:
        chart = staged(Path(folder))
        version = yaml.safe_load((chart / "Chart.yaml").read_text())["version"]
        return {
            "version": version,
            "of": of_what,
            "values": yaml.safe_load(OURS.read_text()),
            "objects": {
                name: identities(render(chart, path, OURS, options=OPTIONS))
                for name, path in PROFILES.items()
            },
        }


if __name__ == "__main__":
    print(json.dumps(record(sys.argv[1]), indent=1, sort_keys=True))
