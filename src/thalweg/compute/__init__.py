"""Scale out: Dask Gateway for arrays and frames larger than memory, Ray for many small tasks.

`dask_cluster` and `ray` start what they give at the first call and stop it with the process;
`cluster` gives that which the pipeline of a run asks for (`resources.profile`). `guard` is the
preload that puts Dask's dashboards behind a token.
"""

from typing import Any

from thalweg.compute.gateway import dask_cluster
from thalweg.compute.local_ray import ray
from thalweg.settings import load

__all__ = ["cluster", "dask_cluster", "ray"]


def cluster() -> Any:
    """What to compute on, by the setting `compute`: None for here, a Dask cluster, or Ray.

    In a run it is what `resources.profile` of the pipeline says, so that the same notebook scales
    out by its configuration alone: `metrics.evaluate(…, cluster=compute.cluster())`.

    Raises
    ------
    Unavailable
        There is no Dask Gateway here, or Ray does not start.
    """
    start = {"local": lambda: None, "dask": dask_cluster, "ray": ray}
    return start[load().compute]()
