"""Schedule a notebook of one's own, from a notebook or terminal.

>>> import thalweg
>>> report = thalweg.schedule("report.ipynb", cron="15 6 * * *")  # doctest: +SKIP
>>> report.pause()  # doctest: +SKIP

In the hub the request goes to its service of schedules with the token of the person's server, which
proves who they are. Without a hub it goes straight to the database, as the account that owns it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from thalweg import record
from thalweg.errors import InvalidInput, NotFound, ThalwegError, Unavailable
from thalweg.settings import Settings, load

__all__ = ["Scheduled", "ask", "name_of", "parse", "read", "schedule", "schedules"]

PATIENCE = 150  # seconds; the service starts at the first request
REFUSED = (
    "the hub does not let you schedule: expected the token of a Lab server (JUPYTERHUB_API_TOKEN) "
    "of someone who may open the page My schedules; restart your server, or ask who looks after "
    "the hub"
)
ERRORS: dict[str, type[ThalwegError]] = {
    each.__name__: each for each in (InvalidInput, NotFound, Unavailable)
}


@dataclass(frozen=True)
class Scheduled:
    """A notebook that somebody has scheduled, as it was when this was asked for.

    Times are ISO 8601: `saved_at`, when its copy was made, in UTC; `next_at` in the schedule's time
    zone, None while it is paused. `last_run` has `id`, `state`, `started_at` and `error` of its
    newest run; `time_limit` is in seconds.
    """

    name: str
    owner: str
    title: str
    cron: str
    timezone: str
    parameters: dict[str, Any]
    time_limit: int
    saved_at: str
    paused_by: str | None
    next_at: str | None
    last_run: dict[str, Any] | None
    settings: Settings | None = field(default=None, repr=False, compare=False)

    def pause(self) -> Scheduled:
        """Let it run no more until it is resumed."""
        return self._ask("pause")

    def resume(self) -> Scheduled:
        """Let it run again, from now on."""
        return self._ask("resume")

    def run(self) -> Scheduled:
        """Have the scheduler run it once, within half a minute or when its turn comes."""
        return self._ask("run")

    def look(self) -> Scheduled:
        """How it is now."""
        return self._ask("show")

    def remove(self) -> None:
        """Forget it; what it has run stays on record."""
        ask("remove", self.settings, name=self.name)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in TOLD}

    def _ask(self, verb: str) -> Scheduled:
        return _scheduled(ask(verb, self.settings, name=self.name), self.settings)


TOLD = [each.name for each in fields(Scheduled) if each.name != "settings"]


def schedule(
    notebook: str | Path,
    *,
    cron: str,
    timezone: str = "UTC",
    parameters: Mapping[str, Any] | None = None,
    time_limit: int | str = 3600,
    name: str | None = None,
    title: str | None = None,
    freshness: str | None = None,
    notify: str | Sequence[str] = (),
    settings: Settings | None = None,
) -> Scheduled:
    """Run a notebook of your own at these times, whether you are there or not.

    A copy of the notebook is kept as it is saved now: later changes count once it is scheduled
    again, under the same name. It runs in your name, with your home as working directory.

    Parameters
    ----------
    notebook
        File of the notebook.
    cron
        When: minute, hour, day, month and weekday, such as `15 6 * * *`, or `0 7 * * mon-fri`.
    timezone
        In which time zone, by its name in the IANA database.
    parameters
        Values for the notebook's cell tagged `parameters`, by name; others stay as they are there.
        A text such as `now-2d` is counted back from the hour of each run.
    time_limit
        After this long a run is stopped: seconds, or `90m`, `6h`.
    name
        What it is called, in lower_case_with_underscores; by default after the file.
    title
        What it is, in a few words.
    freshness
        It is late when its last success is older: `26h`, `2d`.
    notify
        Addresses of e-mail that are told when a run failed for good, or is late.

    Raises
    ------
    InvalidInput
        The file is no notebook, or something of the above is not as expected.
    Unavailable
        The hub does not answer.
    """
    path = Path(notebook)
    told = [notify] if isinstance(notify, str) else list(notify)
    wanted = {
        "name": name or name_of(path), "notebook": read(path), "cron": cron, "timezone": timezone,
        "parameters": dict(parameters or {}), "time_limit": time_limit, "title": title,
        "freshness": freshness, "notify": told,
    }  # fmt: skip
    return _scheduled(ask("save", settings, **wanted), settings)


def schedules(settings: Settings | None = None) -> dict[str, Scheduled]:
    """Your schedules by `owner/name`; an admin's are those of all."""
    return {each["name"]: _scheduled(each, settings) for each in ask("find", settings)}


def read(path: Path) -> dict[str, Any]:
    """The notebook of this file, without its outputs; InvalidInput if it is none."""
    try:
        return parse(path.expanduser().read_bytes(), path)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None


def parse(content: bytes, path: Path) -> dict[str, Any]:
    """The notebook that these bytes of a file are, as `read` gives it."""
    try:
        notebook: dict[str, Any] = json.loads(content)
        for cell in notebook["cells"]:
            if "outputs" in cell:
                cell |= {"outputs": [], "execution_count": None}
    except (ValueError, KeyError, TypeError):
        raise InvalidInput(
            f"{path}: expected a notebook (nbformat 4), as Jupyter saves it"
        ) from None
    return notebook


def ask(verb: str, settings: Settings | None = None, **arguments: Any) -> Any:
    """Ask for one of `thalweg.pipelines.personal.VERBS`: the hub's service, or the database."""
    settings = settings or load()
    if record.current_run_id():
        raise InvalidInput("a run cannot see or change schedules: do it in Lab or in a terminal")
    if settings.schedules_url:
        return _ask_hub(verb, arguments, settings.schedules_url)
    from thalweg.pipelines import personal

    return personal.answer(personal.this_account(), verb, arguments, settings)


def _ask_hub(verb: str, arguments: dict[str, Any], url: str) -> Any:
    import httpx

    token = os.environ.get("JUPYTERHUB_API_TOKEN")
    if not token:
        raise InvalidInput(REFUSED)
    try:
        headers = {"Authorization": f"token {token}"}
        address = f"{url.rstrip('/')}/api/{verb}"
        answer = httpx.post(address, json=arguments, headers=headers, timeout=PATIENCE)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"the hub's schedules do not answer ({error}): is the hub up?") from None
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"parameters: expected plain values for JSON: {error}") from None
    if answer.status_code in (302, 401, 403):
        raise InvalidInput(REFUSED)
    try:
        told = answer.json()
        failed = None if answer.is_success else ERRORS[told["error"]](told["message"])
    except (ValueError, KeyError, TypeError):
        raise Unavailable(
            f"the hub's schedules answered {answer.status_code}: try again; why stands in their log"
        ) from None
    if failed:
        raise failed
    return told


def _scheduled(told: Mapping[str, Any], settings: Settings | None) -> Scheduled:
    return Scheduled(**{name: told[name] for name in TOLD}, settings=settings)


def name_of(path: Path) -> str:
    """A name after that of the file: `01-My report.ipynb` is `my_report`."""
    name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower())
    return re.sub(r"^[^a-z]+|_+$", "", name)
