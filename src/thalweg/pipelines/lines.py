"""Reading YAML that people write: what is wrong is said with file, line and key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from thalweg.errors import InvalidInput

__all__ = ["line_of", "read"]


BOOLEAN = "tag:yaml.org,2002:bool"


class Loader(yaml.SafeLoader):
    """With the truth values of YAML 1.2, as editors have them: `on`, `no` and `yes` are text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != BOOLEAN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


Loader.add_implicit_resolver(BOOLEAN, re.compile("^(?:[Tt]rue|TRUE|[Ff]alse|FALSE)$"), list("tTfF"))


def read(file: Path) -> tuple[dict[Any, Any], yaml.Node]:
    """The keys and values of a YAML file, and its nodes, by which `line_of` finds a key.

    Raises
    ------
    InvalidInput
        The file cannot be read, is not YAML, holds no keys, or something that YAML reads in silence
        as what nobody meant.
    """
    try:
        text = file.read_text()
        root: Any = yaml.compose(text, Loader)
        content = Loader(text).get_single_data()
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # a day that no month has, bytes that are no text
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", error)
        line = mark.line + 1 if mark else 1
        raise InvalidInput(f"{file}:{line}: not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{file}:1: expected keys and values (title: …)")
    for line, problem in _traps(root):
        raise InvalidInput(f"{file}:{line}: {problem}")
    return content, root


def line_of(root: yaml.Node, location: list[str]) -> int:
    """The line of this key, or of the last of its parents that is there."""
    line, node = root.start_mark.line + 1, root
    for part in location:
        if isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
            continue
        if not isinstance(node, yaml.MappingNode):
            break
        pairs = [(key, value) for key, value in node.value if key.value == part]
        if not pairs:
            break
        line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
    return line


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
