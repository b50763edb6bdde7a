"""Where the pieces of work are done: in threads here, on a Dask cluster, or with Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from thalweg.errors import InvalidInput

__all__ = ["pieces", "run"]

Work = TypeVar("Work")
Result = TypeVar("Result")
#: How often a piece is tried again that a worker took with it.
RETRIES = 3
#: Pieces a worker, so that none waits long for the last one.
EACH = 4


def pieces(cluster: Any) -> int:
    """How many pieces are worth making for a cluster; None is this machine."""
    if cluster is None:
        return os.cpu_count() or 1
    if hasattr(cluster, "remote"):
        return EACH * int(cluster.cluster_resources().get("CPU", 1))
    return EACH * max(1, int(sum(_client(cluster).nthreads().values())))


def run(work: Callable[[Work], Result], parts: Iterable[Work], cluster: Any = None) -> list[Result]:
    """The result of each part, in their order; a part that a worker took with it is done again.

    Parameters
    ----------
    cluster
        None; a Dask cluster (`thalweg.compute.dask_cluster()`) or client; or `ray`, as
        `thalweg.compute.ray()` gives it.
    """
    if cluster is None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(work, parts))
    if hasattr(cluster, "remote"):
        task = cluster.remote(max_retries=RETRIES)(work)
        return list(cluster.get([task.remote(part) for part in parts]))
    client = _client(cluster)
    futures = [client.submit(work, part, pure=False, retries=RETRIES) for part in parts]
    return list(client.gather(futures))


def _client(cluster: Any) -> Any:
    if hasattr(cluster, "get_client"):
        return cluster.get_client()
    if hasattr(cluster, "submit") and hasattr(cluster, "gather"):
        return cluster
    raise InvalidInput(
        f"cluster is {type(cluster).__name__}: expected thalweg.compute.dask_cluster(), a client "
        f"of Dask, or thalweg.compute.ray()"
    )
