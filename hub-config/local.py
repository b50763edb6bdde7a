"""What only the laptop's hub needs: ports, users in a file, processes in place of pods."""

import os
import shutil
import sys

from thalweg import accounts
from thalweg import settings as settings_module
from thalweg.hub import environment, processes, proxy, state, users
from thalweg.hub.authenticator import FileAuthenticator

__all__ = ["update", "url"]

settings = settings_module.load()
ports = state.ports(settings)
AROUND = environment.service_environment(settings)


def url(name):
    """Where the pages of this web service are served, behind the public proxy."""
    return f"http://127.0.0.1:{ports[name]}"


def update(c, services):
    """The laptop's section; `services` is the data of services.yaml."""
    folder = state.folder(settings, "jupyterhub")
    c.JupyterHub.bind_url = f"http://{settings.host}:{settings.port}/"
    c.JupyterHub.public_url = f"http://{settings.host}:{settings.port}/"
    c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{ports['hub']}"
    c.JupyterHub.db_url = f"sqlite:///{folder / 'jupyterhub.sqlite'}"
    c.JupyterHub.cookie_secret_file = str(folder / "cookie_secret")
    c.JupyterHub.authenticator_class = FileAuthenticator
    c.FileAuthenticator.admin_users = {"admin"}
    # A token of somebody who is no longer in the file lets in no more, as a cookie does not.
    c.FileAuthenticator.auth_refresh_strict = True
    proxy.update(c, settings)
    update_services(c, services)
    update_spawner(c)


def update_services(c, services):
    """Each service is a process of this machine, supervised by the hub, with a log of its own.

    A web service is external to the hub, as on a cluster, and its login runs beside it as a service
    without pages: the hub would wait for each managed page in turn before it shows its own.
    """
    logins = []
    for declared in c.JupyterHub.services:
        name = declared["name"]
        names = {
            "python": sys.executable,
            "home": settings.home,
            "socket": state.socket_path(settings, name),
            "idle_timeout": settings.idle_timeout,
        }
        command = [part.format(**names) for part in services[name]["command"]]
        if services[name].get("web"):
            declared |= {"api_token": state.service_token(settings, name), "timeout": 0}
            login = {"name": f"{name}{processes.LOGIN}", "display": False}
            logins.append(login | process(name, behind_login(name, command)))
        else:
            declared |= process(name, command)
    token = state.service_token(settings, users.REMOVAL)
    removal = {"name": users.REMOVAL, "api_token": token, "display": False}
    c.JupyterHub.services += [*logins, removal]
    c.JupyterHub.load_roles.append(
        {
            "name": users.REMOVAL,
            "description": "`thalweg user remove`",
            "scopes": ["delete:users"],
            "services": [users.REMOVAL],
        }
    )


def process(name, command):
    """How the hub starts a service."""
    wrapped = [sys.executable, "-m", "thalweg.hub.service", name, *command]
    return {"command": wrapped, "environment": AROUND}


def behind_login(name, command):
    """Put a web app that knows nothing of the hub behind its login.

    The app listens on a UNIX socket that only this account can open, and starts at the first
    visit; what listens on the port wants a login.
    """
    socket = state.socket_path(settings, name)
    return [
        sys.executable, "-m", "thalweg.hub.login_proxy", name, url(name),
        f"--unix-socket={socket}", "--absolute-url", "--timeout=120", "--", *command,
    ]  # fmt: skip


def update_spawner(c):
    """Lab as a process in a folder a user: of an account of their own, or else of this one."""
    c.Spawner.environment = environment.lab_environment(settings)
    if not accounts.why_shared(settings):
        from thalweg.hub import own_accounts

        c.JupyterHub.spawner_class = own_accounts.AccountSpawner
        # By default kernels listen on TCP, where all of this machine may hear what they print.
        c.Spawner.args = ["--KernelManager.transport=ipc"]
        c.Spawner.pre_spawn_hook = own_accounts.fill_home
        return
    c.JupyterHub.spawner_class = "simple"
    c.SimpleLocalProcessSpawner.home_dir_template = str(settings.data_dir / "home" / "{username}")
    c.Spawner.args = ["--allow-root"] if os.geteuid() == 0 else []
    c.Spawner.pre_spawn_hook = fill_home


def fill_home(spawner):
    """Give the user's folder the tutorials; what the user has changed is left as it is."""
    home = state.folder(settings, "home", spawner.user.name)
    for notebook in sorted((settings.home / "notebooks").rglob("*.ipynb")):
        copy = home / notebook.relative_to(settings.home / "notebooks")
        if not copy.exists() and ".ipynb_checkpoints" not in notebook.parts:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(notebook, copy)
