"""What can be seen of the image without building it: its steps, budget, packages and name."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from image_lock import DOCKERFILE, LEFT_OUT, MACHINES, PYTHON, ROOT, locked, wheels_for

sys.path.insert(0, str(ROOT / "tools"))

import image_size

BUDGET = yaml.safe_load(image_size.BUDGET.read_text())


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_package_has_a_wheel(python: str, machine: str) -> None:
    packages = locked(python, machine)
    assert len(packages) > 200
    without = [name for name, p in packages.items() if not wheels_for(p, python, machine)]
    assert without == []


def test_a_wheel_for_another_processor_is_none() -> None:
    only = {"wheels": [{"url": "https://x/y-1-cp313-cp313-manylinux_2_28_x86_64.whl"}]}
    assert wheels_for(only, "3.13", "x86_64")
    assert not wheels_for(only, "3.13", "aarch64")
    assert not wheels_for(only, "3.12", "x86_64")


def test_the_image_has_what_the_cluster_needs_and_nothing_of_a_laptop_alone() -> None:
    packages = locked(PYTHON, "x86_64")
    needed = {"boto3", "dagster-k8s", "dagster-postgres", "dask-gateway", "jupyterhub", "ray"}
    assert needed <= set(packages)
    assert not {"pytest", "ruff", "sphinx", *LEFT_OUT} & set(packages)
    every = {p["name"] for p in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert every >= LEFT_OUT, "the lock no longer has what the Dockerfile leaves out"


def test_the_charts_parts_have_the_versions_of_the_image() -> None:
    packages = locked(PYTHON, "x86_64")
    values = yaml.safe_load((ROOT / "helm" / "thalweg" / "values.yaml").read_text())
    chart = yaml.safe_load((ROOT / "helm" / "thalweg" / "Chart.yaml").read_text())
    parts = {part["name"]: part["version"] for part in chart["dependencies"]}
    assert values["ray"]["version"] == packages["ray"]["version"]
    assert parts["dagster"] == packages["dagster"]["version"]
    assert parts["dask-gateway"] == packages["dask-gateway"]["version"]


def test_one_image_in_the_chart_and_of_the_packages_version() -> None:
    text = (ROOT / "helm" / "thalweg" / "values.yaml").read_text()
    values = yaml.safe_load(text)
    name = values["image"]["repository"]
    named = set(re.findall(rf"{re.escape(name)}:?(\S*)", text)) - {""}
    tags = set(re.findall(r"^\s*tag: (.*)$", text, re.MULTILINE))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert named == {version}
    assert tags == {f'&tag "{version}"', "*tag"}


def test_a_backup_finds_pg_dump_in_the_image() -> None:
    assert re.search(r"apt-get install [^&]* postgresql-client ", DOCKERFILE)


def test_nothing_but_one_user_and_no_secret_in_the_dockerfile() -> None:
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["1000:1000"]
    assert DOCKERFILE.rstrip().endswith("USER 1000:1000")
    assert not re.search(r"(?i)password|token|secret|_key", DOCKERFILE)
    assert "ADD " not in DOCKERFILE
    assert "latest" not in DOCKERFILE


def test_each_step_of_the_budget_is_one_of_the_dockerfile() -> None:
    final = DOCKERFILE.split("FROM ${BASE}\n")[1]
    steps = re.findall(r"^RUN (?:.*\\\n)*.*", final, re.MULTILINE)
    named = [layer["step"] for layer in BUDGET.values() if layer["step"]]
    assert [sum(step in text for text in steps) for step in named] == [1] * len(named)
    assert len(steps) == len(named)


def built(folder: Path, **megabytes: float) -> Path:
    """An image as buildah writes it, whose layers have these sizes."""
    steps = [{"created_by": "FROM"}, {"created_by": "ENV A=b", "empty_layer": True}]
    steps += [{"created_by": f"/bin/sh -c x && {BUDGET[name]['step']} y"} for name in megabytes]
    (folder / "0c").write_text(json.dumps({"history": steps}))
    layers = [{"size": int(size * 1e6)} for size in (100, *megabytes.values())]
    manifest = {"config": {"digest": "sha256:0c"}, "layers": layers}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_share_of_each_layer_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        image_size.main(built(tmp_path, system=80, packages=810, thalweg=10))
    assert not end.value.code
    lines = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:5]]
    assert lines == [
        ["base", "100", "10.0%"],
        ["system", "80", "8.0%"],
        ["packages", "810", "81.0%"],
        ["thalweg", "10", "1.0%"],
    ]


def test_over_budget_or_without_a_layer_fails(tmp_path: Path) -> None:
    folder = built(tmp_path, system=1, packages=BUDGET["packages"]["megabytes"] + 1)
    with pytest.raises(SystemExit) as end:
        image_size.main(folder)
    assert "layer packages takes" in end.value.code
    assert "layer thalweg: no step" in end.value.code


def test_the_page_tells_the_budget() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| (\d+) \|$", (ROOT / "docs/topic/image.md").read_text(), re.M
    )
    assert dict(rows) == {name: str(layer["megabytes"]) for name, layer in BUDGET.items()}
