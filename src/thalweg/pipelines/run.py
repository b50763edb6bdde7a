"""Run a pipeline: execute its notebook in a process of its own, and leave a record.

>>> from thalweg.pipelines import run
>>> run.run("evaluate", {"lead_time_bin": 24})  # doctest: +SKIP

The notebook is executed in a folder of the run and saved once, at the end, to
`{runs_uri}/{pipeline}/{YYYY-MM-DD}/{run_id}.ipynb`, also when it failed. It carries the record in
`metadata["thalweg"]`. The runner never imports Papermill: `execute` does, in its own process, and
what the runner needs itself is imported while that is going on.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from thalweg.errors import ThalwegError
from thalweg.pipelines.execute import GRACE
from thalweg.settings import Settings, load

if TYPE_CHECKING:
    from thalweg.pipelines.history import Run
    from thalweg.pipelines.specification import Pipeline

__all__ = ["Progress", "RunFailed", "executor", "run"]

Progress = Callable[[int, int], None]
PLOTS = Path(__file__).with_name("holoviews.rc")


class RunFailed(ThalwegError):
    """A run ended without success; `run` is its record."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"run {run.id} of {run.pipeline!r} failed: {run.error}")
        self.run = run


def run(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    trigger: str = "command",
    settings: Settings | None = None,
    progress: Progress | None = None,
    process: subprocess.Popen[str] | None = None,
) -> Run:
    """Execute the notebook of the pipeline `name` and return the record of the run.

    Parameters
    ----------
    parameters
        Values by name; text is converted by the declared types.
    trigger
        Who asked: `command`, `dagster` or `notebook`.
    progress
        Called with the number of the cell that starts and the number of all cells.
    process
        An `executor()` that the caller started earlier; without it, one is started here.

    Raises
    ------
    NotFound, InvalidInput
        No such pipeline, or parameters that it does not allow; no kernel started, nothing recorded.
    RunFailed
        The notebook failed, its kernel died, or it took longer than its timeout.
    """
    with nullcontext(process) if process else executor() as process:
        from thalweg import database
        from thalweg.pipelines import history, specification

        settings = settings or load()
        pipeline = specification.get(name, settings)
        values = pipeline.values(parameters)
        run_id = database.new_id()
        with history.workplace(run_id, settings) as folder, _stoppable():
            begun = history.begin(run_id, name, values, trigger, settings)
            try:
                error = _execute(process, pipeline, begun, folder, settings, progress)
            except BaseException as stop:
                _finish(begun, f"stopped from outside ({type(stop).__name__})", folder, settings)
                raise
            ended = _finish(begun, error, folder, settings)
    if ended.state == "failed":
        raise RunFailed(ended)
    return ended


@contextmanager
def executor() -> Iterator[subprocess.Popen[str]]:
    """The process that will execute a notebook, started before anybody knows which.

    It imports Papermill while the caller imports what it needs itself; both take half a second.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "thalweg.pipelines.execute"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the run, which then stops its kernel
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _execute(
    process: subprocess.Popen[str],
    pipeline: Pipeline,
    begun: Run,
    folder: Path,
    settings: Settings,
    progress: Progress | None,
) -> str | None:
    """Execute the notebook within the time limit; what went wrong in plain words, or None."""
    late = threading.Event()

    def end_late() -> None:
        late.set()
        _stop(process)

    limit = threading.Timer(pipeline.timeout, end_late)
    stdin, stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
    cells = len(json.loads(pipeline.notebook_path.read_text())["cells"])
    last: dict[str, Any] = {}
    limit.start()
    try:
        stdin.write(json.dumps(_request(pipeline, begun, folder, settings)) + "\n")
        stdin.flush()
        # In a thread of its own: an interrupt in the middle of an import would leave half a module.
        threading.Thread(target=_open_store, args=[settings], daemon=True).start()
        for line in stdout:
            last = json.loads(line)
            if progress and "cell" in last:
                progress(last["cell"], cells + bool(begun.parameters))
    except BrokenPipeError:
        pass
    finally:
        limit.cancel()
        _stop(process)
    if late.is_set():
        return f"it took longer than its time limit of {pipeline.timeout} s"
    if "error" in last:
        return cast(str | None, last["error"])
    return "the process that executes the notebook died: it was killed, or could not start"


def _request(pipeline: Pipeline, begun: Run, folder: Path, settings: Settings) -> dict[str, Any]:
    """What the executing process is told; the kernel gets this environment and these settings."""
    given = {f"THALWEG_{f.name.upper()}": str(getattr(settings, f.name)) for f in fields(settings)}
    return {
        "environ": {**os.environ, **given, "THALWEG_RUN_ID": begun.id, "HOLOVIEWSRC": str(PLOTS)},
        "log": str(folder / "log"),
        "arguments": {
            "input_path": str(pipeline.notebook_path),
            "output_path": str(folder / "notebook.ipynb"),
            "parameters": begun.parameters,
            "cwd": str(folder),
        },
    }


def _open_store(settings: Settings) -> None:
    """Have the object store's client ready, while the kernel starts, for the moment of saving."""
    from thalweg import storage

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


def _finish(begun: Run, error: str | None, folder: Path, settings: Settings) -> Run:
    """Save the executed notebook with its record, and stamp the run."""
    from thalweg import private, storage
    from thalweg.pipelines import history

    ended = replace(
        history.get(begun.id, settings),
        state="failed" if error else "succeeded",
        error=error,
        ended_at=dt.datetime.now(dt.UTC),
    )
    notebook = folder / "notebook.ipynb"
    if notebook.exists():
        day = f"{begun.started_at:%Y-%m-%d}"
        uri = f"{settings.runs_uri}/{begun.pipeline}/{day}/{begun.id}.ipynb"
        ended = replace(ended, notebook_uri=uri)
        content = json.loads(notebook.read_text())
        content["metadata"]["thalweg"] = ended.as_dict()
        notebook.write_text(json.dumps(content, indent=1))
        try:
            storage.put_new(uri, notebook.read_bytes())
        except Exception as unsaved:  # whatever it is, the record must be stamped
            kept = private.folder(settings, "unsaved") / f"{begun.id}.ipynb"
            shutil.move(notebook, kept)
            why = f"the executed notebook could not be saved and lies in {kept}: {unsaved}"
            both = f"{error}; {why}" if error else why
            ended = replace(ended, state="failed", error=both, notebook_uri=None)
    return history.end(ended, settings)


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
