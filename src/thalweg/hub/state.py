"""What stands in the data folder: secrets (0600), ports, homes, logs, databases."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import secrets
import socket
from collections.abc import Callable

from thalweg.private import folder, instance, private_file, socket_path
from thalweg.settings import Settings

__all__ = [
    "PORTS",
    "fernet_key",
    "folder",
    "free_ports",
    "instance",
    "is_free",
    "not_free",
    "ports",
    "private_file",
    "secret",
    "service_token",
    "socket_path",
]

#: Every port behind the public one. All on loopback, chosen free, kept from start to start.
PORTS = (
    "s3", "s3_grpc", "iceberg", "filer", "filer_grpc", "master", "master_grpc",
    "volume", "volume_grpc", "store_admin",
    "hub", "hub_api_proxy", "dask_gateway", "dask_api",
    "pipelines", "dashboards", "operations", "schedules",
)  # fmt: skip


def secret(
    settings: Settings, name: str, make: Callable[[], str] = lambda: secrets.token_hex(32)
) -> str:
    """The secret of this name, generated at its first use and kept 0600 in `secrets/`."""
    path = folder(settings, "secrets") / name
    if not path.exists():
        made = private_file(path.with_name(f".{name}.{os.getpid()}.new"), make())
        with contextlib.suppress(FileExistsError):  # of two that make it at once, one wins
            path.hardlink_to(made)
        made.unlink()
    return path.read_text()


def service_token(settings: Settings, name: str) -> str:
    """The token by which the login before a web service is known to the hub."""
    return secret(settings, f"service-{name}-token")


def fernet_key() -> str:
    """A key that encrypts credentials at rest (Fernet: 32 bytes, URL-safe base 64)."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


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
    return not not_free(host, port)


def not_free(host: str, port: int) -> str:
    """Why no server could listen on this port now; empty when one could."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:  # taken, no right, no such address, no such port
            return getattr(error, "strerror", None) or str(error)
    return ""
