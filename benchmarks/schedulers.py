"""The scheduler of a hub by itself, and jupyter-scheduler beside it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dagster as dg
import httpx
import psutil
from dagster._core.execution.backfill import BulkActionStatus

from benchmarks import known
from benchmarks.hubs import clean_environment
from thalweg.hub import environment, processes, state
from thalweg.pipelines.scheduler import dagster_home
from thalweg.settings import Settings

__all__ = ["JUPYTER_SCHEDULER", "JupyterScheduler", "Scheduler", "WebServer", "until"]

PATIENCE = 120.0  # seconds
BACKFILL = """mutation { launchPartitionBackfill(backfillParams: {
  assetSelection: [{path: ["%s"]}], partitionNames: %s}) { __typename } }"""
JUPYTER_SCHEDULER = "2.12.1"
#: Where an environment with jupyter-scheduler lies, or is made.
BESIDE = Path(tempfile.gettempdir(), f"thalweg-bench-jupyter-scheduler-{JUPYTER_SCHEDULER}")


def until(
    holds: Callable[[], Any], what: str, seconds: float = PATIENCE, every: float = 0.05
) -> Any:
    """Wait until something holds, looking `every` seconds, and return it; else TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s: {what}")
        time.sleep(every)
    return found


class _Process:
    """A process with a log, started when the context is entered, gone when it is left."""

    log: Path

    def command(self) -> list[str]:
        raise NotImplementedError

    def environ(self) -> dict[str, str]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        tree = self.tree()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(40)
        processes.end(tree)
        self.process.wait()

    def start(self) -> None:
        self.began = time.time()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.environ(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def tree(self) -> list[psutil.Process]:
        """It and all that it has started and that is still below it."""
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def memory(self) -> int:
        return processes.memory(self.tree())


class Scheduler(_Process):
    """Thalweg's scheduler, as the hub starts it, for the home of these settings."""

    def __init__(self, settings: Settings, **environ: str) -> None:
        self.settings = settings
        self.log = settings.data_dir / "scheduler.log"
        self._environ = environ
        self.instance = dg.DagsterInstance.from_config(str(dagster_home(settings)))

    def command(self) -> list[str]:
        return [sys.executable, "-m", "thalweg.pipelines.scheduler"]

    def environ(self) -> dict[str, str]:
        mark = {"THALWEG_INSTANCE": state.instance(self.settings), "THALWEG_SAMPLE": "false"}
        return os.environ | environment.data_environment(self.settings) | mark | self._environ

    def is_serving(self) -> bool:
        """Whether the daemon that looks at the schedules has done so since the start."""
        beats = self.instance.get_daemon_heartbeats()
        return "SCHEDULER" in beats and beats["SCHEDULER"].timestamp > self.began

    def unfinished(self) -> int:
        """How many of its runs have not ended; a backfill that still asks for runs is one more."""
        asking = self.instance.get_backfills(status=BulkActionStatus.REQUESTED)
        ended = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE,
                 dg.DagsterRunStatus.CANCELED)  # fmt: skip
        running = [status for status in dg.DagsterRunStatus if status not in ended]
        filters = dg.RunsFilter(statuses=running)
        return self.instance.get_runs_count(filters) + len(asking)


