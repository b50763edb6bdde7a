"""From raw files to the warehouse: read, check, convert, write; what cannot pass is kept aside.

A file is held to the contract of its source first, then its rows to those of the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as changed

import pyarrow as pa

from thalweg import quarantine
from thalweg.errors import InvalidInput
from thalweg.quarantine import Entry, Loaded
from thalweg.raw import Progress, RawFile
from thalweg.settings import Settings
from thalweg.warehouse import promises
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
    joined = {n: pa.concat_tables(p, promote_options="permissive") for n, p in parts.items()}
    done = quarantine.admit(joined, settings, units=units, replace=replace)
    quarantine.release(readable, settings)
    # Rows that break both contracts of one file are one entry: its last state counts.
    entries = {entry.id: entry for entry in (*kept, *done.quarantined)}
    return changed(done, quarantined=tuple(entries.values()), missing=missing)
