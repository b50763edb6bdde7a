"""What is done with runs: compared, repeated, tried again, handed on; and who is told of them."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import io
import json
import os
import re
import socketserver
import ssl
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from email import message_from_string
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dagster as dg
import nbformat
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from thalweg import database, raw, storage, warehouse
from thalweg.cli import app
from thalweg.errors import InvalidInput
from thalweg.hub import object_store
from thalweg.pipelines import export, history, notify, report, specification
from thalweg.pipelines.definitions import definitions
from thalweg.pipelines.history import Run
from thalweg.pipelines.run import RunFailed, rerun, retry, run
from thalweg.settings import Settings

YAML = "title: {0}\nowner: tests\ndescription: Runs some code.\n"


def write_pipeline(home: Path, name: str, *code: str, more: str = "") -> None:
    """A pipeline of this name with these cells."""
    folder = home / "pipelines" / name
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(YAML.format(name) + more)
    cells = [nbformat.v4.new_code_cell(each) for each in code]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "notebook.ipynb")


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def home(store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("THALWEG_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    database.migrate(store)
    return replace(store, home=tmp_path)


# -- doing it again --------------------------------------------------------------------------------

GAUGES = """\
import pathlib
import pyarrow as pa
from thalweg import raw, warehouse
answer = pathlib.Path("{0}/answer").read_bytes()
file = raw.land("test", "gauges", answer, extension="txt", url="https://x/gauges")
names = raw.read(file).decode().split()
print(file.id, warehouse.read("locations").num_rows, "places before")"""
WRITES = """\
names += ["usgs-3"] * pathlib.Path("{0}/another").exists()
print(warehouse.write("locations", pa.table({{"id": names}})))
print(warehouse.read("locations").num_rows, "places after")"""


def rows(name: str) -> list[str]:
    return sorted(warehouse.read(name, ["id"])["id"].to_pylist())


def test_a_rerun_repeats_a_run_against_what_it_read(home: Settings) -> None:
    """Though table and provider have changed since; it writes nothing and finds each difference."""
    warehouse.migrate()
    here = home.home
    (here / "answer").write_text("usgs-1 usgs-2")
    warehouse.write("locations", pa.table({"id": ["usgs-0"]}))
    write_pipeline(here, "gauges", GAUGES.format(here), WRITES.format(here))
    first = run("gauges", settings=home)

    (here / "answer").write_text("usgs-8 usgs-9")
    warehouse.write("locations", pa.table({"id": ["usgs-2", "usgs-7"], "name": ["B", "C"]}))
    kept, files = rows("locations"), raw.find()
    again = rerun(first.id, home)
    assert again.differences == []
    assert (again.repeats, again.trigger, again.state) == (first.id, "rerun", "succeeded")
    assert [what for what, *_ in report.unlike(first, again)] == ["wrote gauges"]  # raw
    assert "bit-identical" in storage.read(str(again.notebook_uri)).decode()

    (here / "another").touch()
    said = call("runs", "rerun", first.id[-12:], code=1)
    assert "locations: 1 rows differ\ncell 2: its output differs\n" in said
    other = re.search(r"thalweg runs diff \S+ (\S+)", said)
    assert "cell 2" in call("runs", "diff", first.id, str(other and other[1]))
    assert (rows("locations"), raw.find()) == (kept, files)
    with pytest.raises(InvalidInput, match="succeeded: to do it once more"):
        retry(first.id, home)
    _handed_on(first, home)


def _handed_on(done: Run, home: Settings) -> None:
    """A run as HTML, as a crate that follows its profile, and as events."""
    page = Path(json.loads(call("runs", "open", done.id, "--json"))["path"])
    assert page.stat().st_mode & 0o077 == 0
    assert "places after" in page.read_text()

    archive = home.home / "run.zip"
    call("runs", "export", done.id, "--to", str(archive))
    with zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as crate:
        described = json.loads(crate.read("ro-crate-metadata.json"))
        assert crate.read("notebook.ipynb") == storage.read(str(done.notebook_uri))
        sizes = {each.filename: each.file_size for each in crate.infolist()}
    entities = {each["@id"]: each for each in described["@graph"]}
    assert len(entities) == len(described["@graph"])
    root = entities["./"]
    assert {each["@id"] for each in root["conformsTo"]} >= {
        "https://w3id.org/ro/wfrun/process/0.5", "https://w3id.org/ro/wfrun/workflow/0.5",
    }  # fmt: skip
    assert "ComputationalWorkflow" in entities[root["mainEntity"]["@id"]]["@type"]
    action = entities[root["mentions"]["@id"]]
    assert action["instrument"] == root["mainEntity"]
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
    for reference in _references(described["@graph"]):
        assert reference in entities or reference.startswith(
            ("https://w3id", "http://schema", "https://bio")
        )
    (file,) = [each for each in described["@graph"] if "sha256" in each]
    landed = raw.find("test")[0]
    assert (file["contentUrl"], file["sha256"]) == ("https://x/gauges", landed.sha256)
    other = raw.land("test", "gauges", b"of another day", extension="txt", url="https://x/gauges")
    uses = [history.Use("read", "raw", "gauges", each.id, None) for each in (landed, other)]
    graph = export.metadata(replace(done, uses=tuple(uses)), {}, home)["@graph"]
    assert [each["identifier"] for each in graph if "sha256" in each] == [landed.id, other.id]
    for name in ("notebook.ipynb", "notebook.html", "openlineage.json"):
        assert int(entities[name]["contentSize"]) == sizes[name]
    events = home.home / "run.jsonl"
    call("runs", "export", done.id, "--format", "openlineage", "--to", str(events))
    kinds = [json.loads(line)["eventType"] for line in events.read_text().splitlines()]
    assert kinds == ["START", "COMPLETE"]


def _references(graph: list[dict]) -> Iterator[str]:
    for entity in graph:
        for value in entity.values():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict):
                    yield each["@id"]


def test_a_write_that_changed_nothing_is_repeated_at_the_state_of_then(home: Settings) -> None:
    warehouse.migrate()
    row = {"id": ["same-1"], "name": ["A"]}
    warehouse.write("locations", pa.table(row))
    code = f"import pyarrow as pa\nfrom thalweg import warehouse\nrows = pa.table({row})\n"
    write_pipeline(home.home, "same", f"{code}print(warehouse.write('locations', rows))")
    first = run("same", settings=home)
    assert [(use.direction, use.name, use.rows) for use in first.uses] == [("same", "locations", 1)]
    warehouse.write("locations", pa.table(row | {"name": ["B"]}))
    again = rerun(first.id, home)
    assert again.differences == []
    assert report.unlike(first, again) == []


def test_a_page_holds_pictures_of_the_notebook_and_no_file_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who renders it is the hub, and who wrote it may be anybody with a schedule."""
    (tmp_path / "cookie_secret").write_text("of the hub")
    monkeypatch.chdir(tmp_path)
    text = "![x](cookie_secret) <img src='cookie_secret'> ![y](attachment:a.png)"
    cell = nbformat.v4.new_markdown_cell(text, attachments={"a.png": {"image/png": "bWluZQ=="}})
    page = report.html(nbformat.v4.new_notebook(cells=[cell]), "mine")
    assert "data:image/png;base64,bWluZQ==" in page
    assert base64.b64encode(b"of the hub").decode() not in page


