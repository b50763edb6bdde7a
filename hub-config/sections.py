"""The hub's configuration, a function a section; each changes a traitlets `Config`.

Read by the laptop's hub and mounted into the chart's hub, so it imports nothing but the standard
library and PyYAML: what only the laptop needs stands in `local.py`.
"""

from pathlib import Path

import yaml

__all__ = ["read", "update_access", "update_hub", "update_services", "update_spawner"]

HERE = Path(__file__).parent


def read(name):
    """The data of `NAME.yaml` beside this file."""
    return yaml.safe_load((HERE / f"{name}.yaml").read_text())


def update_hub(c):
    """What holds for every hub, wherever it runs."""
    c.JupyterHub.template_paths = [str(HERE / "templates")]
    c.JupyterHub.template_vars = {"thalweg_services": read("services")}
    c.JupyterHub.authenticate_prometheus = True
    c.JupyterHub.activity_resolution = 30
    c.Authenticator.manage_groups = True
    c.Authenticator.allow_all = True
    c.JupyterHub.default_url = landing


def landing(handler):
    """Where a login leads: to Lab (the hub's default), or to the list of pages without one."""
    user = handler.current_user
    if user is None or user.admin:  # not logged in yet: asked again after the login
        return ""
    with_lab = {name for name, group in read("groups").items() if group["lab"]}
    return "" if with_lab & {group.name for group in user.groups} else handler.hub.base_url + "home"


def update_services(c, services, url):
    """The hub's services; `url(name)` is where the pages of a web service are served.

    `services` is the data of services.yaml. The list is assigned whole: appending to the
    configuration's own list would start from one that is not there yet.
    """
    c.JupyterHub.services = [
        {
            "name": name,
            "display": bool(service.get("web")),
            "info": {"title": service["title"], "description": service["description"]},
            **({"url": url(name), "oauth_no_confirm": True} if service.get("web") else {}),
        }
        for name, service in services.items()
    ]


def update_access(c, services, groups):
    """Who may do what: a role a group, a role a service, and nothing for everybody else."""
    roles = [
        # Logged in, in no group: may see that they are logged in, and nothing else.
        {"name": "user", "scopes": ["read:users!user", "tokens!user", "read:tokens!user"]}
    ]
    for group, about in groups.items():
        usable = [n for n, s in services.items() if group in s.get("groups", [])]
        scopes = [f"access:services!service={name}" for name in usable]
        scopes += [f"read:services!service={name}" for name in usable]
        roles.append(
            {
                "name": f"group-{group}",
                "description": about["description"],
                "scopes": scopes + (["self"] if about["lab"] else []),
                "groups": [group],
            }
        )
    for name, service in services.items():
        if service.get("scopes"):
            roles.append(
                {
                    "name": f"service-{name}",
                    "description": service["description"],
                    "scopes": service["scopes"],
                    "services": [name],
                }
            )
    c.JupyterHub.load_roles = roles


def update_spawner(c, services):
    """Lab servers: where they open, and what their token may reach."""
    c.Spawner.cmd = ["jupyterhub-singleuser"]
    c.Spawner.default_url = "/lab/tree/tutorials/01-quickstart.ipynb"
    c.Spawner.start_timeout = 120
    c.Spawner.http_timeout = 60
    c.Spawner.server_token_scopes = [
        "users:activity!user",
        "access:servers!server",
        *[f"access:services!service={n}" for n, s in services.items() if s.get("groups")],
    ]
