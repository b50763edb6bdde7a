"""Upkeep: small files become few, old snapshots end, files that nothing refers to are removed.

No row is changed by it. Readers and writers may be at work meanwhile: a rewrite is one commit that
demands the files it replaces, and nothing younger than the safety age is ended or removed.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table
from pyiceberg.utils.bin_packing import ListPacker
from sqlalchemy import select
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from thalweg import database, record, storage
from thalweg.database import RunUse
from thalweg.errors import InvalidInput, NotFound, Unavailable, nearest
from thalweg.settings import Settings
from thalweg.warehouse.access import catalog, reachable
from thalweg.warehouse.files import end, exchange, rows_of, write_as_read
from thalweg.warehouse.schema import NAMESPACE

__all__ = ["Snapshot", "Upkeep", "maintain", "snapshots"]

#: Files below this are joined with others of their partition, as many as make up BATCH; bytes.
SMALL, BATCH = 16 * 2**20, 128 * 2**20
#: No snapshot or file younger than this is touched: somebody may be reading or writing it.
YOUNGEST = dt.timedelta(hours=1)
#: What Iceberg writes; anything else beside a table is left alone.
ENDINGS = (".parquet", ".avro", ".metadata.json")
PROPERTIES = {"thalweg.upkeep": "compaction"}
THREADS = 8


@dataclass(frozen=True)
class Upkeep:
    """What the upkeep of a table did, or would do: files and bytes of the newest state, and so on.

    In a dry run `bytes_after` is `bytes_before`: what the rewrite saves is known when it is done.
    """

    table: str
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    snapshots_before: int
    snapshots_after: int
    snapshots_expired: int
    orphans: tuple[str, ...]
    orphan_bytes: int
    dry_run: bool


@dataclass(frozen=True)
class Snapshot:
    """A state of a table: what made it, rows added and removed by it and rows in it, and the run.

    A corrected row counts as removed and added, and so do the rows that share its file.
    """

    id: int
    at: dt.datetime
    operation: str  # append | overwrite | delete | compaction
    added: int
    removed: int
    rows: int
    run_id: str | None


def maintain(
    name: str | None = None,
    *,
    older_than: dt.timedelta = dt.timedelta(days=7),
    dry_run: bool = True,
    settings: Settings | None = None,
) -> list[Upkeep]:
    """Compact a table (all tables by default), expire its snapshots, remove orphan files.

    Compaction sorts the rows of a partition's small files by the table's sort order and writes
    them to as few files as they need. Of two that are at work, the writer wins: what it has
    replaced meanwhile is left as it is. Every state that was the newest at any moment of the time
    `older_than` stays readable, and so do those that have a tag.

    Parameters
    ----------
    older_than
        Age from which replaced snapshots are expired and orphan files removed, at least 1 hour.
    dry_run
        Only tell what there is to do.

    Returns
    -------
    list of Upkeep
        One a table.

    Raises
    ------
    InvalidInput
        An age below an hour.
    NotFound
        An unknown table.
    Unavailable
        The catalogue or the store does not answer, or other writers were faster again and again.
    """
    dry_run = dry_run or record.pinned() is not None  # a rerun changes nothing
    if older_than < YOUNGEST:
        raise InvalidInput(
            f"older_than is {older_than}: expected at least {YOUNGEST}, for others may be reading "
            "and writing what is younger"
        )
    before = dt.datetime.now(dt.UTC) - older_than
    known = _names(settings)
    if name is not None and name not in known:
        raise NotFound(f"unknown table {name!r}{nearest(name, known)}")
    return [
        _maintain(each, before, dry_run, settings) for each in ([name] if name else sorted(known))
    ]


def snapshots(name: str, settings: Settings | None = None) -> list[Snapshot]:
    """The states of a table that can still be read, oldest first; `NotFound` if it is unknown."""
    known = _names(settings)
    if name not in known:
        raise NotFound(f"unknown table {name!r}{nearest(name, known)}")
    found = _table(name, settings)
    wrote = select(RunUse.version, RunUse.run_id).filter_by(
        direction="wrote", kind="table", name=name
    )
    with database.session(settings) as session:
        runs = dict(session.execute(wrote).tuples().all())
    return [_snapshot(each, runs) for each in found.snapshots()]


def _snapshot(each: Any, runs: dict[str, str]) -> Snapshot:
    said = each.summary.additional_properties
    return Snapshot(
        id=each.snapshot_id,
        at=dt.datetime.fromtimestamp(each.timestamp_ms / 1000, dt.UTC),
        operation=said.get("thalweg.upkeep", each.summary.operation.value),
        added=int(said.get("added-records", 0)),
        removed=int(said.get("deleted-records", 0)),
        rows=int(said.get("total-records", 0)),
        run_id=runs.get(str(each.snapshot_id)),
    )


def _names(settings: Settings | None) -> list[str]:
    """Tables of the namespace, also those that others have made there."""
    found = catalog(settings)
    with reachable(found.name):
        return [identifier[-1] for identifier in found.list_tables(NAMESPACE)]


def _table(name: str, settings: Settings | None) -> Table:
    found = catalog(settings)
    with reachable(found.name):
        return found.load_table((NAMESPACE, name))


def _maintain(name: str, before: dt.datetime, dry_run: bool, settings: Settings | None) -> Upkeep:
    found = _table(name, settings)
    with reachable(found.catalog.name):
        tasks = _tasks(found)
        groups = _groups(tasks)
        snapshots_before = len(found.snapshots())
        if not dry_run:
            _compact(name, groups, settings)
        expired = len(_expired(found, before)) if dry_run else _expire(name, before, settings)
        found = _table(name, settings)
    orphans = _orphans(name, found.location(), before, settings)
    if not dry_run and orphans:
        with storage.translated(found.location()):
            storage.filesystem(found.location()).rm(list(orphans))
    after = tasks if dry_run else _tasks(found)
    return Upkeep(
        table=name,
        files_before=len(tasks),
        files_after=len(after) - (sum(len(group) - 1 for group in groups) if dry_run else 0),
        bytes_before=_size(tasks),
        bytes_after=_size(after),
        snapshots_before=snapshots_before,
        snapshots_after=len(found.snapshots()) + (bool(groups) - expired if dry_run else 0),
        snapshots_expired=expired,
        orphans=tuple(sorted(orphans)),
        orphan_bytes=sum(orphans.values()),
        dry_run=dry_run,
    )


def _tasks(found: Table) -> list[FileScanTask]:
    """The data files of the newest state, each with the row-level deletes that hold for it."""
    return list(found.scan().plan_files()) if found.current_snapshot() else []


def _size(tasks: Iterable[FileScanTask]) -> int:
    return sum(task.file.file_size_in_bytes for task in tasks)


def _groups(tasks: Iterable[FileScanTask]) -> list[list[FileScanTask]]:
    """Small files that are to become one: of one partition, two at least."""
    partitions: dict[Any, list[FileScanTask]] = defaultdict(list)
    for task in tasks:
        if task.file.file_size_in_bytes < SMALL:
            partitions[task.file.spec_id, task.file.partition].append(task)
    packer: ListPacker[FileScanTask] = ListPacker(BATCH, lookback=1, largest_bin_first=False)
    bins = (
        each
        for small in partitions.values()
        for each in packer.pack(small, lambda task: task.file.file_size_in_bytes)
    )
    return [each for each in bins if len(each) > 1]


def _compact(name: str, groups: list[list[FileScanTask]], settings: Settings | None) -> None:
    """Write every group anew, then put the new files in the place of the old in one commit."""
    rewritten = [(group, _rewrite(_table(name, settings), group)) for group in groups]
    tried: list[int] = []

    def replace() -> None:
        found = _table(name, settings)
        live = {_identity(task) for task in _tasks(found)}
        # A group that another writer has changed, or that we have replaced already, falls out; what
        # was written for it is an orphan, removed once it is old enough.
        left = [each for each in rewritten if {_identity(task) for task in each[0]} <= live]
        if not left:
            return
        with exchange(found, PROPERTIES) as update:
            for old, new in left:
                for task in old:
                    update.delete_data_file(task.file)
                for file in new:
                    update.append_data_file(file)
            tried.append(update.snapshot_id)

    _until_committed(name, replace)
    for id in tried:
        if _table(name, settings).snapshot_by_id(id):
            record.note("wrote", "table", name, str(id))


def _identity(task: FileScanTask) -> tuple[str, frozenset[str]]:
    return task.file.file_path, frozenset(file.file_path for file in task.delete_files)


def _rewrite(found: Table, group: list[FileScanTask]) -> list[DataFile]:
    """The rows of these files in new files, in the table's sort order."""
    rows, schema = rows_of(found, group), found.schema()
    order = [
        (schema.find_column_name(by.source_id), "ascending") for by in found.sort_order().fields
    ]
    return write_as_read(found, rows.sort_by(order) if order else rows)


