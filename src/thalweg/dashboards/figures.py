"""The figures and tables: a map of skill, a hydrograph, metrics by gauge and by lead time."""

# bokeh's own types do not know the keyword arguments that it documents
# mypy: disable-error-code="no-untyped-call,arg-type,call-arg,attr-defined"
from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import panel as pn
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    HoverTool,
    LinearColorMapper,
    NumberFormatter,
    Range1d,
    Scatter,
)
from bokeh.palettes import BrBG11, RdYlBu11, Viridis11, Viridis256
from bokeh.plotting import figure

from thalweg.dashboards.data import ALL_LEAD_TIMES
from thalweg.metrics import METRICS, Metric
from thalweg.metrics.entry import KINDS

__all__ = [
    "axis_title",
    "described",
    "gauge_table",
    "hydrograph",
    "lead_time_label",
    "lead_time_table",
    "metric_choices",
    "metric_said",
    "skill_map",
]

EARTH_RADIUS = 6378137.0  # of the Web Mercator projection, m
NOT_DEFINED = "#9b9b9b"
WATER, LAND, SHORE, RIVER, BORDER = "#dbe7ee", "#f7f5f0", "#b9c6cc", "#a5c4d9", "#c4bfb3"
NUMBER = NumberFormatter(format="0.000", text_align="right", nan_format="undefined")
MOST = 0.8  # a few gauges with hardly any water would else take the whole scale
FEW_ISSUES = 6  # that many forecasts are named in the legend one by one


def metric_choices(names: Collection[str]) -> dict[str, dict[str, str]]:
    """The metrics of these names, title → name, by their kind."""
    found: dict[str, dict[str, str]] = {}
    for name, metric in METRICS.items():
        if name in names:
            found.setdefault(KINDS[metric.kind], {})[metric.title] = name
    return found


def metric_said(metric: Metric, unit: str) -> str:
    """Range, unit and perfect value of a metric in words.

    >>> metric_said(METRICS["rmse"], "m^3/s"), metric_said(METRICS["kge"], "m^3/s")
    ('From 0 to ∞ m³/s; perfect: 0.', 'From -∞ to 1; perfect: 1.')
    """
    low, high = (f"{end:.3g}".replace("inf", "∞") for end in metric.range)
    inside = axis_title("", metric.unit(unit)).replace(",", "")
    perfect = "" if metric.perfect is None else f"; perfect: {metric.perfect:g}"
    return f"From {low} to {high}{inside}{perfect}."


def skill_map(gauges: pd.DataFrame, metric: Metric) -> tuple[Any, ColumnDataSource]:
    """A map of the gauges, coloured by a metric; the source's selection is the chosen gauge.

    Parameters
    ----------
    gauges
        Rows of `skill` for one configuration, variable and lead-time bin.
    metric
        The entry of `METRICS` that gives the colour.
    """
    x, y = _mercator(gauges["longitude"].to_numpy(), gauges["latitude"].to_numpy())
    source = ColumnDataSource(gauges.assign(x=x, y=y))
    mapper = _colours(metric, gauges[metric.name])
    x_range, y_range = _extent(x[np.isfinite(x)], y[np.isfinite(y)])
    plot: Any = figure(
        x_axis_type="mercator", y_axis_type="mercator", x_range=x_range, y_range=y_range,
        x_axis_label="Longitude, degrees east", y_axis_label="Latitude, degrees north",
        match_aspect=True, sizing_mode="stretch_width", height=430,
        tools="pan,wheel_zoom,reset,tap", active_scroll="wheel_zoom", toolbar_location="above",
        background_fill_color=WATER,
    )  # fmt: skip
    _draw_basemap(plot)
    look = {
        "x": "x", "y": "y", "fill_color": {"field": metric.name, "transform": mapper},
        "line_color": "#333333", "line_width": 1, "size": 12,
    }  # fmt: skip
    points = plot.scatter(source=source, **look)
    points.nonselection_glyph = Scatter(**look)
    points.selection_glyph = Scatter(**look | {"line_width": 3.5, "size": 18})
    title = axis_title(metric.title, metric.unit(next(iter(gauges["unit_name"]), "1")))
    tips = [("", "@name"), ("", "@primary_location_id"), (title, f"@{metric.name}{{0.000}}")]
    plot.add_tools(HoverTool(renderers=[points], tooltips=[*tips, ("Pairs", "@count{0,0}")]))
    perfect = "" if metric.perfect is None else f"; perfect: {metric.perfect:g}"
    bar = ColorBar(color_mapper=mapper, title=f"{title}{perfect}", height=12)
    plot.add_layout(bar, "below")
    return plot, source


def _mercator(longitude: Any, latitude: Any) -> tuple[Any, Any]:
    x = EARTH_RADIUS * np.radians(longitude)
    return x, EARTH_RADIUS * np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2))


