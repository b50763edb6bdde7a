from __future__ import annotations

import struct

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from thalweg import database, ingest, raw, sources, storage, warehouse
from thalweg.errors import InvalidInput, NotFound
from thalweg.settings import Settings
from thalweg.sources import sample


@pytest.fixture
def migrated(store: Settings) -> Settings:
    database.migrate()
    warehouse.migrate()
    return store


def test_sources_are_found_by_name() -> None:
    assert {"nwm", "sample", "usgs"} <= {*sources.names()}
    for name in sources.names():
        source = sources.get(name)
        assert source.TITLE
        assert source.LICENCE
        assert callable(source.fetch)
        assert callable(source.read)
    with pytest.raises(NotFound, match="unknown source 'usgss'; did you mean 'usgs'"):
        sources.get("usgss")


def test_the_sample_goes_the_way_of_all_data(migrated: Settings) -> None:
    files = sample.fetch()
    again = sample.fetch()
    assert again == files
    tables = sample.read(files)
    assert {name: rows.num_rows for name, rows in tables.items()} == {
        "configurations": 3,
        "locations": 3,
        "location_crosswalks": 3,
        "primary_timeseries": 121 + 1442,
        "secondary_timeseries": 960 + 60_564,
    }
    ingest.load(sample.read, files)
    again = ingest.load(sample.read, files)
    assert [(each.added, each.changed) for each in again.written] == [(0, 0)] * 5


def test_helene_is_as_usgs_and_noaa_gave_it(migrated: Settings) -> None:
    ingest.load(sample.read, sample.fetch())
    observed = warehouse.read("primary_timeseries", where="location_id = 'usgs-03171000'")
    assert observed.num_rows == 121
    assert set(observed["unit_name"].to_pylist()) == {"m^3/s"}
    # The flood: 170,000 ft³/s, about 4,814 m³/s.
    assert pc.max(observed["value"]).as_py() == pytest.approx(170_000 * 0.028316846592)
    forecast = warehouse.read("secondary_timeseries", where="location_id = 'nwm30-6884666'")
    assert forecast.num_rows == 4 * 240
    assert len(forecast["reference_time"].unique()) == 4
    assert pc.max(forecast["value"]).as_py() < 2300
    place = warehouse.read("locations", where="id = 'usgs-03171000'").to_pylist()[0]
    assert place["name"] == "NEW RIVER AT RADFORD, VA"
    assert struct.unpack("<dd", place["geometry"][5:]) == (-80.569225, 37.141793)


def test_the_sample_equals_its_origin(migrated: Settings, shared_data) -> None:
    loaded = ingest.load(sample.read, sample.fetch())
    for origin, table, factor in (
        ("fetch_nwm_streamflow/usgs_timeseries", "primary_timeseries", 1.0),
        ("fetch_nwm_streamflow/nwm_forecasts", "secondary_timeseries", 1.0),
        ("hefs_example/primary_timeseries", "primary_timeseries", 0.028316846592),
        ("hefs_example/secondary_timeseries", "secondary_timeseries", 0.028316846592),
    ):
        path = shared_data / "usgs_nwm_hefs_examples" / f"{origin}.parquet"
        expected = pq.read_table(path).to_pandas()
        expected["value"] = expected["value"].astype("float64") * factor
        ours = loaded.rows(table).to_pandas()
        key = ["location_id", "reference_time", "value_time"]
        if table == "secondary_timeseries":
            key.append("member")
            expected["member"] = expected["member"].astype(str)
        for name in ("value_time", "reference_time"):
            ours[name] = ours[name].astype("datetime64[us, UTC]").dt.tz_convert(None)
            expected[name] = expected[name].astype("datetime64[us]")
        both = expected.merge(ours, on=key, suffixes=("", "_ours"))
        assert len(both) == len(expected)
        assert abs(both["value_ours"] / both["value"] - 1).max() < 1e-6


def test_hefs_keeps_its_members(migrated: Settings) -> None:
    rows = sample.read(sample.fetch())["secondary_timeseries"]
    hefs = rows.filter(pc.field("configuration_name") == "CNRFC_HEFS")
    assert sorted(hefs["member"].unique().to_pylist(), key=int) == [str(i) for i in range(1, 43)]
    assert set(hefs["location_id"].unique().to_pylist()) == {"SCBC1", "MRYC1"}


def test_a_damaged_file_is_refused(migrated: Settings) -> None:
    text = b"value_time,value,unit_name\n2024-01-01T00:00:00Z,1.0,m^3/s\n"
    file = raw.land("sample", "x_primary_timeseries", text, extension="csv", url="u")
    storage.filesystem(file.uri).pipe_file(file.uri, text[:-3])
    with pytest.raises(InvalidInput, match="damaged"):
        sample.read([file])
