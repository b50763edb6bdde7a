"""Look at the machine before (or after) something goes wrong, and say what to do."""

from __future__ import annotations

import platform
import shutil
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from thalweg.errors import Unavailable
from thalweg.hub import stack, state
from thalweg.settings import Settings

__all__ = ["Finding", "examine"]

GB = 1e9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    about: str
    ok: bool
    found: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Python, packages, programs, folder, disk, memory and port of this machine."""
    return [
        _python(),
        _packages(settings),
        *[_program(name) for name in ("weed", "traefik", "dask-gateway-server", "git")],
        _data_dir(settings),
        _disk(settings),
        _memory(),
        _port(settings),
        _accounts(settings),
    ]


def _python() -> Finding:
    return Finding(
        "Python",
        (3, 11) <= sys.version_info[:2] <= (3, 13),
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "install Python 3.11, 3.12 or 3.13, then `make env`",
    )


def _packages(settings: Settings) -> Finding:
    wrong = _differing_packages(settings.home / "uv.lock")
    found = "as in uv.lock" if not wrong else f"differ from uv.lock: {', '.join(wrong[:5])}"
    return Finding("Packages", not wrong, found, "`make env` installs what uv.lock says")


def _differing_packages(lock: Path) -> list[str]:
    """Installed packages whose version is none of those in the lock."""
    if not lock.exists():
        return []
    locked: dict[str, set[str]] = {}
    for package in tomllib.loads(lock.read_text())["package"]:
        locked.setdefault(package["name"], set()).add(package.get("version", ""))
    installed = {d.name.lower().replace("_", "-"): d.version for d in metadata.distributions()}
    return sorted(
        f"{name} {version}"
        for name, version in installed.items()
        if name in locked and name != "thalweg" and version not in locked[name]
    )


def _program(name: str) -> Finding:
    beside = Path(sys.executable).parent
    path = shutil.which(name, path=str(beside)) or shutil.which(name)
    advice = "`apt install git`, or your system's like" if name == "git" else "`make env`"
    return Finding(f"Program {name}", bool(path), path or "not found", advice)


def _data_dir(settings: Settings) -> Finding:
    try:
        state.folder(settings)
        probe = settings.data_dir / ".doctor"
        probe.touch()
        probe.unlink()
    except (OSError, Unavailable) as error:
        return Finding("Data folder", False, str(error), "give another one with --data-dir")
    return Finding("Data folder", True, str(settings.data_dir))


def _disk(settings: Settings) -> Finding:
    existing = next(p for p in [settings.data_dir, *settings.data_dir.parents] if p.exists())
    free = psutil.disk_usage(str(existing)).free
    return Finding(
        "Disk",
        free >= 5 * GB,
        f"{free / GB:.1f} GB free",
        "make room: below 1 GB the hub does not start, below 5 GB data will soon not fit",
    )


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    return Finding(
        "Memory",
        memory.available >= 2 * GB,
        f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB available",
        "close other programs: the hub idles in about 1.5 GB, and a Lab wants 0.3 GB more",
    )


def _accounts(settings: Settings) -> Finding:
    why = stack.why_shared(settings)
    found = f"all users share one: {why}" if why else "each user has one of their own"
    advice = f"{why}: mend that, or set accounts = auto"
    return Finding("Accounts", not (why and settings.accounts == "own"), found, advice)


def _port(settings: Settings) -> Finding:
    if stack.running_pid(settings):
        return Finding(f"Port {settings.port}", True, "held by this hub")
    free = state.is_free(settings.host, settings.port)
    return Finding(
        f"Port {settings.port}",
        free,
        "free" if free else "taken by another program",
        f"choose another one: `thalweg up --port {settings.port + 1}`",
    )
