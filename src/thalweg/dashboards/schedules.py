"""The hub's service of personal schedules: its API, and what its page shows.

Before it stands the hub's login (`thalweg.hub.login_proxy`), which says in headers of its own who
asks, by their cookie or token; nothing else of a request says who somebody is.
"""

# mypy: disable-error-code="misc"
from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tornado.web import RequestHandler

from thalweg import accounts
from thalweg.dashboards.served import Stored
from thalweg.errors import InvalidInput, NotFound, ThalwegError, Unavailable
from thalweg.pipelines import history, pages, people, personal, schedules
from thalweg.pipelines.parts import Schedule
from thalweg.pipelines.personal import Person
from thalweg.private import ADMIN, USER
from thalweg.settings import Settings

__all__ = ["ROUTES", "notebooks", "person", "read", "words"]

STATUS = {NotFound: 404, Unavailable: 503}
DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def person(headers: Mapping[str, str]) -> Person:
    """Who asks, as the hub's login says; InvalidInput where it has said nothing."""
    name = headers.get(USER)
    if not name:
        raise InvalidInput("this page is for people who came through the hub's login")
    return Person(name, headers.get(ADMIN) == "yes")


def notebooks(who: Person, settings: Settings) -> dict[str, Path]:
    """The notebooks in a person's folder of the hub, by their path in it."""
    home = accounts.home(who.name, settings).resolve()
    found = (file for file in sorted(home.rglob("*.ipynb")) if not file.is_symlink())
    found = (file for file in found if file.resolve().is_relative_to(home))
    paths = {str(file.relative_to(home)): file for file in found}
    return {name: file for name, file in paths.items() if not _is_hidden(Path(name))}


def read(who: Person, path: Path, settings: Settings) -> dict[str, Any]:
    """The notebook of a person's file, which may be another file by now than when it was listed.

    InvalidInput where it is no notebook, or not theirs.
    """
    try:
        content = accounts.read_theirs(path, people.account(who.name, settings))
    except OSError as error:
        why = error.strerror or "it is not a file of yours"
        raise InvalidInput(f"cannot read {path.name}: {why}") from None
    return schedules.parse(content, Path(path.name))


def words(schedule: Schedule) -> str:
    """When it runs, in words, as far as they are plainer than its cron: `every day at 06:15`."""
    minute, hour, day, month, weekday = schedule.cron.lower().split()
    if minute.isdigit() and hour.isdigit():
        time = f"at {int(hour):02}:{int(minute):02}"
    elif hour == "*" and minute.isdigit():
        time = f"each hour at minute {int(minute)}"
    elif hour == "*":
        time = "each minute" if minute == "*" else f"at minutes {minute} of each hour"
    else:
        time = f"at minutes {minute} of hours {hour}"
    days = [f"on days {day} of the month"] * (day != "*") + [_weekday(weekday)] * (weekday != "*")
    months = f" in months {month}" if month != "*" else ""
    return f"{' or '.join(days) or 'every day'}{months}, {time} ({schedule.timezone})"


def _weekday(field: str) -> str:
    names = {**{str(i): name for i, name in enumerate(DAYS)}, **{d[:3].lower(): d for d in DAYS}}
    said = [" to ".join(names.get(e, e) for e in part.split("-")) for part in field.split(",")]
    return "on " + ", ".join(said)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


class Api(RequestHandler):
    """`POST api/VERB` with JSON: what `thalweg.schedule` asks, with the token of a person."""

    async def post(self, verb: str) -> None:
        try:
            # A page that somebody has open in a browser cannot send another's token.
            if "Cookie" in self.request.headers:
                raise InvalidInput("expected a token in place of cookies")
            who, arguments = person(self.request.headers), _arguments(self.request.body)
            told: Any = await asyncio.to_thread(personal.answer, who, verb, arguments)
        except ThalwegError as error:
            kind = next((each for each in STATUS if isinstance(error, each)), InvalidInput)
            self.set_status(STATUS.get(kind, 400))
            told = {"error": kind.__name__, "message": str(error)}
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(told))


class Executed(Stored):
    """The executed notebook of a run of one's own, by its id."""

    def initialize(self) -> None:  # type: ignore[override]
        super().initialize(lambda run_id: _notebook(run_id, person(self.request.headers)))


def _arguments(body: bytes) -> dict[str, Any]:
    try:
        arguments = json.loads(body)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidInput("expected a JSON object")
    return arguments


def _notebook(run_id: str, who: Person) -> bytes:
    run = history.get(run_id)
    owner, slash, _ = run.pipeline.rpartition("/")
    if not slash or not (who.is_admin or owner == who.name):
        raise NotFound(f"no run {run_id!r} of yours")
    return pages.read(run)


#: What `panel serve --plugins` adds.
ROUTES: Iterable[Any] = [(r"/api/(\w+)", Api), (r"/notebook/([0-9a-f-]{36})", Executed)]
