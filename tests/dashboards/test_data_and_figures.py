"""What the dashboards read and draw, without a browser."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from bokeh.models import GlyphRenderer, Line, Scatter

from thalweg import dashboards, warehouse
from thalweg.dashboards import data
from thalweg.metrics import METRICS
from thalweg.settings import Settings

HELENE = ("usgs-03171000", "nwm30_medium_range", "streamflow_hourly_inst")
YUBA = ("usgs-11421000", "CNRFC_HEFS", "streamflow_hourly_inst")


def drawn(plot, kind: type) -> list[GlyphRenderer]:
    return [each for each in plot.renderers if isinstance(each.glyph, kind)]


@pytest.fixture
def gauges() -> pd.DataFrame:
    values = {name: [0.5, np.nan, -3.0] for name in METRICS}
    return pd.DataFrame(
        values
        | {
            "primary_location_id": ["a", "b", "c"],
            "name": ["Upper", "Middle <b>", "Lower"],
            "unit_name": "m^3/s",
            "count": [10, 1, 1000],
            "longitude": [-80.6, -81.0, np.nan],
            "latitude": [37.1, 36.0, np.nan],
        }
    )


def test_skill_holds_what_the_warehouse_holds(sample: Settings) -> None:
    skill = dashboards.skill()
    helene = skill[skill["primary_location_id"] == HELENE[0]].set_index("lead_time_bin")
    assert helene.loc[dashboards.ALL_LEAD_TIMES, "count"] == 444
    assert helene.loc[dashboards.ALL_LEAD_TIMES, "name"] == "NEW RIVER AT RADFORD, VA"
    assert helene.loc[dashboards.ALL_LEAD_TIMES, ["longitude", "latitude"]].tolist() == (
        pytest.approx([-80.5692, 37.1418], abs=1e-3)
    )
    stored = warehouse.read("metrics", where="primary_location_id = 'usgs-03171000'").to_pandas()
    kge = stored[stored["metric_name"] == "kge"].set_index("lead_time_bin")["value"]
    assert helene.loc[24, "kge"] == kge.loc[24]
    assert np.isnan(helene.loc[120, "kge"])


def test_a_new_metric_shows_at_the_next_look(sample: Settings) -> None:
    before = dashboards.skill()
    row = {
        "primary_location_id": "usgs-03171000",
        "configuration_name": "nwm30_medium_range",
        "variable_name": "streamflow_hourly_inst",
        "unit_name": "m^3/s",
        "lead_time_bin": 9000,
        "metric_name": "kge",
        "value": 0.25,
        "count": 7,
    }
    warehouse.write("metrics", pa.Table.from_pylist([row]))
    after = dashboards.skill()
    assert len(after) == len(before) + 1
    assert after.loc[after["lead_time_bin"] == 9000, "kge"].tolist() == [0.25]
    assert dashboards.skill() is after, "nothing changed: nothing is read again"


def test_series_of_a_single_valued_forecast(sample: Settings) -> None:
    observed, forecasts, unit = dashboards.series(*HELENE)
    assert (len(observed), len(forecasts), unit) == (121, 960, "m^3/s")
    assert observed["value"].max() == pytest.approx(4813.9, abs=0.1)
    assert forecasts["reference_time"].nunique() == 4
    assert (forecasts["low"] == forecasts["high"]).all()
    assert dashboards.issue_months(forecasts) == ["2024-09"]
    assert dashboards.described(forecasts) == (
        "4 forecasts issued 2024-09-26 00:00 to 2024-09-26 18:00 UTC"
    )


def test_observations_are_those_that_forecasts_are_compared_with(sample: Settings) -> None:
    location, configuration, variable = HELENE
    rows = warehouse.read("primary_timeseries", where=f"location_id = '{location}'").slice(0, 9)
    network = rows["configuration_name"][0].as_py()
    other = pa.array(["another_network"] * len(rows))
    place = rows.column_names.index("configuration_name")
    warehouse.write("primary_timeseries", rows.set_column(place, "configuration_name", other))
    month = {
        "month": pd.Timestamp("2024-09-01", tz="UTC"),
        "primary_location_id": location,
        "configuration_name": configuration,
        "variable_name": variable,
        "unit_name": "m^3/s",
        "lead_time_bin": None,
        "primary_configuration_name": network,
        "count": 1,
    }
    warehouse.write("monthly_statistics", pa.Table.from_pylist([month]))
    assert len(dashboards.series(*HELENE)[0]) == 121


def test_series_of_an_ensemble_is_its_median_and_band(sample: Settings) -> None:
    _, forecasts, _ = dashboards.series(*YUBA)
    members = warehouse.read("secondary_timeseries", where="location_id = 'MRYC1'").to_pandas()
    at = forecasts.iloc[100]
    values = members.loc[members["value_time"] == at["value_time"], "value"]
    assert at["members"] == len(values) == 42
    assert at["median"] == values.median()
    assert [at["low"], at["high"]] == list(np.quantile(values, [0.1, 0.9]))


def test_months_part_the_forecasts_by_issue_and_an_analysis_by_value() -> None:
    times = pd.to_datetime(["2024-09-30 23:00", "2024-10-01 01:00"], utc=True)
    issued = pd.DataFrame({"reference_time": times[[0, 0]], "value_time": times})
    analysis = issued.assign(reference_time=pd.Series([pd.NaT] * 2, dtype=times.dtype))
    assert dashboards.issue_months(issued) == ["2024-09"]
    assert dashboards.issue_months(analysis) == ["2024-10", "2024-09"]
    observed = pd.DataFrame({"value_time": times, "value": [1.0, 2.0]})
    assert len(dashboards.issued_in("2024-09", observed, issued)[0]) == 2
    assert dashboards.issued_in("2024-10", observed, analysis)[0]["value"].tolist() == [2.0]


def test_a_location_that_is_no_point_has_no_place_on_the_map() -> None:
    assert np.isnan(data._point(None)).all()
    assert np.isnan(data._point(b"\x01\x03\x00\x00\x00" + b"\x00" * 30)).all()


#: One metric of each range, perfect value and kind of unit: they decide on the colours.
SCALES = {(m.range, m.perfect, m.has_unit): name for name, m in METRICS.items()}


@pytest.mark.parametrize("name", SCALES.values())
def test_every_metric_colours_the_map(gauges: pd.DataFrame, name: str) -> None:
    metric = METRICS[name]
    plot, source = dashboards.skill_map(gauges, metric)
    (points,) = drawn(plot, Scatter)
    mapper = points.glyph.fill_color.transform
    assert metric.perfect is None or mapper.low <= metric.perfect <= mapper.high
    assert np.isfinite([mapper.low, mapper.high]).all()
    assert mapper.low < mapper.high
    assert list(source.data["primary_location_id"]) == ["a", "b", "c"]
    title = dashboards.axis_title(metric.title, metric.unit("m^3/s"))
    assert plot.below[-1].title.startswith(title)


def test_metrics_are_chosen_by_their_kind() -> None:
    chosen = dashboards.metric_choices(["rmse", "kge", "brier_score", "count", "primary_sum"])
    assert chosen == {
        "Of single values": {METRICS[name].title: name for name in ("kge", "rmse")},
        "Of ensembles": {METRICS["brier_score"].title: "brier_score"},
        "Signatures of a series": {METRICS["primary_sum"].title: "primary_sum"},
    }
    every = dashboards.metric_choices(METRICS)
    assert sorted(name for kind in every.values() for name in kind.values()) == sorted(METRICS)
    for metric in METRICS.values():
        said = dashboards.metric_said(metric, "m^3/s")
        assert ("m³/s" in said) == metric.has_unit
        assert ("perfect" in said) == (metric.perfect is not None)


def test_a_map_without_places_is_still_a_map(gauges: pd.DataFrame) -> None:
    nowhere = gauges.assign(longitude=np.nan, latitude=np.nan, kge=np.nan)
    plot, _ = dashboards.skill_map(nowhere, METRICS["kge"])
    assert plot.x_range.start < plot.x_range.end


def test_hydrograph_has_a_line_for_each_issue_and_the_observations(sample: Settings) -> None:
    observed, forecasts, unit = dashboards.series(*HELENE)
    plot = dashboards.hydrograph(observed, forecasts, "Streamflow", unit)
    lines = drawn(plot, Line)
    assert len(lines) == 5
    assert max(lines[-1].data_source.data["value"]) == observed["value"].max()
    assert (plot.xaxis.axis_label, plot.yaxis.axis_label) == ("Time, UTC", "Streamflow, m³/s")


def test_hydrograph_of_an_analysis_and_of_nothing(sample: Settings) -> None:
    observed, forecasts, _ = dashboards.series(*HELENE)
    first = forecasts["reference_time"].min()
    missing = pd.Series(pd.NaT, forecasts.index, dtype=forecasts["reference_time"].dtype)
    analysis = forecasts[forecasts["reference_time"] == first].assign(reference_time=missing)
    plot = dashboards.hydrograph(observed, analysis, "Streamflow", "m^3/s")
    assert [item.label.value for item in plot.legend.items] == ["analysis", "observed"]
    assert dashboards.described(analysis) == "analysis, 240 values"

    nothing = dashboards.series(HELENE[0], "no_such_configuration", HELENE[2])
    assert [len(nothing[0]), len(nothing[1]), nothing[2]] == [0, 0, ""]
    assert dashboards.issue_months(nothing[1]) == []
    assert len(drawn(dashboards.hydrograph(*nothing[:2], "Streamflow", ""), Line)) == 1


def test_tables_name_units_and_say_what_is_undefined(gauges: pd.DataFrame) -> None:
    bins = gauges.assign(lead_time_bin=[dashboards.ALL_LEAD_TIMES, 0, 24])
    html = dashboards.lead_time_table(bins)
    assert "Root mean square error, m³/s" in html
    assert html.count("<td>undefined</td>") == len(METRICS)
    titles = dashboards.gauge_table(gauges).titles
    assert titles["rmse"] == "Root mean square error, m³/s"


def test_the_basemap_is_small_valid_geojson() -> None:
    text = (resources.files("thalweg.dashboards") / "basemap.geojson").read_text()
    assert len(text) <= 150_000
    layers = {f["properties"]["layer"]: f["geometry"] for f in json.loads(text)["features"]}
    assert set(layers) == {"land", "lakes", "rivers", "borders"}
    for ring in (
        polygon[0] for name in ("land", "lakes") for polygon in layers[name]["coordinates"]
    ):
        assert len(ring) >= 4
        assert np.abs(ring).max() <= 180
