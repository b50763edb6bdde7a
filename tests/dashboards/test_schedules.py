"""The service of personal schedules as it is served: its API, and its page in a real browser."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
from bokeh.util.token import generate_jwt_token, get_session_id
from playwright.sync_api import Browser, Page, expect
from websocket import create_connection

import thalweg
from thalweg import database, settings, storage
from thalweg.accounts import Account
from thalweg.dashboards import schedules
from thalweg.errors import InvalidInput, NotFound
from thalweg.pipelines import history, people, personal
from thalweg.pipelines.parts import Schedule
from thalweg.pipelines.personal import Person
from thalweg.pipelines.run import run
from thalweg.settings import Settings

ADA, BOB = {"X-Thalweg-User": "ada"}, {"X-Thalweg-User": "bob"}
ADMIN = {"X-Thalweg-User": "root", "X-Thalweg-Admin": "yes"}


def notebook(code: str) -> dict[str, Any]:
    cell = nbformat.v4.new_code_cell("days = 7  # how far back", metadata={"tags": ["parameters"]})
    made = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(code)])
    return json.loads(json.dumps(made))


@pytest.fixture
def home(store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A data folder with Ada's home in it, beside the running store."""
    data = tmp_path / "data"
    (data / "home" / "ada" / ".ipynb_checkpoints").mkdir(parents=True)
    for name, value in (("data_dir", data), ("database_url", "")):
        monkeypatch.setenv(f"THALWEG_{name.upper()}", str(value))
    for file in ("My report.ipynb", ".ipynb_checkpoints/old.ipynb"):
        (data / "home" / "ada" / file).write_text(json.dumps(notebook("print('<b>mine</b>')")))
    (tmp_path / "of_bob.ipynb").write_text("{}")
    (data / "home" / "ada" / "link.ipynb").symlink_to(tmp_path / "of_bob.ipynb")
    database.migrate(settings.load())
    return settings.load()


@pytest.fixture
def address(home: Settings, serve: Callable[..., str]) -> str:
    return serve("people/*.py", ["schedules"], "schedules")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of Ada's, as it comes through the hub's login."""
    opened = browser.new_page(viewport={"width": 1400, "height": 1300}, extra_http_headers=ADA)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    opened.close()
    assert errors == []


def who_asks_is_who_the_login_says(
    home: Settings, address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = {"name": "report", "notebook": notebook("1"), "cron": "15 6 * * *"}

    def ask(verb: str, headers: dict[str, str], **arguments: Any) -> httpx.Response:
        return httpx.post(f"{address}/api/{verb}", json=arguments, headers=headers, timeout=60)

    assert ask("save", ADA, **wanted).json()["name"] == "ada/report"
    for forged in ({}, {"X-Thalweg-Admin": "yes"}, {"X-Thalweg-User": ""}):
        assert ask("find", forged).status_code == 400
    assert "cookies" in ask("find", ADA | {"Cookie": "a=b"}).json()["message"]
    for verb in ("show", "pause", "run", "remove"):
        assert ask(verb, BOB, name="ada/report").status_code == 404
    forged_arguments = ({"owner": "ada"}, {"person": "ada"}, {"is_admin": True})
    for more in forged_arguments:
        assert ask("save", BOB, **wanted, **more).status_code == 400
    assert ask("find", BOB).json() == []
    assert [each["name"] for each in ask("find", ADMIN).json()] == ["ada/report"]
    assert httpx.post(f"{address}/api/find", content=b"[", headers=ADA).status_code == 400
    assert httpx.get(f"{address}/api/find", headers=ADA).status_code == 405

    done = history.begin(database.new_id(), "ada/report", {}, "schedule", home, user="ada")
    uri = f"{home.runs_uri}/ada/{done.id}"
    storage.put_new(f"{uri}.html", b"<p>mine</p>")
    stored = {"notebook_uri": f"{uri}.ipynb", "html_uri": f"{uri}.html"}
    now = dt.datetime.now(dt.UTC)
    history.end(replace(done, state="succeeded", ended_at=now, **stored), home)
    seen = [
        httpx.get(f"{address}/notebook/{done.id}", headers=h, timeout=60) for h in (ADA, BOB, ADMIN)
    ]
    assert [each.status_code for each in seen] == [200, 404, 200]

    nobody_opens_a_page_of_another(address)

    # In a server that the login lets not in, the library goes not around it.
    monkeypatch.setenv("THALWEG_SCHEDULES_URL", address)
    for token, says in (("", "expected the token"), ("x", "through the hub's login")):
        monkeypatch.setenv("JUPYTERHUB_API_TOKEN", token)
        with pytest.raises(InvalidInput, match=says):
            thalweg.schedules()
    monkeypatch.setattr(httpx, "post", as_the_login_does(httpx.post))
    (mine,) = thalweg.schedules().values()
    assert mine.last_run["id"] == done.id
    assert mine.pause().paused_by == "ada"
    mine.remove()
    with pytest.raises(NotFound, match="no schedule 'ada/report'"):
        mine.look()
    (tmp_path / "x.ipynb").write_text(json.dumps(notebook("1")))
    with pytest.raises(InvalidInput, match="'61' is not a minute"):
        thalweg.schedule(tmp_path / "x.ipynb", cron="61 * * * *")
    with pytest.raises(InvalidInput, match="plain values"):
        thalweg.schedule(tmp_path / "x.ipynb", cron="1 * * * *", parameters={"days": {1}})


def nobody_opens_a_page_of_another(address: str) -> None:
    """By a session's token in which they have put another's name."""
    socket = address.replace("http", "ws") + "/schedules/ws"
    page = httpx.get(f"{address}/schedules", headers=BOB, timeout=60).text
    (own,) = re.findall(r'"token":\s*"([^"]+)"', page)
    about = {"headers": ADMIN, "cookies": {}, "arguments": {}}
    forged = generate_jwt_token(get_session_id(own), signed=False, extra_payload=about)
    for token in (forged, f"{forged}.{own.partition('.')[2]}"):
        with closing(create_connection(socket, subprotocols=["bokeh", token], timeout=30)) as shut:
            assert shut.recv() == "", "no more than the end of the connection"
    with closing(create_connection(socket, subprotocols=["bokeh", own], timeout=30)) as opened:
        assert "ACK" in opened.recv()


def as_the_login_does(post: Callable[..., httpx.Response]) -> Callable[..., httpx.Response]:
    return lambda url, headers, **more: post(url, headers=headers | ADA, **more)


def test_api_and_page_are_each_persons_own(
    home: Settings, address: str, page: Page, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        who_asks_is_who_the_login_says(home, address, patch, tmp_path)
    a_person_schedules_pauses_and_removes(home, address, page)


def test_a_notebook_is_read_as_a_file_of_its_owner(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page runs as root, say, and its list of files is old by the time that one is chosen."""
    ada, bobs = Person("ada"), tmp_path / "of_bob.ipynb"
    (path,) = schedules.notebooks(ada, home).values()
    assert len(schedules.read(ada, path, home)["cells"]) == 2
    bobs.write_text(path.read_text())
    path.unlink()
    path.symlink_to(bobs)
    with pytest.raises(InvalidInput, match=r"cannot read My report\.ipynb: Too many levels"):
        schedules.read(ada, path, home)
    path.unlink()
    os.mkfifo(path)  # for which somebody else would wait for ever
    with pytest.raises(InvalidInput, match="it is not a file of yours"):
        schedules.read(ada, path, home)
    other = Account("ada", "ada", os.getuid() + 1, os.getgid(), tmp_path, tmp_path)
    monkeypatch.setattr(people, "account", lambda *_: other)
    with pytest.raises(InvalidInput, match="it is not a file of yours"):
        schedules.read(ada, bobs, home)


