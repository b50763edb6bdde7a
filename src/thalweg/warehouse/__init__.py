"""The warehouse: Iceberg tables of locations, timeseries and metrics, with TEEHR's names.

>>> from thalweg import warehouse
>>> warehouse.names()[:3]
['units', 'variables', 'configurations']
"""

from thalweg.warehouse.access import names, read, table
from thalweg.warehouse.changes import changes, mark, marked, rows_by_month
from thalweg.warehouse.merge import Written, write, write_all
from thalweg.warehouse.query import joined, sql
from thalweg.warehouse.upkeep import Snapshot, Upkeep, maintain, snapshots
from thalweg.warehouse.versions import migrate, plan

__all__ = [
    "Snapshot",
    "Upkeep",
    "Written",
    "changes",
    "joined",
    "maintain",
    "mark",
    "marked",
    "migrate",
    "names",
    "plan",
    "read",
    "rows_by_month",
    "snapshots",
    "sql",
    "table",
    "write",
    "write_all",
]
