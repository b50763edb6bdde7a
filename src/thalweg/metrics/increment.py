"""Metrics kept up to date: only places and months whose series changed are paired again.

Of each month the table `monthly_statistics` keeps means, extremes and sums of squared deviations,
from which those of all months together follow (Chan et al. 1983,
doi:10.1080/00031305.1983.10483115). A metric that is made of anything else, as of a median, is
computed again from the whole series of the places that changed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from thalweg import warehouse
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.metrics import inputs, monthly, pairs
from thalweg.metrics.evaluation import evaluate, to_long
from thalweg.metrics.inputs import FORECAST, OBSERVED, Named, Part
from thalweg.metrics.pairs import CROSSWALK
from thalweg.metrics.question import Question, asked, listed, named
from thalweg.metrics.table import DEFAULT, METRICS
from thalweg.settings import Settings
from thalweg.warehouse.access import definition

__all__ = ["Updated", "update"]

KEPT, STATE = "monthly_statistics", "thalweg.evaluated"
ATTEMPTS = 5
LINKS, PLACE = "location_crosswalks", "primary_location_id"
SERIES = {"primary_timeseries": OBSERVED, "secondary_timeseries": FORECAST}
KEYS = (PLACE, "configuration_name", "variable_name", "unit_name")
#: What is read of which table: the series, and what was made of them before.
READ = {
    **SERIES,
    LINKS: CROSSWALK,
    KEPT: tuple(name for name in definition(KEPT).columns if name != "run_id"),
    "metrics": (*KEYS, "lead_time_bin", "metric_name", "count"),
}
PERMISSIVE: Any = {"promote_options": "permissive"}


@dataclass(frozen=True)
class Updated:
    """What an update did: places whose metrics were made again, months paired again, and rows."""

    places: int
    months: int
    written: warehouse.Written | None

    def __str__(self) -> str:
        if self.written is None:
            return "metrics: nothing has changed since they were computed"
        return f"{self.places:,} places, {self.months:,} months paired again; {self.written}"


def update(
    metrics: Sequence[str] = DEFAULT,
    lead_time_bin: int = 24,
    *,
    primary_configuration: str | None = None,
    cluster: Any = None,
    progress: Callable[[int, int], None] | None = None,
    settings: Settings | None = None,
) -> Updated:
    """Bring the warehouse's `metrics` up to date with its series.

    What changed since the last time is told by the files that came and went, and by their rows:
    series that were only written anew are no change. The first time, and where other bins or other
    observations are asked for, everything is computed, a month at a time.

    Parameters
    ----------
    metrics
        Names of `METRICS` that need no thresholds. Those of earlier updates are kept up to date
        with them, so that no row of the table is older than another.
    lead_time_bin
        Width of the bins of lead time, hours.
    primary_configuration
        The observations to compare with, where the warehouse has several configurations of them.
    cluster
        As `evaluate` takes it.
    progress
        Called with the number of pieces of work that are done, and that of all.

    Raises
    ------
    NotFound
        An unknown metric.
    InvalidInput
        A metric of thresholds; a bin that is not whole hours; observations of several
        configurations, or in another unit than the forecasts.
    Unavailable
        The warehouse does not answer, or other updates were faster again and again.
    """
    names = named(metrics)
    if not names:
        raise InvalidInput("metrics is empty: expected some, as 'kge'")
    Question(names=names, **asked(KEYS[:2], lead_time_bin=lead_time_bin)).check()
    terms = {"lead_time_bin": lead_time_bin, "primary_configuration": primary_configuration}
    wanted = names
    for _ in range(ATTEMPTS):
        before = warehouse.marked(KEPT, STATE, settings)
        names = listed([*wanted, *(name for name in before.get("metrics", ()) if name in METRICS)])
        if before.get("terms") != terms:
            before = {"metrics": [], "at": {}}
        observed, forecast, crosswalk, kept, skill = (
            inputs.source(name, columns, settings) for name, columns in READ.items()
        )
        now = {each.name: each.snapshot_id for each in (observed, forecast, crosswalk, kept, skill)}
        if (before["at"], before["metrics"]) == (now, sorted(names)):
            return Updated(0, 0, None)
        observations = inputs.observations(observed, primary_configuration)
        series = Part(observations, forecast, crosswalk.read())
        sizes = inputs.sizes(series)
        todo = _todo(before["at"], now, series, sizes, settings)
        if not set(names) <= set(before["metrics"]):
            todo.places.update(series.crosswalk[PLACE].to_pylist())
        parts = [*inputs.by_month(series, sizes, todo.months)]
        found = monthly.run(partial(_statistics, lead_time_bin), parts, cluster, progress)
        rows, there = _put_together(found, kept, todo)
        results = _metrics(names, there, series, todo.places, lead_time_bin, cluster)
        new = pa.concat_tables(results, **PERMISSIVE)
        gone = _gone(new, names, skill, todo.places)
        after = warehouse.write(KEPT, rows, settings)
        done = warehouse.write("metrics", pa.concat_tables([new, gone], **PERMISSIVE), settings)
        at = now | {KEPT: after.snapshot_id, "metrics": done.snapshot_id}
        state = {"terms": terms, "metrics": sorted(names), "at": at}
        if warehouse.mark(KEPT, STATE, state, now[KEPT], after.snapshot_id, settings):
            return Updated(len(todo.places), len(todo.months), done)
    raise Unavailable("metrics: other updates were faster again and again; update again")


@dataclass(frozen=True)
class _Todo:
    """Places whose metrics are made again, and those to pair again by month since January 1970."""

    places: set[str]
    months: Mapping[int, set[str]]
    everything: bool = False


def _todo(
    before: Mapping[str, int | None],
    now: Mapping[str, int | None],
    series: Part,
    sizes: Counter[int],
    settings: Settings | None,
) -> _Todo:
    """What changed in the series, the crosswalk and, by somebody else, in our own tables."""
    links = series.crosswalk.to_pydict()
    everywhere = {*links[PLACE]}
    everything = _Todo({*everywhere}, dict.fromkeys(sizes, everywhere), everything=True)
    stand_for = defaultdict[str, set[str]](set)
    for place, reach in zip(links[PLACE], links["secondary_location_id"], strict=True):
        stand_for[place].add(place)
        stand_for[reach].add(place)
    places, months = set[str](), defaultdict[int, set[str]](set)
    for name in READ:
        since, until = before.get(name), now[name]
        if since == until and name in before:
            continue
        if since is None or until is None:
            return everything  # empty still, or never read before
        by = "location_id" if name in SERIES else PLACE
        try:
            changed = warehouse.changes(name, by, since, until, settings)
        except NotFound:  # upkeep has ended what was read then
            return everything
        for row in changed.to_pylist():
            these = stand_for.get(row[by], set()) if name in SERIES else {row[by]}
            places |= these
            for month in sizes if name == LINKS else [row["month"]] if "month" in row else []:
                months[month] |= these
    return _Todo(places, months)


def _statistics(lead_time_bin: int, part: Part) -> pa.Table:
    """What is kept of each month."""
    month = "date_trunc('month', value_time AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS month"
    bin_ = f"floor(lead_time / {lead_time_bin})::BIGINT * {lead_time_bin} AS lead_time_bin"
    with pairs.connect(*part.read(), is_piece=True) as connection:
        kept = monthly.statistics([month, *KEYS, bin_], pairs.PAIRED)
        return connection.sql(kept).to_arrow_table()


def _put_together(found: Sequence[pa.Table], kept: Named, todo: _Todo) -> tuple[pa.Table, pa.Table]:
    """The rows to write, and all that there are of the places then."""
    old = kept.only(inputs.within(PLACE, todo.places)).read()
    new = pa.concat_tables([definition(KEPT).plain(old).slice(0, 0), *found], **PERMISSIVE)
    again = [
        (place, inputs.time_of(month)) for month in todo.months for place in todo.months[month]
    ]
    tables = {
        "old": old,
        "new": new,
        "places": pa.table({PLACE: pa.array(sorted(todo.places), pa.string())}),
        "again": pa.table(
            {
                PLACE: pa.array([place for place, _ in again], pa.string()),
                "month": pa.array([month for _, month in again], new["month"].type),
            }
        ),
    }
    key = ", ".join([*KEYS, "lead_time_bin", "month"])
    made = f"{'true' if todo.everything else 'false'} OR ({PLACE}, month) IN (FROM again)"
    with pairs.database() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        # No row is ever taken away: one that holds no pair any more says so.
        gone = connection.sql(
            f"SELECT {key}, 0::BIGINT AS count"  # noqa: S608
            f" FROM old SEMI JOIN places USING ({PLACE}) WHERE count > 0 AND ({made})"
            f" AND NOT EXISTS (FROM new WHERE {_same(KEYS, 'lead_time_bin', 'month')})"
        ).to_arrow_table()
        stays = f"FROM old SEMI JOIN places USING ({PLACE}) WHERE NOT ({made})"
        both = f"FROM (({stays}) UNION ALL BY NAME (FROM new)) WHERE count > 0 ORDER BY {key}"
        there = connection.sql(both).to_arrow_table()
    return pa.concat_tables([new, gone], **PERMISSIVE), there


def _metrics(
    names: Sequence[str], kept: pa.Table, series: Part, places: set[str], lead_time_bin: int,
    cluster: Any,
) -> Iterator[pa.Table]:  # fmt: skip
    """The metrics of the places, a row a metric: from what is kept, or from their whole series."""
    merged = [name for name in names if monthly.add_up([name])]
    if merged:
        yield to_long(monthly.merged(kept, KEYS, merged))
    if others := [name for name in names if name not in merged]:
        part = inputs.of_places(series, places)
        found = evaluate(
            part.primary, part.secondary, part.crosswalk, others, KEYS[:2], lead_time_bin,
            cluster=cluster,
        )  # fmt: skip
        yield to_long(found)


def _gone(new: pa.Table, names: Sequence[str], skill: Named, places: set[str]) -> pa.Table:
    """Of groups that there are no more, a row that says so."""
    old = skill.only(inputs.within(PLACE, places)).read()
    with pairs.database() as connection:
        connection.register("old", old)
        connection.register("new", new)
        connection.register("places", pa.table({PLACE: pa.array(sorted(places), pa.string())}))
        connection.register("names", pa.table({"metric_name": [*names]}))
        return connection.sql(
            "SELECT * REPLACE (0::BIGINT AS count), NULL::DOUBLE AS value"  # noqa: S608
            f" FROM old SEMI JOIN places USING ({PLACE}) SEMI JOIN names USING (metric_name)"
            f" WHERE count > 0 AND NOT EXISTS"
            f" (FROM new WHERE {_same(KEYS, 'lead_time_bin', 'metric_name')})"
        ).to_arrow_table()


def _same(keys: Sequence[str], *more: str) -> str:
    return " AND ".join(f"new.{each} IS NOT DISTINCT FROM old.{each}" for each in (*keys, *more))
