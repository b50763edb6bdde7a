"""Files that others put below `inbox/` in the raw bucket: landed, and loaded into the warehouse.

`pipelines/arrivals.yaml` says for each folder of the inbox how its files are read, in the words of
`thalweg ingest`. On AWS a queue tells of each file that arrives; without one the inbox is listed.
A file may be told twice: what was loaded already changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import botocore.session
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from thalweg import database, ingest, storage
from thalweg.database import ArrivalRow
from thalweg.errors import InvalidInput, NotFound, ThalwegError, Unavailable, nearest
from thalweg.quarantine import Loaded
from thalweg.settings import Settings, load
from thalweg.sources.table import Layout, fetch, read

__all__ = ["Arrival", "layouts", "take", "waiting"]

INBOX = "inbox"
FILE = "arrivals.yaml"
#: Words of `thalweg ingest`, by what they are of a layout.
WORDS = {
    "to": "table",
    "map": "fields",
    "set": "constants",
    "prefix": "prefix",
    "timezone": "timezone",
    "missing": "missing",
}


@dataclass(frozen=True)
class Arrival:
    """A file that has arrived, and what says that it needs not be told of again."""

    uri: str
    done: Callable[[], object]


def layouts(settings: Settings) -> dict[str, Layout]:
    """How the files of each folder of the inbox are read; InvalidInput names what is wrong."""
    path = settings.home / "pipelines" / FILE
    try:
        said = yaml.safe_load(path.read_text()) if path.exists() else {}
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path} is no YAML: {error}") from None
    made = {}
    for folder, words in (said or {}).items():
        if not isinstance(words, dict):
            raise InvalidInput(f"{path}, {folder}: expected {', '.join(WORDS)} with values")
        for word in words:
            if word not in WORDS:
                raise InvalidInput(f"{path}, {folder}: no word {word!r}{nearest(word, WORDS)}")
        try:
            made[str(folder)] = Layout(**{WORDS[word]: value for word, value in words.items()})
        except InvalidInput as error:
            raise InvalidInput(f"{path}, {folder}: {error}") from None
    return made


def take(settings: Settings | None = None) -> Iterator[tuple[str, Loaded | ThalwegError]]:
    """Land and load what has arrived, a file at a time; its URI, with what was loaded or is wrong.

    What could not be taken is told again: by the queue after a while, and after five times it is
    set aside there; by the inbox at the next call.

    Raises
    ------
    InvalidInput
        `pipelines/arrivals.yaml` cannot be understood.
    Unavailable
        The queue or the store does not answer.
    """
    settings = settings or load()
    known = layouts(settings)
    for arrival in waiting(settings):
        inbox, _, path = arrival.uri.partition(f"{settings.raw_uri}/{INBOX}/")
        folder = path.partition("/")[0]
        try:
            if inbox or not folder:
                raise InvalidInput(f"expected a file below {settings.raw_uri}/{INBOX}/")
            if folder not in known:
                raise NotFound(
                    f"pipelines/{FILE} does not say how files of {INBOX}/{folder}/ are read"
                    f"{nearest(folder, known)}"
                )
            files = fetch([arrival.uri], dataset=folder, settings=settings)
            loaded = ingest.load(partial(read, layout=known[folder]), files, settings)
        except ThalwegError as error:
            yield arrival.uri, error
            continue
        arrival.done()
        yield arrival.uri, loaded


def waiting(settings: Settings) -> Iterator[Arrival]:
    """What has arrived and was not taken yet."""
    return _told(settings) if settings.arrivals_url else _listed(settings)


def _listed(settings: Settings) -> Iterator[Arrival]:
    """Of the inbox, the files that were not loaded in their present version."""
    inbox = f"{settings.raw_uri}/{INBOX}"
    files = storage.filesystem(inbox)
    with storage.translated(inbox):
        files.invalidate_cache()
        found = files.find(inbox, detail=True)
    with database.session(settings) as session:
        loaded = {row.uri: row.version for row in session.query(ArrivalRow)}
    for name, about in sorted(found.items()):
        uri = files.unstrip_protocol(name)
        version = str(about.get("ETag") or (about["size"], about["mtime"]))
        if loaded.get(uri) != version:
            yield Arrival(uri, partial(_keep, ArrivalRow(uri=uri, version=version), settings))


def _keep(row: ArrivalRow, settings: Settings) -> None:
    with database.session(settings) as session, session.begin():
        session.merge(row)


def _told(settings: Settings) -> Iterator[Arrival]:
    """What the queue tells, until it has no more; EventBridge's messages of objects created."""
    queue = {"QueueUrl": settings.arrivals_url}
    try:
        client = botocore.session.get_session().create_client("sqs")
        while messages := client.receive_message(
            **queue, MaxNumberOfMessages=10, WaitTimeSeconds=1
        ).get("Messages"):
            for message in messages:
                handle = message["ReceiptHandle"]
                yield Arrival(
                    _uri(message["Body"]),
                    partial(client.delete_message, **queue, ReceiptHandle=handle),
                )
    except (ClientError, BotoCoreError) as error:
        raise Unavailable(f"the queue {settings.arrivals_url} does not answer: {error}") from error


def _uri(body: str) -> str:
    """The file that a message tells of; of another message, the message."""
    try:
        about = json.loads(body)["detail"]
        return f"s3://{about['bucket']['name']}/{about['object']['key']}"
    except (ValueError, KeyError, TypeError):
        return body
