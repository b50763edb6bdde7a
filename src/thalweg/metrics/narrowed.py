"""What a condition says of places, times and configurations: no more is read than it asks for.

The condition itself is applied to the pairs all the same, so what is not understood here only costs
its reading.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyiceberg.expressions import (
    BooleanExpression,
    EqualTo,
    GreaterThanOrEqual,
    In,
    LessThanOrEqual,
)

from thalweg.metrics import inputs
from thalweg.metrics.inputs import Named, Source
from thalweg.metrics.pairs import database
from thalweg.metrics.question import Question

__all__ = ["narrowed"]

Said = tuple[str, BooleanExpression | set[str]]
#: Bounds are taken as included: a text may tell a time to more digits than a table has.
BOUNDS = {
    "COMPARE_EQUAL": EqualTo,
    "COMPARE_GREATERTHAN": GreaterThanOrEqual,
    "COMPARE_GREATERTHANOREQUALTO": GreaterThanOrEqual,
    "COMPARE_LESSTHAN": LessThanOrEqual,
    "COMPARE_LESSTHANOREQUALTO": LessThanOrEqual,
}
PLACE, NAME = "primary_location_id", "configuration_name"
TIMES = ("value_time", "reference_time")


def narrowed(
    question: Question,
    primary: Source,
    secondary: Source,
    crosswalk: Source,
    *,
    against: bool = False,
) -> tuple[Source, Source, Source]:
    """The series without rows that the condition of the question leaves out in any case.

    Parameters
    ----------
    against
        There is a reference, which is of another configuration and made of other times.
    """
    for column, said in _said(question.where, question.parameters):
        if column == PLACE and isinstance(said, set):
            crosswalk = inputs.links_of(inputs.links_in(crosswalk), said)
            continue
        if column == NAME and against:
            continue
        where = In(NAME, said) if isinstance(said, set) else said  # type: ignore[call-arg, arg-type]
        secondary = _only(secondary, where)
        # Thresholds are of all observations of a place.
        if column == "value_time" and not against and question.thresholds is None:
            primary = _only(primary, where)
    return primary, secondary, crosswalk


def _only(source: Source, where: BooleanExpression) -> Source:
    return source.only(where) if isinstance(source, Named) else source


def _said(where: str | None, parameters: Sequence[Any] | Mapping[str, Any]) -> Iterator[Said]:
    """What is said of single columns by the parts of a condition that hold all together."""
    if not where:
        return
    with database() as connection:
        query = f"SELECT 1 WHERE ({where}\n)"
        parsed = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
    tree: Any = json.loads(parsed[0]) if parsed else {"error": True}
    parts = [] if tree["error"] else [tree["statements"][0]["node"]["where_clause"]]
    while parts:
        part = parts.pop()
        if part["type"] == "CONJUNCTION_AND":
            parts += part["children"]
            continue
        if part["type"] == "COMPARE_BETWEEN":
            ends = (("COMPARE_GREATERTHAN", "lower"), ("COMPARE_LESSTHAN", "upper"))
            parts += [{"type": t, "left": part["input"], "right": part[end]} for t, end in ends]
            continue
        column, *values = part.get("children") or [part.get("left") or {}, part.get("right") or {}]
        name = ".".join(column.get("column_names", ())).lower()
        known = [_value(value, parameters) for value in values]
        if name in (PLACE, NAME) and part["type"] in ("COMPARE_EQUAL", "COMPARE_IN"):
            if all(isinstance(value, str) for value in known):
                yield name, set(known)
        elif name in TIMES and part["type"] in BOUNDS and (time := _time(known[0])):
            yield name, BOUNDS[part["type"]](name, time.isoformat())


def _value(node: Mapping[str, Any], parameters: Sequence[Any] | Mapping[str, Any]) -> Any:
    """The value of a text or a parameter; None of anything else."""
    if node.get("type") == "VALUE_PARAMETER":
        key = str(node.get("identifier"))
        if isinstance(parameters, Mapping):
            return parameters.get(key)
        return parameters[int(key) - 1] if key.isdigit() and int(key) <= len(parameters) else None
    literal = node.get("literal", {})
    return literal.get("text") if literal.get("kind") == "STRING" else None


def _time(value: Any) -> dt.datetime | None:
    """A time in UTC, where it has no zone; None of what may be none."""
    try:
        time = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(time, dt.datetime):
        return None
    time = dt.datetime.combine(time.date(), time.timetz())  # of pandas, without nanoseconds
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)
