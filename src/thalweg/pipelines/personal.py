"""Notebooks that people have scheduled: who has which, when they are due, and who may change them.

What is kept is a copy of the notebook and a specification like that of any pipeline, in the
database, under `owner/name`. Each of `VERBS` takes the person who asks, whom the caller has proved:
the hub's login (`thalweg.dashboards.schedules`), or the operating system, which lets nobody else
open the database. A person knows of their own; an admin of all.
"""

from __future__ import annotations

import datetime as dt
import inspect
import logging
import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import Field, ValidationError
from sqlalchemy.orm import defer

from thalweg import database
from thalweg.database import RunRow, ScheduleRow
from thalweg.errors import InvalidInput, NotFound, ThalwegError, nearest
from thalweg.pipelines import inspection
from thalweg.pipelines.parts import Schedule, Strict, duration
from thalweg.settings import Settings, load

if TYPE_CHECKING:
    from thalweg.pipelines.specification import Pipeline

__all__ = [
    "POOL",
    "VERBS",
    "Due",
    "Person",
    "Wanted",
    "answer",
    "due",
    "get",
    "is_paused",
    "next_times",
    "notebook",
    "running",
    "this_account",
]

#: How Dagster calls the job of all these, and the pool in which they wait for each other; no
#: pipeline's name has a capital.
POOL = "Personal"
OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,62}")
NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
#: How a person calls what a pipeline.yaml calls otherwise.
TERMS = {"timeout": "time_limit", "schedule.cron": "cron", "schedule.timezone": "timezone"}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Person:
    """Who asks, as somebody else than they themselves has established."""

    name: str
    is_admin: bool = False


class Wanted(Strict):
    """What a person asks for; `thalweg.schedule` says what each means."""

    name: str
    notebook: dict[str, Any]
    cron: str
    timezone: str = "UTC"
    parameters: dict[str, Any] = Field(default={})
    time_limit: int | str = 3600
    title: str | None = None
    freshness: str | None = None
    notify: list[str] = Field(default=[])


@dataclass(frozen=True)
class Due:
    """A run that is to start; `key` is the same whenever the same run is asked for."""

    pipeline: Pipeline
    trigger: str
    key: str


def this_account() -> Person:
    """The account of this process, which has the database at hand and so knows of all."""
    return Person(pwd.getpwuid(os.getuid()).pw_name, is_admin=True)


def answer(
    person: Person, verb: str, arguments: Mapping[str, Any], settings: Settings | None = None
) -> Any:
    """Do what a person asks for; the answer is plain values for JSON.

    Raises
    ------
    InvalidInput
        It cannot be done so; the message says why.
    NotFound
        There is no such schedule, or it is somebody else's.
    """
    if verb not in VERBS:
        raise InvalidInput(f"cannot {verb!r} a schedule{nearest(verb, VERBS)}")
    try:
        inspect.signature(VERBS[verb]).bind(person, settings or load(), **arguments)
    except TypeError as error:
        raise InvalidInput(f"{verb}: {error}") from None
    return VERBS[verb](person, settings or load(), **arguments)


def save(person: Person, settings: Settings, **wanted: Any) -> dict[str, Any]:
    """Keep a copy of a notebook, and when to run it; in place of what had its name."""
    if not OWNER.fullmatch(person.name):
        raise InvalidInput(
            f"the user name {person.name!r} cannot own a schedule: expected up to 63 letters, "
            "digits, and . _ @ + -, beginning with a letter or digit"
        )
    try:
        asked = Wanted.model_validate(wanted)
    except ValidationError as error:
        raise InvalidInput(_said(error)) from None
    if not NAME.fullmatch(asked.name):
        raise InvalidInput(
            f"name: expected lower_case_with_underscores, 60 characters at most, got {asked.name!r}"
        )
    name = f"{person.name}/{asked.name}"
    copy = inspection.plain(asked.notebook)
    definition = _definition(person, asked, inspection.parameters(copy))
    _pipeline(name, definition)
    now = dt.datetime.now(dt.UTC)
    with database.session(settings) as session, session.begin():
        before = session.get(ScheduleRow, name)
        paused = before.paused_by if before and before.paused_by != person.name else None
        row = ScheduleRow(
            name=name, owner=person.name, definition=definition, notebook=copy, saved_at=now,
            since=now, asked_at=before.asked_at if before else None, paused_by=paused,
        )  # fmt: skip
        session.merge(row)
    return show(person, settings, name)


