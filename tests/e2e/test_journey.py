"""What a researcher does on the first afternoon, in a real browser."""

import re
import subprocess
import sys

import pytest
import yaml

from thalweg.hub import processes

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def page(hub, browser):
    """A logged-in window of the hub's first user; remembers what was asked of whom."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.set_default_timeout(120_000)
    page.goto(hub.url)
    page.fill("#username_input", "admin")
    page.fill("#password_input", hub.password)
    page.click("#login_submit")
    yield page
    context.close()


def run_notebook(page, name):
    """Run all cells of the notebook that Lab shows, and wait for the last; nothing may fail."""
    status = page.locator("#jp-bottom-panel", has_text=name)
    # Asked earlier, Lab would want to know which kernel to run the cells in.
    status.get_by_text("| Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        """() => {
            const shown = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)');
            const prompts = [...shown.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];
            const done = prompts.filter(p => /\\[\\d+\\]/.test(p.textContent));
            const failed = shown.querySelector('.jp-OutputArea-output[data-mime-type*="error"]');
            return failed || (prompts.length && done.length === prompts.length);
        }""",
        timeout=240_000,
    )
    outputs = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output")
    printed = [text.strip() for text in outputs.all_inner_texts()]
    assert not re.search(r"Traceback \(most recent call last\)|\w+Error:", "\n".join(printed))
    return printed


def test_up_prints_address_and_password_once(hub):
    assert f"The hub is up: {hub.url}" in hub.printed
    assert f"Log in as admin with the password {hub.password}" in hub.printed
    assert "Sample data" in hub.printed
    logs = [p.read_text(errors="replace") for p in (hub.settings.data_dir / "logs").iterdir()]
    assert not any(hub.password in text for text in logs), "the password is in a log"


def test_lab_opens_on_the_quick_start_and_it_runs(hub, page):
    page.wait_for_url("**/user/admin/lab/**")
    assert "/lab/tree/tutorials/01-quickstart.ipynb" in page.url
    run_notebook(page, "01-quickstart.ipynb")
    page.wait_for_selector(".jp-OutputArea canvas, .jp-OutputArea .bk-Canvas", state="attached")


def test_scale_out_runs_in_lab(hub, page):
    page.goto(f"{hub.url}/user/admin/lab/tree/tutorials/02-scale-out.ipynb")
    printed = run_notebook(page, "02-scale-out.ipynb")
    assert "True" in printed, "Dask and Ray found the same"
    hub.stop_kernels(hub.token())


def test_dashboard_shows_the_flood(hub, page):
    state = "configuration=nwm30_medium_range&location=usgs-03171000"
    page.goto(f"{hub.url}/services/dashboards/forecast_skill?{state}")
    page.get_by_role("heading", name="NEW RIVER AT RADFORD, VA").wait_for()
    page.wait_for_selector("text=4 forecasts issued")
    assert "location=usgs-03171000" in page.url


def test_dagster_shows_the_run(hub, page):
    page.goto(f"{hub.url}/services/pipelines/runs")
    page.wait_for_selector("text=first_light")
    page.wait_for_selector("text=Success")


def test_home_page_lists_what_is_behind_the_login(hub, page):
    page.goto(f"{hub.url}/hub/home")
    cards = page.locator(".thalweg-cards .card").all_inner_texts()
    services = yaml.safe_load((hub.settings.home / "hub-config" / "services.yaml").read_text())
    shown = [each["title"] for each in services.values() if each.get("web")]  # to an admin all
    assert all(any(title in card for card in cards) for title in shown)
    assert len(cards) == 1 + len(shown)  # and Lab


def test_nothing_was_asked_of_the_outside(hub, page):
    outside = [u for u in page.asked if not u.startswith((hub.url, "data:", "blob:"))]
    assert outside == []


def test_log_out(hub, page):
    page.goto(f"{hub.url}/hub/home")
    page.click("#logout")
    page.wait_for_url("**/hub/log*")
    page.goto(f"{hub.url}/services/dashboards/")
    page.wait_for_selector("#login_submit")


def test_second_up_says_that_it_runs(hub):
    done = subprocess.run(
        [sys.executable, "-m", "thalweg", "up", "--no-open", hub.data_dir_flag],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"the hub already runs at {hub.url}" in done.stderr
    assert processes.of_hub(hub.settings), "and goes on running"
