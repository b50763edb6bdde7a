"""The parts of a page: a frame that can say what is wrong, cards, choices kept in the address."""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import html
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import panel as pn

from thalweg.errors import ThalwegError

__all__ = ["Card", "Choices", "flow", "page", "text"]

logger = logging.getLogger(__name__)

STYLE = """
body { margin: 0; background: #eef1f3; color: #1c2a33;
       font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
"""
# Styles inside a component's shadow root.
TEXT_STYLE = """
:host { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
        color: #1c2a33; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1.05rem; margin: 0; }
p { margin: .15rem 0 0; color: #4a5a64; font-size: .875rem; }
a { color: #0b5c8a; }
.scroll { overflow: auto; max-height: 320px; }
thead th { position: sticky; top: 0; background: #fff; white-space: normal; min-width: 4.5rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #dde3e7; text-align: right;
         white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: #fff;
                 font-weight: 500; }
td.words { text-align: left; }
.message { background: #fff8e6; border-left: 4px solid #c98a00; padding: .8rem 1rem;
           white-space: pre-line; overflow-wrap: anywhere; }
"""
CARD_STYLE = {
    "background": "#fff",
    "border": "1px solid #dde3e7",
    "border-radius": "8px",
    "padding": "12px",
    "flex": "1 1 460px",
    "min-width": "min(100%, 320px)",
    "box-sizing": "border-box",
    "overflow": "hidden",
}
LIST_STYLE = {"flex": "1 1 200px", "max-width": "360px"}


def page(title: str, build: Callable[[], Iterable[Any]]) -> pn.viewable.Viewable:
    """A whole page: its heading, then the rows that `build` makes, or what kept it from that.

    Parameters
    ----------
    title
        Heading of the page.
    build
        Makes the rows of the page, top first.
    """
    pn.config.raw_css = [STYLE]
    home = os.environ.get("JUPYTERHUB_BASE_URL")
    link = f' · <a href="{html.escape(home)}hub/home">hub</a>' if home else ""
    made: list[Any] = []
    problem = _problem(lambda: made.extend(build()))
    head = f"<h1>{html.escape(title)}</h1><p>Thalweg · all times are UTC{link}</p>"
    return pn.Column(
        text(head),
        *problem,
        *made,
        sizing_mode="stretch_width",
        styles={"max-width": "1500px", "margin": "0 auto", "padding": "12px"},
    )


def text(content: str) -> pn.pane.HTML:
    """HTML in the page's type; what comes from data has to be escaped already."""
    return pn.pane.HTML(
        content, stylesheets=[TEXT_STYLE], sizing_mode="stretch_width", margin=(0, 5, 8, 5)
    )


def flow(*views: Any) -> pn.FlexBox:
    """Side by side where there is room, else one below the other."""
    return pn.FlexBox(*views, sizing_mode="stretch_width", gap="12px")


class Card:
    """A part of a page that is drawn again only when what it depends on has changed."""

    def __init__(self) -> None:
        self.view = pn.Column(styles=CARD_STYLE, sizing_mode="stretch_width")
        self._key: tuple[str, ...] | None = None

    def show(self, key: tuple[str, ...], draw: Callable[[], Iterable[Any]]) -> None:
        """Show what `draw` gives (HTML, figures, tables) unless that was drawn for this key."""
        if key != self._key:
            self.view.objects = [text(e) if isinstance(e, str) else pn.panel(e) for e in draw()]
            self._key = key


class Choices:
    """Drop-down lists that narrow one another; the page's address keeps what is chosen.

    Parameters
    ----------
    titles
        Name of each choice, as the address has it, to the words that the reader sees.
    follow
        Called after each change: it offers the options of each list, in order, and draws.
    """

    def __init__(self, titles: Mapping[str, str], follow: Callable[[], None]) -> None:
        self.lists = {
            name: pn.widgets.Select(name=title, sizing_mode="stretch_width", styles=LIST_STYLE)
            for name, title in titles.items()
        }
        self._problem = pn.Column()
        self.view = pn.Column(flow(*self.lists.values()), self._problem)
        self._follow, self._changed, self._settling = follow, False, False
        location = pn.state.location
        self._wanted = dict(parse_qsl(location.search.lstrip("?"))) if location else {}
        for each in self.lists.values():
            each.param.watch(self.settle, "value")

    def offer(self, name: str, options: list[str] | dict[str, str]) -> str:
        """Offer these options (words → value); gives the chosen value, by default the first, or "".

        A list with a single option is not shown.
        """
        values = list(options.values() if isinstance(options, dict) else options)
        return self._offer(name, values, options=options)

    def offer_grouped(self, name: str, groups: dict[str, dict[str, str]]) -> str:
        """The same, of options under a heading each (heading → words → value)."""
        values = [value for options in groups.values() for value in options.values()]
        return self._offer(name, values, groups=groups)

    def _offer(self, name: str, values: list[str], **offered: Any) -> str:
        wanted = self._wanted.pop(name, self.lists[name].value)
        value: str | None = wanted if wanted in values else next(iter(values), None)
        self.lists[name].param.update(**offered, value=value, visible=len(values) > 1)
        return value or ""

    def choose(self, name: str, value: str) -> None:
        """Choose as the reader would, also what is about to be offered for the first time."""
        self._wanted[name] = value
        self.settle()

    def settle(self, *_events: Any) -> None:
        """Follow the changes until there are none; one change can bring others about."""
        self._changed = True
        if self._settling:
            return
        self._settling = True
        try:
            while self._changed:
                self._changed = False
                self._problem.objects = _problem(self._follow)
        finally:
            self._settling = False
        pn.state.onload(self._keep)

    def _keep(self) -> None:
        if pn.state.location:
            chosen = {name: each.value for name, each in self.lists.items() if each.value}
            pn.state.location.search = f"?{urlencode(chosen)}"


def _problem(do: Callable[[], Any]) -> list[pn.pane.HTML]:
    """Do it; what kept it from being done, in plain words, or nothing."""
    try:
        do()
    except (ThalwegError, OSError) as error:
        logger.warning("%s", error)
        return [text(f'<div class="message" role="alert">{html.escape(str(error))}</div>')]
    return []
