"""Where data come from: a module a provider, found by its name, never registered.

A source is a module of this package with

- `TITLE` and `LICENCE`: who gives the data, and on which terms;
- `CONTRACT`: what its files hold, as a `Contract`, to which they are held when they are loaded;
- `fetch(…, settings=None, progress=None) -> list[RawFile]`: lands files in `raw` as they are;
- `read(files, …) -> dict[str, pyarrow.Table]`: rows for tables of the warehouse, by table name; of
  fields `dict[str, xarray.Dataset]`, by type of level, for `thalweg.gridded.write`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from thalweg.errors import InvalidInput, NotFound, nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Contract", "contract", "get", "names"]


@dataclass(frozen=True, eq=False)
class Contract:
    """What a source promises. Ranges and keys are the same for all: `thalweg.warehouse.schema`.

    Names of variables, units and configurations may be patterns, as `nwm*_short_range`; the first
    that fits counts.

    Parameters
    ----------
    tables
        Columns and types of the tables that `read` gives; a file need not have all tables. Columns
        may come in any order; `raw_file_id` is filled in where it is not given.
    units
        Units in which a variable is sent, by variable.
    configurations
        How old the newest time of a configuration may be (when it was issued for forecasts, else
        the time for which it holds), by configuration; None: nobody expects a next one.
    fields
        Unit of a field, by its CF name. A field that is not named may be there, too.
    is_partial
        A file may lack columns: of these the warehouse keeps what it has.
    """

    tables: Mapping[str, pa.Schema] = field(default_factory=dict)
    units: Mapping[str, Sequence[str]] = field(default_factory=dict)
    configurations: Mapping[str, timedelta | None] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    is_partial: bool = False


def names() -> list[str]:
    """Names of the sources.

    >>> {"nwm", "usgs"} <= set(names())
    True
    """
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def get(name: str) -> ModuleType:
    """The source of this name; raises `NotFound` with the nearest known one."""
    if name not in names():
        raise NotFound(f"unknown source {name!r}{nearest(name, names())}")
    return import_module(f"{__name__}.{name}")


def contract(name: str) -> Contract:
    """What the source of this name promises.

    Raises
    ------
    NotFound
        There is no source of this name.
    InvalidInput
        Its module has no `CONTRACT`.
    """
    promised = getattr(get(name), "CONTRACT", None)
    if not isinstance(promised, Contract):
        raise InvalidInput(
            f"source {name!r} promises nothing: its module needs a CONTRACT = "
            f"thalweg.sources.Contract(…) with its tables, units and configurations"
        )
    return promised
