"""Accounts of the operating system: one for each person, where the hub was started as root.

An account is made when a person first needs it, and stays. Its name begins with `tw-` and a mark of
the hub's data folder, so that two hubs on one machine share none; it has no password and no shell
to log in with. Where the hub was not started as root, all share the account that started it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import thalweg
from thalweg.errors import Unavailable
from thalweg.private import folder, instance
from thalweg.settings import Settings

__all__ = [
    "Account",
    "as_them",
    "clients",
    "ensure",
    "environment",
    "find",
    "hand_over",
    "home",
    "ids",
    "make_run_folder",
    "owner",
    "passage",
    "read_theirs",
    "retire",
    "run_folder",
    "safe",
    "why_shared",
]

PLAIN = re.compile(r"[a-z][a-z0-9_-]{0,20}")
#: Ids of the accounts, and of the group that each has alone.
IDS = (30_000, 39_999)
SHELL = "/usr/sbin/nologin"
#: End of the comment of an account whose person was removed.
REMOVED = " removed"
#: Bytes of what a person has left that are read at once.
LARGEST = 300_000_000


@dataclass(frozen=True)
class Account:
    """A person's account: who it is for the system, and what it has on this machine."""

    person: str
    name: str
    uid: int
    gid: int
    home: Path
    #: For sockets and the like, gone at the next start of the machine.
    runtime: Path


def why_shared(settings: Settings) -> str:
    """Why all users of this hub share one account; empty where each has one of their own."""
    if settings.accounts == "shared":
        return "the setting `accounts` says so"
    if os.geteuid() != 0:
        return "the hub was not started as root"
    if not sys.platform.startswith("linux") or not shutil.which("useradd"):
        return "this system has no `useradd`"
    needed = {
        "Python": Path(sys.base_prefix),
        "the environment": Path(sys.prefix),
        "the library": Path(thalweg.__file__).parent,
        "the clone": settings.home,
        "the data folder": settings.data_dir.parent,
    }
    for what, path in needed.items():
        if closed := _closed(path):
            return f"{what} ({path}) lies in {closed}, which no other account may enter"
    return ""


def safe(person: str) -> str:
    """A person's name as part of the name of an account, a folder or a prefix; no two have one.

    >>> safe("ada"), safe("Ana.M@example.org")
    ('ada', 'ana-m-example.3ccbb83f')
    """
    if PLAIN.fullmatch(person):
        return person
    slug = re.sub(r"[^a-z0-9]+", "-", person.lower()).strip("-")[:13]
    return f"{slug or 'x'}.{hashlib.sha256(person.encode()).hexdigest()[:8]}"


def home(person: str, settings: Settings) -> Path:
    """A person's folder, with or without an account: named as they are, as far as that can be."""
    is_plain = re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", person)
    return settings.data_dir / "home" / (person if is_plain else safe(person))


def ensure(person: str, settings: Settings) -> Account:
    """The person's account with its folders, made where they are missing; only root can.

    Raises
    ------
    Unavailable
        The account or its home cannot be made, or is somebody else's.
    """
    name = _name(person, settings)
    if not (account := find(person, settings)):
        low, high = IDS
        ranges = {"UID_MIN": low, "UID_MAX": high, "GID_MIN": low, "GID_MAX": high}
        keys = [word for key, value in ranges.items() for word in ("--key", f"{key}={value}")]
        made = subprocess.run(
            ["useradd", *keys, "--user-group", "--no-create-home", "--no-log-init", "--badname",
             f"--home-dir={home(person, settings)}", f"--shell={SHELL}",
             f"--comment={_comment(person, settings)}", name],
            capture_output=True, text=True,
        )  # fmt: skip
        account = find(person, settings)
        if not account:
            raise Unavailable(
                f"cannot make the account {name} for {person}: {made.stderr.strip()}; mend it, or "
                "let all users share one account with accounts = shared"
            )
    for parent in ("home", "work"):
        passage(folder(settings, parent))
    _own(account.home, account)
    make_run_folder(settings)
    _own(account.runtime, account)
    return account


def find(person: str, settings: Settings) -> Account | None:
    """The person's account, None where there is none yet; Unavailable if it is another's."""
    name = _name(person, settings)
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    if entry.pw_gecos == _comment(person, settings) + REMOVED:
        raise Unavailable(
            f"{person} was removed, and the account {name} is kept as the owner of what they had: "
            f"take another name, or, once all of that is gone or another's, `userdel {name}`"
        )
    if entry.pw_gecos != _comment(person, settings) or entry.pw_uid == 0:
        raise Unavailable(f"the account {name} was not made for {person} of this hub: remove it")
    runtime = run_folder(settings) / safe(person)
    theirs = home(person, settings)
    return Account(person, name, entry.pw_uid, entry.pw_gid, theirs, runtime)


