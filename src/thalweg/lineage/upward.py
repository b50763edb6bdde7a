"""Upward: what something came from."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import permutations
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, In
from pyparsing import ParseException

from thalweg import gridded, warehouse
from thalweg.errors import InvalidInput, NotFound
from thalweg.lineage.graph import Lineage, Node
from thalweg.lineage.notes import (
    add_fields,
    add_snapshot,
    add_table,
    finish,
    iso,
    resolve,
    uses_of,
)
from thalweg.settings import Settings, load
from thalweg.warehouse.access import definition, reachable
from thalweg.warehouse.query import PAIRED
from thalweg.warehouse.schema import PROVENANCE

__all__ = ["up"]

#: How many rows came from each raw file by each run; None is "none" and "outside a run".
Origins = Counter[tuple[str | None, str | None]]
#: Rows of the one side that have a partner on the other, counted by where they came from.
COMPARED = {
    side: f"""
        SELECT {row}.raw_file_id, {row}.run_id, count(*) FROM {side} {row} WHERE EXISTS (
            FROM location_crosswalks c, {other} {partner} WHERE {PAIRED}
        ) GROUP BY ALL
    """  # noqa: S608 - known names
    for (side, row), (other, partner) in permutations(
        (("primary_timeseries", "p"), ("secondary_timeseries", "s"))
    )
}


def up(
    what: str,
    where: str | BooleanExpression | None = None,
    snapshot_id: int | None = None,
    settings: Settings | None = None,
) -> Lineage:
    """What a table, some of its rows, fields, a run or a raw file came from.

    Parameters
    ----------
    what
        Name of a table or of a gridded repository, or id (its start or end will do) of a run or
        raw file.
    where
        Only rows of the table for which this holds, as `warehouse.read` takes it. Of rows of
        `metrics` it is traced which rows were compared: those of the same place and time in the
        snapshots that the run had read.
    snapshot_id
        The state of the table; the newest by default.

    Raises
    ------
    NotFound
        No such table, repository, run, raw file or snapshot.
    InvalidInput
        A condition that cannot be understood, or is not about a table.
    """
    settings = settings or load()
    kind, name = resolve(what, settings)
    graph = Lineage("up", f"{kind} {name}")
    trace = _Up(graph, settings)
    if kind == "table":
        if snapshot_id and not warehouse.table(name, settings).snapshot_by_id(snapshot_id):
            raise NotFound(f"table {name!r} has no snapshot {snapshot_id}")
        graph.root = trace.rows(name, where, snapshot_id)
    elif where is not None or snapshot_id is not None:
        raise InvalidInput(f"{what!r} is no table: a condition or snapshot is for a table")
    elif kind == "gridded":
        graph.root = trace.fields(name)
    elif kind == "run":
        trace.inputs(name)
    trace.follow()
    return finish(graph, settings)


class _Up:
    """Follows rows to the runs that wrote them, and runs to what they had read."""

    def __init__(self, graph: Lineage, settings: Settings) -> None:
        self.graph = graph
        self.settings = settings
        self.waiting: list[Any] = []  # uses by runs that are not yet followed

    def follow(self) -> None:
        """Follow the tables and fields that runs read until nothing waits."""
        seen: dict[tuple[str, str], str] = {}
        while self.waiting:
            use = self.waiting.pop()
            state = use.name, use.version
            if state not in seen:
                is_table = use.kind == "table"
                seen[state] = (
                    self.rows(use.name, None, int(use.version)) if is_table else self.fields(*state)
                )
            self.graph.link(seen[state], f"run {use.run_id}")

    def inputs(self, run_id: str) -> None:
        """Add the raw files that a run read; the tables and fields that it read wait."""
        for use in uses_of(self.settings, run_id=run_id, direction="read"):
            if use.kind == "raw":
                self.graph.link(f"raw {use.version}", f"run {run_id}")
            else:
                self.waiting.append(use)

    def rows(self, name: str, where: Any = None, snapshot_id: int | None = None) -> str:
        """Add rows of a table, with the runs and raw files that they came from."""
        key = add_table(self.graph, name, self.settings, where, snapshot_id)
        node = self.graph.nodes[key]
        if "run_id" not in definition(name).columns:
            for use in self.writes(node):
                self.graph.link(add_snapshot(self.graph, use), key)
                for each in uses_of(self.settings, run_id=use.run_id, kind="raw", direction="read"):
                    self.graph.link(f"raw {each.version}", f"run {use.run_id}")
        elif node.id:
            known = None if "expired" in node.about else snapshot_id
            origins = _origins(name, where, known, self.settings)
            self.origins(key, origins)
            for run_id in {run for file, run in origins if run and not file}:
                if name == "metrics" and where is not None:
                    metrics = warehouse.read(name, None, where, known, self.settings)
                    self.compared(run_id, metrics.filter(pc.field("run_id") == run_id))
                else:
                    self.inputs(run_id)
        return key

    def writes(self, node: Node) -> list[Any]:
        """The noted writes to a table up to the one that made this snapshot."""
        uses = uses_of(self.settings, name=node.name, kind="table", direction="wrote")
        last = max((use.id for use in uses if use.version == node.id), default=None)
        return [use for use in uses if last is None or use.id <= last]

    def origins(self, key: str, origins: Origins) -> None:
        """Link rows with the raw files and runs that brought them, through what the runs wrote."""
        self.graph.note(key, rows=origins.total(), untraced=origins[None, None])
        wrote = defaultdict(list)
        for use in self.writes(self.graph.nodes[key]):
            wrote[use.run_id].append(use)
        for (file, run), rows in origins.items():
            if file:
                self.graph.link(f"raw {file}", f"run {run}" if run else key, rows)
            for use in wrote.get(run or "", ()):
                self.graph.link(add_snapshot(self.graph, use), key)
            if run and run not in wrote:
                self.graph.link(f"run {run}", key)

    def compared(self, run_id: str, metrics: pa.Table) -> None:
        """The rows that were compared for these metrics, in the snapshots that the run had read."""
        uses = uses_of(self.settings, run_id=run_id, direction="read", kind="table")
        read = {use.name: int(use.version) for use in uses}
        if not read.keys() >= {*COMPARED, "location_crosswalks"}:
            return self.inputs(run_id)

        def part(name: str, where: BooleanExpression) -> pa.Table:
            """Rows as the run read them; as they are now where that snapshot has expired."""
            is_known = warehouse.table(name, self.settings).snapshot_by_id(read[name])
            return warehouse.read(
                name, None, where, read[name] if is_known else None, self.settings
            )

        places, models = (
            metrics[name].unique().to_pylist()
            for name in ("primary_location_id", "configuration_name")
        )
        crosswalk = part("location_crosswalks", _among("primary_location_id", places))
        reaches = _among("location_id", crosswalk["secondary_location_id"].to_pylist())
        with duckdb.connect() as connection:
            connection.register("location_crosswalks", crosswalk)
            primary = part("primary_timeseries", _among("location_id", places))
            connection.register("primary_timeseries", primary)
            secondary = And(reaches, _among("configuration_name", models))
            connection.register("secondary_timeseries", part("secondary_timeseries", secondary))
            for name, sql in COMPARED.items():
                key = add_table(
                    self.graph, name, self.settings, None, read[name], compared_by=run_id
                )
                counted = connection.sql(sql).fetchall()
                self.origins(key, Counter({(file, run): rows for file, run, rows in counted}))
                self.graph.link(key, f"run {run_id}")
        self.waiting += [use for use in uses if use.name == "location_crosswalks"]
        return None

    def fields(self, name: str, snapshot: str | None = None) -> str:
        """Add a gridded repository with what its commits say that they came from."""
        key = add_fields(self.graph, name, self.settings, snapshot)
        states = gridded.snapshots(name, self.settings)
        ids = [state.id for state in states]
        for state in states[ids.index(snapshot) if snapshot in ids else 0 :]:
            if not state.raw_file_ids:
                continue  # the repository was made
            about = {"at": iso(state.written_at), "message": state.message}
            commit = by = self.graph.add(Node("snapshot", name, state.id, about))
            self.graph.link(commit, key)
            if state.run_id:
                by = f"run {state.run_id}"
                self.graph.link(by, commit)
            for file in state.raw_file_ids:
                self.graph.link(f"raw {file}", by)
        return key


def _origins(name: str, where: Any, snapshot_id: int | None, settings: Settings) -> Origins:
    """Counts the rows of a table by raw file and run, in streams: tables are large."""
    found = warehouse.table(name, settings)
    columns = tuple(c for c in PROVENANCE if c in definition(name).columns)
    counts: Origins = Counter()
    try:
        scan = found.scan(where or AlwaysTrue(), columns, snapshot_id=snapshot_id)
        with reachable(found.catalog.name):
            for batch in scan.to_arrow_batch_reader():
                groups = pa.table(batch).group_by(columns).aggregate([([], "count_all")])
                for row in groups.to_pylist():
                    counts[row.get("raw_file_id"), row["run_id"]] += row["count_all"]
    except (ParseException, ValueError, TypeError) as error:
        raise InvalidInput(f"cannot read {name} where {where}: {error}") from error
    return counts


def _among(column: str, values: list[str]) -> BooleanExpression:
    return In(column, values)  # type: ignore[call-arg, arg-type]
