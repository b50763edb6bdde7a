"""The runs of a graph as OpenLineage events, for whatever collects them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import thalweg
from thalweg import raw, warehouse
from thalweg.database import RunRow
from thalweg.lineage.graph import Lineage
from thalweg.lineage.notes import runs, uses_of
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.warehouse.access import definition
from thalweg.warehouse.schema import NAMESPACE

__all__ = ["openlineage"]

SPECIFICATION = "https://openlineage.io/spec"
PRODUCER = f"https://github.com/thalweg/thalweg/tree/v{thalweg.__version__}"
#: What an event says of a run besides its parameters.
TAGS = (
    "partition",
    "attempt",
    "repeats",
    "git_commit",
    "git_dirty",
    "environment",
    "user",
    "trigger",
    "notebook_uri",
    "peak_memory",
)


def openlineage(lineage: Lineage, settings: Settings | None = None) -> Iterator[dict[str, Any]]:
    """The runs of a graph as OpenLineage events: a start each, and an end if they have ended.

    The events conform to version 2-0-2 of the specification (https://openlineage.io). Tables are
    datasets of `iceberg://{catalogue}` with the snapshot as version, raw files those of their
    store with their sha256.
    """
    settings = settings or load()
    for run in sorted(runs(lineage.ids("run"), settings), key=lambda run: run.id):
        uses = uses_of(settings, run_id=run.id)
        ids = {use.version for use in uses if use.kind == "raw"}
        files = {file.id: file for file in raw.find(ids=ids, settings=settings)}
        sides: dict[str, list[dict[str, Any]]] = {"read": [], "wrote": []}
        for use in uses:
            sides[use.direction].append(_dataset(use, files.get(use.version), settings))
        yield _event("START", run.started_at, run)
        if run.ended_at:
            ended = {"succeeded": "COMPLETE", "cancelled": "ABORT"}.get(run.state, "FAIL")
            yield _event(ended, run.ended_at, run, inputs=sides["read"], outputs=sides["wrote"])


def _event(
    type: str,
    at: dt.datetime,
    run: RunRow,
    inputs: Sequence[dict[str, Any]] = (),
    outputs: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    known = {name: getattr(run, name) for name in TAGS}
    tags = [
        {"key": k, "value": str(v), "source": "THALWEG"} for k, v in known.items() if v is not None
    ]
    values = [
        {"key": key, "value": value if isinstance(value, str) else json.dumps(value)}
        for key, value in run.parameters.items()
    ]
    facets = {
        "tags": _facet("TagsRunFacet", "1-0-0", tags=tags),
        "executionParameters": _facet("ExecutionParametersRunFacet", "1-0-0", parameters=values),
    }
    if type == "FAIL":
        facets["errorMessage"] = _facet(
            "ErrorMessageRunFacet", "1-0-1", message=run.error or "", programmingLanguage="PYTHON"
        )
    batch = {"processingType": "BATCH", "integration": "THALWEG", "jobType": "NOTEBOOK"}
    job_facets = {"jobType": _facet("JobTypeJobFacet", "2-0-4", **batch)}
    return {
        "eventType": type,
        "eventTime": at.astimezone(dt.UTC).isoformat(),
        "producer": PRODUCER,
        "schemaURL": f"{SPECIFICATION}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": run.id, "facets": facets},
        "job": {"namespace": "thalweg", "name": run.pipeline, "facets": job_facets},
        "inputs": list(inputs),
        "outputs": list(outputs),
    }


def _dataset(use: Any, file: RawFile | None, settings: Settings) -> dict[str, Any]:
    """What a run read or wrote, as a dataset of OpenLineage."""
    uris = {
        "table": f"iceberg://{settings.warehouse}/{NAMESPACE}.{use.name}",
        "gridded": f"{settings.gridded_uri}/{use.name}",
        "raw": f"{settings.raw_uri}/{use.name}/{use.version}",  # of which there is no record
    }
    at = urlsplit(file.uri if file else uris[use.kind])
    version = file.sha256 if file else use.version
    facets = {"version": _facet("DatasetVersionDatasetFacet", "1-0-1", datasetVersion=version)}
    if use.kind == "table" and use.name in warehouse.names():
        fields = [
            {"name": name, "type": str(each.type), "description": each.doc}
            for name, each in definition(use.name).columns.items()
        ]
        facets["schema"] = _facet("SchemaDatasetFacet", "1-2-0", fields=fields)
    if file and "://" in file.url:
        facets["dataSource"] = _facet(
            "DatasourceDatasetFacet", "1-0-1", name=file.source, uri=file.url
        )
    dataset: dict[str, Any] = {
        "namespace": f"{at.scheme}://{at.netloc}",
        "name": at.path.lstrip("/"),
        "facets": facets,
    }
    if use.direction == "wrote" and use.rows is not None:
        statistics = _facet("OutputStatisticsOutputDatasetFacet", "1-0-2", rowCount=use.rows)
        dataset["outputFacets"] = {"outputStatistics": statistics}
    return dataset


def _facet(name: str, version: str, /, **content: Any) -> dict[str, Any]:
    schema = f"{SPECIFICATION}/facets/{version}/{name}.json#/$defs/{name}"
    return {"_producer": PRODUCER, "_schemaURL": schema, **content}
