"""Backup and restore: the database, the objects, the tables with their states, people's files.

A backup is a folder, anywhere fsspec reaches, that is made while the hub works. In this order
nothing is named that is not there: the database first, then the tables' metadata, then the objects,
of which none changes once it is named. `backup.json` is written last: a folder without it is none.
It comes back into an empty place whose buckets have the same names, for the registry and the tables
name their files by them.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import thalweg
from thalweg import database, storage
from thalweg.backup import databases, files, objects, tables
from thalweg.errors import InvalidInput, NotFound, Unavailable, nearest
from thalweg.raw import Progress
from thalweg.settings import Settings, load

__all__ = ["PARTS", "backup", "restore"]

PARTS = ("database", "tables", "objects", "files")
ABOUT = "backup.json"
FORMAT = 1
ATTEMPTS = 3
Step = Callable[[str], Progress]


def _silent(_: str) -> Progress:
    return lambda done, total: None


def backup(
    to: str, *, by_version: bool = False, settings: Settings | None = None, step: Step = _silent
) -> dict[str, Any]:
    """Make a backup in a new folder below `to`, named by the time (UTC), while the hub works.

    Parameters
    ----------
    to
        A path, or any URI of fsspec.
    by_version
        Of buckets that keep versions, list which version each object has instead of copying it:
        quick and small, and good for as long as the buckets keep what was deleted.
    step
        Gives a progress for each part by its name.

    Returns
    -------
    dict
        What `backup.json` says: when it was made, the rows of each table, the objects and bytes of
        each place; and its `uri`.

    Raises
    ------
    InvalidInput
        The database is of a kind that cannot be dumped, a bucket keeps no versions, or the backup
        would be a part of itself.
    Unavailable
        A store, the catalogue or the database does not answer, or a program is not installed.
    """
    settings, made_at = settings or load(), dt.datetime.now(dt.UTC)
    uri = f"{_uri(to)}/{made_at:%Y-%m-%dT%H%M%SZ}"
    for place in _places(settings).values():
        if f"{uri}/".startswith(f"{place}/"):
            raise InvalidInput(
                f"{to} is in {place}, of which this is a backup: choose another place"
            )
    kind, dump = databases.dump(settings)
    if uri.startswith("file://"):  # it holds what is everybody's own
        Path(uri.removeprefix("file://")).mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(f"{uri}/database", dump)
    for _ in range(ATTEMPTS):
        metadata = tables.metadata(settings)
        places = _places(settings) | {f"tables/{n}": m.location for n, m in metadata.items()}
        take = objects.note if by_version else objects.copy
        taken = {n: take(p, f"{uri}/objects/{n}", step(n)) for n, p in places.items()}
        if all(each.is_whole for each in taken.values()):
            break
    else:
        raise Unavailable("upkeep takes files away all the time: make the backup when it is over")
    described = {name: json.loads(each.model_dump_json()) for name, each in metadata.items()}
    _write(f"{uri}/tables.json", json.dumps(described).encode())
    about = {
        "format": FORMAT,
        "thalweg": thalweg.__version__,
        "made_at": made_at.isoformat(),
        "database": kind,
        "places": places,
        "by_version": by_version,
        "objects": {name: each.count for name, each in taken.items()},
        "bytes": sum(each.size for each in taken.values()),
        "tables": {name: tables.rows(each) for name, each in metadata.items()},
        "files": files.pack(f"{uri}/files.tar.gz", settings),
    }
    _write(f"{uri}/{ABOUT}", json.dumps(about, indent=2).encode())
    return {"uri": uri} | about


def restore(
    uri: str,
    parts: Sequence[str] = PARTS,
    *,
    settings: Settings | None = None,
    step: Step = _silent,
) -> dict[str, Any]:
    """Bring a backup back into an empty place: no run on record, no row in a table, no object.

    Objects that a backup names by version come back where they are missing or other, also into
    buckets that are not empty; nothing is taken away. Database and tables are then brought to the
    newest version by `thalweg migrate`, as after an upgrade.

    Parameters
    ----------
    parts
        What to bring back: some of `PARTS`.

    Returns
    -------
    dict
        What came back, by part: rows by table, objects by place, files.

    Raises
    ------
    NotFound
        There is no backup.
    InvalidInput
        An unknown part; the place is not empty, its buckets have other names, its database is of
        another kind, or the backup is of a later Thalweg.
    Unavailable
        A store, the catalogue or the database does not answer, or a program is not installed.
    """
    settings, uri = settings or load(), _uri(uri)
    about = _about(uri)
    for part in parts:
        if part not in PARTS:
            raise InvalidInput(f"no part {part!r}{nearest(part, PARTS)}")
    # What cannot be is refused before anything is written.
    if "database" in parts:
        databases.refuse_unless_empty(about["database"], settings)
    if "objects" in parts:
        for name, place in _places(settings).items():
            if place != (then := about["places"][name]):
                raise InvalidInput(
                    f"the backup is of {then}, and the setting {name}_uri is {place}: the registry "
                    f"names its files by where they were; make {then} again, empty, and set "
                    f"{name}_uri to it"
                )
            if not about["by_version"]:
                objects.refuse_unless_empty(place)
    described = tables.described(storage.read(f"{uri}/tables.json")) if "tables" in parts else {}
    if "files" in parts and about["files"]:
        files.refuse_unless_empty(settings)
    if described:
        tables.refuse_unless_empty(described, settings)
        tables.drop(described, settings)  # a catalogue may delete the files too: before they come
    done: dict[str, Any] = {}
    if "objects" in parts:
        bring = objects.bring_versions if about["by_version"] else objects.bring
        done["objects"] = {
            n: bring(f"{uri}/objects/{n}", p, step(n)) for n, p in about["places"].items()
        }
    if described:
        done["tables"] = tables.bring(described, settings, step("tables"))
    if "database" in parts:
        databases.load(storage.read(f"{uri}/database"), settings)
        database.migrate(settings)
        done["database"] = databases.counts(settings)
    if "files" in parts and about["files"]:
        done["files"] = files.unpack(f"{uri}/files.tar.gz", settings)
    return done


def _places(settings: Settings) -> dict[str, str]:
    return {name: getattr(settings, f"{name}_uri") for name in ("raw", "runs", "gridded")}


def _uri(path: str) -> str:
    return (path if "://" in path else f"file://{Path(path).resolve()}").rstrip("/")


def _write(uri: str, content: bytes) -> None:
    with storage.translated(uri):
        found = storage.filesystem(uri)
        found.makedirs(uri.rpartition("/")[0], exist_ok=True)
        found.pipe_file(uri, content)


def _about(uri: str) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads(storage.read(f"{uri}/{ABOUT}"))
    except NotFound:
        raise NotFound(
            f"{uri} is no backup, or one that was not finished: it has no {ABOUT}; name the folder "
            "that `thalweg deploy backup` told"
        ) from None
    if about["format"] > FORMAT:
        raise InvalidInput(
            f"{uri} was made by Thalweg {about['thalweg']}, which is later: update this one first"
        )
    return about
