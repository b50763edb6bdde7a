"""Dask Gateway of the cluster's hub: schedulers and workers are pods of the one image.

The chart's gateway runs this after its own configuration, with `cluster` from the chart's values.
A cluster reaches data by the service account of its owner's group, as the owner's Lab server does.
"""

from dask_gateway_server.options import Options

# The executables that the gateway defaults to are gone from distributed.
c.KubeClusterConfig.scheduler_cmd = ["dask", "scheduler", "--preload", "thalweg.compute.guard"]
c.KubeClusterConfig.worker_cmd = ["dask", "worker"]
# The guard of their pages has no token here: one that all share would open those of others.
c.KubeClusterConfig.image = cluster["image"]
c.KubeClusterConfig.environment = cluster["dask_environment"]
c.KubeClusterConfig.idle_timeout = cluster["dask_idle_timeout"]
c.KubeClusterConfig.cluster_max_workers = cluster["dask_max_workers"]
c.KubeClusterConfig.worker_memory = "2 G"
c.KubeClusterConfig.worker_cores = 1


def pod(groups):
    """What a pod has besides its container."""
    lab = [group for group in cluster["lab_groups"] if group in groups]
    account = {"serviceAccountName": f"thalweg-{lab[-1]}"} if lab else {}
    return account | {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": cluster["pod_security"],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def of_user(options, user):
    """The pods of this user's cluster."""
    container = {
        "securityContext": cluster["container_security"],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - a volume of its own
    }
    return {
        "scheduler_extra_pod_config": pod(user.groups),
        "worker_extra_pod_config": pod(user.groups) | cluster["dask_worker_pod"],
        "scheduler_extra_container_config": container,
        "worker_extra_container_config": container,
    }


c.Backend.cluster_options = Options(handler=of_user)
