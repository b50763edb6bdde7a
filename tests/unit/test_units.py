from __future__ import annotations

import pyarrow as pa
import pytest

from thalweg.warehouse.schema import QUANTITIES, SEEDS
from thalweg.warehouse.units import STANDARD, Conversion, convert, line


def rows(*items: tuple[str, str, float]) -> pa.Table:
    variables, units, values = zip(*items, strict=True)
    return pa.table(
        {
            "variable_name": pa.array(variables, pa.string()),
            "unit_name": pa.array(units, pa.string()),
            "value": pa.array(values, pa.float64()),
        }
    )


@pytest.mark.parametrize(
    ("unit", "to", "value", "expected"),
    [
        ("ft^3/s", "m^3/s", 1000.0, 28.316846592),
        ("ft", "m", 10.0, 3.048),
        ("mm/d", "mm/h", 24.0, 1.0),
        ("K", "degC", 273.15, 0.0),
        ("degC", "K", -40.0, 233.15),
        ("%", "1", 50.0, 0.5),
        ("m^3/s", "m^3/s", 7.0, 7.0),
    ],
)
def test_factors_are_those_of_the_definitions(
    unit: str, to: str, value: float, expected: float
) -> None:
    found = line(unit, to)
    assert found is not None
    assert value * found[0] + found[1] == pytest.approx(expected, rel=1e-15, abs=1e-12)


@pytest.mark.parametrize(
    ("unit", "to"), [("m", "m^3/s"), ("mm", "mm/h"), ("bananas", "m"), ("", "m"), ("m^^3", "m")]
)
def test_what_cannot_be_converted_is_said(unit: str, to: str) -> None:
    assert line(unit, to) is None


def test_every_unit_that_we_bring_is_one_that_pint_knows() -> None:
    assert [u["name"] for u in SEEDS["units"] if line(u["name"], u["name"]) != (1.0, 0.0)] == []
    assert {quantity.unit for quantity in QUANTITIES.values()} <= {
        unit["name"] for unit in SEEDS["units"]
    }


def test_only_what_was_asked_for_is_converted_and_all_of_it_is_told() -> None:
    before = rows(
        ("streamflow_hourly_inst", "ft^3/s", 100.0),
        ("streamflow_hourly_inst", "m^3/s", 100.0),
        ("stage_hourly_inst", "ft", 10.0),
        ("streamflow_hourly_inst", "ft^3/s", 0.0),
    )
    after, done = convert(before, {"streamflow": "m^3/s"})
    assert after["value"].to_pylist() == [2.8316846592, 100.0, 10.0, 0.0]
    assert after["unit_name"].to_pylist() == ["m^3/s", "m^3/s", "ft", "m^3/s"]
    assert done == [Conversion("streamflow_hourly_inst", "ft^3/s", "m^3/s", 2)]
    assert str(done[0]) == ("2 values of streamflow_hourly_inst converted from ft^3/s to m^3/s")
    assert convert(before, {}) == (before, [])


def test_a_unit_that_does_not_fit_is_left_as_it_is() -> None:
    before = rows(("streamflow_hourly_inst", "m", 1.0), ("streamflow_hourly_inst", "cfs?", 2.0))
    assert convert(before, STANDARD) == (before, [])


def test_a_null_has_no_unit_to_convert() -> None:
    before = rows(("streamflow_hourly_inst", "ft^3/s", 1.0))
    missing = before.set_column(2, "value", pa.array([None], pa.float64()))
    after, _ = convert(missing, STANDARD)
    assert after["value"].to_pylist() == [None]
