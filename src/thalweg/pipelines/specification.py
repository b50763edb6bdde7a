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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.pipelines import lines
from thalweg.pipelines.partitions import Backfill, Partitions
from thalweg.pipelines.parts import (
    UNSAFE,
    Duration,
    Notify,
    Parameter,
    Resources,
    Retries,
    Schedule,
    Strict,
    duration,
)
from thalweg.settings import Settings
from thalweg.settings import load as load_settings

__all__ = [
    "Parameter",
    "Pipeline",
    "Retries",
    "Schedule",
    "all",
    "broken",
    "check_name",
    "get",
    "load",
    "schema",
]

FILE = "pipeline.yaml"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
GIVEN = ("name", "folder")  # by where the file lies
SECRET = re.compile(r"pass(word|wd|phrase)|secret|token|credential|(^|_)key$|api_?key", re.I)


class Pipeline(Strict):
    """A notebook, its parameters, when it runs, and what it needs before it."""

    name: str
    folder: Path
    title: str = Field(description="what it is, in a few words")
    owner: str = Field(description="person or group that looks after it")
    description: str = Field(description="what it does, in a sentence or two")
    notebook: str = Field(default="notebook.ipynb", description="file beside pipeline.yaml")
    parameters: dict[str, Parameter] = Field(
        default={}, description="what a run may be given, by name"
    )
    schedule: Schedule | None = Field(
        default=None, description="when it runs by itself; without, it follows what it needs"
    )
    partitions: Partitions | None = Field(default=None, description="into what its work is divided")
    needs: list[str] = Field(
        default=[], description="pipelines, or tables of the warehouse, before it"
    )
    retries: Retries = Field(default=Retries(), description="what becomes of a run that failed")
    timeout: int = Field(default=3600, ge=1, description="seconds after which a run is stopped")
    concurrency: int = Field(
        default=1, ge=1, le=100, description="how many of its runs go on at once"
    )
    overlap: Literal["skip", "queue", "allow"] = Field(
        default="queue",
        description="a run for the same partition as another that is going on, or both for none: "
        "it is left out, waits, or goes on",
    )
    resources: Resources = Field(default=Resources(), description="what a run needs")
    freshness: Duration | None = Field(
        default=None, description="it is late when its last success is older: 90m, 6h, 2d"
    )
    notify: list[Notify] = Field(default=[], description="who is told when something is wrong")

    @property
    def person(self) -> str | None:
        """Whose notebook it is, of one that a person has scheduled; None of a shared pipeline."""
        person, slash, _ = self.name.rpartition("/")
        return person if slash else None

    @property
    def notebook_path(self) -> Path:
        return self.folder / self.notebook

    @property
    def promise(self) -> dt.timedelta | None:
        """How old its last success may be."""
        return duration(self.freshness) if self.freshness else None

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        person, slash, own = name.rpartition("/")
        return f"{person}{slash}{check_name(own)}"

    @field_validator("parameters")
    @classmethod
    def _no_secrets(cls, parameters: dict[str, Parameter]) -> dict[str, Parameter]:
        for name in parameters:
            if SECRET.search(name):
                raise ValueError(f"{name!r} {UNSAFE}")
        return parameters

    @model_validator(mode="after")
    def _partitions_fit(self) -> Pipeline:
        """Partitions must give values that the parameters take."""
        if self.partitions is None:
            return self
        for key in self.partitions.examples():
            for name, text in self.partitions.fill(key).items():
                if name not in self.parameters:
                    hint = nearest(name, self.parameters)
                    raise ValueError(f"partitions.parameters.{name}: no such parameter{hint}")
                try:
                    self.parameters[name].convert(text)
                except ValueError as error:
                    raise ValueError(f"partitions.parameters.{name}: {error}") from None
        return self

    @model_validator(mode="after")
    def _runs_by_itself(self) -> Pipeline:
        """Where nobody is there to give a value, each parameter must have one."""
        by_partition = (
            self.schedule.runs == "partitions" if self.schedule else bool(self.partitions)
        )
        if self.schedule and by_partition and not self.partitions:
            raise ValueError("schedule.runs: partitions: there are no partitions")
        filled = self.partitions.parameters if self.partitions and by_partition else {}
        for name, parameter in self.parameters.items():
            if (self.schedule or self.needs) and parameter.required and name not in filled:
                why = "by a schedule" if self.schedule else "after what it needs"
                raise ValueError(f"parameters.{name}: it runs {why}: give it a default")
        return self

    @property
    def policy(self) -> Backfill:
        """How partitions are caught up on; InvalidInput without partitions."""
        return self._partitions().backfill

    def values(
        self, given: Mapping[str, Any] | None = None, partition: str | None = None
    ) -> dict[str, Any]:
        """Every parameter's value: given ones converted, those of the partition, defaults.

        Raises
        ------
        InvalidInput
            An unknown parameter, a missing one, a value that its declaration does not allow, one
            that the partition gives as well, or a partition that is not there.
        """
        given = dict(given or {})
        for name in given:
            if name not in self.parameters:
                hint = nearest(name, self.parameters)
                raise InvalidInput(f"pipeline {self.name!r} has no parameter {name!r}{hint}")
        if partition is not None:
            self.partition_keys(partition, partition)
            filled = self._partitions().fill(partition)
            for name in filled.keys() & given:
                raise InvalidInput(
                    f"pipeline {self.name!r}: partition {partition} gives {name!r} already: "
                    "leave out the partition or the parameter"
                )
            given |= filled
        return {name: self._value(name, given) for name in self.parameters}

    def partition_keys(self, first: str | None = None, last: str | None = None) -> list[str]:
        """The partitions from the first to the last, both included, that there are by now.

        Raises
        ------
        InvalidInput
            The pipeline has no partitions, or not this one.
        """
        try:
            return self._partitions().between(first, last)
        except InvalidInput as error:
            raise InvalidInput(f"pipeline {self.name!r}: {error}") from None

    def _partitions(self) -> Partitions:
        if self.partitions is None:
            raise InvalidInput("it has no partitions: run it without one")
        return self.partitions

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


