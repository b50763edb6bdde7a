"""The warehouse: Iceberg tables of locations, timeseries and metrics, with TEEHR's names.

>>> from thalweg import warehouse
>>> warehouse.names()[:3]
['units', 'variables', 'configurations']
"""

from thalweg.warehouse.access import names, read, table
from thalweg.warehouse.merge import Written, migrate, write, write_all

__all__ = ["Written", "migrate", "names", "read", "table", "write", "write_all"]
