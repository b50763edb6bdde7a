"""Metrics of fields: a gridded forecast against a gridded analysis, cell by cell.

What is made of sums and extremes is added up by xarray, on Dask where the fields are chunked; what
needs all values of a cell together is counted by the SQL of tables, a block of cells at a time.
The formulas are those of the metric table: a cell has the metric of a gauge with its series.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import xarray as xr

from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.metrics.pairs import database
from thalweg.metrics.question import defined, groups, listed, named, needs, requires, spoken
from thalweg.metrics.table import DEFAULT, METRICS

__all__ = ["evaluate_gridded"]

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
MEMBER, METRIC = "member", "metric"
#: The statistics that are added up: of single values, of events, of ensembles, and of both.
SINGLE = {
    "mean_of_errors", "mean_of_absolutes", "mean_of_squares", "covariance",
    *(f"{what}_{of}" for what in ("mean", "min", "max", "sd") for of in ("primary", "secondary")),
}  # fmt: skip
EVENTS = {"hits", "misses", "false_alarms", "correct_negatives"}
ENSEMBLES = {
    "crps_of_all", "crps_of_fair", "variance_of_members", "variance_expected", "square_of_mean",
}  # fmt: skip
PROBABILITIES = {"brier", "brier_of_fair"}
ADDED = SINGLE | EVENTS | ENSEMBLES | PROBABILITIES
#: About so many pairs are counted at once by SQL, which bounds the memory.
PAIRS = 1_000_000


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
        Names of `METRICS`: those of ensembles where secondary is one, else the others. What is no
        sum (ranks, medians, logarithms, quantiles, signatures, the parts of the CRPS and the Brier
        score, ROC) needs the dimensions of `over` in one chunk, and several times its memory.
    over
        The dimensions whose values are compared with each other: `"time"` gives a map,
        `["latitude", "longitude"]` a series. Metrics that look at the time need `time`.
    threshold
        What is an event, for metrics of events: a value in the unit of the fields, or one for each
        cell, as `primary.quantile(0.9, "time")`. Values that are greater or equal are one. A cell
        without a threshold has no pairs.
    weights
        Weight of each cell, as the cosine of its latitude, in metrics that are made of sums; equal
        by default. A cell of weight 0, or of none, is left out.
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
        A metric that is not of such fields, times or weights; no threshold for one of events, or
        one that is no number; other units, dimensions or grids; no common time.

    Examples
    --------
    >>> import numpy as np
    >>> observed = xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("time", "x"))
    >>> found = evaluate_gridded(observed, observed + 1, ["rmse", "kge", "spearman_r"])
    >>> found["rmse"].to_numpy(), found["kge"].to_numpy(), found["spearman_r"].to_numpy()
    (array([1., 1.]), array([0.5       , 0.66666667]), array([1., 1.]))
    """
    names, dims = named(metrics), list(listed(over))
    is_ensemble = MEMBER in secondary.dims and MEMBER not in primary.dims
    limit = xr.DataArray(0.0 if threshold is None else threshold).reset_coords(drop=True)
    weight = xr.DataArray(1.0 if weights is None else weights).reset_coords(drop=True)
    _check(primary, secondary, limit, weight, dims)
    is_timed = "time" in dims and primary["time"].dtype.kind == "M"
    for name in names:
        _check_metric(
            name, is_ensemble=is_ensemble, is_timed=is_timed, has_threshold=threshold is not None,
            has_weights=weights is not None,
        )  # fmt: skip
    given = (primary, secondary.transpose(*primary.dims, ...), limit, weight)
    same = (each.astype(np.float64, copy=False) for each in xr.align(*given, join="inner"))
    fields = _Fields(dims, *same)
    if not fields.primary.size:
        raise InvalidInput("primary and secondary have no time in common")
    added = [name for name in names if _is_added(name)]
    whole = [name for name in names if not _is_added(name)]
    wanted = {"count", *(statistic for name in added for statistic in needs(name))}
    found = (_of_ensembles if is_ensemble else _of_values)(fields, wanted)
    lazy = xr.Dataset({name: each for name, each in found.items() if name in wanted})
    if whole:
        lazy["whole"] = _of_whole_cells(fields, is_ensemble, whole, minimum)
    statistics = lazy.compute()
    count = statistics["count"].astype("int64")
    values: dict[str, Array] = {}
    if whole:
        apart = statistics["whole"].transpose(METRIC, *count.dims).to_numpy()
        values = dict(zip(whole, apart, strict=True))
        statistics = statistics.drop_vars("whole")
    values |= _of_sums(statistics, added, minimum)
    result = xr.Dataset({"count": count.assign_attrs(long_name="number of pairs", units="1")})
    for name in names:
        about = METRICS[name]
        unit = about.unit(str(primary.attrs.get("units", "unknown")))
        data = values[name].reshape(count.shape)
        result[name] = count.copy(data=data).assign_attrs(long_name=about.title, units=unit)
    return result


