"""Skill against a reference: by hand, and on the real series of two gauges."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import properscoring
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from thalweg import metrics
from thalweg.errors import InvalidInput, NotFound
from thalweg.metrics.reference import _one_place_each

UTC = pa.timestamp("us", "UTC")
CROSSWALK = pa.table({"primary_location_id": ["gauge"], "secondary_location_id": ["reach"]})
Row = tuple[dt.datetime | None, dt.datetime, float | None]


def at(day: str, hour: int = 0) -> dt.datetime:
    return dt.datetime.fromisoformat(day).replace(hour=hour, tzinfo=dt.UTC)


def series(
    rows: Sequence[Row], location: str, configuration: str = "hefs", member: str | None = None
) -> pa.Table:
    def text(value: str | None) -> pa.Array:
        return pa.array([value] * len(rows), pa.string())

    return pa.table(
        {
            "reference_time": pa.array([row[0] for row in rows], UTC),
            "value_time": pa.array([row[1] for row in rows], UTC),
            "value": pa.array([row[2] for row in rows], pa.float64()),
            "unit_name": text("m^3/s"),
            "location_id": text(location),
            "configuration_name": text(configuration),
            "variable_name": text("streamflow_hourly_inst"),
            "member": text(member),
        }
    )


def observations(values: dict[dt.datetime, float | None]) -> pa.Table:
    rows = [(None, time, value) for time, value in values.items()]
    return series(rows, "gauge", "usgs_observations").drop_columns("member")


DAY = "2024-09-26"
OBSERVED = {at(DAY, h): v for h, v in enumerate([1.0, None, 3.0, float("nan"), 5.0, 6.0, 7.0])}


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    names = ("reference_time", "value_time", "value", "member")
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def test_persistence_holds_the_last_observation() -> None:
    forecasts = [
        (at(DAY, 1), at(DAY, 4), 9.0), (at(DAY, 3), at(DAY, 4), 9.0), (at(DAY, 4), at(DAY, 5), 9.0),
        (at(DAY, 4), at(DAY, 6), 9.0), (at("2024-09-25"), at(DAY, 4), 9.0), (None, at(DAY, 5), 9.0),
    ]  # fmt: skip
    members = [series(forecasts, "reach", member=member) for member in ("1", "2")]
    found = metrics.persistence(observations(OBSERVED), pa.concat_tables(members), CROSSWALK)
    # at 1 and 3 o'clock the observation is missing; on the 25th there is none yet
    assert rows_of(found) == [
        (at(DAY, 1), at(DAY, 4), 1.0, None), (at(DAY, 3), at(DAY, 4), 3.0, None),
        (at(DAY, 4), at(DAY, 5), 5.0, None), (at(DAY, 4), at(DAY, 6), 5.0, None),
    ]  # fmt: skip
    assert set(found["configuration_name"].to_pylist()) == {"persistence"}
    assert set(found["location_id"].to_pylist()) == {"reach"}
    assert set(found.column_names) == set(members[0].column_names)


def test_observations_of_several_configurations() -> None:
    """The reference is made of those that are chosen."""
    mine = observations(OBSERVED)
    other = series([(None, at(DAY, 0), 8.0)], "gauge", "lake").drop_columns("member")
    given = (pa.concat_tables([mine, other]), series([(at(DAY, 0), at(DAY, 4), 9.0)], "reach"))
    for of in (metrics.persistence, metrics.climatology):
        with pytest.raises(InvalidInput, match="choose one by primary_configuration"):
            of(*given, CROSSWALK)
    for name, value in (("usgs_observations", 1.0), ("lake", 8.0)):
        found = metrics.persistence(*given, CROSSWALK, primary_configuration=name)
        assert found["value"].to_pylist() == [value]


def test_a_location_of_two_gauges_has_no_reference() -> None:
    two = pa.table(
        {"primary_location_id": ["gauge", "other"], "secondary_location_id": ["reach"] * 2}
    )
    both = observations(OBSERVED), series([(at(DAY, 2), at(DAY, 4), 9.0)], "reach"), two
    for of in (metrics.persistence, metrics.climatology, metrics.skill):
        with pytest.raises(InvalidInput, match="reach stands for 2 primary locations"):
            of(*both)


def test_a_crosswalk_may_come_from_several_files() -> None:
    """Read of the warehouse, texts are dictionaries, and each file has its own."""
    files = [
        pa.table({name: pa.array([text]).dictionary_encode() for name in CROSSWALK.column_names})
        for text in ("one", "other")
    ]
    _one_place_each(pa.concat_tables(files))


def test_climatology_is_of_other_years_at_the_same_time() -> None:
    """Values tell their date as 10000 year + 100 month + day, at noon; at midnight they are 0."""
    first, last = at("2019-01-01"), at("2022-12-31")
    days = [first + dt.timedelta(days=i) for i in range((last - first).days + 1)]
    noon = {d.replace(hour=12): float(f"{d:%Y%m%d}") for d in days if f"{d:%Y%m%d}" != "20210101"}
    primary = observations(noon | dict.fromkeys(days, 0.0))
    wanted = [(at("2019-12-31"), at(day, 12), 1.0) for day in ("2020-01-01", "2020-02-29")]

    def found(window: int) -> dict[str, list[str]]:
        table = metrics.climatology(primary, series(wanted, "reach"), CROSSWALK, window)
        assert set(table["configuration_name"].to_pylist()) == {"climatology"}
        dates: dict[str, list[str]] = {}
        for reference, time, value, member in rows_of(table):
            assert reference == at("2019-12-31")
            assert member.replace("-", "") == str(int(value))
            dates.setdefault(f"{time:%Y-%m-%d}", []).append(member)
        return dates

    # the 29th of February is the 28th in other years; the 1st of January 2021 is missing
    assert found(0) == {
        "2020-01-01": ["2019-01-01", "2022-01-01"],
        "2020-02-29": ["2019-02-28", "2021-02-28", "2022-02-28"],
    }
    # around New Year: the windows of 2021 and 2023 reach back into December, that of 2019 is empty
    assert found(1)["2020-01-01"] == [
        "2019-01-01", "2019-01-02", "2020-12-31", "2021-01-02", "2021-12-31", "2022-01-01",
        "2022-01-02", "2022-12-31",
    ]  # fmt: skip
    assert len(found(15)["2020-02-29"]) == 3 * 31
    with pytest.raises(InvalidInput, match="0 to 182 days"):
        found(183)


HOURS = [at(DAY, h) for h in (4, 5, 6)]


def test_skill_by_hand() -> None:
    """Over the times that both have: errors 1 and 2 beside those of the reference, 2 and 4."""
    issued = at(DAY)
    mine = series([(issued, t, v) for t, v in zip(HOURS, (6.0, 8.0, 99.0), strict=True)], "reach")
    theirs = series(
        [(issued, HOURS[0], 7.0), (issued, HOURS[1], 2.0), (at(DAY, 1), HOURS[2], 7.0)],
        "reach", "old",
    )  # fmt: skip
    both = observations(OBSERVED), pa.concat_tables([mine, theirs]), CROSSWALK
    (row,) = metrics.skill(*both, ["rmse", "crps_ensemble", "nse"], reference="old").to_pylist()
    assert row["configuration_name"] == "hefs"
    assert row["count"] == 2
    assert row["rmse"] == pytest.approx(2.5**0.5, rel=1e-15)
    assert row["rmse_reference"] == pytest.approx(10**0.5, rel=1e-15)
    assert row["rmse_skill"] == pytest.approx(0.5, rel=1e-15)
    assert (row["crps_ensemble"], row["crps_ensemble_reference"]) == (1.5, 3.0)
    assert row["crps_ensemble_skill"] == 0.5
    # observed 5 and 6: squares of 0.5 in the mean of squares
    assert row["nse_reference"] == pytest.approx(1 - 10 / 0.25, rel=1e-15)
    assert row["nse_skill"] == pytest.approx(0.75, rel=1e-15)
    (held,) = metrics.skill(
        *both, ["rmse"], where="configuration_name = 'hefs'", reference="persistence"
    ).to_pylist()
    # the observation of midnight, 1, is 4, 5 and 6 too low
    assert held["rmse_reference"] == pytest.approx((77 / 3) ** 0.5, rel=1e-15)


def test_skill_has_both_sides_of_perfection() -> None:
    """A bias of -1/11 is as good as one of +1/11, not worse than perfect."""
    issued = at(DAY)
    mine = series([(issued, HOURS[0], 5.0), (issued, HOURS[1], 5.0)], "reach")
    high = series([(issued, HOURS[0], 5.0), (issued, HOURS[1], 7.0)], "reach", "high")
    perfect = series([(issued, HOURS[0], 5.0), (issued, HOURS[1], 6.0)], "reach", "perfect")
    both = observations(OBSERVED), pa.concat_tables([mine, high, perfect]), CROSSWALK
    row = metrics.skill(*both, ["relative_bias"], reference="high").to_pylist()[0]
    assert row["relative_bias"] == pytest.approx(-row["relative_bias_reference"], rel=1e-15)
    assert row["relative_bias_skill"] == pytest.approx(0, abs=1e-15)
    rows = metrics.skill(*both, ["rmse"], reference="perfect").to_pylist()
    assert {row["rmse_skill"] for row in rows} == {None}
    rows = metrics.skill(*both, ["rmse"], reference="high").to_pylist()
    assert {r["configuration_name"]: r["rmse_skill"] for r in rows} == {"hefs": 0, "perfect": 1}


def test_a_reference_with_locations_of_its_own() -> None:
    issued = at(DAY)
    mine = series([(issued, t, 6.0) for t in HOURS], "reach")
    theirs = series([(issued, t, 8.0) for t in HOURS], "forecast point", "rfc")
    crosswalk = pa.table({
        "primary_location_id": ["gauge"] * 2, "secondary_location_id": ["reach", "forecast point"]
    })  # fmt: skip
    both = observations(OBSERVED), pa.concat_tables([mine, theirs]), crosswalk
    by = ["secondary_location_id"]
    (row,) = metrics.skill(*both, ["mean_error"], by, reference="rfc").to_pylist()
    assert row["secondary_location_id"] == "reach"
    assert (row["count"], row["mean_error"], row["mean_error_reference"]) == (3, 0, 2)
    assert row["mean_error_skill"] == 1


def test_what_has_no_skill_is_refused() -> None:
    both = observations(OBSERVED), series([(at(DAY), t, 6.0) for t in HOURS], "reach"), CROSSWALK
    with pytest.raises(InvalidInput, match="true_positives has no perfect value"):
        metrics.skill(*both, ["true_positives"], thresholds={"high": 2.0})
    with pytest.raises(InvalidInput, match="member"):
        metrics.skill(*both, ["rmse"], ["member"])
    with pytest.raises(InvalidInput, match="secondary_value"):
        metrics.skill(*both, ["rmse"], where="secondary_value > 2")
    with pytest.raises(InvalidInput, match="no forecast shares"):
        metrics.skill(*both, ["rmse"], reference="nwm")
    with pytest.raises(NotFound, match="rmse"):
        metrics.skill(*both, ["rmes"])


@pytest.fixture(scope="module")
def autumn(shared_data: Path) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Ten days of the retrospective as if forecast each midnight; observations of twelve years."""
    folder = shared_data / "usgs_nwm_two_gauges"
    names = ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
    primary, secondary, crosswalk = (pq.read_table(folder / f"{name}.parquet") for name in names)
    first = pc.greater_equal(secondary["value_time"], pa.scalar(at("2005-11-20"), UTC))
    last = pc.less(secondary["value_time"], pa.scalar(at("2005-11-30"), UTC))
    secondary = secondary.filter(pc.and_(first, last))
    i = secondary.column_names.index("reference_time")
    midnight = pc.floor_temporal(secondary["value_time"], unit="day").cast(UTC)
    return primary, secondary.set_column(i, "reference_time", midnight), crosswalk


