"""Which time series of the Water Data API are asked for: at any time one of a site's parameter.

A site may have several of one parameter, as of two sensors, or from before and after it moved.
Their values come mixed, over several pages, unless only one of them is asked for.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from thalweg.sources._common import instant

__all__ = ["Span", "chosen"]

Span = tuple[dt.datetime, dt.datetime]
#: A series whose last value is older has ended, if another follows it.
ENDED = dt.timedelta(days=30)


def chosen(
    series: Iterable[Mapping[str, Any]], first: dt.datetime, last: dt.datetime, *, daily: bool
) -> dict[Span, list[str]]:
    """Ids of the series to ask for, by the time for which: from the first on and before the second.

    Primary ones come before provisional ones, those of the whole site before those of a part of it.
    Of several, the one that began first counts until it ends, then the next: so that it depends on
    no question which of them counts at a time.

    Parameters
    ----------
    series
        Properties of the features of `time-series-metadata`.
    daily
        The series are of days, and an end is a day.
    """
    sites: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in series:
        if each["begin"] and each["end"]:
            sites.setdefault((each["monitoring_location_id"], each["parameter_code"]), []).append(
                each
            )
    asked: dict[Span, list[str]] = {}
    for known in sites.values():
        since, ordered = first, _in_order(known)
        for each in ordered:
            end = _moment(each, "end")
            has_ended = each is not ordered[-1] and end + ENDED < dt.datetime.now(dt.UTC)
            until = min(last, _after(end, daily=daily)) if has_ended else last
            if since < until and _moment(each, "begin") < last:
                asked.setdefault((since, until), []).append(each["id"])
                since = until
    return asked


def _in_order(known: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    known = [each for each in known if each["primary"]] or known
    known = [each for each in known if not each["sublocation_identifier"]] or known
    return sorted(known, key=lambda each: (_moment(each, "begin"), each["id"]))


def _moment(series: Mapping[str, Any], name: str) -> dt.datetime:
    """In v0 of the API, the time in UTC has a name of its own."""
    return instant(series.get(f"{name}_utc") or series[name])


def _after(end: dt.datetime, *, daily: bool) -> dt.datetime:
    """The first moment after the last value; a day has the date of its midnight at the site."""
    if daily:
        return end.replace(hour=0, minute=0, second=0, microsecond=0) + dt.timedelta(days=1)
    return end + dt.timedelta(seconds=1)
