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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.pipelines import lines, values
from thalweg.settings import Settings
from thalweg.settings import load as load_settings

__all__ = ["Parameter", "Pipeline", "Retries", "Schedule", "all", "get", "load"]

FILE = "pipeline.yaml"
SECRET = re.compile(r"pass(word|wd|phrase)|secret|token|credential|(^|_)key$|api_?key", re.I)
CRON_FIELDS = (
    ("minute", range(60), ""),
    ("hour", range(24), ""),
    ("day", range(1, 32), ""),
    ("month", range(1, 13), "jan feb mar apr may jun jul aug sep oct nov dec"),
    ("weekday", range(8), "sun mon tue wed thu fri sat"),
)
CRON_PART = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/[1-9]\d*)?")
NUMBERS = ("integer", "number")


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
    """When a pipeline runs by itself: five cron fields, read in a time zone."""

    cron: str
    timezone: str = "UTC"

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        if len(cron.split()) != len(CRON_FIELDS):
            raise ValueError("expected five fields: minute hour day month weekday")
        for text, (name, numbers, words) in zip(cron.split(), CRON_FIELDS, strict=True):
            if not _is_cron_field(text.lower(), numbers, words.split()):
                raise ValueError(f"{text!r} is not a {name} ({numbers[0]}-{numbers[-1]})")
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
    content, root = lines.read(file)
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
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        code = "".join(tagged[0]["source"]) if tagged else ""
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidInput(f"{path}: expected a notebook (nbformat 4)") from None
    if len(tagged) != bool(pipeline.parameters):
        expected = "one cell" if pipeline.parameters else "no cell"
        found = len(tagged)
        raise InvalidInput(f"{path}: expected {expected} tagged `parameters`, found {found}")
    try:
        statements = ast.parse(code).body
    except SyntaxError as error:
        raise InvalidInput(f"{path}: the parameters cell is not Python: {error}") from None
    targets = [target for s in statements for target in getattr(s, "targets", [])]
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    if names != set(pipeline.parameters):
        raise InvalidInput(
            f"{path}: the parameters cell assigns {sorted(names)}, "
            f"but {FILE} declares {sorted(pipeline.parameters)}"
        )


def _quote(parameter: Parameter) -> str:
    return " (write it in quotes)" if parameter.type in ("string", "date") else ""


def _fields(location: list[str]) -> list[str]:
    """The keys that are known at this place of the file."""
    parts: dict[str, type[Strict]] = {
        "parameters": Parameter,
        "schedule": Schedule,
        "retries": Retries,
    }
    model = parts.get(location[0], Pipeline) if location else Pipeline
    return [name for name in model.model_fields if name not in ("name", "folder")]


def _is_cron_field(text: str, numbers: range, words: list[str]) -> bool:
    """Whether each part between commas is `*`, a value or a range, and maybe a step."""
    known = {*map(str, numbers), *words}
    matches = [CRON_PART.fullmatch(part) for part in text.split(",")]
    ends = [end for match in matches for end in (match.groups() if match else "?") if end]
    return None not in matches and {end.lstrip("0") or "0" for end in ends} <= known


def _explain(file: Path, root: Any, error: Any) -> str:
    """`file:line: key: what is wrong`, for one error of pydantic."""
    location = [str(part) for part in error["loc"]]
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        fields = _fields(location[:-1])
        message = f"unknown key{nearest(location[-1], fields)}"
    return f"{file}:{lines.line_of(root, location)}: {'.'.join(location)}: {message}"
