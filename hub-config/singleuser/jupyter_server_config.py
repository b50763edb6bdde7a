"""Every Lab server of the hub: nothing asked of the outside, Dask's dashboards for their owner."""

import os
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from jupyter_core.paths import jupyter_runtime_dir

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

# Plots ask this server for Panel's style sheets (5 MB of its 107), and not a content network.
if public_url := os.environ.get("JUPYTERHUB_PUBLIC_URL"):
    static = Path(jupyter_runtime_dir()) / "static"
    sheets = Path(find_spec("panel").origin).parent / "dist"
    for sheet in sheets.rglob("*.css"):
        copy = static / "panel" / version("panel") / "dist" / sheet.relative_to(sheets)
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sheet, copy)
    c.ServerApp.extra_static_paths = [str(static)]
    os.environ["PANEL_CDN_ROOT"] = f"{public_url}static/panel/"
