"""Values of parameters, converted by their declared type before any kernel starts."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Any

__all__ = ["convert"]

RELATIVE_TIME = re.compile(r"now(?:-(\d+)([hd]))?")


def convert(type: str, value: Any) -> Any:
    """The value as a notebook gets it: a number, a truth value, text or a list of texts.

    A date becomes ISO 8601 text, `now-2d` an absolute time. Raises ValueError with what was
    expected; text stays text, so that a gauge `"01013500"` never becomes a number.
    """
    try:
        return CONVERT[type](value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"expected {EXPECTED[type]}, got {value!r}") from None


def _boolean(value: Any) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if str(value).lower() not in words:
        raise ValueError
    return words[str(value).lower()]


def _integer(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _list(value: Any) -> list[str]:
    """A list of strings; from text it is a JSON list or parts between commas."""
    if isinstance(value, str):
        is_json = value.lstrip().startswith("[")
        value = json.loads(value) if is_json else [v.strip() for v in value.split(",") if v.strip()]
    if not isinstance(value, (list, tuple)):
        raise ValueError
    return [_string(item) for item in value]


def _date(value: Any) -> str:
    """An ISO 8601 day or time; a time is in UTC, with `now-2d` made absolute."""
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, str) and (relative := RELATIVE_TIME.fullmatch(value.strip())):
        count, unit = int(relative[1] or 0), {"h": "hours", "d": "days"}[relative[2] or "h"]
        hour = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
        return (hour - dt.timedelta(**{unit: count})).isoformat()
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return dt.date.fromisoformat(value).isoformat()
    time = value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(_string(value))
    return (time.astimezone(dt.UTC) if time.tzinfo else time.replace(tzinfo=dt.UTC)).isoformat()


CONVERT: dict[str, Callable[[Any], Any]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "list": _list,
}
EXPECTED = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "date": "a date (2024-09-26, 2024-09-26T13:00Z, now-2d)",
    "list": 'a list of texts (a,b or ["a", "b"])',
}