def _expire(name: str, before: dt.datetime, settings: Settings | None) -> int:
    """End the snapshots that are old enough; how many these were."""
    ended: set[int] = set()

    def expire() -> None:
        found = _table(name, settings)
        if ids := _expired(found, before):
            end(found, ids)
            ended.update(ids)

    _until_committed(name, expire)
    return len(ended)


def _expired(found: Table, before: dt.datetime) -> list[int]:
    """Snapshots that a later one had replaced by this time, and that no branch or tag holds."""
    log = found.history()
    replaced = {one.snapshot_id: after.timestamp_ms for one, after in pairwise(log)}
    held = {reference.snapshot_id for reference in found.refs().values()}
    limit = before.timestamp() * 1000
    return [
        each.snapshot_id
        for each in found.snapshots()
        if each.snapshot_id not in held
        and replaced.get(each.snapshot_id, each.timestamp_ms) < limit
    ]


def _until_committed(name: str, commit: Callable[[], None]) -> None:
    """Commit; when another writer was faster or the answer was lost, from the new state again."""
    lost = (CommitFailedException, CommitStateUnknownException)
    patience = Retrying(
        retry=retry_if_exception_type(lost),
        wait=wait_random_exponential(0.05, max=2),
        stop=stop_after_attempt(20),
        reraise=True,
    )
    try:
        patience(commit)
    except lost:
        raise Unavailable(
            f"{name}: other writers were faster 20 times in a row; run the upkeep when they rest"
        ) from None


