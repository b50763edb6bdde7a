"""The parts of a pipeline.yaml: parameters, schedule, retries, resources, whom to notify."""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from thalweg.errors import nearest
from thalweg.pipelines import values
from thalweg.private import holds_secret

__all__ = [
    "UNSAFE",
    "Duration",
    "Notify",
    "Parameter",
    "Resources",
    "Retries",
    "Schedule",
    "Strict",
    "Timezone",
    "duration",
]

CRON_FIELDS = (
    ("minute", range(60), ""),
    ("hour", range(24), ""),
    ("day", range(1, 32), ""),
    ("month", range(1, 13), "jan feb mar apr may jun jul aug sep oct nov dec"),
    ("weekday", range(8), "sun mon tue wed thu fri sat"),
)
CRON_PART = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/[1-9]\d*)?")
NUMBERS = ("integer", "number")
DURATION = r"^([1-9]\d{0,4})([mhd])$"
#: Of a parameter, by its name or its value.
UNSAFE = (
    "looks like a secret, and parameters are kept in clear text in the executed notebook: let the "
    "notebook's library read it from its environment"
)
UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> dt.timedelta:
    """`90m`, `6h` or `2d` as a span of time; ValueError if it is nothing of the kind."""
    match = re.fullmatch(DURATION, text)
    if not match:
        raise ValueError(f"expected a duration such as 90m, 6h or 2d, got {text!r}")
    return dt.timedelta(**{UNITS[match[2]]: int(match[1])})


def _is_duration(text: str) -> str:
    duration(text)
    return text


def _is_known(timezone: str) -> str:
    known = zoneinfo.available_timezones()
    if timezone not in known:
        raise ValueError(f"unknown time zone {timezone!r}{nearest(timezone, known)}")
    return timezone


Duration = Annotated[
    str, AfterValidator(_is_duration), WithJsonSchema({"type": "string", "pattern": DURATION})
]
Timezone = Annotated[str, AfterValidator(_is_known)]


