"""A preload of Dask's schedulers and workers: their web pages want a token.

Dask's dashboard has no login of its own and shows code, results and logs. With this preload every
route of a scheduler's or worker's web server (pages, websockets, /metrics, /info) answers 403
unless the request carries `Authorization: Bearer TOKEN`, the token being the content of the file
that `THALWEG_DASK_TOKEN_FILE` names; without that file nobody is let in.

    dask scheduler --preload thalweg.compute.guard

A `--preload` on the command line displaces those of Dask's configuration, so where another one is
given there, this one has to be given there as well.
"""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import Any

from distributed import node
from distributed.http.routing import RoutingApplication
from tornado.httputil import HTTPServerRequest
from tornado.web import ErrorHandler

__all__ = ["dask_setup"]


class GuardedApplication(RoutingApplication):
    """Dask's web application, closed to requests without the token."""

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        if not _is_allowed(request):
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        return super().find_handler(request, **kwargs)


# A preload is imported before the server listens, and set up only after: this closes the gap.
node.RoutingApplication = GuardedApplication  # type: ignore[attr-defined]


async def dask_setup(server: Any) -> None:
    """Make sure that the guard stands; else take the web server down rather than leave it open."""
    if not isinstance(server.http_application, GuardedApplication):
        server.http_server.stop()
        raise RuntimeError("Dask made its web server without the guard: it has been stopped")


def _is_allowed(request: HTTPServerRequest) -> bool:
    try:
        token = Path(os.environ["THALWEG_DASK_TOKEN_FILE"]).read_text().strip()
    except (KeyError, OSError):
        return False
    given = request.headers.get("Authorization", "")
    return bool(token) and hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