def find(person: Person, settings: Settings) -> list[dict[str, Any]]:
    """All schedules that this person knows of, by name."""
    mine = [] if person.is_admin else [ScheduleRow.owner == person.name]
    rows = _rows(settings, *mine)
    last = _last_runs([row.name for row in rows], settings)
    return [_told(row, last.get(row.name)) for row in rows]


def show(person: Person, settings: Settings, name: str) -> dict[str, Any]:
    """One schedule."""
    row = _row(person, name, settings)
    return _told(row, _last_runs([row.name], settings).get(row.name))


def pause(person: Person, settings: Settings, name: str) -> dict[str, Any]:
    """Let it run no more until it is resumed, what waits in the queue neither; a run goes on."""
    row = _row(person, name, settings)
    _change(row, settings, paused_by=row.paused_by or person.name)
    return show(person, settings, row.name)


def resume(person: Person, settings: Settings, name: str) -> dict[str, Any]:
    """Let it run again, from now on; what an admin has paused, an admin resumes."""
    row = _row(person, name, settings)
    if row.paused_by not in (None, person.name) and not person.is_admin:
        raise InvalidInput(f"{row.name} was paused by {row.paused_by}: ask them to resume it")
    _change(row, settings, paused_by=None, since=dt.datetime.now(dt.UTC))
    return show(person, settings, row.name)


def run(person: Person, settings: Settings, name: str) -> dict[str, Any]:
    """Have it run once, as soon as the scheduler comes to it, also while it is paused."""
    row = _row(person, name, settings)
    _change(row, settings, asked_at=dt.datetime.now(dt.UTC))
    return show(person, settings, row.name)


def remove(person: Person, settings: Settings, name: str) -> dict[str, Any]:
    """Forget it; what it has run stays on record."""
    row = _row(person, name, settings)
    with database.session(settings) as session, session.begin():
        session.execute(sa.delete(ScheduleRow).filter_by(name=row.name))
    return {"name": row.name}


def parameters(person: Person, settings: Settings, notebook: Any) -> dict[str, Any]:
    """What can be chosen for a notebook: type, description and default by name."""
    declared = inspection.parameters(inspection.plain(notebook))
    return {name: each.model_dump(exclude_none=True) for name, each in declared.items()}


#: What can be asked for.
VERBS: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (save, find, show, pause, resume, run, remove, parameters)
}


def get(name: str, settings: Settings | None = None) -> Pipeline:
    """The specification of `owner/name`; NotFound if there is none."""
    for row in _rows(settings or load(), ScheduleRow.name == name):
        return _pipeline(row.name, row.definition)
    raise NotFound(f"no schedule {name!r}: `thalweg schedule list` shows those there are")


def notebook(name: str, settings: Settings) -> dict[str, Any]:
    """The copy of the notebook of `owner/name`; NotFound if there is none."""
    with database.session(settings) as session:
        copy = session.scalar(sa.select(ScheduleRow.notebook).filter_by(name=name))
    if copy is None:
        raise NotFound(f"no schedule {name!r}: it was removed while its run was starting")
    return dict(copy)


def is_paused(name: str, settings: Settings) -> bool:
    """Whether somebody has paused `owner/name`."""
    return any(row.paused_by for row in _rows(settings, ScheduleRow.name == name))


def running(settings: Settings) -> Iterator[tuple[dt.datetime, Pipeline]]:
    """Those of everybody that are not paused, with since when."""
    return ((row.since, pipeline) for row, pipeline in _valid(settings) if not row.paused_by)


def due(since: dt.datetime, until: dt.datetime, settings: Settings) -> Iterator[Due]:
    """What is to start: of each the last time after `since`, and what somebody wants at once."""
    for row, pipeline in _valid(settings):
        if row.asked_at and since < row.asked_at <= until:
            yield Due(pipeline, "command", f"{row.name} asked {row.asked_at.isoformat()}")
        if row.paused_by or pipeline.schedule is None:
            continue
        time = last_time(pipeline.schedule, until)
        if time > max(since, row.since):
            yield Due(pipeline, "schedule", f"{row.name} {time.astimezone(dt.UTC).isoformat()}")


def next_times(schedule: Schedule, count: int = 1) -> list[dt.datetime]:
    """When it runs next, in its time zone, as Dagster reckons for every pipeline."""
    times = _times(schedule, dt.datetime.now(dt.UTC))
    return [next(times) for _ in range(count)]


def last_time(schedule: Schedule, until: dt.datetime) -> dt.datetime:
    """When it ran last, or should have, in its time zone."""
    return next(_times(schedule, until, ascending=False))


