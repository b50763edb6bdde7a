"""environment.yml has the direct dependencies, at the versions of uv.lock."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import environment_yml  # noqa: E402


def test_environment_yml_is_what_the_lock_says():
    assert (ROOT / "environment.yml").read_text() == environment_yml.render(), (
        "run `make environment.yml`"
    )


def test_every_dependency_has_a_version():
    versions = environment_yml.locked_versions()
    assert all(versions[name] for name in environment_yml.direct_dependencies())
