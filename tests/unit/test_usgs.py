from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest

from thalweg import database, raw, storage, warehouse
from thalweg.database import new_id
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.settings import Settings, load
from thalweg.sources import usgs

CUBIC_FOOT = 0.028316846592
TWO_SITES = ["01646500", "02458502"]


class Service:
    """The recorded answers of USGS, served one after the other; the last one stays."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.queries: list[dict[str, list[str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.queries.append(parse_qs(urlsplit(self.path).query))
                some = outer.answers
                status, headers, body = some.pop(0) if len(some) > 1 else some[0]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/nwis"

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        kind = {"Content-Type": "application/json;charset=UTF-8"}
        self.answers.append((status, kind | headers, body))


@pytest.fixture
def service(store: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    database.migrate()
    served = Service()
    monkeypatch.setenv("THALWEG_USGS_URL", served.url)
    monkeypatch.setattr("thalweg.sources.usgs.FIRST_WAIT", 0.01)
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def potomac(shared_data: Path) -> bytes:
    """A recorded answer: 92 values of 01646500 and 94 of 02458502, 23 and 24 on the hour."""
    return (shared_data / "nwis_and_crosswalk" / "nwis_test_data.json").read_bytes()


def test_a_recorded_answer_becomes_hourly_rows(service: Service, potomac: bytes) -> None:
    service.answer(potomac, ETag='"7"')
    steps: list[tuple[int, int]] = []
    files = usgs.fetch(
        TWO_SITES, "2020-08-17", "2020-08-19", progress=lambda *step: steps.append(step)
    )
    assert steps == [(1, 1)]
    assert service.queries[0] == {
        "format": ["json"],
        "sites": ["01646500,02458502"],
        "parameterCd": ["00060"],
        "startDT": ["2020-08-17T00:00Z"],
        "endDT": ["2020-08-19T00:00Z"],
        "siteStatus": ["all"],
    }
    assert files[0].url.startswith(f"{service.url}/iv/?format=json&sites=01646500")
    assert files[0].headers["etag"] == '"7"'
    assert raw.read(files[0]) == potomac

    tables = usgs.read(files)
    rows = tables["primary_timeseries"].to_pylist()
    assert len(rows) == 23 + 24
    # 2020-08-17T17:00:00.000-04:00 is 21:00 UTC; 5980 ft³/s.
    assert rows[0]["value_time"].isoformat() == "2020-08-17T21:00:00+00:00"
    assert rows[0]["value"] == 5980 * CUBIC_FOOT
    assert {r["location_id"] for r in rows} == {"usgs-01646500", "usgs-02458502"}
    assert {r["raw_file_id"] for r in rows} == {files[0].id}
    assert {(r["unit_name"], r["variable_name"]) for r in rows} == {
        ("m^3/s", "streamflow_hourly_inst")
    }
    place = tables["locations"].to_pylist()[0]
    assert place["name"] == "POTOMAC RIVER NEAR WASH, DC LITTLE FALLS PUMP STA"
    assert len(place["geometry"]) == 21


def test_running_twice_changes_nothing(service: Service, potomac: bytes) -> None:
    warehouse.migrate()
    service.answer(potomac)
    for expected in (47, 0):
        written = warehouse.write_all(usgs.read(usgs.fetch(TWO_SITES, "2020-08-17", "2020-08-19")))
        assert (written[-1].table, written[-1].added) == ("primary_timeseries", expected)
        assert written[-1].changed == 0
    assert len(raw.find("usgs", "instantaneous_values")) >= 1


def test_missing_values_are_left_out_and_counted(service: Service, potomac: bytes) -> None:
    answer = json.loads(potomac)
    values = answer["value"]["timeSeries"][0]["values"][0]["value"]
    on_the_hour = [v for v in values if v["dateTime"][14:16] == "00"]
    on_the_hour[3]["value"] = "-999999"
    service.answer(json.dumps(answer).encode())
    rows = usgs.read(usgs.fetch(TWO_SITES, "2020-08-17", "2020-08-19"))["primary_timeseries"]
    assert rows.num_rows == 46
    assert rows.schema.metadata == {b"missing": b"1"}
    assert min(rows["value"].to_pylist()) > 0


def test_other_parameters_are_not_discharge(service: Service, shared_data: Path) -> None:
    answer = (shared_data / "usgs_recorded_responses" / "hist_waterservices_iv.json").read_text()
    service.answer(answer.replace("17:15:00.000-05:00", "17:00:00.000-05:00").encode())
    rows = usgs.read(usgs.fetch(["01491000", "01645000"], "2020-02-13", "2020-02-14"))
    assert rows["primary_timeseries"]["value"].to_pylist() == [439 * CUBIC_FOOT]
    assert rows["locations"].num_rows == 2


def test_an_empty_answer_is_no_rows(service: Service, shared_data: Path) -> None:
    body = (shared_data / "usgs_recorded_responses" / "nwis_iv_empty_mock.json").read_bytes()
    service.answer(body)
    rows = usgs.read(usgs.fetch(["01491000"], "2020-02-13", "2020-02-14"))["primary_timeseries"]
    assert rows.num_rows == 0
    assert rows.schema.field("value_time").type == pa.timestamp("us", "UTC")


def test_a_busy_service_is_asked_again(service: Service, potomac: bytes) -> None:
    service.answer(b"busy", status=503)
    service.answer(b"slow down", status=429, **{"Retry-After": "0"})
    service.answer(b"<html>maintenance</html>", **{"Content-Type": "text/html"})
    service.answer(potomac)
    assert len(usgs.fetch(TWO_SITES, "2020-08-17", "2020-08-19")) == 1
    assert len(service.queries) == 4


def test_what_does_not_pass_is_said(service: Service) -> None:
    service.answer(b"", status=500)
    with pytest.raises(Unavailable, match="500 Internal Server Error after 5 attempts"):
        usgs.fetch(TWO_SITES, "2020-08-17", "2020-08-19")
    service.answers = []
    service.answer(b"", status=404)
    with pytest.raises(NotFound, match="no discharge of 01646500,02458502"):
        usgs.fetch(TWO_SITES, "2020-08-17", "2020-08-19")
    service.answers = []
    service.answer(b"", status=400)
    with pytest.raises(InvalidInput, match="refuses the request"):
        usgs.fetch(TWO_SITES, "2020-08-17", "2020-08-19")
    gone = load(usgs_url="http://127.0.0.1:9/nwis")
    with pytest.raises(Unavailable, match="after 5 attempts"):
        usgs.fetch(TWO_SITES, "2020-08-17", "2020-08-19", settings=gone)


def test_sites_without_values_do_not_cost_those_of_others(service: Service, potomac: bytes) -> None:
    service.answer(potomac)
    service.answer(b"", status=404)
    sites = [f"{i:08d}" for i in range(60)]
    assert len(usgs.fetch(sites, "2020-08-17", "2020-08-19")) == 1
    assert len(service.queries) == 2


def test_long_requests_are_split(service: Service, shared_data: Path) -> None:
    body = (shared_data / "usgs_recorded_responses" / "nwis_iv_empty_mock.json").read_bytes()
    service.answer(body)
    sites = [f"{i:08d}" for i in range(60)]
    usgs.fetch(sites, "2020-01-01", "2020-03-01T12:00")
    spans = [
        (len(q["sites"][0].split(",")), q["startDT"][0], q["endDT"][0]) for q in service.queries
    ]
    assert spans == [
        (50, "2020-01-01T00:00Z", "2020-02-01T00:00Z"),
        (50, "2020-02-01T00:00Z", "2020-03-01T12:00Z"),
        (10, "2020-01-01T00:00Z", "2020-02-01T00:00Z"),
        (10, "2020-02-01T00:00Z", "2020-03-01T12:00Z"),
    ]


@pytest.mark.parametrize("sites", ["01646500", ["1646500"], [1646500], ["01646500x"]])
def test_site_numbers_are_strings_of_digits(store: Settings, sites: list[str]) -> None:
    with pytest.raises(InvalidInput, match="site number"):
        usgs.fetch(sites, "2020-08-17", "2020-08-19")


@pytest.mark.parametrize(
    ("start", "end"), [("2020-08-19", "2020-08-17"), ("tuesday", "2020-08-17")]
)
def test_periods_are_checked(store: Settings, start: str, end: str) -> None:
    with pytest.raises(InvalidInput, match=r"is empty|is not a time"):
        usgs.fetch(TWO_SITES, start, end)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "is not an answer of the USGS"),
        (lambda text: b"[1, 2]", "is not an answer of the USGS"),
        (lambda text: text.replace(b'"ft3/s"', b'"m3/s"'), "'m3/s', expected 'ft3/s'"),
        (lambda text: text.replace(b'"5980"', b'"high"'), "is not an answer of the USGS"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    service: Service, potomac: bytes, damage: object, says: str
) -> None:
    service.answer(damage(potomac))  # type: ignore[operator]
    files = usgs.fetch(TWO_SITES, "2020-08-17", "2020-08-19")
    with pytest.raises(InvalidInput, match=says):
        usgs.read(files)


def test_damage_in_the_store_is_seen(service: Service, potomac: bytes) -> None:
    service.answer(potomac + b" " * (hash(new_id()) % 1000 + 1))
    (file,) = usgs.fetch(TWO_SITES, "2020-08-17", "2020-08-19")
    storage.filesystem(file.uri).pipe_file(file.uri, potomac[:-1])
    with pytest.raises(InvalidInput, match=f"raw file {file.id} is damaged"):
        usgs.read([file])


def test_no_sites_are_refused_with_a_way_on() -> None:
    with pytest.raises(InvalidInput, match="no sites to ask USGS for: name some"):
        usgs.fetch([], "2020-08-17", "2020-08-19")
