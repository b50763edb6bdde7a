"""Metrics kept up to date: only places and months whose series changed are paired again.

Of each month the table `monthly_statistics` keeps means, extremes and sums of squared deviations,
from which those of all months together follow (Chan et al. 1983,
doi:10.1080/00031305.1983.10483115). A metric that is made of anything else, as of a median, is
computed again from the whole series of the places that changed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
from pyiceberg.expressions import EqualTo

from thalweg import warehouse
from thalweg.errors import NotFound, Unavailable
from thalweg.metrics import inputs, monthly, pairs, scale
from thalweg.metrics.evaluation import evaluate, to_long
from thalweg.metrics.inputs import FORECAST, OBSERVED, Part
from thalweg.metrics.pairs import CROSSWALK
from thalweg.metrics.question import Question, asked, listed
from thalweg.metrics.table import DEFAULT
from thalweg.settings import Settings

__all__ = ["Updated", "update"]

KEPT, STATE = "monthly_statistics", "thalweg.evaluated"
ATTEMPTS = 5
LINKS, PLACE = "location_crosswalks", "primary_location_id"
READ = {"primary_timeseries": OBSERVED, "secondary_timeseries": FORECAST, LINKS: CROSSWALK}
KEYS = (PLACE, "configuration_name", "variable_name", "unit_name")


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
        Names of `METRICS` that need no thresholds.
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
    names = listed(metrics)
    Question(names=names, **asked(KEYS[:2], lead_time_bin=lead_time_bin)).check()
    terms = {"lead_time_bin": lead_time_bin, "primary_configuration": primary_configuration}
    before = warehouse.marked(KEPT, STATE, settings)
    if before.get("terms") != terms:
        before = {"metrics": [], "read": {}}
    for _ in range(ATTEMPTS):
        observed, forecast, crosswalk = (
            inputs.source(name, columns, settings) for name, columns in READ.items()
        )
        read = {each.name: each.snapshot_id for each in (observed, forecast, crosswalk)}
        state = {"terms": terms, "metrics": sorted(names), "read": read}
        if state == before:
            return Updated(0, 0, None)
        if primary_configuration is not None:
            observed = observed.only(EqualTo("configuration_name", primary_configuration))  # type: ignore[call-arg, arg-type]
        series = Part(observed, forecast, crosswalk.read())
        sizes = inputs.sizes(series)
        units = _changed(before["read"], read, series.crosswalk, sizes, settings)
        found = scale.run(
            partial(_statistics, lead_time_bin),
            inputs.by_month(series, sizes, units),
            cluster,
            progress,
        )
        places = set[str]().union(*units.values())
        if not set(names) <= set(before["metrics"]):
            places.update(series.crosswalk[PLACE].to_pylist())
        kept, written = _keep(found, units, places, settings)
        rows = pa.concat_tables(_metrics(names, kept, series, places, lead_time_bin, cluster))
        done = warehouse.write("metrics", rows, settings)
        if warehouse.mark(KEPT, STATE, state, written.snapshot_id, settings):
            return Updated(len(places), len(units), done)
    raise Unavailable("metrics: other updates were faster again and again; update again")


def _changed(
    before: dict[str, Any],
    now: dict[str, Any],
    crosswalk: pa.Table,
    sizes: Counter[int],
    settings: Settings | None,
) -> dict[int, set[str]]:
    """The places to pair again, by month since January 1970."""
    everything = {month: {*crosswalk[PLACE].to_pylist()} for month in sizes}
    if None in now.values() or None in map(before.get, now):  # empty still, or never read before
        return everything
    try:
        observed, forecast, moved = (
            warehouse.changes(
                name, PLACE if name == LINKS else "location_id", before[name], now[name], settings
            ).to_pydict()
            for name in READ
        )
    except NotFound:  # upkeep has ended what was read then
        return everything
    stand_for = defaultdict[str, set[str]](set)
    for place, reach in zip(*crosswalk.to_pydict().values(), strict=True):
        stand_for[place].add(place)
        stand_for[reach].add(place)
    units = defaultdict[int, set[str]](set)
    for month in sizes if moved[PLACE] else ():
        units[month].update(moved[PLACE])
    for changed in (observed, forecast):
        for location, month in zip(changed["location_id"], changed["month"], strict=True):
            if location in stand_for:
                units[month].update(stand_for[location])
    return units


def _statistics(lead_time_bin: int, part: Part) -> pa.Table:
    """What is kept of each month."""
    month = "date_trunc('month', value_time AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS month"
    bin_ = f"floor(lead_time / {lead_time_bin})::BIGINT * {lead_time_bin} AS lead_time_bin"
    with pairs.connect(*part.read()) as connection:
        kept = monthly.statistics([month, *KEYS, bin_], pairs.PAIRED)
        return connection.sql(kept).to_arrow_table()


def _keep(
    found: Sequence[pa.Table],
    units: dict[int, set[str]],
    places: Collection[str],
    settings: Settings | None,
) -> tuple[pa.Table, warehouse.Written]:
    """Put the new statistics in place of the old ones; returns what there is of the places now."""
    old = warehouse.read(KEPT, where=inputs.within(PLACE, places), settings=settings)
    new = pa.concat_tables([old.slice(0, 0), *found], promote_options="permissive")
    again = [(place, inputs.time_of(month)) for month, each in units.items() for place in each]
    tables = {
        "old": old,
        "new": new,
        "places": pa.table({PLACE: pa.array(sorted(places), pa.string())}),
        "again": pa.table(
            {
                PLACE: pa.array([place for place, _ in again], pa.string()),
                "month": pa.array([month for _, month in again], old["month"].type),
            }
        ),
    }
    key = (*KEYS, "lead_time_bin", "month")
    same = " AND ".join(f"new.{column} IS NOT DISTINCT FROM old.{column}" for column in key)
    with duckdb.connect(config=pairs.CONFIG) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            connection.register(name, table)
        # No row is ever taken away: one that holds no pair any more says so.
        gone = connection.sql(
            f"SELECT {', '.join(key)}, 0::BIGINT AS count"  # noqa: S608
            f" FROM old SEMI JOIN again USING ({PLACE}, month)"
            f" WHERE count > 0 AND NOT EXISTS (FROM new WHERE {same})"
        ).to_arrow_table()
        stays = f"FROM old SEMI JOIN places USING ({PLACE}) ANTI JOIN again USING ({PLACE}, month)"
        both = f"FROM (({stays}) UNION ALL BY NAME (FROM new)) WHERE count > 0"
        kept = connection.sql(f"{both} ORDER BY {', '.join(key)}").to_arrow_table()
    rows = pa.concat_tables([new, gone], promote_options="permissive")
    return kept, warehouse.write(KEPT, rows, settings)


def _metrics(
    names: Sequence[str],
    kept: pa.Table,
    series: Part,
    places: Collection[str],
    lead_time_bin: int,
    cluster: Any,
) -> Iterator[pa.Table]:
    """The metrics of the places, a row a metric: from what is kept, or from their whole series."""
    merged = [name for name in names if monthly.add_up([name])]
    if merged:
        yield to_long(monthly.merged(kept, KEYS, merged))
    if others := [name for name in names if name not in merged]:
        links = inputs.links_of(series.crosswalk, places)
        found = evaluate(
            series.primary, series.secondary, links, others, KEYS[:2], lead_time_bin,
            cluster=cluster,
        )  # fmt: skip
        yield to_long(found)
