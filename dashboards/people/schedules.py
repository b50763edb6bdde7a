"""My schedules: a person's own notebooks that run by themselves; an admin's are those of all.

The address keeps what is chosen: `?schedule=ada/report`.
"""

import datetime as dt
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import pandas as pd
import panel as pn

from thalweg import dashboards
from thalweg.dashboards import Card, Choices
from thalweg.dashboards import schedules as support
from thalweg.errors import ThalwegError
from thalweg.pipelines import personal
from thalweg.pipelines.parts import Schedule
from thalweg.pipelines.schedules import name_of
from thalweg.settings import load

LOOK_AGAIN = 10_000  # ms
EMPTY = (
    "<h2>No schedule yet</h2><p>Choose a notebook below and say when it runs, or in a notebook: "
    "<code>thalweg.schedule(&quot;report.ipynb&quot;, cron=&quot;15 6 * * *&quot;)</code></p>"
)
NO_NOTEBOOK = (
    '<div class="message">No notebook to choose from: save one in Lab, then load this page again. '
    "Where your folder cannot be seen from here, as on a cluster, a notebook schedules itself or "
    "another: <code>thalweg.schedule(&quot;report.ipynb&quot;, cron=&quot;15 6 * * *&quot;)</code>."
    "</div>"
)


class Schedules:
    """The page of one person: their schedules, the chosen one, and a form for another."""

    def __init__(self) -> None:
        self.who = support.person(pn.state.headers)
        self.list, self.one = Card(), Card()
        self.message = pn.Column()
        self.choices = Choices({"schedule": "Schedule"}, self.follow)
        self.form = Form(self.ask)
        self.choices.settle()
        pn.state.add_periodic_callback(self.choices.settle, LOOK_AGAIN)

    def rows(self) -> Iterable[Any]:
        """The rows of the page."""
        yield self.message
        yield self.choices.view
        yield dashboards.flow(self.list.view)
        yield dashboards.flow(self.one.view, self.form.view)

    def ask(self, verb: str, path: Path | None = None, **arguments: Any) -> Any:
        """Ask for something in this person's name; None, and a message, where it cannot be done."""
        if verb == "save" and path is None:
            return self.say("Choose a notebook first.")
        try:
            if path:
                arguments["notebook"] = support.read(self.who, path, load())
            told = personal.answer(self.who, verb, arguments)
        except ThalwegError as error:
            return self.say(str(error))
        if verb not in ("find", "parameters"):
            self.say(f"{told['name']}: {DONE[verb]}")
            if verb == "save":
                self.choices.choose("schedule", told["name"])
            self.choices.settle()
        return told

    def say(self, text: str) -> None:
        """Show a message on top."""
        said = f'<div class="message" role="status">{escape(text)}</div>'
        self.message.objects = [dashboards.text(said)]

    def follow(self) -> None:
        """Look what there is and what has run, then draw what has changed."""
        known = {each["name"]: each for each in personal.answer(self.who, "find", {})}
        chosen = known.get(self.choices.offer("schedule", list(known)))
        self.list.show((repr(known),), lambda: self.draw_list(list(known.values())))
        self.one.view.visible = chosen is not None
        self.one.show((repr(chosen),), lambda: self.draw_one(chosen))

    def draw_list(self, known: list[dict[str, Any]]) -> Iterable[Any]:
        """All schedules; choosing one here is choosing it in the list."""
        if not known:
            yield EMPTY
            return
        whose = "of all" if self.who.is_admin else "of yours"
        yield f"<h2>Schedules {whose}: {len(known)}</h2><p>Choose one to look into it.</p>"
        rows = pd.DataFrame(
            [
                {
                    "Name": each["name"],
                    "Runs": support.words(_schedule(each)),
                    "Next": _next(each),
                    "Last run, UTC": _last(each),
                    "Copy of, UTC": _minute(each["saved_at"]),
                }
                for each in known
            ]
        )
        table = pn.widgets.Tabulator(
            rows, show_index=False, disabled=True, selectable=1, layout="fit_data_stretch",
            theme="simple", sizing_mode="stretch_width", max_height=360,
        )  # fmt: skip
        table.on_click(lambda event: self.choices.choose("schedule", known[event.row]["name"]))
        yield table

    def draw_one(self, each: dict[str, Any] | None) -> Iterable[Any]:
        """The chosen schedule, and what can be done with it."""
        if each is None:
            return
        last = each["last_run"]
        yield f"<h2>{escape(each['name'])}</h2><p>{escape(support.words(_schedule(each)))}</p>"
        notebook = f'<a href="notebook/{last["id"]}" target="_blank">Executed notebook</a>' if (
            last and last["has_notebook"]
        ) else "no executed notebook"  # fmt: skip
        about = {
            "Next": escape(_next(each)),
            "Last run": f"{escape(_last(each))} · {notebook}",
            "Time limit": f"{each['time_limit']:,} s",
            **{key: escape(str(value)) for key, value in each["parameters"].items()},
        }
        lines = "".join(
            f"<tr><th scope=row>{escape(key)}</th><td class=words>{value}</td></tr>"
            for key, value in about.items()
        )
        yield f"<div class=scroll><table>{lines}</table></div>"
        if last and last["error"]:
            yield f'<div class="message">{escape(last["error"])}</div>'
        turn = {"resume": "Resume"} if each["paused_by"] else {"pause": "Pause"}
        verbs = {"run": "Run now", **turn, "remove": "Remove"}
        yield pn.Row(*(self.button(verb, text, each["name"]) for verb, text in verbs.items()))

    def button(self, verb: str, text: str, name: str) -> pn.widgets.Button:
        """A button that asks for something."""
        kind = "primary" if verb == "run" else "default"
        button = pn.widgets.Button(name=text, button_type=kind)
        button.on_click(lambda _: self.ask(verb, name=name))
        return button


