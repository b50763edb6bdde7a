"""What sources promise: each of them, and what becomes of a file that breaks it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest
from on_disk import raw_file

from thalweg import database, ingest, quarantine, raw, sources, warehouse
from thalweg.database import new_id
from thalweg.errors import InvalidInput, NotFound
from thalweg.raw import RawFile
from thalweg.settings import Settings
from thalweg.sources import (
    Contract,
    _grib,
    cams,
    era5,
    gfs,
    hefs,
    ifs,
    nwm,
    rfc,
    sample,
    table,
    usgs,
)
from thalweg.sources.table import Layout
from thalweg.warehouse import contracts, promises
from thalweg.warehouse.access import definition

START = dt.datetime(2021, 8, 23, tzinfo=dt.UTC)
NAME = "primary_timeseries"
Tables = Mapping[str, pa.Table]
NWM = "s3://b/nwm.20210823/analysis_assim/nwm.t13z.analysis_assim.channel_rt.tm00.conus.nc"
PI_XML = """<TimeSeries><timeZone>0.0</timeZone><series><header><type>instantaneous</type>
<locationId>SCBC1</locationId><parameterId>QINE</parameterId><units>CFS</units></header>
<event date="2024-04-01" time="12:00:00" value="1.5" flag="0"/></series></TimeSeries>"""
#: Recorded answers of the USGS, by dataset.
ANSWERS = {
    "instantaneous_values": "nwis_and_crosswalk/nwis_test_data.json",
    "daily_values": "usgs_recorded_responses/waterservices_dv.txt",
    "sites": "usgs_recorded_responses/nwis_sites.txt",
    "timeslices": "nwm_usgs_lower_colorado/usgs_TimeSlice/*13:00:00*.ncdf",
}


@pytest.mark.parametrize("name", sources.names())
def test_every_source_promises_what_the_warehouse_takes(name: str) -> None:
    promised = sources.contract(name)
    assert promised.configurations
    assert bool(promised.tables) == bool(promised.units) != bool(promised.fields)
    for each, columns in promised.tables.items():
        declared = definition(each).columns
        needed = {n for n, column in declared.items() if not column.nullable}
        assert needed <= {*columns.names} <= {*declared}, each
        types = {field.name: field.type for field in definition(each).arrow}
        assert all(field.type == types[field.name] for field in columns), each


def test_a_source_that_promises_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(usgs, "CONTRACT")
    file = raw_file(tmp_path, b"{}", "https://example.org", "usgs", "sites")
    for act in (
        lambda: sources.contract("usgs"), lambda: ingest.load(usgs.read, [file]), contracts.ages
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=r"source 'usgs' promises nothing: .*CONTRACT = "):
            act()
    with pytest.raises(NotFound, match="did you mean 'usgs'"):
        sources.contract("usgss")
    assert promises.of("by-hand") is None  # of what somebody landed, tables alone decide


def test_freshness_is_said_by_the_sources() -> None:
    ages = contracts.ages()
    assert ages["usgs_observations"] == dt.timedelta(days=2)
    assert ages["nwm*_short_range"] == dt.timedelta(hours=6)
    assert not {"nwm*_retrospective", "CNRFC_HEFS", "*"} & {*ages}


def keeps(source: ModuleType, tables: Tables) -> bool:
    """Whether all rows keep what the source promises."""
    name = source.__name__.rpartition(".")[2]
    promises.check_file(name, tables)
    return not any(promises.check_rows(name, n, rows)[1].num_rows for n, rows in tables.items())


def test_what_is_read_keeps_its_promise(tmp_path: Path) -> None:
    """Of the data that come with the code, and of one's own with as little as may be."""
    files = [
        raw_file(tmp_path, item.read_bytes(), "", "sample", item.name.removesuffix(".csv"))
        for item in (resources.files("thalweg.sources") / "sample_data").iterdir()
        if item.name.endswith(".csv")
    ]
    assert len(files) == 7
    assert keeps(sample, sample.read(files))
    assert keeps(hefs, hefs.read([raw_file(tmp_path, PI_XML.encode(), "", "hefs", "pi_xml")]))
    for source in (usgs, rfc, hefs):
        assert keeps(source, source.read([]))
    for name, columns in table.COLUMNS.items():
        head = [column for column, is_needed in columns.items() if is_needed]
        known = {"value_time": "2021-08-23T00:00Z", "value": "1.5"}
        line = [known.get(column, "x") for column in head]
        content = f"{','.join(head)}\n{','.join(line)}\n".encode()
        rows = table.read([raw_file(tmp_path, content, "", "table", "own")], Layout(name))
        assert (rows[name].num_rows, keeps(table, rows)) == (1, True), name