def _extent(x: Any, y: Any) -> tuple[Range1d, Range1d]:
    """Square ranges around the gauges, at least 900 km wide so that a lone one has a setting."""
    if not len(x):
        return Range1d(*_mercator(np.array([-128, -64]), 0.0)[0]), Range1d(2.5e6, 6.5e6)
    half = max(900e3, 1.15 * np.ptp(x), 1.15 * np.ptp(y)) / 2
    middle_x, middle_y = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
    return (
        Range1d(middle_x - half, middle_x + half),
        Range1d(middle_y - half, middle_y + half),
    )


def _colours(metric: Metric, values: pd.Series) -> LinearColorMapper:
    """Blue is skill and red is none; where a sign matters, brown is too little, green too much.

    What cannot be perfect goes from dark, the least, to light. The scale spans most of the values;
    the few beyond it have the colour of its end.
    """
    low, high = metric.range
    finite = values[np.isfinite(values)]
    if metric.perfect is None:
        ends = finite.quantile([1 - MOST, MOST]) if len(finite) else [0.0, 1.0]
        bounds, palette = (min(ends), max(*ends, min(ends) + 1e-6)), Viridis11
    elif low < metric.perfect < high:
        off = finite.sub(metric.perfect).abs()
        reach = max(off.quantile(MOST), 1e-6) if metric.has_unit and len(off) else 1.0
        bounds, palette = (metric.perfect - reach, metric.perfect + reach), BrBG11[::-1]
    elif metric.perfect == high:
        bounds, palette = (-1.0 if (finite < 0).any() else 0.0, high), RdYlBu11[::-1]
    else:
        bounds, palette = (
            (low, max(finite.quantile(MOST), 1e-6) if len(finite) else low + 1),
            RdYlBu11,
        )
    return LinearColorMapper(palette, low=bounds[0], high=bounds[1], nan_color=NOT_DEFINED)


@lru_cache(maxsize=1)
def _basemap() -> dict[str, tuple[list[Any], list[Any]]]:
    """Name of each layer to the x and y of its lines, Web Mercator, m."""
    text = resources.files("thalweg.dashboards").joinpath("basemap.geojson").read_text()
    layers = {}
    for feature in json.loads(text)["features"]:
        shapes = feature["geometry"]["coordinates"]
        is_polygon = feature["geometry"]["type"] == "MultiPolygon"
        lines = [np.array(shape[0] if is_polygon else shape) for shape in shapes]
        projected = [_mercator(line[:, 0], line[:, 1]) for line in lines]
        xs, ys = zip(*projected, strict=True)
        layers[feature["properties"]["layer"]] = (
            [x.astype(np.int32) for x in xs],
            [y.astype(np.int32) for y in ys],
        )
    return layers


def _draw_basemap(plot: Any) -> None:
    layers = _basemap()
    plot.patches(*layers["land"], fill_color=LAND, line_color=SHORE, line_width=0.8)
    plot.multi_line(*layers["rivers"], line_color=RIVER, line_width=1)
    plot.patches(*layers["lakes"], fill_color=WATER, line_color=RIVER, line_width=0.8)
    plot.multi_line(*layers["borders"], line_color=BORDER, line_width=0.8)
    plot.grid.visible = False
    plot.outline_line_color = plot.toolbar.logo = None


def hydrograph(observed: pd.DataFrame, forecasts: pd.DataFrame, quantity: str, unit: str) -> Any:
    """Observations in black over one line a forecast, from pale (first issued) to dark (last).

    Parameters
    ----------
    observed, forecasts
        As `series` returns them.
    quantity, unit
        What the y axis shows.
    """
    plot: Any = figure(
        x_axis_type="datetime", x_axis_label="Time, UTC", y_axis_label=axis_title(quantity, unit),
        sizing_mode="stretch_width", height=430, tools="xpan,xwheel_zoom,box_zoom,reset,save",
        toolbar_location="above",
    )  # fmt: skip
    issues = list(forecasts.groupby("reference_time", dropna=False))
    colours = [Viridis256[i] for i in np.linspace(60, 225, max(len(issues), 1))[::-1].astype(int)]
    lines = []
    for (issued, rows), colour in zip(issues, colours, strict=False):
        source = ColumnDataSource(rows.assign(issued=_issue_label(issued)))
        label = {"legend_label": _issue_label(issued)} if len(issues) <= FEW_ISSUES else {}
        if (rows["members"] > 1).any():
            plot.varea("value_time", "low", "high", source=source, color=colour, alpha=0.2, **label)
        look = {"color": colour, "line_width": 2, **label}
        lines.append(plot.line("value_time", "median", source=source, **look))
    source = ColumnDataSource(observed.assign(issued="observed", median=observed["value"]))
    look = {"color": "black", "line_width": 2.5, "legend_label": "observed"}
    lines.append(plot.line("value_time", "value", source=source, **look))
    time = ("Time", "@value_time{%Y-%m-%d %H:%M} UTC")
    tips = [("Issued", "@issued"), time, (axis_title(quantity, unit), "@median{0,0.0}")]
    plot.add_tools(
        HoverTool(renderers=lines, tooltips=tips, formatters={"@value_time": "datetime"})
    )
    plot.y_range.start = min(0, plot.y_range.start or 0)
    plot.legend.click_policy, plot.legend.ncols, plot.legend.border_line_alpha = "hide", 2, 0
    if forecasts["reference_time"].notna().any():
        few = len(issues) <= FEW_ISSUES
        plot.legend.title = "Issued at, UTC" if few else f"{len(issues)} forecasts, pale: first"
    plot.add_layout(plot.legend[0], "below")
    plot.toolbar.logo = plot.toolbar.active_drag = None
    return plot


