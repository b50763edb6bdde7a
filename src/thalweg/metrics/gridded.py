"""Metrics of fields: a gridded forecast against a gridded analysis, cell by cell.

The statistics are xarray's, on Dask where the fields are chunked; the formulas are those of the
metric table, so that a cell has the same metric as a gauge with its series.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import xarray as xr

from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.metrics.pairs import database
from thalweg.metrics.question import defined, listed, named, needs
from thalweg.metrics.table import DEFAULT, METRICS

__all__ = ["evaluate_gridded"]

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
MEMBER = "member"
#: The statistics that are made of fields: of single values, of events, of ensembles, and of both.
SINGLE = {
    "mean_of_errors", "mean_of_absolutes", "mean_of_squares", "covariance",
    *(f"{what}_{of}" for what in ("mean", "min", "max", "sd") for of in ("primary", "secondary")),
}  # fmt: skip
EVENTS = {"hits", "misses", "false_alarms", "correct_negatives"}
ENSEMBLES = {
    "crps_of_all", "crps_of_fair", "variance_of_members", "variance_expected", "square_of_mean",
}  # fmt: skip
PROBABILITIES = {"brier", "brier_of_fair"}


def evaluate_gridded(
    primary: xr.DataArray,
    secondary: xr.DataArray,
    metrics: Sequence[str] = DEFAULT,
    over: str | Sequence[str] = "time",
    *,
    threshold: float | xr.DataArray | None = None,
    weights: xr.DataArray | None = None,
    minimum: int = 1,
) -> xr.Dataset:
    """Metrics of one field against another over some of their dimensions.

    Parameters
    ----------
    primary, secondary
        What was observed or analysed, and what is judged: of the same unit, on the same grid. Of
        the dimension `time` the values are compared that both have. An ensemble has the dimension
        `member`, which the primary has not; members that are missing count for nothing.
    metrics
        Names of `METRICS`: those of single values that are made of means, deviations, extremes and
        errors; those of events; of ensembles the CRPS and its fair form, spread, error of the mean
        and their ratio, the Brier score and its fair form. What needs the values in their order
        (ranks, medians, pinball loss, signatures) or the distribution of the forecasts (parts of
        the CRPS and the Brier score, ROC) is not computed of fields.
    over
        The dimensions whose values are compared with each other: `"time"` gives a map,
        `["latitude", "longitude"]` a series.
    threshold
        What is an event, for metrics of events: a value in the unit of the fields, or one for each
        cell. Values that are greater or equal are one.
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
        A metric that is not computed of fields, or not of these; no threshold for one of events;
        other units, dimensions or grids; no common time.

    Examples
    --------
    >>> import numpy as np
    >>> observed = xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("time", "x"))
    >>> found = evaluate_gridded(observed, observed + 1, ["rmse", "kge"])
    >>> found["rmse"].to_numpy(), found["kge"].to_numpy()
    (array([1., 1.]), array([0.5       , 0.66666667]))
    """
    names, dims = named(metrics), list(listed(over))
    _check(primary, secondary, names, dims, threshold)
    both = xr.align(primary, secondary.transpose(*primary.dims, ...), join="inner")
    if not both[0].size:
        raise InvalidInput("primary and secondary have no time in common")
    made = _of_ensembles if MEMBER in both[1].dims else _of_values
    wanted = {"count", *(statistic for name in names for statistic in needs(name))}
    found = made(*both, dims, weights, threshold).items()
    statistics = xr.Dataset({name: each for name, each in found if name in wanted}).compute()
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
    primary: xr.DataArray,
    secondary: xr.DataArray,
    names: Sequence[str],
    dims: Sequence[str],
    threshold: float | xr.DataArray | None,
) -> None:
    is_ensemble = MEMBER in secondary.dims and MEMBER not in primary.dims
    for name in names:
        if name not in METRICS:
            raise NotFound(f"unknown metric {name!r}{nearest(name, METRICS)}")
        wanted = {*needs(name)}
        of_ensembles = wanted <= ENSEMBLES | PROBABILITIES
        if not (of_ensembles or wanted <= SINGLE | EVENTS):
            raise InvalidInput(
                f"{name} is not computed of fields: it needs all values of a cell in their order"
            )
        if of_ensembles != is_ensemble:
            raise InvalidInput(
                f"{name} is of {'ensembles' if of_ensembles else 'single values'}, and secondary "
                + ("has no dimension member" if of_ensembles else "has members: choose one of them")
            )
        if wanted & (EVENTS | PROBABILITIES) and threshold is None:
            raise InvalidInput(f"{name} is of events: it needs threshold, as 280.0")
    for dim in dims:
        if dim not in primary.dims:
            dimensions = [str(each) for each in primary.dims]
            raise NotFound(f"unknown dimension {dim!r}{nearest(dim, dimensions)}")
    ours, theirs = (each.attrs.get("units") for each in (primary, secondary))
    if ours != theirs:
        raise InvalidInput(f"primary is in {ours}, secondary in {theirs}: convert one of them")
    if {*primary.dims} != {*secondary.dims} - ({MEMBER} if is_ensemble else set()):
        raise InvalidInput(
            f"primary has the dimensions {', '.join(map(str, primary.dims))}, secondary "
            f"{', '.join(map(str, secondary.dims))}: choose one of what is more"
        )
    limits = [threshold] if isinstance(threshold, xr.DataArray) else []
    for what, field in (("secondary", secondary), *(("threshold", limit) for limit in limits)):
        for axis in primary.dims:
            if axis in field.dims and axis != "time" and not primary[axis].equals(field[axis]):
                raise InvalidInput(
                    f"primary and {what} are on other grids: {axis} differs; bring one to the "
                    f"other, as with {what}.interp_like(primary)"
                )


def _weighted(
    valid: xr.DataArray, dims: Sequence[str], weights: xr.DataArray | None
) -> tuple[xr.DataArray, xr.DataArray, Callable[[xr.DataArray], xr.DataArray]]:
    """What is valid and has a weight, its weight, and the mean of it."""
    if weights is not None:
        valid = (valid & (weights > 0)).transpose(*valid.dims)
    weight = (xr.ones_like(valid, dtype=float) if weights is None else weights).where(valid, 0)
    total = weight.sum(dims)

    def mean(values: xr.DataArray) -> xr.DataArray:
        return (values.where(valid, 0) * weight).sum(dims) / total.where(total > 0)

    return valid, weight, mean


def _of_values(
    primary: xr.DataArray,
    secondary: xr.DataArray,
    dims: Sequence[str],
    weights: xr.DataArray | None,
    threshold: float | xr.DataArray | None,
) -> dict[str, xr.DataArray]:
    """Count and statistics of each cell, not yet computed where the fields are lazy."""
    both: xr.DataArray = np.isfinite(primary) & np.isfinite(secondary)  # type: ignore[assignment]
    valid, weight, mean = _weighted(both, dims, weights)
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
    if threshold is not None:
        is_there, warned = primary >= threshold, secondary >= threshold
        for name, each in (
            ("hits", is_there & warned), ("misses", is_there & ~warned),
            ("false_alarms", ~is_there & warned), ("correct_negatives", ~is_there & ~warned),
        ):  # fmt: skip
            found[name] = (each * weight).sum(dims)
    return found | {"covariance": mean(away["primary"] * away["secondary"])}


def _of_ensembles(
    primary: xr.DataArray,
    secondary: xr.DataArray,
    dims: Sequence[str],
    weights: xr.DataArray | None,
    threshold: float | xr.DataArray | None,
) -> dict[str, xr.DataArray]:
    """The same of ensembles: the mean over their forecasts, undefined as in a table."""
    if secondary.chunks:
        secondary = secondary.chunk({MEMBER: -1})
    drawn = secondary.astype(np.float64).where(np.isfinite(secondary))
    members = drawn.count(MEMBER)
    both: xr.DataArray = np.isfinite(primary) & (members > 0)  # type: ignore[assignment]
    valid, _, mean = _weighted(both, dims, weights)
    alone = ((members < 2) & valid).any(dims)
    plain, fair = xr.apply_ufunc(
        _crps, primary, drawn, members, input_core_dims=[[], [MEMBER], []],
        output_core_dims=[[], []], dask="parallelized", output_dtypes=[np.float64, np.float64],
    )  # fmt: skip
    members, others = members.where(members > 0), (members - 1).where(members > 1)
    spread = drawn.var(MEMBER, ddof=1)
    found = {
        "count": members.where(valid, 0).sum(dims),
        "crps_of_all": mean(plain),
        "crps_of_fair": mean(fair).where(~alone),
        "variance_of_members": mean(spread).where(~alone),
        "variance_expected": mean(spread * (members + 1) / members).where(~alone),
        "square_of_mean": mean((drawn.mean(MEMBER) - primary) ** 2),
    }
    if threshold is not None:
        warned = (drawn >= threshold).sum(MEMBER)
        wrong = abs(warned - members * (primary >= threshold))
        found["brier"] = mean((wrong / members) ** 2)
        found["brier_of_fair"] = mean(wrong * (wrong - 1) / (members * others)).where(~alone)
    return found


def _crps(observed: Array, drawn: Array, members: Array) -> tuple[Array, Array]:
    """The score of each forecast and its fair form, as sums of terms that are all positive."""
    drawn, observed, members = np.sort(drawn), observed[..., None], members[..., None]
    place = np.arange(drawn.shape[-1])
    beyond = np.where(drawn > observed, members - 1 - place, place)
    away = 2 * abs(drawn - observed)
    with np.errstate(invalid="ignore", divide="ignore"):
        plain = np.nansum(away * (beyond + 0.5) / members**2, axis=-1)
        return plain, np.nansum(away * beyond / (members * (members - 1)), axis=-1)
