"""Real servers for the tests: an object store with its Iceberg catalogue, and a database."""

from __future__ import annotations

import fcntl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

from thalweg import settings as settings_module
from thalweg.database import new_id
from thalweg.hub import environment, object_store
from thalweg.pipelines import history
from thalweg.settings import Settings

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data; the test skips, and says so, where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data not found at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="module")
def store_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings whose object store really runs, on ports of its own.

    Each file of tests has one: none sees the rows of another.
    """
    settings = settings_module.load({}, data_dir=tmp_path_factory.mktemp("thalweg"))
    with (tmp_path_factory.getbasetemp().parent / "store.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker after the other takes ports that are free
        process = _started(settings)
    try:
        yield settings
    finally:
        process.kill()  # an orderly end takes it up to twenty seconds, and nothing is kept
        process.wait()
        object_store.remove_sockets(settings)
        S3FileSystem.clear_instance_cache()  # the next store is at another port


def _started(settings: Settings) -> subprocess.Popen[bytes]:
    object_store.prepare(settings)
    log = settings.data_dir / "object-store.log"
    with log.open("w") as file:
        command = object_store.command(settings)
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while not object_store.is_healthy(settings):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the object store did not come up:\n{log.read_text()}")
        time.sleep(0.2)
    return process


@pytest.fixture
def store(store_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The running object store, with the environment that the library needs to use it."""
    for name, value in environment.data_environment(store_settings).items():
        monkeypatch.setenv(name, value)
    return store_settings


@pytest.fixture
def begin_run(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Puts a run on record, for which this process then works; its id."""

    def begin() -> str:
        run = history.begin(new_id(), "p", {}, "command", settings_module.load())
        monkeypatch.setenv("THALWEG_RUN_ID", run.id)
        return run.id

    return begin


@pytest.fixture(scope="session")
def two_gauges(shared_data: Path) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Primary and secondary series of twelve years at two gauges, and their crosswalk."""
    folder = shared_data / "usgs_nwm_two_gauges"
    names = ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
    primary, secondary, crosswalk = (pq.read_table(folder / f"{name}.parquet") for name in names)
    return primary, secondary, crosswalk
