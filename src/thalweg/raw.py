"""The landing zone: every file as the provider gave it, written once and never changed.

A file lies at `{raw_uri}/{source}/{dataset}/{YYYY-MM-DD}/{id}.{extension}` (UTC date of ingest,
UUIDv7) and has a row in the registry: where it came from, when, its checksum, by which run.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from thalweg import database, record, storage
from thalweg.database import RawFileRow
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.private import PASSWORD, without_secrets
from thalweg.settings import Settings, load

__all__ = ["Progress", "RawFile", "Verified", "find", "get", "land", "period", "read", "verify"]

# As long as the registry's narrowest column.
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
STREAMS = 8
BLOCK = 8 * 2**20
#: Called with how many are done, and of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RawFile:
    """One immutable file of the landing zone, as the registry knows it."""

    id: str
    source: str
    dataset: str
    uri: str
    url: str
    sha256: str
    size: int
    headers: Mapping[str, Any]
    valid_from: dt.datetime | None
    valid_to: dt.datetime | None
    run_id: str | None
    ingested_at: dt.datetime


def land(
    source: str,
    dataset: str,
    content: bytes,
    *,
    extension: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    valid_from: dt.datetime | None = None,
    valid_to: dt.datetime | None = None,
    settings: Settings | None = None,
) -> RawFile:
    """Keep `content` as evidence and register it; the same bytes of a dataset are kept once.

    Parameters
    ----------
    source, dataset, extension
        Parts of the key: lower-case letters, digits, `_`, `.` and `-`.
    url, headers
        Where the bytes came from, and what the server said about them. Of the query, what is called
        like a secret (`token`, `api_key`, `X-Amz-Signature` …) is not kept.
    valid_from, valid_to
        First and last time the content speaks of, if known; timezone-aware.

    Returns
    -------
    RawFile
        The file landed now, or the earlier one with the same bytes.

    Raises
    ------
    InvalidInput
        A name that cannot be part of a key, a password in the address, a time without a time zone,
        or no bytes at all.
    """
    settings = settings or load()
    url = _address(url)
    _check(source, dataset, extension, content, valid_from, valid_to)
    sha256 = hashlib.sha256(content).hexdigest()
    if record.pinned():
        return _as_landed_then(source, dataset, url, sha256, settings)
    if earlier := _same(source, dataset, sha256, settings):
        return earlier
    now = dt.datetime.now(dt.UTC)
    id = database.new_id()
    file = RawFile(
        id=id,
        source=source,
        dataset=dataset,
        uri=f"{settings.raw_uri}/{source}/{dataset}/{now:%Y-%m-%d}/{id}.{extension}",
        url=url,
        sha256=sha256,
        size=len(content),
        headers=dict(headers or {}),
        valid_from=valid_from,
        valid_to=valid_to,
        run_id=record.current_run_id(),
        ingested_at=now,
    )
    # The object before its row: what is registered can be read.
    storage.put_new(file.uri, content)
    try:
        with database.session(settings) as session, session.begin():
            session.add(RawFileRow(**{f.name: getattr(file, f.name) for f in fields(file)}))
    except IntegrityError:
        winner = _same(source, dataset, sha256, settings)
        if winner is None:
            raise
        # Another writer registered the same bytes first; nobody has seen our copy.
        storage.filesystem(file.uri).rm_file(file.uri)
        return winner
    record.note("wrote", "raw", dataset, file.id)
    return file


def read(file: RawFile) -> bytes:
    """The bytes of a raw file, checked against the registry.

    Raises
    ------
    InvalidInput
        The stored bytes are not those that landed.
    NotFound, Unavailable
        The object is gone, or the store does not answer.
    """
    content = storage.read(file.uri)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise InvalidInput(
            f"raw file {file.id} is damaged: {file.uri} holds {len(content)} bytes whose sha256 is "
            f"not the registered {file.sha256[:12]}… ({file.size} bytes from {file.url}); restore "
            f"the object from a backup"
        )
    record.note("read", "raw", file.dataset, file.id)
    return content


def find(
    source: str | None = None,
    dataset: str | None = None,
    ids: Iterable[str] | None = None,
    settings: Settings | None = None,
    limit: int | None = None,
) -> list[RawFile]:
    """The registered files of a source, a dataset or with these ids, oldest first.

    `limit` keeps that many of the newest.
    """
    wanted = select(RawFileRow).order_by(RawFileRow.id.desc()).limit(limit)
    if source is not None:
        wanted = wanted.where(RawFileRow.source == source)
    if dataset is not None:
        wanted = wanted.where(RawFileRow.dataset == dataset)
    queries = [wanted]
    if ids is not None:
        parts = database.in_parts(sorted(ids, reverse=True))
        queries = [wanted.where(RawFileRow.id.in_(part)) for part in parts]
    with database.session(settings) as session:
        files = [_file(row) for query in queries for row in session.scalars(query)]
    return files[:limit][::-1]


def period(source: str, settings: Settings | None = None) -> tuple[dt.datetime, dt.datetime] | None:
    """First and last time that the files of a source speak of; None where none says a time."""
    first = func.min(func.coalesce(RawFileRow.valid_from, RawFileRow.valid_to))
    last = func.max(func.coalesce(RawFileRow.valid_to, RawFileRow.valid_from))
    with database.session(settings) as session:
        times = session.execute(select(first, last).where(RawFileRow.source == source)).one()
    return times.tuple() if all(times) else None


def get(id: str, settings: Settings | None = None) -> RawFile:
    """The file of this id, or of the one id that starts or ends so.

    Raises
    ------
    NotFound
        There is no such file.
    InvalidInput
        There are several.
    """
    starts, ends = (
        at(id, autoescape=True) for at in (RawFileRow.id.startswith, RawFileRow.id.endswith)
    )
    with database.session(settings) as session:
        rows = session.scalars(select(RawFileRow).where(starts | ends).limit(2)).all()
    if not rows:
        raise NotFound(f"no raw file {id!r}; `thalweg raw list` shows the newest")
    if len(rows) > 1:
        raise InvalidInput(f"several raw files have ids with {id!r}: give more of the id")
    return _file(rows[0])


@dataclass(frozen=True)
class Verified:
    """What a raw file is today, and in words what is wrong with it (empty where it is ok).

    `missing` is an object that is gone, `damaged` one with other bytes than landed, `unreadable`
    one that the store does not give.
    """

    file: RawFile
    state: Literal["ok", "missing", "damaged", "unreadable"]
    message: str = ""


def verify(
    files: Iterable[RawFile] | None = None,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> list[Verified]:
    """Hash the stored bytes again and compare with the registry; eight files at a time.

    Files are streamed, never held in memory. Nothing is changed, and nothing noted as read.

    Parameters
    ----------
    files
        All that are registered, by default.
    progress
        Called with the number of files done and of all.
    """
    files = find(settings=settings) if files is None else list(files)
    verified = []
    with ThreadPoolExecutor(STREAMS) as pool:
        for each in pool.map(_verify, files):
            verified.append(each)
            if progress:
                progress(len(verified), len(files))
    return verified


def _verify(file: RawFile) -> Verified:
    try:
        with storage.translated(file.uri):
            # Not from what a listing said earlier.
            store = storage.filesystem(file.uri)
            store.invalidate_cache(file.uri)
            with store.open(file.uri, "rb", block_size=BLOCK) as content:
                sha256, size = hashlib.file_digest(content, "sha256").hexdigest(), content.tell()
    except NotFound as error:
        return Verified(file, "missing", str(error))
    except Unavailable as error:
        return Verified(file, "unreadable", str(error))
    if sha256 == file.sha256:
        return Verified(file, "ok")
    return Verified(
        file,
        "damaged",
        f"{file.uri} holds {size} bytes with sha256 {sha256[:12]}…, "
        f"{file.size} bytes with {file.sha256[:12]}… landed",
    )


def _same(source: str, dataset: str, sha256: str, settings: Settings) -> RawFile | None:
    wanted = select(RawFileRow).filter_by(source=source, dataset=dataset, sha256=sha256)
    with database.session(settings) as session:
        row = session.scalar(wanted)
        return _file(row) if row else None


def _as_landed_then(
    source: str, dataset: str, url: str, sha256: str, settings: Settings
) -> RawFile:
    """In a rerun, the file from this address that the repeated run had; nothing lands."""
    files = find(source, dataset, [u.version for u in record.pinned_uses("raw", dataset)], settings)
    for file in sorted(files, key=lambda file: file.sha256 != sha256):
        if url == file.url or sha256 == file.sha256:
            return file
    raise InvalidInput(
        f"run {record.pinned()} had nothing from {url}, and a rerun lands no file: run it anew "
        f"with `thalweg run`"
    )


def _file(row: RawFileRow) -> RawFile:
    return RawFile(**{f.name: getattr(row, f.name) for f in fields(RawFile)})


def _address(url: str) -> str:
    if PASSWORD.search(url):
        raise InvalidInput(
            "an address with a user or password in it is not kept, nothing landed: let the client "
            "find them in the environment or in a file of its own"
        )
    return without_secrets(url)


def _check(
    source: str, dataset: str, extension: str, content: bytes, *times: dt.datetime | None
) -> None:
    for name in (source, dataset, extension):
        if not NAME.fullmatch(name):
            raise InvalidInput(
                f"{name!r} cannot be part of a raw file's key: expected lower-case letters, "
                f"digits, '_', '.' and '-'"
            )
    if not content:
        raise InvalidInput(f"{source}/{dataset}: an empty file is no evidence; nothing landed")
    if any(time is not None and time.tzinfo is None for time in times):
        raise InvalidInput(f"{source}/{dataset}: valid_from and valid_to need a time zone")
