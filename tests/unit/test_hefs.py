from __future__ import annotations

import datetime as dt
import threading
import tracemalloc
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import damaged
from on_disk import raw_file
from pi_xml import HEADER, KEY, as_series, document, members, one_series

from thalweg import database, ingest, raw, warehouse
from thalweg.errors import InvalidInput, NotFound
from thalweg.raw import RawFile
from thalweg.settings import Settings
from thalweg.sources import hefs, table

UTC = dt.UTC
EVENT = '<event date="2024-04-01" time="12:00:00" value="1.5" flag="0"/>'


@pytest.fixture
def ensembles(shared_data: Path) -> pa.Table:
    """The real HEFS ensembles of two gauges in California, 42 members, in ft^3/s."""
    folder = shared_data / "usgs_nwm_hefs_examples" / "hefs_example"
    return pq.read_table(folder / "secondary_timeseries.parquet")


def on_disk(folder: Path, content: str | bytes) -> RawFile:
    content = content.encode() if isinstance(content, str) else content
    return raw_file(folder, content, "https://fews.example/export.xml", "hefs", "pi_xml")


def read(folder: Path, content: str | bytes, **options: object) -> pa.Table:
    files = [on_disk(folder, content)]
    return hefs.read(files, **options)["secondary_timeseries"]  # type: ignore[arg-type]


@pytest.mark.parametrize("ahead", [0.0, -8.0, 5.5])
def test_60564_rows_come_back_as_they_were(
    tmp_path: Path, ensembles: pa.Table, ahead: float
) -> None:
    content = document(*(as_series(rows, ahead) for rows in members(ensembles)), zone=str(ahead))
    tables = hefs.read([on_disk(tmp_path, content)], configuration="CNRFC_HEFS")
    assert tables["configurations"]["name"].to_pylist() == ["CNRFC_HEFS"]
    rows = tables["secondary_timeseries"]
    assert rows.num_rows == 60_564
    order = [(name, "ascending") for name in (*KEY, "value_time")]
    expected = ensembles.select([n for n in rows.column_names if n != "raw_file_id"])
    kinds = pa.schema([rows.schema.field(name) for name in expected.column_names])
    # All columns, exactly: the unit is ft^3/s in both.
    assert (
        rows.drop_columns("raw_file_id")
        .replace_schema_metadata(None)
        .sort_by(order)
        .equals(expected.cast(kinds).sort_by(order))
    )
    assert rows.schema.metadata == {b"missing": b"0"}


def test_ensembles_go_the_way_of_all_data(store: Settings, tmp_path: Path, ensembles) -> None:
    """From a folder of files into raw and into the warehouse; a second time nothing changes."""
    database.migrate()
    warehouse.migrate()
    some = list(members(ensembles))[:6]
    for i, rows in enumerate(some):
        (tmp_path / f"member-{i}.xml").write_text(document(as_series(rows)))
    (tmp_path / "notes.txt").write_text("not asked for")
    for first in (True, False):
        files = hefs.fetch([f"{tmp_path.as_uri()}/*.xml"], dataset="cnrfc")
        assert [Path(f.url).name for f in files] == [f"member-{i}.xml" for i in range(6)]
        written = warehouse.write_all(hefs.read(files, configuration="test_hefs"))
        assert [w.added > 0 for w in written] == [first, first]
        assert [w.changed for w in written] == [0, 0]
    rows = warehouse.read("secondary_timeseries", where="configuration_name = 'test_hefs'")
    assert rows.num_rows == sum(each.num_rows for each in some)
    assert set(rows["raw_file_id"].to_pylist()) == {f.id for f in files}
    with pytest.raises(NotFound, match="no file is like"):
        hefs.fetch([f"{tmp_path.as_uri()}/*.gz"])
    for uris in ("s3://forecasts/one.xml", []):
        with pytest.raises(InvalidInput, match="expected a list of URIs"):
            hefs.fetch(uris)


