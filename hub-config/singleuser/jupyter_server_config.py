"""Every Lab server of the hub: nothing asked of the outside, Dask's dashboards for their owner."""

import os
from pathlib import Path

c = get_config()
c.LabApp.extension_manager = "readonly"  # the environment is the hub's: it is not changed from Lab
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.MappingKernelManager.cull_idle_timeout = 0  # the hub culls whole servers

# A cluster's dashboard wants a token; this server, which only its owner can open, adds it.
gateway = os.environ.get("DASK_GATEWAY__ADDRESS")
token_file = os.environ.get("THALWEG_DASK_TOKEN_FILE")
if gateway and token_file:
    token = Path(token_file).read_text()
    c.ServerProxy.servers = {
        "dask": {
            "command": [],
            "port": int(gateway.rsplit(":", 1)[1]),
            "request_headers_override": {"Authorization": f"Bearer {token}"},
            "launcher_entry": {"enabled": False},
        }
    }
