"""Reports of skill: pages of HTML that carry all they need, kept beside the executed notebooks."""

# bokeh's own types do not know the keyword arguments that it documents
# mypy: disable-error-code="no-untyped-call,arg-type,call-arg,attr-defined"
from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pandas as pd
from bokeh.embed import file_html
from bokeh.plotting import figure
from bokeh.resources import INLINE

from thalweg import database, record, storage
from thalweg.dashboards.data import ALL_LEAD_TIMES
from thalweg.dashboards.figures import axis_title, skill_map
from thalweg.dashboards.served import Stored
from thalweg.errors import NotFound, nearest
from thalweg.metrics import METRICS
from thalweg.settings import Settings, load

__all__ = ["ROUTES", "publish", "published", "report"]

TITLE = "Forecast skill"


@dataclass(frozen=True)
class Section:
    """What a report says of one configuration and variable."""

    id: str
    title: str
    said: str
    figures: tuple[Any, ...]
    table: str


def report(skill: pd.DataFrame, metrics: Sequence[str] = ("kge", "relative_bias")) -> str:
    """A page of HTML on the skill of all forecasts, which asks nothing of others when it is read.

    Parameters
    ----------
    skill
        Rows as `skill()` gives them.
    metrics
        Names of `METRICS`; the first is drawn, all stand in the table of the gauges.

    Raises
    ------
    NotFound
        There is no skill yet, or none by these metrics; an unknown metric.
    """
    for name in metrics:
        if name not in METRICS:
            raise NotFound(f"unknown metric {name!r}{nearest(name, METRICS)}")
    shown = [name for name in metrics if name in skill]
    if skill.empty or not shown:
        raise NotFound(
            f"the warehouse holds no metrics by {', '.join(metrics)} yet: judge the forecasts with "
            "`thalweg run evaluate`"
        )
    groups = skill.groupby(["configuration_name", "variable_name"])
    sections = [
        _section(f"section-{i}", " · ".join(map(str, key)), rows, shown)
        for i, (key, rows) in enumerate(groups)
    ]
    by = f" by run {run_id}" if (run_id := record.current_run_id()) else ""
    made = f"Made {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC{by}."
    return file_html(
        [each for section in sections for each in section.figures], INLINE, TITLE,
        template=resources.files("thalweg.dashboards").joinpath("report.html").read_text(),
        template_variables={"sections": sections, "made": made},
    )  # fmt: skip


def publish(html: str, settings: Settings | None = None) -> str:
    """Keep a report, once, as `{runs_uri}/reports/{YYYY-MM-DD}/{run id}.html`; gives its URI.

    A rerun keeps none, and gives that of the run that it repeats.
    """
    id = record.pinned() or record.current_run_id() or database.new_id()
    uri = _uri(f"{database.made_at(id):%Y-%m-%d}/{id}", settings)
    if not record.pinned():
        storage.put_new(uri, html.encode())
    return uri


def published(settings: Settings | None = None) -> list[str]:
    """Day and id of every report that is kept (`2026-03-16/019cf6d7-…`), the newest first."""
    uri = f"{(settings or load()).runs_uri}/reports"
    store = storage.filesystem(uri)
    store.invalidate_cache()
    with storage.translated(uri):
        found = store.glob(f"{uri}/*/*.html")
    keys = ("/".join(each.split("/")[-2:]).removesuffix(".html") for each in found)
    return sorted(keys, reverse=True)


def _section(id: str, title: str, rows: pd.DataFrame, metrics: Sequence[str]) -> Section:
    gauges = rows[rows["lead_time_bin"] == ALL_LEAD_TIMES].sort_values("name")
    unit = rows["unit_name"].iloc[0]
    titles = {"name": "Name", "primary_location_id": "Gauge", "count": "Pairs"}
    titles |= {n: axis_title(METRICS[n].title, METRICS[n].unit(unit)) for n in metrics}
    table = gauges[list(titles)].rename(columns=titles)
    return Section(
        id,
        title,
        f"gauges: {len(gauges):,}, pairs: {gauges['count'].sum():,}",
        tuple(_figures(id, rows, gauges, metrics[0], titles[metrics[0]])),
        table.to_html(
            index=False, border=0, na_rep="undefined", float_format="{:,.3f}".format,
            formatters={"Pairs": "{:,}".format},
        ),
    )  # fmt: skip


def _figures(
    id: str, rows: pd.DataFrame, gauges: pd.DataFrame, metric: str, title: str
) -> Iterator[Any]:
    """The map, and where there are lead times the middle half of the gauges by lead time."""
    plot, _ = skill_map(gauges, METRICS[metric])
    plot.update(name=f"{id}-map", tags=[title])
    yield plot
    binned = rows[rows["lead_time_bin"] != ALL_LEAD_TIMES].dropna(subset=[metric])
    if len(binned):
        spread = binned.groupby("lead_time_bin")[metric].quantile([0.25, 0.5, 0.75]).unstack()
        plot = figure(
            x_axis_label="Lead time, hours (lower edge of the bin)", y_axis_label=title,
            sizing_mode="stretch_width", height=320, tools="save", toolbar_location=None,
            name=f"{id}-lead-times", tags=["By lead time: median and middle half of gauges"],
        )  # fmt: skip
        plot.varea(spread.index, spread[0.25], spread[0.75], color="#0b5c8a", alpha=0.2)
        plot.line(spread.index, spread[0.5], color="#0b5c8a", line_width=2)
        plot.scatter(spread.index, spread[0.5], color="#0b5c8a", size=7)
        yield plot


def _uri(key: str, settings: Settings | None = None) -> str:
    return f"{(settings or load()).runs_uri}/reports/{key}.html"


#: What `panel serve --plugins` adds: a report by day and id.
ROUTES = [
    (
        r"/report/(\d{4}-\d\d-\d\d/[0-9a-f-]{36})",
        Stored,
        {"read": lambda key: storage.read(_uri(key))},
    )
]
