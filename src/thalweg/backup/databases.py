"""The metadata database as of one moment, by its own tools: SQLite's backup, or pg_dump."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

from sqlalchemy import func, inspect, make_url, select

from thalweg import database
from thalweg.database import Base
from thalweg.errors import InvalidInput, Unavailable
from thalweg.settings import Settings

__all__ = ["counts", "dump", "load", "refuse_unless_empty"]

POSTGRES = "postgresql"
#: Who owns what, and who may read it, the place says into which it comes back.
FLAGS = ("--no-owner", "--no-acl")
REPLACE = ("--clean", "--if-exists", "--single-transaction", "--exit-on-error")


def dump(settings: Settings) -> tuple[str, bytes]:
    """Kind and content of the database; InvalidInput for a kind that cannot be dumped."""
    url = make_url(settings.database)
    kind = url.get_backend_name()
    if kind not in ("sqlite", POSTGRES):
        raise InvalidInput(f"a database of {kind} cannot be dumped: expected sqlite or {POSTGRES}")
    with database.session(settings) as session:
        session.connection()  # which says clearly when there is none
    if kind == POSTGRES:
        return kind, _run("pg_dump", settings, "--format=custom", *FLAGS)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        _copy(str(url.database), str(copy))
        return kind, copy.read_bytes()


def load(content: bytes, settings: Settings) -> None:
    """Put the content of a dump in the place of what is there."""
    url = make_url(settings.database)
    database.engine(settings.database).dispose()
    if url.get_backend_name() == POSTGRES:
        _run("pg_restore", settings, *REPLACE, *FLAGS, content=content)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        copy.write_bytes(content)
        _copy(str(copy), str(url.database))


def counts(settings: Settings) -> dict[str, int]:
    """Rows of each table of ours that is there."""
    with database.session(settings) as session:
        there = inspect(session.connection()).get_table_names()
        return {
            name: session.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
            if name in there
        }


def refuse_unless_empty(kind: str, settings: Settings) -> None:
    """InvalidInput for a database of another kind, or with rows in it."""
    here = make_url(settings.database).get_backend_name()
    if here != kind:
        raise InvalidInput(
            f"the backup's database is of {kind}, and the setting database_url names one of {here}:"
            " give one of the same kind"
        )
    if full := [f"{count} in {name}" for name, count in counts(settings).items() if count]:
        raise InvalidInput(
            f"the database is not empty ({', '.join(full)}): restore into a new one, or leave it "
            "as it is, and name the other parts with --part"
        )


def _copy(source: str, target: str) -> None:
    """By SQLite's own way of copying a database that is in use."""
    with (
        closing(sqlite3.connect(source, timeout=30)) as here,
        closing(sqlite3.connect(target, timeout=30)) as there,
    ):
        here.backup(there)


def _run(program: str, settings: Settings, *flags: str, content: bytes | None = None) -> bytes:
    """What one of PostgreSQL's programs writes; the password is not on its command line."""
    if shutil.which(program) is None:
        raise Unavailable(
            f"{program} is not installed: install PostgreSQL's client programs, of the server's "
            "version or a newer one"
        )
    url = make_url(settings.database).set(drivername=POSTGRES)
    around = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    where = url.set(password=None).render_as_string()
    command = [program, *flags, f"--dbname={where}"]
    done = subprocess.run(command, env=around, input=content, capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise Unavailable(f"{program} could not finish: {said}")
    return done.stdout
