"""Where the pieces of work are done: in threads here, on a Dask cluster, or with Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from thalweg.errors import InvalidInput

__all__ = ["run"]

Work = TypeVar("Work")
Result = TypeVar("Result")
#: How often a piece is tried again that a worker took with it.
RETRIES = 3


def run(
    work: Callable[[Work], Result],
    parts: Iterable[Work],
    cluster: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """The result of each part, in their order; a part that a worker took with it is done again.

    Parameters
    ----------
    progress
        Called with the number of parts that are done and that of all; a cluster has its own.
    cluster
        None; a Dask cluster (`thalweg.compute.dask_cluster()`) or client; or `ray`, as
        `thalweg.compute.ray()` gives it.
    """
    if cluster is None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            if progress is None:
                return list(pool.map(work, parts))
            parts, done = list(parts), []
            for result in pool.map(work, parts):
                done.append(result)
                progress(len(done), len(parts))
            return done
    if hasattr(cluster, "remote"):
        task = cluster.remote(max_retries=RETRIES)(_done)  # it takes functions and no methods
        return list(cluster.get([task.remote(work, part) for part in parts]))
    client = _client(cluster)
    futures = [client.submit(work, part, pure=False, retries=RETRIES) for part in parts]
    return list(client.gather(futures))


def _done(work: Callable[[Work], Result], part: Work) -> Result:
    return work(part)


def _client(cluster: Any) -> Any:
    if hasattr(cluster, "get_client"):
        return cluster.get_client()
    if hasattr(cluster, "submit") and hasattr(cluster, "gather"):
        return cluster
    raise InvalidInput(
        f"cluster is {type(cluster).__name__}: expected thalweg.compute.dask_cluster(), a client "
        f"of Dask, or thalweg.compute.ray()"
    )
