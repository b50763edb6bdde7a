"""Thalweg: a notebook-first research hub for water, weather and climate teams.

The rooms of the library stand in the order in which data flows (docs/topic/architecture.md); a
module imports from rooms upstream only.

In a notebook:

>>> import thalweg
>>> catalogue = thalweg.open_catalog()  # doctest: +SKIP
>>> catalogue["warehouse"]["metrics"].read()  # doctest: +SKIP
>>> thalweg.schedule("report.ipynb", cron="15 6 * * *", timezone="Europe/Berlin")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg.catalog import open_catalog
    from thalweg.pipelines.schedules import schedule, schedules

__all__ = ["__version__", "open_catalog", "schedule", "schedules"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what is asked for at its first use: `import thalweg` stays light."""
    if name in ("schedule", "schedules"):
        from thalweg.pipelines import schedules

        return getattr(schedules, name)
    if name == "open_catalog":
        from thalweg.catalog import open_catalog

        return open_catalog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