def check_name(name: str) -> str:
    """The name of a pipeline, which is that of its folder; InvalidInput if it is not one."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InvalidInput(f"the folder's name must be lower_case_with_underscores, got {name!r}")
    return name


def schema() -> str:
    """The JSON schema of pipeline.yaml, for editors; made from the same models that check it."""
    made = Pipeline.model_json_schema()
    for name in GIVEN:
        del made["properties"][name]
        made["required"].remove(name)
    return json.dumps({"$schema": DIALECT, **made, "title": FILE}, indent=2) + "\n"


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

    Those that are `broken` are left out; what needs them stays.
    """
    return _found(settings)[0]


def broken(settings: Settings | None = None) -> dict[str, str]:
    """What is wrong with the pipelines that `all` leaves out, by name.

    That is a specification or notebook that is wrong, a need that there is not, or a circle.
    """
    return _found(settings)[1]


def _found(settings: Settings | None) -> tuple[dict[str, Pipeline], dict[str, str]]:
    home = (settings or load_settings()).home
    good, wrong = dict[str, Pipeline](), dict[str, str]()
    folders = [file.parent for file in sorted((home / "pipelines").glob(f"*/{FILE}"))]
    names = [folder.name for folder in folders]
    for folder in folders:
        try:
            pipeline = load(folder)
            _check_needs(pipeline, names)
            good[folder.name] = pipeline
        except InvalidInput as error:
            wrong[folder.name] = str(error)
    while True:
        needs = {p.name: [need for need in p.needs if need in good] for p in good.values()}
        try:
            order = graphlib.TopologicalSorter(needs).static_order()
            return {name: good[name] for name in order}, wrong
        except graphlib.CycleError as error:
            circle = error.args[1]
            for name in {*circle}:
                file = good.pop(name).folder / FILE
                wrong[name] = f"{file}: needs: these need each other: {' → '.join(circle)}"


def _check_needs(pipeline: Pipeline, names: list[str]) -> None:
    for need in pipeline.needs:
        if need not in names and need not in (tables := _tables()):
            hint = nearest(need, [*names, *tables])
            raise InvalidInput(
                f"{pipeline.folder / FILE}: needs: no pipeline or table {need!r}{hint}"
            )


def get(name: str, settings: Settings | None = None) -> Pipeline:
    """The pipeline of this name; `NotFound`, with the nearest name, if there is none.

    `owner/name` is a notebook that a person has scheduled.
    """
    if "/" in name:
        from thalweg.pipelines import personal

        return personal.get(name, settings)
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


def _tables() -> list[str]:
    from thalweg import warehouse

    return warehouse.names()


def _fields(location: list[str]) -> list[str]:
    """The keys that are known at this place of the file."""
    model: type[Strict] = Pipeline
    for part in location:
        if part in model.model_fields:
            model = next(_models(model.model_fields[part].annotation), model)
    return [name for name in model.model_fields if name not in GIVEN]


def _models(annotation: Any) -> Iterator[type[Strict]]:
    """The parts that a type is made of: Schedule of `Schedule | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _explain(file: Path, root: Any, error: Any) -> str:
    """`file:line: key: what is wrong`, for one error of pydantic."""
    location = [str(part) for part in error["loc"]]
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key{nearest(location[-1], _fields(location[:-1]))}"
    key, _, rest = message.partition(": ")
    if key.partition(".")[0] in _fields(location):  # what several keys together say
        location, message = [*location, *key.split(".")], rest
    where = f"{'.'.join(location)}: " if location else ""
    return f"{file}:{lines.line_of(root, location)}: {where}{message}"
