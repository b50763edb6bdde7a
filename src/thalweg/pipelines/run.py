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
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from thalweg.errors import InvalidInput, ThalwegError, Unavailable
from thalweg.pipelines.execute import GRACE
from thalweg.settings import Settings, load

if TYPE_CHECKING:
    from thalweg.accounts import Account
    from thalweg.pipelines.history import Run
    from thalweg.pipelines.specification import Pipeline

__all__ = ["Progress", "RunFailed", "executor", "rerun", "retry", "run"]

Progress = Callable[[int, int], None]
PLOTS = Path(__file__).with_name("holoviews.rc")
SAMPLE = 0.5  # seconds between two looks at the memory
BEAT = 5.0  # seconds between two signs of life
log = logging.getLogger(__name__)


class RunFailed(ThalwegError):
    """A run ended without success; `run` is its record, whose state says how."""

    def __init__(self, run: Run) -> None:
        super().__init__(
            f"run {run.id} of {run.pipeline!r} {ENDED[run.state]}: {run.error}\n"
            f"look into it: thalweg runs show {run.id[-12:]}; try again: {run.again}"
        )
        self.run = run


#: How a time limit is changed: of a pipeline, of a notebook that a person has scheduled.
LONGER = ("a longer `timeout` in its pipeline.yaml", "schedule it again with a longer time_limit")
ENDED = {"failed": "failed", "dead": "failed for the last time", "cancelled": "was cancelled"}


