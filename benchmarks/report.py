"""Tables: on the screen, and between their marks in docs/performance.md."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
import rich.table
from rich.console import Console

__all__ = ["Aim", "Table", "aims", "all_met", "machine", "save", "show", "spread"]

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
MARKS = "<!-- measured: {} -->\n", "<!-- end of {} -->"


@dataclass(frozen=True)
class Table:
    """A title, the heads of the columns, and lines of as many cells; the first column is text."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]

    def markdown(self) -> str:
        rule = [":---", *["---:"] * (len(self.head) - 1)]
        lines = [f"| {' | '.join(cells)} |" for cells in (self.head, rule, *self.lines)]
        return "\n".join([f"**{self.title}**", "", *lines])


@dataclass(frozen=True)
class Aim:
    """What was promised, its limit, and what was measured, in `unit`."""

    about: str
    measured: float
    limit: float
    unit: str = ""

    def line(self) -> list[str]:
        met = "yes" if self.measured <= self.limit else "**no**"
        return [self.about, *(f"{x:.3g}{self.unit}" for x in (self.limit, self.measured)), met]


def aims(*promised: Aim) -> Table:
    """The aims with their limits; a limit that is reached exactly is met."""
    return Table("Aims", ("aim", "at most", "measured", "met"), [aim.line() for aim in promised])


def all_met(tables: Iterable[Table]) -> bool:
    """Whether each aim of these tables is met."""
    return not any(line[-1] == "**no**" for table in tables for line in table.lines)


def spread(values: Iterable[float | None]) -> str:
    """Median, then least and greatest: `5.0 (4.8 to 5.6)`; empty where nothing was measured."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    middle = f"{statistics.median(known):.1f}"
    return middle if len(known) == 1 else f"{middle} ({min(known):.1f} to {max(known):.1f})"


def machine(packages: Iterable[str]) -> str:
    """Where, when and with what a case is measured; call it before, so that the load is others'."""
    versions = [f"{name} {metadata.version(name)}" for name in packages]
    return (
        f"Measured {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC: {os.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 1e9:.0f} GB memory, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}; load of the minute before "
        f"{os.getloadavg()[0]:.1f}. Thalweg at {_commit()}, {', '.join(versions)}."
    )


def show(name: str, machine: str, tables: Iterable[Table]) -> None:
    """Print the tables of a case."""
    console = Console(highlight=False)
    console.rule(name)
    console.print(machine)
    for table in tables:
        drawn = rich.table.Table(table.head[0], title=table.title, title_justify="left")
        for head in table.head[1:]:
            drawn.add_column(head, justify="right")
        for line in table.lines:
            drawn.add_row(*(cell.replace("**", "") for cell in line))
        console.print(drawn)


def save(name: str, machine: str, tables: Iterable[Table], page: Path = PAGE) -> None:
    """Replace what stands between the marks of a case.

    Raises
    ------
    LookupError
        The page does not have the marks of this case.
    """
    begin, end = (mark.format(name) for mark in MARKS)
    text = page.read_text()
    between = re.compile(f"(?<={re.escape(begin)}).*?(?={re.escape(end)})", re.DOTALL)
    if not between.search(text):
        raise LookupError(f"{page} lacks the lines {begin.strip()!r} and {end!r}: add them")
    new = "\n\n".join(["", machine, *(table.markdown() for table in tables), ""])
    page.write_text(between.sub(lambda _: new.removeprefix("\n"), text, count=1))


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=, with changes"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"
    return f"commit {done.stdout.strip()}"
