"""Skill: how much better a forecast is than a reference, over the pairs that both have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from thalweg.errors import InvalidInput
from thalweg.metrics import inputs, pairs
from thalweg.metrics.bootstrap import IN_TIME, Bootstrap, bounded
from thalweg.metrics.curves import BY, Options
from thalweg.metrics.inputs import Frame, Part, Source
from thalweg.metrics.narrowed import narrowed
from thalweg.metrics.pairs import quoted
from thalweg.metrics.question import Question, ask, asked, groups, named
from thalweg.metrics.table import METRICS
from thalweg.settings import Settings

__all__ = ["climatology", "persistence", "skill"]

#: Half the width of the climatology's window, in days.
WINDOW = 15
_MADE = ("persistence", "climatology")
#: Of a pair: 0 of the forecast, 1 of the reference.
SIDE = "of_reference"
#: Every place and time for which there is a forecast.
_FORECASTS = """
    SELECT DISTINCT s.location_id, s.reference_time, s.value_time, s.variable_name, s.unit_name,
        c.primary_location_id
    FROM secondary s JOIN crosswalk c ON c.secondary_location_id = s.location_id
    WHERE s.reference_time IS NOT NULL
        AND s.configuration_name NOT IN ('persistence', 'climatology')
"""
_SAME = (
    "p.location_id = f.primary_location_id AND p.variable_name = f.variable_name"
    " AND p.unit_name = f.unit_name"
)
_PERSISTENCE = f"""
    SELECT f.reference_time, f.value_time, p.value::DOUBLE AS value, f.unit_name, f.location_id,
        NULL::VARCHAR AS member, 'persistence' AS configuration_name, f.variable_name
    FROM ({_FORECASTS}) f
    ASOF JOIN (SELECT * FROM "primary" WHERE isfinite(value)) p
        ON {_SAME} AND p.value_time <= f.reference_time
    ORDER BY f.location_id, f.variable_name, f.reference_time, f.value_time
"""  # noqa: S608
# The years are those of the middle of the window, so a window over New Year is one season.
_CLIMATOLOGY = f"""
    WITH forecasts AS ({_FORECASTS}),
    observed AS (
        SELECT *, value_time AT TIME ZONE 'UTC' AS moment FROM "primary" WHERE isfinite(value)
    ),
    moments AS (
        SELECT DISTINCT primary_location_id, variable_name, unit_name, value_time,
            value_time AT TIME ZONE 'UTC' AS moment
        FROM forecasts
    ),
    years AS (
        SELECT unnest(generate_series(min(year(moment)) - 1, max(year(moment)) + 1)) AS year
        FROM observed
    ),
    days AS (
        SELECT f.*, f.moment + to_years((year - year(f.moment))::INT) + to_days(day::INT) AS then
        FROM moments f, years, unnest(generate_series(-$window, $window)) d(day)
        WHERE year <> year(f.moment)
    ),
    members AS (
        SELECT f.*, p.value::DOUBLE AS value FROM days f
        JOIN observed p ON {_SAME} AND p.moment = f.then
    )
    SELECT f.reference_time, f.value_time, m.value, f.unit_name, f.location_id,
        strftime(m.then, '%Y-%m-%d') AS member, 'climatology' AS configuration_name, f.variable_name
    FROM forecasts f JOIN members m ON m.primary_location_id = f.primary_location_id
        AND m.variable_name = f.variable_name AND m.unit_name = f.unit_name
        AND m.value_time = f.value_time
    ORDER BY f.location_id, f.variable_name, f.reference_time, f.value_time, m.then