def test_skill_against_climatology_on_real_series(
    autumn: tuple[pa.Table, pa.Table, pa.Table],
) -> None:
    rows = metrics.skill(*autumn, ["crps_ensemble", "rmse"], reference="climatology").to_pylist()
    pairs = metrics.joined(*autumn).to_pandas()
    observed = autumn[0].to_pandas()
    assert len(rows) == 2
    for row in rows:
        here = observed[observed["location_id"] == row["primary_location_id"]]
        values = here.set_index("value_time")["value"].astype(float).dropna()
        mine = pairs[pairs["primary_location_id"] == row["primary_location_id"]]
        assert row["count"] == len(mine) > 200
        crps = [
            properscoring.crps_ensemble(o, climate(values, time))
            for time, o in zip(mine["value_time"], mine["primary_value"], strict=True)
        ]
        error = np.abs(mine["primary_value"] - mine["secondary_value"]).mean()
        assert row["crps_ensemble"] == pytest.approx(error, rel=1e-12)
        assert row["crps_ensemble_reference"] == pytest.approx(np.mean(crps), rel=1e-10)
        assert row["crps_ensemble_skill"] == pytest.approx(1 - error / np.mean(crps), rel=1e-10)


def climate(values: Any, time: Any) -> Any:
    """Observations within 15 days of the day in the other years, at the same hour."""
    times = [
        time.replace(year=year) + dt.timedelta(days=day)
        for year in range(1999, 2014) if year != time.year for day in range(-15, 16)
    ]  # fmt: skip
    return values.reindex(times).dropna().to_numpy()


def test_persistence_on_real_series(autumn: tuple[pa.Table, pa.Table, pa.Table]) -> None:
    primary, secondary, crosswalk = autumn
    made = metrics.persistence(*autumn)
    here = primary.to_pandas().dropna(subset=["value"]).set_index("value_time").sort_index()
    of = dict(
        zip(*(crosswalk[n].to_pylist() for n in reversed(crosswalk.column_names)), strict=True)
    )
    assert len(made) == len(secondary)
    for row in made.slice(0, 500).to_pylist()[::17]:
        mine = here[here["location_id"] == of[row["location_id"]]]["value"]
        assert row["value"] == mine[: row["reference_time"]].iloc[-1]
    # made beforehand and named, it is the same
    both = pa.concat_tables([secondary, made], promote_options="permissive")
    named = metrics.skill(primary, both, crosswalk, ["rmse"], reference="persistence")
    assert named.equals(metrics.skill(*autumn, ["rmse"], reference="persistence"))
