"""Files that others put into the inbox: listed on a real store, told by a queue as AWS tells."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import botocore.session
import pyarrow as pa
import pytest
from botocore.stub import ANY, Stubber
from typer.testing import CliRunner

from thalweg import arrivals, database, raw, storage, warehouse
from thalweg.cli import app
from thalweg.errors import InvalidInput, Unavailable
from thalweg.settings import Settings

LAYOUT = """\
gauges:
  map: {value: flow, value_time: time, location_id: site}
  set:
    unit_name: ft^3/s
    variable_name: streamflow_hourly_inst
    configuration_name: usgs_observations
  prefix: usgs
  timezone: UTC
  missing: [-999]
"""
CSV = b"site,time,flow\n03171000,2024-09-27T00:00,100\n03171000,2024-09-27T01:00,-999\n"
QUEUE = "https://sqs.us-east-1.amazonaws.com/123456789012/arrivals"


@pytest.fixture
def home(store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A hub with an inbox that is empty, and a folder of it that is described."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "arrivals.yaml").write_text(LAYOUT)
    monkeypatch.setenv("THALWEG_HOME", str(tmp_path))
    database.migrate(store)
    warehouse.migrate(store)
    warehouse.write("locations", pa.table({"id": ["usgs-03171000"]}))
    inbox = f"{store.raw_uri}/inbox"
    files = storage.filesystem(inbox)
    if files.exists(inbox):
        files.rm(inbox, recursive=True)
    return replace(store, home=tmp_path)


def put(settings: Settings, name: str, content: bytes = CSV) -> str:
    uri = f"{settings.raw_uri}/inbox/{name}"
    storage.filesystem(uri).pipe_file(uri, content)
    return uri


def flows() -> list[tuple[str, float]]:
    rows = warehouse.read("primary_timeseries").to_pylist()
    return sorted((row["location_id"], round(row["value"], 3)) for row in rows)


def test_what_lies_in_the_inbox_is_landed_and_loaded_once(home: Settings) -> None:
    uri = put(home, "gauges/today.csv")
    unknown = put(home, "gages/today.csv", CSV + b"03171000,2024-09-27T02:00,1\n")
    result = CliRunner().invoke(app, ["arrivals", "--json"])
    assert result.exit_code == 1, result.output
    said = json.loads(result.stdout)
    assert [each["file"] for each in said["taken"]] == [uri]
    assert [each["file"] for each in said["failed"]] == [unknown]
    assert "inbox/gages/ are read; did you mean 'gauges'" in said["failed"][0]["said"]
    assert flows() == [("usgs-03171000", 2.832)]  # 100 ft^3/s; the missing one is left out
    (file,) = raw.find("table", "gauges", settings=home)
    assert (file.url, raw.read(file)) == (uri, CSV)
    storage.filesystem(unknown).rm_file(unknown)
    assert list(arrivals.take(home)) == []
    assert "Nothing has arrived" in CliRunner().invoke(app, ["arrivals"]).stdout
    put(home, "gauges/today.csv", CSV.replace(b",100", b",200"))  # newer, under the same name
    assert [uri for uri, _ in arrivals.take(home)] == [uri]
    assert flows() == [("usgs-03171000", 5.663)]
    assert list(arrivals.take(home)) == []


def test_what_landed_and_was_not_loaded_is_taken_again(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(home, "gauges/today.csv")
    with monkeypatch.context() as patched:

        def gone(*_: Any) -> None:
            raise Unavailable("the catalogue is gone")

        patched.setattr(arrivals.ingest, "load", gone)
        assert [str(said) for _, said in arrivals.take(home)] == ["the catalogue is gone"]
    assert [uri for uri, _ in arrivals.take(home)] == [uri]
    assert flows() == [("usgs-03171000", 2.832)]


def event(settings: Settings, name: str) -> dict[str, Any]:
    """A message as EventBridge sends it for an object."""
    bucket = settings.raw_uri.removeprefix("s3://")
    detail = {"version": "0", "bucket": {"name": bucket}, "object": {"key": f"inbox/{name}"}}
    about = {"source": "aws.s3", "detail-type": "Object Created", "detail": detail}
    return {"MessageId": name, "ReceiptHandle": f"handle of {name}", "Body": json.dumps(about)}


def test_the_queue_is_told_of_what_was_taken_and_of_nothing_else(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(home, "gauges/a.csv", CSV.replace(b"T00", b"T05"))
    put(home, "other/b.csv")
    names = ["gauges/a.csv", "other/b.csv", "gauges/gone.csv", "gauges/a.csv"]
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
    session = botocore.session.get_session()
    client = session.create_client("sqs", region_name="us-east-1", **keys)
    asked = {"QueueUrl": QUEUE, "MaxNumberOfMessages": 10, "WaitTimeSeconds": ANY}
    taken = {"QueueUrl": QUEUE, "ReceiptHandle": "handle of gauges/a.csv"}
    with Stubber(client) as stub:
        told = {"Messages": [event(home, name) for name in names]}
        told["Messages"].append({"ReceiptHandle": "other", "Body": '"a test of the queue"'})
        stub.add_response("receive_message", told, asked)
        for _ in range(2):  # the one that is told twice changes nothing the second time
            stub.add_response("delete_message", {}, taken)
        stub.add_response("receive_message", {}, asked)
        monkeypatch.setattr(session, "create_client", lambda name: client)
        monkeypatch.setattr(botocore.session, "get_session", lambda: session)
        found = list(arrivals.take(replace(home, arrivals_url=QUEUE)))
        stub.assert_no_pending_responses()
        stub.add_client_error("receive_message", "AccessDenied")
        with pytest.raises(Unavailable, match=f"the queue {QUEUE} does not answer"):
            list(arrivals.waiting(replace(home, arrivals_url=QUEUE)))
    wrong = {uri.rpartition("inbox/")[2]: str(e) for uri, e in found if isinstance(e, Exception)}
    assert wrong.keys() == {"other/b.csv", "gauges/gone.csv", '"a test of the queue"'}
    assert wrong['"a test of the queue"'] == f"expected a file below {home.raw_uri}/inbox/"
    assert len(found) == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gauges: [1]", "gauges: expected to, map, set"),
        ("gauges: {tabel: x}", "gauges: no word 'tabel'"),
        ("gauges: {to: metrics}", "gauges: no table 'metrics' for files"),
        ("gauges: {map: {valeu: q}}", "gauges: primary_timeseries has no column 'valeu'"),
        ("gauges: {", "is no YAML"),
    ],
)
def test_a_wrong_description_is_told_by_folder(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "arrivals.yaml").write_text(text)
    with pytest.raises(InvalidInput, match=said):
        arrivals.layouts(Settings(home=tmp_path))


def test_the_file_of_the_clone_is_understood() -> None:
    home = Path(__file__).resolve().parents[2]
    assert arrivals.layouts(Settings(home=home)) == {}
    text = (home / "pipelines" / "arrivals.yaml").read_text()
    example = "\n".join(line[2:] for line in text.splitlines() if line.startswith("#"))
    assert "gauges:" in example
