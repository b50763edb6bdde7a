"""Inputs of metrics: names of tables and frames of every kind give the same, to the last digit."""

from __future__ import annotations

import datetime as dt
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import xarray as xr
from pyiceberg.catalog.rest import RestCatalog

from thalweg import database, metrics, warehouse
from thalweg.errors import InvalidInput, NotFound
from thalweg.metrics import evaluation, inputs, pairs, scale
from thalweg.metrics.bootstrap import Sampled
from thalweg.metrics.question import Question, asked
from thalweg.settings import Settings

NAMES = ["kge", "rmse", "spearman_r", "nse_log"]
TABLES = ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
Series = tuple[pa.Table, pa.Table, pa.Table]


@pytest.fixture(scope="module")
def gauges(shared_data: Path) -> Series:
    """A month of both real gauges."""
    folder = shared_data / "usgs_nwm_two_gauges"
    primary, secondary, crosswalk = (pq.read_table(folder / f"{name}.parquet") for name in TABLES)
    begin = dt.datetime(2006, 1, 1, tzinfo=dt.UTC)
    field = pc.field("value_time")
    chosen = (field >= begin) & (field < begin + dt.timedelta(days=31))
    return primary.filter(chosen), secondary.filter(chosen), crosswalk


@pytest.mark.parametrize(
    "turned",
    [
        lambda table: table,
        lambda table: table.to_pandas(),
        pl.from_arrow,
        lambda table: pl.from_arrow(table).lazy(),
    ],
    ids=["Arrow", "pandas", "Polars", "lazy Polars"],
)
def test_frames_of_every_kind(gauges: Series, turned: Any) -> None:
    expected = metrics.evaluate(*gauges, NAMES)
    assert len(expected) == 2
    assert metrics.evaluate(*(turned(table) for table in gauges), NAMES).equals(expected)


def test_xarray(gauges: Series) -> None:
    """One array a gauge over the time, with the other columns as coordinates without dimension."""
    expected = metrics.evaluate(*gauges, NAMES, by=["primary_location_id"])
    link = gauges[2].to_pylist()[0]
    sides = []
    ids = (link["primary_location_id"], link["secondary_location_id"])
    for table, id in zip(gauges[:2], ids, strict=True):
        frame = table.filter(pc.field("location_id") == id).to_pandas()
        same = {
            name: frame[name].iloc[0]
            for name in ("unit_name", "variable_name", "configuration_name", "location_id")
        }
        # Times of xarray are in UTC by convention, and say nothing of it.
        times = frame["value_time"].dt.tz_convert(None).to_numpy()
        sides.append(
            xr.DataArray(
                frame["value"].to_numpy(), name="value", dims="value_time",
                coords={"value_time": times, **same},
            )
        )  # fmt: skip
    sides[1] = sides[1].assign_coords(reference_time=sides[1]["value_time"].to_numpy()[0])
    (row,) = metrics.evaluate(*sides, gauges[2], NAMES, by=["primary_location_id"]).to_pylist()
    (same,) = expected.filter(
        pc.field("primary_location_id") == link["primary_location_id"]
    ).to_pylist()
    assert row == same


