"""What the metrics are computed from: tables of the warehouse by name, or frames at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import AlwaysTrue, In

from thalweg import warehouse
from thalweg.codes import once_each
from thalweg.errors import InvalidInput
from thalweg.metrics.pairs import CROSSWALK, PRIMARY, SECONDARY, columns_of
from thalweg.settings import Settings
from thalweg.warehouse.access import definition, state
from thalweg.warehouse.access import table as iceberg_table

__all__ = ["Frame", "Part", "everything", "parts", "tabled"]

#: A name of a warehouse table, or an Arrow table, pandas or Polars frame, xarray dataset.
Frame = Any
#: About as many rows of both series are paired at once. What a piece holds depends on the data
#: alone: the last digit of a sum depends on what stands beside it, and is the same everywhere.
ROWS = 2_000_000
#: Up to so many rows are read at once where there is no cluster; of more, each piece reads its own.
AT_ONCE = 50_000_000


@dataclass(frozen=True)
class Named:
    """Some locations of a table of the warehouse in one state of it: read where it is needed."""

    name: str
    columns: tuple[str, ...]
    snapshot_id: int | None
    locations: tuple[str, ...] | None
    settings: Settings | None

    def read(self) -> pa.Table:
        """Its rows; the same wherever and whenever they are read."""
        chosen = AlwaysTrue() if self.locations is None else In("location_id", self.locations)  # type: ignore[call-arg, arg-type]
        return warehouse.read(
            self.name, self.columns, chosen, self.snapshot_id, self.settings, encoded=True
        )


@dataclass(frozen=True)
class Part:
    """Both series of some primary locations, and the crosswalk between them."""

    primary: pa.Table | Named
    secondary: pa.Table | Named
    crosswalk: pa.Table

    def read(self) -> tuple[pa.Table, pa.Table, pa.Table]:
        """Primary, secondary, crosswalk."""
        primary, secondary = (
            each.read() if isinstance(each, Named) else each
            for each in (self.primary, self.secondary)
        )
        return primary, secondary, self.crosswalk


def parts(
    primary: Frame,
    secondary: Frame,
    crosswalk: Frame,
    *,
    whole: bool,
    here: bool = False,
    settings: Settings | None = None,
) -> Iterator[Part]:
    """The work: all in one, or cut by primary location into pieces that need no other.

    Parameters
    ----------
    here
        The pieces stay in this process: tables that are not too large are read once for all.
    """
    links = columns_of(everything(crosswalk, CROSSWALK, settings), CROSSWALK, "crosswalk")
    observed = _source(primary, (*PRIMARY, "configuration_name"), settings)
    forecast = _source(secondary, (*SECONDARY, "member"), settings)
    ids = sorted(set(links["primary_location_id"].to_pylist()))
    rows = _rows(observed) + _rows(forecast)
    count = 1 if whole else max(1, min(len(ids), round(rows / ROWS)))
    if count == 1 and (isinstance(crosswalk, str) or isinstance(forecast, pa.Table)):
        yield Part(observed, forecast, links)
        return
    if here and rows <= AT_ONCE:
        observed, forecast = (e.read() if isinstance(e, Named) else e for e in (observed, forecast))
    for i in range(count):
        chosen = ids[len(ids) * i // count : len(ids) * (i + 1) // count]
        mine = links.filter(_is_in("primary_location_id", chosen))
        theirs = sorted(set(mine["secondary_location_id"].to_pylist()))
        yield Part(_of(observed, chosen), _of(forecast, theirs), mine)


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
    source = _source(frame, columns, settings)
    return source.read() if isinstance(source, Named) else source


def _source(frame: Frame, columns: Sequence[str], settings: Settings | None) -> pa.Table | Named:
    if not isinstance(frame, str):
        return once_each(tabled(frame))
    found = iceberg_table(frame, settings)
    snapshot = state(found)
    known = [c for c in columns if c in definition(frame).columns]
    snapshot_id = snapshot.snapshot_id if snapshot else None
    return Named(frame, tuple(known), snapshot_id, None, settings)


def _rows(source: pa.Table | Named) -> int:
    if isinstance(source, pa.Table):
        return len(source)
    found = iceberg_table(source.name, source.settings)
    snapshot = found.snapshot_by_id(source.snapshot_id) if source.snapshot_id else None
    summary = snapshot.summary if snapshot else None
    return int(str(summary["total-records"] or 0)) if summary else 0


def _of(source: pa.Table | Named, locations: Sequence[str]) -> pa.Table | Named:
    if isinstance(source, Named):
        return Named(
            source.name, source.columns, source.snapshot_id, tuple(locations), source.settings
        )
    if "location_id" not in source.column_names:
        return source  # said where it is paired
    source = source.unify_dictionaries()
    places = source["location_id"].combine_chunks()
    wanted = pc.is_in(places.dictionary, pa.array(locations, pa.string()))
    return source.filter(wanted.take(places.indices))


def _is_in(column: str, values: Sequence[str]) -> pc.Expression:
    return pc.field(column).isin(pa.array(values, pa.string()))
