"""Telling people: of dead letters, and of pipelines that are late against their promise.

Whom, a pipeline says itself: a webhook that takes Slack's JSON, whose URL is a secret and therefore
in the environment, or an address of e-mail. What cannot be told is logged, and changes no run.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import re
import smtplib
import ssl
from collections.abc import Collection
from dataclasses import dataclass
from email.message import EmailMessage
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa

from thalweg import database, http
from thalweg.database import RunRow
from thalweg.errors import InvalidInput, ThalwegError, Unavailable
from thalweg.pipelines import personal, specification
from thalweg.settings import Settings, load

if TYPE_CHECKING:
    from thalweg.pipelines.history import Run
    from thalweg.pipelines.parts import Notify
    from thalweg.pipelines.specification import Pipeline

__all__ = ["Late", "dead_letter", "late", "tell", "tell_late", "webhooks"]

URL = re.compile(r"\S+://\S*")
PATIENCE = 10  # seconds to wait for a server
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Late:
    """A pipeline whose last success is older than it promises; None if it never had one."""

    pipeline: str
    last_success: dt.datetime | None
    promise: dt.timedelta

    def __str__(self) -> str:
        last = f"{self.last_success:%Y-%m-%d %H:%M} UTC" if self.last_success else "never"
        return (
            f"Pipeline {self.pipeline!r} is late: its last success was {last}, and it promises one "
            f"every {self.promise}. Look: thalweg runs list --pipeline {self.pipeline}"
        )


def late(settings: Settings | None = None) -> list[Late]:
    """The pipelines that are late against their `freshness`, by name.

    Where schedules are off, one that never had a success is not late: nothing was to run it. A
    person's own counts from when it was scheduled or resumed.
    """
    settings = settings or load()
    promises = {p.name: p.promise for p in specification.all(settings).values() if p.promise}
    own = [(since, p.name, p.promise) for since, p in personal.running(settings) if p.promise]
    newest = (
        sa.select(RunRow.pipeline, sa.func.max(RunRow.started_at))
        .where(RunRow.state == "succeeded", RunRow.trigger != "rerun")
        .group_by(RunRow.pipeline)
    )
    with database.session(settings) as session:
        last = dict(session.execute(newest).tuples().all())
    now = dt.datetime.now(dt.UTC)
    return [
        Late(name, last.get(name), promise)
        for name, promise in sorted(promises.items())
        if (now - last[name] > promise if name in last else settings.schedules)
    ] + [
        Late(name, last.get(name), promise)
        for since, name, promise in own
        if now - max(since, last.get(name, since)) > promise
    ]


def tell_late(told: Collection[str], settings: Settings | None = None) -> list[str]:
    """Tell of the pipelines that are late and not among `told`; names of all that are late."""
    settings = settings or load()
    found = late(settings)
    for each in found:
        if each.pipeline not in told:
            tell(specification.get(each.pipeline, settings), "late", str(each), settings)
    return [each.pipeline for each in found]


def dead_letter(run: Run, settings: Settings) -> None:
    """Tell of a run that failed for the last time, if it is one: why, and how to try again."""
    if run.state != "dead":
        return
    try:
        pipeline = specification.get(run.pipeline, settings)
    except ThalwegError as error:
        log.warning("nobody is told of the dead letter %s: %s", run.id, error)
        return
    partition = f", partition {run.partition}" if run.partition else ""
    text = (
        f"Pipeline {run.pipeline!r}{partition} failed for the last time (attempt {run.attempt}).\n"
        f"Why: {run.error}\n"
        f"Look: thalweg runs show {run.id[-12:]}\n"
        f"Try again: {run.again}"
    )
    tell(pipeline, "dead_letter", text, settings)


def tell(pipeline: Pipeline, event: str, text: str, settings: Settings | None = None) -> None:
    """Send a text to all whom a pipeline names for this event (`dead_letter`, `late`)."""
    settings = settings or load()
    for each in pipeline.notify:
        if event not in each.on:
            continue
        try:
            _send(each, f"Thalweg: {pipeline.title}", text, settings)
        except Exception as error:  # whatever it is, the run must be stamped
            to = each.webhook or each.email
            log.warning("%s cannot be told about %s: %s", to, pipeline.name, error)


def webhooks(settings: Settings) -> dict[str, str]:
    """The variables with URLs of webhooks that pipelines name, as far as this process has them."""
    told = [each for p in specification.all(settings).values() for each in p.notify]
    names = {each.webhook for each in told if each.webhook}
    return {name: os.environ[name] for name in names & os.environ.keys()}


def _send(to: Notify, subject: str, text: str, settings: Settings) -> None:
    if to.email:
        return _mail(to.email, subject, text, settings)
    url = os.environ.get(str(to.webhook))
    if not url:
        raise InvalidInput(
            f"the environment variable {to.webhook} is not set: set it to the webhook's URL"
        )
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url):  # an error would tell it
        raise InvalidInput(f"the environment variable {to.webhook} holds no https://…: mend it")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell the URL
    with http.Client(attempts=3, longest_wait=5, timeout=PATIENCE) as client:
        try:
            client.post(url, {"text": text})
        except ThalwegError as error:  # without the URL, which is a secret
            raise Unavailable(URL.sub("its server", str(error))) from None


def _mail(address: str, subject: str, text: str, settings: Settings) -> None:
    if not settings.smtp_url:
        raise InvalidInput("no mail server is known: set THALWEG_SMTP_URL, as smtp://HOST:PORT")
    server = urlsplit(settings.smtp_url)
    message = EmailMessage()
    message["Subject"], message["To"], message["From"] = subject, address, settings.mail_from
    message.set_content(text)
    host, port = server.hostname or "", server.port or 0
    trusted = ssl.create_default_context()  # smtplib's own asks for no certificate
    with (
        smtplib.SMTP_SSL(host, port, timeout=PATIENCE, context=trusted)
        if server.scheme == "smtps"
        else smtplib.SMTP(host, port, timeout=PATIENCE)
    ) as connection:
        if server.username:
            if server.scheme == "smtp":
                connection.starttls(context=trusted)
            connection.login(unquote(server.username), unquote(server.password or ""))
        connection.send_message(message)
