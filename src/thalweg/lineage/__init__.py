"""From a number to the bytes that it came from, and from a file to all that was made of it.

Every row says which raw file and which run brought it; every run notes the files and snapshots that
it read and wrote. Here these are joined to a graph, upward (what did it come from?) or downward
(what was made of it?). Nothing is guessed: where a row was written outside a run, the way ends,
and the graph says so.

>>> from thalweg import lineage
>>> lineage.up("metrics", "primary_location_id = 'usgs-03171000'")  # doctest: +SKIP
"""

from thalweg.lineage.downward import down
from thalweg.lineage.events import openlineage
from thalweg.lineage.graph import Lineage, Node
from thalweg.lineage.upward import up

__all__ = ["Lineage", "Node", "down", "openlineage", "up"]
