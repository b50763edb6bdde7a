"""The process that executes one notebook: Papermill, and nothing else of Thalweg.

It stands between a run and its kernel, so that neither a dying kernel nor a time limit takes the
caller along. The caller (`thalweg.pipelines.supervise`) starts it before all else, since importing
Papermill takes longest, and writes one line of JSON to its standard input: `environ` for the
kernel, how to speak to it (`kernel`, traits of its manager), the file for its `log`, and the
`arguments` of `papermill.execute_notebook`. On standard output come lines of JSON: `{"cell": 3}`
when that cell starts, and last `{"error": "…"}` or `{"error": null}`. When standard input closes,
the caller is gone or has enough: the kernel is interrupted, given a moment to close what it holds,
and killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from typing import Any

GRACE = 10  # seconds between the interrupt and the end
LONGEST = 5_000  # characters of an error
#: What to do about errors that are of the machine and not of the notebook.
ADVICE = {
    r"Memory ?Error|bad_alloc|the kernel died": (
        "give it less to do at once, or more memory (`resources` in its pipeline.yaml)"
    ),
    # Full, too large for the limit of a file, above the quota.
    r"\[Errno (28|27|122)\]|disk is full": "the disk is full: make room on it",
    r"NoSuchKernel": "say a kernel that `jupyter kernelspec list` knows in the notebook's metadata",
}


def main() -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    request = json.loads(sys.stdin.readline() or sys.exit(1))
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    os.environ.update(request["environ"])
    # What the kernel prints at the level of the system goes to the log, not among the events.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    with open(request["log"], "w") as log:  # noqa: PTH123
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    config = Config(KernelManager=request["kernel"])
    cell, error = 0, None

    def starts(cell_index: int, **_: Any) -> None:
        nonlocal cell
        cell = cell_index + 1
        events.write(json.dumps({"cell": cell}) + "\n")

    try:
        papermill.execute_notebook(
            **request["arguments"], config=config, on_cell_start=starts, progress_bar=False
        )
    except PapermillExecutionError as failure:
        error = advised(f"In [{failure.exec_count}]: {failure.ename}: {failure.evalue}")
    except DeadKernelError:
        died = "the kernel died: it was killed, or the machine ran out of memory"
        error = advised(f"cell {cell}: {died}")
    except Exception as failure:  # such as a kernel that cannot start
        error = advised(f"{type(failure).__name__}: {failure}")
    events.write(json.dumps({"error": error}) + "\n")
    os._exit(0)  # nothing is left to tidy up, and the caller waits


def advised(error: str) -> str:
    """The error with what to do about it, where it is not the notebook's own."""
    advice = (does for says, does in ADVICE.items() if re.search(says, error))
    cut = f"{error[:LONGEST]} …" if len(error) > LONGEST else error
    return "; ".join([cut, *advice])


def _end_with_the_caller() -> None:
    sys.stdin.read()
    import psutil

    executor = psutil.Process()
    for kernel in executor.children():
        kernel.send_signal(signal.SIGINT)
    time.sleep(GRACE)
    for process in executor.children(recursive=True):
        process.kill()
    os._exit(1)


if __name__ == "__main__":
    main()
