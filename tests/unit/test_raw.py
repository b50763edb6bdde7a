from __future__ import annotations

import datetime as dt
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from thalweg import database, raw, storage
from thalweg.database import RunRow, RunUse, new_id
from thalweg.errors import InvalidInput, NotFound
from thalweg.settings import Settings


@pytest.fixture
def dataset(store: Settings) -> str:
    """A dataset that no other test uses, in a migrated registry."""
    database.migrate()
    return f"test-{new_id()}"


def land(dataset: str, content: bytes = b"water", **more: object) -> raw.RawFile:
    return raw.land("test", dataset, content, extension="txt", url="https://x/y", **more)


def test_a_landed_file_is_registered_and_reads_back(dataset: str) -> None:
    time = dt.datetime(2024, 9, 27, 6, tzinfo=dt.timezone(dt.timedelta(hours=-4)))
    file = land(dataset, headers={"etag": '"1"'}, valid_from=time, valid_to=time)
    today = dt.datetime.now(dt.UTC)
    assert re.fullmatch(rf"s3://raw/test/{dataset}/{today:%Y-%m-%d}/{file.id}\.txt", file.uri)
    assert (file.size, file.sha256) == (5, hashlib.sha256(b"water").hexdigest())
    assert raw.find("test", dataset) == [file]
    assert raw.find(ids=[file.id]) == [file]
    assert raw.find("test", dataset)[0].valid_from == time
    assert raw.read(file) == b"water"


def test_the_same_bytes_are_kept_once(dataset: str) -> None:
    first, second = land(dataset), land(dataset, headers={"date": "later"})
    assert second == first
    assert land(dataset, b"other").id != first.id
    assert land(dataset + "-2").id != first.id
    assert raw.find("test", dataset)[0] == first


def test_racing_writers_agree_on_one_file_and_leave_no_other(dataset: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(lambda _: land(dataset), range(24)))
    assert len({f.id for f in files}) == 1
    assert raw.read(files[0]) == b"water"
    keys = storage.filesystem("s3://raw").find(f"s3://raw/test/{dataset}", refresh=True)
    assert [f"s3://{key}" for key in keys] == [files[0].uri]


def test_a_damaged_file_is_refused(dataset: str) -> None:
    file = land(dataset)
    storage.filesystem(file.uri).pipe_file(file.uri, b"wat")
    with pytest.raises(InvalidInput, match=rf"raw file {file.id} is damaged: .* holds 3 bytes"):
        raw.read(file)
    storage.filesystem(file.uri).rm_file(file.uri)
    with pytest.raises(NotFound, match="nothing is stored at"):
        raw.read(file)


@pytest.mark.parametrize(
    ("source", "content", "more", "says"),
    [
        ("../x", b"water", {}, "cannot be part"),
        ("Test", b"water", {}, "cannot be part"),
        ("test", b"", {}, "empty file"),
        ("test", b"water", {"valid_from": dt.datetime(2024, 1, 1)}, "time zone"),  # noqa: DTZ001
    ],
)
def test_what_cannot_land_is_refused(
    dataset: str, source: str, content: bytes, more: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        raw.land(source, dataset, content, extension="txt", url="u", **more)
    assert raw.find(dataset=dataset) == []


def test_a_run_is_on_record(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunRow(
        id=new_id(), pipeline="p", state="running", trigger="command", user="u",
        started_at=dt.datetime.now(dt.UTC), parameters={},
    )  # fmt: skip
    with database.session() as session, session.begin():
        session.add(run)
        run_id = run.id
    monkeypatch.setenv("THALWEG_RUN_ID", run_id)
    file = land(dataset)
    raw.read(file)
    raw.read(file)
    assert file.run_id == run_id
    with database.session() as session:
        uses = session.query(RunUse).filter_by(run_id=run_id).order_by(RunUse.id).all()
        assert [(u.direction, u.kind, u.name, u.version) for u in uses] == [
            ("wrote", "raw", dataset, file.id),
            ("read", "raw", dataset, file.id),
        ]
