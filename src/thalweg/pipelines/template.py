"""A new pipeline that runs at once, to be changed into one's own."""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path
from typing import Any

from thalweg.errors import InvalidInput
from thalweg.pipelines import specification
from thalweg.settings import Settings

__all__ = ["SCHEMA", "make"]

SCHEMA = "pipeline.schema.json"
YAML = """\
# yaml-language-server: $schema=../{schema}
title: {title}
owner: {owner}
description: Counts the rows of a table. Say here what yours does.
parameters:
  table:
    type: string
    description: a table of the warehouse
    default: locations

# What more can be said; what each key means: `thalweg pipeline schema`, and the reference.
# schedule: {{cron: "15 6 * * *", timezone: Europe/Berlin}}
# needs: [ingest_usgs]
# partitions: {{by: key, keys: [locations, metrics], parameters: {{table: "{{key}}"}}}}
# retries: {{attempts: 3, delay: 30, backoff: exponential}}
# timeout: 3600
# freshness: 2d
# notify: [{{webhook: SLACK_WEBHOOK}}, {{email: stewards@example.org}}]
"""
CELLS = (
    ("markdown", "# {title}\n\nSay here what this is for, and where its data come from."),
    ("parameters", 'table = "locations"'),
    ("code", "from thalweg import warehouse\n\nrows = warehouse.read(table)\nrows.num_rows"),
    (
        "markdown",
        "## Look\n\nThe first rows. A plot tells more: `hvplot` draws one of a data frame.",
    ),
    ("code", "rows.slice(0, 5).to_pandas()"),
)


def make(name: str, settings: Settings, title: str | None = None) -> Path:
    """Make `pipelines/NAME` with a specification and a notebook; returns the folder.

    Beside it lies the JSON schema of specifications, by which editors complete and check them.

    Raises
    ------
    InvalidInput
        There is one of this name already, or the name is not one.
    """
    folder = settings.home / "pipelines" / name
    specification.check_name(name)
    title = title or name.replace("_", " ").capitalize()
    owner = os.environ.get("JUPYTERHUB_USER") or getpass.getuser()
    text = YAML.format(schema=SCHEMA, title=json.dumps(title), owner=json.dumps(owner))
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise InvalidInput(
            f"{folder} is there already: choose another name, or change it"
        ) from None
    (folder / "notebook.ipynb").write_text(json.dumps(_notebook(title), indent=1) + "\n")
    (folder / specification.FILE).write_text(text)
    (folder.parent / SCHEMA).write_text(specification.schema())
    return folder


def _notebook(title: str) -> dict[str, Any]:
    cells: list[dict[str, Any]] = []
    for number, (kind, source) in enumerate(CELLS):
        lines = source.replace("{title}", title).splitlines(keepends=True)
        cell = {"id": str(number), "metadata": {}, "source": lines}
        code: dict[str, Any] = {"cell_type": "code", "execution_count": None, "outputs": []}
        tags = {"metadata": {"tags": ["parameters"]}} if kind == "parameters" else {}
        cells.append(cell | ({"cell_type": kind} if kind == "markdown" else code) | tags)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
