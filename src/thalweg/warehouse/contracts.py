"""The contract of each table, derived from its declaration and checked by pandera, row by row.

What breaks a clause is told apart with its reason; the rest may pass. What concerns a whole batch,
a column that is missing or of another type, is an error. What a source promises: `promises`.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import Any

import pandera.polars as pandera
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from thalweg import sources
from thalweg.codes import key_codes, last_of_each
from thalweg.settings import Settings
from thalweg.warehouse import files
from thalweg.warehouse.access import definition, read
from thalweg.warehouse.merge import conform
from thalweg.warehouse.schema import NUMBER, QUANTITIES, TEXT, TIME, Quantity
from thalweg.warehouse.units import line, measured, pairs

# Importing pandera makes Arrow take times by their clock and forget their zone (it is for Spark).
os.environ.pop("PYARROW_IGNORE_TIMEZONE", None)

__all__ = [
    "Batch",
    "Clause",
    "Freshness",
    "ages",
    "apart",
    "check",
    "clauses",
    "freshness",
    "of_pairs",
    "reasons",
]

EARLIEST = dt.datetime(1800, 1, 1, tzinfo=dt.UTC)
AHEAD = dt.timedelta(days=366)
#: How far back `freshness` looks; what is older is old.
LOOK_BACK = dt.timedelta(days=40)


@dataclass(frozen=True)
class Clause:
    """What a column's values keep to, in words and as an expression that is true of a good row."""

    column: str
    says: str
    holds: Callable[[Batch], pl.Expr]

    @property
    def reason(self) -> str:
        """What is said of a row that breaks it."""
        return f"{self.column}: expected {self.says}"


@dataclass(frozen=True)
class Freshness:
    """How old the newest time of a configuration is, and how old it may be."""

    table: str
    configuration: str
    newest: dt.datetime | None
    allowed: dt.timedelta
    is_stale: bool


def clauses(name: str) -> list[Clause]:
    """The contract of a table; raises `NotFound` for an unknown one."""
    return list(_clauses(name))


def check(name: str, rows: pa.Table, settings: Settings | None = None) -> tuple[pa.Table, pa.Table]:
    """Tell the rows that keep the table's contract from those that break it.

    Parameters
    ----------
    rows
        The table's columns in any order; nullable ones may be missing. Units may be any known one.

    Returns
    -------
    good, bad
        The rows with the columns that they had, the good ones as `merge.conform` makes them; the
        bad ones with one more, `reason`.

    Raises
    ------
    InvalidInput
        A column is unknown, missing, or of a type that does not fit.
    Unavailable
        The catalogue does not answer.
    """
    had = rows.column_names
    good, bad = apart(Batch(name, conform(name, rows), settings), clauses(name))
    had = [column for column in good.column_names if column in had]
    return good.select(had), bad.select([*had, "reason"])


def apart(batch: Batch, found: Sequence[Clause]) -> tuple[pa.Table, pa.Table]:
    """The rows that keep all clauses, and the others with their reasons."""
    rows = batch.rows
    said = reasons(batch, found)
    if said is None:
        return rows, _with_reason(batch.declared.plain(rows.slice(0, 0)), [])
    good = pa.array((said == "").to_numpy())
    bad = batch.declared.plain(rows.filter(pc.invert(good)))
    return rows.filter(good), _with_reason(bad, said.filter(said != "").to_list())


def reasons(batch: Batch, found: Sequence[Clause]) -> pl.Series | None:
    """What is wrong with each row, "" where nothing is; None where all rows are right."""
    columns: dict[str, Any] = {}
    for column in batch.frame.columns:
        checks = [
            pandera.Check(_selecting(clause, batch), name=str(i), n_failure_cases=1)
            for i, clause in enumerate(found)
            if clause.column == column
        ]
        columns[column] = pandera.Column(checks=checks, nullable=True)
    try:
        pandera.DataFrameSchema(columns).validate(batch.frame, lazy=True)
    except pandera.errors.SchemaErrors as broken:
        fails = {found[int(e.check.name)]: e.check_output.to_series() for e in broken.schema_errors}
    else:
        return None
    return pl.DataFrame(
        [
            pl.select(pl.when(~held).then(pl.lit(clause.reason))).to_series().alias(str(i))
            for i, (clause, held) in enumerate(fails.items())
        ]
    ).select(pl.concat_str(pl.all(), separator="; ", ignore_nulls=True).alias("reason"))["reason"]


def ages() -> dict[str, dt.timedelta]:
    """How old the newest time of a configuration may be, by pattern, as the sources promise it."""
    promised = (sources.contract(name).configurations for name in sources.names())
    return {name: age for each in promised for name, age in each.items() if age}


def freshness(now: dt.datetime | None = None, settings: Settings | None = None) -> list[Freshness]:
    """How fresh each configuration is of which we expect it: one that is stale needs a look."""
    now = now or dt.datetime.now(dt.UTC)
    by_pattern = ages()
    found = []
    for name in ("primary_timeseries", "secondary_timeseries"):
        columns = ["configuration_name", "reference_time", "value_time"]
        rows = read(
            name, columns, f"value_time >= '{(now - LOOK_BACK).isoformat()}'", None, settings
        )
        rows = rows.append_column("time", pc.coalesce(rows["reference_time"], rows["value_time"]))
        newest = rows.group_by("configuration_name").aggregate([("time", "max")])
        times = dict(zip(*(newest[c].to_pylist() for c in newest.column_names), strict=True))
        for configuration in sorted(_expected(name, settings) | set(times)):
            allowed = next(
                (a for p, a in by_pattern.items() if fnmatchcase(configuration, p)), None
            )
            if allowed is not None:
                time = times.get(configuration)
                stale = time is None or now - time > allowed
                found.append(Freshness(name, configuration, time, allowed, stale))
    return found


