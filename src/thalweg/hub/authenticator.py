"""Log in to the local hub with a name and password of the users file."""

from __future__ import annotations

from typing import Any

from jupyterhub.auth import Authenticator

from thalweg import settings as settings_module
from thalweg.hub import users

__all__ = ["FileAuthenticator"]


class FileAuthenticator(Authenticator):  # type: ignore[misc]
    """The users file is read at each login, so that a new user need not wait for a restart."""

    async def authenticate(self, handler: Any, data: dict[str, str]) -> dict[str, Any] | None:
        settings = settings_module.load()
        name = data["username"]
        if not users.verify(settings, name, data["password"]):
            return None
        return {"name": name, "groups": users.names(settings)[name]}

    async def refresh_user(self, user: Any, handler: Any = None, **_: Any) -> Any:
        """Groups follow the file; a user who is no longer in it is logged out."""
        groups = users.names(settings_module.load()).get(user.name)
        return False if groups is None else {"name": user.name, "groups": groups}
