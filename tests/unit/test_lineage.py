"""A number back to its bytes, and a file on to what was made of it; Helene at Radford, in runs."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
import xarray as xr
from rich.console import Console
from typer.testing import CliRunner

from thalweg import database, gridded, lineage, raw, warehouse
from thalweg import metrics as library
from thalweg.cli import app
from thalweg.database import new_id
from thalweg.errors import InvalidInput, NotFound
from thalweg.hub import environment
from thalweg.lineage import Lineage
from thalweg.pipelines import history
from thalweg.raw import RawFile
from thalweg.settings import Settings
from thalweg.sources import sample
from thalweg.warehouse import units

CORRECTED = b"2024-09-29T00:00:00Z"
#: The required parts of a run event, version 2-0-2, and of the facets used.
FACET = {
    "type": "object",
    "required": ["_producer", "_schemaURL"],
    "properties": {n: {"type": "string", "format": "uri"} for n in ("_producer", "_schemaURL")},
}
DATASET = {
    "type": "object",
    "required": ["namespace", "name"],
    "properties": {
        "namespace": {"type": "string", "pattern": "^[a-z0-9]+://"},
        "name": {"type": "string", "minLength": 1},
        "facets": {
            "type": "object",
            "additionalProperties": FACET,
            "required": ["version"],
            "properties": {"version": {"required": ["datasetVersion"]}},
        },
        "outputFacets": {"type": "object", "additionalProperties": FACET},
    },
}
#: Facets that the specification has, in the version of August 2026.
FACETS = {
    "1-0-0/ExecutionParametersRunFacet.json",
    "1-0-0/TagsRunFacet.json",
    "1-0-1/DatasetVersionDatasetFacet.json",
    "1-0-1/DatasourceDatasetFacet.json",
    "1-0-1/ErrorMessageRunFacet.json",
    "1-0-2/OutputStatisticsOutputDatasetFacet.json",
    "1-2-0/SchemaDatasetFacet.json",
    "2-0-4/JobTypeJobFacet.json",
}
RUN_EVENT = {
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": {"type": "string", "format": "date-time"},
        "producer": {"type": "string", "format": "uri"},
        "schemaURL": {"type": "string", "format": "uri"},
        "run": {
            "required": ["runId"],
            "properties": {
                "runId": {"type": "string", "format": "uuid"},
                "facets": {
                    "type": "object",
                    "additionalProperties": FACET,
                    "properties": {
                        "errorMessage": {"required": ["message", "programmingLanguage"]},
                    },
                },
            },
        },
        "job": {
            "required": ["namespace", "name"],
            "properties": {
                "facets": {
                    "type": "object",
                    "additionalProperties": FACET,
                    "properties": {"jobType": {"required": ["processingType", "integration"]}},
                }
            },
        },
        "inputs": {"type": "array", "items": DATASET},
        "outputs": {"type": "array", "items": DATASET},
    },
}


def tables_of(files: list[RawFile]) -> dict[str, pa.Table]:
    """What the sample reads, in the units of the warehouse."""
    tables = sample.read(files)
    for name in tables.keys() & {"primary_timeseries", "secondary_timeseries"}:
        tables[name], _ = units.convert(tables[name], units.STANDARD)
    return tables


@dataclass
class Story:
    """What happened, at a gauge and a reach that no other test has."""

    settings: Settings
    gauge: str = field(default_factory=lambda: f"usgs-{new_id()}")
    reach: str = field(default_factory=lambda: f"nwm30-{new_id()}")
    runs: dict[str, str] = field(default_factory=dict)
    files: dict[str, RawFile] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"primary_location_id = '{self.gauge}'"

    def run(self, name: str, work: Callable[[], object], error: str | None = None) -> None:
        """Do some work as a run of a pipeline of this name."""
        begun = history.begin(new_id(), name, {"gauge": self.gauge}, "command", self.settings)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("THALWEG_RUN_ID", begun.id)
            work()
        state = "failed" if error else "succeeded"
        ended = replace(begun, state=state, error=error, ended_at=begun.started_at)
        self.runs[name] = history.end(ended, self.settings).id

    def load(self, name: str, table: str, content: bytes) -> None:
        for old, new in ((b"usgs-03171000", self.gauge), (b"nwm30-6884666", self.reach)):
            content = content.replace(old, new.encode())
        file = raw.land(
            "sample", f"helene_{table}", content, extension="csv", url=f"https://example.org/{name}"
        )
        self.files[name] = file
        warehouse.write_all(tables_of([file]))

    def evaluate(self) -> None:
        parts = [
            warehouse.read("primary_timeseries", where=f"location_id = '{self.gauge}'"),
            warehouse.read("secondary_timeseries", where=f"location_id = '{self.reach}'"),
            warehouse.read("location_crosswalks", where=self.where),
        ]
        result = library.evaluate(*parts, ["kge", "nse"])
        warehouse.write("metrics", library.to_long(result))


@pytest.fixture(scope="module")
def story(store_settings: Settings) -> Iterator[Story]:
    """Two files of observations, one of forecasts, an evaluation, a correction, another one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.data_environment(store_settings).items():
            patch.setenv(name, value)
        database.migrate()
        warehouse.migrate()
        told = Story(store_settings)
        folder = Path(sample.__file__).parent / "sample_data"
        contents = {
            table: (folder / f"helene_{table}.csv").read_bytes()
            for table in ("primary_timeseries", "secondary_timeseries", "location_crosswalks")
        }
        head, *lines = contents["primary_timeseries"].splitlines(keepends=True)
        first, second = (head + b"".join(part) for part in (lines[:60], lines[60:]))
        (row,) = [line for line in lines if CORRECTED in line]
        better = head + row.replace(row.split(b",")[2], b"54321")
        load = told.load
        told.run("first", lambda: load("first", "primary_timeseries", first))
        told.run("second", lambda: load("second", "primary_timeseries", second))
        told.run(
            "forecasts",
            lambda: [
                load(name, name, contents[name])
                for name in ("location_crosswalks", "secondary_timeseries")
            ],
        )
        told.run("early", told.evaluate)
        told.run("correction", lambda: load("correction", "primary_timeseries", better))
        told.run("late", told.evaluate, error="the plot failed")
        yield told


