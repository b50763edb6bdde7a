"""What was asked of the series, and the one query in SQL that answers it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.metrics import inputs, pairs, scale
from thalweg.metrics.entry import Statistic
from thalweg.metrics.fields import COLUMNS, FIELDS, OF_THRESHOLDS
from thalweg.metrics.inputs import Frame, Part, Source, everything, tabled
from thalweg.metrics.pairs import ATTRIBUTES, Thresholds, Transform, quoted
from thalweg.metrics.table import METRICS, RELATIONS, STATISTICS, TEEHR
from thalweg.settings import Settings

__all__ = [
    "Question",
    "ask",
    "asked",
    "by_name",
    "common",
    "defined",
    "groups",
    "listed",
    "named",
    "relations",
    "requires",
    "spoken",
]

ALWAYS = ("variable_name", "unit_name")
#: Columns of the pairs of which a statistic or a relation may speak.
SPOKEN = (
    *COLUMNS, *ALWAYS, "primary_value", "secondary_value", "lead_time", "threshold_value",
)  # fmt: skip
#: What DuckDB says of a condition that makes no sense, or of its values.
OF_CONDITION = (
    duckdb.BinderException, duckdb.CatalogException, duckdb.ConversionException,
    duckdb.InvalidInputException, duckdb.OutOfRangeException, duckdb.ParserException,
    duckdb.PermissionException,
)  # fmt: skip
#: Relations of which a row is a forecast with all its members.
OF_ENSEMBLES = {"ensembles", "exceedances"}
#: Names that mean something already, and so no attribute.
TAKEN = {*SPOKEN, *FIELDS, *OF_THRESHOLDS, *METRICS, "threshold", "lead_time_bin", "count"}


def asked(
    by: Sequence[str],
    *,
    lead_time_bin: int | None = None,
    where: str | None = None,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
    thresholds: Thresholds | None = None,
    attributes: Frame | None = None,
    transform: Transform | str | None = None,
    minimum: int = 1,
    settings: Settings | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Options of `evaluate` as a `Question` holds them."""
    if thresholds is not None and not isinstance(thresholds, Mapping):
        thresholds = tabled(thresholds)
    return {
        "by": tuple(key for key in listed(by) if key not in ALWAYS),
        "lead_time_bin": lead_time_bin, "where": where, "parameters": parameters,
        "thresholds": thresholds, "minimum": minimum,
        "attributes": None if attributes is None else everything(attributes, ATTRIBUTES, settings),
        "transform": Transform(transform) if isinstance(transform, str) else transform,
    }  # fmt: skip


def listed(names: str | Iterable[str]) -> tuple[str, ...]:
    """Each name once; a name by itself is one."""
    return tuple(dict.fromkeys([names] if isinstance(names, str) else names))


def named(metrics: str | Iterable[str]) -> tuple[str, ...]:
    """Each metric once, by the name that it has here.

    >>> named(["kling_gupta_efficiency", "kge", "rmse"])
    ('kge', 'rmse')
    """
    return tuple(dict.fromkeys(TEEHR.get(name, name) for name in listed(metrics)))


def ask(
    question: Question,
    primary: Source,
    secondary: Source,
    crosswalk: Source,
    *,
    answer: Callable[[Part], pa.Table] | None = None,
    cluster: Any = None,
) -> pa.Table:
    """The answer to a checked question, from all parts of the series, in order of its keys.

    Parameters
    ----------
    answer
        How it is answered from a part of the series, where it is not by the question itself.
    """
    work = inputs.parts(
        primary, secondary, crosswalk, whole="primary_location_id" not in question.by,
        here=cluster is None,
    )  # fmt: skip
    found = pa.concat_tables(scale.run(answer or question.answer, work, cluster))
    return found.sort_by([(key, "ascending", "at_start") for key in question.order])