def test_what_is_recorded_keeps_its_promise(tmp_path: Path, shared_data: Path) -> None:
    for dataset, name in ANSWERS.items():
        content = next(shared_data.glob(name)).read_bytes()
        tables = usgs.read([raw_file(tmp_path, content, name, "usgs", dataset)])
        assert keeps(usgs, tables), dataset
        assert tables["locations" if dataset == "sites" else NAME].num_rows, dataset
    texas = shared_data / "nwm_usgs_lower_colorado"
    content = next((texas / "rfc_TimeSeries").iterdir()).read_bytes()
    assert keeps(rfc, rfc.read([raw_file(tmp_path, content, "", "rfc", "timeseries")]))
    content = (texas / "channel_forcing/202108231300.CHRTOUT_DOMAIN1").read_bytes()
    crosswalk = nwm.crosswalk((texas / "RouteLink.nc").read_bytes())[1]
    files = [raw_file(tmp_path, content, NWM, "nwm", "analysis_assim")]
    assert keeps(nwm, nwm.read(files, crosswalk))


def field(name: str, centre: str) -> bytes:
    """A GRIB message of this name as this centre encodes it; the centre decides on the unit."""
    sample = _grib.eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    message = _grib.eccodes.GRIBMessage(sample)
    for key, value in {"centre": centre, "shortName": name}.items():
        message.set(key, value, check_values=False)
    return bytes(message.get_buffer())


@pytest.mark.parametrize("source", [ifs, era5, cams, gfs], ids=lambda each: each.__name__)
def test_fields_are_in_the_unit_that_their_source_promises(
    tmp_path: Path, source: ModuleType
) -> None:
    name = source.__name__.rpartition(".")[2]
    own, other = ("kwbc", "ecmf") if source is gfs else ("ecmf", "kwbc")

    def read(short: str, centre: str) -> set[str]:
        file = raw_file(tmp_path, field(short, centre), "https://x", name, "gfs")
        file = replace(file, id=new_id())  # fields keep it as a number
        found = source.read([file])
        return {
            f"{n} {v.units}" for d in found.values() for n, v in d.items() if "units" in v.attrs
        }

    shorts = {"t2m": "2t", "d2m": "2d", "u10": "10u", "v10": "10v"}
    for cf, unit in source.CONTRACT.fields.items():
        assert read(shorts.get(cf, cf), own) == {f"{cf} {unit}"}
    assert read("sp", other) == {"sp Pa"}  # nobody spoke of it
    if "tp" in source.CONTRACT.fields:
        with pytest.raises(InvalidInput, match=r"has tp \(.*\) in '.*', its source promises '.*'"):
            read("tp", other)


@pytest.fixture
def location(store: Settings) -> str:
    """A place that the warehouse knows, and that no other test writes."""
    migrate(store.data_dir)
    name = f"usgs-{new_id()}"
    warehouse.write("locations", pa.table({"id": [name]}))
    return name


@cache
def migrate(data_dir: Path) -> None:
    database.migrate()
    warehouse.migrate()


def stages(location: str, file: RawFile) -> Tables:
    """Four hours of water levels as the USGS gives them, in feet."""
    constant = {
        "unit_name": "ft", "location_id": location, "configuration_name": "usgs_observations",
        "variable_name": "stage_hourly_inst", "raw_file_id": file.id,
    }  # fmt: skip
    rows = [
        {**constant, "value_time": START + dt.timedelta(hours=i), "value": float(i)}
        for i in range(4)
    ]
    promised = usgs.CONTRACT.tables
    configurations = [{"name": "usgs_observations", "type": "primary"}]
    return {
        "configurations": pa.Table.from_pylist(configurations, promised["configurations"]),
        NAME: pa.Table.from_pylist(rows, promised[NAME]),
    }


def landed(location: str) -> RawFile:
    return raw.land("usgs", "test", location.encode(), extension="txt", url="https://example.org")


def put(rows: pa.Table, name: str, values: Sequence[object] | pa.Array) -> pa.Table:
    array = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
    if name not in rows.column_names:
        return rows.append_column(name, array)
    return rows.set_column(rows.column_names.index(name), name, array)


def stored(location: str) -> int:
    return warehouse.read(NAME, where=f"location_id = '{location}'").num_rows


