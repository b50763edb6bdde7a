"""Converting units on the way in: by pint, exactly, only to what was asked for, and never silently.

>>> line("ft^3/s", "m^3/s")
(0.028316846592, 0.0)
>>> line("degC", "K")
(1.0, 273.15)
>>> line("ft", "m^3/s") is None
True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from thalweg.warehouse.schema import QUANTITIES

__all__ = ["STANDARD", "Conversion", "convert", "line", "measured"]

#: The unit in which the warehouse keeps a variable, by the beginning of its name.
STANDARD = {prefix: quantity.unit for prefix, quantity in QUANTITIES.items()}


@dataclass(frozen=True)
class Conversion:
    """Values of a variable that were converted from one unit to another."""

    variable: str
    unit: str
    to: str
    count: int

    def __str__(self) -> str:
        return f"{self.count:,} values of {self.variable} converted from {self.unit} to {self.to}"


def convert(rows: pa.Table, to: Mapping[str, str]) -> tuple[pa.Table, list[Conversion]]:
    """The rows with their values in the units asked for, and what was converted.

    Parameters
    ----------
    rows
        Table with `variable_name`, `unit_name` and `value`.
    to
        Unit wanted, by the beginning of the variable's name: `STANDARD`, or
        `{"streamflow": "ft^3/s"}`.

    Returns
    -------
    rows, conversions
        A row whose unit cannot become the one asked for, or that nobody asked about, stays as it
        is: `contracts.check` says of it that its unit does not measure its variable.
    """
    done = []
    for variable, unit, count in pairs(rows):
        wanted = measured(variable, to)
        if wanted is None or wanted == unit or (found := line(unit, wanted)) is None:
            continue
        slope, offset = found
        these = pc.and_(
            pc.equal(rows["variable_name"], variable), pc.equal(rows["unit_name"], unit)
        )
        values = pc.multiply(rows["value"], slope)
        values = pc.add(values, offset) if offset else values
        rows = _put(rows, "value", pc.if_else(these, values, rows["value"]))
        rows = _put(rows, "unit_name", pc.if_else(these, wanted, rows["unit_name"]))
        done.append(Conversion(variable, unit, wanted, count))
    return rows, done


def pairs(rows: pa.Table) -> list[tuple[str, str, int]]:
    """Each variable and unit that occur together, and how often."""
    names = rows.select(["variable_name", "unit_name"])
    counted = names.group_by(names.column_names).aggregate([([], "count_all")]).drop_null()
    return [tuple(row.values()) for row in counted.to_pylist()]


def measured(variable: str, by: Mapping[str, Any]) -> Any | None:
    """What `by` has for the beginning of a variable's name, whole words only; else None.

    >>> measured("air_temperature_hourly_inst", STANDARD)
    'degC'
    """
    return next((by[p] for p in by if variable == p or variable.startswith(f"{p}_")), None)


@lru_cache(maxsize=256)
def line(unit: str, to: str) -> tuple[float, float] | None:
    """Slope and offset that make a value in `unit` one in `to`; None where nothing does.

    Counted in decimals, so that a cubic foot has the 0.028316846592 m^3 that it has by definition.
    """
    from pint import PintError

    registry = _registry()
    try:
        zero, one = (registry.Quantity(Decimal(i), unit).to(to).magnitude for i in (0, 1))
    except (PintError, ValueError, TypeError, AttributeError, ArithmeticError):
        return None
    return float(one - zero), float(zero)


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint  # takes a while, and many processes never convert

    return pint.UnitRegistry(non_int_type=Decimal)


def _put(rows: pa.Table, name: str, values: Any) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, values)