@dataclass(frozen=True)
class _Fields:
    """Fields of the same times and grid, in float64, and the dimensions that are compared over."""

    over: list[str]
    primary: xr.DataArray
    secondary: xr.DataArray
    threshold: xr.DataArray
    weights: xr.DataArray

    def among(
        self, both: xr.DataArray
    ) -> tuple[xr.DataArray, xr.DataArray, Callable[[xr.DataArray], xr.DataArray]]:
        """What of both has a weight and a threshold, its weight, and the mean of it."""
        valid = both & (self.weights > 0) & np.isfinite(self.threshold)
        valid = valid.transpose(*both.dims)
        weight = self.weights.where(valid, 0)
        total = weight.sum(self.over)

        def mean(values: xr.DataArray) -> xr.DataArray:
            return (values.where(valid, 0) * weight).sum(self.over) / total.where(total > 0)

        return valid, weight, mean


def _is_added(name: str) -> bool:
    return {*needs(name)} <= ADDED


def _check_metric(
    name: str, *, is_ensemble: bool, is_timed: bool, has_threshold: bool, has_weights: bool
) -> None:
    if name not in METRICS:
        raise NotFound(f"unknown metric {name!r}{nearest(name, METRICS)}")
    of_ensembles = "members" in requires(name)
    if of_ensembles != is_ensemble:
        raise InvalidInput(
            f"{name} is of {'ensembles' if of_ensembles else 'single values'}, and secondary "
            + ("has no dimension member" if of_ensembles else "has members: choose one of them")
        )
    if "thresholds" in requires(name) and not has_threshold:
        raise InvalidInput(f"{name} is of events: it needs threshold, as 280.0")
    if has_weights and not _is_added(name):
        raise InvalidInput(f"{name} is not made of sums, so cells cannot have weights in it")
    if not is_timed and not is_ensemble and "value_time" in spoken([name]):
        raise InvalidInput(
            f"{name} looks at the time: over needs the dimension time, with times as NumPy has "
            f"them (datetime64)"
        )


def _check(
    primary: xr.DataArray,
    secondary: xr.DataArray,
    threshold: xr.DataArray,
    weights: xr.DataArray,
    over: Sequence[str],
) -> None:
    dimensions = [str(each) for each in primary.dims]
    for dim in over:
        if dim not in dimensions:
            raise NotFound(f"unknown dimension {dim!r}{nearest(dim, dimensions)}")
    ours, theirs = (each.attrs.get("units") for each in (primary, secondary))
    if ours != theirs:
        raise InvalidInput(f"primary is in {ours}, secondary in {theirs}: convert one of them")
    if not {*primary.dims} <= {*secondary.dims} <= {*primary.dims, MEMBER}:
        raise InvalidInput(
            f"primary has the dimensions {', '.join(dimensions)}, secondary "
            f"{', '.join(map(str, secondary.dims))}: choose one of what is more"
        )
    if threshold.dtype.kind not in "fiu" or not (threshold.ndim or np.isfinite(threshold)):
        raise InvalidInput(
            f"threshold is {threshold.to_numpy()}: expected a value in the unit of the fields, as "
            f"280.0, or a field of them"
        )
    others = {"secondary": secondary, "threshold": threshold, "weights": weights}
    for what, field in others.items():
        for axis in field.dims:
            if what != "secondary" and axis not in primary.dims:
                raise InvalidInput(f"{what} has the dimension {axis}, which primary has not")
        for axis in primary.dims:
            if axis in field.dims and axis != "time" and not primary[axis].equals(field[axis]):
                raise InvalidInput(
                    f"primary and {what} are on other grids: {axis} differs; bring one to the "
                    f"other, as with {what}.interp_like(primary)"
                )