def test_a_file_of_another_shape_waits_as_a_whole(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file breaks it in each way there is; a good one beside it passes, and nothing is lost."""
    good, bad = landed(location), landed(f"{location}, changed")
    tables = stages(location, bad)
    rows = tables[NAME]
    breaches = {
        f"{NAME}.value: promised double, did not come": {NAME: rows.drop_columns(["value"])},
        f"{NAME}.quality_code: promised string, did not come": {
            NAME: rows.drop_columns(["quality_code"])
        },
        f"{NAME}.colour: not promised, came as string": {NAME: put(rows, "colour", ["red"] * 4)},
        f"{NAME}.value: promised double, came as string": {NAME: put(rows, "value", ["1"] * 4)},
        f"{NAME}.value: promised double, came as int64": {
            NAME: put(rows, "value", pa.array([1] * 4))
        },
        f"{NAME}.value_time: promised timestamp[us, tz=UTC], came as timestamp[us]": {
            NAME: put(rows, "value_time", pa.array([START.replace(tzinfo=None)] * 4))
        },
        "secondary_timeseries: no such table is promised, one came": {
            "secondary_timeseries": put(rows, "member", ["1"] * 4)
        },
    }
    for reason, changed in breaches.items():
        with pytest.raises(InvalidInput, match=re.escape(reason)):
            promises.check_file("usgs", tables | changed)

    def read(files: Sequence[RawFile]) -> Tables:
        return stages(location, good) if files[0] is good else tables | changed

    done = ingest.load(read, [bad, good])
    assert [w.table for w in done.written] == ["configurations", NAME]
    (entry,) = done.quarantined
    assert (entry.table, entry.raw_file_id) == (None, bad.id)
    assert reason in entry.reason
    assert "mend `read` or CONTRACT in thalweg.sources.usgs" in entry.reason
    # As long as nothing is mended it stays.
    monkeypatch.setattr(usgs, "read", read)
    with pytest.raises(InvalidInput, match="usgs does not give what it promises"):
        quarantine.retry(entry.id)
    assert quarantine.show(entry.id)[0].released_at is None
    assert stored(location) == 4
    monkeypatch.setattr(usgs, "read", lambda files: tables)
    assert quarantine.retry(entry.id).quarantined == ()
    assert quarantine.show(entry.id)[0].released_at is not None


@pytest.mark.parametrize(
    ("column", "came", "promised"),
    [
        ("unit_name", "m", "ft of stage_hourly_inst"),
        (
            "variable_name",
            "rainfall_hourly_rate",
            "streamflow_hourly_inst or streamflow_daily_mean or stage_hourly_inst",
        ),
        ("configuration_name", "nwm30_short_range", "usgs_observations"),
    ],
)
def test_rows_of_another_kind_wait_though_the_table_would_take_them(
    location: str, monkeypatch: pytest.MonkeyPatch, column: str, came: str, promised: str
) -> None:
    file = landed(location)
    tables = stages(location, file)
    rows = tables[NAME]
    if column == "variable_name":
        rows = put(rows, "unit_name", ["ft", "ft", "ft", "mm/h"])
    rows = put(rows, column, [*rows[column].to_pylist()[:3], came])
    done = ingest.load(lambda _: tables | {NAME: rows}, [file])
    (entry,) = done.quarantined
    assert (entry.table, entry.count, entry.raw_file_id) == (NAME, 1, file.id)
    assert entry.reason == (f"{column}: expected {promised}, as usgs promises, got {came} (1 rows)")
    assert stored(location) == 3
    assert quarantine.retry(entry.id).quarantined[0].count == 1
    (again,) = ingest.load(lambda _: tables | {NAME: rows}, [file]).quarantined
    assert (again.id, again.count) == (entry.id, 1)
    # The source learns of it: what waited is let in.
    wider = Contract(usgs.CONTRACT.tables, {"*": ("*",)}, {"*": None})
    monkeypatch.setattr(usgs, "CONTRACT", wider)
    assert quarantine.retry(entry.id).written[0].added == 1
    assert stored(location) == 4


def test_rows_that_break_both_contracts_are_one_entry(location: str) -> None:
    file = landed(location)
    tables = stages(location, file)
    rows = put(tables[NAME], "unit_name", ["m", "ft", "ft", "ft"])
    rows = put(rows, "value", pa.array([0.0, float("nan"), 2.0, 1e9]))
    names = put(tables["configurations"], "name", ["of_somebody"])
    done = ingest.load(lambda _: {"configurations": names, NAME: rows}, [file])
    assert {(e.table, e.count) for e in done.quarantined} == {(NAME, 3), ("configurations", 1)}
    reasons = " ".join(entry.reason for entry in done.quarantined)
    assert "name: expected usgs_observations, as usgs promises, got of_somebody" in reasons
    for reason in ("expected ft of stage", "expected a finite number", "-500 to 9,000 m of stage"):
        assert reason in reasons
    assert stored(location) == 1


def test_rows_made_of_fields_are_held_to_the_tables_alone(location: str) -> None:
    file = raw.land("ifs", "test", location.encode(), extension="grib2", url="https://example.org")
    rows = put(stages(location, file)[NAME], "configuration_name", ["my_own"] * 4)
    assert ingest.load(lambda _: {NAME: rows}, [file]).quarantined == ()
    assert stored(location) == 4
