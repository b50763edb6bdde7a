"""The page "Add a source" does what it says: its code, as it stands there, is saved and run."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from thalweg import database, raw, sources, warehouse
from thalweg.errors import InvalidInput
from thalweg.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "add-a-source.md"
ANSWER = {
    "station": "bridge",
    "name": "Bridge of the example",
    "unit": "cm",
    "longitude": 13.7,
    "latitude": 51.1,
    "levels": [
        {"time": "2026-03-29T01:00:00+01:00", "level": 231, "status": "checked"},
        {"time": "2026-03-29T03:00:00+02:00", "level": 232.5, "status": "raw"},
        {"time": "2026-03-29T04:00:00+02:00", "level": None, "status": "raw"},
    ],
}


@pytest.fixture
def agency() -> Iterator[str]:
    """The example agency; at first it is busy."""
    answers = [(503, b""), (200, json.dumps(ANSWER).encode())]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/levels?station=bridge"
            status, body = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_page_adds_a_source(
    store: Settings, agency: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.migrate()
    warehouse.migrate()
    module, *steps = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert "`src/thalweg/sources/example.py`" in PAGE.read_text()
    (tmp_path / "example.py").write_text(module.replace("https://data.example.org", agency))
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    assert "example" in sources.names()
    names: dict[str, Any] = {}
    try:
        for step in steps:
            exec(compile(step, str(PAGE), "exec"), names)  # noqa: S102
        nowhere = json.dumps(ANSWER | {"longitude": None}).encode()
        file = raw.land("example", "levels", nowhere, extension="json", url="nowhere")
        with pytest.raises(InvalidInput, match=r"agency \(longitude None is no number"):
            names["example"].read([file])
    finally:
        sys.modules.pop("thalweg.sources.example", None)

    assert not names["loaded"].quarantined
    assert "2 values of stage_hourly_inst converted from cm to m" in str(names["loaded"])
    where = "location_id = 'example-bridge'"
    rows = warehouse.read("primary_timeseries", where=where).sort_by("value_time").to_pylist()
    assert [(r["value_time"].isoformat(), r["value"], r["quality_code"]) for r in rows] == [
        ("2026-03-29T00:00:00+00:00", 2.31, "checked"),
        ("2026-03-29T01:00:00+00:00", 2.325, "raw"),
    ]
    assert {row["unit_name"] for row in rows} == {"m"}
    # What the contract refused waits whole: two levels, none of which was written.
    assert (names["kept"].table, names["kept"].count) == ("primary_timeseries", 2)  # type: ignore[attr-defined]