class Batch:
    """Rows that are being checked, as polars sees them, and what several clauses ask of them."""

    def __init__(self, name: str, rows: pa.Table, settings: Settings | None) -> None:
        self.declared = definition(name)
        self.rows = rows
        self.settings = settings

    @cached_property
    def frame(self) -> pl.DataFrame:
        shown = {n for n, c in self.declared.columns.items() if c.type in (TEXT, NUMBER, TIME)}
        names = [name for name in self.rows.column_names if name in shown]
        return pl.from_arrow(self.rows.select(names))  # type: ignore[return-value]

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Each variable and unit that occur together."""
        return [pair[:2] for pair in pairs(self.rows)]

    @cached_property
    def doubled(self) -> bool:
        """Whether a raw file gives a key twice."""

        def is_doubled(rows: pa.Table) -> bool:
            codes = key_codes(rows, (*self.declared.key, "raw_file_id"))
            return last_of_each(codes).size < codes.size

        return any(files.each_month(self.rows, self.declared.month_of, is_doubled))


def _clauses(name: str) -> Iterator[Clause]:
    declared = definition(name)
    known = declared.references | declared.belongs
    for column, each in declared.columns.items():
        if not each.nullable:
            yield Clause(column, "a value, never null", partial(_there, column))
        if each.type == NUMBER:
            yield Clause(column, "a finite number", partial(_finite, column))
        if each.type == TIME:
            yield Clause(column, "a time from 1800 to a year ahead", partial(_dated, column))
        if column in known:
            table, key = known[column]
            says = f"one of `{table}.{key}`"
            yield Clause(column, says, partial(_known, column, table, key))
    if "variable_name" in declared.columns and "raw_file_id" in declared.columns:
        yield Clause("unit_name", "a unit that measures the variable", _measures)
        for prefix, quantity in QUANTITIES.items():
            says = f"{quantity.lowest:,g} to {quantity.highest:,g} {quantity.unit} of {prefix}"
            yield Clause("value", says, partial(_possible, prefix, quantity))
        yield Clause("value", "one value a key and raw file", _single)


def _selecting(clause: Clause, batch: Batch) -> Callable[[Any], Any]:
    # Found out here: pandera would take what the catalogue raises for a check that does not hold.
    holds = clause.holds(batch)
    return lambda data: data.lazyframe.select(holds)


def _there(column: str, _batch: Batch) -> pl.Expr:
    return pl.col(column).is_not_null()


def _finite(column: str, _batch: Batch) -> pl.Expr:
    return pl.col(column).is_finite()


def _dated(column: str, _batch: Batch) -> pl.Expr:
    return pl.col(column).is_between(EARLIEST, dt.datetime.now(dt.UTC) + AHEAD)


def _known(column: str, table: str, key: str, batch: Batch) -> pl.Expr:
    names = read(table, [key], settings=batch.settings)[key]
    return pl.col(column).is_in(pl.Series(names.unique().to_pylist(), dtype=pl.String))


def _measures(batch: Batch) -> pl.Expr:
    return of_pairs(
        (variable, unit)
        for variable, unit in batch.pairs
        if (quantity := measured(variable, QUANTITIES)) and line(unit, quantity.unit) is None
    ).not_()


def _possible(prefix: str, quantity: Quantity, batch: Batch) -> pl.Expr:
    """In the unit of the row: the ends of the range are converted, and not the values."""
    holds = pl.lit(True)
    for variable, unit in batch.pairs:
        back = line(quantity.unit, unit)
        if back and measured(variable, {prefix: True}):
            low, high = (back[0] * end + back[1] for end in (quantity.lowest, quantity.highest))
            holds &= pl.col("value").is_between(low, high) | of_pairs([(variable, unit)]).not_()
    return holds


def _single(batch: Batch) -> pl.Expr:
    if not batch.doubled:
        return pl.lit(True)
    value = pl.col("value")
    return (value.min() == value.max()).over(*batch.declared.key, "raw_file_id")


def of_pairs(wanted: Iterable[tuple[str, str]]) -> pl.Expr:
    """Rows of these pairs of variable and unit."""
    return pl.any_horizontal(
        pl.lit(False),
        *((pl.col("variable_name") == v) & (pl.col("unit_name") == u) for v, u in wanted),
    )


def _expected(name: str, settings: Settings | None) -> set[str]:
    """Configurations that the warehouse knows, of the kind that the table holds."""
    kind = name.removesuffix("_timeseries")
    rows = read("configurations", ["name", "type"], None, None, settings)
    return set(rows.filter(pc.field("type") == kind)["name"].to_pylist())


def _with_reason(rows: pa.Table, reasons: list[str]) -> pa.Table:
    return rows.append_column("reason", pa.array(reasons, pa.string()))
