"""Compute, on real schedulers and a real Ray: nothing answers a stranger."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

TOKEN = "a-token-of-the-tests"
DASHBOARD_ROUTES = ("/", "/status", "/status/ws", "/info/main/workers.html", "/metrics", "/health",
                    "/json/counts.json", "/sitemap.json", "/statics/css/base.css", "/api/v1/x",
                    "/individual-plots.json", "/eventstream", "/no-such-page")  # fmt: skip
WORKER_ROUTES = ("/", "/status", "/info/main.html", "/metrics", "/health", "/sitemap.json")
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "bokeh",
}


@pytest.fixture(scope="module")
def dask_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Dashboards of a scheduler and of a worker under a nanny, both with the guard preloaded."""
    folder = tmp_path_factory.mktemp("dask")
    (folder / "token").write_text(TOKEN + "\n")
    ports = dict(zip(("scheduler", "pages", "worker_pages"), _free_ports(3), strict=True))
    environ = os.environ | {
        "THALWEG_DASK_TOKEN_FILE": str(folder / "token"),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": "thalweg.compute.guard",
    }
    scheduler = ["scheduler", "--host=127.0.0.1", f"--port={ports['scheduler']}",
                 f"--dashboard-address=127.0.0.1:{ports['pages']}",
                 "--preload=thalweg.compute.guard"]  # fmt: skip
    worker = ["worker", f"tcp://127.0.0.1:{ports['scheduler']}", "--host=127.0.0.1",
              f"--dashboard-address=127.0.0.1:{ports['worker_pages']}", "--nthreads=1"]  # fmt: skip
    processes = []
    try:
        for command in (scheduler, worker):
            log = (folder / f"{command[0]}.log").open("w")
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *command],
                    env=environ,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                )
            )
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        for name in ("pages", "worker_pages"):
            _wait_until_listening(ports[name], processes, folder)
        yield urls
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize("route", DASHBOARD_ROUTES)
def test_dashboard_is_closed_to_strangers(dask_processes: dict[str, str], route: str) -> None:
    url = dask_processes["pages"] + route
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, WEBSOCKET):
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            assert httpx.request(method, url, headers=headers).status_code == 403


@pytest.mark.parametrize("route", WORKER_ROUTES)
def test_worker_pages_are_closed_to_strangers(dask_processes: dict[str, str], route: str) -> None:
    assert httpx.get(dask_processes["worker_pages"] + route).status_code == 403


def test_dashboard_opens_with_the_token(dask_processes: dict[str, str]) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    pages = dask_processes["pages"]
    status = httpx.get(f"{pages}/status", headers=bearer)
    assert status.status_code == 200
    assert httpx.get(f"{pages}/metrics", headers=bearer).status_code == 200
    worker = httpx.get(f"{dask_processes['worker_pages']}/status", headers=bearer)
    assert worker.status_code == 200
    origin = {"Origin": pages}
    session = re.search(r'"token":"([^"]+)"', status.text)
    assert session, "the page carries no session for its websocket"
    protocol = {"Sec-WebSocket-Protocol": f"bokeh, {session[1]}"}
    with httpx.stream(
        "GET", f"{pages}/status/ws", headers=WEBSOCKET | protocol | origin | bearer
    ) as answer:
        assert answer.status_code == 101


def test_guard_lets_nobody_in_without_a_token_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: importing the guard changes Dask for good."""
    monkeypatch.delenv("THALWEG_DASK_TOKEN_FILE", raising=False)
    program = (
        "from tornado.httputil import HTTPServerRequest, HTTPHeaders\n"
        "from thalweg.compute import guard\n"
        "for value in ('', 'Bearer ', 'Bearer None'):\n"
        "    request = HTTPServerRequest('GET', '/', headers=HTTPHeaders(Authorization=value))\n"
        "    assert not guard._is_allowed(request)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_until_listening(
    port: int, processes: list[subprocess.Popen[bytes]], folder: Path
) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            logs = "\n".join(path.read_text() for path in folder.glob("*.log"))
            assert all(process.poll() is None for process in processes), logs
            assert time.monotonic() < deadline, logs
            time.sleep(0.2)