def test_outputs_are_compared_without_what_is_new_in_each_run() -> None:
    def notebook(*texts: str, stream: str = "stdout") -> dict:
        cells = [
            {"cell_type": "code", "outputs": [{"name": stream, "text": text}]} for text in texts
        ]
        return {"cells": cells}

    one, other = (
        f"{database.new_id()} drawn as p{number} for {uuid.uuid4().hex}" for number in (1001, 2002)
    )
    assert report.unlike_outputs(notebook(one, "1"), notebook(other, "1")) == []
    assert report.unlike_outputs(notebook("1.0"), notebook("1.0000000000000002")) == [
        "cell 1: its output differs"
    ]
    hashes = (hashlib.md5(text).hexdigest() for text in (b"a", b"b"))  # noqa: S324
    assert report.unlike_outputs(*map(notebook, hashes)) != []
    assert report.unlike_outputs(notebook(one), notebook(one, "2")) == [
        "cell 2: only one of them has it"
    ]
    noise = [notebook(text, stream="stderr") for text in ("a warning", "another")]
    assert report.unlike_outputs(*noise) == []
    cut = [{"name": "stdout", "text": "1\n"}, {"name": "stdout", "text": ["2\n", "3"]}]
    in_parts = {"cells": [{"cell_type": "code", "outputs": cut}]}
    assert report.unlike_outputs(notebook("1\n2\n3"), in_parts) == []


