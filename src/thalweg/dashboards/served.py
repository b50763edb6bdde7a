"""Pages of HTML out of the store, as a browser gets them: closed off from the hub around them."""

# mypy: disable-error-code="misc"
from __future__ import annotations

import asyncio
from collections.abc import Callable

from tornado.web import HTTPError, RequestHandler

from thalweg.errors import NotFound, Unavailable

__all__ = ["Stored"]

# A page holds what a notebook has put there. It may run its own scripts, in an origin of its own,
# in which no cookie of the hub is seen, and it may load nothing from anywhere.
POLICY = (
    "sandbox allow-scripts allow-popups; default-src 'none'; img-src data:; font-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'"
)


class Stored(RequestHandler):
    """Gives the page that `read` has for what the address says."""

    def initialize(self, read: Callable[[str], bytes]) -> None:
        self.read = read

    async def get(self, key: str) -> None:
        try:
            content = await asyncio.to_thread(self.read, key)
        except (NotFound, Unavailable) as error:
            raise HTTPError(404 if isinstance(error, NotFound) else 503) from error
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "private")
        self.finish(content)