"""  # noqa: S608
# The rows of a reference under the name and place of each forecast that they are compared with.
# Where it has locations of its own they are the same by their primary location.
_MATCHED = """
    CREATE TEMP TABLE matched AS
    SELECT f.*, r.value AS of_reference, r.member AS member_of_reference
    FROM (
        SELECT DISTINCT s.configuration_name, s.location_id, s.reference_time, s.value_time,
            s.variable_name, s.unit_name, c.primary_location_id
        FROM secondary s JOIN crosswalk c ON c.secondary_location_id = s.location_id
        WHERE s.configuration_name <> $reference AND isfinite(s.value)
    ) f JOIN (
        SELECT s.*, c.primary_location_id
        FROM secondary s JOIN crosswalk c ON c.secondary_location_id = s.location_id
        WHERE s.configuration_name = $reference AND isfinite(s.value)
    ) r ON r.primary_location_id = f.primary_location_id AND r.value_time = f.value_time
        AND r.reference_time IS NOT DISTINCT FROM f.reference_time
        AND r.variable_name = f.variable_name AND r.unit_name = f.unit_name
        AND (r.location_id = f.location_id OR f.location_id NOT IN (
            SELECT location_id FROM secondary WHERE configuration_name = $reference))
"""
_COLUMNS = "reference_time, value_time, unit_name, location_id, configuration_name, variable_name"


def persistence(
    primary: Frame,
    secondary: Frame,
    crosswalk: Frame,
    *,
    primary_configuration: str | None = None,
    settings: Settings | None = None,
) -> pa.Table:
    """The last observation at each reference time, held: what a forecast has to beat.

    Parameters
    ----------
    primary, secondary, crosswalk, primary_configuration
        As `evaluate` takes them.

    Returns
    -------
    pyarrow.Table
        Rows of secondary timeseries of the configuration `persistence`: for every location,
        reference_time and value_time of a forecast the last observation at or before the
        reference_time, however long ago. None where there is none, and none for a series without
        reference_time.

    Raises
    ------
    InvalidInput
        As `joined`; a secondary location that stands for two primary ones.
    """
    series = inputs.sources(primary, secondary, crosswalk, primary_configuration, settings)
    return _made("persistence", *series, WINDOW)


def climatology(
    primary: Frame,
    secondary: Frame,
    crosswalk: Frame,
    window: int = WINDOW,
    *,
    primary_configuration: str | None = None,
    settings: Settings | None = None,
) -> pa.Table:
    """What was observed at that time of the year in other years, as an ensemble.

    Parameters
    ----------
    primary, secondary, crosswalk, primary_configuration
        As `evaluate` takes them.
    window
        So many days before and after the day of the year.

    Returns
    -------
    pyarrow.Table
        Rows of secondary timeseries of the configuration `climatology`: for every location,
        reference_time and value_time of a forecast the observations at the same time of the day
        within the window in all other years, later ones too; `member` is their date. The year of
        the forecast is left out, so that no forecast is judged by what it forecasts.

    Raises
    ------
    InvalidInput
        As `persistence`; a window that is not of 0 to 182 days.
    """
    if not 0 <= window <= 182:
        raise InvalidInput(f"window is 0 to 182 days, got {window}")
    series = inputs.sources(primary, secondary, crosswalk, primary_configuration, settings)
    return _made("climatology", *series, window)


def skill(
    primary: Frame = "primary_timeseries",
    secondary: Frame = "secondary_timeseries",
    crosswalk: Frame = "location_crosswalks",
    metrics: Sequence[str] = ("crps_ensemble",),
    by: Sequence[str] = BY,
    *,
    reference: str = "persistence",
    **options: Unpack[Options],
) -> pa.Table:
    """Skill of forecasts against a reference, over the times and places that both have.

    The skill is `1 - abs(score - perfect) / abs(score of the reference - perfect)`: 1 is perfect, 0
    no better than the reference. For the CRPS it is the CRPSS, for the Brier score the BSS.

    Parameters
    ----------
    primary, secondary, crosswalk, by, options
        As `evaluate` takes them. Neither may speak of member, nor `where` of secondary_value: the
        forecast and the reference would be judged by different observations.
    metrics
        Names of `METRICS` that have a perfect value.
    reference
        A configuration of `secondary`; or `persistence` or `climatology`, which are made from the
        observations where `secondary` has none.

    Returns
    -------
    pyarrow.Table
        What `evaluate` returns, of all other configurations, and for each metric
        `<metric>_reference` and `<metric>_skill`, NULL where it is undefined: also where the
        reference is perfect. With a bootstrap each of the three is followed by its quantiles; of
        each time that is drawn the forecast and the reference are drawn together.

    Raises
    ------
    NotFound, InvalidInput
        As `evaluate`; a metric without a perfect value; nothing in common with the reference.

    References
    ----------
    Wilks (2019), Statistical Methods in the Atmospheric Sciences, 4th edition, chapter 9,
    doi:10.1016/C2017-0-03921-6.

    Examples
    --------
    >>> import datetime as dt
    >>> import pyarrow as pa
    >>> times = [dt.datetime(2024, 9, 26, hour, tzinfo=dt.UTC) for hour in range(3)]
    >>> same = {"unit_name": ["m^3/s"] * 3, "variable_name": ["streamflow_hourly_inst"] * 3}
    >>> primary = pa.table(same | {"location_id": ["usgs-03171000"] * 3, "value_time": times,
    ...                            "value": [1.0, 2.0, 4.0]})
    >>> secondary = pa.table(same | {"location_id": ["nwm30-6884666"] * 3, "value_time": times,
    ...     "reference_time": times[:1] * 3, "value": [1.0, 2.0, 3.0],
    ...     "configuration_name": ["nwm30_short_range"] * 3})
    >>> crosswalk = pa.table({"primary_location_id": ["usgs-03171000"],
    ...                       "secondary_location_id": ["nwm30-6884666"]})
    >>> found = skill(primary, secondary, crosswalk, ["mean_absolute_error"])
    >>> [round(found[name][0].as_py(), 3) for name in found.column_names[-3:]]
    [0.333, 1.333, 0.75]
    """
    names = named(metrics)
    question = Question(names=names, **asked(by, **options))
    question.check()
    goalless = [name for name in names if METRICS[name].perfect is None]
    if goalless:
        raise InvalidInput(f"{goalless[0]} has no perfect value, and so no skill")
    if "member" in by or re.search(r"\b(member|secondary_value)\b", options.get("where") or ""):
        raise InvalidInput(
            "skill compares the same pairs: neither by nor where can speak of member, nor where of "
            "secondary_value"
        )
    given = (options.get("primary_configuration"), options.get("settings"))
    series = inputs.sources(primary, secondary, crosswalk, *given)
    primary, secondary, crosswalk = narrowed(question, *series, against=True)
    _one_place_each(inputs.links_in(crosswalk))
    found = ask(
        question, primary, secondary, crosswalk,
        answer=Skill(question, reference, options.get("bootstrap")).answer,
        cluster=options.get("cluster"),
    )  # fmt: skip
    if not len(found):
        raise InvalidInput(
            f"no forecast shares a place, reference_time and value_time with {reference!r}"
        )
    return found


@dataclass(frozen=True)
class Skill:
    """A question that is asked twice: of the forecasts, and of the reference in their place."""

    question: Question
    reference: str
    bootstrap: Bootstrap | None = None

    def answer(self, part: Part) -> pa.Table:
        """The skill of the groups in a part of the series."""
        primary, secondary, crosswalk = part.read()
        known = pc.unique(secondary["configuration_name"]).to_pylist()
        with pairs.connect(primary, secondary, crosswalk) as connection:
            if self.reference in _MADE and self.reference not in known:
                made = _made(self.reference, primary, secondary, crosswalk, WINDOW)
                connection.register("made", made)
                both = "SELECT * FROM secondary UNION ALL BY NAME SELECT * FROM made"
                connection.register("secondary", connection.sql(both).to_arrow_table())
            connection.execute(_MATCHED, {"reference": self.reference})
            theirs = connection.sql(
                f"SELECT {_COLUMNS}, of_reference AS value, member_of_reference AS member"  # noqa: S608
                " FROM matched"
            ).to_arrow_table()
            mine = connection.sql(
                f"SELECT {_COLUMNS}, value, member FROM secondary s SEMI JOIN matched m"  # noqa: S608
                " ON m.configuration_name = s.configuration_name AND m.location_id = s.location_id"
                " AND m.value_time = s.value_time AND m.variable_name = s.variable_name"
                " AND m.unit_name = s.unit_name"
                " AND m.reference_time IS NOT DISTINCT FROM s.reference_time"
            ).to_arrow_table()
            parts = [Part(primary, rows, crosswalk) for rows in (mine, theirs)]
            for name, each in zip(("ours", "others"), parts, strict=True):
                connection.register(name, self.question.answer(each))
            same = " AND ".join(
                f"f.{quoted(key)} IS NOT DISTINCT FROM o.{quoted(key)}"
                for key in self.question.order
            )
            found = connection.sql(
                f"SELECT f.*, {self._beside} FROM ours f LEFT JOIN others o ON {same}"  # noqa: S608
            ).to_arrow_table()
            if self.bootstrap is None:
                return found
            return self._bounded(connection, self.bootstrap, found, parts)

    @property
    def _beside(self) -> str:
        """The SQL of what stands beside the metrics `f` where those of the reference are `o`."""
        return ", ".join(
            f"o.{name} AS {name}_reference, {_skill(name)} AS {name}_skill"
            for name in self.question.names
        )

    def _bounded(
        self,
        connection: duckdb.DuckDBPyConnection,
        bootstrap: Bootstrap,
        found: pa.Table,
        parts: Sequence[Part],
    ) -> pa.Table:
        """With quantiles: of each time the pairs of the forecast and the reference are drawn."""
        names, sides = self.question.names, []
        for side, part in enumerate(parts):
            sql = f"SELECT *, {side} AS {SIDE} FROM ({self.question.chosen(*IN_TIME)})"  # noqa: S608
            with self.question.opened(part) as each:
                rows = each.sql(sql, params=self.question.parameters or None)
                sides.append(rows.to_arrow_table())
        connection.register("all_pairs", pa.concat_tables(sides))
        again = f"""
            WITH all_pairs AS (FROM sample), metrics AS ({groups(["replicate", SIDE], [], names)})
            SELECT {", ".join(f"f.{name}" for name in names)}, {self._beside}
            FROM metrics f JOIN metrics o ON f.replicate = o.replicate
            WHERE f.{SIDE} = 0 AND o.{SIDE} = 1
        """  # noqa: S608
        judged = [f"{name}{what}" for name in names for what in ("", "_reference", "_skill")]
        return bounded(connection, self.question, bootstrap, found, lambda _: again, judged, SIDE)


def _skill(name: str) -> str:
    perfect = f"{METRICS[name].perfect!r}"
    return f"1 - abs(f.{name} - {perfect}) / nullif(abs(o.{name} - {perfect}), 0)"


def _made(
    name: str, primary: Source, secondary: Source, crosswalk: Source, window: int
) -> pa.Table:
    (part,) = inputs.parts(primary, secondary, crosswalk, whole=True)
    _one_place_each(part.crosswalk)
    with pairs.connect(*part.read()) as connection:
        if name == "persistence":
            return connection.sql(_PERSISTENCE).to_arrow_table()
        return connection.sql(_CLIMATOLOGY, params={"window": window}).to_arrow_table()


def _one_place_each(crosswalk: pa.Table) -> None:
    """A reference made of observations has to know of which."""
    rows = crosswalk.unify_dictionaries()  # files have their own
    rows = rows.group_by(list(pairs.CROSSWALK)).aggregate([])
    counts = rows.group_by("secondary_location_id").aggregate([("primary_location_id", "count")])
    for row in counts.to_pylist():
        if row["primary_location_id_count"] > 1:
            raise InvalidInput(
                f"{row['secondary_location_id']} stands for "
                f"{row['primary_location_id_count']} primary locations: "
                f"choose one of them in the crosswalk"
            )
