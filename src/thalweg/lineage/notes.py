"""What tables, repositories and the metadata database say: the nodes of a graph."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from sqlalchemy import select

from thalweg import database, gridded, raw, warehouse
from thalweg.database import RunRow, RunUse
from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.lineage.graph import Lineage, Node
from thalweg.settings import Settings

__all__ = ["add_fields", "add_snapshot", "add_table", "finish", "iso", "resolve", "runs", "uses_of"]

OF_RUN = ("state", "user", "parameters", "git_commit", "environment", "notebook_uri")
OF_FILE = ("url", "uri", "sha256", "size")


def resolve(what: str, settings: Settings) -> tuple[Literal["table", "gridded", "run", "raw"], str]:
    """The kind of something, and its whole name or id."""
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


def uses_of(settings: Settings, **wanted: str) -> list[Any]:
    """Notes of what runs read and wrote, in order of time."""
    columns = [getattr(RunUse, c) for c in ("id", "run_id", "direction", "kind", "name", "version")]
    query = select(*columns, RunUse.rows).filter_by(**wanted).order_by(RunUse.id)
    query = query.where(RunUse.direction.in_(["read", "wrote"]))  # a rerun only compares
    with database.session(settings) as session:
        return list(session.execute(query))


def runs(ids: list[str], settings: Settings) -> list[RunRow]:
    """The runs with these ids that are on record."""
    with database.session(settings) as session:
        queries = (select(RunRow).where(RunRow.id.in_(part)) for part in database.in_parts(ids))
        return [row for query in queries for row in session.scalars(query)]


def add_table(
    graph: Lineage,
    name: str,
    settings: Settings,
    where: Any = None,
    snapshot_id: int | None = None,
    **about: Any,
) -> str:
    """Add a table, or rows of it, as of a snapshot or as it is now; returns the key."""
    found = warehouse.table(name, settings)
    snapshot = found.snapshot_by_id(snapshot_id) if snapshot_id else found.current_snapshot()
    if where is not None:
        about["where"] = str(where)
    if snapshot:
        about["at"] = iso(dt.datetime.fromtimestamp(snapshot.timestamp_ms / 1000, dt.UTC))
    elif snapshot_id:
        about["expired"] = True
    id = snapshot_id or (snapshot.snapshot_id if snapshot else "")
    return graph.add(Node("rows", name, str(id), about))


def add_fields(graph: Lineage, name: str, settings: Settings, snapshot: str | None = None) -> str:
    """Add a gridded repository as of a snapshot or as it is now; returns the key."""
    return graph.add(Node("gridded", name, snapshot or gridded.snapshots(name, settings)[0].id))


def add_snapshot(graph: Lineage, use: Any) -> str:
    """Add a snapshot that a run wrote, and the run; returns the key."""
    key = graph.add(Node("snapshot", use.name, use.version, {"rows": use.rows}))
    graph.link(f"run {use.run_id}", key)
    return key


def finish(graph: Lineage, settings: Settings) -> Lineage:
    """Add what is known of the graph's runs and raw files."""
    files = {file.id: file for file in raw.find(ids=graph.ids("raw"), settings=settings)}
    for file in files.values():
        # Most runs read what they landed themselves; to say so again would be a circle.
        lander = f"run {file.run_id}"
        is_circle = (f"raw {file.id}", lander) in graph.edges
        if graph.direction == "up" and file.run_id and not is_circle:
            graph.link(lander, f"raw {file.id}")
    for id in graph.ids("raw"):
        node = Node("raw", "", id)
        if id in files:
            file = files[id]
            about = {key: getattr(file, key) for key in OF_FILE} | {
                "at": iso(file.ingested_at),
                "valid_from": iso(file.valid_from),
                "valid_to": iso(file.valid_to),
                "landed_by": file.run_id,
            }
            node = Node("raw", f"{file.source}/{file.dataset}", id, about)
        graph.add(node)
    for id in graph.ids("run"):
        graph.add(Node("run", "", id))
    for run in runs(graph.ids("run"), settings):
        about = {key: getattr(run, key) for key in OF_RUN}
        about |= {"at": iso(run.started_at), "ended_at": iso(run.ended_at)}
        graph.add(Node("run", run.pipeline, run.id, about))
    return graph


def iso(time: dt.datetime | None) -> str | None:
    """A time as text, in UTC."""
    return time.astimezone(dt.UTC).isoformat(timespec="seconds") if time else None
