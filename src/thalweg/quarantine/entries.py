"""Entries of the quarantine: kept, shown, released, discarded."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from dataclasses import replace as changed
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import JSON, CursorResult, String, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from thalweg import database, record, storage
from thalweg.errors import NotFound
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.warehouse.units import STANDARD

__all__ = [
    "DISCARDED",
    "Entry",
    "discard",
    "holding",
    "keep",
    "keep_file",
    "list",
    "release",
    "save",
    "show",
]

DISCARDED = "discarded: "


class QuarantineRow(database.Base):
    """Rows of a raw file that a table cannot take, or (without a table) the file itself."""

    __tablename__ = "quarantine"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    table: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[str]
    count: Mapped[int]
    raw_file_id: Mapped[str | None] = mapped_column(String(36), index=True)
    run_id: Mapped[str | None] = mapped_column(String(36))
    at: Mapped[dt.datetime]
    released_at: Mapped[dt.datetime | None] = mapped_column(index=True)
    uri: Mapped[str]
    units: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))


@dataclass(frozen=True)
class Entry:
    """One entry of the quarantine: what waits, and since when; `table` is None for a whole file.

    `units` are those in which its rows are wanted, None for the warehouse's own.
    """

    id: str
    table: str | None
    reason: str
    count: int
    raw_file_id: str | None
    run_id: str | None
    at: dt.datetime
    released_at: dt.datetime | None
    uri: str
    units: Mapping[str, str] | None = None

    @property
    def is_discarded(self) -> bool:
        """Whether nobody waits for it any more, though it was not let in."""
        return self.reason.startswith(DISCARDED)

    def __str__(self) -> str:
        what = f"{self.count:,} rows of {self.table}" if self.table else "a whole file"
        if self.released_at:
            how = "discarded" if self.is_discarded else "released"
            return f"{what} {how} from quarantine"
        return f"{what} in quarantine: {self.reason}; see `thalweg quarantine show {self.id[:8]}`"


def keep(
    table: str,
    rows: pa.Table,
    raw_file_id: str | None,
    settings: Settings | None = None,
    *,
    units: Mapping[str, str] = STANDARD,
) -> Entry:
    """Keep rows that a table cannot take; those of one raw file are one entry, each row once.

    Parameters
    ----------
    rows
        Columns of the table, and `reason`.
    units
        The units in which they are to be written.
    """
    settings = settings or load()
    entry = _new(_id(table, raw_file_id or _bytes(rows)), table, raw_file_id, units)
    if record.pinned():  # a rerun keeps nothing
        return changed(entry, reason=_summary(rows), count=rows.num_rows)
    while True:
        earlier = _find(entry.id, settings)
        waiting = []
        if earlier and earlier.released_at is None:
            entry, waiting = changed(entry, at=earlier.at), [_rows(earlier)]
        kept = pa.concat_tables([*waiting, rows], promote_options="permissive")
        entry = holding(entry, _once(kept), settings)
        if save(entry, earlier, settings):
            return entry


def keep_file(
    file: RawFile,
    reason: str,
    settings: Settings | None = None,
    *,
    units: Mapping[str, str] = STANDARD,
) -> Entry:
    """Keep note of a raw file that cannot be read; the file stays where it is."""
    settings = settings or load()
    entry = changed(_new(_id("", file.id), None, file.id, units), reason=reason, uri=file.uri)
    while not record.pinned() and not save(entry, _find(entry.id, settings), settings):
        pass  # another keeps the same file
    return entry


def release(ids: Iterable[str], settings: Settings | None = None) -> None:
    """Release the entries of the whole raw files of these ids: they can be read now."""
    if record.pinned():  # a rerun releases nothing
        return
    waiting = QuarantineRow.released_at.is_(None) | QuarantineRow.reason.startswith(DISCARDED)
    these, readable = (QuarantineRow.table.is_(None), waiting), {*ids}
    with database.session(settings) as session, session.begin():
        for row in session.scalars(select(QuarantineRow).where(*these)):
            if row.raw_file_id in readable:
                row.released_at = dt.datetime.now(dt.UTC)
                row.reason = row.reason.removeprefix(DISCARDED)


def discard(id: str, settings: Settings | None = None) -> Entry:
    """Wait no longer for what an entry holds: it never was true, or came in by another way.

    Its rows, and the raw file, stay stored. Raises `NotFound` as `show` does.
    """
    settings = settings or load()
    while True:
        entry = _get(id, settings)
        if entry.released_at:
            return entry
        now, reason = dt.datetime.now(dt.UTC), f"{DISCARDED}{entry.reason}"
        left = changed(entry, released_at=now, reason=reason)
        if save(left, entry, settings):
            return left


def show(id: str, settings: Settings | None = None) -> tuple[Entry, pa.Table | None]:
    """An entry and its rows with their reasons, None for a whole file.

    The beginning of an id is enough.

    Raises
    ------
    NotFound
        There is no entry of this id, or more than one that begins so.
    """
    entry = _get(id, settings)
    return entry, _rows(entry) if entry.table else None


def list(settings: Settings | None = None, *, released: bool = False) -> Sequence[Entry]:
    """The entries that are not released, oldest first; with `released`, all."""
    wanted = select(QuarantineRow).order_by(QuarantineRow.at)
    if not released:
        wanted = wanted.where(QuarantineRow.released_at.is_(None))
    with database.session(settings) as session:
        return [_made(row) for row in session.scalars(wanted)]


def _get(id: str, settings: Settings | None) -> Entry:
    wanted = select(QuarantineRow).where(QuarantineRow.id.startswith(id, autoescape=True)).limit(2)
    with database.session(settings) as session:
        found = [_made(row) for row in session.scalars(wanted)]
    if len(found) != 1:
        number = "more than one thing" if found else "nothing"
        raise NotFound(f"{number} in quarantine has the id {id!r}; see `thalweg quarantine list`")
    return found[0]


def _new(id: str, table: str | None, raw_file_id: str | None, units: Mapping[str, str]) -> Entry:
    now, run = dt.datetime.now(dt.UTC), record.current_run_id()
    wanted = None if units == STANDARD else dict(units)
    return Entry(id, table, "", 1, raw_file_id, run, now, None, "", wanted)


def holding(entry: Entry, rows: pa.Table, settings: Settings) -> Entry:
    """The entry with these rows, which are stored under the name of their content."""
    content = _bytes(rows)
    name = hashlib.sha256(content).hexdigest()
    uri = f"{settings.raw_uri}/quarantine/{entry.table}/{name}.parquet"
    with suppress(FileExistsError):
        storage.put_new(uri, content)
    return changed(entry, reason=_summary(rows), count=rows.num_rows, uri=uri)


def _summary(rows: pa.Table) -> str:
    """The commonest reasons, with how many rows have each and what one of these says."""
    reasons = Counter(rows["reason"].to_pylist()).most_common(3)
    parts = []
    for reason, count in reasons:
        example = rows.filter(pc.field("reason") == reason)[reason.split(":")[0]][0]
        parts.append(f"{reason}, got {example} ({count:,} rows)")
    return "; ".join(parts)


def _once(rows: pa.Table) -> pa.Table:
    """Each row once, with its latest reason."""
    plain: pl.DataFrame = pl.from_arrow(rows)  # type: ignore[assignment]
    names = [name for name in plain.columns if name != "reason"]
    return plain.unique(names, keep="last", maintain_order=True).to_arrow().cast(rows.schema)


def _bytes(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    return sink.getvalue()


def _rows(entry: Entry) -> pa.Table:
    return pq.read_table(io.BytesIO(storage.read(entry.uri)))


def _id(table: str, content: str | bytes) -> str:
    """The same for the same table and raw file, so that an entry is made once."""
    digest = content if isinstance(content, str) else hashlib.sha256(content).hexdigest()
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{table}/{digest}"))


def _find(id: str, settings: Settings) -> Entry | None:
    with database.session(settings) as session:
        row = session.get(QuarantineRow, id)
        return _made(row) if row else None


def save(entry: Entry, earlier: Entry | None, settings: Settings) -> bool:
    """Whether the entry took the place of the earlier one; not if another was faster."""
    row = {f.name: getattr(entry, f.name) for f in fields(Entry)}
    with database.session(settings) as session:
        if earlier is None:
            session.add(QuarantineRow(**row))
        else:
            released = QuarantineRow.released_at
            same = released.is_(None) if earlier.released_at is None else released.is_not(None)
            mine = QuarantineRow.id == entry.id, QuarantineRow.uri == earlier.uri, same
            replaced = session.execute(update(QuarantineRow).where(*mine).values(row))
            if not cast(CursorResult[Any], replaced).rowcount:
                return False
        try:
            session.commit()
        except IntegrityError:
            return False
    return True


def _made(row: QuarantineRow) -> Entry:
    return Entry(**{f.name: getattr(row, f.name) for f in fields(Entry)})
