"""Two hubs to measure, each up in a folder of its own: Thalweg's, and a plain JupyterHub."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

from thalweg import settings as settings_module
from thalweg.hub import processes, stack, state, status

__all__ = ["Hub", "Plain", "Thalweg", "clean_environment"]

PATIENCE = 300  # seconds
HIDDEN = ("THALWEG_", "PYICEBERG_", "AWS_", "JUPYTER", "DASK_", "DAGSTER_")
#: A hub of processes behind traefik, on loopback.
BEHIND_TRAEFIK = """\
c = get_config()
c.JupyterHub.bind_url = "http://127.0.0.1:{port}/"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub_port}"
c.JupyterHub.proxy_class = "traefik_file"
c.TraefikProxy.traefik_api_url = "http://127.0.0.1:{api_port}"
c.JupyterHub.spawner_class = "simple"
"""
PLAIN_CONFIG = (
    BEHIND_TRAEFIK
    + """\
c.SimpleLocalProcessSpawner.home_dir_template = "{folder}/home/{{username}}"
c.Spawner.args = {args}
c.Spawner.environment = {{"THALWEG_INSTANCE": "{mark}"}}
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = "{password}"
c.Authenticator.allow_all = True
"""
)


def clean_environment() -> dict[str, str]:
    """The environment of a person who has just opened a terminal, with this Python's commands."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return kept | {"PYTHONUNBUFFERED": "1"}


class Hub:
    """A hub, started when the context is entered, gone when it is left; its folder stays."""

    user: str

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True, mode=0o700)
        (port,) = state.free_ports(1)
        self.settings = settings_module.load({}, data_dir=folder / "data", port=port)
        self.folder, self.log = folder, folder / "printed"

    def __enter__(self) -> Self:
        command, log = self.command(), self.log.open("wb")
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=clean_environment() | self.mark(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us, who then end it
        )
        log.close()
        self.client = httpx.Client(
            base_url=stack.address(self.settings),
            timeout=PATIENCE,
            follow_redirects=True,
            trust_env=False,
        )
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.client.close()
        self.stop()

    def command(self) -> list[str]:
        raise NotImplementedError

    def mark(self) -> dict[str, str]:
        """What the environment of the first process has beside a person's own."""
        return {}

    def stop(self) -> None:
        """End all that carries this hub's mark, and the command itself."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(40)
        processes.end(processes.of_hub(self.settings))
        self.process.kill()
        self.process.wait()

    def password(self) -> str:
        raise NotImplementedError

    def memory(self) -> dict[str, int]:
        """Bytes by part: proportional set size where the system tells, else resident."""
        raise NotImplementedError

    def until(self, holds: Callable[[], bool]) -> float:
        """Wait until something holds; the seconds since the command was started."""
        while not holds():
            if self.process.poll() is not None or time.monotonic() > self.began + PATIENCE:
                raise TimeoutError(f"the hub did not come up:\n{self.log.read_text()}")
            time.sleep(0.05)
        return time.monotonic() - self.began

    def login_page(self) -> bool:
        """Whether the login page is there for who comes through the public proxy."""
        try:
            return self.client.get("/hub/login").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def log_in(self) -> None:
        """What a browser posts; afterwards `client` may do what the user may."""
        self.client.get("/hub/login")
        form = {"username": self.user, "password": self.password()}
        form["_xsrf"] = self.client.cookies["_xsrf"]
        self.client.post("/hub/login?next=/hub/home", data=form).raise_for_status()
        xsrf = {"_xsrf": self.client.cookies.get("_xsrf", path="/hub/")}
        made = self.client.post(f"/hub/api/users/{self.user}/tokens", params=xsrf, json={})
        self.token = {"Authorization": f"token {made.raise_for_status().json()['token']}"}

    def open_lab(self) -> None:
        """Start the user's Lab server and wait until it answers."""
        started = self.client.post(f"/hub/api/users/{self.user}/server", headers=self.token)
        started.raise_for_status()
        self.until(lambda: self._lab("get", "status").is_success)

    def open_kernel(self) -> None:
        """Start a kernel in the user's Lab server, as an opened notebook does."""
        self._lab("post", "kernels").raise_for_status()

    def _lab(self, method: str, path: str) -> httpx.Response:
        return self.client.request(
            method, f"/user/{self.user}/api/{path}", headers=self.token, follow_redirects=False
        )


class Thalweg(Hub):
    """`thalweg up`, in a data folder of its own."""

    user = "admin"

    def command(self) -> list[str]:
        flags = [f"--port={self.settings.port}", f"--data-dir={self.settings.data_dir}"]
        return [sys.executable, "-m", "thalweg", "up", "--no-open", *flags]

    def stop(self) -> None:
        stack.down(self.settings)
        super().stop()
        shutil.rmtree(state.socket_path(self.settings, "any").parent, ignore_errors=True)

    def password(self) -> str:
        return (self.settings.data_dir / "secrets" / "admin-password").read_text().strip()

    def memory(self) -> dict[str, int]:
        return {part["name"]: part["memory"] for part in status.parts(self.settings)}

    def says(self, text: str) -> bool:
        """Whether the command has printed this."""
        return text in self.log.read_text()

    def all_healthy(self) -> float:
        """Seconds until the command says that all is up; that it is so is looked at, too."""
        seconds = self.until(lambda: self.says("The hub is up"))
        if ill := [n for n, well in stack.services_healthy(self.settings).items() if not well]:
            raise RuntimeError(f"the hub said that it is up, but not so {', '.join(ill)}")
        return seconds

    def steps(self) -> dict[str, float]:
        """Seconds of each step, as the command prints them."""
        printed = re.findall(r"^✓ (.+) ([\d.]+) s$", self.log.read_text(), re.MULTILINE)
        return {name: float(seconds) for name, seconds in printed}

    def hub_began(self) -> float:
        """Seconds after the command at which JupyterHub's own process was started."""
        (hub,) = (
            process
            for process, environ in processes.of_hub(self.settings).items()
            if processes.label(environ) == "hub"
        )
        return hub.create_time() - psutil.Process(self.process.pid).create_time()


class Plain(Hub):
    """JupyterHub alone, with the same proxy and spawner: the least that a hub can be."""

    user = "reader"

    def command(self) -> list[str]:
        hub_port, api_port = state.free_ports(2)
        config = PLAIN_CONFIG.format(
            port=self.settings.port,
            hub_port=hub_port,
            api_port=api_port,
            folder=self.folder,
            args=["--allow-root"] if os.geteuid() == 0 else [],
            mark=state.instance(self.settings),
            password=self.password(),
        )
        state.private_file(self.folder / "jupyterhub_config.py", config)
        return [sys.executable, "-m", "jupyterhub"]

    def mark(self) -> dict[str, str]:
        return {"THALWEG_INSTANCE": state.instance(self.settings), "THALWEG_PART": "hub"}

    def password(self) -> str:
        return str(state.secret(self.settings, "password"))

    def memory(self) -> dict[str, int]:
        groups: dict[str, list[psutil.Process]] = {}
        for process, environ in processes.of_hub(self.settings).items():
            part = "proxy" if process.name() == "traefik" else processes.label(environ)
            groups.setdefault(part, []).append(process)
        return {part: processes.memory(group) for part, group in groups.items()}
