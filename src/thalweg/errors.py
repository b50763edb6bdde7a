"""What Thalweg says when something is wrong: what was expected, what came, what to do next.

The command line prints the message of a `ThalwegError` as one line and exits with 1; any other
exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["InvalidInput", "NotFound", "ThalwegError", "Unavailable", "nearest"]


class ThalwegError(Exception):
    """Base of every error that a user can act upon."""


class InvalidInput(ThalwegError, ValueError):
    """A value, file or setting is not what was expected."""


class NotFound(ThalwegError, LookupError):
    """A name (table, pipeline, location, setting) does not exist."""

    def __str__(self) -> str:  # LookupError's children would print the repr
        return str(self.args[0]) if self.args else ""


class Unavailable(ThalwegError, RuntimeError):
    """A service that is needed does not answer, or the machine lacks something."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped name: `"; did you mean 'kge'?"`, or the known names.

    >>> nearest("kgee", ["kge", "nse"])
    "; did you mean 'kge'?"
    >>> nearest("zzz", ["kge", "nse"])
    '; known: kge, nse'
    """
    names = sorted(known)
    if not names:
        return "; there is none yet"
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"
