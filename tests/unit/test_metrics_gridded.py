"""Metrics of fields: cell by cell they are those of a series, on Dask as in memory."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import scores
import xarray as xr
from hourly import series

from thalweg import metrics
from thalweg.errors import InvalidInput, NotFound

NAMES = ["rmse", "kge", "nse", "mean_error", "pearson_r", "max_value_delta", "mean_absolute_error"]


def fields(times: int = 50) -> tuple[xr.DataArray, xr.DataArray]:
    """Two fields of temperature, some values of which are missing."""
    random = np.random.default_rng(3)
    coords = {
        "time": np.datetime64("2024-09-26", "ns") + np.arange(times) * np.timedelta64(6, "h"),
        "latitude": [40.0, 41.0, 42.0],
        "longitude": [-80.0, -79.0],
    }
    observed = xr.DataArray(
        random.normal(285, 5, (times, 3, 2)), coords, tuple(coords), attrs={"units": "K"}
    )
    forecast = observed + random.normal(0.5, 2, observed.shape)
    observed[3, 0, 0], forecast[4, 0, 0], observed[:, 2, 1] = np.nan, np.inf, np.nan
    return observed, forecast.assign_attrs(units="K")


def test_a_cell_is_as_a_series() -> None:
    observed, forecast = fields()
    found = metrics.evaluate_gridded(observed, forecast, NAMES)
    assert found["count"].to_numpy().tolist() == [[48, 50], [50, 50], [50, 0]]
    assert found["rmse"].attrs["units"] == "K"
    link = {"primary_location_id": ["a"], "secondary_location_id": ["b"]}
    for i, j in ((0, 0), (1, 1)):
        sides = (
            series(each[:, i, j].to_numpy().tolist(), name)
            for each, name in ((observed, "a"), (forecast, "b"))
        )
        (row,) = metrics.evaluate(*sides, pa.table(link), NAMES).to_pylist()
        for name in NAMES:
            assert float(found[name][i, j]) == pytest.approx(row[name], rel=1e-12)
    assert np.isnan(found["rmse"][2, 1])


def test_scores_gives_the_same() -> None:
    observed, forecast = fields()
    forecast = forecast.where(np.isfinite(forecast))
    found = metrics.evaluate_gridded(observed, forecast, ["rmse", "mean_error"])
    over = {"reduce_dims": "time"}
    xr.testing.assert_allclose(
        found["rmse"], scores.continuous.rmse(forecast, observed, **over), rtol=1e-12
    )
    xr.testing.assert_allclose(
        found["mean_error"], scores.continuous.additive_bias(forecast, observed, **over)
    )


def test_chunks_change_nothing() -> None:
    observed, forecast = fields()
    whole = metrics.evaluate_gridded(observed, forecast, NAMES)
    lazy = (each.chunk({"time": 7, "latitude": 2}) for each in (observed, forecast))
    xr.testing.assert_allclose(metrics.evaluate_gridded(*lazy, NAMES), whole, rtol=1e-12)


def test_a_map_at_each_time_with_cells_by_their_area() -> None:
    observed, forecast = fields()
    dims = ["latitude", "longitude"]
    area = np.cos(np.deg2rad(observed["latitude"]))
    found = metrics.evaluate_gridded(observed, forecast, ["rmse"], dims, weights=area)
    assert found["rmse"].dims == ("time",)
    error = (forecast - observed)[10]
    weight = area.where(np.isfinite(error)).fillna(0)
    expected = float(np.sqrt((error.fillna(0) ** 2 * weight).sum() / weight.sum()))
    assert float(found["rmse"][10]) == pytest.approx(expected)
    no_weight = metrics.evaluate_gridded(observed, forecast, ["rmse"], dims, weights=area * 0)
    assert int(no_weight["count"].max()) == 0


def test_what_cannot_be_compared() -> None:
    observed, forecast = fields(6)
    for primary, secondary, names, over, error, says in (
        (observed, forecast, ["spearman_r"], "time", InvalidInput, "spearman_r is not computed"),
        (observed, forecast, ["rmsee"], "time", NotFound, "did you mean 'rmse'"),
        (observed, forecast, ["rmse"], "tme", NotFound, "did you mean 'time'"),
        (observed, forecast.assign_attrs(units="degC"), ["rmse"], "time", InvalidInput, "degC"),
        (observed, forecast[:, :2], ["rmse"], "time", InvalidInput, "latitude differs"),
    ):
        with pytest.raises(error, match=says):
            metrics.evaluate_gridded(primary, secondary, names, over)
    turned = forecast.transpose("longitude", "time", "latitude")
    xr.testing.assert_identical(
        metrics.evaluate_gridded(observed, turned, NAMES),
        metrics.evaluate_gridded(observed, forecast, NAMES),
    )
    members = xr.concat([forecast, forecast], "member").assign_attrs(units="K")
    with pytest.raises(InvalidInput, match="has members: choose one"):
        metrics.evaluate_gridded(observed, members, ["rmse"])
    with pytest.raises(InvalidInput, match="no dimension member"):
        metrics.evaluate_gridded(observed, forecast, ["crps_ensemble"])
    with pytest.raises(InvalidInput, match="crps_reliability is not computed"):
        metrics.evaluate_gridded(observed, members, ["crps_reliability"])
    for other, name in ((forecast, "accuracy"), (members, "brier_score")):
        with pytest.raises(InvalidInput, match=f"{name} is of events: it needs threshold"):
            metrics.evaluate_gridded(observed, other, [name])
    with pytest.raises(InvalidInput, match="threshold are on other grids: latitude"):
        metrics.evaluate_gridded(observed, forecast, ["accuracy"], threshold=observed[0, :2])
    with pytest.raises(InvalidInput, match="no time in common"):
        metrics.evaluate_gridded(observed[:2], forecast[3:], ["rmse"])
    # Of other times, those that both have.
    found = metrics.evaluate_gridded(observed, forecast[1:], ["rmse"])
    assert int(found["count"].max()) == 5
    assert int(metrics.evaluate_gridded(observed, forecast, ["rmse"], minimum=9).rmse.count()) == 0


OF_EVENTS = [name for name, metric in metrics.METRICS.items() if metric.kind == "categorical"]
OF_ENSEMBLES = ["crps_ensemble", "crps_fair", "ensemble_spread", "ensemble_mean_rmse"]
OF_ENSEMBLES += ["spread_skill_ratio", "brier_score", "brier_score_fair"]
LINK = pa.table({"primary_location_id": ["a"], "secondary_location_id": ["b"]})


def test_events_of_a_cell_are_those_of_a_series() -> None:
    observed, forecast = fields()
    found = metrics.evaluate_gridded(observed, forecast, OF_EVENTS, threshold=286.0)
    for i, j in ((0, 0), (1, 1)):
        sides = (
            series(each[:, i, j].to_numpy().tolist(), name)
            for each, name in ((observed, "a"), (forecast, "b"))
        )
        (row,) = metrics.evaluate(*sides, LINK, OF_EVENTS, thresholds={"warm": 286}).to_pylist()
        for name in OF_EVENTS:
            assert float(found[name][i, j]) == pytest.approx(row[name], rel=1e-12), name
    of_cells = xr.full_like(observed[0], 286.0).drop_vars("time")
    xr.testing.assert_identical(
        metrics.evaluate_gridded(observed, forecast, OF_EVENTS, threshold=of_cells), found
    )
    manager = scores.categorical.ThresholdEventOperator(default_event_threshold=286.0)
    finite = forecast.where(np.isfinite(forecast))
    counted = manager.make_contingency_manager(finite, observed).transform(reduce_dims="time")
    name = "critical_success_index"
    expected = counted.critical_success_index().where(found["count"] > 0)
    np.testing.assert_allclose(found[name], expected, rtol=1e-12)


def test_ensembles_of_a_cell_are_those_of_a_series() -> None:
    """Some members are missing at some times; at one cell a forecast has one member only."""
    observed, forecast = fields()
    random = np.random.default_rng(4)
    noise = xr.DataArray(random.normal(0, 2, (5, *observed.shape)), dims=("member", *observed.dims))
    members = (noise.round(1) + forecast).assign_attrs(units="K")
    members[1:, 7, 1, 0] = np.nan
    members[2, 5:9, 1, 1] = np.inf
    found = metrics.evaluate_gridded(observed, members, OF_ENSEMBLES, threshold=286.0)
    lazy = members.chunk({"member": 2, "time": 7}), observed.chunk({"time": 7})
    xr.testing.assert_allclose(
        metrics.evaluate_gridded(*reversed(lazy), OF_ENSEMBLES, threshold=286.0), found, rtol=1e-12
    )
    for i, j in ((0, 0), (1, 0), (1, 1)):
        rows = [
            series(members[m, :, i, j].to_numpy().tolist(), "b", member=pa.array([str(m)] * 50))
            for m in range(5)
        ]
        primary = series(observed[:, i, j].to_numpy().tolist(), "a")
        (row,) = metrics.evaluate(
            primary, pa.concat_tables(rows), LINK, OF_ENSEMBLES, thresholds={"warm": 286}
        ).to_pylist()
        assert int(found["count"][i, j]) == row["count"]
        for name in OF_ENSEMBLES:
            value = float(found[name][i, j])
            assert np.isnan(value) if row[name] is None else value == pytest.approx(row[name]), name
    assert np.isnan(found["crps_fair"][1, 0])
    assert np.isnan(found["crps_ensemble"][2, 1])
    whole = members.isel(latitude=[0], longitude=[1])
    expected = scores.probability.crps_for_ensemble(
        whole, observed.isel(latitude=[0], longitude=[1]), "member", reduce_dims="time"
    )
    assert float(found["crps_ensemble"][0, 1]) == pytest.approx(float(expected.squeeze()))