class Form:
    """Schedule another: a notebook, the values of its parameters, when, and for how long."""

    def __init__(self, ask: Any) -> None:
        wide = {"sizing_mode": "stretch_width"}
        self.ask = ask
        self.files = support.notebooks(support.person(pn.state.headers), load())
        self.file = pn.widgets.Select(name="Notebook", options=["", *self.files], **wide)
        self.name = pn.widgets.TextInput(name="Name", **wide)
        self.cron = pn.widgets.TextInput(
            name="When: minute hour day month weekday", value="15 6 * * *", **wide
        )
        zones = sorted(available_timezones())
        self.zone = pn.widgets.Select(name="Time zone", options=zones, value="UTC", **wide)
        self.limit = pn.widgets.TextInput(name="Time limit", value="1h", **wide)
        self.parameters, self.preview = pn.Column(**wide), pn.Column(**wide)
        save = pn.widgets.Button(name="Schedule it", button_type="primary")
        save.on_click(self.save)
        self.file.param.watch(self.choose, "value")
        for each in (self.cron, self.zone):
            each.param.watch(self.look, "value")
        self.look()
        head = "<h2>Schedule a notebook</h2><p>A copy of it, as it is saved now.</p>"
        hint = [] if self.files else [NO_NOTEBOOK]
        self.card = Card()
        self.card.show(
            ("form",),
            lambda: [
                head, *hint, self.file, self.name, self.parameters, self.cron, self.zone,
                self.preview, self.limit, save,
            ],
        )  # fmt: skip
        self.view = self.card.view

    def choose(self, _event: Any = None) -> None:
        """Offer the parameters of the chosen notebook."""
        path = self.files.get(self.file.value)
        self.name.value = name_of(path) if path else ""
        found = self.ask("parameters", path) if path else {}
        self.parameters.objects = [
            pn.widgets.TextInput(
                name=f"{name}: {each['description']} ({each['type']})", tags=[name],
                value=_text(each.get("default")), sizing_mode="stretch_width",
            )
            for name, each in (found or {}).items()
        ]  # fmt: skip

    def look(self, *_events: Any) -> None:
        """Say in words when it would run, and the next three times."""
        try:
            schedule = Schedule(cron=self.cron.value, timezone=self.zone.value)
            times = (f"{each:%a %d %b %Y %H:%M %Z}" for each in personal.next_times(schedule, 3))
            said = f"<p>{escape(support.words(schedule))}<br>Next: {escape(' · '.join(times))}</p>"
        except ValueError as error:
            why = error.errors()[0]["msg"] if hasattr(error, "errors") else str(error)
            said = f'<div class="message">{escape(why.removeprefix("Value error, "))}</div>'
        self.preview.objects = [dashboards.text(said)]

    def save(self, _event: Any) -> None:
        """Schedule what is filled in."""
        given = {each.tags[0]: each.value for each in self.parameters if each.value != ""}
        self.ask(
            "save", self.files.get(self.file.value), name=self.name.value, cron=self.cron.value,
            timezone=self.zone.value, parameters=given,
            time_limit=self.limit.value,
        )  # fmt: skip


DONE = {
    "save": "is scheduled",
    "pause": "is paused",
    "resume": "runs again",
    "run": "will run within half a minute, or when its turn comes",
    "remove": "is removed; what it has run stays on record",
}


def _schedule(each: dict[str, Any]) -> Schedule:
    return Schedule(cron=each["cron"], timezone=each["timezone"])


def _next(each: dict[str, Any]) -> str:
    if each["paused_by"]:
        return f"paused by {each['paused_by']}"
    return f"{dt.datetime.fromisoformat(each['next_at']):%Y-%m-%d %H:%M} ({each['timezone']})"


def _last(each: dict[str, Any]) -> str:
    last = each["last_run"]
    return f"{last['state']} {_minute(last['started_at'])}" if last else "never"


def _minute(time: str) -> str:
    return f"{dt.datetime.fromisoformat(time):%Y-%m-%d %H:%M}"


def _text(value: Any) -> str:
    """A value as it is typed in."""
    return ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)


pn.extension("tabulator")
dashboards.page("My schedules", lambda: Schedules().rows()).servable(title="My schedules")