class WebServer(_Process):
    """Dagster's web server, as the hub starts it; people ask the scheduler through it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.log, self.environ = scheduler.log, scheduler.environ  # type: ignore[method-assign]
        self.socket = scheduler.settings.data_dir / "ui.sock"
        self.client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://ui", timeout=60
        )

    def command(self) -> list[str]:
        flags = ["--unix-socket", str(self.socket), "--prefix", "/x"]
        return [sys.executable, "-m", "thalweg.pipelines.webserver", *flags]

    def start(self) -> None:
        """Start it, and wait until it answers."""
        super().start()
        until(self._answers, f"the web server answers, see {self.log}")

    def ask(self, query: str) -> Any:
        """What it answers to a query of GraphQL."""
        answer = self.client.post("/x/graphql", json={"query": query})
        return answer.raise_for_status().json()["data"]

    def backfill(self, keys: list[str]) -> None:
        """Ask for these partitions of the known pipeline, as its page in the UI does."""
        query = BACKFILL % (known.NAME, json.dumps(keys))

        def is_asked() -> bool:  # a scheduler that has just started is not known here at once
            answer = self.ask(query)["launchPartitionBackfill"]
            return bool(answer["__typename"] == "LaunchBackfillSuccess")

        until(is_asked, "Dagster takes the backfill")

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/x/server_info").is_success
        return False


class JupyterScheduler(_Process):
    """jupyter-scheduler in a Jupyter server of its own; kernels are those of this environment.

    Raises
    ------
    RuntimeError
        Its environment cannot be made: the message says why.
    """

    def __init__(self, folder: Path) -> None:
        self.python = _environment_beside()
        self.folder, self.log = folder, folder / "printed"
        (self.port,), self.token = state.free_ports(1), secrets.token_hex(16)
        kernel = folder / "jupyter" / "kernels" / "python3"
        kernel.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        about = {"argv": argv, "display_name": "Python 3", "language": "python"}
        (kernel / "kernel.json").write_text(json.dumps(about))
        headers = {"Authorization": f"token {self.token}"}
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}/scheduler",
            headers=headers, trust_env=False, timeout=PATIENCE,
        )  # fmt: skip

    def command(self) -> list[str]:
        flags = ["--no-browser", "--ip=127.0.0.1", f"--port={self.port}", "--allow-root"]
        return [str(self.python), "-m", "jupyter_server", f"--ServerApp.root_dir={self.folder}",
                *flags, "--ServerApp.jpserver_extensions=jupyter_scheduler=True"]  # fmt: skip

    def environ(self) -> dict[str, str]:
        kept = ("THALWEG_", "PYICEBERG_", "AWS_")
        data = {name: value for name, value in os.environ.items() if name.startswith(kept)}
        folders = ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")
        own = {name: str(self.folder / "jupyter") for name in folders}
        # The server's own Python first: it names an environment by that.
        path = os.pathsep.join([str(self.python.parent), clean_environment()["PATH"]])
        return (
            clean_environment() | data | own | {"JUPYTER_TOKEN": self.token, "PATH": path}
            | {"JUPYTER_PREFER_ENV_PATH": "0"}
        )  # fmt: skip

    def is_serving(self) -> bool:
        try:
            return self.client.get("/jobs").is_success
        except httpx.TransportError:
            return False

    def submit(self, notebook: Path, parameters: dict[str, str]) -> str:
        """Have a notebook below the folder executed; the id of the job."""
        (first, *_) = self.client.get("/runtime_environments").raise_for_status().json()
        job = {
            "name": notebook.stem,
            "input_uri": str(notebook.relative_to(self.folder)),
            "runtime_environment_name": first["name"],
            "output_formats": ["ipynb", "html"],
            # It writes them into the notebook as they are: text has to bring its quotes.
            "parameters": {name: repr(value) for name, value in parameters.items()},
        }
        made = self.client.post("/jobs", json=job)
        return str(made.raise_for_status().json()["job_id"])

    def status(self, job: str) -> str:
        """`COMPLETED` or `FAILED` when it has ended; RuntimeError with the reason if it failed."""
        about = self.client.get(f"/jobs/{job}").raise_for_status().json()
        if about["status"] == "FAILED":
            raise RuntimeError(f"jupyter-scheduler: {about.get('status_message')}")
        return str(about["status"])


def _environment_beside() -> Path:
    """The Python of an environment with jupyter-scheduler, made by uv or pip where it is not."""
    python = BESIDE / "bin" / "python"
    if (BESIDE / "made").exists():
        return python
    packages = [f"jupyter-scheduler=={JUPYTER_SCHEDULER}", "jupyter-server", "ipykernel"]
    steps = [[sys.executable, "-m", "venv", str(BESIDE)],
             [str(python), "-m", "pip", "install", "-q", *packages]]  # fmt: skip
    if uv := shutil.which("uv"):
        steps = [[uv, "venv", "-q", "--clear", "--python", sys.executable, str(BESIDE)],
                 [uv, "pip", "install", "-q", "--python", str(python), *packages]]  # fmt: skip
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, env=clean_environment())
        if done.returncode:
            raise RuntimeError(f"jupyter-scheduler cannot be installed: {done.stderr.strip()}")
    (BESIDE / "made").touch()
    return python
