"""What is a table and no number: ROC curve, reliability diagram, rank histogram, flow duration.

Each takes the inputs and the groups of `evaluate`, and gives several rows a group. With a bootstrap
its rates, frequencies or flows are each followed by their quantiles, at the same probability, rank
or exceedance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import pyarrow as pa

from thalweg.errors import InvalidInput
from thalweg.metrics import inputs
from thalweg.metrics.bootstrap import Bootstrap, Sampled
from thalweg.metrics.inputs import Frame
from thalweg.metrics.narrowed import narrowed
from thalweg.metrics.pairs import Thresholds, Transform
from thalweg.metrics.question import Question, ask, asked, common, relations
from thalweg.settings import Settings

__all__ = ["BY", "Options", "flow_duration", "rank_histogram", "reliability", "roc"]

BY = ("primary_location_id", "configuration_name")
EXCEEDANCE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


class Options(TypedDict, total=False):
    """The arguments of `evaluate` that are taken here too."""

    lead_time_bin: int | None
    where: str | None
    parameters: Sequence[Any] | Mapping[str, Any]
    thresholds: Thresholds | None
    attributes: Frame | None
    transform: Transform | str | None
    minimum: int
    bootstrap: Bootstrap | None
    primary_configuration: str | None
    cluster: Any
    settings: Settings | None


@dataclass(frozen=True)
class Curve(Question):
    """A SELECT over the relations of the metrics that gives several rows a group."""

    select: str
    #: Columns that put the rows of a group in order, and the others.
    along: tuple[str, ...]
    beside: tuple[str, ...]
    #: What tells the rows of a group apart in SQL, and the columns that a bootstrap judges.
    row: str
    uncertain: tuple[str, ...]

    @property
    def order(self) -> list[str]:
        return [*self.group_keys, *self.along]

    @property
    def judged(self) -> list[str]:
        return list(self.uncertain)

    @property
    def apart(self) -> str:
        return self.row

    @property
    def spoken(self) -> str:
        return " ".join([self.select, *relations(self.select).values()])

    @property
    def shown(self) -> list[str]:
        return list(self.beside)

    def group(self, keys: Sequence[str], where: Sequence[str], rows: str = "") -> str:
        parts = ", ".join(common(keys, where, relations(self.select), self.minimum))
        rows = rows or "(SELECT NULL::DOUBLE AS probability)"
        return f"WITH {parts} {self.select.format(keys=', '.join(keys), rows=rows)}"


_ROC = """
    SELECT {keys}, probability, forecasts::BIGINT AS count,
        sum(events) OVER upwards / nullif(sum(events) OVER whole, 0) AS probability_of_detection,
        sum(forecasts - events) OVER upwards / nullif(sum(forecasts - events) OVER whole, 0)
            AS probability_of_false_detection
    FROM (
        SELECT {keys}, probability, sum(forecasts) AS forecasts, sum(events) AS events FROM (
            SELECT {keys}, probability, forecasts, events FROM probabilities
            UNION ALL
            SELECT DISTINCT {keys}, more.probability, 0, 0 FROM probabilities, {rows} more
        ) GROUP BY ALL
    ) WINDOW whole AS (PARTITION BY {keys}),
        upwards AS (PARTITION BY {keys} ORDER BY probability DESC NULLS FIRST)
