"""The border of the warehouse: what keeps its contract passes, what does not is kept here.

An entry holds the rows of one raw file that a table cannot take, each with its reason, or stands
for a whole file that cannot be read. It is a row of the metadata database; its rows are Parquet at
`{raw_uri}/quarantine/{table}/{sha256}.parquet`, as they came. After a fix (a unit or a location is
made known, a source is mended) `retry` lets through what is good now.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import inspect
import io
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from dataclasses import replace as changed
from itertools import chain
from typing import Any, Literal, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import JSON, CursorResult, String, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from thalweg import database, raw, record, sources, storage, warehouse
from thalweg.errors import InvalidInput, NotFound
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.warehouse import Written, contracts, promises
from thalweg.warehouse.access import definition
from thalweg.warehouse.merge import conform, replacing
from thalweg.warehouse.schema import TABLES
from thalweg.warehouse.units import STANDARD, Conversion, convert

__all__ = [
    "Entry",
    "Loaded",
    "admit",
    "discard",
    "from_source",
    "keep",
    "keep_file",
    "list",
    "of_file",
    "release",
    "retry",
    "show",
]

DISCARDED = "discarded: "
#: Of a row that would replace another when it is tried again.
DOUBT = "raw_file_id: expected the last file of its dataset about this time, for other values stand"


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


@dataclass(frozen=True)
class Loaded:
    """What became of rows: written, converted to another unit, kept in quarantine, left out."""

    written: tuple[Written, ...] = ()
    converted: tuple[Conversion, ...] = ()
    quarantined: tuple[Entry, ...] = ()
    tables: tuple[tuple[str, pa.Table], ...] = field(default=(), repr=False)
    missing: int = field(default=0, kw_only=True)

    def rows(self, table: str) -> pa.Table:
        """The rows of a table that passed, in the units in which they are written.

        Raises
        ------
        InvalidInput
            None came that far.
        """
        declared = definition(table)
        if found := [conform(table, rows) for name, rows in self.tables if name == table]:
            return pa.concat_tables(declared.plain(rows) for rows in found)
        raise InvalidInput(f"no file had rows of {table} that can be read: {self}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the rows."""
        lists = ("written", "converted", "quarantined")
        told = {name: [asdict(each) for each in getattr(self, name)] for name in lists}
        return told | {"missing": self.missing}

    def __str__(self) -> str:
        missing = [f"{self.missing:,} missing values left out"] if self.missing else []
        parts = (*self.written, *self.converted, *missing, *self.quarantined)
        return "\n".join(str(part) for part in parts) or "nothing to write"


def admit(
    tables: Mapping[str, pa.Table],
    settings: Settings | None = None,
    *,
    units: Mapping[str, str] = STANDARD,
    replace: bool | Literal["older"] = True,
) -> Loaded:
    """Write what keeps its table's contract, in the units asked for; keep the rest here.

    Parameters
    ----------
    tables
        Rows by table; tables that others refer to are written before those.
    units
        The unit in which a variable is written, by the beginning of its name.
    replace
        As of `warehouse.write`; with `"older"`, as `retry` has it, a row stays here that would
        replace another while a later file of its dataset may have said what holds.

    Raises
    ------
    InvalidInput
        Columns that the table does not have, or lacks, or of other types. Nothing of that table
        is written.
    """
    for name in tables:
        definition(name)
    parts = [_admit(n, tables[n], settings, units, replace) for n in TABLES if n in tables]
    return Loaded(*(tuple(chain.from_iterable(kind)) for kind in zip(*parts, strict=True)))


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
        entry = _holding(entry, _once(kept), settings)
        if _save(entry, earlier, settings):
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
    while not record.pinned() and not _save(entry, _find(entry.id, settings), settings):
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
        if _save(left, entry, settings):
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


