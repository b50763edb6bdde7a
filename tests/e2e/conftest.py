"""One real hub, up from nothing by the command that a user types, for all tests of this folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from websocket import create_connection

from thalweg import settings as settings_module
from thalweg.hub import state
from thalweg.settings import Settings

collect_ignore = ["test_people_apart.py"]  # `make accounts-test`

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def thalweg(
    settings: Settings, *arguments: str, timeout: float = 240, python: str = sys.executable
) -> str:
    """What the `thalweg` command prints; it must succeed."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("THALWEG_", "PYICEBERG"))}
    done = subprocess.run(
        [python, "-m", "thalweg", *arguments, f"--data-dir={settings.data_dir}"],
        env=environ | {"THALWEG_SAMPLE": str(settings.sample)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass
class Hub:
    """The running hub, as a user and as a steward reach it."""

    settings: Settings
    printed: str
    python: str = sys.executable

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    @property
    def data_dir_flag(self) -> str:
        return f"--data-dir={self.settings.data_dir}"

    @property
    def password(self) -> str:
        return (self.settings.data_dir / "secrets" / "admin-password").read_text().strip()

    def command(self, *arguments: str) -> str:
        return thalweg(self.settings, *arguments, python=self.python)

    def up(self) -> str:
        """Bring the hub up again, and return what that prints."""
        return self.command("up", "--detach", "--no-open", f"--port={self.settings.port}")

    def wait_for(self, condition, seconds: float) -> None:
        wait_for(condition, seconds)

    def status(self) -> dict[str, dict]:
        """Parts of the hub by name, as `thalweg status --json` tells them."""
        done = subprocess.run(
            [sys.executable, "-m", "thalweg", "status", "--json", self.data_dir_flag],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return {part["name"]: part for part in json.loads(done.stdout)["parts"]}

    def log_in(self, name: str = "admin", password: str | None = None) -> httpx.Client:
        """A client with the cookies of a logged-in browser."""
        client = httpx.Client(base_url=self.url, follow_redirects=True, timeout=120)
        form = {"username": name, "password": password or self.password}
        client.get("/hub/login")
        form["_xsrf"] = client.cookies["_xsrf"]
        answer = client.post("/hub/login?next=%2Fhub%2Fhome", data=form)
        assert answer.is_success, answer.text
        return client

    def token(self, name: str = "admin", password: str | None = None) -> str:
        """An API token that may do all that the user may."""
        client = self.log_in(name, password)
        xsrf = {"_xsrf": client.cookies.get("_xsrf", path="/hub/")}
        answer = client.post(f"/hub/api/users/{name}/tokens", params=xsrf, json={"note": "test"})
        assert answer.is_success, answer.text
        return str(answer.json()["token"])

    def run_code(self, token: str, code: str, timeout: float = 180, name: str = "admin") -> str:
        """Run code in a new kernel of a person's Lab server; what it prints."""
        headers = {"Authorization": f"token {token}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=120) as client:
            started = client.post(f"/hub/api/users/{name}/server")
            assert started.status_code in (201, 202, 400), started.text
            wait_for(lambda: client.get(f"/user/{name}/api/status").is_success, 120)
            kernel = client.post(f"/user/{name}/api/kernels", json={"name": "python3"}).json()
        channel = self.url.replace("http", "ws")
        channel += f"/user/{name}/api/kernels/{kernel['id']}/channels"
        with contextlib.closing(create_connection(channel, timeout, header=headers)) as socket:
            return _execute(socket, code)

    def stop_kernels(self, token: str) -> None:
        """End the kernels of the admin's Lab server, and with them Dask clusters and Ray."""
        headers = {"Authorization": f"token {token}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=60) as client:
            for kernel in client.get("/user/admin/api/kernels").json():
                client.delete(f"/user/admin/api/kernels/{kernel['id']}")


def _execute(socket, code: str) -> str:
    """Send code over a kernel's websocket, and gather what it prints until it is idle."""
    message = uuid.uuid4().hex
    header = {"msg_id": message, "msg_type": "execute_request", "username": "", "session": message}
    header |= {"version": "5.3", "date": ""}
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    socket.send(
        json.dumps(
            {
                "header": header,
                "parent_header": {},
                "metadata": {},
                "content": content,
                "channel": "shell",
                "buffers": [],
            }
        )
    )
    printed = ""
    while True:
        received = json.loads(socket.recv())
        if received["parent_header"].get("msg_id") != message:
            continue
        kind, content = received["header"]["msg_type"], received["content"]
        if kind == "stream":
            printed += content["text"]
        assert kind != "error", "\n".join(content["traceback"])
        if kind == "status" and content["execution_state"] == "idle":
            return printed


def wait_for(condition, seconds: float) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.5)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that was brought up from an empty folder, and is brought down at the end."""
    (port,) = state.free_ports(1)
    settings = settings_module.load({}, data_dir=tmp_path_factory.mktemp("hub"), port=port)
    try:
        printed = thalweg(settings, "up", "--detach", "--no-open", f"--port={port}")
        yield Hub(settings, re.sub(r"\x1b\[[0-9;]*m", "", printed))
    finally:
        thalweg(settings, "down")


@pytest.fixture(scope="module")  # for a session, its event loop would run under all later tests
def browser():
    """A real Chromium without a window."""
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}: `apt install chromium`")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield launched
        launched.close()
