"""How uncertain a metric is: the same metric of series drawn out of the series themselves."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thalweg.errors import InvalidInput, nearest
from thalweg.metrics.inputs import Part
from thalweg.metrics.pairs import quoted
from thalweg.metrics.question import Question, by_name

__all__ = ["IN_TIME", "Bootstrap", "Sampled", "block_length", "bounded"]

Method = Literal["circular", "stationary", "gumboot"]
Whole: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
#: Of so many series: the positions of their times, the times they take, and the series of each.
Draw: TypeAlias = Callable[[int], tuple[Whole, Whole, Whole]]
#: About so many pairs are drawn at once, which bounds the memory.
PAIRS = 2_000_000
#: Pairs in order of time, those of the same time in an order that is always the same.
IN_TIME = ("value_time", "reference_time", "secondary_location_id", "member")
#: Columns that number the groups, and tell their rows apart: as no attribute is called.
GROUP, ROW = "#", "@"


@dataclass(frozen=True)
class Bootstrap:
    """How series are drawn out of the series of a group, and what is told of their metrics.

    What is drawn are times, each with all its pairs: the members of an ensemble stay together, and
    so do locations that are pooled, and a forecast and its reference. Drawn times follow one
    another as the times of the series did. A percentile threshold and the epsilon of a transform
    stay those of the whole series.

    Parameters
    ----------
    method
        `circular`: blocks of `block` times, the first following the last (Politis and Romano 1992);
        `stationary`: blocks of random length, `block` on average (Politis and Romano 1994,
        doi:10.1080/01621459.1994.10476870); `gumboot`: whole water years, October to September,
        those of which there are pairs (Clark et al. 2021, doi:10.1029/2020WR029001).
    replicates
        How many series are drawn.
    block
        Length of a block as a number of times of the series; 1 draws each time by itself. By
        default what suits the autocorrelation of the errors (`block_length`), of a skill those of
        the forecast or of the reference, whichever is longer.
    seed
        Makes it repeatable. The draws of a group follow from it and the group's own keys, whichever
        other groups there are.
    quantiles
        Of the metrics of all series, between two values by linear interpolation: 0.05 makes the
        column `<metric>_p5`. A series for which the metric is undefined is passed over. NULL where
        the series has not two blocks, or two water years.

    Raises
    ------
    InvalidInput
        An unknown method, less than one replicate, a block of less than one time or of the gumboot,
        a negative seed, a quantile outside of 0 to 1.

    Examples
    --------
    >>> Bootstrap("gumboot", replicates=500).columns("kge")
    ['kge_p5', 'kge_p50', 'kge_p95']
    """

    method: Method = "circular"
    replicates: int = 1000
    block: int | None = None
    seed: int = 0
    quantiles: tuple[float, ...] = (0.05, 0.5, 0.95)

    def __post_init__(self) -> None:
        wrong = [q for q in self.quantiles if not 0 <= q <= 1]
        if self.method not in get_args(Method):
            hint = nearest(self.method, get_args(Method))
            raise InvalidInput(f"unknown method of bootstrap {self.method!r}{hint}")
        if self.replicates < 1 or self.seed < 0:
            raise InvalidInput(
                f"a bootstrap has at least 1 replicate and a seed of at least 0, got "
                f"{self.replicates} and {self.seed}"
            )
        if self.block is not None and (self.block < 1 or self.method == "gumboot"):
            raise InvalidInput(
                f"block is {self.block}: expected a number of times of at least 1; the gumboot "
                f"draws whole water years"
            )
        if wrong or not self.quantiles:
            raise InvalidInput(f"quantiles are some of 0 to 1, got {self.quantiles}")

    def columns(self, metric: str) -> list[str]:
        """Names of the columns of the quantiles of a metric."""
        return [f"{metric}_p{round(100 * q, 6):g}" for q in self.quantiles]


@dataclass(frozen=True)
class Sampled:
    """A question of which the answer says how uncertain it is."""

    question: Question
    bootstrap: Bootstrap

    def answer(self, part: Part) -> pa.Table:
        """The answer from a part of the series, what is judged followed by its quantiles."""
        asked = replace(self.question, minimum=1)
        with self.question.opened(part) as connection:
            connection.execute(
                f"CREATE TEMP TABLE all_pairs AS {asked.chosen(*IN_TIME)}", asked.parameters or None
            )
            found = connection.sql(self.question.grouped).to_arrow_table()

            def again(number: int) -> str:
                rows = f'(FROM answers WHERE "{GROUP}" = {number})'
                return (
                    f"WITH all_pairs AS (FROM sample) FROM ({asked.group(['replicate'], [], rows)})"
                )

            return bounded(connection, self.question, self.bootstrap, found, again)


def bounded(
    connection: duckdb.DuckDBPyConnection,
    question: Question,
    bootstrap: Bootstrap,
    found: pa.Table,
    again: Callable[[int], str],
    judged: Sequence[str] = (),
    side: str | None = None,
) -> pa.Table:
    """An answer with the quantiles of what is judged in it.

    Parameters
    ----------
    connection
        With `all_pairs`, as `question.chosen(*IN_TIME)` gives them.
    found
        The answer: the keys of the question and columns.
    again
        SQL of the same columns for each `replicate` of `sample`, pairs drawn out of those of the
        group of this number; `answers` has the rows of `found` with their group's.
    judged
        The columns that have quantiles, where they have a value; by default the question's.
    side
        A column of `all_pairs` that says which of two forecasts a pair is of: they are drawn
        together.
    """
    keys, judged = question.group_keys, judged or question.judged
    binned = _binned(question)
    by = ", ".join(by_name(key) for key in keys)
    connection.register("found", found)
    connection.execute(f"""
        CREATE TEMP TABLE groups AS SELECT {by}, count(*) AS pairs,
            row_number() OVER (ORDER BY {by}) AS "{GROUP}"
        FROM ({binned}) GROUP BY {by} ORDER BY {by};
        CREATE TEMP TABLE answers AS SELECT f.*, {question.apart} AS "{ROW}", "{GROUP}"
        FROM found f JOIN groups g
            ON {" AND ".join(f"f.{quoted(k)} IS NOT DISTINCT FROM g.{by_name(k)}" for k in keys)}
    """)  # noqa: S608 - names of our own, checked before
    # The pairs of the groups, one group after the other in the same order, each in time.
    rows = connection.sql(f"{binned} ORDER BY {by}, {', '.join(IN_TIME)}").to_arrow_table()
    columns = [*question.columns, *([side] if side else [])]
    nothing = rows.slice(0, 0).append_column("replicate", pa.array([], pa.int64()))
    connection.register("sample", nothing)
    bounds, first = [_quantiles(connection, question, bootstrap, again(0), judged, 0)], 0
    for *values, count, number in connection.table("groups").fetchall():
        mine = rows.slice(first, count)
        first += count
        if count < question.minimum:
            continue
        drawn, generator = [], _generator(bootstrap.seed, dict(zip(keys, values, strict=True)))
        for sample in _samples(bootstrap, mine, columns, generator, side):
            connection.register("sample", sample)
            drawn.append(connection.sql(again(number)).to_arrow_table())
        if drawn:
            connection.register("drawn", pa.concat_tables(drawn))
            bounds.append(_quantiles(connection, question, bootstrap, "FROM drawn", judged, number))
    connection.register("bounds", pa.concat_tables(bounds))
    shown = ", ".join(
        f"f.{quoted(name)}{''.join(_bounds(bootstrap, name) if name in judged else ())}"
        for name in found.column_names
    )
    return connection.sql(
        f'SELECT {shown} FROM answers f LEFT JOIN bounds b ON b."{GROUP}" = f."{GROUP}"'  # noqa: S608
        f' AND b."{ROW}" IS NOT DISTINCT FROM f."{ROW}"'
    ).to_arrow_table()


def _binned(question: Question) -> str:
    """The SELECT of the pairs of all groups: of all lead times, and of each bin."""
    if question.lead_time_bin is None:
        return "SELECT *, NULL::BIGINT AS lead_time_bin FROM all_pairs"
    return """
        SELECT * REPLACE (NULL::BIGINT AS lead_time_bin) FROM all_pairs
        UNION ALL SELECT * FROM all_pairs WHERE lead_time_bin IS NOT NULL
    """


def _quantiles(
    connection: duckdb.DuckDBPyConnection, question: Question, bootstrap: Bootstrap, drawn: str,
    judged: Sequence[str], number: int,
) -> pa.Table:  # fmt: skip
    """Of each row of a group, the quantiles over the series that were drawn."""
    levels = [float(q) for q in bootstrap.quantiles]
    each = ", ".join(f"quantile_cont({name}, {levels}) AS {name}" for name in judged)
    return connection.sql(
        f'SELECT {number} AS "{GROUP}", {question.apart} AS "{ROW}", {each} FROM ({drawn})'  # noqa: S608
        f' GROUP BY "{ROW}"'
    ).to_arrow_table()


def _bounds(bootstrap: Bootstrap, name: str) -> Iterator[str]:
    """The columns of the quantiles; none of what has no value itself."""
    for i, column in enumerate(bootstrap.columns(name), 1):
        yield f", CASE WHEN f.{name} IS NOT NULL THEN b.{name}[{i}] END AS {quoted(column)}"


def block_length(errors: Numbers, method: Method = "circular") -> int:
    """A block long enough for the autocorrelation of the errors of a series, in its steps.

    Parameters
    ----------
    errors
        Secondary minus primary values, in order of time.
    method
        `circular`, or `stationary`: then it is the mean length.

    Returns
    -------
    int
        At least 1, at most the lesser of 3 √n and n / 3.

    References
    ----------
    Politis and White (2004), Econometric Reviews 23, 53-70, doi:10.1081/ETC-120028836, as corrected
    by Patton et al. (2009), Econometric Reviews 28, 372-375, doi:10.1080/07474930802459016.
    """
    n = len(errors)
    longest = math.ceil(min(3 * math.sqrt(n), n / 3))
    centred = errors - errors.mean()
    if n < 4 or not centred.any():
        return 1
    run = max(5, math.ceil(math.sqrt(math.log10(n))))
    lags = min(math.ceil(math.sqrt(n)) + run, n - 1)
    covariance = np.array([centred[k:] @ centred[: n - k] for k in range(lags + 1)]) / n
    is_noise = np.abs(covariance[1:] / covariance[0]) < 2 * math.sqrt(math.log10(n) / n)
    quiet = np.convolve(is_noise, np.ones(run), "valid") == run
    width = min(2 * max(int(quiet.argmax()) if quiet.any() else lags, 1), lags)
    k = np.arange(-width, width + 1)
    taper = np.minimum(1, 2 * (1 - np.abs(k) / width)) * covariance[np.abs(k)]
    long_run, slope = taper.sum(), (np.abs(k) * taper).sum()
    factor = 2 if method == "stationary" else 4 / 3
    best = np.cbrt(2 * slope**2 / (factor * long_run**2) * n) if long_run else longest
    return max(1, min(math.ceil(best), longest))


def _samples(
    bootstrap: Bootstrap,
    rows: pa.Table,
    columns: Sequence[str],
    generator: np.random.Generator,
    side: str | None = None,
) -> Iterator[pa.Table]:
    """Columns of the pairs of many series, `replicate` saying of which; none out of too few."""
    every = rows["value_time"].cast(pa.int64()).to_numpy()
    times, first, counts = np.unique(every, return_index=True, return_counts=True)
    if bootstrap.method == "gumboot":
        drawn = _water_years(times, generator)
    else:
        block = bootstrap.block or max(
            block_length(_errors(each), bootstrap.method) for each in _sides(rows, side)
        )
        drawn = _blocks(times, bootstrap, block, generator)
    plain = rows.select([c for c in columns if c != "value_time"]).combine_chunks()
    done = 0
    at_once = max(1, PAIRS // len(rows))
    while drawn is not None and done < bootstrap.replicates:
        some = min(at_once, bootstrap.replicates - done)
        moments, becomes, replicate = drawn(some)
        if len(times) == len(rows):  # a pair a time
            sample = plain.take(pa.array(moments))
        else:
            taken, of = _spread(first, counts, moments)
            sample = plain.take(pa.array(taken))
            becomes, replicate = becomes[of], replicate[of]
        if "value_time" in columns:
            moved = pa.array(becomes).view(pa.timestamp("us", "UTC"))
            sample = sample.append_column("value_time", moved)
        yield sample.append_column("replicate", pa.array(replicate))
        done += some


def _sides(rows: pa.Table, side: str | None) -> list[pa.Table]:
    """The pairs of each forecast by themselves."""
    if side is None:
        return [rows]
    return [rows.filter(pc.field(side) == each) for each in rows[side].unique()]


def _errors(rows: pa.Table) -> Numbers:
    """The mean error of each time, in order of time."""
    errors = rows["secondary_value"].to_numpy() - rows["primary_value"].to_numpy()
    _, first, counts = np.unique(
        rows["value_time"].cast(pa.int64()).to_numpy(), return_index=True, return_counts=True
    )
    means: Numbers = np.add.reduceat(errors, first) / counts
    return means


def _blocks(
    times: Whole, bootstrap: Bootstrap, block: int, generator: np.random.Generator
) -> Draw | None:
    """Positions of times in blocks; the first drawn has the first time of the series, and so on."""
    n = len(times)
    if n < 2 * block:
        return None
    place = np.arange(n)

    def draw(some: int) -> tuple[Whole, Whole, Whole]:
        if bootstrap.method == "circular":
            begins = generator.integers(n, size=(some, -(-n // block), 1))
            moments = (begins + np.arange(block)).reshape(some, -1)[:, :n]
        else:
            is_first = generator.random((some, n)) < 1 / block
            is_first[:, 0] = True
            since = np.maximum.accumulate(np.where(is_first, place, 0), axis=1)
            begins = generator.integers(n, size=(some, n))
            moments = np.take_along_axis(begins, since, axis=1) + place - since
        return (moments % n).ravel(), np.tile(times, some), np.repeat(np.arange(some), n)

    return draw


def _water_years(times: Whole, generator: np.random.Generator) -> Draw | None:
    """Positions of the times of whole years; the first drawn takes the place of the first year."""
    months = times.astype("M8[us]").astype("M8[M]")
    years, first, counts = np.unique(
        (months + 3).astype("M8[Y]"), return_index=True, return_counts=True
    )
    n = len(years)
    if n < 2:
        return None
    october = (years.astype("M8[M]") - 3).astype("M8[us]").astype(np.int64)

    def draw(some: int) -> tuple[Whole, Whole, Whole]:
        drawn = generator.integers(n, size=some * n)
        moments, of = _spread(first, counts, drawn)
        place = of % n
        # The last day of a leap year may fall into the next: a microsecond keeps the times apart.
        becomes = times[moments] - october[drawn[of]] + october[place] + place
        return moments, becomes, of // n

    return draw


def _spread(first: Whole, counts: Whole, drawn: Whole) -> tuple[Whole, Whole]:
    """The members of each thing that is drawn, and which draw each is of."""
    sizes = counts[drawn]
    of = np.repeat(np.arange(len(drawn)), sizes)
    return first[drawn][of] + np.arange(len(of)) - (np.cumsum(sizes) - sizes)[of], of


def _generator(seed: int, key: Mapping[str, Any]) -> np.random.Generator:
    """Random numbers of one group, the same in every process."""
    text = json.dumps(key, default=str, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "big")])
