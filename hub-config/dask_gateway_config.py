"""Dask Gateway of the laptop's hub: clusters are processes of this machine, on loopback.

It has no public route: kernels reach it on loopback with the user's own hub token, and a
cluster's dashboard opens through its owner's Lab server (`singleuser/jupyter_server_config.py`).
"""

import sys

from dask_gateway_server.options import Options

from thalweg import accounts
from thalweg import settings as settings_module
from thalweg.hub import environment, state

c = get_config()
settings = settings_module.load()
ports = state.ports(settings)
folder = state.folder(settings, "dask-gateway")

c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.LocalBackend.clusters_directory = str(state.folder(settings, "dask-gateway", "clusters"))
c.UnsafeLocalBackend.clusters_directory = c.LocalBackend.clusters_directory
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.JupyterHubAuthenticator"
c.DaskGateway.address = f"127.0.0.1:{ports['dask_api']}"
c.Proxy.address = f"127.0.0.1:{ports['dask_gateway']}"
c.DatabaseBackend.db_url = f"sqlite:///{folder / 'dask-gateway.sqlite'}"
c.DatabaseBackend.db_encrypt_keys = [state.secret(settings, "dask-gateway-key", state.fernet_key)]
# A gateway that comes back would not know the processes of the one before: it stops them.
c.DatabaseBackend.stop_clusters_on_shutdown = True

# The executables that the gateway defaults to are gone from distributed.
dask = [sys.executable, "-m", "dask"]
# The gateway adds a --preload of its own, which displaces the environment's: so the guard is here.
c.ClusterConfig.scheduler_cmd = [*dask, "scheduler", "--preload", "thalweg.compute.guard"]
c.ClusterConfig.worker_cmd = [*dask, "worker", "--host", "127.0.0.1"]
c.ClusterConfig.idle_timeout = settings.dask_idle_timeout
c.ClusterConfig.worker_memory = "2 G"
c.ClusterConfig.worker_cores = 1
c.ClusterConfig.cluster_max_workers = 8
c.ClusterConfig.environment = environment.dask_environment(settings)


def of_user(options, user):
    """A user's cluster reaches data as they do."""
    account = accounts.ensure(user.name, settings)
    theirs = environment.of_person(account, settings)
    return {"environment": environment.dask_environment(settings) | theirs}


if not accounts.why_shared(settings):
    clusters = accounts.passage(state.folder(settings, "dask-clusters"))
    c.DaskGateway.backend_class = "thalweg.hub.own_accounts.AccountBackend"
    c.AccountBackend.clusters_directory = str(clusters)
    c.Backend.cluster_options = Options(handler=of_user)
