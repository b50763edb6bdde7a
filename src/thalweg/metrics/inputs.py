"""What the metrics are computed from: tables of the warehouse by name, or frames at hand."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThanOrEqual,
    In,
    LessThan,
    LessThanOrEqual,
)

from thalweg import warehouse
from thalweg.codes import once_each
from thalweg.errors import InvalidInput
from thalweg.metrics.pairs import CROSSWALK, PRIMARY, SECONDARY, columns_of
from thalweg.settings import Settings
from thalweg.warehouse.access import definition, now

__all__ = [
    "Frame", "Named", "Part", "Source", "by_month", "everything", "large", "links_in", "links_of",
    "observations", "of_places", "parts", "sizes", "source", "sources", "tabled", "time_of",
    "within",
]  # fmt: skip

#: A name of a warehouse table, or an Arrow table, pandas or Polars frame, xarray dataset.
Frame = Any
#: About as many rows of both series are paired at once. What a piece holds depends on the data
#: alone: the last digit of a sum depends on what stands beside it, and is the same everywhere.
ROWS = 3_000_000
#: Up to so many rows are read at once where there is no cluster; of more, each piece reads its own.
AT_ONCE = 50_000_000
#: Of more locations than this, those between them are read too, and left aside: a range is cheaper
#: to test than a list.
MOST = 200
OBSERVED, FORECAST = (*PRIMARY, "configuration_name"), (*SECONDARY, "member")


@dataclass(frozen=True)
class Named:
    """Some rows of a table of the warehouse in one state of it: read where they are needed."""

    name: str
    columns: tuple[str, ...]
    snapshot_id: int | None
    rows: int  # of all of the table
    settings: Settings | None
    where: BooleanExpression = AlwaysTrue()

    def read(self) -> pa.Table:
        """Its rows; the same wherever and whenever they are read."""
        if self.snapshot_id is None:  # as it was when it was empty
            return once_each(definition(self.name).arrow.empty_table().select(self.columns))
        return once_each(
            warehouse.read(
                self.name, self.columns, self.where, self.snapshot_id, self.settings, encoded=True
            )
        )

    def only(self, where: BooleanExpression) -> Named:
        """Those of its rows for which this holds too."""
        return replace(self, where=And(self.where, where))


#: Rows at hand, or some of a table of the warehouse that are not read yet.
Source: TypeAlias = pa.Table | Named


@dataclass(frozen=True)
class Part:
    """Both series of some primary locations, and the crosswalk between them."""

    primary: Source
    secondary: Source
    crosswalk: pa.Table

    def read(self) -> tuple[pa.Table, pa.Table, pa.Table]:
        """Primary, secondary, crosswalk."""
        with ThreadPoolExecutor() as pool:  # each waits for the store
            primary, secondary = pool.map(_read, (self.primary, self.secondary))
        return primary, secondary, self.crosswalk


def sources(
    primary: Frame,
    secondary: Frame,
    crosswalk: Frame,
    primary_configuration: str | None = None,
    settings: Settings | None = None,
) -> tuple[Source, Source, Source]:
    """The series and their crosswalk, tables of the warehouse in their state of now."""
    given = ((primary, OBSERVED), (secondary, FORECAST), (crosswalk, CROSSWALK))
    with ThreadPoolExecutor() as pool:  # each waits for the catalogue
        observed, forecast, links = pool.map(lambda each: source(each[0], each[1], settings), given)
    return observations(observed, primary_configuration), forecast, links


def parts(
    primary: Source, secondary: Source, crosswalk: Source, *, whole: bool, here: bool = False
) -> Iterator[Part]:
    """The work: all in one, or cut by primary location into pieces that need no other.

    Parameters
    ----------
    here
        The pieces stay in this process: tables that are not too large are read once for all.
    """
    series = _series(primary, secondary, crosswalk)
    ids = sorted(set(series.crosswalk["primary_location_id"].to_pylist()))
    rows = _rows(primary) + _rows(secondary)
    count = 1 if whole else max(1, min(len(ids), math.ceil(rows / ROWS)))
    if count == 1:
        yield series
        return
    if here and rows <= AT_ONCE:
        series = Part(*series.read())
    for i in range(count):
        chosen = ids[len(ids) * i // count : len(ids) * (i + 1) // count]
        mine = links_of(series.crosswalk, chosen)
        theirs = sorted(set(mine["secondary_location_id"].to_pylist()))
        yield Part(_of(series.primary, chosen), _of(series.secondary, theirs), mine)


def large(primary: Source, secondary: Source, crosswalk: Source) -> Part | None:
    """The series, not yet read, if they are tables of the warehouse of more rows than a piece."""
    if not isinstance(primary, Named) or not isinstance(secondary, Named):
        return None
    if _rows(primary) + _rows(secondary) <= ROWS:
        return None
    return _series(primary, secondary, crosswalk)


def sizes(series: Part) -> Counter[int]:
    """Number of rows of both series by month since January 1970; none of what is no table."""
    counted = Counter[int]()
    tables = [each for each in (series.primary, series.secondary) if isinstance(each, Named)]
    with ThreadPoolExecutor() as pool:
        for found in pool.map(
            lambda of: warehouse.rows_by_month(of.name, of.snapshot_id, of.settings), tables
        ):
            counted.update(found)
    return counted


def by_month(
    series: Part, rows: Counter[int], places: Mapping[int, set[str]] | None = None
) -> Iterator[Part]:
    """The work cut by month: some months after another in one piece, or a large one in several.

    Parameters
    ----------
    series
        Both of them tables of the warehouse.
    rows
        What `sizes` gives.
    places
        The primary locations that are wanted of each month; all of all months by default.
    """
    if not isinstance(series.primary, Named) or not isinstance(series.secondary, Named):
        raise TypeError("only tables of the warehouse are read by the month")
    everywhere = {*series.crosswalk["primary_location_id"].to_pylist()}
    wanted = dict.fromkeys(rows, everywhere) if places is None else places
    for months in _spans(wanted, rows):
        start, end = (time_of(each).isoformat() for each in (months[0], months[-1] + 1))
        then = And(GreaterThanOrEqual("value_time", start), LessThan("value_time", end))  # type: ignore[call-arg, arg-type]
        span = Part(series.primary.only(then), series.secondary.only(then), series.crosswalk)
        chosen = sorted(wanted[months[0]] & everywhere)
        count = sum(rows[each] for each in months) * len(chosen) / max(1, len(everywhere))
        pieces = max(1, min(round(count / ROWS), len(chosen)))
        if pieces == 1 and len(chosen) == len(everywhere):
            yield span  # without a condition: what the crosswalk lacks is soon left aside
            continue
        for i in range(pieces):
            mine = chosen[len(chosen) * i // pieces : len(chosen) * (i + 1) // pieces]
            yield of_places(span, mine)


def of_places(series: Part, places: Collection[str]) -> Part:
    """The series of some primary locations, out of tables of the warehouse."""
    links = links_of(series.crosswalk, places)
    ids = (places, {*links["secondary_location_id"].to_pylist()})
    primary, secondary = (
        each.only(within("location_id", these)) if isinstance(each, Named) else each
        for each, these in zip((series.primary, series.secondary), ids, strict=True)
    )
    return Part(primary, secondary, links)


def _spans(wanted: Mapping[int, set[str]], rows: Counter[int]) -> Iterator[list[int]]:
    """Months of the same places, with no other between them, cut into pieces of about one size."""
    following = dict(pairwise(sorted(rows)))
    total = sum(rows[each] for each in wanted)
    size = total / max(1, math.ceil(total / ROWS))
    span: list[int] = []
    for month in sorted(wanted):
        if span and (
            following.get(span[-1]) != month
            or wanted[month] != wanted[span[0]]
            or sum(rows[each] for each in span) + rows[month] / 2 > size
        ):
            yield span
            span = []
        span = [*span, month]
    if span:
        yield span


def _series(primary: Source, secondary: Source, crosswalk: Source) -> Part:
    """The series, of tables of the warehouse no other places than those of a crosswalk at hand."""
    series = Part(primary, secondary, links_in(crosswalk))
    if isinstance(crosswalk, Named):
        return series
    return of_places(series, {*series.crosswalk["primary_location_id"].to_pylist()})


def links_in(crosswalk: Source) -> pa.Table:
    """Which secondary location stands for which primary one; not where either is missing."""
    links = columns_of(_read(crosswalk), CROSSWALK, "crosswalk").drop_null()
    return links.cast(pa.schema([(name, pa.string()) for name in CROSSWALK]))


def links_of(crosswalk: pa.Table, places: Collection[str]) -> pa.Table:
    """The crosswalk of some primary locations."""
    return crosswalk.filter(_is_in("primary_location_id", sorted(places)))


def within(column: str, values: Collection[str]) -> BooleanExpression:
    """A condition that holds for rows of these values; of many also for those between them."""
    if len(values) <= MOST:
        return In(column, values)  # type: ignore[call-arg, arg-type]
    return And(GreaterThanOrEqual(column, min(values)), LessThanOrEqual(column, max(values)))  # type: ignore[call-arg, arg-type]


def time_of(month: int) -> dt.datetime:
    """The first moment of a month since January 1970."""
    return dt.datetime(1970 + month // 12, month % 12 + 1, 1, tzinfo=dt.UTC)


def tabled(frame: Frame) -> pa.Table:
    """An Arrow table of a frame of any kind.

    Raises
    ------
    InvalidInput
        It is no table; a time has no time zone (those of xarray are in UTC).
    """
    if hasattr(frame, "to_dataframe"):  # xarray, whose times have no zone and are in UTC
        frame = frame.to_dataframe().reset_index()
        for name in frame.select_dtypes("datetime"):
            frame[name] = frame[name].dt.tz_localize("UTC")
    if hasattr(frame, "collect") and not isinstance(frame, pa.Table):  # Polars, lazy
        frame = frame.collect()
    if hasattr(frame, "to_arrow"):  # Polars
        frame = frame.to_arrow()
    elif not isinstance(frame, pa.Table) and hasattr(frame, "columns"):  # pandas
        frame = pa.Table.from_pandas(frame, preserve_index=False)
    if not isinstance(frame, pa.Table):
        raise InvalidInput(
            f"expected the name of a warehouse table, an Arrow table, a pandas or Polars frame or "
            f"an xarray dataset, got {type(frame).__name__}"
        )
    for i, field in enumerate(frame.schema):
        if not pa.types.is_timestamp(field.type):
            continue
        if field.type.tz is None:
            raise InvalidInput(
                f"{field.name} holds times without a time zone: say which it is, as in "
                f"frame[{field.name!r}].dt.tz_localize('UTC')"
            )
        if field.type.unit == "ns":  # as pandas has them, and DuckDB has no arithmetic for
            times = frame[field.name].cast(pa.timestamp("us", field.type.tz), safe=False)
            frame = frame.set_column(i, field.name, times)
    return frame


def everything(frame: Frame, columns: Sequence[str], settings: Settings | None = None) -> pa.Table:
    """All rows of a frame of any kind; these columns of a table of the warehouse."""
    return _read(source(frame, columns, settings))


def source(frame: Frame, columns: Sequence[str], settings: Settings | None) -> Source:
    """A frame of any kind as Arrow has it; of a table by name its state of now, not yet read."""
    if isinstance(frame, Named):
        return frame
    if not isinstance(frame, str):
        return once_each(tabled(frame))
    snapshot = now(frame, settings)
    known = tuple(c for c in columns if c in definition(frame).columns)
    summary = snapshot.summary if snapshot else None
    rows = int(str(summary["total-records"] or 0)) if summary else 0
    return Named(frame, known, snapshot.snapshot_id if snapshot else None, rows, settings)


def observations(found: Source, configuration: str | None) -> Source:
    """The primary series, of this configuration if one is named; of a table before it is read."""
    if configuration is None:
        return found
    if isinstance(found, Named):
        return found.only(EqualTo("configuration_name", configuration))  # type: ignore[call-arg, arg-type]
    columns_of(found, ["configuration_name"], "primary")
    return found.filter(pc.field("configuration_name").cast(pa.string()) == configuration)


def _read(source: Source) -> pa.Table:
    return source.read() if isinstance(source, Named) else source


def _rows(source: Source) -> int:
    return source.rows if isinstance(source, Named) else len(source)


def _of(source: Source, locations: Sequence[str]) -> Source:
    if isinstance(source, Named):
        return source.only(In("location_id", locations))  # type: ignore[call-arg, arg-type]
    if "location_id" not in source.column_names:
        return source  # said where it is paired
    source = source.unify_dictionaries()
    places = source["location_id"].combine_chunks()
    wanted = pc.is_in(places.dictionary, pa.array(locations, pa.string()))
    return source.filter(wanted.take(places.indices))


def _is_in(column: str, values: Sequence[str]) -> pc.Expression:
    return pc.field(column).isin(pa.array(values, pa.string()))
