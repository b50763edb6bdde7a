"""The executed notebook as people read it: its record on top, as HTML, and beside another one."""

from __future__ import annotations

import copy
import html as escaping
import json
import re
import threading
from collections import Counter
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from thalweg import storage

if TYPE_CHECKING:
    from thalweg.pipelines.history import Run, Use

__all__ = [
    "html",
    "size",
    "unlike",
    "unlike_outputs",
    "unlike_rows",
    "with_record",
    "without_record",
]

#: Tag of the cell that shows the record.
RECORD = "thalweg-record"
#: The page of nbconvert without the scripts that it would load from the network.
TEMPLATE = """
{%- extends "lab/index.html.j2" -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
"""
#: What is another in each run and says nothing: ids of runs, of plots and of their documents.
UNIQUE = re.compile(
    r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
    r"|\b[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}\b|\bp\d{4,}\b"
)
#: nbconvert's exporter keeps the notebook that it is at.
_alone = threading.Lock()


def with_record(notebook: dict[str, Any], run: Run) -> dict[str, Any]:
    """The executed notebook with its record as its first cell."""
    cell = {
        "cell_type": "markdown",
        "id": RECORD,
        "metadata": {"tags": [RECORD]},
        "source": _header(run),
    }
    return notebook | {"cells": [cell, *_without(notebook["cells"], RECORD)]}


