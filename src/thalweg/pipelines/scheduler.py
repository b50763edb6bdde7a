"""Dagster's home, and the process that schedules: daemon and code server, on UNIX sockets only.

    python -m thalweg.pipelines.scheduler
    python -m thalweg.pipelines.webserver --unix-socket PATH --prefix /services/pipelines

are the two services a hub runs; either may start first. The scheduler is Dagster's daemon with the
code server as its child, which the web server shares: one copy of the definitions in memory. All
sockets lie in a folder that only its owner may enter, and nothing listens on TCP.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import cast

import yaml

from thalweg.errors import ThalwegError, Unavailable
from thalweg.pipelines.execute import GRACE
from thalweg.private import folder, private_file, socket_path
from thalweg.settings import Settings, load

__all__ = ["dagster_home", "main"]

#: Runs that Dagster may work on at once; the others wait in its queue.
CONCURRENT_RUNS = 2
CODE_LOCATION = "thalweg"


def dagster_home(settings: Settings | None = None) -> Path:
    """Write Dagster's configuration into the data folder and return its home, for `DAGSTER_HOME`.

    `dagster.yaml` keeps all state in SQLite below it, sends no telemetry, queues runs, and keeps
    ticks for a while; `workspace.yaml` names the socket of the code server.
    """
    settings = settings or load()
    home = folder(settings, "dagster")
    configuration = {
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
        "storage": {"sqlite": {"base_dir": str(home / "storage")}},
        "compute_logs": {
            "module": "dagster.core.storage.local_compute_log_manager",
            "class": "LocalComputeLogManager",
            "config": {"base_dir": str(home / "logs")},
        },
        "concurrency": {"runs": {"max_concurrent_runs": CONCURRENT_RUNS}},
        "run_monitoring": {"enabled": True, "start_timeout_seconds": 300},
        # An operation retries by its own policy; this is for runs whose process was lost.
        "run_retries": {"enabled": True, "max_retries": 3, "retry_on_asset_or_op_failure": False},
        "retention": {
            "schedule": {"purge_after_days": {"skipped": 7, "failure": 30, "success": 90}},
            "sensor": {"purge_after_days": {"skipped": 2, "failure": 30, "success": 90}},
        },
    }
    server = {"socket": str(_socket(settings)), "host": "localhost", "location_name": CODE_LOCATION}
    _write(home / "dagster.yaml", configuration)
    _write(home / "workspace.yaml", {"load_from": [{"grpc_server": server}]})
    return home


def main(arguments: list[str]) -> None:
    """Run the daemon and, as its child, the code server, until told to stop."""
    settings = load()
    home = dagster_home(settings)
    os.environ["DAGSTER_HOME"] = str(home)
    # Dagster makes SIGTERM do what SIGINT does, which a shell's background has made nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if arguments == ["code-server"]:
        _serve_code(settings)
        return
    stop = threading.Event()
    keeper = threading.Thread(target=_keep_code_server, args=[settings, stop], daemon=True)
    keeper.start()
    daemon = _command("dagster-daemon")  # imported while the code server starts
    try:
        # The daemon's first look at lost runs must find the definitions, or it forgets them.
        while not _answers(settings):
            if not keeper.is_alive():
                raise Unavailable("the code server cannot be started; what hinders it stands above")
            time.sleep(0.2)
        daemon("run", "--workspace", str(home / "workspace.yaml"))
    finally:
        stop.set()
        keeper.join()


def _keep_code_server(settings: Settings, stop: threading.Event) -> None:
    """Keep a code server running, a new one whenever it died."""
    command = [sys.executable, "-m", "thalweg.pipelines.scheduler", "code-server"]
    while not stop.is_set():
        _fail_lost_runs()
        _socket(settings).unlink(missing_ok=True)
        server = subprocess.Popen(command, stdin=subprocess.PIPE)
        while server.poll() is None and not stop.wait(1):
            pass
        try:
            server.communicate(timeout=GRACE + 10)
        except subprocess.TimeoutExpired:
            server.kill()


def _serve_code(settings: Settings) -> None:
    """Hold the definitions for daemon and web server, and start the runs; end with the daemon."""
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    os.umask(0o077)
    # Loaded lazily, a broken pipeline.yaml is an error that the UI shows, not the server's end.
    load = ["--lazy-load-user-code", "--module-name", "thalweg.pipelines.definitions"]
    name = ["--location-name", CODE_LOCATION]
    _command("dagster")("api", "grpc", "--socket", str(_socket(settings)), *load, *name)


def _fail_lost_runs() -> None:
    """Fail the runs that an earlier scheduler left behind; Dagster's retries start them anew."""
    import dagster as dg

    unfinished = dg.RunsFilter(
        statuses=[
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.STARTED,
            dg.DagsterRunStatus.CANCELING,
        ]
    )
    with dg.DagsterInstance.get() as instance:
        for run in instance.get_runs(unfinished):
            instance.report_run_failed(run, "the scheduler was stopped while this run was going on")


def _end_with_standard_input() -> None:
    """When the daemon is gone, stop the runs, which stamp their records, and then this server."""
    sys.stdin.read()
    for run in multiprocessing.active_children():
        os.kill(cast(int, run.pid), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)


def _command(script: str) -> Callable[..., None]:
    """One of Dagster's own commands, imported and ready to run in this process."""
    entry = metadata.entry_points(group="console_scripts")[script].load()

    def run(*arguments: str) -> None:
        sys.argv = [script, *arguments]
        entry()

    return run


def _answers(settings: Settings) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(_socket(settings))) == 0


def _socket(settings: Settings) -> Path:
    return socket_path(settings, "dagster-code")


def _write(path: Path, content: dict[str, object]) -> None:
    """Replace the file at once, and only where it differs: others may be reading it."""
    text = yaml.safe_dump(content)
    if not path.exists() or path.read_text() != text:
        private_file(path, text)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ThalwegError as error:
        sys.exit(f"thalweg: {error}")
