"""environment.yml has the direct dependencies, at the versions of uv.lock."""

import ast
import sys
from importlib.metadata import packages_distributions
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


def _imported(file: Path) -> set[str]:
    """Top-level names of the modules that a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {str(name).split(".")[0] for name in plain | parts}


def test_what_the_package_imports_is_declared():
    declared = set(environment_yml.direct_dependencies())
    homes = packages_distributions()
    imported = set().union(*map(_imported, (ROOT / "src").rglob("*.py")))
    others = imported - sys.stdlib_module_names - {"thalweg"}
    undeclared = {
        n for n in others if not declared & {d.lower().replace("_", "-") for d in homes[n]}
    }
    assert undeclared == set()