def run(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    partition: str | None = None,
    trigger: str = "command",
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
        Who asked: `command`, `dagster`, `schedule` (that of a person) or `notebook`; `retry` and
        `rerun` set their own.
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
        task = _Task(pipeline, values, partition, trigger, attempt or 1, is_last, stop=stop)
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
        task = _Task(pipeline, values, failed.partition, "retry", failed.attempt + 1, False, first)
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
        task = _Task(pipeline, first.parameters, first.partition, "rerun", 1, repeats=first)
        return _run(task, settings, process, progress)


@dataclass(frozen=True)
class _Task:
    """What a run is to do; a rerun does it as `repeats` did, without writing."""

    pipeline: Pipeline
    values: dict[str, Any]
    partition: str | None
    trigger: str
    attempt: int
    is_last: bool = False
    repeats: Run | None = None
    stop: threading.Event | None = None

    @property
    def is_rerun(self) -> bool:
        return self.trigger == "rerun"

    @property
    def is_stopped(self) -> bool:
        return self.stop is not None and self.stop.is_set()


@dataclass
class _End:
    """How an execution ended, as far as it is known."""

    error: str | None = None
    state: Literal["succeeded", "failed", "cancelled"] = "succeeded"
    peak_memory: int | None = None

    def fails(self, error: str, state: Literal["failed", "cancelled"] = "failed") -> None:
        self.error, self.state = error, state


def _run(
    task: _Task, settings: Settings, process: subprocess.Popen[str], progress: Progress | None
) -> Run:
    from thalweg import accounts, database
    from thalweg.pipelines import history, people

    run_id, person = database.new_id(), task.pipeline.person
    account = people.account(person, settings)
    with (
        history.workplace(run_id, settings) as folder,
        _stoppable(),
        _in_the_name_of(person, account, process, settings) as process,
    ):
        if account:
            folder = accounts.passage(folder) / "theirs"
            folder.mkdir(mode=0o700)
        begun = history.begin(
            run_id, task.pipeline.name, task.values, task.trigger, settings,
            partition=task.partition, attempt=task.attempt, is_last=task.is_last,
            repeats=task.repeats.id if task.repeats else None,
            overlap="allow" if task.is_rerun else task.pipeline.overlap, waits=_holds(task),
            user=person,
        )  # fmt: skip
        end = _End()
        try:
            _execute(process, task, begun, end, folder, settings, progress)
        except BaseException as stop:
            is_person = isinstance(stop, KeyboardInterrupt)
            end.fails(
                "cancelled at the keyboard"
                if is_person
                else f"stopped from outside ({_said(stop)})",
                "cancelled" if is_person else "failed",
            )
            _tell(_finish(begun, task, end, folder, settings), settings)
            raise
        ended = _finish(begun, task, end, folder, settings)
    if ended.state != "succeeded":
        _tell(ended, settings)
        raise RunFailed(ended)
    return ended


def _tell(ended: Run, settings: Settings) -> None:
    from thalweg.pipelines import notify

    notify.dead_letter(ended, settings)


def _holds(task: _Task) -> Callable[[Run], None]:
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


def _said(stop: BaseException) -> str:
    """What has stopped a run: of SIGTERM `SystemExit`, which says nothing to a reader."""
    is_signal = isinstance(stop, SystemExit) and stop.code == 128 + signal.SIGTERM
    return "SIGTERM: the machine or its scheduler shuts down" if is_signal else type(stop).__name__


@contextmanager
def executor(
    environ: dict[str, str] | None = None, **as_whom: Any
) -> Iterator[subprocess.Popen[str]]:
    """The process that will execute a notebook, started before anybody knows which.

    It imports Papermill while the caller imports what it needs itself; both take half a second. It
    has this environment, or that of the caller, and the account that `as_whom` gives `Popen`.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "thalweg.pipelines.execute"],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the run, which then stops its kernel
        **as_whom,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def _in_the_name_of(
    person: str | None,
    account: Account | None,
    process: subprocess.Popen[str],
    settings: Settings,
) -> Iterator[subprocess.Popen[str]]:
    """The process for a person's notebook, which has never had our environment; else the given."""
    if person is None:
        yield process
        return
    from thalweg import accounts
    from thalweg.pipelines import people

    as_whom = accounts.as_them(account) | {"cwd": account.home} if account else {}
    with executor(people.environment(person, settings), **as_whom) as own:
        yield own


def _execute(
    process: subprocess.Popen[str],
    task: _Task,
    begun: Run,
    end: _End,
    folder: Path,
    settings: Settings,
    progress: Progress | None,
) -> None:
    """Execute the notebook within the time limit; what went wrong, in plain words, is in `end`."""
    from thalweg import accounts, record
    from thalweg.pipelines import people

    late, done = threading.Event(), threading.Event()

    def end_late() -> None:
        late.set()
        _stop(process)

    limit = threading.Timer(task.pipeline.timeout, end_late)
    stdin, stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
    notebook = _input(task, folder, settings)
    cells = len(json.loads(notebook.read_text())["cells"])
    if account := people.account(task.pipeline.person, settings):
        if task.is_rerun:
            record.pin(folder / "notes", str(begun.repeats), settings)
        accounts.hand_over(folder, account)
    last: dict[str, Any] = {}
    limit.start()
    watcher = threading.Thread(
        target=_watch, args=[process, task, begun, end, done, settings], daemon=True
    )
    watcher.start()
    try:
        stdin.write(json.dumps(_request(notebook, task, begun, folder, settings)) + "\n")
        stdin.flush()
        # In a thread of its own: an interrupt in the middle of an import would leave half a module.
        threading.Thread(target=_get_ready, args=[settings], daemon=True).start()
        for line in stdout:
            last = json.loads(line)
            if progress and "cell" in last:
                progress(last["cell"], cells + bool(begun.parameters))
    except BrokenPipeError:
        pass
    finally:
        limit.cancel()
        done.set()
        _stop(process)
    if late.is_set():
        end.fails(
            f"it took longer than its time limit of {task.pipeline.timeout} s; give it less to do "
            f"at once, or {LONGER[bool(task.pipeline.person)]}"
        )
    elif end.state == "succeeded" and "error" not in last:
        end.fails("the process that executes the notebook died: it was killed, or could not start")
    elif end.state == "succeeded" and last["error"]:
        end.fails(last["error"])


def _watch(
    process: subprocess.Popen[str],
    task: _Task,
    begun: Run,
    end: _End,
    done: threading.Event,
    settings: Settings,
) -> None:
    """Look after the kernel: its memory, a sign of life for the record, a wish to cancel it."""
    import psutil

    from thalweg.pipelines import history

    next_beat = time.monotonic() + BEAT
    while not done.wait(SAMPLE):
        with suppress(psutil.Error):
            kernel = psutil.Process(process.pid).children(recursive=True)
            end.peak_memory = max(end.peak_memory or 0, sum(map(_memory, kernel))) or None
        if task.is_stopped:
            end.fails("cancelled by who started it", "cancelled")
            return _stop(process)
        if time.monotonic() < next_beat:
            continue
        next_beat = time.monotonic() + BEAT
        with suppress(Unavailable):  # the next one may get through
            if (by := history.beat(begun.id, settings)) and not done.is_set():
                end.fails(f"cancelled by {by}", "cancelled")
                return _stop(process)
    return None


def _memory(process: Any) -> int:
    """Resident memory of a process in bytes; 0 of one that is gone."""
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _input(task: _Task, folder: Path, settings: Settings) -> Path:
    """The notebook to execute: the pipeline's, or in a rerun that which was executed then."""
    if task.is_rerun and task.repeats and task.repeats.notebook_uri:
        from thalweg import storage
        from thalweg.pipelines import report

        notebook = report.without_record(json.loads(storage.read(task.repeats.notebook_uri)))
    elif task.pipeline.person:
        from thalweg.pipelines import personal

        notebook = personal.notebook(task.pipeline.name, settings)
    else:
        return task.pipeline.notebook_path
    path = folder / "copy.ipynb"
    path.write_text(json.dumps(notebook))
    return path


def _request(
    notebook: Path, task: _Task, begun: Run, folder: Path, settings: Settings
) -> dict[str, Any]:
    """What the executing process is told; the kernel gets this environment and these settings."""
    from thalweg.pipelines import people

    person = task.pipeline.person
    given = {f"THALWEG_{f.name.upper()}": str(getattr(settings, f.name)) for f in fields(settings)}
    around = people.environment(person, settings) if person else {**os.environ, **given}
    run = {
        "THALWEG_RUN_ID": begun.id,
        "THALWEG_COMPUTE": task.pipeline.resources.profile,
        "HOLOVIEWSRC": str(PLOTS),
    }
    if task.is_rerun:
        run["THALWEG_PINNED"] = str(begun.repeats)
    if people.account(person, settings):
        run["THALWEG_NOTES"] = str(folder / "notes")
    return {
        "environ": {**around, **run},
        "log": str(folder / "log"),
        "arguments": {
            "input_path": str(notebook),
            "output_path": str(folder / "notebook.ipynb"),
            "parameters": begun.parameters,
            "cwd": str((people.home(person, settings) if person else None) or folder),
        },
        "kernel": people.kernel(begun.id, person, settings),
    }


def _get_ready(settings: Settings) -> None:
    """Import what is needed for saving, and open the object store, while the kernel is at work."""
    from thalweg import storage
    from thalweg.pipelines import pages, report  # noqa: F401

    with suppress(Exception):
        storage.filesystem(settings.runs_uri).exists(settings.runs_uri)


def _stop(process: subprocess.Popen[str]) -> None:
    """End the executing process and its kernel: politely, then by force."""
    with suppress(OSError):
        cast(IO[str], process.stdin).close()
    try:
        process.wait(GRACE + 5)
    except subprocess.TimeoutExpired:
        import psutil

        with suppress(psutil.NoSuchProcess):
            executor = psutil.Process(process.pid)
            for each in [*executor.children(recursive=True), executor]:
                each.kill()
        process.wait()


def _finish(begun: Run, task: _Task, end: _End, folder: Path, settings: Settings) -> Run:
    """Save the executed notebook with its record, and stamp the run."""
    from thalweg.pipelines import history, pages, people, report

    account = people.account(task.pipeline.person, settings)
    if account:
        _take_notes(begun, folder, account, settings)
    is_dead = task.is_last and end.state == "failed"
    ended = replace(
        history.known(begun, settings),
        state="dead" if is_dead else end.state,
        error=end.error,
        ended_at=dt.datetime.now(dt.UTC),
        peak_memory=end.peak_memory,
    )
    if notebook := _executed(folder, account):
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

    with suppress(OSError):
        text = accounts.read_theirs(folder / "notes", account).decode(errors="replace")
        record.take(begun.id, text.splitlines(), settings)


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
def _stoppable() -> Iterator[None]:
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
