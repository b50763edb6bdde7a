"""A backup that is made while the hub works comes back into an empty place, row by row the same."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import botocore.session
import numpy as np
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
import xarray as xr
from s3fs import S3FileSystem
from typer.testing import CliRunner

from thalweg import backup, database, gridded, raw, storage, warehouse
from thalweg.backup import databases, objects
from thalweg.cli import app
from thalweg.database import new_id
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.hub import environment
from thalweg.pipelines import history
from thalweg.settings import Settings
from thalweg.warehouse.access import catalog
from thalweg.warehouse.schema import NAMESPACE

NAME = "primary_timeseries"
START = dt.datetime(2024, 9, 1, tzinfo=dt.UTC)
DAY = 24 * 3600 * 1000  # ms


def fresh(settings: Settings, patch: pytest.MonkeyPatch) -> Settings:
    """A hub that was just brought up on this store."""
    enter(settings, patch)
    database.migrate(settings)
    warehouse.migrate(settings)
    return settings


def enter(settings: Settings, patch: pytest.MonkeyPatch) -> None:
    for name, value in environment.data_environment(settings).items():
        patch.setenv(name, value)
    S3FileSystem.clear_instance_cache()


def write(hour: int, *values: float, name: str = "usgs-1") -> None:
    same = {
        "unit_name": "m^3/s", "location_id": name, "configuration_name": "usgs_observations",
        "variable_name": "streamflow_hourly_inst",
    }  # fmt: skip
    times = [START + dt.timedelta(hours=hour + i) for i in range(len(values))]
    rows = {key: [value] * len(values) for key, value in same.items()}
    rows |= {"value_time": pa.array(times, pa.timestamp("us", "UTC")), "value": [*values]}
    warehouse.write(NAME, pa.table(rows))


def fill(settings: Settings) -> None:
    """A run, raw files, states of a table with a tag, fields, a notebook, somebody's home."""
    ended = history.begin(new_id(), "p", {"site": "03171000"}, "command", settings)
    history.end(replace(ended, state="succeeded", ended_at=START), settings)
    raw.land("test", "levels", b"Radford", extension="txt", url="https://x/1", settings=settings)
    write(0, 1.0, 2.0)
    write(24 * 40, 3.0)
    table = warehouse.table(NAME)
    table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, "then").commit()
    write(0, 9.0)  # a correction
    write(2, 4.0, name="usgs-2")
    fields = xr.Dataset(
        {
            "t2m": (
                ("time", "step", "latitude", "longitude"), np.ones((1, 1, 2, 2), "float32"),
                {"units": "K", "GRIB_dataType": "fc"},
            ),
            "t2m_raw_file": (("time", "step", "half"), np.ones((1, 1, 2), "uint64")),
        },
        {
            "time": [np.datetime64("2024-09-01", "ns")], "step": [np.timedelta64(0, "ns")],
            "latitude": [40.0, 41.0], "longitude": [-80.0, -79.0],
        },
        {"configuration_name": "test"},
    )  # fmt: skip
    gridded.write("fields", {"surface": fields}, settings)
    storage.put_new(f"{settings.runs_uri}/p/notebook.ipynb", b"{}")
    home = settings.data_dir / "home" / "ada"
    home.mkdir(parents=True)
    (home / "paper.ipynb").write_text("{}")
    (home / "link").symlink_to("/nowhere")
    (home / ".cache").mkdir()


@contextmanager
def somebody_at_work(settings: Settings) -> Iterator[list[str]]:
    """Files land and rows are written all the time."""
    stop, landed = threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            n = len(landed)
            file = raw.land(
                "test", "live", f"{n}".encode(), extension="txt", url=f"https://x/{n}",
                settings=settings,
            )  # fmt: skip
            write(n, float(n), name="usgs-3")
            landed.append(file.id)
            time.sleep(0.3)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield landed
    finally:
        stop.set()
        thread.join()


def until_there_are(count: int, landed: list[str]) -> None:
    deadline = time.monotonic() + 60
    while len(landed) < count:
        assert time.monotonic() < deadline, "nobody is at work"
        time.sleep(0.02)


def states() -> dict[int, list[tuple[object, ...]]]:
    """The rows of the table at each of its states."""
    columns = ["location_id", "value_time", "value"]
    return {
        each.snapshot_id: sorted(
            tuple(row.values())
            for row in warehouse.read(NAME, columns, snapshot_id=each.snapshot_id).to_pylist()
        )
        for each in warehouse.table(NAME).snapshots()
    }


def all_rows() -> dict[str, list[str]]:
    names = sorted(i[-1] for i in catalog().list_tables(NAMESPACE) if i[-1] != NAME)
    return {name: sorted(map(str, warehouse.read(name).to_pylist())) for name in names}


