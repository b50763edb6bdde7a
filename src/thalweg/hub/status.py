"""How each part of the hub is: state, address, pid, memory."""

from __future__ import annotations

from typing import Any

import psutil

from thalweg.hub import object_store, processes, stack, state
from thalweg.settings import Settings

__all__ = ["parts"]


def parts(settings: Settings) -> list[dict[str, Any]]:
    """Every part of the hub: name, state (up, on demand, down), url, pid, memory in bytes.

    "on demand": a web app whose login answers, and which itself starts at the first visit.
    """
    groups: dict[str, list[psutil.Process]] = {}
    supervisor = stack.running_pid(settings)
    if supervisor:
        groups["thalweg up"] = [psutil.Process(supervisor)]
    for process, environ in processes.of_hub(settings).items():
        if process.pid != supervisor:
            groups.setdefault(processes.label(environ), []).append(process)
    known = _known(settings, groups)
    others = [_part(name, "up", None, group) for name, group in groups.items() if name not in known]
    return [_part(name, *known[name], groups.get(name, [])) for name in known] + others


def _known(
    settings: Settings, groups: dict[str, list[psutil.Process]]
) -> dict[str, tuple[str, str | None]]:
    """State and address of the parts that every hub has."""
    address = stack.known_address(settings)
    answers = stack.is_up(settings) if groups else False
    healthy = stack.services_healthy(settings) if groups else {}
    store = bool(groups) and object_store.is_healthy(settings)
    s3 = f"http://127.0.0.1:{state.ports(settings)['s3']}" if groups else None
    known: dict[str, tuple[str, str | None]] = {
        "thalweg up": ("up" if "thalweg up" in groups else "down", None),
        "object-store": ("up" if store else "down", s3),
        "proxy": ("up" if answers else "down", address),
        "hub": ("up" if answers else "down", f"{address}/hub/"),
    }
    for name, service in stack.services(settings).items():
        web = service.get("web")
        started = len(groups.get(name, [])) > 1 or not web
        known[name] = (
            ("up" if started else "on demand") if healthy.get(name) else "down",
            f"{address}/services/{name}/" if web else None,
        )
    return known


def _part(
    name: str, condition: str, url: str | None, group: list[psutil.Process]
) -> dict[str, Any]:
    first = min(group, key=lambda p: p.create_time(), default=None)
    return {
        "name": name,
        "state": condition,
        "url": url,
        "pid": first.pid if first else None,
        "memory": processes.memory(group),
    }
