"""The laptop's hub: the sections that every hub has, the laptop's own, then yours.

Your own settings go into files of `jupyterhub_config.d/`; they are read last and win.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import local  # noqa: E402
import sections  # noqa: E402

c = get_config()
services, groups = sections.read("services"), sections.read("groups")
sections.update_hub(c)
sections.update_services(c, services, local.url)
sections.update_access(c, services, groups)
sections.update_spawner(c, services)
local.update(c, services)

for own in sorted((HERE / "jupyterhub_config.d").glob("*.py")):
    load_subconfig(str(own))