class Strict(BaseModel):
    """A part of a specification: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Parameter(Strict):
    """One typed parameter of a pipeline's notebook; without `default` a value must be given.

    `list` is a list of strings. `date` is a day or a time in UTC, or `now`, `now-6h`, `now-2d`,
    which is counted back from the full hour in which the run starts.
    """

    type: Literal["string", "integer", "number", "boolean", "date", "list"]
    description: str = Field(description="what it is, for who gives it")
    default: Any = Field(default=None, description="the value if none is given; `null` is a value")
    pattern: str | None = Field(
        default=None, description="regular expression that all of the text matches"
    )
    minimum: float | None = Field(default=None, description="the least number")
    maximum: float | None = Field(default=None, description="the largest number")
    enum: list[Any] | None = Field(default=None, description="the values that are allowed")

    @property
    def required(self) -> bool:
        return "default" not in self.model_fields_set

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _default_is_valid(self) -> Parameter:
        if self.type not in NUMBERS and (self.minimum, self.maximum) != (None, None):
            raise ValueError(f"minimum and maximum are for {' and '.join(NUMBERS)}")
        if self.type == "date" and isinstance(self.default, dt.date):  # YAML reads dates itself
            object.__setattr__(self, "default", self.default.isoformat())
        if self.default is not None and not self._is_of_type(self.default):
            raise ValueError(f"default: expected {self.type}, got {self.default!r}{_quote(self)}")
        if self.default is not None:
            self.convert(self.default)
        return self

    def convert(self, value: Any) -> Any:
        """The value as the notebook gets it; text is converted by the declared type.

        Raises
        ------
        ValueError
            The value is not of the type, or not within pattern, minimum, maximum, enum.
        """
        if value is None and not self.required and self.default is None:
            return None
        converted = values.convert(self.type, value)
        for item in converted if isinstance(converted, list) else [converted]:
            self._check(item)
        return converted

    def _check(self, value: Any) -> None:
        if isinstance(value, str) and holds_secret(value):
            raise ValueError(f"the value {UNSAFE}")
        if self.pattern and not re.fullmatch(self.pattern, str(value)):
            raise ValueError(f"{value!r} does not match the pattern {self.pattern}")
        if self.minimum is not None and value < self.minimum:
            raise ValueError(f"{value!r} is below the minimum {self.minimum:g}")
        if self.maximum is not None and value > self.maximum:
            raise ValueError(f"{value!r} is above the maximum {self.maximum:g}")
        if self.enum is not None and value not in self.enum:
            raise ValueError(f"{value!r} is not allowed{nearest(str(value), map(str, self.enum))}")

    def _is_of_type(self, value: Any) -> bool:
        kinds: dict[str, Any] = {
            "integer": int,
            "number": int | float,
            "boolean": bool,
            "list": list,
        }
        return isinstance(value, kinds.get(self.type, str)) and not (
            self.type in NUMBERS and isinstance(value, bool)
        )


class Schedule(Strict):
    """When a pipeline runs by itself: five cron fields, read in a time zone.

    When clocks are put forward, a time that is left out runs at the next one that there is; when
    they are put back, a time that comes twice runs once, and what runs each hour runs each hour.
    """

    cron: str = Field(description="minute hour day month weekday")
    timezone: Timezone = Field(default="UTC", description="a name of the IANA database")
    runs: Literal["defaults", "partitions"] = Field(
        default="defaults",
        description="what is run: the default values, or each partition that has ended since",
    )

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        if len(cron.split()) != len(CRON_FIELDS):
            raise ValueError("expected five fields: minute hour day month weekday")
        for text, (name, numbers, words) in zip(cron.split(), CRON_FIELDS, strict=True):
            if not _is_cron_field(text.lower(), numbers, words.split()):
                raise ValueError(f"{text!r} is not a {name} ({numbers[0]}-{numbers[-1]})")
        return cron


class Retries(Strict):
    """How often the scheduler tries again after a failure, and how long it waits."""

    attempts: int = Field(default=3, ge=0, le=10, description="after these, it is a dead letter")
    delay: int = Field(default=30, ge=0, description="seconds before the first retry")
    backoff: Literal["constant", "linear", "exponential"] = Field(
        default="exponential", description="how the delay grows"
    )

    def wait(self, retry: int) -> int:
        """Seconds before a retry; the first is 1."""
        growth: dict[str, int] = {"constant": 1, "linear": retry, "exponential": 2 ** (retry - 1)}
        return self.delay * growth[self.backoff]


class Resources(Strict):
    """What a run needs, and on what its heavy cells compute (`thalweg.compute`)."""

    profile: Literal["local", "dask", "ray"] = Field(default="local", description="what computes")
    cpu: float = Field(default=1, gt=0, description="cores of a run's pod on Kubernetes")
    memory: float = Field(default=2, gt=0, description="GB of a run's pod on Kubernetes")


class Notify(Strict):
    """Who is told, and of what: a webhook that takes Slack's JSON, or an address of e-mail."""

    webhook: str | None = Field(default=None, description="environment variable that holds the URL")
    email: str | None = Field(default=None, description="address")
    on: list[Literal["dead_letter", "late"]] = Field(
        default=["dead_letter", "late"], min_length=1, description="what is told"
    )

    @field_validator("webhook")
    @classmethod
    def _is_a_name(cls, webhook: str | None) -> str | None:
        if webhook and not re.fullmatch(r"[A-Z][A-Z0-9_]*", webhook):
            raise ValueError(
                "expected the NAME of an environment variable that holds the URL: "
                "who has the URL can write to the channel, so it is a secret"
            )
        return webhook

    @field_validator("email")
    @classmethod
    def _is_an_address(cls, email: str | None) -> str | None:
        if email and not re.fullmatch(r"[^@\s,;<>]+@[^@\s,;<>]+", email):
            raise ValueError(f"expected one address (name@example.org), got {email!r}")
        return email

    @model_validator(mode="after")
    def _is_one(self) -> Notify:
        if bool(self.webhook) == bool(self.email):
            raise ValueError("expected either webhook or email; make an entry of each")
        return self


def _quote(parameter: Parameter) -> str:
    return " (write it in quotes)" if parameter.type in ("string", "date") else ""


def _is_cron_field(text: str, numbers: range, words: list[str]) -> bool:
    """Whether each part between commas is `*`, a value or a range, and maybe a step."""
    known = {*map(str, numbers), *words}
    matches = [CRON_PART.fullmatch(part) for part in text.split(",")]
    ends = [end for match in matches for end in (match.groups() if match else "?") if end]
    return None not in matches and {end.lstrip("0") or "0" for end in ends} <= known
