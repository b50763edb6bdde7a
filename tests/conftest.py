"""Real servers for the tests: an object store with its Iceberg catalogue, and a database."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from thalweg import settings as settings_module
from thalweg.hub import environment, object_store
from thalweg.settings import Settings

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data; the test skips, and says so, where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data not found at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def store_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings whose object store really runs, on ports of its own."""
    data_dir = tmp_path_factory.mktemp("thalweg")
    settings = settings_module.load({}, data_dir=data_dir)
    object_store.prepare(settings)
    log = (data_dir / "object-store.log").open("w")
    process = subprocess.Popen(
        object_store.command(settings),
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 30
        while not object_store.is_healthy(settings):
            assert process.poll() is None, (data_dir / "object-store.log").read_text()
            assert time.monotonic() < deadline, (data_dir / "object-store.log").read_text()
            time.sleep(0.2)
        yield settings
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        object_store.remove_sockets(settings)


@pytest.fixture
def store(store_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The running object store, with the environment that the library needs to use it."""
    for name, value in environment.data_environment(store_settings).items():
        monkeypatch.setenv(name, value)
    return store_settings