def retry(id: str, settings: Settings | None = None) -> Loaded:
    """Try again to write what an entry holds: what is good now is let through, the rest stays.

    A row does not replace one of a later raw file. Where it would replace an earlier one, while a
    later file of the same source and dataset speaks of the same time, it stays: that file may have
    said what holds, and rows that it found unchanged do not name it. Load both again in their
    order, and discard what still waits. A whole file is read again by its source.

    Raises
    ------
    NotFound
        There is no entry of this id.
    InvalidInput
        The file still cannot be read, or its source has to be told more.
    """
    settings = settings or load()
    while True:
        entry, rows = show(id, settings)
        if rows is None:
            tables, kept = _read_again(entry, settings)
            done = admit(tables, settings, units=_units(entry), replace="older")
            release([str(entry.raw_file_id)], settings)
            return changed(done, quarantined=(*kept, *done.quarantined))
        table = str(entry.table)
        rows, others = _promised(entry, rows.drop_columns(["reason"]), settings)
        good, bad, converted = _sifted(table, rows, settings, _units(entry), "older")
        bad = pa.concat_tables([*others, bad], promote_options="permissive")
        written = warehouse.write(table, good, settings, replace="older")
        if bad.num_rows:
            left = changed(_holding(entry, bad, settings), released_at=None)
        else:
            reason = entry.reason.removeprefix(DISCARDED)
            left = changed(entry, released_at=dt.datetime.now(dt.UTC), reason=reason)
        if _save(left, entry, settings):
            return Loaded((written,), tuple(converted), (left,), ((table, good),))


def list(settings: Settings | None = None, *, released: bool = False) -> Sequence[Entry]:
    """The entries that are not released, oldest first; with `released`, all."""
    wanted = select(QuarantineRow).order_by(QuarantineRow.at)
    if not released:
        wanted = wanted.where(QuarantineRow.released_at.is_(None))
    with database.session(settings) as session:
        return [_made(row) for row in session.scalars(wanted)]


def from_source(
    file: RawFile,
    tables: Mapping[str, pa.Table],
    settings: Settings | None = None,
    *,
    units: Mapping[str, str] = STANDARD,
) -> tuple[dict[str, pa.Table], Sequence[Entry]]:
    """What the source of a file has promised of its rows; the others are kept here.

    Parameters
    ----------
    tables
        What the source's `read` gives of this file.

    Raises
    ------
    InvalidInput
        The file has other tables, columns or types than its source promises.
    """
    promises.check_file(file.source, tables)
    given, kept = {}, []
    for name, rows in tables.items():
        given[name], bad = promises.check_rows(file.source, name, of_file(file, rows))
        if bad.num_rows:
            kept.append(keep(name, bad, file.id, settings, units=units))
    return given, kept


def of_file(file: RawFile, rows: pa.Table) -> pa.Table:
    """Rows of a source, each with the raw file that they came from."""
    if "raw_file_id" not in rows.column_names:
        rows = rows.append_column("raw_file_id", pa.repeat(file.id, rows.num_rows))
    return rows.replace_schema_metadata(None)


def _admit(
    name: str,
    rows: pa.Table,
    settings: Settings | None,
    units: Mapping[str, str],
    replaces: bool | Literal["older"],
) -> tuple[Sequence[Any], ...]:
    """The fields of `Loaded`, for one table."""
    good, bad, converted = _sifted(name, rows, settings, units, replaces)
    # What may not pass is kept before the rest is written: after a crash nothing is lost.
    kept = [keep(name, part, file, settings, units=units) for file, part in _by_file(bad)]
    written = warehouse.write(name, good, settings, replace=replaces)
    return [written], converted, kept, [(name, good)]


def _sifted(
    name: str,
    rows: pa.Table,
    settings: Settings | None,
    units: Mapping[str, str],
    replaces: bool | Literal["older"],
) -> tuple[pa.Table, pa.Table, Sequence[Conversion]]:
    """The rows that may pass, in the units asked for; those that may not; what was converted."""
    good, bad = contracts.check(name, rows, settings)
    if replaces == "older":
        doubtful = _doubtful(name, _convert(good, units)[0], settings)
        left = definition(name).plain(good.filter(doubtful))
        left = left.append_column("reason", pa.repeat(DOUBT, left.num_rows))
        good, bad = good.filter(pc.invert(doubtful)), pa.concat_tables([bad, left])
    good, converted = _convert(good, units)
    return good, bad, converted


