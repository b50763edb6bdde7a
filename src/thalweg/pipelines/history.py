"""The record of all runs: who, when, with what code, what it read, what it wrote, how it ended.

A run is `running` until it has `succeeded`, `failed`, or was `cancelled` by a person. A failed run
that nobody will try again is `dead`: it waits, as a dead letter, until a run that repeats it or
works on the same partition succeeds, or until somebody gives it up (`cancel`).
"""

from __future__ import annotations

import datetime as dt
import fcntl
import functools
import getpass
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from thalweg import database
from thalweg.database import NoticeRow, RunRow, RunUse
from thalweg.errors import InvalidInput, NotFound, ThalwegError, Unavailable
from thalweg.private import folder, private_file
from thalweg.settings import Settings, load

__all__ = [
    "STATES",
    "Busy",
    "Run",
    "Use",
    "beat",
    "begin",
    "cancel",
    "end",
    "find",
    "get",
    "known",
    "what",
    "workplace",
]

STATES = ("running", "succeeded", "failed", "cancelled", "dead")
LOST = "the run ended without a word: its process was killed, or the machine went down"
#: How long a run of another machine may be silent before it counts as lost.
SILENCE = dt.timedelta(minutes=5)
#: How a run ended, as its record is stamped.
STAMP = (
    "state",
    "error",
    "ended_at",
    "notebook_uri",
    "html_uri",
    "peak_memory",
    "differences",
)
WAIT = 1.0  # seconds between two looks at what is being waited for


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
    """One execution of a pipeline's notebook.

    Times are UTC, duration is in seconds, `peak_memory` in bytes: of the kernel and the processes
    that it started, together. `repeats` is the run that it repeats; `differences` of a rerun are in
    what it differs from that one, none where it is bit-identical.
    """

    id: str
    pipeline: str
    partition: str | None
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
    attempt: int
    repeats: str | None
    peak_memory: int | None
    html_uri: str | None
    differences: list[str] | None
    uses: tuple[Use, ...] = ()

    @property
    def duration(self) -> float | None:
        return (self.ended_at - self.started_at).total_seconds() if self.ended_at else None

    @property
    def again(self) -> str:
        """The command that does it once more."""
        is_rerun = self.trigger == "rerun"
        return f"thalweg runs rerun {self.repeats}" if is_rerun else f"thalweg runs retry {self.id}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as the executed notebook's metadata holds them."""
        times = {"started_at": self.started_at, "ended_at": self.ended_at}
        iso = {name: time and time.isoformat() for name, time in times.items()}
        return asdict(self) | iso | {"duration": self.duration}


class Busy(ThalwegError):
    """Another run works on the same; `run` is its record."""

    def __init__(self, run: Run) -> None:
        super().__init__(
            f"run {run.id} of {what(run)} is at work since {run.started_at:%Y-%m-%d %H:%M} UTC, "
            f"and `overlap: skip` leaves this one out; to stop that one: thalweg runs cancel "
            f"{run.id[-12:]}"
        )
        self.run = run


def what(run: Run) -> str:
    """The pipeline and partition of a run, in words."""
    return repr(run.pipeline) + (f", partition {run.partition}" if run.partition else "")


def begin(
    run_id: str,
    pipeline: str,
    parameters: dict[str, Any],
    trigger: str,
    settings: Settings,
    *,
    partition: str | None = None,
    attempt: int = 1,
    is_last: bool = False,
    repeats: str | None = None,
    overlap: Literal["skip", "queue", "allow"] = "allow",
    waits: Callable[[Run], None] | None = None,
    user: str | None = None,
) -> Run:
    """Note that a run has started, once no other works on the same.

    Parameters
    ----------
    is_last
        Nobody tries again if it fails.
    overlap
        What becomes of a run while another works on the same partition, or on the same pipeline
        without partitions: it is left out, waits, or goes on beside it. The database decides, so
        that it holds for all that start runs, on any machine.
    waits
        Called with the other run each second that this one has to wait.
    user
        In whose name it runs; by default that of this process.

    Raises
    ------
    Busy
        It is left out.
    """
    commit, dirty = _git(settings.home)
    about = {
        "id": run_id,
        "pipeline": pipeline,
        "partition": partition,
        "state": "running",
        "trigger": trigger,
        "user": user or _user(),
        "parameters": parameters,
        "git_commit": commit,
        "git_dirty": dirty,
        "environment": _environment(settings),
        "attempt": attempt,
        "is_last": is_last,
        "repeats": repeats,
        "claim": None if overlap == "allow" else f"{pipeline}/{partition or ''}",
    }
    while True:
        now = dt.datetime.now(dt.UTC)
        try:
            with database.session(settings) as session, session.begin():
                row = RunRow(**about, started_at=now, seen_at=now)
                session.add(row)
                session.flush()
                return _as_run(row, [])
        except IntegrityError:
            _mark_lost(settings)
            held = sa.select(RunRow).filter_by(claim=about["claim"], state="running")
            with database.session(settings) as session:
                other = session.scalar(held)
                by = _as_run(other, []) if other else None
        if by is None:
            continue  # it has ended meanwhile
        if overlap == "skip":
            raise Busy(by)
        if waits:
            waits(by)
        time.sleep(WAIT)