def owner(uid: int, people: Iterable[str], settings: Settings) -> str | None:
    """Which of these people the account of this id was made for; None if it is none of theirs."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    made = {(_name(each, settings), _comment(each, settings)): each for each in people}
    return made.get((entry.pw_name, entry.pw_gecos))


def retire(person: str, settings: Settings) -> Account | None:
    """Lock the person's account for good; None where there is none.

    It stays, so that no other gets its id and with it what it has left. Raises `Unavailable` where
    it cannot be locked, or is another's.
    """
    account = find(person, settings)
    if account:
        comment = f"--comment={_comment(person, settings)}{REMOVED}"
        command = ["usermod", "--lock", "--expiredate=1", comment, account.name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"cannot lock the account {account.name}: {done.stderr.strip()}")
    return account


def ids(settings: Settings) -> set[int]:
    """The ids of all accounts of people of this hub."""
    mark = f"Thalweg {instance(settings)} "
    return {each.pw_uid for each in pwd.getpwall() if each.pw_gecos.startswith(mark)}


def as_them(account: Account) -> dict[str, Any]:
    """Arguments of `subprocess.Popen` for a process of this account."""
    return {"user": account.uid, "group": account.gid, "extra_groups": [], "umask": 0o077}


def environment(account: Account, settings: Settings) -> dict[str, str]:
    """What differs in the environment of a person's processes from that of the hub's.

    Keys come by the SDK's default chain from a process that hands them out
    (`thalweg.hub.credentials`). The record of the hub is not theirs to open: they have one of their
    own, as they have a part of the bucket `users`.
    """
    state = account.home / ".thalweg"
    theirs = f"s3://users/{safe(account.person)}"
    return {
        "HOME": str(account.home),
        "USER": account.person,
        "LOGNAME": account.person,
        "SHELL": "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh",
        "JUPYTER_RUNTIME_DIR": str(account.runtime),
        "AWS_CONFIG_FILE": str(clients(settings) / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(account.home / ".aws" / "credentials"),
        "PYICEBERG_HOME": str(clients(settings)),
        "THALWEG_DATA_DIR": str(state),
        "THALWEG_DATABASE_URL": f"sqlite:///{state / 'thalweg.db'}",
        "THALWEG_OWN_URI": theirs,
        "THALWEG_RAW_URI": f"{theirs}/raw",
        "THALWEG_RUNS_URI": f"{theirs}/runs",
        "THALWEG_DASK_TOKEN_FILE": str(account.runtime / "dask-dashboard-token"),
    }


def clients(settings: Settings) -> Path:
    """The folder of what people's programs read to find the data; nothing in it is secret."""
    return settings.data_dir / "clients"


def run_folder(settings: Settings) -> Path:
    """The folder of the hub's socket for people, and of theirs; all may pass, root alone writes."""
    return Path("/run") / f"thalweg-{instance(settings)[:8]}"


def make_run_folder(settings: Settings) -> Path:
    """The folder of `run_folder`, which the system forgets when it starts."""
    path = run_folder(settings)
    path.mkdir(exist_ok=True)
    return passage(path)


def passage(path: Path) -> Path:
    """Let all accounts pass through this folder of ours to what is theirs."""
    path.chmod(0o711)
    return path


def hand_over(path: Path, account: Account) -> None:
    """Give this folder of ours, and what lies below it, to the account."""
    for each in [*path.rglob("*"), path]:
        os.chown(each, account.uid, account.gid, follow_symlinks=False)


def read_theirs(path: Path, account: Account | None) -> bytes:
    """What a person's process has left in its folder: their own plain file, whatever it points to.

    A link would have us read for them what they cannot read themselves; OSError for one, and for a
    file too large to be held in memory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or (account and about.st_uid != account.uid):
            raise PermissionError(f"{path} is not a file of {account and account.name}")
        content = file.read(LARGEST + 1 if account else -1)
    if account and len(content) > LARGEST:
        raise OSError(errno.EFBIG, f"larger than {LARGEST / 1e6:.0f} MB", str(path))
    return content


def _name(person: str, settings: Settings) -> str:
    return f"tw-{instance(settings)[:6]}-{safe(person)}"


def _comment(person: str, settings: Settings) -> str:
    digest = hashlib.sha256(person.encode()).hexdigest()
    return f"Thalweg {instance(settings)} {digest}"


def _own(path: Path, account: Account) -> None:
    """Make the folder the account's; one that root has had in its place is handed over whole."""
    path.mkdir(mode=0o700, exist_ok=True)
    about = path.lstat()
    if stat.S_ISDIR(about.st_mode) and about.st_uid == 0:
        owner = f"{account.uid}:{account.gid}"
        subprocess.run(["chown", "-hR", owner, "--", str(path)], check=True)
        path.chmod(0o700)
    elif not stat.S_ISDIR(about.st_mode) or about.st_uid != account.uid:
        raise Unavailable(f"{path} is not a folder of {account.name}: move it out of the way")


def _closed(path: Path) -> Path | None:
    """The first folder on the way to `path` that other accounts may not enter."""
    may_enter: Callable[[Path], bool] = lambda p: bool(p.stat().st_mode & stat.S_IXOTH)  # noqa: E731
    way = [*reversed(path.resolve().parents), path.resolve()]
    return next((each for each in way if each.is_dir() and not may_enter(each)), None)
