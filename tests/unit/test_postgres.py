"""The metadata database on both of its engines: SQLite, and a PostgreSQL that really runs."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nbformat
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa

from thalweg import database, quarantine, raw, record, warehouse
from thalweg.database import new_id
from thalweg.errors import InvalidInput, Unavailable
from thalweg.pipelines import history, pages
from thalweg.pipelines.run import run
from thalweg.settings import Settings, load

START = dt.datetime(2024, 11, 3, 1, 30, tzinfo=dt.timezone(dt.timedelta(hours=-4)))
REGISTERED = {
    "source": "test", "dataset": "levels", "url": "https://x", "size": 5, "headers": {"etag": "1"},
}  # fmt: skip
RAN = {
    "pipeline": "ingest", "state": "succeeded", "trigger": "command", "user": "a",
    "started_at": START.astimezone(dt.UTC), "parameters": {"sites": ["03171000"]},
}  # fmt: skip
CUT = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database()"""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(
    request: pytest.FixtureRequest, store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings with a new database of this kind, without tables."""
    url = f"sqlite:///{tmp_path / 'thalweg.db'}"
    if request.param == "postgresql":
        folder = request.getfixturevalue("postgres")
        name = f"test_{new_id().replace('-', '_')}"
        with psycopg.connect(
            f"host={folder} user=thalweg dbname=postgres", autocommit=True
        ) as made:
            made.execute(f"CREATE DATABASE {name}")
        url = f"postgresql+psycopg://thalweg@/{name}?host={folder}"
    monkeypatch.setenv("THALWEG_DATABASE_URL", url)
    return replace(store, database_url=url)


@pytest.fixture
def registry(empty: Settings) -> Settings:
    """Settings with a migrated database of this kind."""
    database.migrate(empty)
    return empty


def land(content: bytes = b"water", dataset: str = "levels", **more: object) -> raw.RawFile:
    return raw.land("test", dataset, content, extension="txt", url="https://x/y?é=%25", **more)


def test_a_file_comes_back_as_it_landed(registry: Settings) -> None:
    headers = {"etag": '"1"', "x-note": "Höhe, 水位"}
    file = land(headers=headers, valid_from=START, valid_to=START + dt.timedelta(hours=1))
    assert raw.find("test", "levels") == raw.find(ids=[file.id]) == [raw.get(file.id)] == [file]
    found = raw.get(file.id[-12:])
    assert (found.headers, found.valid_from) == (headers, START)
    times = (found.ingested_at, found.valid_from, found.valid_to)
    assert [time and time.tzinfo for time in times] == [dt.UTC] * 3
    assert raw.read(found) == b"water"
    assert [each.state for each in raw.verify()] == ["ok"]


def test_who_may_only_read_is_told_so(
    postgres: Path, registry: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a person's server on a cluster, by `lab-url`."""
    if "postgresql" not in registry.database_url:
        pytest.skip("SQLite has no users")
    file = land()
    url = sa.make_url(registry.database_url)
    name = f"lab_{url.database}"
    with psycopg.connect(f"host={postgres} user=thalweg dbname={url.database}") as made:
        made.execute(f"CREATE ROLE {name} LOGIN")
        made.execute(f"GRANT SELECT ON raw_files, runs, run_uses TO {name}")
    theirs = url.set(username=name).render_as_string()
    monkeypatch.setenv("THALWEG_DATABASE_URL", theirs)
    assert raw.find("test", "levels") == [file]
    with pytest.raises(Unavailable, match=r"permission denied .*you may read it alone"):
        land(b"of a reader")


def test_racing_writers_agree_on_one_file(registry: Settings) -> None:
    """Of 24 writers with three different contents, each content is kept once."""
    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(lambda i: land(f"water {i % 3}".encode()), range(24)))
    assert len({file.id for file in files}) == 3
    assert {file.id for file in raw.find("test", "levels")} == {file.id for file in files}
    assert {each.state for each in raw.verify()} == {"ok"}