def _of_sums(statistics: xr.Dataset, names: Sequence[str], minimum: int) -> dict[str, Array]:
    """The metrics of all cells, one after the other, out of their statistics."""
    cells = pa.table({str(name): each.to_numpy().ravel() for name, each in statistics.items()})
    cells = cells.append_column("cell", pa.array(np.arange(len(cells))))
    known = ", ".join(f"CASE WHEN isfinite({c}) THEN {c} END AS {c}" for c in statistics)
    shown = ", ".join(["cell", *(f"{defined(METRICS[n].sql, minimum)} AS {n}" for n in names)])
    with database() as connection:
        connection.register("cells", cells)
        rows = f"SELECT cell, {known} FROM cells"  # noqa: S608
        found = connection.sql(f"SELECT {shown} FROM ({rows}) ORDER BY cell").to_arrow_table()  # noqa: S608
    return {name: found[name].to_numpy().astype(np.float64) for name in names}


def _of_whole_cells(
    fields: _Fields, is_ensemble: bool, names: Sequence[str], minimum: int
) -> xr.DataArray:
    """Metrics of cells all values of which are counted together, not yet computed where lazy."""
    over, primary, limit = fields.over, fields.primary, fields.threshold
    times = None
    if "time" in over and primary["time"].dtype.kind == "M":
        shape = [primary.sizes[dim] if dim == "time" else 1 for dim in over]
        each = primary["time"].to_numpy().astype("M8[us]").reshape(shape)
        times = np.broadcast_to(each, [primary.sizes[dim] for dim in over]).ravel()
    members = [MEMBER] if is_ensemble else []
    # Broadcast lazily, a chunk is as small as those of the fields.
    limit = (limit.chunk() if primary.chunks else limit).broadcast_like(primary)
    sides = [
        each.chunk({dim: -1 for dim in (*over, *members) if dim in each.dims})
        if each.chunks
        else each
        for each in (primary, fields.secondary, limit)
    ]
    found: xr.DataArray = xr.apply_ufunc(
        _counted,
        *sides,
        input_core_dims=[over, [*over, *members], over],
        output_core_dims=[[METRIC]],
        kwargs={"axes": len(over), "times": times, "names": names, "minimum": minimum},
        dask="parallelized",
        dask_gufunc_kwargs={"output_sizes": {METRIC: len(names)}},
        output_dtypes=[np.float64],
    )
    return found


