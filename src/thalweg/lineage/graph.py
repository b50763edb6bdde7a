"""What is found: a graph of rows, snapshots, runs and raw files, and how it prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.tree import Tree

__all__ = ["Direction", "Lineage", "Node"]

Direction = Literal["up", "down"]
SHOWN = 10  # branches of one node in the printed tree


@dataclass(frozen=True)
class Node:
    """One thing on the way of the data.

    `kind` is `rows` (some or all rows of a table at a snapshot), `gridded` (a repository at a
    snapshot), `snapshot` (one commit to either), `run` or `raw`; `name` that of the table, the
    repository, the pipeline, or the source and dataset; `id` that of the snapshot, run or raw file;
    `about` holds what else is known.
    """

    kind: Literal["rows", "gridded", "snapshot", "run", "raw"]
    name: str
    id: str
    about: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return _LINES[self.kind](self.name, self.id, self.about)


@dataclass
class Lineage:
    """A graph of what something came from (`up`), or of what was made of it (`down`).

    `edges` go in the direction in which data flowed; an edge that starts at a raw file has the
    number of rows that came from it, where that is known. Rich prints the graph as a tree.
    """

    direction: Direction
    root: str = ""
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[tuple[str, str], int | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        nodes = {
            key: {"kind": node.kind, "name": node.name, "id": node.id, **node.about}
            for key, node in self.nodes.items()
        }
        edges = [{"from": a, "to": b, "rows": rows} for (a, b), rows in self.edges.items()]
        return {"direction": self.direction, "root": self.root, "nodes": nodes, "edges": edges}

    def tree(self, shown: int = SHOWN) -> Tree:
        """The graph as a tree for rich, with the newest `shown` branches of each node."""
        from rich.text import Text
        from rich.tree import Tree

        further: dict[str, list[tuple[str, int | None]]] = {}
        for (start, end), rows in self.edges.items():
            near, far = (end, start) if self.direction == "up" else (start, end)
            further.setdefault(near, []).append((far, rows))
        tree = Tree(Text(str(self.nodes[self.root])))
        seen = {self.root}
        waiting = [(tree, self.root)]
        while waiting:
            branch, key = waiting.pop()
            newest = sorted(further.get(key, ()), key=self._age, reverse=True)
            for far, rows in newest[:shown]:
                line = str(self.nodes[far]) + (f": {rows:,} rows" if rows else "")
                again = far in seen and far in further
                twig = branch.add(Text(f"{line} (see above)" if again else line))
                if not again:
                    seen.add(far)
                    waiting.append((twig, far))
            if len(newest) > shown:
                branch.add(Text(f"… and {len(newest) - shown:,} more"))
        return tree

    def __rich__(self) -> Tree:
        return self.tree()

    def _age(self, step: tuple[str, int | None]) -> tuple[str, str]:
        node = self.nodes[step[0]]
        return str(node.about.get("at") or ""), node.id


def _rows_line(name: str, id: str, about: Mapping[str, Any]) -> str:
    where = f" where {about['where']}" if "where" in about else ""
    if not id:
        return f"{name}: nothing was ever written"
    rows = f": {about['rows']:,} rows" if "rows" in about else ""
    state = f"snapshot {id}" + (f" of {about['at']}" if "at" in about else "")
    if about.get("expired"):
        state += ", which has expired: traced in the table as it is now"
    outside = about.get("untraced")
    return f"{name}{where}{rows} ({state})" + (
        f", {outside:,} from outside a run" if outside else ""
    )


def _snapshot_line(name: str, id: str, about: Mapping[str, Any]) -> str:
    if "message" in about:
        return f"snapshot {id} of {name}: {about['message'].partition(';')[0]}"
    return f"snapshot {id} of {name}" + (f": {about['rows']:,} written" if about["rows"] else "")


def _gridded_line(name: str, id: str, about: Mapping[str, Any]) -> str:
    return f"fields of {name} (snapshot {id})"


def _run_line(name: str, id: str, about: Mapping[str, Any]) -> str:
    if not about:
        return f"run {id}, of which there is no record"
    return f"run {id[-12:]} of {name}, {about['state']}, {about['at']}, by {about['user']}"


def _raw_line(name: str, id: str, about: Mapping[str, Any]) -> str:
    if not about:
        return f"raw file {id}, of which there is no record"
    rows = [f"{count:,} rows in {table}" for table, count in about.get("rows", {}).items()]
    now = f"; now {', '.join(rows)}" if rows else ""
    return f"raw file {id[-12:]} {name}, {about['size']:,} bytes from {about['url']}{now}"


_LINES = {
    "rows": _rows_line,
    "gridded": _gridded_line,
    "snapshot": _snapshot_line,
    "run": _run_line,
    "raw": _raw_line,
}
