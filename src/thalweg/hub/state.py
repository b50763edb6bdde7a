"""What stands in the data folder: secrets (0600), ports, homes, logs, databases."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from thalweg.errors import Unavailable
from thalweg.settings import Settings

__all__ = [
    "PORTS",
    "fernet_key",
    "folder",
    "free_ports",
    "instance",
    "is_free",
    "ports",
    "private_file",
    "secret",
    "socket_path",
]

#: Every port behind the public one. All on loopback, chosen free, kept from start to start.
PORTS = (
    "s3", "s3_grpc", "iceberg", "filer", "filer_grpc", "master", "master_grpc",
    "volume", "volume_grpc", "store_admin",
    "hub", "hub_api_proxy", "dask_gateway", "dask_api",
    "pipelines", "dashboards",
)  # fmt: skip


def folder(settings: Settings, *parts: str) -> Path:
    """A folder below the data folder, made when missing, readable by its owner alone."""
    path = settings.data_dir.joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
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


def secret(
    settings: Settings, name: str, make: Callable[[], str] = lambda: secrets.token_hex(32)
) -> str:
    """The secret of this name, generated at its first use and kept 0600 in `secrets/`."""
    path = folder(settings, "secrets") / name
    if not path.exists():
        private_file(path, make())
    return path.read_text()


def fernet_key() -> str:
    """A key that encrypts credentials at rest (Fernet: 32 bytes, URL-safe base 64)."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def instance(settings: Settings) -> str:
    """A mark that every process of this hub carries in its environment (THALWEG_INSTANCE)."""
    return hashlib.sha256(str(settings.data_dir).encode()).hexdigest()[:16]


def socket_path(settings: Settings, name: str) -> Path:
    """Where the web app of this name listens: in a folder that only this account can enter.

    Not below the data folder: the path of a UNIX socket holds 107 bytes at most (103 on macOS).
    """
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if len(str(base)) > 60:
        base = Path("/tmp")  # noqa: S108
    run = base / f"thalweg-{os.getuid()}-{instance(settings)[:8]}"
    run.mkdir(mode=0o700, exist_ok=True)
    if run.stat().st_uid != os.getuid() or run.stat().st_mode & 0o077:
        raise Unavailable(f"{run} can be entered by others: remove it and start again")
    return run / f"{name}.sock"


def ports(settings: Settings) -> dict[str, int]:
    """The internal ports: chosen free at the first call, then the same ones."""
    path = settings.data_dir / "ports.json"
    try:
        known = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        known = {}
    missing = [name for name in PORTS if name not in known]
    if missing:
        known |= dict(zip(missing, free_ports(len(missing)), strict=True))
        folder(settings)
        private_file(path, json.dumps(known, indent=1))
    return {name: int(known[name]) for name in PORTS}


def free_ports(count: int) -> list[int]:
    """`count` ports on loopback that nothing listens on, all different.

    Below the range from which systems take the ports of outgoing connections, so that a hub that
    was down finds its ports free again; also with 10,000 added, which is where the object store's
    admin server listens for its worker.
    """
    shuffled = secrets.SystemRandom().sample(range(20_000, 22_700), 2_700)
    free = (port for port in shuffled if is_free("127.0.0.1", port))
    return list(itertools.islice(free, count))


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