def _times(
    schedule: Schedule, since: dt.datetime, *, ascending: bool = True
) -> Iterator[dt.datetime]:
    # Dagster makes it public nowhere; its daemon uses this for the schedules of all others.
    from dagster._utils.schedules import schedule_execution_time_iterator

    return schedule_execution_time_iterator(
        since.timestamp(), schedule.cron, schedule.timezone, ascending=ascending
    )


def _definition(person: Person, asked: Wanted, declared: Mapping[str, Any]) -> dict[str, Any]:
    """What a pipeline.yaml would say of it."""
    limit = asked.time_limit
    try:
        seconds = limit if isinstance(limit, int) else int(duration(limit).total_seconds())
    except ValueError as error:
        raise InvalidInput(f"time_limit: {error}") from None
    return {
        "title": asked.title or asked.name.replace("_", " ").capitalize(),
        "owner": person.name,
        "description": f"A notebook that {person.name} has scheduled.",
        "parameters": inspection.chosen(declared, asked.parameters),
        "schedule": {"cron": asked.cron, "timezone": asked.timezone},
        "timeout": seconds,
        "freshness": asked.freshness,
        "notify": [{"email": address} for address in asked.notify],
    }


def _pipeline(name: str, definition: Mapping[str, Any]) -> Pipeline:
    from thalweg.pipelines.specification import Pipeline

    try:
        return Pipeline.model_validate({**definition, "name": name, "folder": Path()})
    except ValidationError as error:
        raise InvalidInput(_said(error)) from None


def _said(error: ValidationError) -> str:
    """What is wrong, a line each, in the terms of the person who has asked for it."""
    lines = []
    for each in error.errors():
        key = ".".join(map(str, each["loc"]))
        hint = nearest(key, Wanted.model_fields) if each["type"] == "extra_forbidden" else ""
        said = each["msg"].removeprefix("Value error, ")
        lines.append(f"{TERMS.get(key, key)}: {said}{hint}")
    return "\n".join(lines)


def _told(row: ScheduleRow, last: RunRow | None) -> dict[str, Any]:
    """A schedule as plain values."""
    about = row.definition
    schedule = Schedule(**about["schedule"])
    return {
        "name": row.name,
        "owner": row.owner,
        "title": about["title"],
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "parameters": {key: each["default"] for key, each in about["parameters"].items()},
        "time_limit": about["timeout"],
        "saved_at": row.saved_at.isoformat(),
        "paused_by": row.paused_by,
        "next_at": None if row.paused_by else next_times(schedule)[0].isoformat(),
        "last_run": last
        and {
            "id": last.id,
            "state": last.state,
            "started_at": last.started_at.isoformat(),
            "error": last.error,
            "has_notebook": bool(last.html_uri),
        },
    }


def _last_runs(names: list[str], settings: Settings) -> dict[str, RunRow]:
    """The newest run of each of these."""
    from thalweg.pipelines import history

    if not history.find(state="running", limit=1, settings=settings) and not names:
        return {}  # it has marked those that are lost
    newest = sa.select(sa.func.max(RunRow.id)).where(RunRow.pipeline.in_(names))
    with database.session(settings) as session:
        found = sa.select(RunRow).where(RunRow.id.in_(newest.group_by(RunRow.pipeline)))
        return {run.pipeline: run for run in session.scalars(found)}


def _row(person: Person, name: str, settings: Settings) -> ScheduleRow:
    """The row of `owner/name`, or of one's own `name`; NotFound if this person knows of none."""
    known = {
        row.name: row for row in _rows(settings) if person.is_admin or row.owner == person.name
    }
    full = name if "/" in str(name) else f"{person.name}/{name}"
    if full not in known:
        raise NotFound(f"no schedule {name!r}{nearest(full, known)}")
    return known[full]


def _rows(settings: Settings, *which: sa.ColumnElement[bool]) -> list[ScheduleRow]:
    query = sa.select(ScheduleRow).options(defer(ScheduleRow.notebook)).where(*which)
    with database.session(settings) as session:
        return list(session.scalars(query.order_by(ScheduleRow.name)))


def _change(row: ScheduleRow, settings: Settings, **values: Any) -> None:
    with database.session(settings) as session, session.begin():
        session.execute(sa.update(ScheduleRow).filter_by(name=row.name).values(**values))


def _valid(settings: Settings) -> Iterator[tuple[ScheduleRow, Pipeline]]:
    """All, with their specifications; one that this version does not take is logged."""
    for row in _rows(settings):
        try:
            yield row, _pipeline(row.name, row.definition)
        except ThalwegError as error:
            log.warning("%s is left out, schedule it again: %s", row.name, error)
