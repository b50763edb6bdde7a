"""What a pipeline is: `pipelines/NAME/pipeline.yaml` beside the notebook that does the work.

The file is checked when it is read: an unknown key, a wrong type or a bad value is an error that
names file, line and key. Values of parameters are converted by their declared type before any
kernel starts, so that a gauge `"01013500"` never becomes a number.
"""

from __future__ import annotations

import ast
import datetime as dt
import graphlib
import json
import re
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.settings import Settings
from thalweg.settings import load as load_settings

__all__ = ["Parameter", "Pipeline", "Retries", "Schedule", "all", "get", "load"]

FILE = "pipeline.yaml"
SECRET = re.compile(r"pass(word|wd|phrase)|secret|token|credential|(^|_)key$|api_?key", re.I)
CRON_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day", 1, 31),
    ("month", 1, 12),
    ("weekday", 0, 7),
)
RELATIVE_TIME = re.compile(r"now(?:-(\d+)([hd]))?")


class Strict(BaseModel):
    """A part of a specification: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Parameter(Strict):
    """One typed parameter of a pipeline's notebook; without `default` a value must be given.

    `list` is a list of strings. `date` is a day or a time in UTC, or `now`, `now-6h`, `now-2d`,
    which is counted back from the full hour in which the run starts.
    """

    type: Literal["string", "integer", "number", "boolean", "date", "list"]
    description: str
    default: Any = None
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    enum: list[Any] | None = None

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
        try:
            converted = CONVERT[self.type](value)
        except (TypeError, ValueError):
            raise ValueError(f"expected {EXPECTED[self.type]}, got {value!r}") from None
        for item in converted if isinstance(converted, list) else [converted]:
            self._check(item)
        return converted

    def _check(self, value: Any) -> None:
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
        is_number = self.type in ("integer", "number")
        return isinstance(value, kinds.get(self.type, str)) and not (
            is_number and isinstance(value, bool)
        )


class Schedule(Strict):
    """When a pipeline runs by itself: five cron fields, read in a time zone."""

    cron: str
    timezone: str = "UTC"

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        if len(cron.split()) != len(CRON_FIELDS):
            raise ValueError("expected five fields: minute hour day month weekday")
        for text, (name, low, high) in zip(cron.split(), CRON_FIELDS, strict=True):
            numbers = [int(number) for number in re.findall(r"\d+", re.sub(r"/\d+", "", text))]
            if not re.fullmatch(r"[\d*,/-]+|[A-Za-z,-]+", text) or not _within(numbers, low, high):
                raise ValueError(f"{text!r} is not a {name} ({low}-{high})")
        return cron

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, timezone: str) -> str:
        if timezone not in zoneinfo.available_timezones():
            raise ValueError(
                f"unknown time zone {timezone!r}{nearest(timezone, zoneinfo.available_timezones())}"
            )
        return timezone


class Retries(Strict):
    """How often the scheduler tries again after a failure, and how long it waits."""

    attempts: int = Field(default=3, ge=0, le=10)
    delay: int = Field(default=30, ge=0, description="seconds before the first retry")
    backoff: Literal["constant", "linear", "exponential"] = "exponential"


class Pipeline(Strict):
    """A notebook, its parameters, when it runs, and which pipelines it needs before it."""

    name: str
    folder: Path
    title: str
    owner: str
    description: str
    notebook: str = "notebook.ipynb"
    parameters: dict[str, Parameter] = {}
    schedule: Schedule | None = None
    needs: list[str] = []
    retries: Retries = Retries()
    timeout: int = Field(default=3600, ge=1, description="seconds after which a run is stopped")

    @property
    def notebook_path(self) -> Path:
        return self.folder / self.notebook

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"the folder's name must be lower_case_with_underscores, got {name!r}")
        return name

    @field_validator("parameters")
    @classmethod
    def _no_secrets(cls, parameters: dict[str, Parameter]) -> dict[str, Parameter]:
        for name in parameters:
            if SECRET.search(name):
                raise ValueError(
                    f"{name!r} looks like a secret, and parameters are kept in clear text in the "
                    "executed notebook: let the notebook's library read it from its environment"
                )
        return parameters

    def values(self, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Every parameter's value: given ones converted, the others by default.

        Raises
        ------
        InvalidInput
            An unknown parameter, a missing one, or a value that its declaration does not allow.
        """
        given = given or {}
        for name in given:
            if name not in self.parameters:
                hint = nearest(name, self.parameters)
                raise InvalidInput(f"pipeline {self.name!r} has no parameter {name!r}{hint}")
        return {name: self._value(name, given) for name in self.parameters}

    def _value(self, name: str, given: Mapping[str, Any]) -> Any:
        parameter = self.parameters[name]
        if name not in given and parameter.required:
            raise InvalidInput(
                f"pipeline {self.name!r} needs the parameter {name!r} "
                f"({parameter.description}): give it with -p {name}=…"
            )
        try:
            return parameter.convert(given.get(name, parameter.default))
        except ValueError as error:
            raise InvalidInput(f"pipeline {self.name!r}, parameter {name!r}: {error}") from None


