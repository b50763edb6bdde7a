"""Short hourly series of one location, as metrics take them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa

START = dt.datetime(2024, 9, 26, tzinfo=dt.UTC)


def series(
    values: list[Any], location: str, start: dt.datetime = START, **columns: Any
) -> pa.Table:
    """Hourly values of one location; a column given by name replaces the one made here."""
    count = len(values)
    made = {
        "reference_time": pa.nulls(count, pa.timestamp("us", "UTC")),
        "value_time": pa.array(
            [start + dt.timedelta(hours=i) for i in range(count)], pa.timestamp("us", "UTC")
        ),
        "value": pa.array(values, pa.float64()),
        "unit_name": pa.array(["m^3/s"] * count, pa.string()),
        "location_id": pa.array([location] * count, pa.string()),
        "configuration_name": pa.array(["nwm30_analysis_assim"] * count, pa.string()),
        "variable_name": pa.array(["streamflow_hourly_inst"] * count, pa.string()),
    }
    return pa.table(made | columns)
