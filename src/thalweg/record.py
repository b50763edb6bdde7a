"""The run that this process works for, and what it has read and written so far.

The runner (`thalweg.pipelines.run`) sets `THALWEG_RUN_ID` for the kernel of a pipeline's notebook;
`raw` and `warehouse` note every file and snapshot they touch. Outside a run, noting does nothing.

In a rerun, `THALWEG_PINNED` is the run that it repeats. What that one read is read again, and
nothing is written: a write is compared with what that one wrote, and the comparison is noted.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import lru_cache
from typing import Any, Literal

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from thalweg import database
from thalweg.errors import Unavailable

__all__ = [
    "compared",
    "current_run_id",
    "note",
    "pinned",
    "pinned_uses",
    "pinned_version",
    "pinned_write",
]

Kind = Literal["raw", "table", "gridded"]
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


def pinned_version(kind: Kind, name: str) -> str | None:
    """The version that the repeated run read at this point; None where it did not, or no rerun.

    That is the first that it read after as many writes of its own as the rerun has made again, else
    the one that it had written last.
    """
    found, writes = None, 0
    for use in pinned_uses(kind, name):
        if use.direction == "wrote":
            writes += 1
            if writes > _repeated[kind, name]:
                break
            found = None
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
    direction: Literal["read", "wrote", "same", "differs"],
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
    with database.session() as session, session.begin():
        if not session.query(database.RunUse).filter_by(**key).first():
            session.add(database.RunUse(**key, rows=rows))


@lru_cache(maxsize=256)
def _uses(run_id: str, kind: str, name: str) -> list[database.RunUse]:
    with database.session() as session:
        found = session.query(database.RunUse).filter_by(run_id=run_id, kind=kind, name=name)
        return found.order_by(database.RunUse.id).all()
