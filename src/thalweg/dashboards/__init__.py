"""What the dashboards share: reads of the warehouse, figures and tables, the parts of a page.

A dashboard (`dashboards/*.py`) is a thin Panel app that lays these out. A page asks its own server
only: the map's background is `basemap.geojson` beside this file, fonts are the reader's own.
"""

from thalweg.dashboards.data import ALL_LEAD_TIMES, issue_months, issued_in, series, skill
from thalweg.dashboards.figures import (
    axis_title,
    described,
    gauge_table,
    hydrograph,
    lead_time_label,
    lead_time_table,
    metric_choices,
    metric_said,
    skill_map,
)
from thalweg.dashboards.page import Card, Choices, flow, page, text
from thalweg.dashboards.report import publish, published, report

__all__ = [
    "ALL_LEAD_TIMES",
    "Card",
    "Choices",
    "axis_title",
    "described",
    "flow",
    "gauge_table",
    "hydrograph",
    "issue_months",
    "issued_in",
    "lead_time_label",
    "lead_time_table",
    "metric_choices",
    "metric_said",
    "page",
    "publish",
    "published",
    "report",
    "series",
    "skill",
    "skill_map",
    "text",
]
