"""The run that this process works for, and what it has read and written so far.

The runner (`thalweg.pipelines.run`) sets `THALWEG_RUN_ID` for the kernel of a pipeline's notebook;
`raw` and `warehouse` note every file and snapshot they touch. Outside a run, noting does nothing.

In a rerun, `THALWEG_PINNED` is the run that it repeats. What that one read is read again, and
nothing is written: a write is compared with what that one wrote, and the comparison is noted.

A kernel that may not open the record, that of a person with an account of their own, notes in the
file `THALWEG_NOTES`; the runner takes it over at the end (`take`).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from thalweg import database
from thalweg.errors import Unavailable
from thalweg.settings import Settings

__all__ = [
    "Direction",
    "compared",
    "current_run_id",
    "note",
    "pin",
    "pinned",
    "pinned_uses",
    "pinned_version",
    "pinned_write",
    "take",
]

Kind = Literal["raw", "table", "gridded"]
Direction = Literal["read", "wrote", "same", "differs"]
PINS = "pinned"  # file of what a repeated run noted, beside that for notes
NOTES = 10_000  # of a kernel, which are kept
#: How many writes to a table or repository a rerun has made again.
_repeated: Counter[tuple[str, str]] = Counter()


def current_run_id() -> str | None:
    """Id of the run that this process belongs to, or None in a person's own notebook."""
    return os.environ.get("THALWEG_RUN_ID")


def pinned() -> str | None:
    """Id of the run that this process repeats, or None where it is no rerun."""
    return os.environ.get("THALWEG_PINNED")


def pinned_uses(kind: Kind, name: str) -> list[database.RunUse]:
    """What the repeated run noted of something, in order of time; nothing outside a rerun."""
    run_id = pinned()
    return _uses(run_id, kind, name) if run_id else []


def pinned_version(kind: Kind, name: str, did: Direction = "read") -> str | None:
    """The version that the repeated run read at this point; None where it did not, or no rerun.

    That is the first that it read after as many writes of its own as the rerun has made again, else
    the one that it had written last. `did="same"`: that with which it compared what it would write.
    """
    found, writes = None, 0
    for use in pinned_uses(kind, name):
        if use.direction == "wrote":
            writes += 1
            if writes > _repeated[kind, name]:
                break
            found = None
        if use.direction in (did, "wrote"):
            found = found or use.version
    return found


def pinned_write(kind: Kind, name: str) -> Any:
    """The next write of the repeated run, with its `version` and `rows`; None after the last."""
    writes = [use for use in pinned_uses(kind, name) if use.direction == "wrote"]
    return next(iter(writes[_repeated[kind, name] :]), None)


def compared(kind: Kind, name: str, version: str, rows: int, *, is_same: bool) -> None:
    """Note what a rerun would have written: the rows of this version, or as many others."""
    _repeated[kind, name] += 1
    note("same" if is_same else "differs", kind, name, version, rows)


@retry(
    retry=retry_if_exception_type(Unavailable),
    wait=wait_fixed(0.5),
    stop=stop_after_delay(10),
    reraise=True,
)
def note(
    direction: Direction,
    kind: Kind,
    name: str,
    version: str,
    rows: int | None = None,
) -> None:
    """Note that the current run read or wrote a version of something; once for each version.

    A database that restarts is waited for; `Unavailable` when it does not come back.
    """
    run_id = current_run_id()
    if run_id is None:
        return
    key = {
        "run_id": run_id,
        "direction": direction,
        "kind": kind,
        "name": name,
        "version": version,
    }
    if notes := os.environ.get("THALWEG_NOTES"):
        with Path(notes).open("a") as file:
            file.write(json.dumps({**key, "rows": rows}) + "\n")
    else:
        _keep(key, rows)


def take(run_id: str, lines: Iterable[str], settings: Settings | None = None) -> None:
    """Keep what a kernel has noted of a run, a line of JSON each; what is no note is passed over.

    Whoever wrote it speaks of this run alone, whatever stands there.
    """
    for line in islice(lines, NOTES):
        try:
            told = json.loads(line)
            key = {name: str(told[name])[:500] for name in ("direction", "kind", "name", "version")}
            rows = None if told["rows"] is None else int(told["rows"])
        except (ValueError, KeyError, TypeError):
            continue
        if key["direction"] in get_args(Direction) and key["kind"] in get_args(Kind):
            _keep({"run_id": run_id, **key}, rows, settings)


def pin(notes: Path, run_id: str, settings: Settings) -> None:
    """Write beside the file for notes what the run that is repeated noted itself."""
    with database.session(settings) as session:
        uses = session.query(database.RunUse).filter_by(run_id=run_id).order_by(database.RunUse.id)
        names = ("direction", "kind", "name", "version", "rows")
        told = [{name: getattr(use, name) for name in names} for use in uses]
    notes.with_name(PINS).write_text(json.dumps(told))


def _keep(key: dict[str, str], rows: int | None, settings: Settings | None = None) -> None:
    with database.session(settings) as session, session.begin():
        if not session.query(database.RunUse).filter_by(**key).first():
            session.add(database.RunUse(**key, rows=rows))


@lru_cache(maxsize=256)
def _uses(run_id: str, kind: str, name: str) -> list[database.RunUse]:
    if notes := os.environ.get("THALWEG_NOTES"):
        told = json.loads(Path(notes).with_name(PINS).read_text())
        uses = [database.RunUse(run_id=run_id, **use) for use in told]
        return [use for use in uses if (use.kind, use.name) == (kind, name)]
    with database.session() as session:
        found = session.query(database.RunUse).filter_by(run_id=run_id, kind=kind, name=name)
        return found.order_by(database.RunUse.id).all()
