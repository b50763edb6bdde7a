"""USGS is asked: requests, pages, retries, and what comes of the answers."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import dataretrieval.rdb
import dataretrieval.waterdata
import pandas as pd
import pyarrow as pa
import pytest
from usgs_answers import RECORDED, landed, page, values

from thalweg import database, ingest, raw, storage, warehouse
from thalweg.database import new_id
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.settings import Settings, load
from thalweg.sources import usgs

TWO_SITES = ["01646500", "02458502"]


class Service:
    """The recorded answers of USGS, served one after the other; the last one stays.

    What time series the Water Data API has is answered apart: by default one of each parameter.
    """

    def __init__(self, series: dict) -> None:
        self.one_series = series
        self.series: list[dict] | None = None
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.queries: list[dict[str, list[str]]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if "/time-series-metadata/" in self.path:
                    self.send_response(200)
                    self.send_header("Content-Type", "application/geo+json")
                    self.end_headers()
                    self.wfile.write(outer.known(parse_qs(urlsplit(self.path).query)))
                    return
                outer.queries.append(parse_qs(urlsplit(self.path).query))
                outer.paths.append(urlsplit(self.path).path)
                outer.keys.append(self.headers.get("X-Api-Key"))
                some = outer.answers
                status, headers, body = some.pop(0) if len(some) > 1 else some[0]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.root = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.root}/nwis"

    def known(self, query: dict[str, list[str]]) -> bytes:
        sites, parameters = (query[n][0] for n in ("monitoring_location_id", "parameter_code"))
        pairs = product(sites.split(","), parameters.split(","))
        series = self.series or [self.one(f"{site}-{code}", site, code) for site, code in pairs]
        return page([{"properties": each} for each in series])

    def one(self, id: str, site: str, parameter: str, **more: object) -> dict:
        """What is said of a time series."""
        about = {"id": id, "monitoring_location_id": site, "parameter_code": parameter}
        return self.one_series | about | more

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        kind = {"Content-Type": "application/json;charset=UTF-8"}
        self.answers.append((status, kind | headers, body))


@pytest.fixture
def service(
    store: Settings, monkeypatch: pytest.MonkeyPatch, recorded: dict[str, dict]
) -> Iterator[Service]:
    database.migrate()
    served = Service(recorded["time-series-metadata"]["features"][0]["properties"])
    monkeypatch.setenv("THALWEG_USGS_URL", served.url)
    monkeypatch.setenv("THALWEG_USGS_API_URL", f"{served.root}/ogcapi/v1")
    monkeypatch.delenv("API_USGS_PAT", raising=False)
    monkeypatch.setattr("thalweg.sources.usgs.FIRST_WAIT", 0.001)
    monkeypatch.setattr("thalweg.sources.usgs.REQUESTS_PER_SECOND", None)
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def potomac(shared_data: Path) -> bytes:
    """A recorded answer: 92 values of 01646500 and 94 of 02458502, 23 and 24 on the hour."""
    return (shared_data / "nwis_and_crosswalk" / "nwis_test_data.json").read_bytes()


@pytest.fixture
def recorded(shared_data: Path) -> dict[str, dict]:
    """A recorded page of each collection of the Water Data API."""
    return json.loads((shared_data / RECORDED / "waterdata_ogc_fixtures.json").read_bytes())


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
    # 2020-08-17T17:00:00.000-04:00 is 21:00 UTC.
    assert rows[0]["value_time"].isoformat() == "2020-08-17T21:00:00+00:00"
    assert (rows[0]["value"], rows[0]["unit_name"], rows[0]["quality_code"]) == (
        5980,
        "ft^3/s",
        "P",
    )
    assert {r["location_id"] for r in rows} == {"usgs-01646500", "usgs-02458502"}
    assert {r["raw_file_id"] for r in rows} == {files[0].id}
    assert {(r["unit_name"], r["variable_name"]) for r in rows} == {
        ("ft^3/s", "streamflow_hourly_inst")
    }
    place = tables["locations"].to_pylist()[0]
    assert place["name"] == "POTOMAC RIVER NEAR WASH, DC LITTLE FALLS PUMP STA"
    assert len(place["geometry"]) == 21


def test_running_twice_changes_nothing(service: Service, potomac: bytes) -> None:
    warehouse.migrate()
    service.answer(potomac)
    ids = []
    for expected in (47, 0):
        files = usgs.fetch(TWO_SITES, "2020-08-17", "2020-08-19")
        ids.append([file.id for file in files])
        written = warehouse.write_all(usgs.read(files))
        assert (written[-1].table, written[-1].added) == ("primary_timeseries", expected)
        assert written[-1].changed == 0
    assert ids[0] == ids[1]


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


def test_stage_is_a_variable_of_its_own(service: Service, shared_data: Path) -> None:
    answer = (shared_data / RECORDED / "hist_waterservices_iv.json").read_text()
    service.answer(answer.replace("17:15:00.000-05:00", "17:00:00.000-05:00").encode())
    rows = usgs.read(usgs.fetch(["01491000", "01645000"], "2020-02-13", "2020-02-14"))
    assert values(rows, "value_time", "value", "unit_name", "variable_name", "quality_code") == [
        (datetime(2020, 2, 13, 22, tzinfo=UTC), 4.36, "ft", "stage_hourly_inst", "P"),
        (datetime(2020, 2, 13, 22, tzinfo=UTC), 439, "ft^3/s", "streamflow_hourly_inst", "P"),
    ]
    assert rows["locations"].num_rows == 2


def test_the_warehouse_gets_metres(service: Service, shared_data: Path) -> None:
    warehouse.migrate()
    service.answer((shared_data / RECORDED / "waterservices_iv.txt").read_bytes())
    loaded = ingest.load(usgs.read, usgs.fetch(["01491000"], "2019-02-14", "2019-02-15"))
    assert not loaded.quarantined
    where = "location_id = 'usgs-01491000' and value_time <= '2019-02-14T05:00:00+00:00'"
    rows = {"primary_timeseries": warehouse.read("primary_timeseries", where=where)}
    assert sorted(values(rows, "variable_name", "value", "unit_name")) == [
        ("stage_hourly_inst", pytest.approx(6.48 * 0.3048, rel=1e-15), "m"),
        ("streamflow_hourly_inst", 974 * 0.028316846592, "m^3/s"),
    ]


def test_an_empty_answer_is_no_rows(service: Service, shared_data: Path) -> None:
    body = (shared_data / RECORDED / "nwis_iv_empty_mock.json").read_bytes()
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
    with pytest.raises(NotFound, match="nothing of these sites in this period"):
        usgs.fetch(TWO_SITES, "2020-08-17", "2020-08-19")
    service.answers = []
    service.answer(b"", status=400)
    with pytest.raises(InvalidInput, match="is refused: 400"):
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
    body = (shared_data / RECORDED / "nwis_iv_empty_mock.json").read_bytes()
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


def test_daily_means(service: Service, shared_data: Path) -> None:
    service.answer((shared_data / RECORDED / "hist_waterservices_dv.json").read_bytes())
    files = usgs.fetch(["01491000", "01645000"], "2020-02-12", "2020-02-14", daily=True)
    assert service.paths == ["/nwis/dv/"]
    query = {name: value[0] for name, value in service.queries[0].items()}
    assert (query["startDT"], query["endDT"], query["statCd"]) == (
        "2020-02-12",
        "2020-02-13",
        "00003",
    )
    day = datetime(2020, 2, 12, tzinfo=UTC)
    assert values(usgs.read(files), "location_id", "value_time", "value", "variable_name") == [
        ("usgs-01491000", day, 458, "streamflow_daily_mean"),
        ("usgs-01645000", day, 242, "streamflow_daily_mean"),
    ]
    with pytest.raises(InvalidInput, match="unknown parameter '00065'; did you mean '00060'"):
        usgs.fetch(["01491000"], "2020-02-12", "2020-02-14", daily=True, parameters=["00065"])


def test_water_data_pages_are_followed_to_the_last(
    service: Service, recorded: dict[str, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_USGS_PAT", "a-key")
    first, second = recorded["continuous"]["features"]
    service.answer(page([first], f"{service.root}/ogcapi/v1/next?cursor=2"))
    service.answer(page([second], "?cursor=3"))
    service.answer(page([], "?cursor=4"))  # the service links on from its last, empty page
    files = usgs.fetch(
        ["06904500"], "2025-01-01", "2025-01-02", parameters=["00065"], service="waterdata"
    )
    assert service.paths[0] == "/ogcapi/v1/collections/continuous/items"
    query = {name: value[0] for name, value in service.queries[0].items()}
    assert query["time_series_id"] == "USGS-06904500-00065"
    assert query["time"] == "2025-01-01T00:00:00Z/2025-01-02T00:00:00Z"
    assert [query.get("cursor") for query in service.queries] == [None, ["2"], ["3"]]
    assert service.keys == ["a-key"] * 3
    assert not any("a-key" in f"{file.url} {file.headers}" for file in files)
    assert values(usgs.read(files), "location_id", "value", "unit_name", "quality_code") == [
        ("usgs-06904500", 1.76, "ft", "Approved")  # the other one is of 00:15
    ]


def test_water_data_gives_what_dataretrieval_gives(
    service: Service, recorded: dict[str, dict]
) -> None:
    features = recorded["daily"]["features"]
    service.answer(page(features))
    mine = usgs.read(
        usgs.fetch(["05427718"], "2025-12-01", "2026-04-01", daily=True, service="waterdata")
    )
    at = dataretrieval.waterdata.WaterdataConfiguration(base_url=service.root)
    with dataretrieval.configure(at):
        theirs, _ = dataretrieval.waterdata.get_daily(
            monitoring_location_id="USGS-05427718", parameter_code="00060", skip_geometry=True
        )
    assert service.paths == ["/ogcapi/v1/collections/daily/items"] * 2
    theirs = theirs.sort_values("time")
    assert len(theirs) == 2
    assert values(mine, "value_time", "value", "unit_name", "quality_code") == list(
        zip(
            pd.to_datetime(theirs["time"], utc=True).dt.to_pydatetime(),
            theirs["value"],
            theirs["unit_of_measure"],
            theirs["approval_status"],
            strict=True,
        )
    )


def test_water_data_asks_for_one_series_at_a_time(
    service: Service, recorded: dict[str, dict]
) -> None:
    """Of two sensors the older one, of one that has ended its follower from then on."""
    sites = ["06904500", "05427718"]
    now, then = "2026-11-01T00:00:00+00:00", "2017-06-30T12:00:00+00:00"

    def known(id: str, site: str, begin: int, end: str, **more: object) -> dict:
        utc = {"begin_utc": f"{begin}-01-01T00:00:00+00:00", "end_utc": end}
        return service.one(id, f"USGS-{site}", "00060", **utc, **more)

    service.series = [
        known("backup", "06904500", 2010, now),
        known("main", "06904500", 1990, now),
        known("provisional", "06904500", 1980, now, primary=None),
        known("left-bank", "06904500", 1970, now, sublocation_identifier="left bank"),
        known("moved", "05427718", 2015, now),
        known("old", "05427718", 1950, then),
    ]
    service.answer(page([]))
    usgs.fetch(sites, "2017-01-01", "2017-12-31", service="waterdata")
    assert [(q["time_series_id"][0], q["time"][0]) for q in service.queries] == [
        ("main", "2017-01-01T00:00:00Z/2017-12-31T00:00:00Z"),
        ("old", "2017-01-01T00:00:00Z/2017-06-30T12:00:01Z"),
        ("moved", "2017-06-30T12:00:01Z/2017-12-31T00:00:00Z"),
    ]
    service.queries.clear()
    usgs.fetch(sites, "2017-01-01", "2017-12-31", service="waterdata", daily=True)
    assert [(q["time_series_id"][0], q["time"][0]) for q in service.queries] == [
        ("main", "2017-01-01/2017-12-30"),
        ("old", "2017-01-01/2017-06-30"),
        ("moved", "2017-07-01/2017-12-30"),
    ]
    with pytest.raises(NotFound, match="has no series of these parameters"):
        usgs.fetch(sites, "1940-01-01", "1940-12-31", service="waterdata")
    # A page that was fetched in another way, with values of two of them, says not which counts.
    first, second = (f["properties"] for f in recorded["continuous"]["features"])
    mixed = page([{"properties": first}, {"properties": second | {"time_series_id": "backup"}}])
    with pytest.raises(InvalidInput, match=r"two series of parameter 00065 .* fetch it again"):
        usgs.read([landed(mixed, "continuous")])


def test_water_data_versions_and_qualifiers(service: Service, recorded: dict[str, dict]) -> None:
    """The newest version of each value counts, in any order of times."""

    def feature(time: str, value: str | None, **properties: object) -> dict:
        said = recorded["daily"]["features"][0]["properties"]
        return {"properties": said | {"time": time, "value": value} | properties}

    service.answer(
        page(
            [
                feature("2025-12-28", "3", qualifier=["ESTIMATED", "ICE"]),
                feature("2025-12-26", "9", last_modified="2026-08-01T00:00:00+00:00"),
                feature("2025-12-26", "1"),
                feature("2025-12-27", "-999999"),
                feature("2025-12-29", None),
                feature("2025-12-30", "5", statistic_id="00001"),
                feature("2025-12-30", "5", parameter_code="00010"),
            ]
        )
    )
    rows = usgs.read(
        usgs.fetch(["05427718"], "2025-12-26", "2025-12-31", daily=True, service="waterdata")
    )
    assert [
        (time.day, *rest) for time, *rest in values(rows, "value_time", "value", "quality_code")
    ] == [(26, 9, "Provisional"), (28, 3, "Provisional,ESTIMATED,ICE")]
    assert rows["primary_timeseries"].schema.metadata == {b"missing": b"2"}


def test_water_data_that_makes_no_sense_is_refused(
    service: Service, recorded: dict[str, dict]
) -> None:
    features = recorded["continuous"]["features"]

    def fetch() -> list[raw.RawFile]:
        return usgs.fetch(["06904500"], "2025-01-01", "2025-01-02", service="waterdata")

    service.answer(page(features, "?cursor=2"))
    with pytest.raises(Unavailable, match="go in a circle"):
        fetch()
    service.answers = []
    service.answer(b'{"features": [{')
    with pytest.raises(Unavailable, match="no page of features"):
        fetch()
    service.answers = []
    service.answer(page(features).replace(b'"numberReturned": 2', b'"numberReturned": 3'))
    with pytest.raises(InvalidInput, match="3 features promised, 2 given"):
        usgs.read(fetch())
    with pytest.raises(InvalidInput, match="unknown service 'waterdate'; did you mean 'waterdata'"):
        usgs.fetch(["06904500"], "2025-01-01", "2025-01-02", service="waterdate")


def test_an_empty_page_is_no_rows(service: Service) -> None:
    service.answer(page([]))
    files = usgs.fetch(["06904500"], "2025-01-01", "2025-01-02", service="waterdata")
    assert usgs.read(files)["primary_timeseries"].num_rows == 0


def test_sites_of_nwis(service: Service, shared_data: Path) -> None:
    warehouse.migrate()
    body = (shared_data / RECORDED / "waterservices_site.txt").read_bytes()
    service.answer(body, **{"Content-Type": "text/plain;charset=UTF-8"})
    files = usgs.fetch_sites(["01491000", "01645000"])
    assert service.paths == ["/nwis/site/"]
    tables = usgs.read(files)
    place = tables["locations"].to_pylist()[0]
    assert (place["id"], place["name"]) == ("usgs-01491000", "CHOPTANK RIVER NEAR GREENSBORO, MD")
    assert struct.unpack("<dd", place["geometry"][5:]) == (-75.7858056, 38.99719444)
    about = {
        row["attribute_name"]: (row["value"], row["unit_name"])
        for row in tables["location_attributes"].to_pylist()
        if row["location_id"] == "usgs-01491000"
    }
    assert about == {
        "altitude": ("2.73", "ft"),
        "altitude_datum": ("NAVD88", None),
        "hydrologic_unit": ("02060005", None),
        "site_type": ("ST", None),
    }
    assert not ingest.load(usgs.read, files).quarantined
    where = "location_id = 'usgs-01645000' and attribute_name = 'hydrologic_unit'"
    (row,) = warehouse.read("location_attributes", where=where).to_pylist()
    assert row["value"] == "02070008"


def test_sites_of_water_data(service: Service, recorded: dict[str, dict]) -> None:
    features = recorded["monitoring-locations"]["features"]
    service.answer(page(features))
    tables = usgs.read(
        usgs.fetch_sites(["410252073314801", "410257073251001"], service="waterdata")
    )
    assert service.paths == ["/ogcapi/v1/collections/monitoring-locations/items"]
    assert service.queries[0]["filter"] == ["id IN ('USGS-410252073314801','USGS-410257073251001')"]
    place = tables["locations"].to_pylist()[0]
    assert (place["id"], place["name"]) == ("usgs-410252073314801", "CT-STM    2")
    assert struct.unpack("<dd", place["geometry"][5:]) == (-73.52955169969904, 41.04777271320483)
    attributes = tables["location_attributes"].to_pylist()
    assert {
        "location_id": "usgs-410252073314801",
        "attribute_name": "altitude",
        "value": "9.0",
        "unit_name": "ft",
    } in attributes
    names = set(tables["attributes"]["name"].to_pylist())
    assert {row["attribute_name"] for row in attributes} <= names


def test_damage_in_the_store_is_seen(service: Service, potomac: bytes) -> None:
    service.answer(potomac + b" " * (hash(new_id()) % 1000 + 1))
    (file,) = usgs.fetch(TWO_SITES, "2020-08-17", "2020-08-19")
    storage.filesystem(file.uri).pipe_file(file.uri, potomac[:-1])
    with pytest.raises(InvalidInput, match=f"raw file {file.id} is damaged"):
        usgs.read([file])


def test_no_sites_are_refused_with_a_way_on() -> None:
    with pytest.raises(InvalidInput, match="no sites to ask USGS for: name some"):
        usgs.fetch([], "2020-08-17", "2020-08-19")
