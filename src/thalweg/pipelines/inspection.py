"""A notebook of a person, read for scheduling: its parameters, typed; nothing of it is executed."""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

from thalweg.errors import InvalidInput, nearest
from thalweg.pipelines import report, values
from thalweg.pipelines.parts import Parameter

__all__ = ["chosen", "parameters", "plain"]

LARGEST = 5_000_000  # bytes of a notebook without its outputs
#: Type of a parameter by the annotation that the notebook gives it, else by its value.
ANNOTATED = {
    "str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "list",
    "date": "date", "datetime": "date",
}  # fmt: skip
OF_VALUES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "list"}
HOW = "expected a number, text in quotes, True, False, None or a list of texts"


def plain(notebook: Any) -> dict[str, Any]:
    """The notebook as it is kept: of nbformat 4, without outputs.

    Raises
    ------
    InvalidInput
        It is not a notebook, or is larger than 5 MB without its outputs.
    """
    import nbformat

    try:
        node = nbformat.reads(json.dumps(notebook), as_version=4)  # type: ignore[no-untyped-call]
        nbformat.validate(node)
    except Exception as error:  # whatever nbformat says of a file that is anything
        why = str(error).partition("\n")[0]
        raise InvalidInput(f"expected a notebook as Jupyter saves it: {why}") from None
    kept = report.without_record(json.loads(json.dumps(node)))
    kept["metadata"].setdefault("kernelspec", {"name": "python3", "display_name": "Python 3"})
    kept["metadata"].setdefault("language_info", {"name": "python"})  # until a kernel has run
    if (size := len(json.dumps(kept))) > LARGEST:
        raise InvalidInput(
            f"the notebook has {size / 1e6:.1f} MB without its outputs, and {LARGEST / 1e6:.0f} MB "
            "is the most: keep data and pictures in files"
        )
    return kept


def parameters(notebook: Mapping[str, Any]) -> dict[str, Parameter]:
    """The parameters of the notebook's cell tagged `parameters`, by name; without one, none.

    The type is that of the annotation (`days: int = 7`), else that of the value; a text such as
    `now-2d` is a date. A comment behind it is its description.

    Raises
    ------
    InvalidInput
        There are several such cells, or one assigns something else than plain values.
    """
    tagged = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) > 1:
        raise InvalidInput(f"expected one cell tagged `parameters`, found {len(tagged)}")
    code = "".join(tagged[0]["source"]) if tagged else ""
    try:
        body = ast.parse(code).body
    except SyntaxError as error:
        raise InvalidInput(f"the parameters cell is not Python: {error}") from None
    said = dict(_comments(code))
    return dict(_parameter(each, said) for each in body if not _is_text(each))


def chosen(declared: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """The declarations for a pipeline.yaml, in which a value that is given is the default.

    Raises
    ------
    InvalidInput
        A value for a parameter that there is not, or of another type.
    """
    for name in given:
        if name not in declared:
            hint = nearest(name, declared)
            raise InvalidInput(f"the notebook's parameters cell has no {name!r}{hint}")
    return {name: _chosen(name, each, given) for name, each in declared.items()}


def _chosen(name: str, parameter: Parameter, given: Mapping[str, Any]) -> dict[str, Any]:
    declared = parameter.model_dump(exclude_none=True)
    default = given.get(name, parameter.default)
    try:
        value = parameter.convert(default)
    except ValueError as error:
        raise InvalidInput(f"parameter {name!r}: {error}") from None
    # `now-2d` stays what it is: each run counts from its own hour.
    return declared | {"default": default if parameter.type == "date" else value}


def _parameter(statement: ast.stmt, said: Mapping[int, str]) -> tuple[str, Parameter]:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            annotation = ""
        case ast.AnnAssign(target=ast.Name(id=name), annotation=node, value=ast.expr() as value):
            annotation = ast.unparse(node).strip("'\"")
        case _:
            raise InvalidInput(
                f"the parameters cell holds `{ast.unparse(statement).partition(chr(10))[0]}`: "
                "expected lines such as `days = 7` alone; do the rest in a later cell"
            )
    try:
        default = ast.literal_eval(value)
        kind = _kind(annotation, default)
        about = said.get(statement.end_lineno or 0) or name.replace("_", " ")
        return name, Parameter(type=kind, description=about, default=default)
    except (ValueError, KeyError):
        raise InvalidInput(f"parameter {name!r}: {HOW}, got `{ast.unparse(statement)}`") from None


def _kind(annotation: str, default: Any) -> Any:
    words = annotation.replace("|", " ").replace("[", " ").replace("]", " ").split()
    named = next((ANNOTATED[word.rpartition(".")[2]] for word in words), None)
    if named or default is None:
        return named or "string"
    is_date = isinstance(default, str) and values.RELATIVE_TIME.fullmatch(default)
    return "date" if is_date else OF_VALUES[type(default)]


def _is_text(statement: ast.stmt) -> bool:
    """Whether it is text that stands for itself, as people comment."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _comments(code: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")