def test_times_out_of_order_are_put_right_and_those_that_disagree_aside(
    store: Settings, tmp_path: Path
) -> None:
    database.migrate()
    warehouse.migrate()
    pair = {"primary_location_id": "usgs-twice", "secondary_location_id": "TWIC1"}
    warehouse.write_all(
        {
            "locations": pa.Table.from_pylist([{"id": "usgs-twice"}]),
            "location_crosswalks": pa.Table.from_pylist([pair]),
        }
    )
    events = [
        f'<event date="2024-04-01" time="{hour}:00:00" value="{value}"/>'
        for hour, value in [(16, 4), (14, 1), (15, 3), (14, 2), (13, 5), (13, 5)]
    ]
    content = document(one_series(*events, header=HEADER.replace("SCBC1", "TWIC1")))
    (tmp_path / "twice.xml").write_text(content)
    loaded = ingest.load(hefs.read, hefs.fetch([(tmp_path / "twice.xml").as_uri()]))
    assert [(kept.table, kept.count) for kept in loaded.quarantined] == [
        ("secondary_timeseries", 2)
    ]
    rows = warehouse.read("secondary_timeseries", where="location_id = 'TWIC1'")
    found = {r["value_time"].hour: r["value"] / 0.028316846592 for r in rows.to_pylist()}
    assert found == pytest.approx({13: 5, 15: 3, 16: 4})