def test_without_a_notebook_the_page_says_where_to_put_one(
    home: Settings, address: str, browser: Browser
) -> None:
    with closing(browser.new_page(extra_http_headers=BOB)) as page:
        page.goto(f"{address}/schedules")
        expect(page.get_by_text("No notebook to choose from")).to_be_visible(timeout=30_000)
        page.get_by_role("button", name="Schedule it").click()
        expect(page.get_by_text("Choose a notebook first.")).to_be_visible()


def a_person_schedules_pauses_and_removes(home: Settings, address: str, page: Page) -> None:
    page.goto(f"{address}/schedules")
    expect(page.get_by_role("heading", name="No schedule yet")).to_be_visible(timeout=30_000)
    files = page.get_by_label("Notebook", exact=True)
    assert files.locator("option").all_inner_texts() == ["", "My report.ipynb"]
    files.select_option("My report.ipynb")
    expect(page.get_by_label("Name", exact=True)).to_have_value("my_report")
    page.get_by_label(re.compile("days: how far back")).fill("30")
    cron = page.get_by_label(re.compile("^When"))
    cron.fill("61 * * * *")
    cron.press("Tab")
    expect(page.get_by_text("'61' is not a minute")).to_be_visible()
    cron.fill("30 7 * * mon-fri")
    cron.press("Tab")
    expect(page.get_by_text("on Monday to Friday, at 07:30 (UTC)").first).to_be_visible()
    page.get_by_role("button", name="Schedule it").click()
    expect(page.get_by_role("heading", name="ada/my_report")).to_be_visible(timeout=20_000)
    (kept,) = personal.answer(Person("ada"), "find", {})
    assert (kept["parameters"], kept["cron"]) == ({"days": 30}, "30 7 * * mon-fri")

    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("paused by ada").first).to_be_visible()
    done = run("ada/my_report", trigger="schedule", settings=home)
    expect(page.get_by_text("succeeded").first).to_be_visible(timeout=20_000)
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Executed notebook").click()
    expect(opened.value.get_by_text("<b>mine</b>").last).to_be_visible()
    assert done.id in opened.value.url
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400
    page.get_by_label("Name", exact=True).fill("once_more")
    page.get_by_role("button", name="Schedule it").click()
    for name in ("ada/once_more", "ada/my_report"):  # the new one is shown, then the other
        expect(page.get_by_role("heading", name=name)).to_be_visible(timeout=20_000)
        page.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", name="No schedule yet")).to_be_visible()
    assert history.get(done.id, home).state == "succeeded"


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("15 6 * * *", "every day, at 06:15 (UTC)"),
        ("5 * * * *", "every day, each hour at minute 5 (UTC)"),
        ("0 7 * * mon,3", "on Monday, Wednesday, at 07:00 (UTC)"),
        ("0 7 1 * 5", "on days 1 of the month or on Friday, at 07:00 (UTC)"),
        ("*/10 6-8 * 6 *", "every day in months 6, at minutes */10 of hours 6-8 (UTC)"),
    ],
)
def test_when_in_words(cron: str, says: str) -> None:
    assert schedules.words(Schedule(cron=cron)) == says
