"""Which pipeline needs which: as a tree, as JSON, and as a diagram for a page (Mermaid)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from thalweg.errors import NotFound, nearest
from thalweg.pipelines.specification import Pipeline

if TYPE_CHECKING:
    from rich.tree import Tree

__all__ = ["as_dict", "mermaid", "tree", "when"]

KINDS = {"table": "table of the warehouse", "broken": "broken: thalweg pipeline validate"}


def when(pipeline: Pipeline) -> str:
    """When a pipeline runs, in a few words."""
    if pipeline.schedule:
        text = f"{pipeline.schedule.cron} ({pipeline.schedule.timezone})"
    else:
        text = "after what it needs" if pipeline.needs else "on demand"
    return f"{text}, {_by(pipeline)}" if pipeline.partitions else text


def as_dict(
    pipelines: Mapping[str, Pipeline], name: str | None = None, broken: Collection[str] = ()
) -> dict[str, Any]:
    """`nodes` and `edges` of all pipelines, or of those that this one needs and that need it.

    What is needed and `broken` is there; what that needs is not known.

    Raises
    ------
    NotFound
        There is no pipeline of this name.
    """
    edges = [(need, each.name) for each in pipelines.values() for need in each.needs]
    if name is not None:
        if name not in pipelines:
            raise NotFound(f"no pipeline {name!r}{nearest(name, pipelines)}")
        near = _reached({name}, edges) | _reached({name}, [(b, a) for a, b in edges])
        edges = [(a, b) for a, b in edges if {a, b} <= near]
    else:
        near = {*pipelines, *(a for a, _ in edges)}
    others = sorted(near - set(pipelines))
    nodes = [{"name": n, "kind": "broken" if n in broken else "table"} for n in others] + [
        {"name": each.name, "kind": "pipeline", "title": each.title, "runs": when(each)}
        for each in pipelines.values()
        if each.name in near
    ]
    return {"nodes": nodes, "edges": [{"from": a, "to": b} for a, b in edges]}


def mermaid(graph: Mapping[str, Any]) -> str:
    """The graph as a Mermaid flowchart, which GitHub and JupyterLab draw in Markdown."""
    tables = [f"    {n['name']}[({n['name']})]" for n in graph["nodes"] if n["kind"] == "table"]
    pipelines = [f"    {n['name']}" for n in graph["nodes"] if n["kind"] != "table"]
    edges = [f"    {edge['from']} --> {edge['to']}" for edge in graph["edges"]]
    return "\n".join(["flowchart LR", *tables, *pipelines, *edges])


def tree(graph: Mapping[str, Any]) -> Tree:
    """The graph as a tree for rich: what is needed above what needs it, each at its last need."""
    from rich.text import Text
    from rich.tree import Tree

    root = Tree("", hide_root=True)
    above = {edge["to"]: edge["from"] for edge in graph["edges"]}
    twigs: dict[str, Tree] = {}
    for node in graph["nodes"]:  # in order of flow
        name = node["name"]
        others = [e["from"] for e in graph["edges"] if e["to"] == name and e["from"] != above[name]]
        about = node.get("runs", KINDS.get(node["kind"]))
        also = f", and {', '.join(others)}" if others else ""
        branch = twigs[above[name]] if name in above else root
        twigs[name] = branch.add(Text.assemble((name, "bold"), f"  {about}{also}"))
    return root


def _by(pipeline: Pipeline) -> str:
    partitions = pipeline.partitions
    if partitions is None or partitions.by != "key":
        return partitions.by if partitions else ""
    return f"{len(partitions.keys)} keys"


def _reached(start: set[str], edges: list[tuple[str, str]]) -> set[str]:
    """All names that can be reached from these along the edges."""
    reached = start
    while further := {b for a, b in edges if a in reached} - reached:
        reached = reached | further
    return reached