def load(folder: Path) -> Pipeline:
    """Read and check the pipeline of this folder.

    Raises
    ------
    InvalidInput
        The file is missing or wrong; the message names file, line and key.
    """
    file = folder / FILE
    try:
        text = file.read_text()
        root: Any = yaml.compose(text, yaml.SafeLoader)
        content = yaml.safe_load(text)
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", error)
        line = mark.line + 1 if mark else 1
        raise InvalidInput(f"{file}:{line}: not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{file}:1: expected keys and values (title: …)")
    for line, problem in _traps(root):
        raise InvalidInput(f"{file}:{line}: {problem}")
    try:
        pipeline = Pipeline.model_validate(content | {"name": folder.name, "folder": folder})
    except ValidationError as error:
        raise InvalidInput(
            "\n".join(_explain(file, root, each) for each in error.errors())
        ) from None
    _check_notebook(pipeline)
    return pipeline


def all(settings: Settings | None = None) -> dict[str, Pipeline]:
    """Every pipeline of `pipelines/` by name, in order of flow: what is needed stands first.

    Raises
    ------
    InvalidInput
        A specification is wrong, needs a pipeline that is not there, or needs itself.
    """
    home = (settings or load_settings()).home
    found = [load(file.parent) for file in sorted((home / "pipelines").glob(f"*/{FILE}"))]
    by_name = {pipeline.name: pipeline for pipeline in found}
    for pipeline in found:
        for need in pipeline.needs:
            if need not in by_name:
                file = pipeline.folder / FILE
                raise InvalidInput(
                    f"{file}: needs: unknown pipeline {need!r}{nearest(need, by_name)}"
                )
    try:
        order = list(graphlib.TopologicalSorter({p.name: p.needs for p in found}).static_order())
    except graphlib.CycleError as error:
        raise InvalidInput(
            f"pipelines need each other in a circle: {' → '.join(error.args[1])}"
        ) from None
    return {name: by_name[name] for name in order}


def get(name: str, settings: Settings | None = None) -> Pipeline:
    """The pipeline of this name; `NotFound`, with the nearest name, if there is none."""
    folder = (settings or load_settings()).home / "pipelines"
    names = [file.parent.name for file in folder.glob(f"*/{FILE}")]
    if name not in names:
        raise NotFound(f"no pipeline {name!r} in {folder}{nearest(name, names)}")
    return load(folder / name)


def _check_notebook(pipeline: Pipeline) -> None:
    """The notebook's one `parameters` cell must assign the declared parameters and no others."""
    path = pipeline.notebook_path
    try:
        cells = json.loads(path.read_text())["cells"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidInput(f"{path}: expected a notebook (nbformat 4)") from None
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != bool(pipeline.parameters):
        expected = "one cell" if pipeline.parameters else "no cell"
        found = len(tagged)
        raise InvalidInput(f"{path}: expected {expected} tagged `parameters`, found {found}")
    statements = ast.parse("".join(tagged[0]["source"])).body if tagged else []
    targets = [target for s in statements for target in getattr(s, "targets", [])]
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    if names != set(pipeline.parameters):
        raise InvalidInput(
            f"{path}: the parameters cell assigns {sorted(names)}, "
            f"but {FILE} declares {sorted(pipeline.parameters)}"
        )


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


def _quote(parameter: Parameter) -> str:
    return " (write it in quotes)" if parameter.type in ("string", "date") else ""


def _within(numbers: list[int], low: int, high: int) -> bool:
    return not numbers or (min(numbers) >= low and max(numbers) <= high)


def _traps(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """Line and text of what YAML reads in silence: keys given twice, 010 as 8, 1:30 as 90."""
    line = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int"):
        if re.match(r"[-+]?0\d|.*:", node.value):
            yield line, f"{node.value} would be read as {yaml.safe_load(node.value)}: quote it"
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _traps(item)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.start_mark.line + 1, f"{key.value}: given twice"
            seen.add(key.value)
            yield from _traps(value)


def _explain(file: Path, root: yaml.Node, error: Any) -> str:
    """`file:line: key: what is wrong`, for one error of pydantic."""
    location = [str(part) for part in error["loc"]]
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        fields = _fields(location[:-1])
        message = f"unknown key{nearest(location[-1], fields)}"
    return f"{file}:{_line(root, location)}: {'.'.join(location)}: {message}"


def _fields(location: list[str]) -> list[str]:
    """The keys that are known at this place of the file."""
    parts: dict[str, type[Strict]] = {
        "parameters": Parameter,
        "schedule": Schedule,
        "retries": Retries,
    }
    model = parts.get(location[0], Pipeline) if location else Pipeline
    return [name for name in model.model_fields if name not in ("name", "folder")]


def _line(root: yaml.Node, location: list[str]) -> int:
    """The line of this key, or of the last of its parents that is there."""
    line, node = root.start_mark.line + 1, root
    for part in location:
        if not isinstance(node, yaml.MappingNode):
            break
        pairs = [(key, value) for key, value in node.value if key.value == part]
        if not pairs:
            break
        line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
    return line
