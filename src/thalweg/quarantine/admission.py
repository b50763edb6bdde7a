"""What is let into the warehouse, at once or when it is tried again, and what became of it."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from dataclasses import replace as changed
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from thalweg import raw, sources, warehouse
from thalweg.errors import InvalidInput
from thalweg.quarantine import entries
from thalweg.quarantine.entries import DISCARDED, Entry, holding, keep, release, save, show
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.warehouse import Written, contracts, promises
from thalweg.warehouse.access import definition
from thalweg.warehouse.merge import conform, replacing
from thalweg.warehouse.schema import TABLES
from thalweg.warehouse.units import STANDARD, Conversion, convert

__all__ = ["Loaded", "admit", "from_source", "of_file", "retry"]

#: Of a row that would replace another when it is tried again.
DOUBT = "raw_file_id: expected the last file of its dataset about this time, for other values stand"


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
    done = Loaded()
    for name in (name for name in TABLES if name in tables):
        good, bad, converted = _sifted(name, tables[name], settings, units, replace)
        # What may not pass is kept before the rest is written: after a crash nothing is lost.
        kept = [keep(name, part, file, settings, units=units) for file, part in _by_file(bad)]
        written = warehouse.write(name, good, settings, replace=replace)
        done = Loaded(
            (*done.written, written),
            (*done.converted, *converted),
            (*done.quarantined, *kept),
            (*done.tables, (name, good)),
        )
    return done


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
            left = changed(holding(entry, bad, settings), released_at=None)
        else:
            reason = entry.reason.removeprefix(DISCARDED)
            left = changed(entry, released_at=dt.datetime.now(dt.UTC), reason=reason)
        if save(left, entry, settings):
            return Loaded((written,), tuple(converted), (left,), ((table, good),))


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
    waiting = {entry.raw_file_id for entry in entries.list(settings) if not entry.table}
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
