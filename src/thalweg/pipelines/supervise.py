"""The execution of one notebook, watched over: its process, time limit, memory and signs of life.

The notebook runs in a process of its own (`execute`), which this one tells what to do, asks to stop
and, if need be, kills.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from thalweg.errors import Unavailable
from thalweg.pipelines.execute import GRACE
from thalweg.settings import Settings

if TYPE_CHECKING:
    from thalweg.accounts import Account
    from thalweg.pipelines.history import Run
    from thalweg.pipelines.specification import Pipeline

__all__ = ["End", "Progress", "Task", "execute", "executor"]

Progress = Callable[[int, int], None]
PLOTS = Path(__file__).with_name("holoviews.rc")
SAMPLE = 0.5  # seconds between two looks at the memory
BEAT = 5.0  # seconds between two signs of life
LONGEST = 100_000  # characters of what the executing process tells at once
#: How a time limit is changed: of a pipeline, of a notebook that a person has scheduled.
LONGER = ("a longer `timeout` in its pipeline.yaml", "schedule it again with a longer time_limit")


@dataclass(frozen=True)
class Task:
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
class End:
    """How an execution ended, as far as it is known."""

    error: str | None = None
    state: Literal["succeeded", "failed", "cancelled"] = "succeeded"
    peak_memory: int | None = None
    #: Under which the notebook was executed, where people have accounts of their own.
    account: Account | None = None

    def fails(self, error: str, state: Literal["failed", "cancelled"] = "failed") -> None:
        self.error, self.state = error, state


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
        errors="replace",
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


def execute(
    process: subprocess.Popen[str],
    task: Task,
    begun: Run,
    end: End,
    folder: Path,
    settings: Settings,
    progress: Progress | None,
) -> None:
    """Execute the notebook within the time limit; what went wrong, in plain words, is in `end`.

    Of a person it is executed by another process than the given, in their name.
    """
    from thalweg import accounts, record
    from thalweg.pipelines import people

    person = task.pipeline.person
    end.account = account = people.account(person, settings)
    notebook = _input(task, folder, settings)
    cells = len(json.loads(notebook.read_text())["cells"]) + bool(begun.parameters)
    request = _request(notebook, task, begun, folder, settings)
    if account:
        if task.is_rerun:
            record.pin(folder / "notes", str(begun.repeats), settings)
        accounts.passage(folder.parent)
        accounts.hand_over(folder, account)

    def tell(cell: int) -> None:
        if progress:
            progress(cell, cells)

    with _in_the_name_of(person, account, process, settings) as process:
        last = _watched(process, request, task, begun, end, settings, tell)
    if end.state == "succeeded" and "error" not in last:
        end.fails("the process that executes the notebook died: it was killed, or could not start")
    elif end.state == "succeeded" and last["error"]:
        end.fails(str(last["error"]))


def _watched(
    process: subprocess.Popen[str],
    request: dict[str, Any],
    task: Task,
    begun: Run,
    end: End,
    settings: Settings,
    tell: Callable[[int], None],
) -> dict[str, Any]:
    """What the executing process has told last; `tell` hears of each cell. It has ended then."""
    late, done, last = threading.Event(), threading.Event(), dict[str, Any]()

    def end_late() -> None:
        late.set()
        _stop(process)

    limit = threading.Timer(task.pipeline.timeout, end_late)
    watcher = threading.Thread(
        target=_watch, args=[process, task, begun, end, done, settings], daemon=True
    )
    limit.start()
    watcher.start()
    stdin, stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
    try:
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        # In a thread of its own: an interrupt in the middle of an import would leave half a module.
        threading.Thread(target=_get_ready, args=[settings], daemon=True).start()
        for last in _told(stdout):
            if isinstance(cell := last.get("cell"), int):
                tell(cell)
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
    return last


def _told(stdout: IO[str]) -> Iterator[dict[str, Any]]:
    """The events of an executing process; a person's may write what it likes, and without end."""
    for line in iter(lambda: stdout.readline(LONGEST), ""):
        with suppress(ValueError):
            if isinstance(event := json.loads(line), dict):
                yield event
                if "error" in event:  # whoever else holds the other end
                    return


def _watch(
    process: subprocess.Popen[str],
    task: Task,
    begun: Run,
    end: End,
    done: threading.Event,
    settings: Settings,
) -> None:
    """Look after the kernel: its memory, a sign of life for the record, a wish to cancel it."""
    import psutil
    from sqlalchemy.exc import SQLAlchemyError

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
        with suppress(Unavailable, SQLAlchemyError):  # the next one may get through
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


def _input(task: Task, folder: Path, settings: Settings) -> Path:
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
    notebook: Path, task: Task, begun: Run, folder: Path, settings: Settings
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