def test_a_file_comes_over_http_with_what_the_server_said(store: Settings, tmp_path: Path) -> None:
    database.migrate()
    content = document(one_series(EVENT))
    (tmp_path / "export.xml").write_text(content)

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *given: object) -> None:
            super().__init__(*given, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        (file,) = hefs.fetch([f"{address}/export.xml"])
        (same,) = table.fetch([f"{address}/export.xml"])
        with pytest.raises(NotFound):
            hefs.fetch([f"{address}/none.xml"])
        server.shutdown()
    assert (raw.read(file).decode(), file.url) == (content, f"{address}/export.xml")
    for each in (file, same):
        assert each.headers["content-length"] == str(len(content))


def test_a_row_is_what_the_series_says(tmp_path: Path) -> None:
    (row,) = read(tmp_path, document(one_series(EVENT), zone="-8.0")).to_pylist()
    row.pop("raw_file_id")
    assert row == {
        "reference_time": dt.datetime(2024, 4, 1, 20, tzinfo=UTC),
        "value_time": dt.datetime(2024, 4, 1, 20, tzinfo=UTC),
        "value": 1.5,
        "unit_name": "ft^3/s",
        "location_id": "SCBC1",
        "configuration_name": "MEFP",
        "variable_name": "streamflow_hourly_inst",
        "member": "1963",
    }
    # A simulation has neither issue time nor member; who made it is the module that ran.
    header = "\n".join(
        line for line in HEADER.splitlines() if "nsemble" not in line and "forecast" not in line
    )
    header += "<moduleInstanceId>SSARR</moduleInstanceId>"
    plain = document(one_series(EVENT, header=header.replace("CFS", "KCFS")))
    (row,) = read(tmp_path, plain.replace(' xmlns="http://www.wldelft.nl/fews/PI"', "")).to_pylist()
    assert (row["reference_time"], row["member"]) == (None, None)
    # A unit that we do not know goes on as it is, for the warehouse to judge.
    assert (row["configuration_name"], row["unit_name"]) == ("SSARR", "KCFS")


def test_missing_and_unreliable_values_are_no_values(tmp_path: Path) -> None:
    def event(hour: int, value: str, flag: str = "", minute: int = 0) -> str:
        marked = f' flag="{flag}"' if flag else ""
        return f'<event date="2024-04-01" time="{hour:02}:{minute:02}:00" value="{value}"{marked}/>'

    events = [
        event(0, "0", "0"), event(1, "-999", "0"), event(2, "NaN"), event(3, "3", "9"),
        event(4, "4", "6"), event(5, "5", "5"), event(6, "6", "2"), event(7, "-999.0", "9"),
        event(8, "8"), event(8, "7", minute=15), event(9, "9", "8"),
    ]  # fmt: skip
    rows = read(tmp_path, document(one_series(*events)))
    assert rows["value"].to_pylist() == [0.0, 5.0, 6.0, 8.0]
    assert [time.hour for time in rows["value_time"].to_pylist()] == [0, 5, 6, 8]
    assert rows.schema.metadata == {b"missing": b"6"}
    # Without missVal only NaN is one.
    rows = read(tmp_path, document(one_series(*events)).replace("<missVal>-999.0</missVal>", ""))
    assert rows["value"].to_pylist() == [0.0, -999.0, 5.0, 6.0, 8.0]
    assert read(tmp_path, document(one_series())).num_rows == 0


def test_parameters_are_chosen_by_name(tmp_path: Path) -> None:
    stage = HEADER.replace("QINE", "FMAP").replace("CFS", "MM")
    content = document(one_series(EVENT), one_series(EVENT, header=stage))
    with pytest.raises(InvalidInput, match="no variable is known for parameter 'FMAP'"):
        read(tmp_path, content)
    rows = read(tmp_path, content, variables=hefs.VARIABLES | {"FMAP": None})
    assert rows["variable_name"].to_pylist() == ["streamflow_hourly_inst"]
    rows = read(tmp_path, content, variables=hefs.VARIABLES | {"FMAP": "rainfall_6hourly_sum"})
    assert rows["variable_name"].to_pylist()[1:] == ["rainfall_6hourly_sum"]
    assert rows["unit_name"].to_pylist() == ["ft^3/s", "MM"]


BOMB = "<!DOCTYPE x [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {b} '{f'&{a};' * 10}'>" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('<?xml version="1.0" encoding="UTF-8"?>', f"{BOMB}]>", "not the PI-XML it should be"),
        ("SCBC1", "&a;", "not the PI-XML it should be"),
        (
            '<?xml version="1.0" encoding="UTF-8"?>',
            "<!DOCTYPE x SYSTEM 'file:///etc/passwd'>",
            "not the PI-XML it should be",
        ),
        ("UTF-8", "UTF-99", "not the PI-XML it should be"),
        ("TimeSeries", "Diag", "its root is 'Diag'"),
        ("</series>", "", "not the PI-XML it should be"),
        ("header", "footer", "a series without a header"),
        ("<locationId>SCBC1</locationId>", "", "whose header has no locationId"),
        ("<units>CFS</units>", "<units/>", "whose header has no units"),
        ("instantaneous", "mean", "QINE at SCBC1 is mean, but streamflow_hourly_inst has to be"),
        ("QINE", "QINEE", "did you mean 'QINE'"),
        ("<timeZone>0.0", "<timeZone>GMT", "timeZone is 'GMT', expected hours ahead of UTC"),
        ("<timeZone>0.0", "<timeZone>99", "timeZone is '99'"),
        (
            "<timeZone>0.0</timeZone>",
            "<daylightSavingObservatingTimeZone>EST</daylightSavingObservatingTimeZone>",
            "daylight saving",
        ),
        (
            'date="2024-04-01" time="12:00:00" value',
            'date="2024-04-31" time="12:00:00" value',
            "31",
        ),
        ('time="12:00:00" value', 'time="24:00:00" value', "24:00:00"),
        ('time="12:00:00" value', 'time="12:00:00Z" value', "12:00:00Z"),
        (' time="12:00:00"/>', "/>", r"SCBC1"),
        ('value="1.5"', "", "an event without 'value'"),
        ('value="1.5"', 'value="1,5"', "1,5"),
        ('flag="0"', 'flag="E"', "E"),
        ("-999.0", "none", "none"),
    ],
)
def test_what_is_no_pi_xml_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    content = document(one_series(EVENT))
    assert old in content
    with pytest.raises(InvalidInput, match=says):
        read(tmp_path, content.replace(old, new))


def test_a_damaged_file_is_refused_whole(tmp_path: Path, ensembles: pa.Table) -> None:
    """A cut file has no end of its root; a flipped byte is no UTF-8: nothing of them is read."""
    content = document(*(as_series(rows) for rows in list(members(ensembles))[:5])).encode()
    right = read(tmp_path, content).drop_columns("raw_file_id")
    for what, bytes_ in damaged(content):
        try:
            rows = read(tmp_path, bytes_)
        except InvalidInput:
            continue
        assert rows.drop_columns("raw_file_id").equals(right), what


def test_a_file_is_never_held_as_a_tree(tmp_path: Path) -> None:
    """100 series of 200 events are read in little more memory than their rows need."""
    moments = [(1 + i // 24, i % 24, i) for i in range(200)]
    events = "".join(
        f'<event date="2024-04-{day:02}" time="{hour:02}:00:00" value="{i}.5" flag="0"/>\n'
        for day, hour, i in moments
    )
    file = on_disk(tmp_path, document(*[one_series(events)] * 100))
    tracemalloc.start()
    try:
        assert hefs.read([file])["secondary_timeseries"].num_rows == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # As a tree it is ten times its bytes.
    assert peak < 4 * file.size, (peak, file.size)
