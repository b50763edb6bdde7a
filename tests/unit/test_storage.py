from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from thalweg import settings as settings_module
from thalweg import storage
from thalweg.database import new_id
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.settings import Settings


def test_put_new_never_overwrites(store: Settings) -> None:
    uri = f"s3://raw/test/{new_id()}.txt"
    storage.put_new(uri, b"first")
    with pytest.raises(FileExistsError):
        storage.put_new(uri, b"second")
    assert storage.read(uri) == b"first"


def test_one_of_many_writers_wins(store: Settings) -> None:
    uri = f"s3://raw/test/{new_id()}.txt"

    def put(i: int) -> bool:
        try:
            storage.put_new(uri, str(i).encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(16)))
    assert sum(won) == 1
    assert storage.read(uri) == str(won.index(True)).encode()


def test_what_is_not_there_is_said(store: Settings) -> None:
    with pytest.raises(NotFound, match="nothing is stored at s3://raw/test/none"):
        storage.read("s3://raw/test/none")
    with pytest.raises((NotFound, Unavailable), match="s3://no-such-bucket"):
        storage.put_new("s3://no-such-bucket/file", b"x")


def test_a_store_that_does_not_answer_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_module.load({}, public_endpoint="http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    uri = "s3://noaa-nwm-pds/nwm.20210823"
    with (
        pytest.raises(Unavailable, match="does not give s3://noaa-nwm-pds"),
        storage.translated(uri),
    ):
        storage.public_filesystem(settings).ls(uri)


def test_local_files_work_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    uri = (tmp_path_factory.mktemp("files") / "a.txt").as_uri()
    storage.put_new(uri, b"first")
    with pytest.raises(FileExistsError):
        storage.put_new(uri, b"second")
    assert storage.read(uri) == b"first"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("foo://x", "Protocol not known: foo; known are paths, file://, s3:// and https://"),
        ("sftp://host/file", "paramiko.*; known are paths"),
        (f"file://{Path(__file__).parent}/", r"tests/unit/ is a folder: .* as \S+/unit/\*$"),
    ],
)
def test_what_is_no_file_of_a_store_says_so(uri: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        storage.read(uri)


def test_public_buckets_are_anonymous_except_on_this_machine() -> None:
    far = settings_module.load({}, public_endpoint="https://s3.us-east-1.amazonaws.com")
    near = settings_module.load({}, public_endpoint="http://127.0.0.1:8333")
    assert storage.public_filesystem(far).anon is True
    assert storage.public_filesystem(near).anon is False
