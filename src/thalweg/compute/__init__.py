"""Scale out: Dask Gateway for arrays and frames larger than memory, Ray for many small tasks.

`dask_cluster` and `ray` start what they give at the first call and stop it with the process;
`guard` is the preload that puts Dask's dashboards behind a token.
"""

from thalweg.compute.gateway import dask_cluster
from thalweg.compute.local_ray import ray

__all__ = ["dask_cluster", "ray"]
