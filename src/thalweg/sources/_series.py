"""Rows for `secondary_timeseries` and `configurations`, as the sources of models make them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from thalweg.sources._common import CONFIGURATIONS, SECONDARY

__all__ = ["series", "tables", "utc"]


def series(constant: Mapping[str, Any], **columns: Any) -> pa.Table:
    """Rows of these columns, equally long (times: datetime64, UTC), and what all rows share."""
    length = len(next(iter(columns.values())))
    arrays = {
        name: pa.repeat(pa.scalar(value, SECONDARY.field(name).type), length)
        for name, value in constant.items()
    }
    arrays |= {
        name: pa.array(values).cast(SECONDARY.field(name).type) for name, values in columns.items()
    }
    return pa.table(arrays, schema=SECONDARY)


def tables(
    parts: Iterable[pa.Table], configurations: Mapping[str, str], missing: int
) -> dict[str, pa.Table]:
    """What `read` of a model's source gives.

    Parameters
    ----------
    parts
        Rows, as `series` makes them.
    configurations
        Description by name, of those that are in the rows.
    missing
        Values that the files mark as missing, which are left out; it stands in the metadata of the
        rows, `rows.schema.metadata[b"missing"]`.
    """
    rows = pa.concat_tables([SECONDARY.empty_table(), *parts])
    names = [
        {"name": name, "type": "secondary", "description": description}
        for name, description in configurations.items()
    ]
    return {
        "configurations": pa.Table.from_pylist(names, CONFIGURATIONS),
        "secondary_timeseries": rows.replace_schema_metadata({"missing": str(missing)}),
    }


def utc(time: np.datetime64) -> dt.datetime:
    """The same time as Python keeps it."""
    naive: dt.datetime = time.astype("datetime64[us]").item()
    return naive.replace(tzinfo=dt.UTC)
