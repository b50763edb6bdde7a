"""What stewards look at, and reports: what is read and drawn, and both pages in a real browser."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import nbformat
import pandas as pd
import pytest
from bokeh.models import Step
from playwright.sync_api import Browser, expect

from thalweg import dashboards, database, warehouse
from thalweg.dashboards import operations
from thalweg.errors import NotFound
from thalweg.metrics import METRICS
from thalweg.pipelines import history
from thalweg.pipelines.run import RunFailed, run
from thalweg.settings import Settings, load

HOUR = dt.timedelta(hours=1)
MISSING = "11111111-1111-7111-8111-111111111111"


@pytest.fixture
def home(sample: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home with one pipeline, `gauges`, which works once the file `there` is there."""
    folder = tmp_path / "pipelines" / "gauges"
    folder.mkdir(parents=True)
    text = "title: Gauges\nowner: stewards\ndescription: Reads a file.\nfreshness: 1h\n"
    (folder / "pipeline.yaml").write_text(f"{text}retries: {{attempts: 0}}\n")
    code = nbformat.v4.new_code_cell(f"open({str(tmp_path / 'there')!r}).read()")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[code], metadata=kernel)
    nbformat.write(notebook, folder / "notebook.ipynb")
    monkeypatch.setenv("THALWEG_HOME", str(tmp_path))
    with database.session() as session, session.begin():
        session.query(database.RunUse).delete()
        session.query(database.RunRow).delete()
    return load()


def succeeded(ago: dt.timedelta) -> None:
    """Put a success of `gauges` on record that ended so long ago."""
    begun = history.begin(database.new_id(), "gauges", {}, "dagster", load())
    at = dt.datetime.now(dt.UTC) - ago
    with database.session() as session, session.begin():
        row = session.get_one(database.RunRow, begun.id)
        row.state, row.started_at, row.ended_at = "succeeded", at, at


def test_growth_ends_with_what_the_tables_hold(sample: Settings) -> None:
    states = operations.growth()
    for name, rows in states.groupby("table"):
        assert rows["rows"].iloc[-1] == warehouse.read(name).num_rows
    plot = operations.growth_figure(states)
    lines = [each for each in plot.renderers if isinstance(each.glyph, Step)]
    assert {line.name for line in lines} == set(states.loc[states["rows"] > 0, "table"])
    assert operations.growth_figure(states[:0]).renderers == []


def test_a_report_says_what_the_warehouse_says_and_asks_nothing_of_others(sample: Settings) -> None:
    skill = dashboards.skill().assign(name="Creek <b>at</b> the Mill")
    html = dashboards.report(skill, ["kge", "rmse"])
    helene = skill[skill["primary_location_id"] == "usgs-03171000"].set_index("lead_time_bin")
    kge, rmse = helene.loc[dashboards.ALL_LEAD_TIMES, ["kge", "rmse"]]
    assert f"<td>{kge:,.3f}</td>" in html
    assert f"<td>{rmse:,.3f}</td>" in html
    assert "Root mean square error, m³/s" in html
    assert "Creek &lt;b&gt;at&lt;/b&gt; the Mill" in html
    assert "<b>at" not in html
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?http", html)
    with pytest.raises(NotFound, match="did you mean 'kge'"):
        dashboards.report(skill, ["kgee"])
    with pytest.raises(NotFound, match="thalweg run evaluate"):
        dashboards.report(pd.DataFrame(columns=["configuration_name", *METRICS]), ["kge"])


def test_a_page_of_the_store_cannot_reach_the_hub(
    home: Settings,
    serve: Callable[[], str],
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever a notebook or report holds: its scripts run, but in an origin of their own."""
    script = "<p id=p></p><script>p.innerText = self.origin; fetch('/').catch(() => p.id = 'q')"
    first = dashboards.publish(f"<h1>First report</h1>{script}</script>")
    second = dashboards.publish("<h1>Second report</h1>")
    kept = [f"{home.runs_uri}/reports/{key}.html" for key in dashboards.published()]
    assert kept == [second, first]
    with monkeypatch.context() as rerun:
        rerun.setenv("THALWEG_PINNED", dashboards.published()[1].rpartition("/")[2])
        assert dashboards.publish("<h1>First report again</h1>") == first
    assert len(dashboards.published()) == 2
    address = serve()
    assert httpx.get(f"{address}/report/2026-03-16/{MISSING}").status_code == 404
    assert httpx.get(f"{address}/report/../../raw/x").status_code == 404
    assert httpx.get(f"{address}/notebook/{MISSING}").status_code == 404
    page = browser.new_page()
    page.goto(f"{address}/reports")
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Second report")).to_be_visible(timeout=30_000)
    with page.expect_popup() as opened:
        page.get_by_role("link", name=re.compile(r"\d{4}-\d\d-\d\d")).last.click()
    expect(opened.value.locator("#q")).to_have_text("null")


def test_a_steward_sees_what_failed_reads_its_notebook_and_runs_it_again(
    home: Settings, serve: Callable[[], str], browser: Browser, tmp_path: Path
) -> None:
    succeeded(2 * HOUR)
    with pytest.raises(RunFailed) as failed:
        run("gauges", trigger="dagster", attempt=1, settings=home)
    wrong = home.home / "pipelines" / "levels" / "pipeline.yaml"
    wrong.parent.mkdir()
    wrong.write_text("title: Levels\nownr: stewards\n")
    page = browser.new_page(viewport={"width": 1400, "height": 1500})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{serve()}/operations")
    expect(page.get_by_role("heading", name="Dead letters: 1")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("heading", name="Late: 1")).to_be_visible()
    expect(page.get_by_role("heading", name="Broken: 1")).to_be_visible()
    expect(page.get_by_text("ownr: unknown key; did you mean 'owner'")).to_be_visible()
    expect(page.get_by_role("heading", name="gauges: dead")).to_be_visible()
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Executed notebook").click()
    expect(opened.value.get_by_text("FileNotFoundError").last).to_be_visible()

    page.get_by_text("↻").click()
    why = page.get_by_role("status").filter(has_text=failed.value.run.id)
    expect(why).to_contain_text("FileNotFoundError", timeout=60_000)
    expect(why).to_contain_text("look into it: thalweg runs show")
    wrong.unlink()
    (tmp_path / "there").touch()
    page.get_by_text("↻").click()
    expect(page.get_by_text(f"thalweg runs retry {failed.value.run.id}")).to_have_count(2)
    expect(page.get_by_role("heading", name="Dead letters: 0")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("heading", name="Late: 0")).to_be_visible()
    expect(page.get_by_role("heading", name="Broken")).not_to_be_visible()
    (again,) = history.find("gauges", "succeeded", 1)
    assert again.repeats == failed.value.run.id
    expect(page.get_by_role("gridcell", name=again.id[-12:])).to_be_visible()
    page.get_by_label("State", exact=True).select_option(label="succeeded")
    expect(page.get_by_role("heading", name="gauges: succeeded")).to_be_visible()
    page.wait_for_function("() => location.search.includes('state=succeeded')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400
    assert errors == []
