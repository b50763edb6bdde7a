"""The dashboards in a real browser, as the hub serves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
from playwright.sync_api import Browser, Page, expect

from thalweg import warehouse
from thalweg.settings import Settings

HELENE = "configuration=nwm30_medium_range&location=usgs-03171000"
YUBA = "configuration=CNRFC_HEFS&location=usgs-11421000&metric=relative_bias"
#: Where on the screen the gauges are drawn: id → x, y.
GAUGES = """() => {
  const found = {};
  const walk = (view) => {
    for (const [, part] of view.renderer_views ?? []) {
      if (part.glyph?.model.type !== "Scatter") continue;
      const box = view.canvas_view.el.getBoundingClientRect();
      part.model.data_source.data.primary_location_id.forEach((id, i) => {
        found[id] = [part.glyph.sx[i] + box.left, part.glyph.sy[i] + box.top];
      });
    }
    for (const child of view.child_views ?? []) walk(child);
  };
  for (const root of Bokeh.index.roots) walk(root);
  return found;
}"""


def chosen(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlparse(page.url).query).items()}


@pytest.mark.parametrize(("width", "height"), [(1400, 1000), (390, 844)])
def test_helene_is_shown_and_nothing_is_asked_of_others(
    sample: Settings, serve: Callable[[], str], browser: Browser, width: int, height: int
) -> None:
    address = serve()
    page = browser.new_page(viewport={"width": width, "height": height})
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{address}/forecast_skill?{HELENE}")
    expect(page.get_by_role("heading", name="NEW RIVER AT RADFORD, VA")).to_be_visible(
        timeout=30_000
    )
    expect(page.get_by_text("4 forecasts issued 2024-09-26 00:00")).to_be_visible()
    expect(page.get_by_role("cell", name="2,006.693")).to_be_visible()
    expect(page.get_by_text("all times are UTC")).to_be_visible()
    page.wait_for_function("() => Bokeh.documents[0].is_idle")
    assert page.locator("canvas").count() >= 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    own = urlparse(address).netloc
    hosts = {urlparse(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {own}
    assert errors == []


def test_the_map_the_table_and_the_list_choose_the_same_gauge(
    sample: Settings, serve: Callable[[], str], browser: Browser
) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 1400})
    page.goto(f"{serve()}/forecast_skill?{YUBA}")
    yuba = page.get_by_role("heading", name="YUBA R NR MARYSVILLE CA")
    spanish = page.get_by_role("heading", name="SPANISH C AB BLACKHAWK C AT KEDDIE CA")
    expect(yuba).to_be_visible(timeout=30_000)
    page.wait_for_function("() => location.search.includes('issued=2024-04')")
    assert chosen(page)["metric"] == "relative_bias"

    page.wait_for_function("() => Bokeh.documents[0].is_idle")
    page.mouse.click(*page.evaluate(GAUGES)["usgs-11402000"])
    expect(spanish).to_be_visible()
    page.get_by_role("gridcell", name="YUBA R NR MARYSVILLE CA").click()
    expect(yuba).to_be_visible()
    page.get_by_label("Gauge", exact=True).select_option(index=0)
    expect(spanish).to_be_visible()
    page.get_by_label("Metric", exact=True).select_option(label="Pearson correlation")
    expect(page.get_by_role("heading", name="Pearson correlation")).to_be_visible()
    page.wait_for_function("() => location.search.includes('metric=pearson_r')")

    page.reload()
    expect(spanish).to_be_visible(timeout=30_000)
    expect(page.get_by_role("heading", name="Pearson correlation")).to_be_visible()


def test_an_address_that_names_nothing_known_shows_something_known(
    sample: Settings, serve: Callable[[], str], browser: Browser
) -> None:
    page = browser.new_page()
    page.goto(f"{serve()}/forecast_skill?configuration=%3Cscript%3E&metric=nonsense&issued=1")
    expect(page.get_by_role("heading", name="Kling-Gupta efficiency (2009)")).to_be_visible(
        timeout=30_000
    )
    page.wait_for_function("() => location.search.includes('metric=kge')")


def test_empty_tables_are_no_error(
    sample: Settings,
    serve: Callable[[], str],
    browser: Browser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THALWEG_WAREHOUSE", "fresh")
    monkeypatch.setenv("PYICEBERG_CATALOG__FRESH__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__FRESH__URI", f"sqlite:///{tmp_path}/fresh.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__FRESH__WAREHOUSE", f"file://{tmp_path}/fresh")
    warehouse.migrate()
    page = browser.new_page()
    page.goto(f"{serve()}/forecast_skill")
    expect(page.get_by_role("alert")).to_contain_text("thalweg run evaluate", timeout=30_000)


def test_a_store_that_is_gone_is_said_in_plain_words(
    sample: Settings,
    serve: Callable[[], str],
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THALWEG_WAREHOUSE", "gone")
    monkeypatch.setenv("PYICEBERG_CATALOG__GONE__TYPE", "rest")
    monkeypatch.setenv("PYICEBERG_CATALOG__GONE__URI", "http://127.0.0.1:9")
    page = browser.new_page()
    page.goto(f"{serve()}/forecast_skill")
    expect(page.get_by_role("alert")).to_contain_text("does not answer", timeout=30_000)
