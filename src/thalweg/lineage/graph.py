"""What is found: a graph of rows, snapshots, runs and raw files, and how it prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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

    @property
    def key(self) -> str:
        """What the graph calls it; of a run or a raw file the id is enough."""
        if self.kind in ("run", "raw"):
            return f"{self.kind} {self.id}"
        which = (self.about.get(what) for what in ("where", "compared_by"))
        return " ".join(filter(None, (self.kind, self.name, self.id, *which)))

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

    def add(self, node: Node) -> str:
        """Add a node, or what is known of it now; returns its key."""
        self.nodes[node.key] = node
        return node.key

    def note(self, key: str, **about: Any) -> None:
        """Note more about a node."""
        self.add(replace(self.nodes[key], about={**self.nodes[key].about, **about}))

    def link(self, start: str, end: str, rows: int | None = None) -> None:
        """Add an edge; rows of one that is known are added to its own."""
        known = self.edges.get((start, end))
        self.edges[start, end] = rows if known is None else known + (rows or 0)

    def ids(self, kind: str) -> list[str]:
        """Ids of the runs or raw files that the graph speaks of."""
        keys = {self.root, *(key for edge in self.edges for key in edge)}
        return sorted(key.partition(" ")[2] for key in keys if key.startswith(f"{kind} "))

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
        tree = Tree("", hide_root=True)
        seen = set()
        waiting: list[tuple[Tree, str, str]] = [(tree, self.root, str(self.nodes[self.root]))]
        while waiting:
            branch, key, line = waiting.pop()
            again = key in seen and key in further
            twig = branch.add(Text(f"{line} (see above)" if again else line))
            if again or not key:
                continue
            seen.add(key)
            newest = sorted(further.get(key, ()), key=self._age, reverse=True)
            if len(newest) > shown:
                waiting.append((twig, "", f"… and {len(newest) - shown:,} more"))
            for far, rows in reversed(newest[:shown]):
                came = f": {_counted(rows, 'row')}" if rows else ""
                waiting.append((twig, far, f"{self.nodes[far]}{came}"))
        if not self.edges:
            done = "wrote" if self.direction == "up" else "read"
            tree.children[0].add(Text(f"no run has noted that it {done} this"))
        return tree.children[0]

    def __rich__(self) -> Tree:
        return self.tree()

    def _age(self, step: tuple[str, int | None]) -> tuple[str, str]:
        node = self.nodes[step[0]]
        return str(node.about.get("at") or ""), node.id


def _rows_line(name: str, id: str, about: Mapping[str, Any]) -> str:
    if not id:
        return f"{name}: nothing was ever written"
    where = f" where {about['where']}" if "where" in about else ""
    compared = " that were compared" if "compared_by" in about else ""
    rows = f": {_counted(about['rows'], 'row')}{compared}" if "rows" in about else ""
    outside = f", {about['untraced']:,} from outside a run" if about.get("untraced") else ""
    expired = ", which has expired: traced in the table as it is now"
    state = f"snapshot {id}{_at(about)}{expired if about.get('expired') else ''}"
    return f"{name}{where}{rows} ({state}){outside}"


def _snapshot_line(name: str, id: str, about: Mapping[str, Any]) -> str:
    if "message" in about:
        return f"snapshot {id} of {name}: {about['message'].partition(';')[0]}"
    rows = f": {_counted(about['rows'], 'row')} written" if about["rows"] else ""
    return f"snapshot {id} of {name}{rows}"


def _gridded_line(name: str, id: str, about: Mapping[str, Any]) -> str:
    return f"fields of {name} (snapshot {id})"


def _run_line(name: str, id: str, about: Mapping[str, Any]) -> str:
    if not about:
        return f"run {id}, of which there is no record"
    return f"run {id[-12:]} of {name}, {about['state']}{_at(about)}, by {about['user']}"


def _raw_line(name: str, id: str, about: Mapping[str, Any]) -> str:
    if not about:
        return f"raw file {id}, of which there is no record"
    rows = [
        f"{_counted(count, 'row')} in {table}" for table, count in about.get("rows", {}).items()
    ]
    now = f"; now {', '.join(rows) or 'in no table'}" if "rows" in about else ""
    return f"raw file {id[-12:]} {name}, {about['size']:,} bytes from {about['url']}{now}"


def _at(about: Mapping[str, Any]) -> str:
    """When, to the minute; times are UTC."""
    return f" at {about['at'][:16].replace('T', ' ')}" if about.get("at") else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


_LINES = {
    "rows": _rows_line,
    "gridded": _gridded_line,
    "snapshot": _snapshot_line,
    "run": _run_line,
    "raw": _raw_line,
}
