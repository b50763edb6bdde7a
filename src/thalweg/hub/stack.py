"""Bring the local hub up, keep it up, bring it down.

Three processes are ours: the object store, the public proxy and JupyterHub; JupyterHub supervises
the services (hub-config/services.yaml) and the Lab servers. `Stack.run` starts them beside each
other, says of each when it is healthy, starts again what dies, and ends all at SIGINT or SIGTERM.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import httpx
import psutil
import yaml

from thalweg import accounts
from thalweg.errors import Unavailable
from thalweg.hub import (
    credentials,
    environment,
    object_store,
    processes,
    proxy,
    state,
    users,
)
from thalweg.hub.service import DATABASES_READY, open_log
from thalweg.settings import Settings

__all__ = [
    "Stack",
    "address",
    "checks",
    "down",
    "is_up",
    "running_pid",
    "services_healthy",
    "why_shared",
]

#: Folders of the data folder that people's accounts pass through to what is theirs.
PASSABLE = {"home", "work", "clients", "dask-clusters"}
#: Less free disk than this, and the hub does not start.
LEAST_DISK = 1_000_000_000

Progress = Callable[[str], contextlib.AbstractContextManager[Any]]


def address(settings: Settings) -> str:
    """The one public address of the hub."""
    return f"http://{settings.host}:{settings.port}"


def running_pid(settings: Settings) -> int | None:
    """Pid of the process that holds the hub up, or None: whoever holds the lock is it."""
    path = settings.data_dir / "up.lock"
    try:
        with path.open("r+") as file, _locked(file):
            return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return int(path.read_text() or 0)


def is_up(settings: Settings) -> bool:
    """Whether the hub answers at its public address."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{known_address(settings)}/hub/health", timeout=5).is_success
    return False


def services(settings: Settings) -> dict[str, Any]:
    """The services of the hub, as declared."""
    path = settings.home / "hub-config" / "services.yaml"
    return yaml.safe_load(path.read_text())  # type: ignore[no-any-return]


def services_healthy(settings: Settings) -> dict[str, bool]:
    """Which services answer: a web service at its port, another one by running."""
    ports = state.ports(settings)
    running = {processes.label(environ) for environ in processes.of_hub(settings).values()}
    return {
        name: _answers(f"http://127.0.0.1:{ports[name]}/services/{name}/")
        if service.get("web")
        else name in running and (name != "dask-gateway" or _gateway_answers(ports))
        for name, service in services(settings).items()
    }


def checks(settings: Settings) -> None:
    """What must hold before anything starts.

    Raises
    ------
    Unavailable
        The port is taken, the disk is full, the data folder cannot be written, accounts are
        wanted that cannot be had.
    """
    state.folder(settings)
    if settings.accounts == "own" and (why := accounts.why_shared(settings)):
        raise Unavailable(f"users cannot have accounts of their own, as `accounts` says: {why}")
    if not os.access(settings.data_dir, os.W_OK | os.X_OK):
        raise Unavailable(
            f"cannot write to {settings.data_dir}: give another folder with --data-dir, "
            "or mend its permissions"
        )
    free = psutil.disk_usage(str(settings.data_dir)).free
    if free < LEAST_DISK:
        raise Unavailable(
            f"only {free / 1e9:.2f} GB free at {settings.data_dir}, and the hub wants 1 GB: "
            "make room, or give a folder on another disk with --data-dir"
        )
    if reason := state.not_free(settings.host, settings.port):
        raise Unavailable(
            f"port {settings.port} on {settings.host} cannot be used ({reason}): "
            f"choose another one, as in `thalweg up --port {settings.port + 1}`"
        )


def down(settings: Settings) -> bool:
    """Stop the hub and everything it started; False when nothing ran."""
    pid = running_pid(settings)
    if pid:
        with contextlib.suppress(ProcessLookupError, psutil.TimeoutExpired):
            os.kill(pid, signal.SIGTERM)
            psutil.wait_procs([psutil.Process(pid)], timeout=40)
    left = processes.of_hub(settings)
    processes.end(left)
    return bool(pid or left)


