"""The run that this process works for, and what it has read and written so far.

The runner (`thalweg.pipelines.run`) sets `THALWEG_RUN_ID` for the kernel of a pipeline's notebook;
`raw` and `warehouse` note every file and snapshot they touch. Outside a run, noting does nothing.
"""

from __future__ import annotations

import os
from typing import Literal

from thalweg import database

__all__ = ["current_run_id", "note"]


def current_run_id() -> str | None:
    """Id of the run that this process belongs to, or None in a person's own notebook."""
    return os.environ.get("THALWEG_RUN_ID")


def note(
    direction: Literal["read", "wrote"],
    kind: Literal["raw", "table", "gridded"],
    name: str,
    version: str,
    rows: int | None = None,
) -> None:
    """Note that the current run read or wrote a version of something; once for each version."""
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
