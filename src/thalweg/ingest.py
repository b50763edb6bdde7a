"""From raw files to the warehouse: read, check, convert, write; what cannot pass is kept aside.

A file is held to the contract of its source first, then its rows to those of the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby

import pyarrow as pa

from thalweg import quarantine
from thalweg.errors import InvalidInput
from thalweg.quarantine import Entry, Loaded
from thalweg.raw import Progress, RawFile
from thalweg.settings import Settings
from thalweg.warehouse import promises
from thalweg.warehouse.access import definition
from thalweg.warehouse.schema import TABLES
from thalweg.warehouse.units import STANDARD

__all__ = ["Loaded", "Read", "load"]

#: Rows by table of some raw files: a source's `read`, with what else it needs bound to it.
Read = Callable[[Sequence[RawFile]], Mapping[str, pa.Table]]


def load(
    read: Read,
    files: Sequence[RawFile],
    settings: Settings | None = None,
    progress: Progress | None = None,
    *,
    units: Mapping[str, str] = STANDARD,
    replace: bool = True,
) -> Loaded:
    """Write the rows of raw files, all that are good; files and rows that are not go to quarantine.

    Of two files that have the same key, the later in the list counts. Loading the same files again
    changes nothing.

    Parameters
    ----------
    read
        `usgs.read`, or `functools.partial(nwm.read, crosswalk=…)`.
    units
        The unit in which a variable is written, by the beginning of its name; `{}`: as it came.
    replace
        Whether these values replace those of the warehouse; else only new keys are added.

    Returns
    -------
    Loaded
        What was written, converted, left out and kept aside; prints as a line each.

    Raises
    ------
    InvalidInput
        A source promises nothing; or it is none of ours, and gives columns that a table does not
        have. That is no matter of a file.
    NotFound, Unavailable
        A store or the catalogue does not answer.
    """
    for source in {file.source for file in files}:
        promises.of(source)
    parts: dict[str, list[pa.Table]] = {}
    kept: list[Entry] = []
    readable = []
    missing = 0
    for count, file in enumerate(files, start=1):
        try:
            tables = read([file])
            rows_of, others = quarantine.from_source(file, tables, settings, units=units)
        except InvalidInput as error:
            kept.append(quarantine.keep_file(file, str(error), settings, units=units))
        else:
            readable.append(file.id)
            kept += others
            for name, rows in rows_of.items():
                missing += int((tables[name].schema.metadata or {}).get(b"missing", 0))
                parts.setdefault(name, []).append(rows)
        if progress:
            progress(count, len(files))
    for name in parts:
        definition(name)
    done = [
        quarantine.admit({name: rows}, settings, units=units, replace=replace)
        for name in TABLES
        if name in parts
        for rows in _alike(parts[name])
    ]
    quarantine.release(readable, settings)
    # Rows that break both contracts of one file are one entry: its last state counts.
    entries = {e.id: e for e in (*kept, *chain.from_iterable(d.quarantined for d in done))}
    return Loaded(
        tuple(chain.from_iterable(each.written for each in done)),
        tuple(chain.from_iterable(each.converted for each in done)),
        tuple(entries.values()),
        tuple(chain.from_iterable(each.tables for each in done)),
        missing=missing,
    )


def _alike(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of files of the same columns together: of a column it lacks, a file says nothing."""
    for _, alike in groupby(parts, lambda rows: {*rows.column_names}):
        yield pa.concat_tables(alike, promote_options="permissive")