# -- dead letters, and who is told -----------------------------------------------------------------


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """The port of a server that answers meanwhile."""
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[index]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Hook(BaseHTTPRequestHandler):
    """A webhook that is busy the first time it is asked."""

    came: list[dict]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.came.append(body)
        self.send_response(503 if len(self.came) == 1 else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


class Mailbox(socketserver.StreamRequestHandler):
    """As much of SMTP as it takes to receive mail."""

    came: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                text = iter(self.rfile.readline, b".\r\n")
                self.came.append(b"".join(text).decode())
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")


Told = tuple[Settings, list[dict], list[str]]


@pytest.fixture
def told(home: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """Settings with a webhook and a mail server, and what these get."""
    posted: list[dict] = []
    mailed: list[str] = []
    hook = HTTPServer(("127.0.0.1", 0), type("Mine", (Hook,), {"came": posted}))
    mailbox = socketserver.TCPServer(("127.0.0.1", 0), type("Mine", (Mailbox,), {"came": mailed}))
    with serving(hook) as web, serving(mailbox) as mail:
        monkeypatch.setenv("THE_HOOK", f"http://127.0.0.1:{web}/T0/secret")
        yield replace(home, smtp_url=f"smtp://127.0.0.1:{mail}"), posted, mailed


NOTIFY = """\
retries: {attempts: 1}
freshness: 6h
notify:
  - {webhook: THE_HOOK}
  - {email: stewards@example.org, "on": [dead_letter]}
"""


LAND = "raw.land('test', 'cut', b'{0}', extension='txt', url='https://x/{0}')"
CUT = """\
import os, pathlib, s3fs
if not pathlib.Path("{0}/mended").exists():
    os.environ |= {{"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}}
    s3fs.S3FileSystem.clear_instance_cache()"""


def test_a_dead_letter_is_told_and_settled_by_a_success(told: Told) -> None:
    """The notebook loses the object store in the middle; what it had landed is there once."""
    home, posted, mailed = told
    cells = "from thalweg import raw", LAND.format(1), CUT.format(home.home), LAND.format(2)
    write_pipeline(home.home, "broken", *cells, more=NOTIFY)
    with pytest.raises(RunFailed) as caught:
        run("broken", settings=home, trigger="dagster", attempt=2)
    dead = caught.value.run
    assert (dead.state, dead.attempt) == ("dead", 2)
    assert [each.id for each in history.find(state="dead", settings=home)] == [dead.id]
    assert "dead" in call("runs", "list", "--state", "dead", "--since", "now-1h")

    assert posted[0] == posted[1]  # it was busy
    for text in (posted[1]["text"], message_from_string(mailed[0]).get_payload()):
        for part in ("'broken'", "Unavailable: the object store", f"thalweg runs retry {dead.id}"):
            assert part in text
    assert "To: stewards@example.org" in mailed[0]

    (home.home / "mended").touch()
    done = json.loads(call("runs", "retry", dead.id[-12:], "--json"))
    assert (done["repeats"], done["attempt"], done["trigger"]) == (dead.id, 3, "retry")
    assert history.get(dead.id, home).state == "failed"
    assert [raw.read(file) for file in raw.find("test", "cut")] == [b"1", b"2"]
    assert len(posted) == 2


def test_who_is_late_is_told_once(told: Told) -> None:
    home, posted, mailed = told
    write_pipeline(home.home, "levels", "1", more=NOTIFY)
    posted.append({})  # the hook is not busy
    assert notify.late(home) == []  # schedules are off: nothing was to run it
    home = replace(home, schedules=True)
    made = definitions(home).get_repository_def()
    with dg.build_sensor_context(repository_def=made) as context:
        assert made.get_sensor_def("tell_people").evaluate_tick(context).cursor == "levels"
    assert "its last success was never, and it promises one every 6:00:00" in posted[1]["text"]
    assert notify.tell_late(["levels"], home) == ["levels"]
    begun = history.begin(database.new_id(), "levels", {}, "command", home)
    history.end(replace(begun, state="succeeded", ended_at=begun.started_at), home)
    assert notify.late(home) == []
    assert (len(posted), mailed) == (2, [])


def test_a_notice_waits_for_who_has_a_way_to_tell(
    told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A terminal that finds a lost run knows neither webhook nor mail server."""
    home, posted, mailed = told
    posted.append({})  # the hook is not busy
    write_pipeline(home.home, "lost", "1", more=NOTIFY)
    terminal, url = replace(home, smtp_url=""), os.environ["THE_HOOK"]
    begun = history.begin(database.new_id(), "lost", {}, "dagster", home, is_last=True)
    with database.session(home) as session, session.begin():
        session.get_one(database.RunRow, begun.id).seen_at = begun.started_at - 2 * history.SILENCE
    monkeypatch.delenv("THE_HOOK")
    assert history.get(begun.id, terminal).state == "dead"
    assert notify.deliver(terminal) == {"THE_HOOK", "THALWEG_SMTP_URL"}
    assert (len(posted), mailed) == (1, [])

    made = definitions(home).get_repository_def()
    with dg.build_sensor_context(repository_def=made) as context:
        said = made.get_sensor_def("tell_people").evaluate_tick(context).skip_message
    assert said == "nothing is late; notices wait: set THE_HOOK"
    assert [begun.id in mail for mail in mailed] == [True]
    for wrong in ("ftp://127.0.0.1/T0/secret", "127.0.0.1/T0/secret", "http:/T0/secret"):
        monkeypatch.setenv("THE_HOOK", wrong)
        monkeypatch.setattr(notify, "PAUSE", dt.timedelta())
        assert notify.deliver(home) == set()
    assert caplog.text.count("THE_HOOK cannot be told about lost yet") == 3
    assert "secret" not in caplog.text
    monkeypatch.setenv("THE_HOOK", url)
    monkeypatch.setattr(notify, "PAUSE", dt.timedelta(minutes=2))
    notify.deliver(home)  # another may still be at it
    assert len(posted) == 1
    with database.session(home) as session, session.begin():
        session.query(database.NoticeRow).update({"tried_at": None})
    with ThreadPoolExecutor(4) as pool:
        [*pool.map(notify.deliver, [home] * 4)]
    assert [begun.id in each.get("text", "") for each in posted] == [False, True]
    assert len(mailed) == 1
    assert "is cancelled" in call("runs", "cancel", begun.id)


def test_a_notice_is_forgotten_that_nobody_could_send(
    home: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pipeline(home.home, "broken", "1", more="notify: [{email: a@example.org}]\n")
    notify.tell(specification.get("broken", home), "late", "it is late", home)
    assert notify.deliver(home) == {"THALWEG_SMTP_URL"}
    with monkeypatch.context() as a_week_later:
        a_week_later.setattr(notify, "KEPT", -dt.timedelta(minutes=1))
        assert notify.deliver(home) == set()
    assert "a@example.org was never told: it is late" in caplog.text
    assert notify.deliver(home) == set(), "it is gone"


def test_a_slow_server_has_nobody_told_twice(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensor that tells would be stopped, and begin anew with all who are late."""
    with database.session(home) as session, session.begin():
        session.query(database.NoticeRow).delete()
    for name in ("one", "two"):
        more = "freshness: 6h\nnotify: [{email: a@example.org}]\n"
        write_pipeline(home.home, name, "1", more=more)
    home = replace(home, schedules=True, smtp_url="smtp://127.0.0.1:1")
    sent: list[str] = []

    def slowly(notice: database.NoticeRow, _: Settings) -> None:
        time.sleep(0.1)
        sent.append(notice.pipeline)

    monkeypatch.setattr(notify, "_send", slowly)
    monkeypatch.setattr(notify, "TURN", 0.05)
    made = definitions(home).get_repository_def()
    with dg.build_sensor_context(repository_def=made) as context:
        tick = made.get_sensor_def("tell_people").evaluate_tick(context)
    assert (tick.cursor, sent) == ("one two", ["one"])
    for _ in range(2):
        notify.deliver(home)
    assert sent == ["one", "two"]


@pytest.mark.parametrize("kind", ["smtp", "smtps"])
def test_a_mail_server_that_nobody_vouches_for_gets_no_password(
    kind: str, home: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its certificate is its own; what it is told ends with the handshake."""
    for name, content in zip("ck", object_store._self_signed(), strict=True):
        (tmp_path / name).write_text(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    heard: list[bytes] = []

    class Impostor(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            if kind == "smtp":
                self.wfile.write(b"220 here\r\n")
                self.rfile.readline()
                self.wfile.write(b"250-here\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n")
                self.rfile.readline()
                self.wfile.write(b"220 go on\r\n")
            with suppress(ssl.SSLError):
                heard.append(context.wrap_socket(self.request, server_side=True).recv(100))

    write_pipeline(home.home, "broken", "1", more="notify: [{email: stewards@example.org}]\n")
    with serving(socketserver.TCPServer(("127.0.0.1", 0), Impostor)) as port:
        here = replace(home, smtp_url=f"{kind}://ada:secret@localhost:{port}")
        notify.tell(specification.get("broken", here), "late", "text", here)
        notify.deliver(here)
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text
    assert not any(heard)


def test_help_has_examples() -> None:
    for command in ("list", "show", "diff", "open", "rerun", "retry", "cancel", "export"):
        assert f"thalweg runs {command}" in call("runs", command, "--help").split("Example:")[1]
