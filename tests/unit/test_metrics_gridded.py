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
from thalweg.metrics import gridded

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
        (observed, forecast, ["nse", "max_value_time_delta"], "latitude", InvalidInput,
         "max_value_time_delta looks at the time: over needs the dimension time"),
        (observed, forecast, ["rmsee"], "time", NotFound, "did you mean 'rmse'"),
        (observed, forecast, ["rmse"], "tme", NotFound, "did you mean 'time'"),
        (observed, forecast.assign_attrs(units="degC"), ["rmse"], "time", InvalidInput, "degC"),
        (observed, forecast[:, :2], ["rmse"], "time", InvalidInput, "latitude differs"),
    ):  # fmt: skip
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
    with pytest.raises(InvalidInput, match="primary_count is of single values"):
        metrics.evaluate_gridded(observed, members, ["primary_count"])
    for other, name in ((forecast, "accuracy"), (members, "brier_score")):
        with pytest.raises(InvalidInput, match=f"{name} is of events: it needs threshold"):
            metrics.evaluate_gridded(observed, other, [name])
    area = np.cos(np.deg2rad(observed["latitude"]))
    several = observed.quantile([0.5, 0.9], "time")
    for given, says in (
        ({"threshold": observed[0, :2]}, "threshold are on other grids: latitude"),
        ({"threshold": several}, "threshold has the dimension quantile, which primary has not"),
        ({"threshold": "90%"}, "threshold is 90%: expected a value in the unit of the fields"),
        ({"threshold": float("nan")}, "threshold is nan: expected a value"),
        ({"weights": area[:2]}, "weights are on other grids: latitude"),
    ):
        with pytest.raises(InvalidInput, match=says):
            metrics.evaluate_gridded(observed, forecast, ["rmse"], **given)
    with pytest.raises(InvalidInput, match=r"spearman_r is not made of sums, .* weights"):
        metrics.evaluate_gridded(observed, forecast, ["rmse", "spearman_r"], weights=area)
    with pytest.raises(InvalidInput, match="no time in common"):
        metrics.evaluate_gridded(observed[:2], forecast[3:], ["rmse"])
    # Of other times, those that both have.
    found = metrics.evaluate_gridded(observed, forecast[1:], ["rmse"])
    assert int(found["count"].max()) == 5
    assert int(metrics.evaluate_gridded(observed, forecast, ["rmse"], minimum=9).rmse.count()) == 0


OF_EVENTS = [name for name, metric in metrics.METRICS.items() if metric.kind == "categorical"]
OF_ENSEMBLES = [name for name in metrics.METRICS if "members" in metrics.requires(name)]
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


def test_every_metric_of_a_cell_is_that_of_a_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two years, so that there are water years; ties, which ranks are made of."""
    observed, forecast = (each.round(1) for each in fields(3000))
    monkeypatch.setattr(gridded, "PAIRS", 7000)  # two cells at once
    names = [name for name in metrics.METRICS if name not in OF_ENSEMBLES]
    limit = observed.quantile(0.9, "time")
    found = metrics.evaluate_gridded(observed, forecast, names, threshold=limit)
    assert found["count"].dtype == np.int64
    assert not {*found.coords} - {*observed.coords}
    times = pa.array(observed["time"].to_numpy().astype("M8[us]")).cast(pa.timestamp("us", "UTC"))
    for i, j in ((0, 0), (1, 1), (2, 0)):
        sides = (
            series(each[:, i, j].to_numpy().tolist(), name, value_time=times)
            for each, name in ((observed, "a"), (forecast, "b"))
        )
        warm = {"warm": float(limit[i, j])}
        (row,) = metrics.evaluate(*sides, LINK, names, thresholds=warm).to_pylist()
        assert int(found["count"][i, j]) == row["count"]
        for name in names:
            assert row[name] == pytest.approx(float(found[name][i, j]), rel=1e-9), name
    assert int(found.isel(latitude=2, longitude=1)["spearman_r"].count()) == 0
    lazy = (each.chunk({"time": 1000, "latitude": 2}) for each in (observed, forecast))
    xr.testing.assert_allclose(
        metrics.evaluate_gridded(*lazy, names, threshold=limit), found, rtol=1e-12
    )


def test_ranks_over_a_map() -> None:
    observed, forecast = fields(6)
    found = metrics.evaluate_gridded(observed, forecast, ["spearman_r"], ["longitude", "latitude"])
    assert found["spearman_r"].dims == ("time",)
    for i in range(6):
        sides = (
            series(each[i].to_numpy().ravel().tolist(), name)
            for each, name in ((observed, "a"), (forecast, "b"))
        )
        (row,) = metrics.evaluate(*sides, LINK, ["spearman_r"]).to_pylist()
        assert float(found["spearman_r"][i]) == pytest.approx(row["spearman_r"])
    many = metrics.evaluate_gridded(observed, forecast, ["spearman_r"], minimum=7)
    assert int(many["spearman_r"].count()) == 0


def test_a_cell_without_a_threshold_has_no_pairs() -> None:
    observed, forecast = fields()
    limit = xr.full_like(observed[0], 286.0).drop_vars("time")
    limit[1, 1] = np.nan  # as over the sea
    found = metrics.evaluate_gridded(observed, forecast, ["accuracy"], threshold=limit)
    assert int(found["count"][1, 1]) == 0
    assert np.isnan(found["accuracy"][1, 1])
    assert int(found["count"][1, 0]) == 50


def test_what_is_float32_is_compared_as_float64() -> None:
    """A forecast without error has no score, on the threshold as well."""
    observed = xr.DataArray(np.array([0.7, 0.9, 0.1], np.float32), dims=("time",))
    members = xr.concat([observed, observed], "member")
    found = metrics.evaluate_gridded(observed, members, ["brier_score"], threshold=0.7)
    assert float(found["brier_score"]) == 0
    events = metrics.evaluate_gridded(observed, observed, ["true_positives"], threshold=0.7)
    assert int(events["true_positives"]) == 1  # 0.7 as float32 is less


def test_member_by_member() -> None:
    """Where the analysis has members too, each is compared with its own."""
    observed, forecast = fields()
    both = [xr.concat([each, each + 1], "member") for each in (observed, forecast)]
    found = metrics.evaluate_gridded(*(each.assign_attrs(units="K") for each in both), ["rmse"])
    assert {*found["rmse"].dims} == {"member", "latitude", "longitude"}
    alone = metrics.evaluate_gridded(observed, forecast, ["rmse"])
    np.testing.assert_allclose(found["rmse"].isel(member=1), alone["rmse"])
