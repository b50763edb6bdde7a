"""Dagster's home, and the process that schedules: daemon and code server, on UNIX sockets only.

    python -m thalweg.pipelines.scheduler
    python -m thalweg.pipelines.webserver --unix-socket PATH --prefix /services/pipelines

are the two services a hub runs; either may start first. The scheduler is Dagster's daemon with the
code server as its child, which the web server shares: one copy of the definitions in memory. All
sockets lie in a folder that only its owner may enter, and nothing listens on TCP.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import cast

import yaml

from thalweg.errors import InvalidInput, ThalwegError, Unavailable
from thalweg.pipelines.execute import GRACE
from thalweg.private import folder, private_file, socket_path
from thalweg.settings import Settings, load

__all__ = ["dagster_home", "main", "set_pools"]

#: Runs that Dagster may work on at once; the others wait in its queue.
CONCURRENT_RUNS = {"local": 2, "kubernetes": 20}
CODE_LOCATION = "thalweg"


def dagster_home(settings: Settings | None = None) -> Path:
    """Write Dagster's configuration into the data folder and return its home, for `DAGSTER_HOME`.

    `dagster.yaml` keeps all state in SQLite below it, sends no telemetry, queues runs, and keeps
    ticks for a while; `workspace.yaml` names the socket of the code server. With the setting
    `launcher`, runs are jobs on Kubernetes and the state is in PostgreSQL; InvalidInput without an
    image for them.
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
        "concurrency": {
            "runs": {"max_concurrent_runs": CONCURRENT_RUNS[settings.launcher]},
            "pools": {"default_limit": 1, "granularity": "run"},  # a pipeline is a pool
        },
        # While there is no code server, what is queued waits for a new one: it is asked each 5 s.
        "run_queue": {"max_user_code_failure_retries": 60, "user_code_failure_retry_delay": 5},
        # After an outage the last tick is made up for; what it asks for leaves no partition out.
        "scheduler": {
            "module": "dagster.core.scheduler",
            "class": "DagsterDaemonScheduler",
            "config": {"max_catchup_runs": 1},
        },
        "run_monitoring": {"enabled": True, "start_timeout_seconds": 300},
        # An operation retries by its own policy; this is for runs whose process was lost.
        "run_retries": {"enabled": True, "max_retries": 3, "retry_on_asset_or_op_failure": False},
        "retention": {
            "schedule": {"purge_after_days": {"skipped": 7, "failure": 30, "success": 90}},
            "sensor": {"purge_after_days": {"skipped": 2, "failure": 30, "success": 90}},
        },
    }
    if settings.launcher == "kubernetes":
        configuration |= _on_kubernetes(settings)
    server = {"socket": str(_socket(settings)), "host": "localhost", "location_name": CODE_LOCATION}
    _write(home / "dagster.yaml", configuration)
    _write(home / "workspace.yaml", {"load_from": [{"grpc_server": server}]})
    if settings.launcher == "local":
        _make_storage(home)
    return home


def _make_storage(home: Path) -> None:
    """Make Dagster's databases, alone: web server and scheduler start at once and spoil them."""
    made = home / "storage-is-made"
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            import dagster as dg

            with dg.DagsterInstance.from_config(str(home)):
                made.touch()


def _on_kubernetes(settings: Settings) -> dict[str, object]:
    """What differs where each run is a Job of its own, started by the launcher of dagster-k8s.

    Its pod has the environment of a config map and a secret, and is as large as its pipeline says.
    State that pods share is in PostgreSQL (dagster-postgres), at an address that only they know.
    """
    if not settings.image:
        raise InvalidInput("launcher is kubernetes: set `image` to the image that runs start from")
    config = {
        "job_namespace": settings.namespace,
        "job_image": settings.image,
        "image_pull_policy": "IfNotPresent",
        "service_account_name": "thalweg-runs",
        "instance_config_map": "thalweg-dagster",
        "env_config_maps": ["thalweg-environment"],
        "env_secrets": ["thalweg-secrets"],
        "env_vars": [f"THALWEG_IMAGE={settings.image}"],  # which goes on record
        "labels": {"app.kubernetes.io/part-of": "thalweg"},
        "run_k8s_config": {
            "job_spec_config": {"backoff_limit": 0, "ttl_seconds_after_finished": 24 * 3600},
            "pod_spec_config": {"termination_grace_period_seconds": GRACE + 20},
        },
    }
    return {
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config},
        "storage": {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}},
        "compute_logs": {
            "module": "dagster.core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        },
    }


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
    stop, started = threading.Event(), threading.Event()
    keeper = threading.Thread(target=_keep_code_server, args=[settings, stop, started], daemon=True)
    keeper.start()
    daemon = _command("dagster-daemon")  # imported while the code server starts
    try:
        # The daemon's first look at lost runs must find the definitions, or it forgets them.
        while not (started.is_set() and _answers(settings)):
            if not keeper.is_alive():
                raise Unavailable("the code server cannot be started; what hinders it stands above")
            time.sleep(0.2)
        daemon("run", "--workspace", str(home / "workspace.yaml"))
    finally:
        stop.set()
        keeper.join()


def _keep_code_server(settings: Settings, stop: threading.Event, started: threading.Event) -> None:
    """Keep a code server running, a new one whenever it died; `started` once there is one."""
    command = [sys.executable, "-m", "thalweg.pipelines.scheduler", "code-server"]
    _await_the_end_of_another(settings, stop)
    while not stop.is_set():
        if settings.launcher == "local":  # those of others do not end with the code server
            _fail_lost_runs()
        set_pools(settings)
        _socket(settings).unlink(missing_ok=True)
        server = subprocess.Popen(command, stdin=subprocess.PIPE)
        started.set()
        while server.poll() is None and not stop.wait(1):
            pass
        try:
            server.communicate(timeout=GRACE + 10)
        except subprocess.TimeoutExpired:
            server.kill()


def _await_the_end_of_another(settings: Settings, stop: threading.Event) -> None:
    """Wait until the code server of a scheduler that was killed has gone, with its runs.

    It would answer in place of the new one, and take the socket along when it goes.
    """
    deadline = time.monotonic() + GRACE + 10
    while _answers(settings) and time.monotonic() < deadline and not stop.wait(0.2):
        pass


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


def set_pools(settings: Settings) -> None:
    """Let as many runs of each pipeline go on at once as it says; Dagster keeps this in its state.

    At the start of a code server, and not in the definitions: those load whatever else is wrong.
    """
    import dagster as dg

    from thalweg.pipelines import specification
    from thalweg.pipelines.personal import POOL

    with dg.DagsterInstance.get() as instance:
        storage = instance.event_log_storage
        limits = {pool.name: pool.limit for pool in storage.get_pool_limits()}
        half = CONCURRENT_RUNS[settings.launcher] // 2  # the rest is for the shared pipelines
        if limits.get(POOL, 1) != half:
            storage.set_concurrency_slots(POOL, half)
        for file in (settings.home / "pipelines").glob(f"*/{specification.FILE}"):
            with suppress(ThalwegError):  # which the UI shows with the definitions
                pipeline = specification.load(file.parent)
                if limits.get(pipeline.name, 1) != pipeline.concurrency:
                    storage.set_concurrency_slots(pipeline.name, pipeline.concurrency)


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
