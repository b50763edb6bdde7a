"""Dask clusters of the hub's Dask Gateway."""

from __future__ import annotations

from typing import Any

from thalweg.errors import InvalidInput, Unavailable

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
        There is no gateway here, or it does not answer.

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
    cluster.scale(workers)
    return cluster
