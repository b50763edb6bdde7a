"""Dagster's home, and the process that schedules: daemon and code server, on UNIX sockets only.

    python -m thalweg.pipelines.scheduler
    python -m thalweg.pipelines.webserver --unix-socket PATH --prefix /services/pipelines

are the two services a hub runs; either may start first. The scheduler is Dagster's daemon with the
code server as its child, which the web server shares: one copy of the definitions in memory. All
sockets lie in a folder that only its owner may enter, and nothing listens on TCP.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import yaml

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
    home = (settings or load()).data_dir / "dagster"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
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
    server = {"socket": str(_socket(home)), "host": "localhost", "location_name": CODE_LOCATION}
    _write(home / "dagster.yaml", configuration)
    _write(home / "workspace.yaml", {"load_from": [{"grpc_server": server}]})
    return home


def main(arguments: list[str]) -> None:
    """Run the daemon and, as its child, the code server, until told to stop."""
    home = dagster_home()
    os.environ["DAGSTER_HOME"] = str(home)
    if arguments == ["code-server"]:
        _serve_code(home)
        return
    _fail_lost_runs()
    _socket(home).unlink(missing_ok=True)
    command = [sys.executable, "-m", "thalweg.pipelines.scheduler", "code-server"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        _dagster("dagster-daemon", "run", "--workspace", str(home / "workspace.yaml"))
    finally:
        server.communicate(timeout=30)


def _serve_code(home: Path) -> None:
    """Hold the definitions for daemon and web server, and start the runs; end with the daemon."""
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    os.umask(0o077)
    # Loaded lazily, a broken pipeline.yaml is an error that the UI shows, not the server's end.
    load = ["--lazy-load-user-code", "--module-name", "thalweg.pipelines.definitions"]
    name = ["--location-name", CODE_LOCATION]
    _dagster("dagster", "api", "grpc", "--socket", str(_socket(home)), *load, *name)


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
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _dagster(script: str, *arguments: str) -> None:
    """Run one of Dagster's own commands in this process."""
    sys.argv = [script, *arguments]
    metadata.entry_points(group="console_scripts")[script].load()()


def _socket(home: Path) -> Path:
    return home / "code.sock"


def _write(path: Path, content: dict[str, object]) -> None:
    """Replace the file at once, and only where it differs: others may be reading it."""
    text = yaml.safe_dump(content)
    if not path.exists() or path.read_text() != text:
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
