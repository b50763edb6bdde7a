"""Dask clusters of the hub's Dask Gateway."""

from __future__ import annotations

import os
from typing import Any

from thalweg.errors import InvalidInput, Unavailable
from thalweg.settings import load

__all__ = ["dask_cluster"]


def dask_cluster(workers: int = 2, *, idle_timeout: int | None = None) -> Any:
    """A new Dask cluster of this hub, for this user.

    It stops with the kernel, at the end of a `with` block, by `cluster.shutdown()`, or when it has
    been idle for as long as the hub allows. Where the gateway is, and who asks, the hub has put
    into the environment (`DASK_GATEWAY__*`).

    Parameters
    ----------
    workers
        Number of workers to ask for; they join while you go on.
    idle_timeout
        Seconds without work after which the cluster stops, where the hub lets its users choose.

    Returns
    -------
    dask_gateway.GatewayCluster
        `cluster.get_client()` connects to it, `cluster.scale(n)` changes its size,
        `cluster.dashboard_link` is its page.

    Raises
    ------
    InvalidInput
        Fewer than one worker, or an option that this hub does not leave to its users.
    Unavailable
        There is no gateway here, or it does not answer; its clusters start from another image than
        this process, as when the hub was upgraded while a server went on.

    Examples
    --------
    >>> from thalweg import compute
    >>> with compute.dask_cluster(workers=2) as cluster:  # doctest: +SKIP
    ...     client = cluster.get_client()
    """
    import dask.config
    from dask_gateway import GatewayCluster, GatewayClusterError, GatewayServerError

    if workers < 1:
        raise InvalidInput(f"a cluster needs at least 1 worker, got {workers}")
    dask.config.refresh()
    address = dask.config.get("gateway.address", None)
    if not address:
        raise Unavailable(
            "no Dask Gateway is known here: run this inside the hub (`thalweg up`), "
            "or set DASK_GATEWAY__ADDRESS"
        )
    options = {} if idle_timeout is None else {"idle_timeout": idle_timeout}
    try:
        cluster = GatewayCluster(**options)
    except ValueError as error:
        raise InvalidInput(f"the hub's Dask Gateway refuses {options}: {error}") from error
    except (OSError, TimeoutError, GatewayClusterError, GatewayServerError) as error:
        raise Unavailable(
            f"Dask Gateway at {address} gives no cluster: {error}; see `thalweg status`"
        ) from error
    if ours := load().image:
        _check_image(cluster, ours)
    cluster.scale(workers)
    return cluster


def _check_image(cluster: Any, ours: str) -> None:
    """Stop a cluster of another image: what is sent to it might mean something else there."""
    with cluster.get_client(set_as_default=False) as client:
        theirs = client.run_on_scheduler(os.getenv, "THALWEG_IMAGE")
    if theirs != ours:
        cluster.shutdown()
        raise Unavailable(
            f"this process has the image {ours}, and Dask's clusters have {theirs or 'none'}: "
            "stop your server and start it again (File > Hub Control Panel), so that both are the "
            "hub's newest"
        )