def beat(run_id: str, settings: Settings) -> str | None:
    """Give a sign of life of a run; who has asked meanwhile that it stops."""
    mine = sa.update(RunRow).filter_by(id=run_id).values(seen_at=dt.datetime.now(dt.UTC))
    with database.session(settings) as session, session.begin():
        return session.scalar(mine.returning(RunRow.cancelled_by))


def end(run: Run, settings: Settings) -> Run:
    """Stamp how a run ended; a success settles the dead letters that it was for.

    Raises
    ------
    Unavailable
        The database does not answer. The stamp is kept in a file, and entered by whoever looks at
        the runs next on this machine.
    """
    stamp = {name: getattr(run, name) for name in STAMP}
    patience = Retrying(
        retry=retry_if_exception_type(Unavailable),
        wait=wait_fixed(0.5),
        stop=stop_after_delay(5),
        reraise=True,
    )
    try:
        patience(_stamp, run.id, stamp, settings)
    except Unavailable as gone:
        kept = folder(settings, "unsaved") / f"{run.id}.json"
        private_file(kept, json.dumps(stamp | {"ended_at": str(run.ended_at)}))
        raise Unavailable(
            f"run {run.id} has {run.state}, and its record waits in {kept} until the database "
            f"answers again: then `thalweg runs list` enters it; {gone}"
        ) from gone
    if run.state == "dead":
        _deliver(settings)
    return run


def cancel(run_id: str, settings: Settings | None = None) -> Run:
    """Ask a run to stop, which it does in a few seconds, or give up a dead letter.

    Raises
    ------
    NotFound
        There is no such run.
    InvalidInput
        It has ended already.
    """
    settings = settings or load()
    run = get(run_id, settings)
    given_up = {"state": "cancelled", "cancelled_by": _user()}
    asked = {"running": {"cancelled_by": _user()}, "dead": given_up}
    if run.state not in asked:
        raise InvalidInput(f"run {run.id} has {run.state} already: there is nothing to cancel")
    with database.session(settings) as session, session.begin():
        mine = sa.update(RunRow).filter_by(id=run.id, state=run.state)
        session.execute(mine.values(**asked[run.state]))
    return get(run.id, settings)


def find(
    pipeline: str | None = None,
    state: str | None = None,
    limit: int | None = 20,
    settings: Settings | None = None,
    *,
    partition: str | None = None,
    since: dt.datetime | None = None,
) -> list[Run]:
    """The newest runs first, those that started `since`. Lost runs are marked as such before.

    What the runs read and wrote is not among it: `get` gives that of one.
    """
    settings = settings or load()
    _mark_lost(settings)
    query = sa.select(RunRow).order_by(RunRow.started_at.desc(), RunRow.id.desc()).limit(limit)
    wanted = {"pipeline": pipeline, "state": state, "partition": partition}
    query = query.filter_by(**{name: value for name, value in wanted.items() if value})
    if since:
        query = query.where(RunRow.started_at >= since)
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
    return _get(run_id, settings)


def known(run: Run, settings: Settings) -> Run:
    """The run with all that it read and wrote so far; as it is where the database is gone."""
    try:
        return _get(run.id, settings)
    except Unavailable:
        return run


