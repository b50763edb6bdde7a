"""What uv.lock says is in the image, for a Python and a processor."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

__all__ = ["DOCKERFILE", "LEFT_OUT", "MACHINES", "PYTHON", "ROOT", "locked", "wheels_for"]

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "image" / "Dockerfile").read_text()
#: Processors of the image, by their names for Python.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
#: The image's Python.
PYTHON = re.search(r"^ARG BASE=.*python:([\d.]+)-slim", DOCKERFILE, re.MULTILINE)[1]  # type: ignore[index]
LEFT_OUT = set(re.findall(r"--no-install-package ([\w-]+)", DOCKERFILE))
GROUPS = re.findall(r"--group ([\w-]+)", DOCKERFILE)
#: Debian 12's C library; a newer one runs these wheels too.
GLIBC = 36


def locked(python: str, machine: str) -> dict[str, dict[str, Any]]:
    """The lock's packages that the image has, by name; without the project itself."""
    here = {"python_version": python, "python_full_version": f"{python}.9"}
    here |= {"platform_machine": machine, "platform_system": "Linux", "sys_platform": "linux"}
    here |= {"os_name": "posix", "implementation_name": "cpython"}
    here |= {"platform_python_implementation": "CPython"}
    holds = cache(lambda marker: Marker(marker).evaluate(here))

    def one(entry: dict[str, Any]) -> dict[str, Any]:
        """The version of a package that is taken here."""
        versions = _packages()[entry["name"]]
        if len(versions) > 1:
            versions = [p for p in versions if any(map(holds, p["resolution-markers"]))]
        (package,) = versions
        return package

    project = one({"name": "thalweg"})
    waiting = [*project["dependencies"]]
    for group in GROUPS:
        waiting += project["dev-dependencies"][group]
    found: dict[str, dict[str, Any]] = {}
    seen = set()
    while waiting:
        entry = waiting.pop()
        key = (entry["name"], *entry.get("extra", ()))
        if key in seen:
            continue
        if "marker" in entry and not holds(entry["marker"]):
            continue
        seen.add(key)
        package = found[entry["name"]] = one(entry)
        waiting += package.get("dependencies", ())
        for extra in entry.get("extra", ()):
            waiting += package["optional-dependencies"][extra]
    return {name: package for name, package in found.items() if name not in LEFT_OUT}


@cache
def _packages() -> dict[str, list[dict[str, Any]]]:
    """The lock's packages, each with all its versions."""
    found: dict[str, list[dict[str, Any]]] = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
        found.setdefault(package["name"], []).append(package)
    return found


def wheels_for(package: dict[str, Any], python: str, machine: str) -> list[str]:
    """Names of the package's wheels in the lock that this Python and processor can use."""
    usable = _tags(python, machine)
    names = [wheel["url"].rsplit("/", 1)[1] for wheel in package.get("wheels", ())]
    return [name for name in names if usable & parse_wheel_filename(name)[3]]


@cache
def _tags(python: str, machine: str) -> frozenset[Tag]:
    version = tuple(int(part) for part in python.split("."))
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 4, -1)]
    platforms += [f"manylinux{old}_{machine}" for old in ("2014", "2010", "1")]
    platforms.append(f"linux_{machine}")
    plain = compatible_tags(version, f"cp{version[0]}{version[1]}", platforms)
    return frozenset([*cpython_tags(version, platforms=platforms), *plain])