def test_tables_by_name(
    store: Settings, gauges: Series, rows_read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database.migrate()
    warehouse.migrate()
    for name, table in zip(TABLES, gauges, strict=True):
        if name == "primary_timeseries":
            table = table.drop("reference_time")
        warehouse.write(name, table)
    expected = metrics.evaluate(*gauges, NAMES)
    found = metrics.evaluate(metrics=NAMES)
    for name in NAMES:  # the order of rows is not promised
        assert found[name].to_pylist() == pytest.approx(expected[name].to_pylist(), rel=1e-12)
    assert metrics.evaluate(metrics=NAMES).equals(found)
    alone = metrics.evaluate(crosswalk=gauges[2].slice(0, 1), metrics=NAMES)
    assert alone["count"].to_pylist() == found["count"].to_pylist()[1:]
    mixed = metrics.evaluate("primary_timeseries", gauges[1].to_pandas(), gauges[2], NAMES)
    assert mixed["count"].equals(found["count"])
    assert len(metrics.joined()) == sum(expected["count"].to_pylist())
    # Each table is asked of the catalogue once.
    loaded = []
    load = RestCatalog.load_table
    with monkeypatch.context() as patch:
        patch.setattr(RestCatalog, "load_table", lambda c, i: loaded.append(i[-1]) or load(c, i))
        assert metrics.evaluate(metrics=NAMES).equals(found)
    assert sorted(loaded) == sorted(TABLES)
    # What a condition leaves out is not read, and nothing else is different for it.
    first, second = sorted(expected["primary_location_id"].to_pylist())
    begin, end = (dt.datetime(2006, 1, day, tzinfo=dt.UTC) for day in (10, 12))
    for where, parameters, options, share in (
        ("primary_location_id = ?", [first], {}, (0.5, 0.5)),
        ("Primary_Location_ID IN ($a, 'x') -- one", {"a": first}, {}, (0.5, 0.5)),
        (f"primary_location_id = '{first}' OR primary_location_id = '{second}'", [], {}, (1, 1)),
        ("value_time >= '2006-01-10' AND (value_time < ?)", [end], {}, (2 / 31, 2 / 31)),
        ("value_time BETWEEN ? AND ? AND primary_value > 1", [begin, end], {}, (2 / 31, 2 / 31)),
        ("value_time >= ? AND primary_location_id = ?", [begin, first], {}, (22 / 31, 22 / 31)),
        ("value_time < ?", [end], {"thresholds": {"high": "90%"}}, (1, 11 / 31)),
        ("configuration_name = 'nothing'", [], {}, (1, 0)),
        ("configuration_name NOT IN ('nothing')", [], {}, (1, 1)),
        ("value_time > '2006-01-10' OR true", [], {}, (1, 1)),
        ("NOT (value_time > '2006-01-10')", [], {}, (1, 1)),
        ("season = 'DJF' AND '2006-01-10' < value_time", [], {}, (1, 1)),
    ):
        given: Any = {"where": where, "parameters": parameters, **options}
        rows_read.clear()
        table = metrics.evaluate(metrics=NAMES, **given)
        read_now = [rows_read[name] for name in TABLES[:2]]
        if "primary_location_id = " in where and "OR" not in where and len(parameters) == 2:
            share = (share[0] / 2, share[1] / 2)
        for count, part, whole in zip(read_now, share, gauges[:2], strict=True):
            assert count == pytest.approx(part * len(whole), abs=4), where
        with monkeypatch.context() as patch:
            patch.setattr(evaluation, "narrowed", lambda _, *frames: frames)
            assert metrics.evaluate(metrics=NAMES, **given).equals(table), where
        with monkeypatch.context() as patch:  # as of tables that are larger
            patch.setattr(inputs, "ROWS", 1000)
            rows_read.clear()
            by_month = metrics.evaluate(metrics=["rmse"], **given)
            assert by_month["count"].equals(table["count"]), where
            assert rows_read[TABLES[1]] == pytest.approx(share[1] * len(gauges[1]), abs=4), where

    lake = gauges[0].drop("reference_time")
    lake = lake.set_column(
        lake.column_names.index("configuration_name"),
        "configuration_name",
        pa.array(["lake_observations"] * len(lake)),
    )
    (usgs,) = gauges[0]["configuration_name"].unique().to_pylist()
    warehouse.write("primary_timeseries", lake)
    with pytest.raises(InvalidInput, match=f"lake_observations, {usgs}.*primary_configuration"):
        metrics.evaluate(metrics=NAMES)
    assert metrics.evaluate(metrics=NAMES, primary_configuration=usgs).equals(found)
    with pytest.raises(NotFound, match="did you mean 'primary_timeseries'"):
        metrics.evaluate("primary_timeserie")


def test_a_forked_process_has_a_database_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And lets alone that of its parent, whose locks may be held for ever."""
    ours = pairs._engine(os.getpid())
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with pairs.database() as connection:
            assert connection.sql("SELECT 1").fetchall() == [(1,)]
    assert pairs._engine(os.getpid()) is ours


def test_a_database_that_has_ended_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an internal error of DuckDB ends it, for every connection."""

    class Ended:
        def cursor(self) -> Any:
            return self

        def execute(self, _: str) -> Any:
            raise duckdb.FatalException("database has been invalidated")

    engine = pairs._engine
    engines = iter([Ended()])
    monkeypatch.setattr(pairs, "_engine", lambda process: next(engines, None) or engine(process))
    monkeypatch.setattr(pairs._engine, "cache_clear", lambda: None, raising=False)
    with pairs.database() as connection:
        assert connection.sql("SELECT 1").fetchall() == [(1,)]


def test_what_outgrows_the_memory_is_for_this_account_alone() -> None:
    with pairs.database() as connection:
        ((folder,),) = connection.sql("SELECT current_setting('temp_directory')").fetchall()
    assert Path(folder).stat().st_mode & 0o777 == 0o700


def test_pieces_give_the_same_as_the_whole(gauges: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    """One location more in a piece changes nothing; nor do threads."""
    how = metrics.Bootstrap(replicates=5, block=24)
    options: dict[str, Any] = {"thresholds": {"high": "90%"}, "bootstrap": how}
    names = [*NAMES, "probability_of_detection"]
    whole = metrics.evaluate(*gauges, names, **options)
    monkeypatch.setattr(inputs, "ROWS", 1000)
    pieces = list(inputs.parts(*inputs.sources(*gauges), whole=False))
    assert [len(part.crosswalk) for part in pieces] == [1, 1]
    assert metrics.evaluate(*gauges, names, **options).equals(whole)
    assert scale.run(len, ["a", "bb"]) == [1, 2]
    # What a worker elsewhere is sent, and what it sends back.
    question = Sampled(Question(names=("kge",), **asked(["primary_location_id"])), how)
    there = pickle.loads(pickle.dumps(question.answer))  # noqa: S301 - our own
    assert there(pieces[0]).equals(question.answer(pieces[0]))


@pytest.mark.parametrize("text", [pa.large_string(), pa.string_view()])
def test_texts_of_every_kind_are_cut_into_pieces(
    gauges: Series, text: pa.DataType, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = metrics.evaluate(*gauges, NAMES)
    monkeypatch.setattr(inputs, "ROWS", 1000)
    turned = (
        table.cast(pa.schema([(f.name, text if pa.types.is_string(f.type) else f.type)
                              for f in table.schema]))
        for table in gauges
    )  # fmt: skip
    assert metrics.evaluate(*turned, NAMES).equals(whole)


def test_what_is_no_input(gauges: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    primary, secondary, crosswalk = gauges
    naive = primary.to_pandas()
    naive["value_time"] = naive["value_time"].dt.tz_convert(None)
    for wrong, says in (
        (naive, r"value_time holds times without a time zone: .*tz_localize\('UTC'\)"),
        ([1, 2], "expected the name of a warehouse table, .* got list"),
        (None, "got NoneType"),
        (primary.drop("value"), "primary lacks value; it has"),
    ):
        with pytest.raises(InvalidInput, match=says):
            metrics.evaluate(wrong, secondary, crosswalk)
    with pytest.raises(InvalidInput, match="crosswalk lacks secondary_location_id"):
        metrics.evaluate(primary, secondary, crosswalk.drop("secondary_location_id"))
    with pytest.raises(InvalidInput, match="cluster is int: expected"):
        metrics.evaluate(primary, secondary, crosswalk, cluster=3)
    assert len(metrics.evaluate(primary, secondary, crosswalk.slice(0, 0))) == 0
    nothing = pa.table({name: [] for name in crosswalk.column_names})  # of no type
    assert len(metrics.evaluate(primary, secondary, nothing)) == 0
    # A link that lacks one of its ends is none.
    whole = metrics.evaluate(primary, secondary, crosswalk, NAMES)
    ends = pa.array([None, "usgs-x"]), pa.array(["nwm30-x", None])
    broken = pa.concat_tables([crosswalk, pa.table([*ends], names=crosswalk.column_names)])
    monkeypatch.setattr(inputs, "ROWS", 1000)
    assert metrics.evaluate(primary, secondary, broken, NAMES).equals(whole)
