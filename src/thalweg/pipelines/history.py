"""The record of all runs: who, when, with what code, what it read, what it wrote, how it ended."""

from __future__ import annotations

import datetime as dt
import fcntl
import functools
import getpass
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from thalweg import database
from thalweg.database import RunRow, RunUse
from thalweg.errors import InvalidInput, NotFound
from thalweg.private import folder
from thalweg.settings import Settings, load

__all__ = ["Run", "Use", "begin", "end", "find", "get", "workplace"]

LOST = "the run ended without a word: its process was killed, or the machine went down"


@dataclass(frozen=True)
class Use:
    """A raw file, or a snapshot of a table, that a run read or wrote; rows where known."""

    direction: str
    kind: str
    name: str
    version: str
    rows: int | None


@dataclass(frozen=True)
class Run:
    """One execution of a pipeline's notebook. Times are UTC, duration is in seconds."""

    id: str
    pipeline: str
    state: str
    trigger: str
    user: str
    started_at: dt.datetime
    ended_at: dt.datetime | None
    parameters: dict[str, Any]
    git_commit: str | None
    git_dirty: bool | None
    environment: str | None
    notebook_uri: str | None
    error: str | None
    uses: tuple[Use, ...] = ()

    @property
    def duration(self) -> float | None:
        return (self.ended_at - self.started_at).total_seconds() if self.ended_at else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as the executed notebook's metadata holds them."""
        times = {"started_at": self.started_at, "ended_at": self.ended_at}
        iso = {name: time and time.isoformat() for name, time in times.items()}
        return asdict(self) | iso | {"duration": self.duration}


def begin(
    run_id: str, pipeline: str, parameters: dict[str, Any], trigger: str, settings: Settings
) -> Run:
    """Note that a run has started."""
    commit, dirty = _git(settings.home)
    row = RunRow(
        id=run_id,
        pipeline=pipeline,
        state="running",
        trigger=trigger,
        user=os.environ.get("JUPYTERHUB_USER") or getpass.getuser(),
        started_at=dt.datetime.now(dt.UTC),
        parameters=parameters,
        git_commit=commit,
        git_dirty=dirty,
        environment=_environment(settings.home),
    )
    with database.session(settings) as session, session.begin():
        session.add(row)
        session.flush()
        return _as_run(row, [])


def end(run: Run, settings: Settings) -> Run:
    """Stamp how a run ended: its state, error, end and notebook."""
    stamp = {n: getattr(run, n) for n in ("state", "error", "ended_at", "notebook_uri")}
    with database.session(settings) as session, session.begin():
        session.execute(sa.update(RunRow).filter_by(id=run.id).values(**stamp))
    return run


def find(
    pipeline: str | None = None,
    state: str | None = None,
    limit: int = 20,
    settings: Settings | None = None,
) -> list[Run]:
    """The newest runs first. Runs whose process is gone are marked as failed before."""
    settings = settings or load()
    _mark_lost(settings)
    query = sa.select(RunRow).order_by(RunRow.started_at.desc(), RunRow.id.desc()).limit(limit)
    wanted = {"pipeline": pipeline, "state": state}
    query = query.filter_by(**{name: value for name, value in wanted.items() if value})
    with database.session(settings) as session:
        return [_as_run(row, []) for row in session.scalars(query)]


def get(run_id: str, settings: Settings | None = None) -> Run:
    """The run of this id, or of the one id that starts or ends so, with all it read and wrote.

    Raises
    ------
    NotFound
        There is no such run.
    InvalidInput
        There are several.
    """
    settings = settings or load()
    _mark_lost(settings)
    matches = RunRow.id.startswith(run_id, autoescape=True) | RunRow.id.endswith(
        run_id, autoescape=True
    )
    with database.session(settings) as session:
        rows = session.scalars(sa.select(RunRow).where(matches).limit(2)).all()
        if not rows:
            raise NotFound(f"no run {run_id!r}; `thalweg runs list` shows the last ones")
        if len(rows) > 1:
            raise InvalidInput(f"several runs have ids with {run_id!r}: give more of the id")
        uses = session.scalars(sa.select(RunUse).filter_by(run_id=rows[0].id).order_by(RunUse.id))
        return _as_run(rows[0], list(uses))


@contextmanager
def workplace(run_id: str, settings: Settings) -> Iterator[Path]:
    """The run's own folder, locked while the run lives and removed after it.

    The lock is the sign of life by which `find` tells a run that works from one that was lost:
    the system lets go of it however the process ends.
    """
    unlocked = folder(settings, "work", f"new-{run_id}")  # a name that `_mark_lost` passes over
    place = unlocked.with_name(run_id)
    with (unlocked / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unlocked.rename(place)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _mark_lost(settings: Settings) -> None:
    """Stamp the runs of this machine that are `running` in the record and in no process."""
    for place in (settings.data_dir / "work").glob("[0-9a-f]*-*"):
        try:
            with (place / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lost = {"state": "failed", "error": LOST, "ended_at": dt.datetime.now(dt.UTC)}
                with database.session(settings) as session, session.begin():
                    running = sa.update(RunRow).filter_by(id=place.name, state="running")
                    session.execute(running.values(**lost))
                shutil.rmtree(place, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            continue


def _as_run(row: RunRow, uses: list[RunUse]) -> Run:
    columns = {name: getattr(row, name) for name in Run.__dataclass_fields__ if name != "uses"}
    names = Use.__dataclass_fields__
    return Run(**columns, uses=tuple(Use(**{n: getattr(use, n) for n in names}) for use in uses))


def _git(home: Path) -> tuple[str | None, bool | None]:
    """Commit of the clone, and whether anything in it differs; None outside of a clone."""
    command = ["git", "-C", str(home), "status", "--porcelain=v2", "--branch"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None, None
    header = [line for line in lines.splitlines() if line.startswith("# ")]
    commit = next(line.split()[-1] for line in header if line.startswith("# branch.oid"))
    return commit, len(lines.splitlines()) > len(header)


@functools.cache
def _environment(home: Path) -> str | None:
    """Hash of the lock file, which names every package of the environment; None without one."""
    lock = home / "uv.lock"
    return (
        f"uv.lock sha256:{hashlib.sha256(lock.read_bytes()).hexdigest()}" if lock.exists() else None
    )
