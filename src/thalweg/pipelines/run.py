"""Run a pipeline: execute its notebook in a process of its own, and leave a record.

>>> from thalweg.pipelines import run
>>> run.run("evaluate", {"lead_time_bin": 24})  # doctest: +SKIP

The notebook is executed in a folder of the run and saved once, at the end, also when it failed, to
`{runs_uri}/{pipeline}/{YYYY-MM-DD}/{run_id}.ipynb`, and later beside it as HTML (`pages`). It
carries the record in `metadata["thalweg"]` and in its first cell. The runner never imports
Papermill: `execute` does, in its own process, and what the runner needs itself is imported while
that is going on.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from thalweg.errors import InvalidInput, ThalwegError, Unavailable
from thalweg.pipelines import supervise
from thalweg.pipelines.supervise import End, Progress, Task, executor
from thalweg.settings import Settings, load

if TYPE_CHECKING:
    from thalweg.accounts import Account
    from thalweg.pipelines.history import Run

__all__ = ["Progress", "RunFailed", "executor", "rerun", "retry", "run", "stoppable"]

log = logging.getLogger(__name__)


class RunFailed(ThalwegError):
    """A run ended without success; `run` is its record, whose state says how."""

    def __init__(self, run: Run) -> None:
        super().__init__(
            f"run {run.id} of {run.pipeline!r} {ENDED[run.state]}: {run.error}\n"
            f"look into it: thalweg runs show {run.id[-12:]}; try again: {run.again}"
        )
        self.run = run


ENDED = {"failed": "failed", "dead": "failed for the last time", "cancelled": "was cancelled"}


def run(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    partition: str | None = None,
    trigger: str | None = None,
    attempt: int | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    process: subprocess.Popen[str] | None = None,
    stop: threading.Event | None = None,
) -> Run:
    """Execute the notebook of the pipeline `name` and return the record of the run.

    Parameters
    ----------
    parameters
        Values by name; text is converted by the declared types.
    partition
        Key of the partition, which gives parameters too.
    trigger
        Who asked: `dagster`, `schedule` (that of a person), `backfill`; by default `notebook` from
        the kernel of one, else `command`. `retry` and `rerun` set their own.
    attempt
        Of a scheduler that tries again by itself: 1 for the first. A failure after the last of the
        pipeline's retries is a dead letter, of which those are told that its specification names.
        None: somebody is looking on, and sees a failure.
    progress
        Called with the number of the cell that starts and the number of all cells.
    process
        An `executor()` that the caller started earlier; without it, one is started here.
    stop
        When it is set, the run is cancelled, or not begun (KeyboardInterrupt).

    Raises
    ------
    NotFound, InvalidInput
        No such pipeline, or parameters that it does not allow; no kernel started, nothing recorded.
    Busy
        Another run works on the same partition, and the pipeline says to leave this one out.
    RunFailed
        The notebook failed, its kernel died, it took longer than its timeout, or was cancelled.
    """
    with nullcontext(process) if process else executor() as process:
        from thalweg.pipelines import specification

        settings = settings or load()
        pipeline = specification.get(name, settings)
        values = pipeline.values(parameters, partition)
        is_last = attempt is not None and attempt > pipeline.retries.attempts
        trigger = trigger or ("notebook" if "ipykernel.kernelapp" in sys.modules else "command")
        task = Task(pipeline, values, partition, trigger, attempt or 1, is_last, stop=stop)
        return _run(task, settings, process, progress)


def retry(run_id: str, settings: Settings | None = None, progress: Progress | None = None) -> Run:
    """Run again what failed, with the same parameters and partition; its success settles it.

    Raises
    ------
    NotFound, InvalidInput
        No such run or pipeline; a run that did not fail, or values that are not allowed any more.
    Busy, RunFailed
        As `run`.
    """
    with executor() as process:
        from thalweg.pipelines import history, specification

        settings = settings or load()
        failed = history.get(run_id, settings)
        if failed.state in ("running", "succeeded"):
            again = "is still running" if failed.state == "running" else "succeeded"
            raise InvalidInput(
                f"run {failed.id} {again}: to do it once more, `thalweg run {failed.pipeline}`"
            )
        if failed.trigger == "rerun":
            raise InvalidInput(f"run {failed.id} was a rerun: do it again by `{failed.again}`")
        pipeline = specification.get(failed.pipeline, settings)
        values = pipeline.values(failed.parameters)
        # Of several in a row each repeats the first, which waits for a success.
        first = history.get(failed.repeats, settings) if failed.repeats else failed
        task = Task(pipeline, values, failed.partition, "retry", failed.attempt + 1, False, first)
        return _run(task, settings, process, progress)


def rerun(run_id: str, settings: Settings | None = None, progress: Progress | None = None) -> Run:
    """Repeat a run against the same raw files and snapshots, and tell what comes out differently.

    Its notebook is executed as it was then. Nothing is written but the record and the notebook:
    what it would write is compared with what the run wrote. The record has the `differences`, an
    empty list where all is bit-identical.

    Raises
    ------
    NotFound, InvalidInput
        No such run or pipeline; a run that did not succeed, or whose notebook was not saved.
    RunFailed
        As `run`; also where upkeep has ended one of the snapshots.
    """
    with executor() as process:
        from thalweg.pipelines import history, specification

        settings = settings or load()
        first = history.get(run_id, settings)
        if first.trigger == "rerun":
            first = history.get(str(first.repeats), settings)
        if first.state != "succeeded" or not first.notebook_uri:
            raise InvalidInput(
                f"run {first.id} is {first.state}: expected one that succeeded, with its notebook; "
                f"one that failed is run again by `thalweg runs retry {first.id[-12:]}`"
            )
        pipeline = specification.get(first.pipeline, settings)
        task = Task(pipeline, first.parameters, first.partition, "rerun", 1, repeats=first)
        return _run(task, settings, process, progress)


def _run(
    task: Task, settings: Settings, process: subprocess.Popen[str], progress: Progress | None
) -> Run:
    from thalweg import database
    from thalweg.pipelines import history

    run_id = database.new_id()
    with history.workplace(run_id, settings) as place, stoppable():
        (folder := place / "run").mkdir(mode=0o700)
        begun = history.begin(
            run_id, task.pipeline.name, task.values, task.trigger, settings,
            partition=task.partition, attempt=task.attempt, is_last=task.is_last,
            repeats=task.repeats.id if task.repeats else None,
            overlap="allow" if task.is_rerun else task.pipeline.overlap, waits=_holds(task),
            user=task.pipeline.person,
        )  # fmt: skip
        end = End()
        try:
            supervise.execute(process, task, begun, end, folder, settings, progress)
        except BaseException as stop:
            end.fails(*_why(stop))
            _finish(begun, task, end, folder, settings)
            raise
        ended = _finish(begun, task, end, folder, settings)
    if ended.state != "succeeded":
        raise RunFailed(ended)
    return ended


def _holds(task: Task) -> Callable[[Run], None]:
    """Says once for what a run waits, and ends the waiting when it is stopped."""
    said = set[str]()

    def waits(other: Run) -> None:
        if task.is_stopped:
            raise KeyboardInterrupt
        if other.id not in said:
            log.warning(
                "waiting for run %s of %r, which works on the same; to stop it: thalweg runs "
                "cancel %s", other.id, other.pipeline, other.id[-12:],
            )  # fmt: skip
        said.add(other.id)

    return waits


def _why(stop: BaseException) -> tuple[str, Literal["failed", "cancelled"]]:
    """What has stopped a run, for its record; of SIGTERM `SystemExit`, which says nothing."""
    if isinstance(stop, KeyboardInterrupt):
        return "cancelled at the keyboard", "cancelled"
    if isinstance(stop, ThalwegError):
        return str(stop), "failed"
    if isinstance(stop, Exception):
        return f"{type(stop).__name__}: {stop}", "failed"
    is_signal = isinstance(stop, SystemExit) and stop.code == 128 + signal.SIGTERM
    by = "SIGTERM: the machine or its scheduler shuts down" if is_signal else type(stop).__name__
    return f"stopped from outside ({by})", "failed"


def _finish(begun: Run, task: Task, end: End, folder: Path, settings: Settings) -> Run:
    """Save the executed notebook with its record, and stamp the run."""
    from thalweg.pipelines import history, pages, report

    if end.account:
        _take_notes(begun, folder, end.account, settings)
    notebook = _executed(folder, end.account)
    if notebook is None and end.state == "succeeded":
        end.fails("the notebook ran, and its file is gone, cut, or too large to be kept")
    is_dead = task.is_last and end.state == "failed"
    ended = replace(
        history.known(begun, settings),
        state="dead" if is_dead else end.state,
        error=end.error,
        ended_at=dt.datetime.now(dt.UTC),
        peak_memory=end.peak_memory,
    )
    if notebook:
        try:
            if task.is_rerun and task.repeats and end.state == "succeeded":
                ended = replace(ended, differences=_differences(task.repeats, ended, notebook))
            ended = _saved(report.with_record(notebook, ended), ended, settings)
        except Exception as unsaved:  # whatever it is, the record must be stamped
            why = f"the executed notebook could not be saved{_kept(notebook, ended, settings)}"
            both = "; ".join(filter(None, [end.error, f"{why}: {unsaved}"]))
            failed = "dead" if task.is_last else "failed"
            state = ended.state if end.error else failed
            ended = replace(ended, state=state, error=both, notebook_uri=None, html_uri=None)
    ended = history.end(ended, settings)
    if ended.notebook_uri:
        pages.later(ended, settings)
    return ended


def _executed(folder: Path, account: Account | None) -> dict[str, Any] | None:
    """The notebook as far as it was executed; None without one, or where it was cut (disk full)."""
    from thalweg import accounts

    try:
        text = accounts.read_theirs(folder / "notebook.ipynb", account)
        return cast(dict[str, Any], json.loads(text))
    except (OSError, ValueError):
        return None


def _take_notes(begun: Run, folder: Path, account: Account, settings: Settings) -> None:
    """Put on record what a person's kernel has noted, which cannot open the record itself."""
    from thalweg import accounts, record

    try:
        text = accounts.read_theirs(folder / "notes", account).decode(errors="replace")
        record.take(begun.id, text.splitlines(), settings)
    except FileNotFoundError:
        return  # it has noted nothing
    except (OSError, Unavailable) as error:  # the record is stamped all the same
        log.warning("run %s: what it has noted is not on record: %s", begun.id, error)


