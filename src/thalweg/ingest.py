"""From raw files to the warehouse: read, check, convert, write; what cannot pass is kept aside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from thalweg import quarantine
from thalweg.errors import InvalidInput
from thalweg.quarantine import Admitted as Loaded
from thalweg.quarantine import Entry
from thalweg.raw import RawFile
from thalweg.settings import Settings
from thalweg.warehouse.units import STANDARD

__all__ = ["Loaded", "Progress", "Read", "load"]

#: Called with how many files are read, and of how many.
Progress = Callable[[int, int], None]
#: Rows by table of some raw files: a source's `read`, with what else it needs bound to it.
Read = Callable[[Sequence[RawFile]], Mapping[str, pa.Table]]


def load(
    read: Read,
    files: Sequence[RawFile],
    settings: Settings | None = None,
    progress: Progress | None = None,
    *,
    units: Mapping[str, str] = STANDARD,
) -> Loaded:
    """Write the rows of raw files, all that are good; files and rows that are not go to quarantine.

    Loading the same files again changes nothing.

    Parameters
    ----------
    read
        `usgs.read`, or `functools.partial(nwm.read, crosswalk=…)`.
    units
        The unit in which a variable is written, by the beginning of its name; `{}`: as it came.

    Returns
    -------
    Loaded
        What was written, converted and kept aside; prints as a line each.

    Raises
    ------
    InvalidInput
        The source gives columns that a table does not have: that is no matter of a file.
    NotFound, Unavailable
        A store or the catalogue does not answer.
    """
    try:
        tables = dict(read(files))
        kept: list[Entry] = []
    except InvalidInput:
        tables, kept = _one_by_one(read, files, settings, progress)
    guilty = {entry.raw_file_id for entry in kept}
    done = quarantine.admit(tables, settings, units=units)
    quarantine.release({file.id for file in files} - guilty, settings)
    if progress:
        progress(len(files), len(files))
    return replace(done, quarantined=(*kept, *done.quarantined))


def _one_by_one(
    read: Read,
    files: Sequence[RawFile],
    settings: Settings | None,
    progress: Progress | None,
) -> tuple[dict[str, pa.Table], list[Entry]]:
    """The rows of those files that can be read, and an entry for each that cannot."""
    parts: dict[str, list[pa.Table]] = {}
    kept = []
    for count, file in enumerate(files, start=1):
        try:
            for name, rows in read([file]).items():
                parts.setdefault(name, []).append(rows)
        except InvalidInput as error:
            kept.append(quarantine.keep_file(file, str(error), settings))
        if progress:
            progress(count, len(files))
    return {name: _joined(rows) for name, rows in parts.items()}, kept


def _joined(parts: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(
        [p.replace_schema_metadata(None) for p in parts], promote_options="permissive"
    )