def _counted(
    primary: Array,
    secondary: Array,
    threshold: Array,
    *,
    axes: int,
    times: Array | None,
    names: Sequence[str],
    minimum: int,
) -> Array:
    """Metrics of a block of cells, whose values are along the last axes (members the very last)."""
    shape = primary.shape[: primary.ndim - axes]
    cells = int(np.prod(shape))
    primary, threshold = (each.reshape(cells, -1) for each in (primary, threshold))
    secondary = secondary.reshape(*primary.shape, -1)
    result = np.full((cells, len(names)), np.nan)
    step = max(1, PAIRS // max(1, secondary[:1].size))
    for first in range(0, cells, step):
        some = slice(first, first + step)
        both = np.isfinite(primary[some, :, None]) & np.isfinite(secondary[some])
        cell, place, member = np.nonzero(both & np.isfinite(threshold[some, :, None]))
        cell += first
        then = pa.nulls(len(place)) if times is None else pa.array(times[place])
        pairs = pa.table(
            {
                "cell": cell,
                "primary_location_id": place,
                "value_time": then.cast(pa.timestamp("us", "UTC")),
                "primary_value": primary[cell, place],
                "secondary_value": secondary[cell, place, member],
                "threshold_value": threshold[cell, place],
            }
        )
        found = _metrics(pairs, names, minimum)
        for i, name in enumerate(names):
            result[found["cell"].to_numpy(), i] = found[name].to_numpy()
    return result.reshape(*shape, len(names))


def _metrics(pairs: pa.Table, names: Sequence[str], minimum: int) -> pa.Table:
    """The metrics of each cell; a forecast of an ensemble is all that there is at one place."""
    with database() as connection:
        connection.register("cells", pairs)
        return connection.sql(f"""
            WITH all_pairs AS (
                SELECT *, NULL AS secondary_location_id, NULL AS configuration_name,
                    NULL::TIMESTAMPTZ AS reference_time
                FROM cells
            ) FROM ({groups(["cell"], [], names, minimum)})
        """).to_arrow_table()  # noqa: S608 - names of our own table


def _of_values(fields: _Fields, wanted: Collection[str]) -> dict[str, xr.DataArray]:
    """Count and statistics of each cell, not yet computed where the fields are lazy."""
    primary, secondary, over = fields.primary, fields.secondary, fields.over
    both: xr.DataArray = np.isfinite(primary) & np.isfinite(secondary)  # type: ignore[assignment]
    valid, weight, mean = fields.among(both)
    sides = {"primary": primary.where(valid), "secondary": secondary.where(valid)}
    errors = sides["secondary"] - sides["primary"]
    found = {
        "count": valid.sum(over),
        "mean_of_errors": mean(errors),
        "mean_of_absolutes": mean(abs(errors)),
        "mean_of_squares": mean(errors**2),
    }
    away = {}
    for side, values in sides.items():
        found[f"mean_{side}"] = mean(values)
        found[f"min_{side}"], found[f"max_{side}"] = values.min(over), values.max(over)
        away[side] = values - found[f"mean_{side}"]
        varies = found[f"min_{side}"] < found[f"max_{side}"]
        found[f"sd_{side}"] = (mean(away[side] ** 2) ** 0.5).where(varies)
    if EVENTS & {*wanted}:
        is_there, warned = primary >= fields.threshold, secondary >= fields.threshold
        for name, each in (
            ("hits", is_there & warned), ("misses", is_there & ~warned),
            ("false_alarms", ~is_there & warned), ("correct_negatives", ~is_there & ~warned),
        ):  # fmt: skip
            found[name] = (each * weight).sum(over)
    return found | {"covariance": mean(away["primary"] * away["secondary"])}


def _of_ensembles(fields: _Fields, wanted: Collection[str]) -> dict[str, xr.DataArray]:
    """The same of ensembles: the mean over their forecasts, undefined as in a table."""
    primary, secondary, over = fields.primary, fields.secondary, fields.over
    if secondary.chunks:
        secondary = secondary.chunk({MEMBER: -1})
    drawn = secondary.where(np.isfinite(secondary))
    members = drawn.count(MEMBER)
    both: xr.DataArray = np.isfinite(primary) & (members > 0)  # type: ignore[assignment]
    valid, _, mean = fields.among(both)
    alone = ((members < 2) & valid).any(over)
    plain, fair = xr.apply_ufunc(
        _crps, primary, drawn, members, input_core_dims=[[], [MEMBER], []],
        output_core_dims=[[], []], dask="parallelized", output_dtypes=[np.float64, np.float64],
    )  # fmt: skip
    members, others = members.where(members > 0), (members - 1).where(members > 1)
    spread = drawn.var(MEMBER, ddof=1)
    found = {
        "count": members.where(valid, 0).sum(over),
        "crps_of_all": mean(plain),
        "crps_of_fair": mean(fair).where(~alone),
        "variance_of_members": mean(spread).where(~alone),
        "variance_expected": mean(spread * (members + 1) / members).where(~alone),
        "square_of_mean": mean((drawn.mean(MEMBER) - primary) ** 2),
    }
    if PROBABILITIES & {*wanted}:
        warned = (drawn >= fields.threshold).sum(MEMBER)
        wrong = abs(warned - members * (primary >= fields.threshold))
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