def without_record(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook as it was before it was executed: without record, parameters and outputs."""
    plain = copy.deepcopy(notebook)
    plain["cells"] = _without(_without(plain["cells"], RECORD), "injected-parameters")
    plain["metadata"].pop("thalweg", None)
    for cell in plain["cells"]:
        cell["metadata"].pop("papermill", None)
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return plain


@cache
def _exporter() -> Any:
    from nbconvert import HTMLExporter

    # Without files of this machine: whoever wrote the notebook could have any of ours embedded.
    return HTMLExporter(raw_template=TEMPLATE, embed_images=False)  # type: ignore[no-untyped-call]


def html(notebook: dict[str, Any], title: str) -> str:
    """The notebook as one page that loads nothing: formulas stay as they are written."""
    import nbformat

    named = {"metadata": {"name": title}}
    node = nbformat.reads(json.dumps(notebook), as_version=4)  # type: ignore[no-untyped-call]
    with _alone:
        page, _ = _exporter().from_notebook_node(node, named)
    return str(page)


def size(bytes: int | None) -> str:
    """A number of bytes in words: `212 MB`."""
    if bytes is None:
        return "not known"
    return f"{bytes / 1e9:.1f} GB" if bytes >= 1e9 else f"{bytes / 1e6:.0f} MB"


def unlike(one: Run, other: Run) -> list[tuple[str, Any, Any]]:
    """In what two runs differ: what it is, in the one, in the other; outputs by cell.

    Raises
    ------
    NotFound, Unavailable
        The store does not have, or does not give, a notebook that was saved.
    """
    keys = (
        "pipeline", "partition", "parameters", "git_commit", "git_dirty", "environment", "state",
        "error",
    )  # fmt: skip
    rows = [(key, getattr(one, key), getattr(other, key)) for key in keys]
    rows += [(what, *sides) for what, sides in _versions(one, other).items()]
    differ = [(what, a, b) for what, a, b in rows if a != b]
    if one.notebook_uri and other.notebook_uri:
        uris = one.notebook_uri, other.notebook_uri
        first, second = (json.loads(storage.read(uri)) for uri in uris)
        differ += [(line, None, None) for line in unlike_outputs(first, second)]
    return differ


def _versions(one: Run, other: Run) -> dict[str, tuple[str | None, str | None]]:
    """What was read and written, by name, as each of the two has it."""
    sides = []
    for run in (one, other):
        by_name: dict[str, list[Use]] = {}
        for use in run.uses:
            did = {"same": "wrote", "differs": "wrote"}.get(use.direction, use.direction)
            by_name.setdefault(f"{did} {use.name}", []).append(use)
        sides.append({name: _told(uses) for name, uses in sorted(by_name.items())})
    return {name: (sides[0].get(name), sides[1].get(name)) for name in {**sides[0], **sides[1]}}


def unlike_outputs(first: dict[str, Any], again: dict[str, Any]) -> list[str]:
    """Cells whose outputs are not the same in two executed notebooks, a line each.

    What is printed to standard error (warnings, progress) does not count, nor do ids that are made
    anew in each run.
    """
    pairs = zip_longest(_code(first), _code(again), fillvalue=None)
    return [
        f"cell {number}: {'its output differs' if a and b else 'only one of them has it'}"
        for number, (a, b) in enumerate(pairs, start=1)
        if a is None or b is None or _said(a) != _said(b)
    ]


def unlike_rows(first: Run, again: Run) -> list[str]:
    """What a rerun did not write as the run that it repeats did, a line each."""
    differ = [use for use in again.uses if use.direction == "differs"]
    same = {(use.kind, use.name, use.version) for use in again.uses if use.direction == "same"}
    same |= {(use.kind, use.name, use.version) for use in differ}
    wrote = [use for use in first.uses if use.direction == "wrote" and use.kind != "raw"]
    wrote = [use for use in wrote if use.rows is not None]  # upkeep changes no row
    missing = [use for use in wrote if (use.kind, use.name, use.version) not in same]
    return [f"{use.name}: {use.rows or 0:,} rows differ" for use in differ] + [
        f"{use.name}: {use.rows or 0:,} rows were not made again" for use in missing
    ]


def _header(run: Run) -> str:
    """The record in Markdown, small: the most of it is one click away."""
    version = f"`{run.git_commit[:12]}`" if run.git_commit else "not in git"
    dirty = " with changes" if run.git_dirty else ""
    partition = f", partition `{run.partition}`" if run.partition else ""
    repeats = f", repeats `{run.repeats}`" if run.repeats else ""
    rows = {
        "run": f"`{run.id}`, attempt {run.attempt}{repeats}",
        "started": f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC by {run.user} ({run.trigger})",
        "code": f"{version}{dirty}; {run.environment or 'no lock file'}",
        "parameters": f"`{json.dumps(run.parameters, default=str)}`",
        "read": _uses(run, "read"),
        "wrote": _uses(run, "wrote"),
        "peak memory": size(run.peak_memory),
    }
    if run.error:
        rows["why"] = run.error
    if run.differences is not None:
        rows["compared"] = "; ".join(run.differences) or "bit-identical"
    table = "".join(f"<tr><td>{k}</td><td>{_cell(v)}</td></tr>" for k, v in rows.items())
    title = f"`{run.pipeline}`{partition}: **{run.state}** in {run.duration or 0:.1f} s"
    return f"{title}\n\n<details><summary>Record</summary><table>{table}</table></details>"


def _uses(run: Run, direction: str) -> str:
    return _told([use for use in run.uses if use.direction == direction])


def _told(uses: list[Use]) -> str:
    files = Counter(use.name for use in uses if use.kind == "raw")
    said = [f"{count:,} raw files of {name}" for name, count in files.items()]
    return "; ".join([*said, *(_snapshot(use) for use in uses if use.kind != "raw")]) or "nothing"


def _snapshot(use: Use) -> str:
    rows = "" if use.rows is None else f", {use.rows:,} rows"
    return f"{use.name} (snapshot {use.version}{rows})"


def _cell(text: str) -> str:
    """Text in a cell of HTML; what stands between backticks is code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escaping.escape(text.replace("\n", " ")))


def _without(cells: list[Any], tag: str) -> list[Any]:
    return [cell for cell in cells if tag not in cell["metadata"].get("tags", [])]


def _code(notebook: dict[str, Any]) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _said(cell: dict[str, Any]) -> str:
    """The outputs of a cell as text; each unique id is replaced by the order of its appearance."""
    kept = ("data", "ename", "evalue")
    outputs: list[Any] = []
    for output in cell["outputs"]:
        if "text" not in output:
            outputs.append({key: output[key] for key in kept if key in output})
        elif output.get("name") == "stderr":
            continue
        elif outputs and isinstance(outputs[-1], str):  # where it was cut is chance
            outputs[-1] += "".join(output["text"])
        else:
            outputs.append("".join(output["text"]))
    seen: dict[str, str] = {}
    return UNIQUE.sub(
        lambda found: seen.setdefault(found[0], f"id {len(seen)}"),
        json.dumps(outputs, sort_keys=True),
    )
