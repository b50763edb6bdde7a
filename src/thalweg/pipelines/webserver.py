"""Dagster's UI on a UNIX socket: `python -m thalweg.pipelines.webserver --unix-socket PATH`.

Dagster's own command serves TCP only, where it would answer every process of the machine without
a login. Through a socket that only its owner can open, the hub's proxy is the only way in.
"""

from __future__ import annotations

import argparse
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thalweg.pipelines.scheduler import dagster_home

__all__ = ["listen", "main"]


def main(arguments: list[str] | None = None) -> None:
    """Serve the UI until told to stop; the scheduler's code server may come later."""
    parser = argparse.ArgumentParser(prog="python -m thalweg.pipelines.webserver")
    parser.add_argument("--unix-socket", type=Path, required=True, help="path of the socket")
    parser.add_argument("--prefix", default="", help="path below which the UI is reached")
    options = parser.parse_args(arguments)
    home = dagster_home()
    # The UI shows it, and looks again by itself, when the scheduler is not there yet.
    warnings.filterwarnings("ignore", "Error loading repository location")
    os.environ["DAGSTER_HOME"] = str(home)

    import dagster as dg
    import uvicorn
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context

    with (
        dg.DagsterInstance.get() as instance,
        WorkspaceProcessContext(
            instance, WorkspaceFileTarget(paths=[str(home / "workspace.yaml")])
        ) as workspace,
        listen(options.unix_socket) as listening,
    ):
        app = create_app_from_workspace_process_context(workspace, options.prefix.rstrip("/"))
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


@contextmanager
def listen(path: Path) -> Iterator[socket.socket]:
    """A UNIX socket at `path` that only its owner can open (0600), removed at the end."""
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen(128)
    finally:
        os.umask(before)
    try:
        yield listening
    finally:
        listening.close()
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