def _saved(notebook: dict[str, Any], ended: Run, settings: Settings) -> Run:
    """Store the notebook; returns the record with where it is, and where its page will be."""
    from thalweg import storage

    uri = f"{settings.runs_uri}/{ended.pipeline}/{ended.started_at:%Y-%m-%d}/{ended.id}"
    ended = replace(ended, notebook_uri=f"{uri}.ipynb", html_uri=f"{uri}.html")
    notebook["metadata"]["thalweg"] = ended.as_dict()
    storage.put_new(f"{uri}.ipynb", json.dumps(notebook, indent=1).encode())
    return ended


def _kept(notebook: dict[str, Any], ended: Run, settings: Settings) -> str:
    """Where a notebook lies that the store did not take, in words; nothing if the disk is full."""
    from thalweg import private

    try:
        kept = private.folder(settings, "unsaved") / f"{ended.id}.ipynb"
        private.private_file(kept, json.dumps(notebook, indent=1))
    except (OSError, Unavailable):
        return ""
    return f" and lies in {kept}"


def _differences(first: Run, again: Run, notebook: dict[str, Any]) -> list[str]:
    """In what a rerun differs from what it repeats: rows that it would write, and outputs."""
    from thalweg import storage
    from thalweg.pipelines import report

    executed = json.loads(storage.read(str(first.notebook_uri)))
    return [*report.unlike_rows(first, again), *report.unlike_outputs(executed, notebook)]


@contextmanager
def stoppable() -> Iterator[None]:
    """Make SIGTERM an exception, so that a run that is told to go stamps its record first."""

    def leave(_signal: int, _frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + signal.SIGTERM)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
