"""The public proxy: traefik, kept running apart from the hub, so that a hub that restarts (or
dies) does not cut people off from their Lab servers."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import bcrypt

from thalweg.hub import state
from thalweg.settings import Settings

__all__ = ["command", "prepare", "update"]


def prepare(settings: Settings) -> Path:
    """Write traefik's static configuration; the hub writes the routes beside it."""
    folder = state.folder(settings, "proxy")
    api = f"127.0.0.1:{state.ports(settings)['hub_api_proxy']}"
    rules = folder / "rules.toml"
    rules.touch(mode=0o600)
    static = f"""\
[global]
checkNewVersion = false
sendAnonymousUsage = false
[log]
level = "WARN"
[api]
[entryPoints.http]
address = "{settings.host}:{settings.port}"
[entryPoints.http.http]
aliasHeadersStrategy = "delete"
[entryPoints.http.transport.respondingTimeouts]
readTimeout = "0s"
[entryPoints.auth_api]
address = "{api}"
[entryPoints.auth_api.http]
aliasHeadersStrategy = "delete"
[providers]
providersThrottleDuration = "0s"
[providers.file]
filename = "{rules}"
watch = true
"""
    return state.private_file(folder / "traefik.toml", static)


def command(settings: Settings) -> list[str]:
    """The command line of the proxy; call `prepare` first."""
    traefik = shutil.which("traefik", path=str(Path(sys.executable).parent)) or "traefik"
    return [traefik, f"--configfile={settings.data_dir / 'proxy' / 'traefik.toml'}"]


def update(c: Any, settings: Settings) -> None:
    """The hub's side: write the routes, ask traefik's API (with a password) what it has loaded."""
    password = state.secret(settings, "proxy-password")
    c.JupyterHub.proxy_class = "traefik_file"
    c.TraefikProxy.should_start = False
    c.TraefikProxy.traefik_api_url = f"http://127.0.0.1:{state.ports(settings)['hub_api_proxy']}"
    c.TraefikProxy.traefik_api_username = "jupyterhub"
    c.TraefikProxy.traefik_api_password = password
    c.TraefikProxy.traefik_api_hashed_password = bcrypt.hashpw(
        password.encode(), bcrypt.gensalt()
    ).decode()
    rules = settings.data_dir / "proxy" / "rules.toml"
    c.TraefikFileProviderProxy.dynamic_config_file = str(rules)
