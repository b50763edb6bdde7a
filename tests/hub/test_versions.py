"""hub-config loads under the chart's JupyterHub (5.5) as well as under the laptop's."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: What the chart's hub does with the sections: its own spawner and authenticator around them.
PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import jupyterhub, sections
from jupyterhub.app import JupyterHub
from traitlets.config import Config
c = Config()
services, groups = sections.read("services"), sections.read("groups")
sections.update_hub(c)
sections.update_services(c, services, lambda name: "http://" + name + ":80")
sections.update_access(c, services, groups)
sections.update_spawner(c, services)
for service in c.JupyterHub.services:
    service["api_token"] = "0" * 32
c.JupyterHub.db_url = "sqlite:///:memory:"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allowed_users = {{"ada"}}
c.ConfigurableHTTPProxy.auth_token = "1" * 32
app = JupyterHub(config=c)
import asyncio
asyncio.run(app.initialize([]))
print(jupyterhub.__version__, sorted(app._service_map))
"""


@pytest.mark.hub
@pytest.mark.parametrize("version", ["5.5.0", "6.1.1"])
def test_sections_initialize_a_hub(version, tmp_path):
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    if not Path(uv).exists():
        pytest.skip("uv, which makes an environment with another JupyterHub, is not here")
    program = PROGRAM.format(folder=str(ROOT / "hub-config"))
    command = [uv, "run", "--no-project", "--isolated", "--no-python-downloads"]
    command += ["--python", sys.executable, "--with", f"jupyterhub=={version}", "--with", "pyyaml"]
    done = subprocess.run(
        [*command, "python", "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().startswith(version)
    assert "dask-gateway" in done.stdout
