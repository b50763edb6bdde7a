"""The partitions of a pipeline: hours, days, months or keys, each of which is run by itself.

>>> months = Partitions(by="monthly", start="2024-01", timezone="Europe/Berlin")
>>> months.between("2024-02", "2024-03")
['2024-02', '2024-03']
>>> [time.isoformat() for time in months.window("2024-03")]
['2024-02-29T23:00:00+00:00', '2024-03-31T22:00:00+00:00']
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from thalweg.errors import InvalidInput, nearest
from thalweg.pipelines.parts import Strict, Timezone

__all__ = ["FORMATS", "Backfill", "Partitions"]

#: How a key of each kind is written, for `strftime`.
FORMATS = {"hourly": "%Y-%m-%dT%H", "daily": "%Y-%m-%d", "monthly": "%Y-%m"}
PLACE = re.compile(r"\{(key|start|end)(?:([-+]\d{1,4})([hd]))?\}")
KEY = re.compile(r"(?!.*\.\.)[\w:+./-]{1,100}")  # FROM..TO stays readable
EXAMPLES = {"hourly": "2024-09-26T13", "daily": "2024-09-26", "monthly": "2024-09"}
STEPS = {"h": dt.timedelta(hours=1), "d": dt.timedelta(days=1)}


class Backfill(Strict):
    """How many partitions are caught up on."""

    order: Literal["oldest_first", "newest_first"] = Field(
        default="oldest_first", description="which partition is the first"
    )
    on_failure: Literal["continue", "stop"] = Field(
        default="continue", description="what becomes of the other partitions when one fails"
    )


class Partitions(Strict):
    """Into what the work is divided; each run of a partition replaces an earlier run of it.

    A partition of time is there once it has ended. Hours are counted in UTC; days and months may be
    in a time zone, in which a day has 23 or 25 hours when clocks change.
    """

    by: Literal["hourly", "daily", "monthly", "key"] = Field(description="kind of partition")
    start: str | None = Field(
        default=None, description="the first: 2024-09-26T13, 2024-09-26 or 2024-09"
    )
    end: str | None = Field(default=None, description="the last; without, it goes on")
    timezone: Timezone = Field(default="UTC", description="in which days and months begin")
    keys: list[str] = Field(default=[], description="the partitions, with `by: key`")
    parameters: dict[str, str] = Field(
        default={},
        description="what a partition gives to which parameter: text with `{key}`, or `{start}` "
        "and `{end}` as times in UTC, moved if need be: `{start-2d}`, `{end+6h}`",
    )
    backfill: Backfill = Backfill()

    @field_validator("start", "end", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """YAML reads a day by itself."""
        return value.isoformat() if type(value) is dt.date else value

    @model_validator(mode="after")
    def _is_whole(self) -> Partitions:
        if self.by == "key":
            if not self.keys or len(set(self.keys)) < len(self.keys):
                raise ValueError("keys: by: key needs some, each of them once")
            for key in self.keys:
                if not KEY.fullmatch(key):
                    raise ValueError(f"keys: expected letters, digits and -_:+./, got {key!r}")
            if self.start or self.end or self.timezone != "UTC":
                raise ValueError("by: start, end and timezone are not for key")
        elif self.keys:
            raise ValueError("keys: they are for by: key")
        elif not self.start:
            raise ValueError(f"start: by: {self.by} needs it ({EXAMPLES[self.by]})")
        elif self.by == "hourly" and self.timezone != "UTC":
            raise ValueError("timezone: hours are counted in UTC: leave it out")
        elif self._begin(self.end or self.start) < self._begin(self.start):
            raise ValueError(f"end: {self.end} is before start {self.start}")
        for name, template in self.parameters.items():
            if re.search(r"[{}]", PLACE.sub("", template)):
                known = "{key}" if self.by == "key" else "{key}, {start}, {end}, {start-2d}"
                raise ValueError(f"parameters.{name}: {template!r} is not text with {known}")
            if self.by == "key" and any(m[0] != "{key}" for m in PLACE.finditer(template)):
                raise ValueError(f"parameters.{name}: by: key gives {{key}} only")
        return self

    def window(self, key: str) -> tuple[dt.datetime, dt.datetime]:
        """Begin and end of a partition of time, in UTC; ValueError if the key is not one."""
        begin = self._begin(key)
        return begin.astimezone(dt.UTC), self._next(begin).astimezone(dt.UTC)

    def between(
        self, first: str | None = None, last: str | None = None, now: dt.datetime | None = None
    ) -> list[str]:
        """The keys from the first to the last, both included; of times, those that have ended.

        Raises
        ------
        InvalidInput
            A key that is not one, or that is not there (yet); the message says which there are.
        """
        if self.by == "key":
            begin = self._place(first) if first else 0
            found = self.keys[begin : self._place(last) + 1 if last else None]
        else:
            limit = self._limit(now or dt.datetime.now(dt.UTC))
            start = self._there(first, limit) if first else self._begin(self.start)
            found = self._steps(start, self._next(self._there(last, limit)) if last else limit)
        if first and last and not found:
            raise InvalidInput(f"partition {last!r} comes before {first!r}: turn them round")
        return found

    def due(self, newest: str | None, now: dt.datetime) -> list[str]:
        """The partitions of time after the newest that was run; without one, the last."""
        there = self.between(now=now)
        return [key for key in there if key > newest] if newest else there[-1:]

    def within(self, begin: dt.datetime, end: dt.datetime) -> list[str]:
        """The partitions of time that have ended and share some of the time between these."""
        first = max(self._begin(self.start), self._floor(begin))
        limit = self._limit(dt.datetime.now(dt.UTC))
        return self._steps(first, min(limit.astimezone(dt.UTC), end.astimezone(dt.UTC)))

    def fill(self, key: str) -> dict[str, str]:
        """What the partition gives to each of its parameters, as text."""
        times = (
            {} if self.by == "key" else dict(zip(("start", "end"), self.window(key), strict=True))
        )

        def place(match: re.Match[str]) -> str:
            if match[1] == "key":
                return key
            moved = times[match[1]] + int(match[2] or 0) * STEPS[match[3] or "h"]
            return moved.isoformat()

        return {name: PLACE.sub(place, text) for name, text in self.parameters.items()}

    def examples(self) -> list[str]:
        """Keys by which the parameters can be tried."""
        return self.keys if self.by == "key" else [str(self.start)]

    def _steps(self, begin: dt.datetime, limit: dt.datetime) -> list[str]:
        """The keys from one time up to another, at which none begins any more."""
        found = []
        while begin.astimezone(dt.UTC) < limit.astimezone(dt.UTC):  # midnight may be left out
            found.append(self._key(begin))
            begin = self._next(begin)
        return found

    def _limit(self, now: dt.datetime) -> dt.datetime:
        """Where the partition begins that has not ended yet, or the first after the end."""
        going_on = self._floor(now)
        return min(going_on, self._next(self._begin(self.end))) if self.end else going_on

    def _floor(self, time: dt.datetime) -> dt.datetime:
        """Begin of the partition in which a time lies."""
        return self._begin(self._key(time.astimezone(ZoneInfo(self.timezone))))

    def _key(self, time: dt.datetime) -> str:
        return f"{time:{FORMATS[self.by]}}"

    def _begin(self, key: str | None) -> dt.datetime:
        """Begin of a partition, in the time zone, in which Python counts by the clock."""
        try:
            begin = dt.datetime.strptime(f"{key} +0000", f"{FORMATS[self.by]} %z")
            if self._key(begin) == key and begin.year < 9000:
                return begin.replace(tzinfo=ZoneInfo(self.timezone))
        except ValueError:
            pass
        raise ValueError(f"expected a key such as {EXAMPLES[self.by]}, got {key!r}")

    def _next(self, begin: dt.datetime) -> dt.datetime:
        if self.by == "monthly":
            return begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
        return begin + dt.timedelta(**{"hours" if self.by == "hourly" else "days": 1})

    def _place(self, key: str) -> int:
        if key not in self.keys:
            raise InvalidInput(f"no partition {key!r}{nearest(key, self.keys)}")
        return self.keys.index(key)

    def _there(self, key: str, limit: dt.datetime) -> dt.datetime:
        try:
            begin = self._begin(key)
        except ValueError as error:
            raise InvalidInput(f"no partition {key!r}: {error}") from None
        first = self._begin(self.start)
        if not first <= begin < limit:
            last = self._floor(limit - dt.timedelta(seconds=1))
            which = f"they go from {self._key(first)} to {self._key(last)}"
            which = which if last >= first else "none has ended yet"
            raise InvalidInput(f"no partition {key!r}: {which}, and one is there once it has ended")
        return begin
