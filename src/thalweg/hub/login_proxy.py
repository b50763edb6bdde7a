"""`jupyter standaloneproxy` with its websockets closed: `python -m thalweg.hub.login_proxy …`.

It puts a web app that knows nothing of the hub behind the hub's login. Upstream (4.6) asks for the
login on HTTP requests alone, and hands any websocket on; here a websocket needs it as well.
"""

from __future__ import annotations

from typing import Any

from jupyter_server_proxy.standalone import StandaloneProxyServer
from tornado import web

__all__ = ["LoginProxy"]


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

            def prepare(self, *_: Any, **__: Any) -> None:
                upgrades = self.request.headers.get("Upgrade", "").lower() == "websocket"
                if upgrades and not self.current_user:
                    raise web.HTTPError(403)

        return Handler, arguments


if __name__ == "__main__":
    LoginProxy.launch_instance()
