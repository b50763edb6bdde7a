"""Real servers for the tests: an object store with its Iceberg catalogue, and a database."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

from thalweg import settings as settings_module
from thalweg.database import new_id
from thalweg.hub import environment, object_store
from thalweg.pipelines import history
from thalweg.settings import Settings

# Of PostgreSQL. Neither UTC nor the time zone of any test: what comes back is in UTC all the same.
OPTIONS = "-c listen_addresses= -c fsync=off -c shared_buffers=16MB -c timezone=Asia/Kathmandu"
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
    yield from _store(tmp_path_factory)


@pytest.fixture
def another_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The same, of a store that nobody has used."""
    yield from _store(tmp_path_factory)


def _store(folders: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = settings_module.load({}, data_dir=folders.mktemp("thalweg"))
    with (folders.getbasetemp().parent / "store.lock").open("w") as lock:
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


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Of each table of the warehouse, how many of its rows metrics read from now on."""
    from thalweg.metrics import inputs

    found = Counter[str]()
    read = inputs.Named.read

    def counted(part: inputs.Named) -> pa.Table:
        table = read(part)
        found[part.name] += len(table)
        return table

    monkeypatch.setattr(inputs.Named, "read", counted)
    return found


@pytest.fixture(scope="session")
def two_gauges(shared_data: Path) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Primary and secondary series of twelve years at two gauges, and their crosswalk."""
    folder = shared_data / "usgs_nwm_two_gauges"
    names = ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
    primary, secondary, crosswalk = (pq.read_table(folder / f"{name}.parquet") for name in names)
    return primary, secondary, crosswalk


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs; skips the test where it is not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(installed[-1]) if installed else None)
    if found is None:
        pytest.skip(f"{name} is not on PATH: install PostgreSQL to test the registry on it")
    return found


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """Folder of the socket of a PostgreSQL server of the tests' own; nothing listens on a port."""
    initdb, postgres = program("initdb"), program("postgres")
    folder = Path(tempfile.mkdtemp(prefix="thalweg-postgres-", dir="/tmp"))  # a short socket path
    # PostgreSQL refuses to be run by root.
    account = {"user": "nobody"} if os.geteuid() == 0 else {}
    if account:
        shutil.chown(folder, **account)
    common = {"cwd": folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}, **account}
    data = folder / "data"
    flags = ["--username=thalweg", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
    subprocess.run([initdb, "-D", data, *flags], check=True, capture_output=True, **common)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [postgres, "-D", data, "-k", folder, *OPTIONS.split()], stdout=log, stderr=log, **common
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(f"host={folder} user=thalweg dbname=postgres").close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
        yield folder
    finally:
        process.send_signal(signal.SIGINT)  # a fast shutdown
        process.wait(20)
        shutil.rmtree(folder)
