"""Telling people: of dead letters, and of pipelines that are late against their promise.

Whom, a pipeline says itself: a webhook that takes Slack's JSON, whose URL is a secret and therefore
in the environment, or an address of e-mail. A notice is kept in the database until it is sent: by
whoever made it, or, where that was a process without the URL or the mail server, by the scheduler.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import re
import smtplib
import ssl
import time
from collections.abc import Collection
from dataclasses import dataclass
from email.message import EmailMessage
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa

from thalweg import database, http
from thalweg.database import NoticeRow, RunRow
from thalweg.errors import InvalidInput, ThalwegError, Unavailable
from thalweg.pipelines import personal, specification
from thalweg.settings import Settings, load

if TYPE_CHECKING:
    from thalweg.pipelines.history import Run
    from thalweg.pipelines.specification import Pipeline

__all__ = ["Late", "dead_letter", "deliver", "late", "tell", "tell_late"]

URL = re.compile(r"\S+://\S*")
PATIENCE = 10  # seconds to wait for a server
TURN = 20  # seconds after which no other is begun: Dagster gives a sensor a minute
#: How long after a try another is made, also where the first never ended; how long it is kept.
PAUSE, KEPT = dt.timedelta(minutes=2), dt.timedelta(days=7)
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
    """`tell` of the pipelines that are late and not among `told`; names of all that are late."""
    settings = settings or load()
    found = late(settings)
    for each in found:
        if each.pipeline not in told:
            tell(specification.get(each.pipeline, settings), "late", str(each), settings)
    return [each.pipeline for each in found]


def dead_letter(run: Run, settings: Settings) -> list[NoticeRow]:
    """Notices of a run that failed for the last time: why, and how to try again; not yet kept."""
    try:
        pipeline = specification.get(run.pipeline, settings)
    except ThalwegError as error:
        log.warning("nobody is told of the dead letter %s: %s", run.id, error)
        return []
    partition = f", partition {run.partition}" if run.partition else ""
    text = (
        f"Pipeline {run.pipeline!r}{partition} failed for the last time (attempt {run.attempt}, "
        f"{run.ended_at:%Y-%m-%d %H:%M} UTC).\n"
        f"Why: {run.error}\n"
        f"Look: thalweg runs show {run.id[-12:]}\n"
        f"Try again: {run.again}"
    )
    return _notices(pipeline, "dead_letter", text)


def tell(pipeline: Pipeline, event: str, text: str, settings: Settings | None = None) -> None:
    """Keep a text for all whom a pipeline names for this event (`dead_letter`, `late`).

    `deliver` sends it.
    """
    with database.session(settings or load()) as session, session.begin():
        session.add_all(_notices(pipeline, event, text))


def deliver(settings: Settings) -> set[str]:
    """Send the notices that wait; what fails waits on, and what this process has no way to send.

    So does what is left when servers were slow. Returns the variables that it would need for those
    that it cannot send.
    """
    missing, until = set[str](), time.monotonic() + TURN
    try:
        for each in _waiting(settings):
            if not (settings.smtp_url if each.email else os.environ.get(str(each.webhook))):
                missing.add(each.webhook or "THALWEG_SMTP_URL")
            elif time.monotonic() < until and _is_taken(each, settings):
                _try(each, settings)
    except Unavailable as gone:  # whoever stamps a run goes on
        log.warning("notices wait: %s", gone)
    return missing


def _notices(pipeline: Pipeline, event: str, text: str) -> list[NoticeRow]:
    subject = " ".join(f"Thalweg: {pipeline.title}".split())  # a header is one line
    return [
        NoticeRow(id=database.new_id(), pipeline=pipeline.name, webhook=each.webhook,
                  email=each.email, subject=subject, text=text)
        for each in pipeline.notify
        if event in each.on
    ]  # fmt: skip


def _waiting(settings: Settings) -> list[NoticeRow]:
    """The notices that nobody is sending; those are forgotten that waited too long."""
    now = dt.datetime.now(dt.UTC)
    idle = NoticeRow.tried_at.is_(None) | (NoticeRow.tried_at < now - PAUSE)
    with database.session(settings) as session, session.begin():
        found = session.scalars(sa.select(NoticeRow).where(idle).order_by(NoticeRow.id)).all()
        session.expunge_all()  # what is found is used after the session
        old = [each for each in found if database.made_at(each.id) < now - KEPT]
        for each in old:
            log.error("%s was never told: %s", each.webhook or each.email, each.text)
        ids = [each.id for each in old]
        session.execute(sa.delete(NoticeRow).where(NoticeRow.id.in_(ids)))
    return [each for each in found if each.id not in ids]


def _is_taken(notice: NoticeRow, settings: Settings) -> bool:
    """Whether this process may send it: no other was faster to begin."""
    now = dt.datetime.now(dt.UTC)
    as_found = sa.update(NoticeRow).filter_by(id=notice.id, tried_at=notice.tried_at)
    with database.session(settings) as session, session.begin():
        taken = session.scalar(as_found.values(tried_at=now).returning(NoticeRow.id))
    return taken is not None


def _try(notice: NoticeRow, settings: Settings) -> None:
    try:
        _send(notice, settings)
    except Exception as error:  # whatever it is, the others are told
        to = notice.webhook or notice.email
        log.warning("%s cannot be told about %s yet: %s", to, notice.pipeline, error)
        return
    with database.session(settings) as session, session.begin():
        session.execute(sa.delete(NoticeRow).filter_by(id=notice.id))


def _send(notice: NoticeRow, settings: Settings) -> None:
    if notice.email:
        return _mail(notice.email, notice.subject, notice.text, settings)
    url = os.environ[str(notice.webhook)]
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url):  # an error would tell it
        raise InvalidInput(f"the environment variable {notice.webhook} holds no https://…: mend it")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell the URL
    with http.Client(attempts=2, longest_wait=5, timeout=PATIENCE) as client:
        try:
            client.post(url, {"text": notice.text})
        except ThalwegError as error:  # without the URL, which is a secret
            raise Unavailable(URL.sub("its server", str(error))) from None


def _mail(address: str, subject: str, text: str, settings: Settings) -> None:
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
