"""Fields over time as Zarr with versions, and timeseries at points and over areas out of them.

A repository (Icechunk) holds one grid of one source: `write` merges what the source's `read` gives,
`open` gives it back, now or as it was.

>>> from thalweg import gridded
>>> gridded.write("era5_uk", era5.read(files))  # doctest: +SKIP
>>> gridded.at_points(gridded.open("era5_uk"), locations)  # doctest: +SKIP
"""

from thalweg.gridded.repository import Snapshot, Written, levels, names, open, snapshots, write
from thalweg.gridded.series import area_mean, at_points

__all__ = [
    "Snapshot",
    "Written",
    "area_mean",
    "at_points",
    "levels",
    "names",
    "open",
    "snapshots",
    "write",
]