def described(forecasts: pd.DataFrame) -> str:
    """In words: how many forecasts, of how many members, issued when."""
    issued = forecasts["reference_time"].drop_duplicates().dropna()
    if issued.empty:
        return f"analysis, {len(forecasts):,} values"
    first, last = (f"{issued.min():%Y-%m-%d %H:%M}", f"{issued.max():%Y-%m-%d %H:%M}")
    when = f"issued {first}" if first == last else f"issued {first} to {last}"
    members = int(forecasts["members"].max())
    spread = f", each the median and 10 to 90 % band of {members} members" if members > 1 else ""
    noun = "forecast" if len(issued) == 1 else "forecasts"
    return f"{len(issued):,} {noun} {when} UTC{spread}"


def _issue_label(issued: Any) -> str:
    return "analysis" if pd.isna(issued) else f"{issued:%Y-%m-%d %H:%M}"


def gauge_table(gauges: pd.DataFrame) -> pn.widgets.Tabulator:
    """Every gauge with every metric, to sort and to choose from.

    Parameters
    ----------
    gauges
        Rows of `skill` for one configuration, variable and lead-time bin.
    """
    unit = next(iter(gauges["unit_name"]), "1")
    metrics = {name: metric for name, metric in METRICS.items() if name in gauges}
    titles = {"primary_location_id": "Gauge", "name": "Name", "count": "Pairs"}
    titles |= {n: axis_title(metric.title, metric.unit(unit)) for n, metric in metrics.items()}
    return pn.widgets.Tabulator(
        gauges[list(titles)], titles=titles, formatters=dict.fromkeys(metrics, NUMBER),
        show_index=False, disabled=True, selectable=1, layout="fit_data", theme="simple",
        sizing_mode="stretch_width", max_height=320,
    )  # fmt: skip


def lead_time_table(bins: pd.DataFrame) -> str:
    """HTML of one gauge's metrics: a row a lead-time bin, a column a metric.

    Parameters
    ----------
    bins
        Rows of `skill` for one gauge, configuration and variable.
    """
    bins = bins.sort_values("lead_time_bin")
    edges = list(bins["lead_time_bin"])
    metrics = {name: metric for name, metric in METRICS.items() if name in bins}
    titles = [axis_title(m.title, m.unit(bins["unit_name"].iloc[0])) for m in metrics.values()]
    head = "".join(f"<th scope=col>{title}</th>" for title in ("Lead time", "Pairs", *titles))
    lines = "".join(
        f"<tr><th scope=row>{lead_time_label(row['lead_time_bin'], edges)}</th>"
        f"<td>{row['count']:,}</td>{''.join(f'<td>{_number(row[name])}</td>' for name in metrics)}"
        "</tr>"
        for _, row in bins.iterrows()
    )
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead>{lines}</table></div>"


def lead_time_label(lower: int, edges: Sequence[int]) -> str:
    """A bin in words: its lower edge, up to the next of `edges`.

    >>> [lead_time_label(lower, [ALL_LEAD_TIMES, 0, 24]) for lower in (ALL_LEAD_TIMES, 0, 24)]
    ['all', '0 to 24 h', 'from 24 h']
    """
    if lower == ALL_LEAD_TIMES:
        return "all"
    later = [edge for edge in edges if edge > lower]
    return f"{lower} to {min(later)} h" if later else f"from {lower} h"


def axis_title(quantity: str, unit: str) -> str:
    """A quantity with its unit; none where the unit is 1.

    >>> axis_title("Root mean square error", "m^3/s"), axis_title("Pearson correlation", "1")
    ('Root mean square error, m³/s', 'Pearson correlation')
    """
    return quantity if unit == "1" else f"{quantity}, {unit.replace('^2', '²').replace('^3', '³')}"


def _number(value: float) -> str:
    return f"{value:,.3f}" if np.isfinite(value) else "undefined"
