"""What is for one account alone: its folders, files and sockets, keys in an address; who asks."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import tempfile
from pathlib import Path

from thalweg.errors import Unavailable
from thalweg.settings import Settings

__all__ = [
    "ADMIN",
    "PASSWORD",
    "USER",
    "folder",
    "holds_secret",
    "instance",
    "private_file",
    "socket_path",
    "without_secrets",
]

#: Headers by which the hub's login tells the app behind it who asks, and whether an admin of the
#: hub; those that a client sends are replaced.
USER, ADMIN = "X-Thalweg-User", "X-Thalweg-Admin"

#: Begin of a pair in a query that lets in whoever has it.
SECRET = re.compile(
    r"(x-(amz|goog)-[^=]*|[^=]*(key|token|jwt|secret|sig|signature|password|passwd|pwd|auth|appid"
    r"|credentials?))=",
    re.I,
)


#: A user or password in an address.
PASSWORD = re.compile(r"(https?://[^/?#]*|://[^/?#]*:[^/?#]*)@", re.I)
#: Keys that have a form of their own: of AWS, GitHub and Slack, and private ones.
KEY = re.compile(
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|\b(gh[pousr]_|github_pat_|xox[a-z]-)\w{8}"
    r"|hooks\.slack\.com/services/\w|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


def holds_secret(text: str) -> bool:
    """Whether something in a text lets in whoever reads it, as far as its form tells.

    >>> holds_secret("https://ada:pa55@example.org/f.csv"), holds_secret("01013500")
    (True, False)
    """
    pairs = text.partition("?")[2].split("&") if "://" in text else []
    return bool(PASSWORD.search(text) or KEY.search(text) or any(map(SECRET.match, pairs)))


def without_secrets(url: str) -> str:
    """An address as it may be kept and told: without the keys and signatures of its query.

    >>> without_secrets("https://example.org/f.csv?site=1&X-Amz-Signature=0a1b")
    'https://example.org/f.csv?site=1'
    """
    address, _, query = url.partition("?")
    kept = "&".join(pair for pair in query.split("&") if not SECRET.match(pair))
    return f"{address}?{kept}" if kept else address


def folder(settings: Settings, *parts: str) -> Path:
    """A folder below the data folder, made when missing, readable by its owner alone."""
    path = settings.data_dir.joinpath(*parts)
    try:
        # One by one: `parents=True` would let everybody into all but the last.
        for each in itertools.accumulate(parts, Path.joinpath, initial=settings.data_dir):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unavailable(
            f"cannot make the folder {path} ({error.strerror}): "
            "give another one with --data-dir, or mend its permissions"
        ) from None
    return path


def private_file(path: Path, content: str) -> Path:
    """Write `content` to `path` at once, readable by its owner alone (0600)."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return path


def instance(settings: Settings) -> str:
    """A mark that every process of this hub carries in its environment (THALWEG_INSTANCE)."""
    return hashlib.sha256(str(settings.data_dir).encode()).hexdigest()[:16]


def socket_path(settings: Settings, name: str) -> Path:
    """Where the part of the hub of this name listens: in a folder that only this account can enter.

    Not below the data folder: the path of a UNIX socket holds 107 bytes at most (103 on macOS).
    """
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if len(os.fsencode(base)) > 60:
        base = Path("/tmp")  # noqa: S108
    run = base / f"thalweg-{os.getuid()}-{instance(settings)[:8]}"
    run.mkdir(mode=0o700, exist_ok=True)
    if run.lstat().st_uid != os.getuid() or run.lstat().st_mode & 0o077:
        raise Unavailable(f"{run} can be entered by others: remove it and start again")
    return run / f"{name}.sock"
