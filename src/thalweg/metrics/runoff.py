"""The runoff ratio: which part of the rain of a basin flows past its gauge."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from thalweg.errors import InvalidInput
from thalweg.metrics.inputs import Frame, everything
from thalweg.metrics.pairs import check_once, columns_of, database
from thalweg.settings import Settings

__all__ = ["runoff_ratio"]

SERIES = ("location_id", "configuration_name", "variable_name", "value_time", "value", "unit_name")
AREAS = ("location_id", "attribute_name", "value", "unit_name")
AREA = "drainage_area"
#: What becomes m^3/s, mm/h and m^2.
FLOWS = {"m^3/s": 1.0, "ft^3/s": 0.3048**3}
RAINS = {"mm/h": 1.0, "mm/d": 1 / 24}
SIZES = {"m^2": 1.0, "km^2": 1e6, "mi^2": 1609.344**2}
# Of a flow of 1 m^3/s from 1 m^2 run off 3,600,000 mm in an hour.
_RATIO = """
    SELECT f.location_id, f.configuration_name, count(*) AS count,
        avg(f.flow) * 3.6e6 / any_value(a.area) / nullif(avg(r.rain), 0) AS runoff_ratio
    FROM flows f JOIN rains r ON r.location_id = f.location_id AND r.value_time = f.value_time
    JOIN areas a ON a.location_id = f.location_id
    WHERE isfinite(f.flow) AND isfinite(r.rain) AND isfinite(a.area) AND a.area > 0
    GROUP BY f.location_id, f.configuration_name HAVING count(*) >= $minimum
    ORDER BY ALL
"""


def runoff_ratio(
    flow: Frame,
    rainfall: Frame,
    areas: Frame = "location_attributes",
    *,
    minimum: int = 1,
    settings: Settings | None = None,
) -> pa.Table:
    """Runoff of basins as a part of their rain (Sawicz et al. 2011, doi:10.5194/hess-15-2895-2011).

    Parameters
    ----------
    flow
        location_id, configuration_name, variable_name, value_time, value, unit_name (m^3/s or
        ft^3/s) of variables that begin with `streamflow`; a frame, or a table's name.
    rainfall
        The same, of variables that begin with `rainfall`, as the mean of the basin
        (`gridded.area_mean`), mm/h or mm/d. Its location_id is that of the gauge.
    areas
        location_id, attribute_name, value, unit_name (m^2, km^2 or mi^2) with `drainage_area`.
    minimum
        A basin with fewer times that both have has no row. A ratio of a year or more says
        something; of a single flood it depends on when one looks.

    Returns
    -------
    pyarrow.Table
        location_id, configuration_name (of the flow), count (times that both have), runoff_ratio
        (float64, of 1; NULL where no rain fell). Gauges without rain or area have no row.

    Raises
    ------
    InvalidInput
        A column is missing, another unit, rain of several configurations, two values of a place and
        time (as of an hourly and a daily variable), two areas of a place.

    Examples
    --------
    >>> import datetime as dt
    >>> hour = {"location_id": ["usgs-1"], "value_time": [dt.datetime(2024, 9, 26, tzinfo=dt.UTC)]}
    >>> flow = pa.table(hour | {"configuration_name": ["usgs_observations"], "value": [10.0],
    ...     "variable_name": ["streamflow_hourly_inst"], "unit_name": ["m^3/s"]})
    >>> rain = pa.table(hour | {"configuration_name": ["era5"], "value": [0.9],
    ...     "variable_name": ["rainfall_hourly_rate"], "unit_name": ["mm/h"]})
    >>> area = pa.table({"location_id": ["usgs-1"], "attribute_name": ["drainage_area"],
    ...     "value": ["100"], "unit_name": ["km^2"]})
    >>> round(runoff_ratio(flow, rain, area)["runoff_ratio"][0].as_py(), 12)
    0.4
    """
    flows = columns_of(everything(flow, SERIES, settings), SERIES, "flow")
    rains = columns_of(everything(rainfall, SERIES, settings), SERIES, "rainfall")
    sizes = columns_of(everything(areas, AREAS, settings), AREAS, "areas")
    with database() as connection:
        for name, rows in {"flow": flows, "rain": rains, "area": sizes}.items():
            connection.register(name, rows)
        check_once(sizes.filter(pc.field("attribute_name") == AREA), ("location_id",), "areas")
        of = "variable_name LIKE '{}%'"
        _put(connection, "flow", of.format("streamflow"), FLOWS)
        _put(connection, "rain", of.format("rainfall"), RAINS)
        _put(connection, "area", f"attribute_name = '{AREA}'", SIZES)
        for name in ("flow", "rain"):
            key = ("location_id", "configuration_name", "value_time")
            check_once(connection.table(f"{name}s").to_arrow_table(), key, name)
        several = "SELECT DISTINCT configuration_name FROM rains ORDER BY 1"
        names = [str(name) for (name,) in connection.sql(several).fetchall()]
        if len(names) > 1:
            raise InvalidInput(
                f"rainfall holds {len(names)} configurations ({', '.join(names)}): filter it to one"
            )
        return connection.sql(_RATIO, params={"minimum": minimum}).to_arrow_table()


def _put(
    connection: duckdb.DuckDBPyConnection, name: str, where: str, units: dict[str, Any]
) -> None:
    """Make `flows` of `flow`, with the numbers in one unit, and so on."""
    chosen = f"FROM {name} WHERE {where}"
    found = connection.sql(f"SELECT DISTINCT unit_name {chosen} ORDER BY 1").fetchall()
    for (unit,) in found:
        if unit not in units:
            raise InvalidInput(f"{name} in {unit}: expected {', '.join(units)}; convert it")
    cases = " ".join(f"WHEN '{unit}' THEN {factor!r}" for unit, factor in units.items())
    connection.execute(
        f"CREATE TEMP TABLE {name}s AS SELECT *,"
        f" try_cast(value AS DOUBLE) * CASE unit_name {cases} END AS {name} {chosen}"
    )
