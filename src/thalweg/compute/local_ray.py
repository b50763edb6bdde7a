"""Ray in this process and its children: on loopback only, and only for who holds the token.

In a Ray job, as one of the chart's `ray.jobs`, the cluster is there already, and is joined.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from thalweg.errors import Unavailable

__all__ = ["ray"]

#: Read by Ray when it is imported, and by each of its processes.
ENVIRONMENT = {
    # Else Ray binds the machine's outward address, whatever it is told.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Metrics are served without a token: collect none, and give no port to serve them on.
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
DEFAULTS = QUIET | {
    "num_cpus": min(os.cpu_count() or 1, 8),
    "object_store_memory": 512 * 1024**2,
    "include_dashboard": False,
}
ATTEMPTS = 3
SHORT = "/tmp"  # noqa: S108 - macOS's own folder is too long a path for sockets


def ray(**options: Any) -> Any:
    """Ray, started at the first call (about 20 s) and stopped with this process.

    Where `RAY_ADDRESS` names a cluster, as Ray does for its jobs, that one.

    Parameters
    ----------
    options
        Of `ray.init`; by default at most 8 CPUs, 512 MiB of object store, no dashboard.

    Returns
    -------
    module
        `ray` itself: `ray.remote`, `ray.get`. A later call gives the same, running one.

    Raises
    ------
    Unavailable
        Ray was imported before in a way that would open it to the network, does not start, or is
        not where `RAY_ADDRESS` says.

    Examples
    --------
    >>> from thalweg import compute
    >>> ray = compute.ray()  # doctest: +SKIP
    >>> ray.get([ray.remote(lambda x: x**2).remote(x) for x in range(3)])  # doctest: +SKIP
    [0, 1, 4]
    """
    if address := os.environ.get("RAY_ADDRESS"):
        return _joined(address, options)
    opened = {name: value for name, value in ENVIRONMENT.items() if os.environ.get(name) != value}
    if "ray" in sys.modules and opened:
        raise Unavailable(
            "ray was imported before thalweg.compute.ray() could close it to the network: "
            "restart the kernel, and let thalweg.compute.ray() import it"
        )
    os.environ.update(ENVIRONMENT)
    import ray

    if not ray.is_initialized():
        folder = _private_folder()
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(folder / "token")
        atexit.register(_stop, ray, folder)
        _start(ray, DEFAULTS | {"_temp_dir": str(folder / "s")} | options)
    return ray


def _joined(address: str, options: dict[str, Any]) -> Any:
    """Ray, connected to a cluster that others have started."""
    import ray

    if not ray.is_initialized():
        try:
            ray.init(**QUIET | options)
        except Exception as error:
            raise Unavailable(f"no Ray at RAY_ADDRESS ({address}): {error}") from error
    return ray


def _start(ray: Any, options: dict[str, Any]) -> None:
    """Start Ray; its processes give each other 15 s, which a busy machine may miss at first."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(_node_ip_address="127.0.0.1", **options)
            return
        except Exception as error:
            ray.shutdown()
            if attempt == ATTEMPTS or "timed out" not in str(error):
                raise Unavailable(f"Ray does not start: {error}") from error


def _private_folder() -> Path:
    """A new folder (0700) with a token (0600); those of processes that are gone are removed.

    Its path is short, for sockets will lie below it; Ray opens its own part of it to everybody,
    which is why that is a folder further down.
    """
    for old in Path(SHORT).glob("thalweg-ray-*-*"):
        pid = old.name.split("-")[2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"thalweg-ray-{os.getpid()}-", dir=SHORT))
    token = os.open(folder / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(token, "w") as file:
        file.write(secrets.token_hex(32))
    return folder


def _stop(ray: Any, folder: Path) -> None:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