def test_what_comes_back_is_the_same_row_by_row(
    store_settings: Settings,
    another_store: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = fresh(store_settings, monkeypatch)
    fill(here)
    with somebody_at_work(here) as landed:
        until_there_are(3, landed)
        made = backup.backup(str(tmp_path), settings=here)
        until = len(landed)
        until_there_are(until + 2, landed)
    assert Path(made["uri"].removeprefix("file://")).stat().st_mode & 0o777 == 0o700
    runs = history.find(limit=None, settings=here)
    files = {file.id: (file, raw.read(file)) for file in raw.find(settings=here)}
    table, others = warehouse.table(NAME), all_rows()
    times = {each.snapshot_id: each.timestamp_ms for each in table.history()}
    before = states()

    there = fresh(another_store, monkeypatch)
    old = tmp_path / made["uri"].rpartition("/")[2] / "tables.json"
    old.write_text(a_day_older(old.read_text()))
    done = backup.restore(made["uri"], settings=there)
    assert done["tables"] == made["tables"]
    assert history.find(limit=None, settings=there) == runs
    back = raw.find(settings=there)
    assert 3 <= len([file for file in back if file.dataset == "live"]) <= until + 1
    assert [each.state for each in raw.verify(settings=there)] == ["ok"] * len(back)
    for file in back:
        assert (file, raw.read(file)) == files[file.id]
    now, again = states(), warehouse.table(NAME)
    assert len(now) >= 5
    assert now == {id: before[id] for id in now}, "each state has the rows that it had"
    for id in now.keys() & times.keys():  # the time at which it was written, a day ago
        at = dt.datetime.fromtimestamp((times[id] - DAY) / 1000, dt.UTC)
        assert warehouse.access.as_of(again, at).snapshot_id == id
    assert warehouse.access.as_of(again, START) is None
    assert len(now[again.current_snapshot().snapshot_id]) == made["tables"][NAME]
    assert again.refs()["then"] == table.refs()["then"]
    assert all_rows() == others
    assert float(gridded.open("fields", settings=there)["t2m"].sum()) == 4.0
    assert storage.read(f"{there.runs_uri}/p/notebook.ipynb") == b"{}"
    home = there.data_dir / "home" / "ada"
    assert sorted(path.name for path in home.iterdir()) == ["link", "paper.ipynb"]
    # The tables go on: what is written there is as it was.
    write(0, 7.0, name="usgs-4")
    assert len(warehouse.read(NAME)) == made["tables"][NAME] + 1
    assert warehouse.plan(there) == []
    for part, said in {
        "database": "the database is not empty .* --part",
        "tables": f"the table {NAME} is not empty",
        "objects": "raw is not empty",
        "files": "home is not empty",
    }.items():
        with pytest.raises(InvalidInput, match=said):
            backup.restore(made["uri"], [part], settings=there)
    assert len(warehouse.read(NAME)) == made["tables"][NAME] + 1, "a refusal changes nothing"


def a_day_older(text: str) -> str:
    """The metadata of tables, as a backup of yesterday has it."""
    tables = json.loads(text)
    for each in tables.values():
        for state in (*each["snapshots"], *each["snapshot-log"]):
            state["timestamp-ms"] -= DAY
        each["last-updated-ms"] -= DAY
    return json.dumps(tables)


def test_postgresql_comes_back_row_by_row(postgres: Path, store: Settings) -> None:
    here, there = (on_postgres(postgres, store) for _ in range(2))
    for each in (here, there):
        database.migrate(each)
    for name in ("one", "two"):
        run = history.begin(new_id(), name, {"site": "03171000"}, "command", here)
        history.end(replace(run, state="failed", ended_at=START, error="Höhe, 水位"), here)
        raw.land("test", name, name.encode(), extension="txt", url="https://x", settings=here)
    kind, dump = databases.dump(here)
    assert kind == "postgresql"
    databases.refuse_unless_empty(kind, there)
    databases.load(dump, there)
    assert database_rows(there) == database_rows(here)
    assert {name: len(rows) for name, rows in database_rows(here).items()} == databases.counts(
        there
    )
    with pytest.raises(InvalidInput, match=r"not empty \(2 in raw_files, 2 in runs"):
        databases.refuse_unless_empty(kind, there)
    with pytest.raises(Unavailable, match="pg_restore could not finish"):
        databases.load(dump[:200], there)
    assert database_rows(there) == database_rows(here), "a dump that is cut short changes nothing"


def on_postgres(server: Path, settings: Settings) -> Settings:
    """With a database of its own, which needs no password, and is given one."""
    name = f"backup_{new_id().replace('-', '_')}"
    with psycopg.connect(f"host={server} user=thalweg dbname=postgres", autocommit=True) as made:
        made.execute(f"CREATE DATABASE {name}")
    url = f"postgresql+psycopg://thalweg:not%20asked%20for@/{name}?host={server}"
    return replace(settings, database_url=url)


def database_rows(settings: Settings) -> dict[str, list[str]]:
    with database.session(settings) as session:
        return {
            name: sorted(str(row) for row in session.execute(sa.select(table)))
            for name, table in database.Base.metadata.tables.items()
        }


def test_by_version_objects_are_named_and_brought_back(
    store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(store, raw_uri="s3://kept/raw")
    client = botocore.session.get_session().create_client("s3")
    client.create_bucket(Bucket="kept")
    with pytest.raises(InvalidInput, match="kept keeps no versions: leave --by-version out"):
        objects.note(settings.raw_uri, str(tmp_path), lambda done, total: None)
    client.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
    for name in ("same", "changed", "deleted"):
        client.put_object(Bucket="kept", Key=f"raw/{name}", Body=name.encode())
    target = f"file://{tmp_path}/versions"
    taken = objects.note(settings.raw_uri, target, lambda done, total: None)
    assert (taken.count, taken.size) == (3, 18)
    client.put_object(Bucket="kept", Key="raw/changed", Body=b"spoilt")
    client.delete_object(Bucket="kept", Key="raw/deleted")
    client.put_object(Bucket="kept", Key="raw/new", Body=b"new")
    assert objects.bring_versions(target, settings.raw_uri, lambda done, total: None) == 2
    for name in ("same", "changed", "deleted", "new"):
        assert client.get_object(Bucket="kept", Key=f"raw/{name}")["Body"].read() == name.encode()
    assert objects.bring_versions(target, settings.raw_uri, lambda done, total: None) == 0
    with pytest.raises(InvalidInput, match="is no bucket"):
        objects.note(f"file://{tmp_path}", target, lambda done, total: None)


def test_what_goes_while_it_is_copied_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", f"file://{tmp_path}/target"
    source.mkdir()
    (source / "a").write_text("a")
    found = objects.find
    monkeypatch.setattr(
        objects, "find", lambda p: found(p) | ({"gone": 1} if p.endswith("source") else {})
    )
    assert not objects.copy(f"file://{source}", target, lambda done, total: None).is_whole
    with pytest.raises(Unavailable, match="has gone while it was read"):
        objects.bring(f"file://{source}", target, lambda done, total: None)


def test_the_command_tells_what_to_do_next(store: Settings, tmp_path: Path) -> None:
    database.migrate(store)
    warehouse.migrate(store)
    call = CliRunner().invoke
    made = call(app, ["deploy", "backup", str(tmp_path), "--json"])
    assert made.exit_code == 0, made.output
    about = json.loads(made.stdout)
    assert about["database"] == "sqlite"
    assert (Path(about["uri"].removeprefix("file://")) / "backup.json").exists()
    told = call(app, ["deploy", "backup", str(tmp_path / "other")])
    assert "thalweg deploy restore file://" in told.stdout


@pytest.mark.parametrize(
    ("about", "parts", "error", "said"),
    [
        (None, ["database"], NotFound, "is no backup, or one that was not finished"),
        ({"format": 2, "thalweg": "9.0"}, ["database"], InvalidInput, "made by Thalweg 9.0"),
        ({"format": 1}, ["tabels"], InvalidInput, "did you mean 'tables'"),
        ({"format": 1, "database": "postgresql"}, ["database"], InvalidInput, "same kind"),
        (
            {"format": 1, "places": {"raw": "s3://theirs"}}, ["objects"], InvalidInput,
            "the backup is of s3://theirs, and the setting raw_uri is s3://raw",
        ),
    ],
)  # fmt: skip
def test_what_cannot_come_back_is_refused(
    about: dict[str, object] | None,
    parts: list[str],
    error: type[Exception],
    said: str,
    store: Settings,
    tmp_path: Path,
) -> None:
    if about is not None:
        (tmp_path / "backup.json").write_text(json.dumps(about))
    with pytest.raises(error, match=said):
        backup.restore(str(tmp_path), parts, settings=store)


def test_a_backup_is_no_part_of_itself(store: Settings) -> None:
    with pytest.raises(InvalidInput, match="s3://runs/backups is in s3://runs"):
        backup.backup("s3://runs/backups", settings=store)


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match="pg_dump is not installed"):
        databases._run("pg_dump", Settings(database_url="postgresql+psycopg://x@h/d"))
