"""A run for others: as a Workflow Run RO-Crate, which is a zip, or as OpenLineage events.

The crate conforms to RO-Crate 1.1 and to the profiles Process Run Crate 0.5, Workflow Run Crate 0.5
and Workflow RO-Crate 1.0. It holds the executed notebook, its HTML and the lineage; raw files are
named by their address and checksum, tables by snapshot, and are not copied.
"""

from __future__ import annotations

import io
import json
import mimetypes
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from thalweg import raw, storage
from thalweg.errors import InvalidInput, NotFound
from thalweg.lineage import Lineage
from thalweg.lineage import openlineage as events_of
from thalweg.pipelines import pages
from thalweg.pipelines.history import Run, Use
from thalweg.raw import RawFile
from thalweg.settings import Settings, load
from thalweg.warehouse.schema import NAMESPACE

__all__ = ["crate", "metadata", "openlineage"]

PROFILES = (
    "https://w3id.org/ro/wfrun/process/0.5",
    "https://w3id.org/ro/wfrun/workflow/0.5",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
)
CONTEXT = [
    "https://w3id.org/ro/crate/1.1/context",
    "https://w3id.org/ro/terms/workflow-run/context",
]
WORKFLOW = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
NOTEBOOK, PAGE, LINEAGE = "notebook.ipynb", "notebook.html", "openlineage.json"
MEDIA = {
    NOTEBOOK: "application/x-ipynb+json",
    PAGE: "text/html",
    LINEAGE: "application/json",
}


def openlineage(run: Run, settings: Settings | None = None) -> list[dict[str, Any]]:
    """The OpenLineage events of a run: its start, and its end if it has ended."""
    return list(events_of(Lineage("up", f"run {run.id}"), settings))


def crate(run: Run, settings: Settings | None = None) -> bytes:
    """A run as a zip with `ro-crate-metadata.json`, the executed notebook, its HTML and lineage.

    Raises
    ------
    InvalidInput
        The executed notebook was not saved, so that there is nothing to hand on.
    NotFound, Unavailable
        The store does not have, or does not give, what was saved.
    """
    settings = settings or load()
    if not run.notebook_uri:
        raise InvalidInput(f"run {run.id} has no executed notebook: {run.error or run.state}")
    events = json.dumps(openlineage(run, settings), indent=1).encode()
    parts = {NOTEBOOK: storage.read(run.notebook_uri), LINEAGE: events}
    with suppress(NotFound):  # some notebooks cannot be rendered
        parts[PAGE] = pages.read(run)
    described = metadata(run, {name: len(content) for name, content in parts.items()}, settings)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ro-crate-metadata.json", json.dumps(described, indent=1))
        for name, content in parts.items():
            archive.writestr(name, content)
    return packed.getvalue()


def metadata(run: Run, sizes: dict[str, int], settings: Settings | None = None) -> dict[str, Any]:
    """The JSON-LD of a run's crate, whose files have these names and sizes in bytes."""
    files = {
        f.id: f
        for f in raw.find(ids={u.version for u in run.uses if u.kind == "raw"}, settings=settings)
    }
    used = {use: _data(use, files.get(use.version), settings or load()) for use in run.uses}
    sides = {
        side: list({d["@id"]: d for use, d in used.items() if use.direction == side}.values())
        for side in ("read", "wrote")
    }
    inputs = [_formal(name) for name in run.parameters]
    values = [_value(name, value) for name, value in run.parameters.items()]
    data = {entity["@id"]: entity for side in sides.values() for entity in side}
    graph = [
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "about": {"@id": "./"},
            "conformsTo": [
                {"@id": "https://w3id.org/ro/crate/1.1"},
                {"@id": PROFILES[-1]},
            ],
        },
        _root(run, sizes, data),
        *({"@id": p, "@type": "CreativeWork", "version": p.rsplit("/")[-1]} for p in PROFILES),
        *_files(run, sizes, inputs),
        _action(run, sides, values),
        {"@id": f"#{run.user}", "@type": "Person", "name": run.user},
        {
            "@id": "#license",
            "@type": "CreativeWork",
            "name": "Terms of the data",
            "description": "Those that the sources of the data state.",
        },
        {
            "@id": "https://jupyter.org",
            "@type": ["ComputerLanguage", "SoftwareApplication"],
            "name": "Jupyter Notebook",
            "url": {"@id": "https://jupyter.org"},
        },
        *inputs,
        *values,
        *data.values(),
    ]
    return {"@context": CONTEXT, "@graph": graph}


