"""The metadata database: raw files, runs, what each run read and wrote.

SQLite on a laptop, PostgreSQL in production, the same SQLAlchemy models on both; the schema
changes by Alembic migrations only (`migrations/`).
"""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    Integer,
    String,
    TypeDecorator,
    UniqueConstraint,
    create_engine,
    event,
    text,
)
from sqlalchemy.exc import ArgumentError, InternalError, OperationalError, ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from thalweg.errors import InvalidInput, Unavailable
from thalweg.private import folder
from thalweg.settings import Settings, load

__all__ = [
    "ArrivalRow",
    "Base",
    "NoticeRow",
    "RawFileRow",
    "RunRow",
    "RunUse",
    "ScheduleRow",
    "engine",
    "in_parts",
    "made_at",
    "migrate",
    "new_id",
    "session",
]

PARAMETERS = 10_000  # in one query; databases take some ten thousand


class UtcDateTime(TypeDecorator[dt.datetime]):
    """A timezone-aware time, kept in UTC also by SQLite, which knows no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else value.astimezone(dt.UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        return value.astimezone(dt.UTC) if value.tzinfo else value.replace(tzinfo=dt.UTC)


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: JSON,
        list[str]: JSON(none_as_null=True),
        dt.datetime: UtcDateTime,
        int: BigInteger,
    }


class RawFileRow(Base):
    """One immutable file of the landing zone."""

    __tablename__ = "raw_files"
    __table_args__ = (UniqueConstraint("source", "dataset", "sha256"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    source: Mapped[str] = mapped_column(String(64), index=True)
    dataset: Mapped[str] = mapped_column(String(128), index=True)
    uri: Mapped[str] = mapped_column(unique=True)
    url: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int]
    headers: Mapped[dict[str, Any]]
    valid_from: Mapped[dt.datetime | None]
    valid_to: Mapped[dt.datetime | None]
    run_id: Mapped[str | None] = mapped_column(String(36), index=True)
    ingested_at: Mapped[dt.datetime]


class RunRow(Base):
    """One execution of a pipeline's notebook."""

    __tablename__ = "runs"
    __table_args__ = (
        # Of the runs that are at work, one has a claim: the database decides which.
        Index(
            "ix_runs_claim",
            "claim",
            unique=True,
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    pipeline: Mapped[str] = mapped_column(String(128), index=True)
    partition: Mapped[str | None] = mapped_column(String(128))
    state: Mapped[str] = mapped_column(String(16), index=True)  # `thalweg.pipelines.history.STATES`
    # dagster | schedule | command | notebook | backfill | retry | rerun
    trigger: Mapped[str] = mapped_column(String(32))
    user: Mapped[str] = mapped_column(String(128))
    started_at: Mapped[dt.datetime] = mapped_column(index=True)
    ended_at: Mapped[dt.datetime | None]
    parameters: Mapped[dict[str, Any]]
    git_commit: Mapped[str | None] = mapped_column(String(64))
    git_dirty: Mapped[bool | None]
    environment: Mapped[str | None] = mapped_column(String(128))  # lock hash or image digest
    notebook_uri: Mapped[str | None]
    error: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(default=1)
    is_last: Mapped[bool] = mapped_column(default=False)  # nobody tries again after it
    repeats: Mapped[str | None] = mapped_column(String(36), index=True)
    claim: Mapped[str | None] = mapped_column(String(258))  # on what no other works meanwhile
    seen_at: Mapped[dt.datetime | None]  # its last sign of life
    cancelled_by: Mapped[str | None] = mapped_column(String(128))
    peak_memory: Mapped[int | None]  # bytes
    html_uri: Mapped[str | None]
    differences: Mapped[list[str] | None]  # of a rerun, from what it repeats; none: identical


class RunUse(Base):
    """Something that a run read or wrote: a raw file, or a snapshot of a table or of fields."""

    __tablename__ = "run_uses"
    __table_args__ = (Index("ix_run_uses_name_version", "kind", "name", "version"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    # read | wrote | same, which was there already; of a rerun also differs
    direction: Mapped[str] = mapped_column(String(8))
    kind: Mapped[str] = mapped_column(String(8))  # raw | table | gridded
    name: Mapped[str]  # dataset of the raw file, or name of the table or repository
    version: Mapped[str]  # id of the raw file, or id of the snapshot
    rows: Mapped[int | None]


class ScheduleRow(Base):
    """A notebook that a person has scheduled, as it was then."""

    __tablename__ = "schedules"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)  # owner/name: a run's pipeline
    owner: Mapped[str] = mapped_column(String(64), index=True)
    definition: Mapped[dict[str, Any]]  # what a pipeline.yaml says
    notebook: Mapped[dict[str, Any]]
    saved_at: Mapped[dt.datetime]
    since: Mapped[dt.datetime]  # times before it are not made up for
    asked_at: Mapped[dt.datetime | None]  # when somebody wanted a run at once
    paused_by: Mapped[str | None] = mapped_column(String(64))


class NoticeRow(Base):
    """What somebody is still to be told; once they are, it is gone."""

    __tablename__ = "notices"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    pipeline: Mapped[str] = mapped_column(String(128))
    webhook: Mapped[str | None]  # name of the variable that holds its URL
    email: Mapped[str | None]
    subject: Mapped[str]
    text: Mapped[str]
    tried_at: Mapped[dt.datetime | None]  # for a while after it, others leave it alone


class ArrivalRow(Base):
    """A file of the inbox that was loaded, in the version that it had then."""

    __tablename__ = "arrivals"

    uri: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str]  # ETag, or size and time of change


def new_id() -> str:
    """A UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, then random; sorts by time of making."""
    milliseconds = int(dt.datetime.now(dt.UTC).timestamp() * 1000)
    random = uuid.uuid4().int & ((1 << 76) - 1)
    value = (milliseconds << 80) | (0x7 << 76) | random
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return str(uuid.UUID(int=value))


def made_at(id: str) -> dt.datetime:
    """When an id of `new_id` was made, UTC."""
    return dt.datetime.fromtimestamp((uuid.UUID(id).int >> 80) / 1000, dt.UTC)


def in_parts(ids: Iterable[str]) -> Iterator[list[str]]:
    """The ids in parts that one query can name."""
    all_ids = list(ids)
    for start in range(0, len(all_ids), PARAMETERS):
        yield all_ids[start : start + PARAMETERS]


@contextmanager
def session(settings: Settings | None = None) -> Iterator[Session]:
    """A session on the metadata database; `Unavailable` when there is none, or no tables in it."""
    try:
        with Session(engine((settings or load()).database)) as session:
            yield session
    except (OperationalError, ProgrammingError, InternalError) as error:
        is_bug = not isinstance(error, OperationalError)
        state = getattr(error.orig, "sqlstate", None)
        if is_bug and state not in (NO_TABLE, READ_ONLY, DENIED):
            raise
        said = str(error.orig).strip().partition("\n")[0]
        is_full = "disk is full" in said
        todo = "make room on it" if is_full else "is the hub up? `thalweg up` starts it"
        if state == DENIED:
            todo = "you may read it alone; pipelines are started by who looks after them"
        raise Unavailable(f"the metadata database does not answer ({said}): {todo}") from error


@lru_cache(maxsize=8)
def engine(url: str) -> Engine:
    """The engine of this URL; InvalidInput if it is none, or of a database that is not known."""
    try:
        made = create_engine(url, pool_pre_ping=True)
    except (ArgumentError, ValueError, ImportError):  # it may hold a password
        raise InvalidInput(
            "setting 'database_url': expected a URL of SQLAlchemy, such as "
            "postgresql+psycopg://USER:PASSWORD@HOST/NAME, or none for SQLite in the data folder"
        ) from None
    if made.dialect.name == "sqlite":
        event.listen(made, "connect", _sqlite_pragmas)
    return made


_migrating = threading.Lock()
#: PostgreSQL's codes for a table that is not there, for a server that takes no changes, as one
#: whose place another has taken, and for what the user may not do.
NO_TABLE, READ_ONLY, DENIED = "42P01", "25006", "42501"
#: Lets one process migrate at a time, until the end of its transaction.
ALONE = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(7264)"}


def migrate(settings: Settings | None = None) -> str:
    """Bring the schema to the newest version, which it returns; does nothing where it is."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    settings = settings or load()
    if not settings.database_url:
        folder(settings)  # in which SQLite makes its file
    made = engine(settings.database)
    with _migrating, made.begin() as connection:
        connection.exec_driver_sql(ALONE[made.dialect.name])
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return str(ScriptDirectory.from_config(config).get_current_head())


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    """Readers do not wait for the writer, writers wait for each other, keys are checked."""
    for pragma in ("journal_mode=WAL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
