"""Operations: what ran, what is late, what nobody tries again, and how the tables grow.

The address keeps what is chosen: `?pipeline=ingest_usgs&state=failed&days=7&run=019cf6d7-…`.
"""

import datetime as dt
import os
from collections.abc import Iterable
from html import escape
from typing import Any

import panel as pn

from thalweg import dashboards
from thalweg.dashboards import Card, Choices, operations
from thalweg.pipelines import history, notify, specification
from thalweg.pipelines.history import Run
from thalweg.private import USER

CHOICES = {"pipeline": "Pipeline", "state": "State", "days": "Started within", "run": "Run"}
DAYS = {"a day": "1", "a week": "7", "a month": "31", "a year": "366"}
#: Commands on a run, with the words of their buttons, by its state.
AGAIN, COMPARE = {"retry": "Run again"}, {"rerun": "Repeat and compare"}
DOES = {
    "running": {"cancel": "Cancel"},
    "succeeded": COMPARE,
    "failed": AGAIN,
    "cancelled": AGAIN,
    "dead": AGAIN | {"cancel": "Give up"},
}
MOST = 500  # runs that are listed
LOOK_AGAIN = 10_000  # ms
HOUR = dt.timedelta(hours=1)


class Operations:
    """The page of one steward: choices, cards that follow them, and the commands at work."""

    def __init__(self) -> None:
        self.broken, self.dead, self.late = Card(), Card(), Card()
        self.runs, self.run, self.growth = Card(), Card(), Card()
        self.messages = pn.Column()
        self.actions: list[operations.Action] = []
        self.choices = Choices(CHOICES, self.follow)
        self.choices.settle()
        pn.state.add_periodic_callback(self.choices.settle, LOOK_AGAIN)

    def rows(self) -> Iterable[Any]:
        """The rows of the page: what is wrong, what ran, how the tables grow."""
        hub = os.environ.get("JUPYTERHUB_BASE_URL", "/")
        dagster = f'<a href="{escape(hub)}services/pipelines/" target="_blank">Dagster</a>'
        yield dashboards.text(f"<p>Schedules, queue and logs of the scheduler: {dagster}</p>")
        yield self.messages
        yield dashboards.flow(self.broken.view)
        yield dashboards.flow(self.dead.view)
        yield self.choices.view
        yield dashboards.flow(self.runs.view)
        yield dashboards.flow(self.run.view, self.late.view, self.growth.view)

    def follow(self) -> None:
        """Narrow the choices, look what has happened, then draw what has changed."""
        offer = self.choices.offer
        broken = specification.broken()
        names = [*specification.all(), *broken]
        pipeline = offer("pipeline", {"All": "all"} | {name: name for name in names})
        state = offer("state", {"All": "all"} | {name: name for name in history.STATES})
        since = dt.datetime.now(dt.UTC) - dt.timedelta(days=int(offer("days", DAYS)))
        chosen = {"pipeline": pipeline, "state": state}
        runs = history.find(
            **{name: value for name, value in chosen.items() if value != "all"},
            since=since, limit=MOST,
        )  # fmt: skip
        dead = history.find(state="dead", limit=None)
        run = offer("run", {_title(each): each.id for each in (*runs, *dead)})

        self.broken.view.visible = bool(broken)
        self.broken.show(tuple(broken.values()), lambda: self.draw_broken(broken))
        self.dead.show(_key(dead), lambda: self.draw_dead(dead))
        late = notify.late()
        self.late.show(tuple(map(str, late)), lambda: self.draw_late(late))
        self.runs.show((pipeline, state, *_key(runs)), lambda: self.draw_runs(runs))
        shown = history.get(run) if run else None
        self.run.show(_key([shown] if shown else []), lambda: self.draw_run(shown))
        ended = next((r.id for r in runs if r.state != "running"), "")
        self.tell()
        self.growth.show((ended,), self.draw_growth)

    def draw_broken(self, broken: dict[str, str]) -> Iterable[Any]:
        """The pipelines that cannot run, and why."""
        yield f"<h2>Broken: {len(broken)}</h2><p>These do not run until they are mended.</p>"
        for name, why in broken.items():
            yield f'<div class="message"><b>{escape(name)}</b>: {escape(why)}</div>'

    def draw_dead(self, dead: list[Run]) -> Iterable[Any]:
        """The runs that nobody tries again."""
        yield f"<h2>Dead letters: {len(dead)}</h2><p>Failed at every attempt.</p>"
        if dead:
            table = operations.runs_table(dead, {"again": "↻"})
            table.on_click(lambda event: self.click(event.column, dead[event.row]))
            yield table

    def draw_late(self, late: list[notify.Late]) -> Iterable[Any]:
        """Which pipelines do not keep their promise."""
        yield f"<h2>Late: {len(late)}</h2><p>Last success older than promised.</p>"
        lines = "".join(
            f"<tr><th scope=row>{escape(each.pipeline)}</th><td>{_time(each.last_success)}</td>"
            f"<td>every {each.promise / HOUR:g} h</td></tr>"
            for each in late
        )
        if late:
            head = "<th>Pipeline</th><th>Last success, UTC</th><th>Promised</th>"
            yield f"<div class=scroll><table><thead><tr>{head}</tr></thead>{lines}</table></div>"

    def draw_runs(self, runs: list[Run]) -> Iterable[Any]:
        """What ran; choosing a run here is choosing it in the list."""
        more = ", and more before these" if len(runs) == MOST else ""
        yield f"<h2>Runs: {len(runs)}{more}</h2><p>Choose a run to look into it.</p>"
        if runs:
            table = operations.runs_table(runs)
            table.on_click(lambda event: self.click(event.column, runs[event.row]))
            yield table

    def draw_run(self, run: Run | None) -> Iterable[Any]:
        """The chosen run: its notebook, what it read and wrote, what can be done."""
        if run is None:
            yield "<h2>No run</h2><p>None was started within this time.</p>"
            return
        partition = f" · {escape(run.partition)}" if run.partition else ""
        notebook = f'<a href="notebook/{run.id}" target="_blank">Executed notebook</a>'
        yield (
            f"<h2>{escape(run.pipeline)}{partition}: {run.state}</h2><p>{run.id} · by "
            f"{escape(run.user)} · {notebook if run.html_uri else 'no notebook was kept'}</p>"
        )
        if run.error:
            yield f'<div class="message">{escape(run.error)}</div>'
        yield pn.Row(*(self.button(name, words, run) for name, words in DOES[run.state].items()))
        uses = "".join(
            f"<tr><th scope=row>{use.direction}</th><td class=words>{escape(use.name)}</td>"
            f"<td>{'' if use.rows is None else f'{use.rows:,}'}</td></tr>"
            for use in run.uses
        )
        yield f"<div class=scroll><table>{uses}</table></div>"

    def draw_growth(self) -> Iterable[Any]:
        """Rows of each table over time."""
        yield "<h2>Growth of the tables</h2><p>As far as their states are kept.</p>"
        yield operations.growth_figure(operations.growth())

    def button(self, does: Any, words: str, run: Run) -> pn.widgets.Button:
        """A button that starts a command on a run."""
        kind = "primary" if does == "retry" else "default"
        button = pn.widgets.Button(name=words, button_type=kind)
        button.on_click(lambda _: self.act(does, run))
        return button

    def click(self, column: str, run: Run) -> None:
        """A run was chosen in a table, or the button behind it was pressed."""
        if column == "again":
            self.act("retry", run)
        else:
            self.choices.choose("run", run.id)

    def act(self, does: Any, run: Run) -> None:
        """Start a command, and say so."""
        user = pn.state.headers.get(USER, "")
        self.actions.append(operations.Action(does, run.id, user))
        self.tell()

    def tell(self) -> None:
        """What the commands say that were started from this page, the last first."""
        self.messages.objects = [
            dashboards.text(
                f'<div class="message" role="status"><code>{escape(each.words)}</code>: '
                f"{escape(each.outcome or 'at work …')}</div>"
            )
            for each in reversed(self.actions)
        ]


def _key(runs: Iterable[Run]) -> tuple[str, ...]:
    return tuple(f"{run.id} {run.state}" for run in runs)


def _title(run: Run) -> str:
    return f"{run.pipeline} · {run.started_at:%d %b %H:%M:%S} · {run.id[-12:]}"


def _time(time: dt.datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}" if time else "never"


pn.extension("tabulator")
dashboards.page("Operations", lambda: Operations().rows()).servable(title="Operations")