"""


def roc(
    primary: Frame = "primary_timeseries",
    secondary: Frame = "secondary_timeseries",
    crosswalk: Frame = "location_crosswalks",
    by: Sequence[str] = BY,
    **options: Unpack[Options],
) -> pa.Table:
    """Relative operating characteristic of ensembles at thresholds.

    A warning is given when at least the share `probability` of the members reaches the threshold.

    Parameters
    ----------
    primary, secondary, crosswalk, by, options
        As `evaluate` takes them; `thresholds` is needed.

    Returns
    -------
    pyarrow.Table
        The columns of the group, probability_of_false_detection, probability_of_detection,
        probability (NULL: no warning is ever given) and count (forecasts of exactly that
        probability), from (0, 0) to (1, 1). NULL where nothing, or everything, was an event.

    Raises
    ------
    NotFound, InvalidInput
        As `evaluate`.

    References
    ----------
    Mason and Graham (2002), doi:10.1256/003590002320603584.
    """
    along = ("probability_of_false_detection", "probability_of_detection")
    curve = Curve(
        names=(), select=_ROC, along=along, beside=("probability", "count"), row="probability",
        uncertain=along, **asked(by, **options),
    )  # fmt: skip
    return _drawn(curve, (primary, secondary, crosswalk), options)


def reliability(
    primary: Frame = "primary_timeseries",
    secondary: Frame = "secondary_timeseries",
    crosswalk: Frame = "location_crosswalks",
    by: Sequence[str] = BY,
    bins: int | None = None,
    **options: Unpack[Options],
) -> pa.Table:
    """Reliability diagram of ensembles at thresholds: how often it came about, as forecast.

    Parameters
    ----------
    primary, secondary, crosswalk, by, options
        As `evaluate` takes them; `thresholds` is needed.
    bins
        Number of bins of equal width, of which the last has probability 1 too; by default a row
        for each probability that was forecast, of which the Brier score's parts are made.

    Returns
    -------
    pyarrow.Table
        The columns of the group, probability (mean of the forecasts), observed_frequency and count
        (of forecasts).

    Raises
    ------
    NotFound, InvalidInput
        As `evaluate`; less than one bin.

    References
    ----------
    Bröcker and Smith (2007), Weather and Forecasting 22, 651-661, doi:10.1175/WAF993.1.
    """
    if bins is not None and bins < 1:
        raise InvalidInput(f"bins is a number of at least 1, got {bins}")
    # A thousandth of the smallest step of a large ensemble keeps 0.29 * 100 in its bin.
    of = f"least(floor(probability * {bins} + 1e-9), {bins} - 1)" if bins else "probability"
    mean = "sum(probability * forecasts) / sum(forecasts)" if bins else "first(probability)"
    select = f"""
        SELECT {{keys}}, {mean} AS probability, sum(events) / sum(forecasts) AS observed_frequency,
            sum(forecasts)::BIGINT AS count
        FROM probabilities GROUP BY {{keys}}, {of}
    """  # noqa: S608
    curve = Curve(
        names=(), select=select, along=("probability",), beside=("observed_frequency", "count"),
        row=of, uncertain=("observed_frequency",), **asked(by, **options),
    )  # fmt: skip
    return _drawn(curve, (primary, secondary, crosswalk), options)


_RANKS = """
    SELECT {keys}, members, rank, sum(share) AS count, avg(share) AS frequency
    FROM (
        SELECT *, CASE WHEN rank BETWEEN below + 1 AND below + ties + 1 THEN 1 / (ties + 1)
            ELSE 0 END AS share
        FROM (
            SELECT {keys}, members, unnest(generate_series(1, members + 1)) AS rank,
                len(list_filter(sorted, lambda x: x < observed)) AS below,
                len(list_filter(sorted, lambda x: x = observed)) AS ties
            FROM ensembles
        )
    ) GROUP BY {keys}, members, rank
