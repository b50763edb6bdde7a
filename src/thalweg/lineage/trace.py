"""Following the data upward and downward, from what rows and runs say of themselves."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from heapq import heappop, heappush
from itertools import permutations
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, In
from pyparsing import ParseException
from sqlalchemy import select

from thalweg import database, gridded, raw, warehouse
from thalweg.database import RunRow, RunUse
from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.lineage.graph import Direction, Lineage, Node
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.warehouse.access import definition, reachable

__all__ = ["down", "runs_by_id", "up", "uses_of"]

PARAMETERS = 10_000  # in one query; databases take some ten thousand
PROVENANCE = ("raw_file_id", "run_id")
#: How many rows came from each raw file by each run; None is "none" and "outside a run".
Origins = Counter[tuple[str | None, str | None]]
#: Which rows of the one side have a partner on the other: same place, time, variable and unit.
_PAIR = """
    SELECT {side}.raw_file_id, {side}.run_id, count(*) FROM {side} WHERE EXISTS (
        FROM crosswalk c, {other} o
        WHERE c.{near} = {side}.location_id AND c.{far} = o.location_id
            AND o.value_time = {side}.value_time AND o.variable_name = {side}.variable_name
            AND o.unit_name = {side}.unit_name
    ) GROUP BY ALL
"""
_PRIMARY = ("primary_timeseries", "primary_location_id")
_SECONDARY = ("secondary_timeseries", "secondary_location_id")
PAIRED = {
    side: _PAIR.format(side=side, near=near, other=other, far=far)
    for (side, near), (other, far) in permutations((_PRIMARY, _SECONDARY))
}
#: What is written by snapshots.
STATES = ("table", "gridded")
COMPARED = {"primary_timeseries", "secondary_timeseries", "location_crosswalks"}


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
    trace = _Trace("up", settings or load())
    kind, name = _resolve(what, trace.settings)
    if kind == "table":
        if snapshot_id and not warehouse.table(name, trace.settings).snapshot_by_id(snapshot_id):
            raise NotFound(f"table {name!r} has no snapshot {snapshot_id}")
        trace.graph.root = trace.rows(name, where, snapshot_id)
    elif where is not None or snapshot_id is not None:
        raise InvalidInput(f"{what!r} is no table: a condition or snapshot is for a table")
    elif kind == "gridded":
        trace.graph.root = trace.fields(name)
    else:
        trace.graph.root = f"{kind} {name}"
        if kind == "run":
            trace.inputs(name)
    trace.upward()
    return trace.finished()


def down(what: str, settings: Settings | None = None) -> Lineage:
    """What was made of a table, of fields, of what a run wrote or of a raw file.

    Raises `NotFound` and `InvalidInput` as `up` does.
    """
    trace = _Trace("down", settings or load())
    kind, name = _resolve(what, trace.settings)
    if kind in STATES:
        trace.graph.root = trace.state(name) if kind == "table" else trace.field_state(name)
        trace.readers(trace.graph.root, f"{kind} {name}", 0)
    else:
        trace.graph.root = f"{kind} {name}"
        (trace.written_by if kind == "run" else trace.made_of)(name)
    trace.downward()
    graph = trace.finished()
    if kind == "raw":
        root = graph.nodes[graph.root]
        now = {**root.about, "rows": _rows_of(name, trace.settings)}
        graph.nodes[graph.root] = replace(root, about=now)
    return graph


class _Trace:
    """Follows the data step by step; what is still to be followed waits."""

    def __init__(self, direction: Direction, settings: Settings) -> None:
        self.settings = settings
        self.graph = Lineage(direction)
        self._read: list[Any] = []  # uses by runs that are not yet followed
        self._written: list[Any] = []  # heap of uses by id, which is by time
        self._queued: set[int] = set()

    def link(self, start: str, end: str, rows: int | None = None) -> None:
        known = self.graph.edges.get((start, end))
        self.graph.edges[start, end] = rows if known is None else known + (rows or 0)

    def state(
        self, name: str, where: Any = None, snapshot_id: int | None = None, **about: Any
    ) -> str:
        """Add a table, or rows of it, as of a snapshot; returns the key."""
        found = warehouse.table(name, self.settings)
        newest = found.current_snapshot()
        snapshot = found.snapshot_by_id(snapshot_id) if snapshot_id else newest
        id = str(snapshot_id or (newest.snapshot_id if newest else ""))
        about |= {"where": str(where)} if where is not None else {}
        if snapshot:
            about["at"] = _iso(dt.datetime.fromtimestamp(snapshot.timestamp_ms / 1000, dt.UTC))
        elif snapshot_id:
            about["expired"] = True
        key = " ".join(
            ("rows", name, id, *(about[k] for k in ("where", "compared_by") if k in about))
        )
        self.graph.nodes[key] = Node("rows", name, id, about)
        return key

    def rows(self, name: str, where: Any = None, snapshot_id: int | None = None) -> str:
        """Add rows of a table, with the runs and raw files that they came from."""
        key = self.state(name, where, snapshot_id)
        node = self.graph.nodes[key]
        if not node.id:
            return key
        if "run_id" not in definition(name).columns:
            for use in self.writes(name, node.id):
                self.link(self.snapshot(use), key)
                for each in uses_of(self.settings, run_id=use.run_id, kind="raw", direction="read"):
                    self.link(f"raw {each.version}", f"run {use.run_id}")
            return key
        known = None if node.about.get("expired") else snapshot_id
        origins = _origins(name, where, known, self.settings)
        self.origins(key, origins)
        for run_id in {run for file, run in origins if run and not file}:
            if name == "metrics" and where is not None:
                self.compared(run_id, warehouse.read(name, None, where, known, self.settings))
            else:
                self.inputs(run_id)
        return key

    def origins(self, key: str, origins: Origins) -> None:
        """Link rows with the raw files and runs that brought them, through what the runs wrote."""
        node = self.graph.nodes[key]
        counts = {"rows": origins.total(), "untraced": origins[None, None]}
        self.graph.nodes[key] = replace(node, about={**node.about, **counts})
        wrote: dict[str, list[Any]] = {}
        for use in self.writes(node.name, node.id):
            wrote.setdefault(use.run_id, []).append(use)
        for (file, run), rows in origins.items():
            if file:
                self.link(f"raw {file}", f"run {run}" if run else key, rows)
            for use in wrote.get(run or "", ()):
                self.link(self.snapshot(use), key)
            if run and run not in wrote:
                self.link(f"run {run}", key)

    def compared(self, run_id: str, metrics: pa.Table) -> None:
        """The rows that were compared for these metrics, in the snapshots that the run had read."""
        uses = uses_of(self.settings, run_id=run_id, direction="read", kind="table")
        read = {use.name: int(use.version) for use in uses}
        if not set(read) >= COMPARED:
            return self.inputs(run_id)
        mine = metrics.filter(pc.field("run_id") == run_id)
        places, models = (
            mine[name].unique().to_pylist()
            for name in ("primary_location_id", "configuration_name")
        )
        crosswalk = self.part("location_crosswalks", read, _among("primary_location_id", places))
        reaches = crosswalk["secondary_location_id"].to_pylist()
        tables = {
            "crosswalk": crosswalk,
            "primary_timeseries": self.part(
                "primary_timeseries", read, _among("location_id", places)
            ),
            "secondary_timeseries": self.part(
                "secondary_timeseries",
                read,
                And(_among("location_id", reaches), _among("configuration_name", models)),
            ),
        }
        for name, sql in PAIRED.items():
            key = self.state(name, None, read[name], compared_by=run_id)
            with duckdb.connect() as connection:
                for each, rows in tables.items():
                    connection.register(each, rows)
                counted = connection.sql(sql).fetchall()
            self.origins(key, Counter({(file, run): rows for file, run, rows in counted}))
            self.link(key, f"run {run_id}")
        self._read += [use for use in uses if use.name == "location_crosswalks"]
        return None

    def part(self, name: str, read: dict[str, int], where: BooleanExpression) -> pa.Table:
        """Rows as a run read them; as they are now where that snapshot has expired."""
        is_known = warehouse.table(name, self.settings).snapshot_by_id(read[name])
        snapshot_id = read[name] if is_known else None
        return warehouse.read(name, None, where, snapshot_id, self.settings)

    def inputs(self, run_id: str) -> None:
        """Add the raw files that a run read; the tables that it read wait."""
        for use in uses_of(self.settings, run_id=run_id, direction="read"):
            if use.kind == "raw":
                self.link(f"raw {use.version}", f"run {run_id}")
            else:
                self._read.append(use)

    def upward(self) -> None:
        """Follow the tables and fields that runs read until nothing waits."""
        seen: dict[tuple[str, str], str] = {}
        while self._read:
            use = self._read.pop()
            state = use.name, use.version
            if state not in seen and use.kind == "table":
                seen[state] = self.rows(use.name, None, int(use.version))
            elif state not in seen:
                seen[state] = self.fields(*state)
            self.link(seen[state], f"run {use.run_id}")

    def field_state(self, name: str, snapshot: str | None = None) -> str:
        """Add a gridded repository as of a snapshot; returns the key."""
        id = snapshot or gridded.snapshots(name, self.settings)[0].id
        key = f"gridded {name} {id}"
        self.graph.nodes[key] = Node("gridded", name, id)
        return key

    def fields(self, name: str, snapshot: str | None = None) -> str:
        """Add a gridded repository with what its commits say that they came from."""
        key = self.field_state(name, snapshot)
        states = gridded.snapshots(name, self.settings)
        ids = [state.id for state in states]
        for state in states[ids.index(snapshot) if snapshot in ids else 0 :]:
            if not state.raw_file_ids:
                continue  # the repository was made
            commit = f"snapshot {name} {state.id}"
            about = {"at": _iso(state.written_at), "message": state.message}
            self.graph.nodes[commit] = Node("snapshot", name, state.id, about)
            self.link(commit, key)
            by = f"run {state.run_id}" if state.run_id else commit
            if state.run_id:
                self.link(by, commit)
            for file in state.raw_file_ids:
                self.link(f"raw {file}", by)
        return key

    def writes(self, name: str, snapshot_id: str) -> list[Any]:
        """The noted writes to a table up to the one that made this snapshot."""
        uses = uses_of(self.settings, name=name, kind="table", direction="wrote")
        last = max((use.id for use in uses if use.version == snapshot_id), default=None)
        return [use for use in uses if last is None or use.id <= last]

    def snapshot(self, use: Any) -> str:
        """Add a snapshot that a run wrote; returns the key."""
        key = f"snapshot {use.name} {use.version}"
        self.graph.nodes[key] = Node("snapshot", use.name, use.version, {"rows": use.rows})
        self.link(f"run {use.run_id}", key)
        return key

    def made_of(self, file_id: str) -> None:
        """Add the runs that read a raw file; what they wrote after it waits."""
        reads = uses_of(self.settings, version=file_id, kind="raw", direction="read")
        for use in reads:
            self.link(f"raw {file_id}", f"run {use.run_id}")
            self.written_by(use.run_id, use.id)

    def written_by(self, run_id: str, since: int = 0) -> None:
        """What a run wrote to tables after the use with this id waits."""
        for use in self._wrote.get(run_id, ()):
            if use.id > since and use.id not in self._queued:
                self._queued.add(use.id)
                heappush(self._written, use)

    def readers(self, key: str, state: str, since: int, writer: str = "") -> None:
        """Add the runs that read a state at or after a write; what they wrote waits."""
        for use in self._reads.get(state, ()):
            at = self._write_ids.get((state, use.version), use.id)
            if at >= since and use.run_id != writer:
                self.link(key, f"run {use.run_id}")
                self.written_by(use.run_id, use.id)

    def downward(self) -> None:
        """Follow what was written until nothing waits.

        In order of time, so that a run that read a table hangs on the first of the snapshots that
        it could have got something from, and not on each of thousands.
        """
        followed = set()
        while self._written:
            use = heappop(self._written)
            key = self.snapshot(use)
            if use.name not in followed:
                followed.add(use.name)
                self.readers(key, f"{use.kind} {use.name}", use.id, use.run_id)

    @cached_property
    def _states(self) -> list[Any]:
        return [use for kind in STATES for use in uses_of(self.settings, kind=kind)]

    @cached_property
    def _wrote(self) -> dict[str, list[Any]]:
        return _grouped((use.run_id, use) for use in self._states if use.direction == "wrote")

    @cached_property
    def _reads(self) -> dict[str, list[Any]]:
        read = (use for use in self._states if use.direction == "read")
        return _grouped((f"{use.kind} {use.name}", use) for use in read)

    @cached_property
    def _write_ids(self) -> dict[tuple[str, str], int]:
        wrote = (use for use in self._states if use.direction == "wrote")
        return {(f"{use.kind} {use.name}", use.version): use.id for use in wrote}

    def finished(self) -> Lineage:
        """The graph, with what is known of its runs and raw files."""
        graph = self.graph
        ids = _ids(graph, "raw")
        files = {file.id: file for file in raw.find(ids=ids, settings=self.settings)}
        for file in files.values():
            # Most runs read what they landed themselves; to say so again would be a circle.
            lander = f"run {file.run_id}"
            if (
                graph.direction == "up"
                and file.run_id
                and (f"raw {file.id}", lander) not in graph.edges
            ):
                self.link(lander, f"raw {file.id}")
        runs = runs_by_id(_ids(graph, "run"), self.settings)
        for id in ids:
            graph.nodes[f"raw {id}"] = _raw_node(id, files.get(id))
        for id in _ids(graph, "run"):
            graph.nodes[f"run {id}"] = _run_node(id, runs.get(id))
        return graph


def _resolve(
    what: str, settings: Settings
) -> tuple[Literal["table", "gridded", "run", "raw"], str]:
    if what in warehouse.names():
        return "table", what
    ends = RunRow.id.startswith(what, autoescape=True) | RunRow.id.endswith(what, autoescape=True)
    with database.session(settings) as session:
        found = session.scalars(select(RunRow.id).where(ends).limit(2)).all()
    if len(found) > 1:
        raise InvalidInput(f"several runs have ids with {what!r}: give more of the id")
    if found:
        return "run", found[0]
    try:
        return "raw", raw.get(what, settings).id
    except NotFound:
        pass
    known = gridded.names(settings)
    if what in known:
        return "gridded", what
    hint = nearest(what, [*warehouse.names(), *known])
    raise NotFound(f"{what!r} is no table or gridded repository, no run and no raw file{hint}")


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


def _rows_of(file_id: str, settings: Settings) -> dict[str, int]:
    """How many rows each table has from a raw file now."""
    tables = [name for name in warehouse.names() if "raw_file_id" in definition(name).columns]
    counts = {}
    for name in tables:
        found = warehouse.table(name, settings)
        with reachable(found.catalog.name):
            counts[name] = found.scan(_among("raw_file_id", [file_id])).count()
    return counts


def uses_of(settings: Settings, **wanted: str) -> list[Any]:
    """Notes of what runs read and wrote, in order of time."""
    columns = [getattr(RunUse, c) for c in ("id", "run_id", "direction", "kind", "name", "version")]
    query = select(*columns, RunUse.rows).filter_by(**wanted).order_by(RunUse.id)
    with database.session(settings) as session:
        return list(session.execute(query))


def runs_by_id(ids: list[str], settings: Settings) -> dict[str, RunRow]:
    parts = [ids[i : i + PARAMETERS] for i in range(0, len(ids), PARAMETERS)]
    with database.session(settings) as session:
        queries = (select(RunRow).where(RunRow.id.in_(part)) for part in parts)
        return {row.id: row for query in queries for row in session.scalars(query)}


def _ids(graph: Lineage, kind: str) -> list[str]:
    """Ids of the runs or raw files that the graph speaks of."""
    keys = {graph.root, *(key for edge in graph.edges for key in edge)}
    return sorted(key.partition(" ")[2] for key in keys if key.startswith(f"{kind} "))


def _grouped(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for key, use in pairs:
        groups.setdefault(key, []).append(use)
    return groups


def _among(column: str, values: list[str]) -> BooleanExpression:
    return In(column, values)  # type: ignore[call-arg, arg-type]


def _iso(time: dt.datetime | None) -> str | None:
    return time.astimezone(dt.UTC).isoformat(timespec="seconds") if time else None


def _raw_node(id: str, file: RawFile | None) -> Node:
    if file is None:
        return Node("raw", "", id)
    about = {
        "url": file.url,
        "uri": file.uri,
        "sha256": file.sha256,
        "size": file.size,
        "at": _iso(file.ingested_at),
        "valid_from": _iso(file.valid_from),
        "valid_to": _iso(file.valid_to),
        "landed_by": file.run_id,
    }
    return Node("raw", f"{file.source}/{file.dataset}", id, about)


def _run_node(id: str, run: RunRow | None) -> Node:
    if run is None:
        return Node("run", "", id)
    about = {
        "state": run.state,
        "at": _iso(run.started_at),
        "ended_at": _iso(run.ended_at),
        "user": run.user,
        "parameters": run.parameters,
        "git_commit": run.git_commit,
        "environment": run.environment,
        "notebook_uri": run.notebook_uri,
    }
    return Node("run", run.pipeline, id, about)
