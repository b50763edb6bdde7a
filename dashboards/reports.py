"""Reports: what `publish_reports` has published, the newest shown, the others linked."""

from collections.abc import Iterable
from typing import Any

import panel as pn

from thalweg import dashboards, database
from thalweg.errors import NotFound

SHOWN = 60
FRAME = '<iframe src="report/{key}" title="Report" sandbox="allow-scripts allow-popups" {style}>'
STYLE = 'style="width: 100%; height: 80vh; border: 1px solid #dde3e7; border-radius: 8px"'


def rows() -> Iterable[Any]:
    """The newest report, and links to those before it."""
    keys = dashboards.published()[:SHOWN]
    if not keys:
        raise NotFound(
            "No report is published yet. Make one with `thalweg run publish_reports`; then reload "
            "this page."
        )
    links = (f'<a href="report/{key}" target="_blank">{made(key)}</a>' for key in keys)
    yield dashboards.text(f"<p>Published: {' · '.join(links)}</p>")
    yield dashboards.text(f"{FRAME.format(key=keys[0], style=STYLE)}</iframe>")


def made(key: str) -> str:
    """When a report was made."""
    return f"{database.made_at(key.rpartition('/')[2]):%Y-%m-%d %H:%M}"


pn.extension()
dashboards.page("Reports", rows).servable(title="Reports")
