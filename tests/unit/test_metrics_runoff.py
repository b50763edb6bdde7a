"""The runoff ratio, by hand."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hourly import series

from thalweg.errors import InvalidInput
from thalweg.metrics import runoff_ratio


def rain(values: list[float], unit: str = "mm/h", name: str = "era5") -> pa.Table:
    count = len(values)
    return series(
        values, "usgs-1", unit_name=pa.array([unit] * count),
        variable_name=pa.array(["rainfall_hourly_rate"] * count),
        configuration_name=pa.array([name] * count),
    )  # fmt: skip


def area(value: float = 36, unit: str = "km^2") -> pa.Table:
    return pa.table(
        {"location_id": ["usgs-1", "usgs-1"], "attribute_name": ["drainage_area", "slope"],
         "value": [str(value), "0.1"], "unit_name": [unit, None]}
    )  # fmt: skip


def ratio(*given: pa.Table, **options: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = runoff_ratio(*given, **options).to_pylist()
    return rows


def test_by_hand() -> None:
    """10 m^3/s from 36 km^2 are 1 mm/h."""
    flow = series([5.0, 15.0, float("nan"), 99.0], "usgs-1")
    expected = {"location_id": "usgs-1", "configuration_name": "nwm30_analysis_assim"}
    (row,) = ratio(flow, rain([1.0, 3.0, 9.0]), area())
    assert row == expected | {"count": 2, "runoff_ratio": pytest.approx(0.5)}
    feet = series([v / 0.3048**3 for v in (5, 15)], "usgs-1", unit_name=pa.array(["ft^3/s"] * 2))
    (row,) = ratio(feet, rain([24.0, 72.0], "mm/d"), area(36 / 2.589988110336, "mi^2"))
    assert row["runoff_ratio"] == pytest.approx(0.5)
    (dry,) = ratio(flow, rain([0.0, 0.0]), area())
    assert dry["runoff_ratio"] is None
    assert ratio(flow, rain([1.0, 3.0]), area(), minimum=3) == []
    assert ratio(flow, rain([1.0, 3.0]), area(0)) == []


def test_what_is_wrong_is_said() -> None:
    flow = series([5.0], "usgs-1")
    with pytest.raises(InvalidInput, match="rain in inch: expected mm/h, mm/d"):
        runoff_ratio(flow, rain([1.0], "inch"), area())
    with pytest.raises(InvalidInput, match="area in ha"):
        runoff_ratio(flow, rain([1.0]), area(1, "ha"))
    both = pa.concat_tables([rain([1.0]), rain([1.0], name="gfs")])
    with pytest.raises(InvalidInput, match=r"2 configurations \(era5, gfs\)"):
        runoff_ratio(flow, both, area())
    with pytest.raises(InvalidInput, match="flow has usgs-1"):
        runoff_ratio(pa.concat_tables([flow, flow]), rain([1.0]), area())
    with pytest.raises(InvalidInput, match="areas has usgs-1"):
        runoff_ratio(flow, rain([1.0]), pa.concat_tables([area(), area()]))
    assert ratio(flow, rain([1.0]), area(float("nan"))) == []
    with pytest.raises(InvalidInput, match="areas lacks unit_name"):
        runoff_ratio(flow, rain([1.0]), area().drop("unit_name"))
