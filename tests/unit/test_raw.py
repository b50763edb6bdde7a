from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from thalweg import database, raw, storage
from thalweg.cli import app
from thalweg.database import RunUse, new_id
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


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://x/f.csv?X-Amz-Date=1&X-Amz-Signature=s", "https://x/f.csv"),
        ("https://x/f?site=1&TOKEN=s&begin=2&api_key=s", "https://x/f?site=1&begin=2"),
        ("abfs://box@account/f?sv=1&sig=s%3D", "abfs://box@account/f?sv=1"),
        ("file:///a b/ä:c@d.csv", "file:///a b/ä:c@d.csv"),
        ("https://user:s@x/f", None),
        ("https://s@x/f", None),
        ("sftp://user:s@x/f", None),
        ("simplecache::https://user:s@x/f", None),
    ],
)
def test_secrets_of_an_address_are_not_kept(dataset: str, url: str, kept: str | None) -> None:
    if kept:
        file = raw.land("test", dataset, b"water", extension="txt", url=url)
        assert [f.url for f in (file, *raw.find("test", dataset))] == [kept, kept]
        return
    with pytest.raises(InvalidInput, match="user or password") as refused:
        raw.land("test", dataset, b"water", extension="txt", url=url)
    assert "s@x" not in str(refused.value)
    assert raw.find(dataset=dataset) == []


def test_a_run_is_on_record(dataset: str, begin_run: Callable[[], str]) -> None:
    run_id = begin_run()
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


def test_verify_tells_what_is_there_from_what_landed(dataset: str) -> None:
    whole, changed, gone = (land(dataset, content) for content in (b"1" * 2**20, b"2", b"3"))
    storage.filesystem(changed.uri).pipe_file(changed.uri, b"23")
    storage.filesystem(gone.uri).rm_file(gone.uri)
    seen: list[tuple[int, int]] = []
    verified = raw.verify(raw.find("test", dataset), lambda *at: seen.append(at))
    assert [(each.file, each.state) for each in verified] == [
        (whole, "ok"), (changed, "damaged"), (gone, "missing"),
    ]  # fmt: skip
    assert "holds 2 bytes" in verified[1].message
    assert "1 bytes" in verified[1].message
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_verify_reads_files_that_are_larger_than_a_block(dataset: str) -> None:
    content = bytes(range(256)) * (raw.BLOCK // 128) + b"end"
    file = land(dataset, content)
    assert [each.state for each in raw.verify([file])] == ["ok"]
    storage.filesystem(file.uri).pipe_file(file.uri, content[:-1] + b"D")
    assert [each.state for each in raw.verify([file])] == ["damaged"]


def test_a_store_that_does_not_answer_says_nothing_about_files(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = land(dataset)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(type(storage.filesystem(file.uri)), "open", refuse)
    assert [each.state for each in raw.verify([file])] == ["unreadable"]


def test_a_file_by_a_part_of_its_id(dataset: str) -> None:
    first, second = land(dataset, b"1"), land(dataset, b"2")
    assert raw.get(first.id[-12:]) == raw.get(first.id) == first
    assert raw.find("test", dataset, limit=1) == [second]
    with pytest.raises(NotFound, match="`thalweg raw list` shows the newest"):
        raw.get("nothing")
    with pytest.raises(InvalidInput, match="several raw files"):
        raw.get("0")


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["raw", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def test_the_commands(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    file = land(dataset, headers={"etag": '"[/1]"'})
    assert file.id[-12:] in call("list", "--dataset", dataset)
    assert json.loads(call("list", "--dataset", dataset, "--json"))[0]["sha256"] == file.sha256
    shown = call("show", file.id[-12:])
    assert '"[/1]"' in shown
    assert file.uri in shown
    assert json.loads(call("show", file.id, "--json"))["state"] == "ok"
    assert "No such raw files" in call("list", "--dataset", "nothing")
    assert "1 of 1 files are as they landed (5 bytes in all)" in call(
        "verify", "--dataset", dataset
    )
    storage.filesystem(file.uri).pipe_file(file.uri, b"wat")
    assert "damaged" in call("verify", "--dataset", dataset, code=1)
    (wrong,) = json.loads(call("verify", "--dataset", dataset, "--json", code=1))["wrong"]
    assert (wrong["state"], wrong["file"]["id"]) == ("damaged", file.id)
