"""The executed notebooks as pages of HTML, in the object store beside them.

A page costs a second for the first and a hundredth for each that follows, and no run waits for it:
`later` leaves a note, and a process of its own, at the lowest priority and one at a time on a
machine, renders what is noted. Whoever looks earlier (`read`) renders that page at once.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thalweg.errors import NotFound, Unavailable
from thalweg.pipelines.history import Run
from thalweg.private import folder, private_file
from thalweg.settings import Settings

__all__ = ["later", "read"]

log = logging.getLogger(__name__)


def later(run: Run, settings: Settings) -> None:
    """Have the page of a run rendered; where nobody can be asked to, it is when it is read."""
    try:
        due = folder(settings, "pages-due")
        private_file(due / run.id, json.dumps([run.notebook_uri, run.html_uri, run.pipeline]))
        if settings.launcher == "kubernetes":  # nothing outlives the pod
            _render_due(due)
        elif not _is_at_work(due):
            _start(due)
    except (OSError, Unavailable) as error:
        log.warning("run %s: its page is rendered when it is read: %s", run.id, error)


def read(run: Run) -> bytes:
    """The page of a run, rendered now where it was not yet.

    Raises
    ------
    NotFound
        Its notebook was not kept, or cannot be rendered; the message says where it lies.
    Unavailable
        The store does not answer.
    """
    from thalweg import storage

    if not (run.notebook_uri and run.html_uri):
        kept = f"; its notebook is at {run.notebook_uri}" if run.notebook_uri else ""
        raise NotFound(f"run {run.id} is {run.state} and has no page{kept}")
    try:
        return storage.read(run.html_uri)
    except NotFound:
        return _render(run.notebook_uri, run.html_uri, run.pipeline)


def _start(due: Path) -> None:
    with (due / "log").open("a") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "thalweg.pipelines.pages", str(due.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,  # it goes on when the run's process, or its terminal, ends
        )
    threading.Thread(target=process.wait, daemon=True).start()


def _render(notebook_uri: str, page_uri: str, title: str) -> bytes:
    from thalweg import storage
    from thalweg.pipelines import report

    notebook = json.loads(storage.read(notebook_uri))
    try:
        page = report.html(notebook, title).encode()
    except Exception as error:  # whatever nbconvert makes of an output
        raise NotFound(f"{notebook_uri} cannot be rendered as HTML: {error}") from error
    with suppress(FileExistsError):  # another was faster
        storage.put_new(page_uri, page)
    return page


def _render_due(due: Path) -> None:
    """Render all that is noted; what the store does not take waits for the next run."""
    tried: set[str] = set()
    # What came while the lock was let go of is looked for once more.
    while waiting := [note for note in sorted(due.glob("[0-9a-f]*-*")) if note.name not in tried]:
        try:
            with _alone(due):
                for note in waiting:
                    tried.add(note.name)
                    _render_noted(note)
        except BlockingIOError:
            return


def _render_noted(note: Path) -> None:
    try:
        _render(*json.loads(note.read_text()))
    except FileNotFoundError:
        return  # another has done it
    except Unavailable as gone:
        log.warning("run %s: its page waits for the next run: %s", note.name, gone)
        return
    except (NotFound, ValueError) as error:
        log.error("run %s has no page: %s", note.name, error)
    note.unlink(missing_ok=True)


@contextmanager
def _alone(due: Path) -> Iterator[None]:
    """Hold the lock of the one that renders; BlockingIOError where another has it."""
    with (due / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _is_at_work(due: Path) -> bool:
    try:
        with _alone(due):
            return False
    except BlockingIOError:
        return True


def main(due: Path) -> None:
    """Render what is noted in this folder, when the machine has nothing else to do."""
    os.nice(19)
    with suppress(OSError):  # Linux weighs sessions against each other, whatever nice says
        Path("/proc/self/autogroup").write_text("19")
    _render_due(due)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
