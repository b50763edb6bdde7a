"""Forecast skill: a map of gauges coloured by a metric, the chosen gauge's hydrograph, tables.

The address keeps what is chosen, so that it can be sent to someone:
`?configuration=nwm30_medium_range&metric=kge&lead_time=-1&location=usgs-03171000&issued=2024-09`.
"""

from collections.abc import Iterable
from html import escape
from typing import Any

import pandas as pd
import panel as pn

from thalweg import dashboards
from thalweg.dashboards import Card, Choices
from thalweg.errors import NotFound
from thalweg.metrics import METRICS

CHOICES = {
    "configuration": "Forecasts",
    "variable": "Variable",
    "metric": "Metric",
    "lead_time": "Lead time",
    "location": "Gauge",
    "issued": "Issued in (UTC)",
}


class ForecastSkill:
    """The page of one visitor: the choices, and the cards that follow them."""

    def __init__(self) -> None:
        self.skill = dashboards.skill()
        if self.skill.empty:
            raise NotFound(
                "The warehouse holds no metrics yet. Load the sample with `thalweg run load_sample`"
                " and judge its forecasts with `thalweg run evaluate`; then reload this page."
            )
        self.where, self.series, self.lead_times, self.gauges = (Card() for _ in range(4))
        self.choices = Choices(CHOICES, self.follow)
        self.choices.settle()

    def rows(self) -> Iterable[Any]:
        """The rows of the page: what can be chosen, what there is to see."""
        cards = (self.where, self.series, self.lead_times, self.gauges)
        return self.choices.view, dashboards.flow(*(card.view for card in cards))

    def follow(self) -> None:
        """Narrow the choices from the first to the last, then draw what has changed."""
        offer, skill = self.choices.offer, self.skill
        configuration = offer("configuration", sorted(skill["configuration_name"].unique()))
        skill = skill[skill["configuration_name"] == configuration]
        variable = offer("variable", sorted(skill["variable_name"].unique()))
        skill = skill[skill["variable_name"] == variable]
        # Of what is computed: a metric may have been asked for of other forecasts only.
        computed = dashboards.metric_choices(skill.dropna(axis="columns", how="all").columns)
        metric = self.choices.offer_grouped("metric", computed)
        bins = sorted(skill["lead_time_bin"].unique())
        words = {dashboards.lead_time_label(lower, bins): str(lower) for lower in bins}
        lead_time = offer("lead_time", words)
        gauges = skill[skill["lead_time_bin"] == int(lead_time)].sort_values("name")
        ids = gauges["primary_location_id"]
        names = gauges["name"].where(gauges["name"] == ids, gauges["name"] + " · " + ids)
        location = offer("location", dict(zip(names, ids, strict=True)))

        observed, forecasts, unit = dashboards.series(location, configuration, variable)
        issued = offer("issued", dashboards.issue_months(forecasts))

        what = (configuration, variable)
        self.where.show((*what, metric, lead_time), lambda: self.draw_map(gauges, metric))
        self.gauges.show((*what, lead_time), lambda: self.draw_gauges(gauges))
        at_gauge = skill[skill["primary_location_id"] == location]
        self.lead_times.show((*what, location), lambda: self.draw_lead_times(at_gauge))
        pairs = dashboards.issued_in(issued, observed, forecasts)
        self.series.show(
            (*what, location, issued), lambda: self.draw_series(at_gauge, *pairs, unit)
        )
        self.mark(location)

    def draw_map(self, gauges: pd.DataFrame, metric: str) -> Iterable[Any]:
        """The map; choosing a gauge on it (or in the table below) is choosing it in the list."""
        plot, self.source = dashboards.skill_map(gauges, METRICS[metric])
        self.source.selected.on_change("indices", self.pick)
        said = dashboards.metric_said(METRICS[metric], gauges["unit_name"].iloc[0])
        yield (
            f"<h2>{METRICS[metric].title}</h2>"
            f"<p>{escape(said)} Choose a gauge to see its hydrograph.</p>"
        )
        yield plot

    def draw_gauges(self, gauges: pd.DataFrame) -> Iterable[Any]:
        """Every gauge with every metric, in the order of the map's source."""
        self.table = dashboards.gauge_table(gauges)
        self.table.on_click(lambda event: self.pick("", [], [event.row]))
        yield f"<h2>All gauges</h2><p>{len(gauges):,} with pairs at this lead time.</p>"
        yield self.table

    def draw_lead_times(self, bins: pd.DataFrame) -> Iterable[Any]:
        """The chosen gauge's metrics by lead time."""
        yield f"<h2>Metrics by lead time</h2><p>{escape(bins['name'].iloc[0])}</p>"
        yield dashboards.lead_time_table(bins)

    def draw_series(
        self, bins: pd.DataFrame, observed: pd.DataFrame, forecasts: pd.DataFrame, unit: str
    ) -> Iterable[Any]:
        """The chosen gauge's observations and forecasts."""
        gauge = bins.iloc[0]
        yield (
            f"<h2>{escape(gauge['name'])}</h2>"
            f"<p>{escape(gauge['primary_location_id'])} · {dashboards.described(forecasts)}</p>"
        )
        quantity = gauge["variable_name"].split("_")[0].capitalize()
        yield dashboards.hydrograph(observed, forecasts, quantity, unit)

    def pick(self, _attribute: str, _old: list[int], new: list[int]) -> None:
        """A gauge was chosen on the map or in the table."""
        if new:
            self.choices.choose("location", self.source.data["primary_location_id"][new[0]])

    def mark(self, location: str) -> None:
        """Show on the map and in the table which gauge is chosen."""
        at = list(self.source.data["primary_location_id"]).index(location)
        self.table.selection = [at]
        # Bokeh's own models change on the event loop only, and this may be a thread.
        pn.state.execute(lambda: self.source.selected.update(indices=[at]), schedule=True)


pn.extension("tabulator")
dashboards.page("Forecast skill", lambda: ForecastSkill().rows()).servable(title="Forecast skill")
