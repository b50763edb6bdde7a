"""The people of the local hub: a file of names, groups and password hashes (Argon2id, 0600).

On a cluster people log in by OIDC, and this file plays no part.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from thalweg import accounts
from thalweg.errors import InvalidInput, NotFound, nearest
from thalweg.hub import state
from thalweg.settings import Settings

__all__ = [
    "ADMIN",
    "REMOVAL",
    "add",
    "ensure_admin",
    "groups",
    "names",
    "remove",
    "set_password",
    "verify",
]

ADMIN = "admin"
#: The service of the hub by which `thalweg.hub.removal` has it forget people.
REMOVAL = "user-removal"
NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
hasher = PasswordHasher()


def names(settings: Settings) -> dict[str, list[str]]:
    """Each user's groups, by name."""
    return {name: user["groups"] for name, user in _read(settings).items()}


def add(settings: Settings, name: str, group_names: Iterable[str]) -> str:
    """Add a user with a generated password, and return the password.

    Raises
    ------
    InvalidInput
        The name is taken, or is not 1 to 32 of a-z, 0-9, `_`, `-` beginning with a letter.
    NotFound
        A group that groups.yaml does not have.
    Unavailable
        The account of the system of this name was that of somebody who was removed.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"user name {name!r}: expected 1 to 32 of a-z, 0-9, _ and -, beginning with a letter"
        )
    accounts.find(name, settings)  # says if it was that of somebody who was removed
    wanted = list(group_names)
    for group in wanted:
        if group not in groups(settings):
            raise NotFound(f"no group {group!r}{nearest(group, groups(settings))}")
    password = secrets.token_urlsafe(12)
    with _changing(settings) as users:
        if name in users:
            raise InvalidInput(f"user {name!r} exists: `thalweg user password {name}` changes it")
        users[name] = {"password": hasher.hash(password), "groups": wanted}
    return password


def set_password(settings: Settings, name: str, password: str | None = None) -> str:
    """Give a user a new password (generated when None), and return it."""
    password = password or secrets.token_urlsafe(12)
    if len(password) < 8:
        raise InvalidInput("the password has fewer than 8 characters: choose a longer one")
    with _changing(settings) as users:
        if name not in users:
            raise NotFound(f"no user {name!r}{nearest(name, users)}")
        users[name]["password"] = hasher.hash(password)
    return password


def remove(settings: Settings, name: str) -> None:
    """Forget a user, of whom nothing is left to end: `thalweg.hub.removal` sees to that."""
    with _changing(settings) as users:
        if users.pop(name, None) is None:
            raise NotFound(f"no user {name!r}{nearest(name, users)}")


def ensure_admin(settings: Settings) -> str | None:
    """Make the first user, in every group; the password, or None when the user exists."""
    if ADMIN in _read(settings):
        return None
    password = add(settings, ADMIN, groups(settings))
    state.private_file(state.folder(settings, "secrets") / "admin-password", password + "\n")
    return password


def verify(settings: Settings, name: str, password: str) -> bool:
    """Whether this is the password of this user; takes as long when there is no such user."""
    user = _read(settings).get(name)
    try:
        return hasher.verify(user["password"] if user else _nobody(), password) and bool(user)
    except (VerificationError, InvalidHashError):
        return False


def groups(settings: Settings) -> list[str]:
    """Names of the hub's groups (hub-config/groups.yaml)."""
    return list(yaml.safe_load((settings.home / "hub-config" / "groups.yaml").read_text()))


@cache
def _nobody() -> str:
    """A hash to check when there is no such user, so that the answer takes as long."""
    return hasher.hash(secrets.token_hex(16))


def _path(settings: Settings) -> Path:
    return settings.data_dir / "secrets" / "users.json"


def _read(settings: Settings) -> dict[str, Any]:
    try:
        users: dict[str, Any] = json.loads(_path(settings).read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        raise InvalidInput(f"{_path(settings)} is damaged: mend it, or take it away") from None
    return users


@contextlib.contextmanager
def _changing(settings: Settings) -> Iterator[dict[str, Any]]:
    """The users, to be changed; written at the end. One at a time: the next one waits."""
    lock = state.folder(settings, "secrets") / "users.lock"
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        users = _read(settings)
        yield users
        state.private_file(_path(settings), json.dumps(users, indent=1))
