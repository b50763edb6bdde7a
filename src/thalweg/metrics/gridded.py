"""Metrics of fields: a gridded forecast against a gridded analysis, cell by cell.

The statistics are xarray's, on Dask where the fields are chunked; the formulas are those of the
metric table, so that a cell has the same metric as a gauge with its series.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import xarray as xr

from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.metrics.pairs import database
from thalweg.metrics.question import defined, listed, needs
from thalweg.metrics.table import DEFAULT, METRICS

__all__ = ["evaluate_gridded"]

#: The statistics that are made of fields.
STATISTICS = {
    "mean_of_errors", "mean_of_absolutes", "mean_of_squares", "covariance",
    *(f"{what}_{of}" for what in ("mean", "min", "max", "sd") for of in ("primary", "secondary")),
}  # fmt: skip


def evaluate_gridded(
    primary: xr.DataArray,
    secondary: xr.DataArray,
    metrics: Sequence[str] = DEFAULT,
    over: str | Sequence[str] = "time",
    *,
    weights: xr.DataArray | None = None,
    minimum: int = 1,
) -> xr.Dataset:
    """Metrics of one field against another over some of their dimensions.

    Parameters
    ----------
    primary, secondary
        What was observed or analysed, and what is judged: of the same unit, on the same grid. Of
        the dimension `time` the values are compared that both have.
    metrics
        Names of `METRICS` made of means, deviations, extremes and errors; those of ranks, events
        and ensembles are not computed of fields.
    over
        The dimensions whose values are compared with each other: `"time"` gives a map,
        `["latitude", "longitude"]` a series.
    weights
        Weight of each cell, as the cosine of its latitude; equal by default. A cell of weight 0
        is left out.
    minimum
        Where there are fewer pairs there is no metric.

    Returns
    -------
    xarray.Dataset
        count (number of pairs) and a float64 variable a metric, NaN where it is undefined, over
        the dimensions that are left. Pairs with a missing or infinite value are left out.

    Raises
    ------
    NotFound
        An unknown metric or dimension.
    InvalidInput
        A metric that is not computed of fields; other units, dimensions or grids; no common time.

    Examples
    --------
    >>> import numpy as np
    >>> observed = xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("time", "x"))
    >>> found = evaluate_gridded(observed, observed + 1, ["rmse", "kge"])
    >>> found["rmse"].to_numpy(), found["kge"].to_numpy()
    (array([1., 1.]), array([0.5       , 0.66666667]))
    """
    names, dims = listed(metrics), list(listed(over))
    _check(primary, secondary, names, dims)
    both = xr.align(primary, secondary.transpose(*primary.dims), join="inner")
    if not both[0].size:
        raise InvalidInput("primary and secondary have no time in common")
    statistics = xr.Dataset(_statistics(*both, dims, weights)).compute()
    count = statistics["count"].astype("int64")
    cells = pa.table({str(name): each.to_numpy().ravel() for name, each in statistics.items()})
    cells = cells.append_column("cell", pa.array(np.arange(count.size)))
    shown = ", ".join(f"{defined(METRICS[name].sql, minimum)} AS {name}" for name in names)
    with database() as connection:
        connection.register("cells", cells)
        known = ", ".join(f"CASE WHEN isfinite({c}) THEN {c} END AS {c}" for c in statistics)
        rows = f"SELECT cell, {known} FROM cells"  # noqa: S608
        found = connection.sql(f"SELECT {shown} FROM ({rows}) ORDER BY cell").to_arrow_table()  # noqa: S608
    result = xr.Dataset({"count": count.assign_attrs(long_name="number of pairs", units="1")})
    for name in names:
        values = found[name].to_numpy().reshape(count.shape).astype(np.float64)
        about = METRICS[name]
        unit = about.unit(str(primary.attrs.get("units", "unknown")))
        result[name] = count.copy(data=values).assign_attrs(long_name=about.title, units=unit)
    return result


def _check(
    primary: xr.DataArray, secondary: xr.DataArray, names: Sequence[str], dims: Sequence[str]
) -> None:
    for name in names:
        if name not in METRICS:
            raise NotFound(f"unknown metric {name!r}{nearest(name, METRICS)}")
        if not {*needs(name)} <= STATISTICS:
            raise InvalidInput(
                f"{name} is not computed of fields: it needs each value in its order"
            )
    for dim in dims:
        if dim not in primary.dims:
            dimensions = [str(each) for each in primary.dims]
            raise NotFound(f"unknown dimension {dim!r}{nearest(dim, dimensions)}")
    ours, theirs = (each.attrs.get("units") for each in (primary, secondary))
    if ours != theirs:
        raise InvalidInput(f"primary is in {ours}, secondary in {theirs}: convert one of them")
    if {*primary.dims} != {*secondary.dims}:
        raise InvalidInput(
            f"primary has the dimensions {', '.join(map(str, primary.dims))}, secondary "
            f"{', '.join(map(str, secondary.dims))}: choose one of what is more, as a member"
        )
    for axis in primary.dims:
        if axis != "time" and not primary[axis].equals(secondary[axis]):
            raise InvalidInput(
                f"primary and secondary are on other grids: {axis} differs; bring one to the "
                f"other, as with secondary.interp_like(primary)"
            )


def _statistics(
    primary: xr.DataArray,
    secondary: xr.DataArray,
    dims: Sequence[str],
    weights: xr.DataArray | None,
) -> dict[str, xr.DataArray]:
    """Count and statistics of each cell, not yet computed where the fields are lazy."""
    valid: xr.DataArray = np.isfinite(primary) & np.isfinite(secondary)  # type: ignore[assignment]
    if weights is not None:
        valid = (valid & (weights > 0)).transpose(*valid.dims)
    weight = (xr.ones_like(primary, dtype=float) if weights is None else weights).where(valid, 0)
    total = weight.sum(dims)

    def mean(values: xr.DataArray) -> xr.DataArray:
        return (values.where(valid, 0) * weight).sum(dims) / total.where(total > 0)

    sides = {
        name: each.astype(np.float64).where(valid)
        for name, each in (("primary", primary), ("secondary", secondary))
    }
    errors = sides["secondary"] - sides["primary"]
    found = {
        "count": valid.sum(dims),
        "mean_of_errors": mean(errors),
        "mean_of_absolutes": mean(abs(errors)),
        "mean_of_squares": mean(errors**2),
    }
    away = {}
    for side, values in sides.items():
        found[f"mean_{side}"] = mean(values)
        found[f"min_{side}"], found[f"max_{side}"] = values.min(dims), values.max(dims)
        away[side] = values - found[f"mean_{side}"]
        varies = found[f"min_{side}"] < found[f"max_{side}"]
        found[f"sd_{side}"] = (mean(away[side] ** 2) ** 0.5).where(varies)
    return found | {"covariance": mean(away["primary"] * away["secondary"])}
