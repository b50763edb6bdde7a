"""What the stewards' page shows and does: runs, commands on them, the growth of the tables."""

# bokeh's own types do not know the keyword arguments that it documents
# mypy: disable-error-code="no-untyped-call,arg-type,call-arg,attr-defined"
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pandas as pd
import panel as pn
from bokeh.models import HoverTool
from bokeh.palettes import Category10
from bokeh.plotting import figure

from thalweg import warehouse
from thalweg.dashboards.served import Stored
from thalweg.pipelines import history, pages
from thalweg.pipelines.history import Run

__all__ = ["ROUTES", "Action", "growth", "growth_figure", "runs_table"]


#: Of what a command has said, as many are shown as an error with what to do about it needs.
LINES = 8


class Action:
    """A command on a run, in a process of its own that goes on when the page is closed.

    Parameters
    ----------
    does
        `retry` runs it again, with the same parameters; `rerun` repeats it with what it read, to
        see whether the same comes out; `cancel` ends it.
    run_id
        Id of the run.
    user
        Who asks, for the record of the new run.
    """

    def __init__(self, does: Literal["retry", "rerun", "cancel"], run_id: str, user: str) -> None:
        self.words = f"thalweg runs {does} {run_id}"
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as this lives
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self.words.split()],
            env=os.environ | ({"JUPYTERHUB_USER": user} if user else {}),
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def outcome(self) -> str | None:
        """None while it goes on, then the last lines that the command has said."""
        if self._process.poll() is None:
            return None
        self._said.seek(0)
        lines = self._said.read().strip().splitlines()
        return "\n".join(lines[-LINES:]) or "done"


def runs_table(runs: Iterable[Run], buttons: Mapping[str, str] | None = None) -> Any:
    """Runs as a table, a row a run, with buttons of these names and signs at its end."""
    rows = pd.DataFrame(
        [
            {
                "Run": each.id[-12:],
                "Pipeline": each.pipeline,
                "Partition": each.partition or "",
                "State": each.state,
                "Started, UTC": f"{each.started_at:%Y-%m-%d %H:%M:%S}",
                "Took": "" if each.duration is None else f"{each.duration:,.1f} s",
                "By": f"{each.user}, {each.trigger}",
                "Why": (each.error or "").partition("\n")[0],
            }
            for each in runs
        ]
    )
    return pn.widgets.Tabulator(
        rows, show_index=False, disabled=True, selectable=1, layout="fit_data_stretch",
        theme="simple", sizing_mode="stretch_width", max_height=360, buttons=dict(buttons or {}),
        text_align={"Took": "right"}, widths={"Why": 420},
    )  # fmt: skip


def growth() -> pd.DataFrame:
    """Rows of each table after each of its states that is kept: columns table, at (UTC), rows."""
    states = [(name, s.at, s.rows) for name in warehouse.names() for s in warehouse.snapshots(name)]
    return pd.DataFrame(states, columns=["table", "at", "rows"])


def growth_figure(states: pd.DataFrame) -> Any:
    """Rows over time, a line a table; a table that has none is left out."""
    plot: Any = figure(
        x_axis_type="datetime", y_axis_type="log", x_axis_label="Time, UTC", y_axis_label="Rows",
        sizing_mode="stretch_width", height=380, tools="xpan,xwheel_zoom,box_zoom,reset,save",
        toolbar_location="above",
    )  # fmt: skip
    now = pd.Timestamp.now("UTC")
    for i, (name, rows) in enumerate(states[states["rows"] > 0].groupby("table", sort=False)):
        # A table stays as it is until now.
        until = pd.concat([rows, rows.tail(1).assign(at=now)], ignore_index=True)
        look = {"color": Category10[10][i % 10], "legend_label": name, "name": name}
        plot.step("at", "rows", source=until, mode="after", line_width=2, **look)
        plot.scatter("at", "rows", source=rows, size=5, **look)
    tips = [("Table", "$name"), ("Rows", "@rows{0,0}"), ("At", "@at{%Y-%m-%d %H:%M} UTC")]
    plot.add_tools(HoverTool(tooltips=tips, formatters={"@at": "datetime"}))
    if plot.legend:
        plot.legend.click_policy, plot.legend.ncols, plot.legend.border_line_alpha = "hide", 2, 0
        plot.add_layout(plot.legend[0], "below")
    plot.toolbar.logo = plot.toolbar.active_drag = None
    return plot


def _page(run_id: str) -> bytes:
    return pages.read(history.get(run_id))


#: What `panel serve --plugins` adds: the executed notebook of a run, by its id.
ROUTES = [(r"/notebook/([0-9a-f-]{36})", Stored, {"read": _page})]
