"""The rooms of the library: each imports from those upstream of it only, also inside functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parents[2]
SOURCE = CLONE / "src" / "thalweg"
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = (
    "errors", "settings", "private", "accounts", "database", "record", "storage", "http", "raw",
    "sources", "codes", "warehouse", "gridded", "quarantine", "ingest", "arrivals", "metrics",
    "catalog", "stac", "lineage", "pipelines", "dashboards", "compute", "hub", "backup",
    "deployment", "cli",
)  # fmt: skip
#: Doors without a room: the package itself gives `open_catalog`, `python -m thalweg` the command.
DOORS = {"__init__": "cli", "__main__": "cli", "migrations": "database"}


def room(name: str) -> str:
    """The room of a module or file, by the first part of its name below `thalweg`."""
    return DOORS.get(name, name)


def imported(tree: ast.AST) -> Iterator[str]:
    """What a module imports of the library, by room; nothing for the package itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: say from where, not from how far"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            match name.split("."):
                case ["thalweg", first, *_]:
                    yield room(first)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_upstream(file: Path) -> None:
    own = room(file.relative_to(SOURCE).parts[0].removesuffix(".py"))
    upstream = ROOMS[: ROOMS.index(own) + 1]
    assert set(imported(ast.parse(file.read_text()))) <= set(upstream)


@pytest.mark.parametrize("file", sorted((SOURCE / "metrics").glob("*.py")), ids=lambda f: f.name)
def test_only_inputs_and_increment_of_metrics_know_where_data_lie(file: Path) -> None:
    known = {"metrics", "codes", "errors", "settings"}
    known |= {"warehouse"} if file.stem in ("inputs", "increment") else set()
    assert set(imported(ast.parse(file.read_text()))) <= known


def test_an_import_that_points_downstream_is_seen() -> None:
    lazy = "def f():\n    from thalweg import warehouse\n    import thalweg.hub.state as s\n"
    assert list(imported(ast.parse(lazy))) == ["warehouse", "hub"]


def test_the_documentation_lists_the_rooms_in_this_order() -> None:
    text = (CLONE / "docs" / "topic" / "architecture.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", text, re.M)
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == list(ROOMS)