def test_more_ids_than_a_query_takes(registry: Settings) -> None:
    first, second = land(b"1"), land(b"2")
    many = [new_id() for _ in range(70_000)]
    assert raw.find(ids=[second.id, *many, first.id]) == [first, second]
    assert raw.find("test", limit=1) == [second]


def test_a_name_that_is_too_long_is_refused(registry: Settings) -> None:
    with pytest.raises(InvalidInput, match="cannot be part of a raw file's key"):
        land(dataset="a" * 65)
    assert land(dataset="a" * 64).dataset == "a" * 64


def test_a_run_is_on_record(registry: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = history.begin(new_id(), "ingest", {"sites": ["03171000"]}, "command", registry)
    monkeypatch.setenv("THALWEG_RUN_ID", begun.id)
    file = land()
    record.note("wrote", "table", "primary_timeseries", str(2**62), 3_000_000_000)
    history.end(replace(begun, state="succeeded", ended_at=START), registry)
    found = history.get(begun.id[-12:], registry)
    assert (found.state, found.parameters, found.ended_at) == (
        "succeeded", {"sites": ["03171000"]}, START,
    )  # fmt: skip
    assert [(use.kind, use.version, use.rows) for use in found.uses] == [
        ("raw", file.id, None),
        ("table", str(2**62), 3_000_000_000),
    ]
    assert [each.id for each in history.find("ingest", "succeeded", settings=registry)] == [
        begun.id
    ]


def test_of_racing_runs_one_works_on_a_partition(registry: Settings) -> None:
    def begin(partition: str) -> history.Run | history.Busy:
        try:
            return history.begin(
                new_id(), "ingest", {}, "dagster", registry, partition=partition, overlap="skip"
            )
        except history.Busy as busy:
            return busy

    with ThreadPoolExecutor(8) as pool:
        came = [*pool.map(begin, ["2024-09-26", "2024-09-27"] * 6)]
    begun = {each.partition: each for each in came if isinstance(each, history.Run)}
    assert sorted(begun) == ["2024-09-26", "2024-09-27"]
    others = [each.run for each in came if isinstance(each, history.Busy)]
    assert len(others) == 10
    assert all(run == begun[run.partition] for run in others)
    history.end(replace(begun["2024-09-26"], state="failed", ended_at=START), registry)
    assert isinstance(begin("2024-09-26"), history.Run)
    assert isinstance(begin("2024-09-27"), history.Busy)


def test_the_quarantine_keeps_and_releases(registry: Settings) -> None:
    """Eight at once keep rows of one file; they are one entry, and leave it together."""
    warehouse.migrate()
    location, file = f"usgs-{new_id()}", new_id()

    def keep(hour: int) -> None:
        row = {
            "value_time": START + dt.timedelta(hours=hour), "value": 1.0, "unit_name": "m^3/s",
            "location_id": location, "configuration_name": "usgs_observations",
            "variable_name": "streamflow_hourly_inst", "raw_file_id": file,
        }  # fmt: skip
        quarantine.admit({"primary_timeseries": pa.Table.from_pylist([row])})

    with ThreadPoolExecutor(4) as pool:
        [*pool.map(keep, range(8))]
    (entry,) = quarantine.list()
    assert (entry.count, entry.raw_file_id, entry.at.tzinfo) == (8, file, dt.UTC)
    assert quarantine.show(entry.id[:8])[0] == entry
    warehouse.write("locations", pa.table({"id": [location]}))
    assert quarantine.retry(entry.id).written[0].added == 8
    assert quarantine.list() == []
    assert [each.id for each in quarantine.list(released=True)] == [entry.id]


def test_without_tables_one_line_says_what_to_do(empty: Settings) -> None:
    with pytest.raises(Unavailable, match="the metadata database does not answer") as caught:
        raw.find()
    assert "\n" not in str(caught.value)


def test_several_start_at_once(empty: Settings) -> None:
    """As when a cluster starts the hub and its schedules together."""
    code = "from thalweg import database; database.migrate()"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 2, said
    assert raw.find() == []


def test_an_earlier_database_keeps_what_it_holds(empty: Settings) -> None:
    """From each earlier version, with a file in it, to the newest."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    engine = database.engine(empty.database)
    versions = [each.revision for each in ScriptDirectory.from_config(config).walk_revisions()]
    ids = []
    for version in versions[::-1]:
        ids.append(new_id())
        row = {"id": ids[-1], "sha256": version, "uri": f"s3://raw/{version}", "ingested_at": START}
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, version)
            table = sa.Table("raw_files", sa.MetaData(), autoload_with=connection)
            connection.execute(table.insert().values(REGISTERED | row))
            runs = sa.Table("runs", sa.MetaData(), autoload_with=connection)
            connection.execute(runs.insert().values(RAN | {"id": ids[-1]}))
    before = sa.inspect(engine).get_table_names()
    database.migrate(empty)
    assert sa.inspect(engine).get_table_names() == before
    assert [(file.id, file.headers, file.size) for file in raw.find()] == [
        (id, {"etag": "1"}, 5) for id in ids
    ]
    for kept in (history.get(id, empty) for id in ids):
        assert (kept.state, kept.parameters, kept.started_at) == (
            "succeeded",
            RAN["parameters"],
            START,
        )
        assert (kept.attempt, kept.repeats, kept.differences, kept.peak_memory) == (
            1,
            None,
            None,
            None,
        )


@pytest.mark.parametrize("empty", ["postgresql"], indirect=True)
def test_connections_that_were_cut_are_made_anew(registry: Settings) -> None:
    file = land()
    with sa.create_engine(registry.database, poolclass=sa.NullPool).connect() as connection:
        assert connection.execute(sa.text(CUT)).all()
    assert raw.find() == [file]


@pytest.mark.parametrize("empty", ["postgresql"], indirect=True)
def test_a_server_that_takes_no_changes_does_not_answer(registry: Settings) -> None:
    """As the one from which another has taken over: what is to be kept waits."""
    begun = history.begin(new_id(), "ingest", {}, "command", registry)
    url = registry.database
    read_only = replace(registry, database_url=f"{url}&options=-cdefault_transaction_read_only=on")
    assert history.known(begun, read_only) == begun
    with pytest.raises(Unavailable, match=r"read-only transaction.*is the hub up"):
        history.beat(begun.id, read_only)


def test_a_server_that_is_gone_is_one_clear_line() -> None:
    url = "postgresql+psycopg://thalweg:secret@127.0.0.1:9/thalweg"
    with pytest.raises(Unavailable, match="does not answer") as caught:
        raw.get("1", load({}, database_url=url))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("empty", ["postgresql"], indirect=True)
def test_a_run_outlives_its_database(
    registry: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes away while the notebook runs; the end of the run is entered when it is back."""
    folder = tmp_path / "pipelines" / "late"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text("title: t\nowner: o\ndescription: d\n")
    name = registry.database.partition("@/")[2].partition("?")[0]
    closed = f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS"
    others = CUT.replace("current_database()", f"'{name}'")
    server = f"host={registry.database.partition('host=')[2]} user=thalweg dbname=postgres"
    code = f"import psycopg\nwith psycopg.connect({server!r}, autocommit=True) as made:\n"
    code += f"    made.execute({closed + ' false'!r})\n    made.execute({others!r})"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code)], metadata={"kernelspec": kernel}
    )
    nbformat.write(notebook, folder / "notebook.ipynb")
    settings = replace(registry, home=tmp_path)
    with pytest.raises(Unavailable, match="has succeeded, and its record waits in"):
        run("late", settings=settings)
    with psycopg.connect(server, autocommit=True) as made:
        made.execute(f"{closed} true")
    (ended,) = history.find("late", settings=settings)
    assert (ended.state, ended.error) == ("succeeded", None)
    assert "ALLOW_CONNECTIONS" in pages.read(ended).decode()
    assert not list((settings.data_dir / "unsaved").glob("*.json"))