def _get(run_id: str, settings: Settings) -> Run:
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
    place, mine = unlocked.with_name(run_id), unlocked / "lock"
    mine.touch(0o600)  # who could open it could hold it when the run is gone
    with mine.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unlocked.rename(place)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _stamp(run_id: str, stamp: dict[str, Any], settings: Settings) -> None:
    with database.session(settings) as session, session.begin():
        mine = sa.update(RunRow).filter_by(id=run_id).values(**stamp)
        row = session.scalar(mine.returning(RunRow))
        if row is not None and row.state == "dead":
            session.add_all(_notices(row, settings))
        if row is not None and row.state == "succeeded" and row.trigger != "rerun":
            settles = RunRow.id == row.repeats
            if row.partition is not None:
                settles |= sa.and_(
                    RunRow.pipeline == row.pipeline, RunRow.partition == row.partition
                )
            letters = sa.update(RunRow).filter_by(state="dead").where(settles)
            session.execute(letters.values(state="failed"))


def _mark_lost(settings: Settings) -> None:
    """Enter the ends that are not yet entered; stamp those `running` that nobody works on."""
    for kept in (settings.data_dir / "unsaved").glob("*.json"):
        with suppress(FileNotFoundError):  # another enters it
            stamp = json.loads(kept.read_text())
            stamp["ended_at"] = dt.datetime.fromisoformat(stamp["ended_at"])
            _stamp(kept.stem, stamp, settings)
            kept.unlink()
    alive = []
    for place in (settings.data_dir / "work").glob("[0-9a-f]*-*"):
        try:
            with (place / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _lose(RunRow.id == place.name, settings)
                shutil.rmtree(place, ignore_errors=True)
        except BlockingIOError:
            alive.append(place.name)
        except FileNotFoundError:
            continue
    # Of another machine only its signs of life can be seen.
    silent = sa.func.coalesce(RunRow.seen_at, RunRow.started_at) < dt.datetime.now(dt.UTC) - SILENCE
    _lose(silent & RunRow.id.not_in(alive), settings)


def _lose(which: sa.ColumnElement[bool], settings: Settings) -> None:
    """Mark these runs as lost, and tell of those that nobody will try again."""
    running = sa.and_(RunRow.state == "running", which)
    with database.session(settings) as session:
        if session.scalar(sa.select(RunRow.id).where(running).limit(1)) is None:
            return
    with database.session(settings) as session, session.begin():
        state = sa.case((RunRow.is_last, "dead"), else_="failed")
        lost = {"state": state, "error": LOST, "ended_at": dt.datetime.now(dt.UTC)}
        marked = sa.update(RunRow).where(running).values(**lost).returning(RunRow)
        dead = [row for row in session.scalars(marked).all() if row.state == "dead"]
        session.add_all(notice for row in dead for notice in _notices(row, settings))
    if dead:
        _deliver(settings)


def _notices(row: RunRow, settings: Settings) -> list[NoticeRow]:
    """Notices of a run that has become a dead letter, kept together with its state."""
    from thalweg.pipelines import notify

    return notify.dead_letter(_as_run(row, []), settings)


def _deliver(settings: Settings) -> None:
    from thalweg.pipelines import notify

    notify.deliver(settings)


def _as_run(row: RunRow, uses: list[RunUse]) -> Run:
    columns = {name: getattr(row, name) for name in Run.__dataclass_fields__ if name != "uses"}
    names = Use.__dataclass_fields__
    return Run(**columns, uses=tuple(Use(**{n: getattr(use, n) for n in names}) for use in uses))


def _git(home: Path) -> tuple[str | None, bool | None]:
    """Commit of the clone, and whether anything in it differs; None outside of a clone."""
    # The clone may be another account's, whose code we run; and who works in it is not locked out.
    command = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(home)]
    command += ["status", "--porcelain=v2", "--branch"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None, None
    header = [line for line in lines.splitlines() if line.startswith("# ")]
    commit = next(line.split()[-1] for line in header if line.startswith("# branch.oid"))
    return commit, len(lines.splitlines()) > len(header)


@functools.cache
def _environment(settings: Settings) -> str | None:
    """What names every package: the image's digest, else its name, else the hash of the lock file.

    None where there is neither.
    """
    if settings.image:
        return settings.image.rpartition("@")[2]
    lock = settings.home / "uv.lock"
    return (
        f"uv.lock sha256:{hashlib.sha256(lock.read_bytes()).hexdigest()}" if lock.exists() else None
    )


def _user() -> str:
    return os.environ.get("JUPYTERHUB_USER") or getpass.getuser()