@dataclass
class Stack:
    """The hub of one data folder while this process holds it up."""

    settings: Settings
    progress: Progress = field(default=lambda _: contextlib.nullcontext())
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def run(self, ready: Callable[[str | None], None], settled: Callable[[bool], None]) -> None:
        """Start all, call `ready` with the first user's new password (or None); at the first
        start wait for the sample's data; call `settled` with whether it is there, and supervise.

        Raises
        ------
        Unavailable
            The hub already runs, a check fails, or a part does not come up.
        """
        os.umask(0o077)  # what the parts write is the owner's alone, also in a folder that is not
        with self._alone():
            signal.signal(signal.SIGTERM, self._ask_to_stop)
            signal.signal(signal.SIGINT, self._ask_to_stop)
            try:
                password = self._start()
                if not self.stopping.is_set():
                    ready(password)
                    settled(self._await_sample())
                self._supervise()
            finally:
                with self.progress("Stopping"), self.held:
                    self._stop()

    def _start(self) -> str | None:
        settings = self.settings
        processes.end(processes.of_hub(settings))  # what a killed hub has left behind
        checks(settings)
        password = users.ensure_admin(settings)
        has_accounts = not accounts.why_shared(settings)
        if has_accounts:
            _let_people_pass(settings)
            credentials.write_clients(settings)
        ready = settings.data_dir / DATABASES_READY
        ready.unlink(missing_ok=True)
        # The slowest first: each waits by itself for what it needs of the others.
        for name in ("hub", "proxy", "object-store"):
            self._start_child(name)
        with self.progress("Object store (S3 and Iceberg catalogue)"):
            self._wait("object-store", lambda: object_store.is_healthy(settings), 60)
        if has_accounts and not self.stopping.is_set():
            object_store.let_people_read_tables(settings)
            self.held.enter_context(credentials.serving(settings))
        with self.progress("Databases"):
            self._migrate()
            ready.touch()
        with self.progress("JupyterHub and its proxy"):
            self._wait("hub", lambda: is_up(settings), 90)
        with self.progress("Services"):
            self._wait("hub", lambda: all(services_healthy(settings).values()), 120)
        return password

    def _start_child(self, name: str) -> None:
        settings = self.settings
        if name == "object-store":
            object_store.prepare(settings)
            command = object_store.command(settings)
        elif name == "proxy":
            proxy.prepare(settings)
            command = proxy.command(settings)
        else:
            command = [sys.executable, "-m", "jupyterhub", "-f"]
            command.append(str(settings.home / "hub-config" / "jupyterhub_config.py"))
        inherited = os.environ | environment.service_environment(settings)
        log = open_log(settings.data_dir, name)
        self.children[name] = subprocess.Popen(
            command,
            cwd=state.folder(settings, "jupyterhub"),
            env=inherited | {"THALWEG_PART": name},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us; we end the parts in order
        )
        os.close(log)

    def _wait(self, part: str, healthy: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.stopping.is_set() and not healthy():
            if self.children[part].poll() is not None:
                raise Unavailable(f"{part} stopped while starting: see `thalweg logs {part}`")
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{part} did not come up within {seconds:.0f} s: see `thalweg logs {part}`"
                )
            time.sleep(0.1)

    def _migrate(self) -> None:
        """In a process of its own: what it imports would stay in the memory of this one.

        It gives way to JupyterHub, which people wait for.
        """
        command = ["nice", sys.executable, "-m", "thalweg", "migrate"]
        around = os.environ | environment.service_environment(self.settings)
        until = time.monotonic() + 30
        while True:
            done = subprocess.run(command, env=around, capture_output=True, text=True)
            # After a kill the store's door opens up to five seconds before its volumes are known.
            is_early = "does not answer" in done.stderr and time.monotonic() < until
            if not (done.returncode and is_early) or self.stopping.wait(0.5):
                break
        if done.returncode:
            raise Unavailable(f"the databases could not be brought up to date: {done.stderr}")

    def _await_sample(self) -> bool:
        """The scheduler loads the sample by itself, once; this only waits, and not for ever."""
        if not self.settings.sample or _has_run(self.settings, "evaluate"):
            return True
        with self.progress("Sample data (first start only)"), contextlib.suppress(Unavailable):
            self._wait("hub", lambda: _has_run(self.settings, "evaluate"), 180)
        return _has_run(self.settings, "evaluate")

    def _supervise(self) -> None:
        """Start again what dies, a little later each time that it dies soon."""
        died: dict[str, list[float]] = {name: [] for name in self.children}
        while not self.stopping.is_set():
            for name, child in self.children.items():
                if child.poll() is None or self.stopping.is_set():
                    continue
                died[name] = [t for t in died[name] if t > time.monotonic() - 300]
                died[name].append(time.monotonic())
                self.stopping.wait(min(30, 2 ** len(died[name]) - 2))
                if name == "hub":  # its services lost their supervisor; Lab servers live on
                    processes.end(self._services())
                self._start_again(name)
            self.stopping.wait(0.5)

    def _start_again(self, name: str) -> None:
        if self.stopping.is_set():
            return
        try:
            self._start_child(name)
        except OSError as error:  # a full disk: what still runs goes on, and this is tried again
            print(f"thalweg: {name} cannot be started: {error.strerror}", file=sys.stderr)

    def _services(self) -> list[psutil.Process]:
        return [
            process
            for process, environ in processes.of_hub(self.settings).items()
            if "JUPYTERHUB_SERVICE_NAME" in environ and "JUPYTERHUB_USER" not in environ
        ]

    def _stop(self) -> None:
        for name in ("hub", "proxy"):
            self._stop_child(name)
        store = self.children.get("object-store")
        rest = [p for p in processes.of_hub(self.settings) if not store or p.pid != store.pid]
        processes.end(rest)
        self._stop_child("object-store")
        object_store.remove_sockets(self.settings)
        shutil.rmtree(state.socket_path(self.settings, "any").parent, ignore_errors=True)
        shutil.rmtree(accounts.run_folder(self.settings), ignore_errors=True)

    def _stop_child(self, name: str) -> None:
        child = self.children.get(name)
        if child is None or child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()

    def _ask_to_stop(self, *_: Any) -> None:
        self.stopping.set()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        path = state.folder(self.settings) / "up.lock"
        try:
            file = path.open("a+")
        except OSError as error:
            raise Unavailable(
                f"cannot write to {self.settings.data_dir} ({error.strerror}): "
                "give another folder with --data-dir, or mend its permissions"
            ) from None
        with file, contextlib.ExitStack() as held:
            try:
                held.enter_context(_locked(file, patience=1))
            except BlockingIOError:
                raise Unavailable(
                    f"the hub already runs at {known_address(self.settings)} "
                    f"(pid {running_pid(self.settings)}): `thalweg status` tells more"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            up = {"pid": os.getpid(), "address": address(self.settings), "since": time.time()}
            up["why_shared"] = accounts.why_shared(self.settings)
            state.private_file(self.settings.data_dir / "up.json", json.dumps(up))
            yield


def known_address(settings: Settings) -> str:
    """The address at which the running hub was started."""
    try:
        return str(json.loads((settings.data_dir / "up.json").read_text())["address"])
    except (FileNotFoundError, ValueError, KeyError):
        return address(settings)


def why_shared(settings: Settings) -> str:
    """Why all users of the running hub share one account; empty where each has one of their own."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        if running_pid(settings):
            return str(json.loads((settings.data_dir / "up.json").read_text())["why_shared"])
    return accounts.why_shared(settings)


def _let_people_pass(settings: Settings) -> None:
    """Let people's accounts through the data folder to what is theirs, and to nothing else."""
    for path in settings.data_dir.iterdir():
        if path.name not in PASSABLE and not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o700)
    settings.data_dir.chmod(0o711)


def _has_run(settings: Settings, pipeline: str) -> bool:
    """Whether this pipeline has ever ended, well or not."""
    from thalweg import database

    with database.session(settings) as session:
        ended = session.query(database.RunRow.id).filter(
            database.RunRow.pipeline == pipeline, database.RunRow.ended_at.is_not(None)
        )
        return ended.first() is not None


@contextlib.contextmanager
def _locked(file: IO[str], patience: float = 0) -> Iterator[None]:
    """Hold an exclusive lock on an open file.

    BlockingIOError when another process holds it for longer than `patience` seconds: `status` holds
    it for a moment, to see whether anybody does.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=5).status_code < 500
    return False


def _gateway_answers(ports: dict[str, int]) -> bool:
    return _answers(f"http://127.0.0.1:{ports['dask_gateway']}/api/health")
