"""Downward: what was made of something."""

from __future__ import annotations

from collections import defaultdict
from heapq import heappop, heappush
from typing import Any

from pyiceberg.expressions import EqualTo

from thalweg import warehouse
from thalweg.lineage.graph import Lineage
from thalweg.lineage.notes import add_fields, add_snapshot, add_table, finish, resolve, uses_of
from thalweg.settings import Settings, load
from thalweg.warehouse.access import definition, reachable

__all__ = ["down"]


def down(what: str, settings: Settings | None = None) -> Lineage:
    """What was made of a table, of fields, of what a run wrote or of a raw file.

    Raises `NotFound` and `InvalidInput` as `up` does.
    """
    settings = settings or load()
    kind, name = resolve(what, settings)
    graph = Lineage("down", f"{kind} {name}")
    trace = _Down(graph, settings)
    if kind == "raw":
        for use in uses_of(settings, version=name, kind="raw", direction="read"):
            graph.link(graph.root, f"run {use.run_id}")
            trace.written_by(use.run_id, use.id)
    elif kind == "run":
        trace.written_by(name)
    else:
        add = add_table if kind == "table" else add_fields
        graph.root = add(graph, name, settings)
        trace.readers(graph.root, (kind, name))
    trace.follow()
    finish(graph, settings)
    if kind == "raw":
        graph.note(graph.root, rows=_rows_of(name, settings))
    return graph


class _Down:
    """Follows what runs noted, write by write in order of time."""

    def __init__(self, graph: Lineage, settings: Settings) -> None:
        self.graph = graph
        self.wrote: dict[str, list[Any]] = defaultdict(list)
        self.read: dict[tuple[str, str], list[Any]] = defaultdict(list)
        self.write_ids: dict[tuple[str, str, str], int] = {}
        self.waiting: list[Any] = []  # heap of writes by id, which is by time
        self.queued: set[int] = set()
        for use in (use for kind in ("table", "gridded") for use in uses_of(settings, kind=kind)):
            if use.direction == "wrote":
                self.wrote[use.run_id].append(use)
                self.write_ids[use.kind, use.name, use.version] = use.id
            else:
                self.read[use.kind, use.name].append(use)

    def written_by(self, run_id: str, since: int = 0) -> None:
        """What a run wrote to tables and fields after the use with this id waits."""
        for use in self.wrote[run_id]:
            if use.id > since and use.id not in self.queued:
                self.queued.add(use.id)
                heappush(self.waiting, use)

    def readers(self, key: str, state: tuple[str, str], since: int = 0, writer: str = "") -> None:
        """Add the runs that read a state at or after a write; what they wrote waits."""
        for use in self.read[state]:
            at = self.write_ids.get((*state, use.version), use.id)
            if at >= since and use.run_id != writer:
                self.graph.link(key, f"run {use.run_id}")
                self.written_by(use.run_id, use.id)

    def follow(self) -> None:
        """Follow what was written until nothing waits.

        In order of time, so that a run that read a table hangs on the first of the snapshots that
        it could have got something from, and not on each of thousands.
        """
        followed = set()
        while self.waiting:
            use = heappop(self.waiting)
            key = add_snapshot(self.graph, use)
            if use.name not in followed:
                followed.add(use.name)
                self.readers(key, (use.kind, use.name), use.id, use.run_id)


def _rows_of(file_id: str, settings: Settings) -> dict[str, int]:
    """How many rows the tables have from a raw file now, those that have any."""
    mine = EqualTo("raw_file_id", file_id)  # type: ignore[call-arg, arg-type]
    counts = {}
    for name in warehouse.names():
        if "raw_file_id" in definition(name).columns:
            found = warehouse.table(name, settings)
            with reachable(found.catalog.name):
                if count := found.scan(mine).count():
                    counts[name] = count
    return counts