def _doubtful(name: str, rows: pa.Table, settings: Settings | None) -> pa.ChunkedArray | pa.Array:
    """Which rows would replace others, though a later file may have said that those hold."""
    doubtful = pa.repeat(False, rows.num_rows)
    if "raw_file_id" not in rows.column_names:
        return doubtful
    would = pa.array(replacing(name, rows, settings))
    for id in rows["raw_file_id"].filter(would).unique().drop_null().to_pylist():
        its = pc.and_(would, pc.equal(rows["raw_file_id"], id))
        for first, last in _later(id, settings):
            if first and last and "value_time" in rows.column_names:
                times = rows["value_time"]
                about = pc.and_(pc.greater_equal(times, first), pc.less_equal(times, last))
                doubtful = pc.or_(doubtful, pc.and_(its, about))
            else:
                doubtful = pc.or_(doubtful, its)
    return doubtful


def _later(
    id: str, settings: Settings | None
) -> Iterator[tuple[dt.datetime | None, dt.datetime | None]]:
    """Of what times the later files of a file's dataset speak, those that could be read."""
    waiting = {entry.raw_file_id for entry in list(settings) if not entry.table}
    for file in raw.find(ids=[id], settings=settings):
        for each in raw.find(file.source, file.dataset, settings=settings):
            if each.id > id and each.id not in waiting:
                yield each.valid_from or each.valid_to, each.valid_to or each.valid_from


def _convert(rows: pa.Table, units: Mapping[str, str]) -> tuple[pa.Table, Sequence[Conversion]]:
    has_units = {"variable_name", "unit_name", "value"} <= {*rows.column_names}
    return convert(rows, units) if has_units else (rows, [])


def _units(entry: Entry) -> Mapping[str, str]:
    return STANDARD if entry.units is None else entry.units


def _by_file(rows: pa.Table) -> Iterator[tuple[str | None, pa.Table]]:
    if "raw_file_id" not in rows.column_names:
        if rows.num_rows:
            yield None, rows
        return
    for file in rows["raw_file_id"].unique().to_pylist():
        column = pc.field("raw_file_id")
        yield file, rows.filter(column.is_null() if file is None else column == file)


def _promised(
    entry: Entry, rows: pa.Table, settings: Settings
) -> tuple[pa.Table, Sequence[pa.Table]]:
    """The rows of an entry that its source promises today; the others."""
    others = []
    for file in raw.find(ids=[entry.raw_file_id], settings=settings) if entry.raw_file_id else []:
        rows, bad = promises.check_rows(file.source, str(entry.table), rows)
        others.append(bad)
    return rows, others


def _read_again(entry: Entry, settings: Settings) -> tuple[Mapping[str, pa.Table], Sequence[Entry]]:
    (file,) = raw.find(ids=[str(entry.raw_file_id)], settings=settings)
    read = sources.get(file.source).read
    given = {"crosswalk": lambda: warehouse.read("location_crosswalks", settings=settings)}
    _, *more = inspect.signature(read).parameters.values()
    needs = [p.name for p in more if p.default is p.empty]
    if missing := {*needs} - {*given}:
        raise InvalidInput(
            f"{file.source} cannot read {file.url} without being told {', '.join(missing)}: ingest "
            f"it again as before; once it can be read it is released"
        )
    tables = read([file], **{name: given[name]() for name in needs})
    if not all(isinstance(rows, pa.Table) for rows in tables.values()):
        raise InvalidInput(
            f"{file.url} holds fields, and the warehouse takes rows: ingest it again as before; "
            f"once it can be read it is released"
        )
    return from_source(file, tables, settings, units=_units(entry))


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


def _holding(entry: Entry, rows: pa.Table, settings: Settings) -> Entry:
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


def _save(entry: Entry, earlier: Entry | None, settings: Settings) -> bool:
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
