"""The objects below a place: copied, or, where a bucket keeps versions, named by theirs."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.exceptions import BotoCoreError, ClientError

from thalweg import storage
from thalweg.errors import InvalidInput, Unavailable
from thalweg.raw import BLOCK, STREAMS, Progress

__all__ = ["Taken", "bring", "bring_versions", "copy", "note", "refuse_unless_empty"]

LIST = "versions.json.gz"


@dataclass(frozen=True)
class Taken:
    """How much was taken of a place; not whole where some of it went meanwhile."""

    count: int
    size: int
    is_whole: bool = True


def copy(source: str, target: str, progress: Progress) -> Taken:
    """Copy what is not in `target` yet.

    First what names others and changes, the branches of fields: what they name is there already.
    """
    is_whole = True
    for only_branches in (True, False):
        there = find(target)
        found = {n: s for n, s in find(source).items() if "/refs/" in n or not only_branches}
        todo = [name for name, size in found.items() if there.get(name) != size]
        is_whole &= all(_streamed(source, target, todo, progress))
    taken = find(target)
    return Taken(len(taken), sum(taken.values()), is_whole)


def bring(source: str, target: str, progress: Progress) -> int:
    """Copy all of a backup's place to where it was; how many objects."""
    names = list(find(source))
    for name, is_there in zip(names, _streamed(source, target, names, progress), strict=True):
        if not is_there:
            raise Unavailable(f"{source}/{name} has gone while it was read: restore again")
    return len(names)


def refuse_unless_empty(place: str) -> None:
    """InvalidInput where an object is there."""
    if found := find(place):
        raise InvalidInput(
            f"{place} is not empty ({len(found)} objects, as {next(iter(found))}): restore into an "
            "empty one, or leave it as it is, and name the other parts with --part"
        )


def find(place: str) -> dict[str, int]:
    """Sizes of the objects below a place, by their names there.

    Without the tables' metadata: the backup has the newest, and the catalogue writes it anew.
    """
    files = storage.filesystem(place)
    with storage.translated(place):
        files.invalidate_cache()
        root = files._strip_protocol(place)
        found = files.find(root, detail=True)
    sizes = {name[len(root) :].lstrip("/"): about["size"] for name, about in found.items()}
    return {name: size for name, size in sizes.items() if not name.endswith(".metadata.json")}


def _streamed(source: str, target: str, names: Iterable[str], progress: Progress) -> list[bool]:
    """Copy these; whether each was still there."""

    def stream(name: str) -> bool:
        here, there = f"{source}/{name}", f"{target}/{name}"
        try:
            with storage.translated(here):
                read = storage.filesystem(here).open(here, "rb", block_size=BLOCK)
        except LookupError:
            return False
        with read, storage.translated(there):
            files = storage.filesystem(there)
            files.makedirs(there.rpartition("/")[0], exist_ok=True)
            with files.open(there, "wb", block_size=BLOCK) as written:
                shutil.copyfileobj(read, written, BLOCK)
        return True

    names, done = list(names), []
    with ThreadPoolExecutor(STREAMS) as pool:
        for is_there in pool.map(stream, names):
            done.append(is_there)
            progress(len(done), len(names))
    return done


def note(source: str, target: str, progress: Progress) -> Taken:
    """List the version of each object; InvalidInput where a bucket keeps none."""
    latest = _latest(source)
    uri = f"{target}/{LIST}"
    with storage.translated(uri):
        files = storage.filesystem(uri)
        files.makedirs(target, exist_ok=True)
        files.pipe_file(uri, gzip.compress(json.dumps(latest).encode()))
    progress(len(latest), len(latest))
    return Taken(len(latest), sum(each["size"] for each in latest.values()))


def bring_versions(source: str, target: str, progress: Progress) -> int:
    """Make the version that the backup names the newest again; how many had to be."""
    then = json.loads(gzip.decompress(storage.read(f"{source}/{LIST}")))
    now, bucket = _latest(target), urlsplit(target).netloc
    todo = {k: v for k, v in then.items() if now.get(k, {}).get("etag") != v["etag"]}
    client = botocore.session.get_session().create_client("s3")
    for done, (key, about) in enumerate(todo.items(), start=1):
        version = {"Bucket": bucket, "Key": key, "VersionId": about["version"]}
        try:
            client.copy_object(Bucket=bucket, Key=key, CopySource=version)
        except (ClientError, BotoCoreError) as error:
            raise Unavailable(
                f"s3://{bucket}/{key} does not come back as it was (version {about['version']}): "
                f"{error}"
            ) from error
        progress(done, len(todo))
    return len(todo)


def _latest(place: str) -> dict[str, Mapping[str, Any]]:
    """Version, ETag and size of each object below a place, by its key."""
    where = urlsplit(place)
    if where.scheme != "s3":
        raise InvalidInput(f"{place} is no bucket: only those keep versions")
    client = botocore.session.get_session().create_client("s3")
    prefix = f"{where.path.strip('/')}/" if where.path.strip("/") else ""
    try:
        if client.get_bucket_versioning(Bucket=where.netloc).get("Status") != "Enabled":
            raise InvalidInput(
                f"the bucket {where.netloc} keeps no versions: leave --by-version out, and objects "
                "are copied"
            )
        pages = client.get_paginator("list_object_versions").paginate(
            Bucket=where.netloc, Prefix=prefix
        )
        return {
            each["Key"]: {"version": each["VersionId"], "etag": each["ETag"], "size": each["Size"]}
            for page in pages
            for each in page.get("Versions", ())
            if each["IsLatest"]
        }
    except (ClientError, BotoCoreError) as error:
        raise Unavailable(f"the object store does not list {place}: {error}") from error
