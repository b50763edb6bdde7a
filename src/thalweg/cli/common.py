"""What the commands share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from thalweg import settings as settings_module
from thalweg.errors import InvalidInput
from thalweg.settings import Settings

__all__ = [
    "DataDir",
    "Json",
    "bars",
    "coloured",
    "counted",
    "local_settings",
    "pairs",
    "print_json",
    "print_table",
    "working",
]

DataDir = Annotated[
    Path | None, typer.Option(help="Folder of all state of the local hub. [default: .thalweg]")
]
SHORT = 20  # characters of a cell
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def local_settings(data_dir: Path | None = None, **flags: Any) -> Settings:
    """The settings, with this process's environment pointed at the local hub's data.

    Inside the hub (or on AWS) the environment is set already and is left as it is.
    """
    settings = settings_module.load(data_dir=data_dir, **flags)
    inside_the_hub = "PYICEBERG_HOME" in os.environ
    if not inside_the_hub and (settings.data_dir / "ports.json").exists():
        from thalweg.hub.environment import data_environment

        os.environ.update(data_environment(settings))
    return settings_module.load(data_dir=data_dir, **flags)


def pairs(given: list[str] | None) -> dict[str, str]:
    """Values by name, of parameters that were given as NAME=VALUE."""
    values = {}
    for text in given or []:
        name, sign, value = text.partition("=")
        if not sign:
            raise InvalidInput(f"expected a parameter as NAME=VALUE, got {text!r}")
        values[name.strip()] = value
    return values


@contextmanager
def bars(hidden: bool = False) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Bars on a terminal's standard error, one for each thing that is being done."""
    if hidden or not sys.stderr.isatty():
        yield lambda name: lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    shown = Progress(console=Console(stderr=True), transient=True)

    def step(name: str) -> Callable[[int, int], None]:
        task = shown.add_task(name, total=None)

        def progress(done: int, total: int) -> None:
            shown.start()  # once
            shown.update(task, completed=done, total=total)

        return progress

    try:
        yield step
    finally:
        shown.stop()


def working(text: str) -> Any:
    """A sign of life on a terminal's standard error while something takes its time."""
    from rich.console import Console

    return Console(stderr=True).status(text)


def coloured(text: str, colour: str) -> Any:
    """A cell of a table in a colour."""
    from rich.text import Text

    return Text(text, style=colour)


def counted(rows: int | None) -> str:
    """A number of rows as it is printed; nothing where it is not known."""
    return "" if rows is None else f"{rows:,}"


def print_table(head: list[str], rows: list[list[Any]]) -> None:
    """Print a table; text is printed as it is, also what looks like markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    cells = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    for i, column in enumerate(head):
        # What is short is never broken: names, ids, times; what is long takes the lines it needs.
        is_short = i == 0 or max((len(row[i]) for row in cells), default=0) <= SHORT
        table.add_column(column, no_wrap=is_short, overflow="fold")
    for row in cells:
        table.add_row(*row)
    Console().print(table)


def print_json(value: Any) -> None:
    """Print `value` as JSON; times and paths become strings."""
    typer.echo(json.dumps(value, indent=2, default=str))