def _orphans(
    name: str, location: str, before: dt.datetime, settings: Settings | None
) -> dict[str, int]:
    """Path and size of each file beside the table that no state refers to that will be kept."""
    files = storage.filesystem(location)
    files.invalidate_cache()
    with storage.translated(location):
        lying = files.find(location, detail=True)
    # Read after the listing: what is committed in between is referred to, and stays.
    found = _table(name, settings)
    with reachable(found.catalog.name):
        used = {files._strip_protocol(uri) for uri in _references(found, _expired(found, before))}
    return {
        path: about["size"]
        for path, about in lying.items()
        if path.endswith(ENDINGS) and path not in used and _written(about) < before
    }


def _written(about: dict[str, Any]) -> dt.datetime:
    """When a file was written: S3 gives a time, a folder seconds."""
    at = about.get("LastModified")
    return at if at is not None else dt.datetime.fromtimestamp(about["mtime"], dt.UTC)


def _references(found: Table, without: Iterable[int]) -> set[str]:
    """Every file that the table's snapshots, but for those `without`, need to be read."""
    leaving, metadata = set(without), found.metadata
    kept = [each for each in found.snapshots() if each.snapshot_id not in leaving]
    used = {found.metadata_location, *(each.metadata_file for each in metadata.metadata_log)}
    used |= {each.manifest_list for each in kept}
    used |= {
        each.statistics_path for each in (*metadata.statistics, *metadata.partition_statistics)
    }
    with ThreadPoolExecutor(THREADS) as pool:
        listed = pool.map(lambda each: each.manifests(found.io), kept)
        manifests = {manifest for each in listed for manifest in each}
        entries = pool.map(lambda each: each.fetch_manifest_entry(found.io), manifests)
        used |= {each.manifest_path for each in manifests}
        used |= {entry.data_file.file_path for each in entries for entry in each}
    return used