"""


def rank_histogram(
    primary: Frame = "primary_timeseries",
    secondary: Frame = "secondary_timeseries",
    crosswalk: Frame = "location_crosswalks",
    by: Sequence[str] = BY,
    **options: Unpack[Options],
) -> pa.Table:
    """Rank histogram of ensembles: among how many members the observed value stands where.

    An observed value that equals k members is spread evenly over the k + 1 ranks it could have, so
    nothing is drawn by lot. Forecasts with another number of members have a histogram of their own.

    Parameters
    ----------
    primary, secondary, crosswalk, by, options
        As `evaluate` takes them.

    Returns
    -------
    pyarrow.Table
        The columns of the group, members, rank (1: below all members, members + 1: above all),
        count (float64: forecasts, with their shares) and frequency (the sum over the ranks is 1).

    Raises
    ------
    NotFound, InvalidInput
        As `evaluate`.

    References
    ----------
    Hamill (2001), Monthly Weather Review 129, 550-560,
    doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2.

    Examples
    --------
    >>> import datetime as dt
    >>> import pyarrow as pa
    >>> time = dt.datetime(2024, 9, 26, tzinfo=dt.UTC)
    >>> def series(values, location):
    ...     rows = [{"value_time": time, "reference_time": time, "value": value,
    ...              "unit_name": "m^3/s", "variable_name": "streamflow_hourly_inst",
    ...              "location_id": location, "configuration_name": "hefs", "member": str(i)}
    ...             for i, value in enumerate(values)]
    ...     return pa.Table.from_pylist(rows)
    >>> crosswalk = pa.table({"primary_location_id": ["gauge"], "secondary_location_id": ["reach"]})
    >>> ranks = rank_histogram(series([2.0], "gauge"), series([1.0, 2.0, 3.0], "reach"), crosswalk)
    >>> ranks.select(["rank", "count"]).to_pydict()
    {'rank': [1, 2, 3, 4], 'count': [0.0, 0.5, 0.5, 0.0]}
    """
    curve = Curve(
        names=(), select=_RANKS, along=("members", "rank"), beside=("count", "frequency"),
        row="row(members, rank)", uncertain=("frequency",), **asked(by, **options),
    )  # fmt: skip
    return _drawn(curve, (primary, secondary, crosswalk), options)


def flow_duration(
    primary: Frame = "primary_timeseries",
    secondary: Frame = "secondary_timeseries",
    crosswalk: Frame = "location_crosswalks",
    by: Sequence[str] = BY,
    exceedance: Sequence[float] = EXCEEDANCE,
    **options: Unpack[Options],
) -> pa.Table:
    """Flow-duration curves of the paired values: what is exceeded which part of the time.

    Parameters
    ----------
    primary, secondary, crosswalk, by, options
        As `evaluate` takes them.
    exceedance
        Probabilities of exceedance, 0 to 1.

    Returns
    -------
    pyarrow.Table
        The columns of the group, exceedance, primary_value, secondary_value: the quantiles
        1 - exceedance, between two values by linear interpolation.

    Raises
    ------
    NotFound, InvalidInput
        As `evaluate`; a probability below 0 or above 1.

    References
    ----------
    Vogel and Fennessey (1994), Journal of Water Resources Planning and Management 120, 485-504,
    doi:10.1061/(ASCE)0733-9496(1994)120:4(485).
    """
    wrong = [p for p in exceedance if not 0 <= p <= 1]
    if wrong:
        raise InvalidInput(f"exceedance is a probability of 0 to 1, got {wrong[0]}")
    listed = [float(p) for p in exceedance]
    levels = [1 - p for p in listed]
    select = f"""
        SELECT {{keys}}, unnest({listed}::DOUBLE[]) AS exceedance,
            unnest(quantile_cont(primary_value, {levels})) AS primary_value,
            unnest(quantile_cont(secondary_value, {levels})) AS secondary_value
        FROM pairs GROUP BY {{keys}}
    """  # noqa: S608
    curve = Curve(
        names=(), select=select, along=("exceedance",),
        beside=("primary_value", "secondary_value"), row="exceedance",
        uncertain=("primary_value", "secondary_value"), **asked(by, **options),
    )  # fmt: skip
    return _drawn(curve, (primary, secondary, crosswalk), options)


def _drawn(curve: Curve, series: tuple[Frame, Frame, Frame], options: Options) -> pa.Table:
    curve.check()
    bootstrap = options.get("bootstrap")
    found = inputs.sources(*series, options.get("primary_configuration"), options.get("settings"))
    return ask(
        curve, *narrowed(curve, *found),
        answer=Sampled(curve, bootstrap).answer if bootstrap else None,
        cluster=options.get("cluster"),
    )  # fmt: skip