@pytest.fixture(autouse=True)
def environs(store: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def named(found: Lineage, story: Story, kind: str) -> set[str]:
    """The runs or raw files of a graph by the names that the story has for them."""
    ids = story.runs if kind == "run" else {name: file.id for name, file in story.files.items()}
    return {name for name, id in ids.items() if f"{kind} {id}" in found.nodes}


def rows(found: Lineage, table: str) -> int:
    (node,) = [n for n in found.nodes.values() if (n.kind, n.name) == ("rows", table)]
    return node.about["rows"]


def test_a_metric_value_leads_to_the_bytes_that_it_was_computed_from(story: Story) -> None:
    where = f"{story.where} and metric_name = 'kge'"
    (metric,) = warehouse.read("metrics", where=where).to_pylist()
    found = lineage.up("metrics", where)
    assert named(found, story, "run") == {"first", "second", "forecasts", "correction", "late"}
    files = named(found, story, "raw")
    assert files == {"first", "second", "correction", "secondary_timeseries", "location_crosswalks"}
    # It was computed of so many pairs, and these rows are the ones that were paired.
    assert rows(found, "secondary_timeseries") == metric["count"]
    assert rows(found, "primary_timeseries") == 120

    # What the graph says is enough to compute the number again from nothing but the files.
    tables = tables_of([raw.get(n.id) for n in found.nodes.values() if n.kind == "raw"])
    (corrected,) = (
        tables["primary_timeseries"]
        .filter(pa.compute.field("raw_file_id") == story.files["correction"].id)
        .to_pylist()
    )
    first = [
        r
        for r in tables["primary_timeseries"].to_pylist()
        if r["value_time"] != corrected["value_time"]
    ]
    schema = tables["primary_timeseries"].schema
    primary = pa.Table.from_pylist([*first, corrected], schema)
    again = library.evaluate(
        primary, tables["secondary_timeseries"], tables["location_crosswalks"], ["kge"]
    )
    assert again["kge"].to_pylist() == pytest.approx([metric["value"]], rel=1e-12)


def test_rows_of_a_table_say_how_many_came_from_which_file(story: Story) -> None:
    found = lineage.up("primary_timeseries", f"location_id = '{story.gauge}'")
    assert rows(found, "primary_timeseries") == 121
    into = {(a, b): n for (a, b), n in found.edges.items() if a.startswith("raw ")}
    assert into == {
        (f"raw {story.files[name].id}", f"run {story.runs[name]}"): count
        for name, count in (("first", 60), ("second", 60), ("correction", 1))
    }


def test_the_past_has_its_own_lineage(story: Story) -> None:
    """Before the correction all rows were those of the two files."""
    early = history.get(story.runs["early"])
    (read,) = [u for u in early.uses if (u.direction, u.name) == ("read", "primary_timeseries")]
    where = f"location_id = '{story.gauge}'"
    found = lineage.up("primary_timeseries", where, snapshot_id=int(read.version))
    assert named(found, story, "raw") == {"first", "second"}
    assert named(found, story, "run") == {"first", "second"}


def test_what_was_made_of_a_raw_file(story: Story) -> None:
    found = lineage.down(story.files["first"].id)
    assert {"first", "early", "late"} <= named(found, story, "run")
    assert found.nodes[found.root].about["rows"] == {"primary_timeseries": 60}
    written = {n.name for n in found.nodes.values() if n.kind == "snapshot"}
    assert {"primary_timeseries", "metrics"} <= written


def test_what_was_made_before_a_file_came_is_not_made_of_it(story: Story) -> None:
    found = lineage.down(story.files["correction"].id[-12:])
    runs = named(found, story, "run")
    assert "late" in runs
    assert not runs & {"early", "first", "second", "forecasts"}


def test_a_run_both_ways(story: Story) -> None:
    above = lineage.up(story.runs["late"][-12:])
    assert {"first", "second", "correction", "secondary_timeseries"} <= {
        name for name, file in story.files.items() if f"raw {file.id}" in above.nodes
    }
    below = lineage.down(story.runs["first"])
    assert {"early", "late"} <= {n for n, id in story.runs.items() if f"run {id}" in below.nodes}


def test_rows_from_outside_a_run_end_the_way_and_say_so(story: Story) -> None:
    gauge = f"usgs-{new_id()}"
    rows = warehouse.read("primary_timeseries", where=f"location_id = '{story.gauge}'")
    rows = rows.drop_columns(["raw_file_id"]).set_column(
        rows.column_names.index("location_id"), "location_id", pa.array([gauge] * rows.num_rows)
    )
    warehouse.write("primary_timeseries", rows)
    found = lineage.up("primary_timeseries", f"location_id = '{gauge}'")
    assert (list(found.nodes), found.edges) == ([found.root], {})
    assert "121 rows" in str(found.nodes[found.root])
    assert "121 from outside a run" in str(found.nodes[found.root])


def test_a_snapshot_that_has_expired_is_traced_in_what_is_there_now(story: Story) -> None:
    story.run("expiring", story.evaluate)
    ended = history.get(story.runs.pop("expiring"))
    (read,) = [u for u in ended.uses if (u.direction, u.name) == ("read", "location_crosswalks")]
    other = {"primary_location_id": [story.gauge], "secondary_location_id": [new_id()]}
    warehouse.write("location_crosswalks", pa.table(other))
    table = warehouse.table("location_crosswalks")
    table.maintenance.expire_snapshots().by_id(int(read.version)).commit()
    found = lineage.up(ended.id)
    (crosswalk,) = [
        n for n in found.nodes.values() if (n.kind, n.name) == ("rows", "location_crosswalks")
    ]
    assert "which has expired" in str(crosswalk)


def test_fields_lead_to_their_files_and_on(story: Story) -> None:
    name = f"lineage-{new_id()[-12:]}"

    def load() -> None:
        file = raw.land("test", "fields", new_id().encode(), extension="txt", url="https://x/y")
        raw.read(file)
        story.files["fields"] = file
        gridded.write(name, {"surface": fields(file)})

    story.run("fields", load)
    story.run("user", lambda: gridded.open(name).load())
    found = lineage.up(name)
    assert named(found, story, "raw") == {"fields"}
    assert named(found, story, "run") == {"fields"}
    assert named(lineage.down(story.files["fields"].id), story, "run") == {"fields", "user"}
    assert named(lineage.down(name), story, "run") == {"user"}
    assert named(lineage.up(story.runs["user"]), story, "raw") == {"fields"}
    for event in lineage.openlineage(lineage.down(name)):
        jsonschema.validate(event, RUN_EVENT)


def fields(file: RawFile) -> xr.Dataset:
    """One field of two by two cells, as the sources of fields give it."""
    number = int(file.id.replace("-", ""), 16)
    halves = np.array([number >> 64, number & (2**64 - 1)], np.uint64)
    dims = ("time", "step", "latitude", "longitude")
    return xr.Dataset(
        {
            "t2m": (dims, np.arange(4.0, dtype="f4").reshape(1, 1, 2, 2), {"units": "K"}),
            "t2m_raw_file": (("time", "step", "half"), halves.reshape(1, 1, 2)),
        },
        coords={
            "time": np.array(["2026-03-16"], "datetime64[ns]"),
            "step": np.array([0], "timedelta64[ns]"),
            "latitude": [37.0, 38.0],
            "longitude": [-81.0, -80.0],
        },
    )


def test_what_is_not_there_is_refused(story: Story) -> None:
    with pytest.raises(NotFound, match="did you mean 'metrics'"):
        lineage.up("metric")
    with pytest.raises(NotFound, match="has no snapshot 1"):
        lineage.up("metrics", snapshot_id=1)
    with pytest.raises(InvalidInput, match="cannot read metrics where"):
        lineage.up("metrics", "place === 3")
    with pytest.raises(InvalidInput, match="is for a table"):
        lineage.up(story.runs["late"], "value > 0")


def test_events_are_those_of_openlineage(story: Story) -> None:
    found = lineage.up("metrics", story.where)
    events = list(lineage.openlineage(found))
    checker = jsonschema.Draft202012Validator(
        RUN_EVENT, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    for event in events:
        checker.validate(event)
    named = set(re.findall(r"https://openlineage.io/spec/facets/([^#]+)#", json.dumps(events)))
    assert named <= FACETS
    (end,) = [
        e for e in events
        if e["run"]["runId"] == story.runs["first"] and e["eventType"] == "COMPLETE"
    ]  # fmt: skip
    raw_input = next(d for d in end["inputs"] if d["namespace"] == "s3://raw")
    file = story.files["first"]
    assert f"s3://raw/{raw_input['name']}" == file.uri
    assert raw_input["facets"]["version"]["datasetVersion"] == file.sha256
    output = next(d for d in end["outputs"] if d["name"] == "hydro.primary_timeseries")
    assert output["namespace"] == "iceberg://thalweg"
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 60
    (failed,) = [e for e in events if e["eventType"] == "FAIL"]
    assert failed["run"]["facets"]["errorMessage"]["message"] == "the plot failed"
    starts = [e["run"]["runId"] for e in events if e["eventType"] == "START"]
    assert len(starts) == len(set(starts)) == len(events) / 2


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["lineage", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_shows_a_tree_json_and_events(story: Story) -> None:
    tree = call("metrics", "--where", story.where)
    assert f"metrics where {story.where}: 2 rows" in " ".join(tree.split())
    assert "https://example.org/correction: 1 row\n" in tree.replace(" \n", "\n")
    # What is said once is said where it is met first.
    again = tree.index("(see above)")
    run = f"run {story.runs['forecasts'][-12:]} of forecasts"
    assert tree.count(run, 0, again) == 2
    assert tree.index("raw file " + story.files["location_crosswalks"].id[-12:]) < again
    found = json.loads(call("metrics", "--where", story.where, "--json"))
    assert found["root"] in found["nodes"]
    ends = {end for edge in found["edges"] for end in (edge["from"], edge["to"])}
    assert ends <= set(found["nodes"])
    events = [
        json.loads(line)
        for line in call("metrics", "--where", story.where, "--openlineage").splitlines()
    ]
    assert events == json.loads(
        json.dumps(list(lineage.openlineage(lineage.up("metrics", story.where))))
    )
    assert "now 60 rows in primary_timeseries" in call(story.files["first"].id, "--down")


def test_a_long_tree_is_cut_and_says_so(story: Story) -> None:
    found = lineage.up("primary_timeseries", f"location_id = '{story.gauge}'")

    def shown(branches: int) -> str:
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(found.tree(branches))
        return console.export_text()

    assert "… and 2 more" in shown(1)
    assert "more" not in shown(10)