@dataclass(frozen=True)
class Question:
    """What `evaluate` was asked, to be answered from any part of the series.

    A curve is asked for in the same way: it has other columns and another SELECT of a group.
    """

    names: tuple[str, ...]
    by: tuple[str, ...]
    lead_time_bin: int | None
    where: str | None
    parameters: Sequence[Any] | Mapping[str, Any]
    thresholds: Thresholds | None
    attributes: pa.Table | None
    minimum: int
    transform: Transform | None

    def check(self) -> None:
        """Raise what is wrong with the question itself."""
        if self.attributes is not None:
            pairs.check_attributes(self.attributes)
        fields = FIELDS | (OF_THRESHOLDS if self.thresholds is not None else {})
        _known(self.names, METRICS, "metric")
        _known(self.by, [*COLUMNS, *fields, *self.attribute_names], "column to group by")
        if self.lead_time_bin is not None and (self.lead_time_bin < 1 or self.lead_time_bin % 1):
            raise InvalidInput(
                f"lead_time_bin is whole hours, at least 1 hour, got {self.lead_time_bin}"
            )
        if self.parameters and not self.where:
            raise InvalidInput("parameters are the values of where, and there is none")
        if _says("threshold_value", self.spoken) and (self.thresholds is None or self.transform):
            missing = "no transform" if self.transform else "thresholds={'high': '90%'}"
            raise InvalidInput(f"{', '.join(self.shown)}: metrics of events need {missing}")
        if self.where:
            pairs.check_condition(self.where)
        if self.thresholds is not None:
            pairs.check_thresholds(self.thresholds)
        if "member" in self.by and relations(self.spoken).keys() & OF_ENSEMBLES:
            raise InvalidInput(
                f"{', '.join(self.shown)}: metrics of ensembles need all members of a forecast "
                f"together, but by has member"
            )

    @property
    def attribute_names(self) -> list[str]:
        """What may be named besides columns and fields, which have the names that they have."""
        if self.attributes is None:
            return []
        names = {*self.attributes["attribute_name"].to_pylist()} - {None}
        return sorted(name for name in names if name.lower() not in TAKEN)

    @property
    def keys(self) -> list[str]:
        return [*self.by, *(["threshold"] if self.thresholds is not None else []), *ALWAYS]

    @property
    def group_keys(self) -> list[str]:
        """The keys of a group, as the result has them."""
        return [*self.keys[: -len(ALWAYS)], "lead_time_bin", *ALWAYS]

    @property
    def order(self) -> list[str]:
        """What puts the rows of the result in order."""
        return self.group_keys

    @property
    def spoken(self) -> str:
        """All SQL of the statistics that the metrics need, and of the relations of these."""
        return spoken(self.names)

    @property
    def shown(self) -> list[str]:
        """What the result has beside its keys."""
        return ["count", *self.names]

    @property
    def judged(self) -> list[str]:
        """The columns of the answer of which a bootstrap tells how uncertain they are."""
        return list(self.names)

    @property
    def apart(self) -> str:
        """SQL that tells the rows of a group apart; metrics are one row."""
        return "0"

    def group(self, keys: Sequence[str], where: Sequence[str], rows: str = "") -> str:
        """The SELECT of groups: their keys and what is shown of each.

        Of a curve, `rows` has those of which it is asked, whether they are in the group or not.
        """
        return groups(keys, where, self.names, self.minimum)

    def answer(self, part: Part) -> pa.Table:
        """The metrics of the groups in a part of the series."""
        with self.opened(part) as connection:
            return connection.sql(self.sql, params=self.parameters or None).to_arrow_table()

    @contextmanager
    def opened(self, part: Part, *, is_piece: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """DuckDB with all that the question is about; what it says of the condition is told."""
        with pairs.connect(*part.read(), is_piece=is_piece) as connection:
            if self.attributes is not None:
                connection.register("attributes", self.attributes)
            if self.thresholds is not None:
                pairs.limits(connection, self.thresholds)
            try:
                yield connection
            except OF_CONDITION as error:
                if not self.where:
                    raise
                raise InvalidInput(f"cannot choose pairs where {self.where!r}: {error}") from None

    @property
    def columns(self) -> list[str]:
        """Columns of the pairs that are needed besides the keys."""
        spoken = self.spoken
        values = ("primary_value", "secondary_value")
        return [*values, *(c for c in SPOKEN if c not in values and _says(c, spoken))]

    def chosen(self, *more: str) -> str:
        """The SELECT of the pairs, with their keys, the columns that are needed, and more."""
        columns = list(dict.fromkeys([*self.columns, *more]))
        given = [*(f"{quoted(key)} AS {by_name(key)}" for key in self.keys), *columns]
        if self.lead_time_bin is not None:
            columns = [*columns, "lead_time"]
            width = int(self.lead_time_bin)
            given.append(f"floor(lead_time / {width})::BIGINT * {width} AS lead_time_bin")
        chosen = pairs.selected(
            [*self.keys, *columns], self.keys, where=self.where,
            has_thresholds=self.thresholds is not None,
            attributes=[name for name in self.attribute_names
                        if name in self.by or name.lower() in (self.where or "").lower()],
            transform=self.transform,
        )  # fmt: skip
        return f"SELECT {', '.join(given)} FROM ({chosen})"  # noqa: S608

    @property
    def grouped(self) -> str:
        """The SELECT of all groups out of `all_pairs`: of all lead times, and of each bin."""
        keys = [by_name(key) for key in self.keys]
        parts = ["SELECT NULL::BIGINT AS lead_time_bin WHERE false", self.group(keys, [])]
        if self.lead_time_bin is not None:
            parts.append(self.group([*keys, "lead_time_bin"], ["lead_time_bin IS NOT NULL"]))
        named = {key: f"{by_name(key)} AS {quoted(key)}" for key in self.keys}
        shown = ", ".join([*(named.get(column, column) for column in self.order), *self.shown])
        return f"SELECT {shown} FROM ({' UNION ALL BY NAME '.join(f'({p})' for p in parts)})"  # noqa: S608

    @property
    def sql(self) -> str:
        """The whole query."""
        return f"WITH all_pairs AS ({self.chosen()}) {self.grouped}"


def by_name(key: str) -> str:
    """What a key is called in the query: as no column of a relation, whatever its name."""
    return quoted(key if key == "lead_time_bin" else f"by_{key}")


def requires(name: str) -> tuple[str, ...]:
    """What a metric needs besides pairs: `thresholds`, or forecasts of several `members`.

    >>> requires("kge"), requires("crps_ensemble"), requires("brier_score")
    ((), ('members',), ('thresholds', 'members'))
    """
    sql = spoken([name])
    return (
        *(("thresholds",) if _says("threshold_value", sql) else ()),
        *(("members",) if relations(sql).keys() & OF_ENSEMBLES else ()),
    )


def spoken(names: Iterable[str]) -> str:
    """All SQL of the statistics that metrics need, and of the relations of these."""
    needed = " ".join(_made_of(STATISTICS[s]) for name in names for s in needs(name))
    return " ".join([needed, *relations(needed).values()])


def needs(name: str) -> list[str]:
    """The statistics of which a metric is made."""
    return [s for s in STATISTICS if _says(s, METRICS[name].sql)]


def relations(sql: str) -> dict[str, str]:
    """The relations of which this SQL is made, and those of which they are made, in order."""
    found: dict[str, str] = {}
    for name, each in reversed(RELATIONS.items()):
        if _says(name, sql):
            found[name] = each
            sql += f" {each}"
    return dict(reversed(found.items()))


def common(
    keys: Sequence[str], where: Sequence[str], needed: Mapping[str, str], minimum: int = 1
) -> list[str]:
    """What a SELECT of groups begins WITH: the pairs, and the relations that it needs."""
    shown = f"FROM all_pairs{' WHERE ' if where else ''}{' AND '.join(where)}"
    if minimum > 1:
        shown += f" QUALIFY count(*) OVER (PARTITION BY {', '.join(keys)}) >= {int(minimum)}"
    made = [f"{name} AS ({sql.format(keys=', '.join(keys))})" for name, sql in needed.items()]
    return [f"pairs AS ({shown})", *made]


def groups(
    keys: Sequence[str], where: Sequence[str], names: Sequence[str], minimum: int = 1
) -> str:
    """The SELECT of groups: their keys, the number of pairs, and the metrics."""
    wanted: dict[str, dict[str, str]] = {"pairs": {}}
    needed = ""
    for statistic in dict.fromkeys(s for name in names for s in needs(name)):
        each = STATISTICS[statistic]
        wanted.setdefault(each.over, {})[statistic] = each.sql
        needed += f" {_made_of(each)}"
    listed = ", ".join(keys)
    parts = common(keys, where, relations(needed))
    source = "of_pairs"
    for over, statistics in wanted.items():
        counts = ["count(*) AS count"] if over == "pairs" else []
        counts += [f"{sql} AS {name}" for name, sql in statistics.items()]
        of = f"SELECT {', '.join([listed, *counts])} FROM {over} GROUP BY {listed}"  # noqa: S608
        parts.append(f"of_{over} AS ({of})")
        if over != "pairs":
            same = " AND ".join(f"of_pairs.{k} IS NOT DISTINCT FROM of_{over}.{k}" for k in keys)
            source += f" LEFT JOIN of_{over} ON {same}"
    chosen = [f"of_pairs.{key}" for key in keys] + ["count"]
    chosen += [f"{defined(METRICS[name].sql, minimum)} AS {name}" for name in names]
    return f"WITH {', '.join(parts)} SELECT {', '.join(chosen)} FROM {source}"  # noqa: S608


def _known(names: Sequence[str], known: Iterable[str], what: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise NotFound(f"unknown {what} {name!r}{nearest(name, known)}")


def _made_of(statistic: Statistic) -> str:
    return f"{statistic.sql} {statistic.over}"


def _says(word: str, text: str) -> bool:
    return re.search(rf"\b{word}\b", text) is not None


def defined(expression: str, minimum: int) -> str:
    """NULL in place of NaN and infinity, and of a group that is too small."""
    return f"CASE WHEN count >= {int(minimum)} AND isfinite({expression}) THEN {expression} END"