def _root(run: Run, sizes: dict[str, int], data: dict[str, Any]) -> dict[str, Any]:
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Run of {run.pipeline}"
        + (f", partition {run.partition}" if run.partition else ""),
        "description": f"What run {run.id} of the notebook {run.pipeline} read, did and wrote.",
        "datePublished": run.started_at.isoformat(),
        "license": {"@id": "#license"},
        "author": {"@id": f"#{run.user}"},
        "conformsTo": _ids(PROFILES),
        "hasPart": _ids([*sizes, *data]),
        "mainEntity": {"@id": NOTEBOOK},
        "mentions": {"@id": f"#{run.id}"},
    }


def _files(
    run: Run, sizes: dict[str, int], inputs: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The files of the crate; the notebook is both what was executed and what came out."""
    for name, size in sizes.items():
        file: dict[str, Any] = {
            "@id": name,
            "@type": "File",
            "name": name,
            "encodingFormat": MEDIA[name],
            "contentSize": str(size),
        }
        if name == NOTEBOOK:
            file |= {
                "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
                "conformsTo": {"@id": WORKFLOW},
                "name": run.pipeline,
                "version": run.git_commit or "not in git",
                "softwareRequirements": run.environment or "not known",
                "programmingLanguage": {"@id": "https://jupyter.org"},
                "input": _ids(each["@id"] for each in inputs),
            }
        yield file


def _action(
    run: Run, sides: dict[str, list[dict[str, Any]]], values: list[dict[str, Any]]
) -> dict[str, Any]:
    status = "Completed" if run.state == "succeeded" else "Failed"
    action = {
        "@id": f"#{run.id}",
        "@type": "CreateAction",
        "name": f"Run {run.id}",
        "description": f"Execution of the notebook {run.pipeline} by {run.user}.",
        "startTime": run.started_at.isoformat(timespec="milliseconds"),
        "instrument": {"@id": NOTEBOOK},
        "agent": {"@id": f"#{run.user}"},
        "object": _ids(each["@id"] for each in [*values, *sides["read"]]),
        "result": _ids([NOTEBOOK, *(each["@id"] for each in sides["wrote"])]),
        "actionStatus": f"http://schema.org/{status}ActionStatus",
    }
    if run.ended_at:
        action["endTime"] = run.ended_at.isoformat(timespec="milliseconds")
    return action | ({"error": run.error} if run.error else {})


def _data(use: Use, file: RawFile | None, settings: Settings) -> dict[str, Any]:
    """A raw file, or a snapshot of a table or of fields."""
    if file:
        return {
            "@id": f"urn:uuid:{file.id}",  # an address gives other bytes another day
            "@type": "File",
            "contentUrl": file.url,
            "name": f"{file.source}/{file.dataset}",
            "encodingFormat": mimetypes.guess_type(file.uri)[0] or "application/octet-stream",
            "contentSize": str(file.size),
            "sha256": file.sha256,
            "identifier": file.id,
            "sdDatePublished": file.ingested_at.isoformat(),
        }
    uris = {
        "table": f"iceberg://{settings.warehouse}/{NAMESPACE}.{use.name}",
        "gridded": f"{settings.gridded_uri}/{use.name}",
        "raw": f"{settings.raw_uri}/{use.name}",  # of which there is no record
    }
    said = {"description": f"{use.rows:,} rows"} if use.rows is not None else {}
    return {
        "@id": f"{uris[use.kind]}?version={use.version}",
        "@type": "Dataset",
        "name": use.name,
        "version": use.version,
        **said,
    }


def _formal(name: str) -> dict[str, Any]:
    return {
        "@id": f"#parameter-{name}",
        "@type": "FormalParameter",
        "additionalType": "Text",
        "conformsTo": {"@id": "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"},
        "name": name,
    }


def _value(name: str, value: Any) -> dict[str, Any]:
    return {
        "@id": f"#value-{name}",
        "@type": "PropertyValue",
        "name": name,
        "value": value if isinstance(value, str | int | float) else json.dumps(value, default=str),
        "exampleOfWork": {"@id": f"#parameter-{name}"},
    }


def _ids(ids: Any) -> list[dict[str, str]]:
    return [{"@id": id} for id in ids]
