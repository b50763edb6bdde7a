"""The border of the warehouse: what keeps its contract passes, what does not is kept here.

An entry holds the rows of one raw file that a table cannot take, each with its reason, or stands
for a whole file that cannot be read. It is a row of the metadata database; its rows are Parquet at
`{raw_uri}/quarantine/{table}/{sha256}.parquet`, as they came. After a fix (a unit or a location is
made known, a source is mended) `retry` lets through what is good now.
"""

from thalweg.quarantine.admission import Loaded, admit, from_source, of_file, retry
from thalweg.quarantine.entries import Entry, discard, keep, keep_file, list, release, show

__all__ = [
    "Entry",
    "Loaded",
    "admit",
    "discard",
    "from_source",
    "keep",
    "keep_file",
    "list",
    "of_file",
    "release",
    "retry",
    "show",
]
