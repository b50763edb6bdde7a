"""The login before a web service: `python -m thalweg.hub.login_proxy NAME URL OPTIONS -- COMMAND`.

It is `jupyter standaloneproxy` with its websockets closed, under the name of the service. It puts a
web app that knows nothing of the hub behind the hub's login. Upstream (4.6) asks for the login on
HTTP requests alone, and hands any websocket on; here a websocket needs it as well.
"""

from __future__ import annotations

import hmac
import json
import os
import sys
from typing import Any

from jupyter_server_proxy.standalone import StandaloneProxyServer
from tornado import web

from thalweg import settings as settings_module
from thalweg.hub import state
from thalweg.private import ADMIN, USER

__all__ = ["LoginProxy", "signing"]


class LoginProxy(StandaloneProxyServer):  # type: ignore[misc]
    """A web app behind the hub's login, websockets too."""

    def get_proxy_base_class(self) -> tuple[type, dict[str, Any]]:
        """The upstream handler, with a check before a websocket opens."""
        base, arguments = super().get_proxy_base_class()

        class Handler(base):  # type: ignore[misc, valid-type]
            async def open(self, *path: str) -> Any:
                if not self.current_user:
                    raise web.HTTPError(403)
                return await super().open(*path)

            # Not by `get_request_headers_override`: upstream's own class stands before this one.
            def proxy_request_headers(self) -> Any:
                headers, user = super().proxy_request_headers(), self.current_user or {}
                headers[USER] = user.get("name", "")
                headers[ADMIN] = "yes" if user.get("admin") else ""
                return headers

            def prepare(self, *_: Any, **__: Any) -> None:
                # Upstream leaves out the hub's own check; a browser says here from where it asks.
                site = self.request.headers.get("Sec-Fetch-Site", "none")
                if self.request.method not in ("GET", "HEAD", "OPTIONS") and "cross" in site:
                    raise web.HTTPError(403)
                upgrades = self.request.headers.get("Upgrade", "").lower() == "websocket"
                if upgrades and not self.current_user:
                    raise web.HTTPError(403)

        return Handler, arguments


def signing(token: str) -> dict[str, str]:
    """The environment by which Panel signs its sessions, with a key that follows from the token.

    A page's websocket tells by its session's token who asked for the page. Unsigned, anybody who
    may open the page could write another's name there.
    """
    key = hmac.new(token.encode(), b"sessions of Bokeh", "sha256").hexdigest()
    return {"BOKEH_SIGN_SESSIONS": "yes", "BOKEH_SECRET_KEY": key}


def identity(name: str, url: str, token: str) -> dict[str, str]:
    """The environment by which JupyterHub's own code knows which service it is."""
    access = json.dumps([f"access:services!service={name}"])
    return {
        "JUPYTERHUB_SERVICE_NAME": name,
        "JUPYTERHUB_SERVICE_URL": url,
        "JUPYTERHUB_SERVICE_PREFIX": f"/services/{name}/",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"/services/{name}/oauth_callback",
        "JUPYTERHUB_CLIENT_ID": f"service-{name}",
        "JUPYTERHUB_API_TOKEN": token,
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": access,
        "JUPYTERHUB_OAUTH_SCOPES": access,
    }


if __name__ == "__main__":
    name, url, *options = sys.argv[1:]
    token = state.service_token(settings_module.load(), name)
    os.environ.update(identity(name, url, token) | signing(token))
    LoginProxy.launch_instance(options)
