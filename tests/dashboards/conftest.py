"""The sample in a real warehouse, judged; and the dashboards as the hub serves them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, sync_playwright

from thalweg import database, ingest, metrics, sources, warehouse
from thalweg.hub import environment, state
from thalweg.hub.login_proxy import signing
from thalweg.settings import Settings

DASHBOARDS = Path(__file__).resolve().parents[2] / "dashboards"
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def loaded(store_settings: Settings) -> None:
    """The embedded sample is in the warehouse, and judged."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.data_environment(store_settings).items():
            patch.setenv(name, value)
        database.migrate()
        warehouse.migrate()
        source = sources.get("sample")
        loaded = ingest.load(source.read, source.fetch())
        names = ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
        judged = metrics.evaluate(*(loaded.rows(name) for name in names), lead_time_bin=24)
        warehouse.write("metrics", metrics.to_long(judged))


@pytest.fixture
def sample(loaded: None, store: Settings) -> Settings:
    """The running store with the sample in it."""
    return store


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Serve dashboards in the environment as it is now; gives their address."""
    processes = []

    def start(
        pages: str = "**/*.py",
        plugins: Sequence[str] = ("report", "operations"),
        first: str = "forecast_skill",
    ) -> str:
        (port,) = state.free_ports(1)
        command = [sys.executable, "-m", "panel", "serve", f"--port={port}", "--num-threads=2"]
        command += ["--address=127.0.0.1", f"--allow-websocket-origin=127.0.0.1:{port}"]
        command += [f"--plugins=thalweg.dashboards.{name}" for name in plugins]
        command += ["--prefix=/services/dashboards", *map(str, DASHBOARDS.glob(pages))]
        log = tmp_path / f"panel-{port}.log"
        with log.open("w") as output:
            environ = os.environ | signing("a token")
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environ)
        processes.append((process, log))
        address = f"http://127.0.0.1:{port}/services/dashboards"
        deadline = time.monotonic() + 60
        while not _answers(f"{address}/{first}"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        return address

    yield start
    for process, log in processes:
        process.terminate()
        process.wait(20)
        said = log.read_text()
        refused = said.count("ProtocolError: Invalid token signature")  # as a test wants it
        assert said.count("Traceback") == refused, said


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=30).is_success
    except httpx.HTTPError:
        return False
