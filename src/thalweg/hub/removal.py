"""Take a person out of the local hub: nobody works in their name any more, and nothing is lost."""

from __future__ import annotations

import datetime as dt
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from thalweg import accounts
from thalweg.errors import InvalidInput, Unavailable
from thalweg.hub import processes, state, users
from thalweg.pipelines import history, personal
from thalweg.settings import Settings

__all__ = ["Removed", "remove"]

#: Seconds that a run may take to end, longer than its kernel needs.
PATIENCE = 40.0


@dataclass(frozen=True)
class Removed:
    """What became of what a person had: schedules that are paused, an account, a folder."""

    name: str
    schedules: tuple[str, ...]
    account: str | None
    home: Path | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def remove(name: str, settings: Settings) -> Removed:
    """Remove a person of the running hub: login, sessions, tokens, server, runs, account.

    What they had is kept: schedules, paused; the record of their runs and their part of the bucket
    `users`, as they are; their folder, aside. The name goes last, so that what was interrupted is
    done by calling it again.

    Raises
    ------
    NotFound, InvalidInput
        There is no such user, or it is the one that every hub has.
    Unavailable
        The hub is not up, or something of theirs does not end.
    """
    if name == users.ADMIN:
        raise InvalidInput(f"{name!r} stays: `thalweg user password {name}` changes its password")
    users.set_password(settings, name)  # which nobody knows
    schedules = _paused(name, settings)
    _forget(name, settings)
    _end_runs(name, settings)
    processes.end(processes.of_person(name, settings))
    home = _aside(name, settings)
    account = accounts.retire(name, settings)
    users.remove(settings, name)
    return Removed(name, schedules, account.name if account else None, home)


def _paused(name: str, settings: Settings) -> tuple[str, ...]:
    who = personal.this_account()
    theirs = [s["name"] for s in personal.find(who, settings) if s["owner"] == name]
    for each in theirs:
        personal.pause(who, settings, each)
    return tuple(theirs)


@retry(
    retry=retry_if_exception_type(Unavailable),
    wait=wait_fixed(1),
    stop=stop_after_delay(20),  # a server may be about to stop
    reraise=True,
)
def _forget(name: str, settings: Settings) -> None:
    """Have JupyterHub stop the person's server, and end their sessions and tokens."""
    url = f"http://127.0.0.1:{state.ports(settings)['hub']}/hub/api/users/{name}"
    token = state.service_token(settings, users.REMOVAL)
    try:
        answer = httpx.delete(url, headers={"Authorization": f"token {token}"}, timeout=60)
    except httpx.HTTPError as error:
        raise Unavailable(
            f"the hub does not answer ({error}), and it has to end what {name} has there: "
            "`thalweg up`, then remove them again"
        ) from None
    if not answer.is_success and answer.status_code != 404:  # who never logged in is not there
        raise Unavailable(f"the hub does not let go of {name} yet, try again: {answer.text[:200]}")


def _end_runs(name: str, settings: Settings) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        running = history.find(state="running", limit=None, settings=settings)
        theirs = [run for run in running if run.pipeline.startswith(f"{name}/")]
        if not theirs:
            return
        if time.monotonic() > deadline:
            raise Unavailable(
                f"run {theirs[0].id} of {theirs[0].pipeline} does not end: look into it with "
                f"`thalweg runs show {theirs[0].id[-12:]}`, then remove {name} again"
            )
        for run in theirs:
            with suppress(InvalidInput):  # it has ended
                history.cancel(run.id, settings)
        time.sleep(1)


def _aside(name: str, settings: Settings) -> Path | None:
    """Move the person's folder to where only who keeps the hub can look."""
    home = accounts.home(name, settings)
    if not home.exists():
        return None
    now = dt.datetime.now(dt.UTC)
    try:
        return home.rename(
            state.folder(settings, "removed") / f"{home.name}-{now:%Y-%m-%dT%H%M%SZ}"
        )
    except OSError as error:
        raise Unavailable(
            f"cannot move {home} aside ({error.strerror}): do it yourself, then remove {name} again"
        ) from None
