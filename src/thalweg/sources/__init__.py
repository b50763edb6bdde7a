"""Where data come from: a module a provider, found by its name, never registered.

A source is a module of this package with

- `TITLE` and `LICENCE`: who gives the data, and on which terms;
- `fetch(…, settings=None, progress=None) -> list[RawFile]`: lands files in `raw` as they are;
- `read(files, …) -> dict[str, pyarrow.Table]`: rows for tables of the warehouse, by table name; of
  fields `dict[str, xarray.Dataset]`, by type of level, for `thalweg.gridded.write`.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

from thalweg.errors import NotFound, nearest

__all__ = ["get", "names"]


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
