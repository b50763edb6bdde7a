"""The reference pages, made from the code and the data files that they describe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer.cli
import typer.main
import yaml

from thalweg import catalog, settings, sources, warehouse
from thalweg.cli import app
from thalweg.metrics import FIELDS, METRICS, Metric, requires
from thalweg.metrics.entry import KINDS
from thalweg.metrics.fields import COLUMNS, OF_THRESHOLDS
from thalweg.metrics.pairs import TRANSFORMS
from thalweg.pipelines import specification
from thalweg.settings import load
from thalweg.warehouse import contracts
from thalweg.warehouse.access import definition
from thalweg.warehouse.schema import QUANTITIES

__all__ = ["PAGES", "write_all"]


def write_all(folder: Path) -> None:
    """Write every page; one that says the same as before is not touched."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        path, text = folder / f"{name}.md", page().rstrip() + "\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def commands() -> str:
    command = typer.main.get_command(app)
    with typer.main.get_command(app).make_context("thalweg", [], resilient_parsing=True) as context:
        return typer.cli.get_docs_for_click(
            obj=command, ctx=context, name="thalweg", title="Commands"
        )


def settings_page() -> str:
    described = [
        (f"`{name}`", f"`THALWEG_{name.upper()}`", f"`{default}`" if default else "", text)
        for name, default, text in settings.describe()
    ]
    return f"""# Settings

Order of precedence: default, then `thalweg.toml` in the home folder, then the environment, then the
command-line flag. A key that is not in this table is refused.

{table(("name", "environment", "default", "what it is"), described)}
"""


def metrics_page() -> str:
    overview, about = "", ""
    for kind, title in KINDS.items():
        chosen = [m for m in METRICS.values() if m.kind == kind]
        rows = [
            (f"`{m.name}`", m.title, _range(m.range), _perfect(m), m.unit("unit"), _needs(m))
            for m in chosen
        ]
        head = ("metric", "what it is", "range", "perfect", "in", "needs")
        overview += f"\n## {title}\n\n{table(head, rows)}\n"
        about += f"\n## {title}, by formula\n{''.join(_metric(m) for m in chosen)}"
    columns = [(f"`{name}`", "column of the pairs") for name in COLUMNS]
    fields = [(f"`{name}`", field.says) for name, field in FIELDS.items()]
    fields += [(f"`{n}`", f"{f.says} (needs thresholds)") for n, f in OF_THRESHOLDS.items()]
    transforms = [(f"`{name}`", each.says) for name, each in TRANSFORMS.items()]
    return f"""# Metrics

What `thalweg.metrics.evaluate` and `thalweg evaluate` compute. $o$ is the primary (observed) value,
$s$ the secondary (simulated or forecast) one, $\\mu$ a mean, $\\sigma$ a population standard
deviation. "In" is the unit of the value: `unit` stands for that of the variable. What a metric
needs: `thresholds`, by which values are events, or `members`, the forecasts of an ensemble.
{overview}
## What to group by

The `by` of `evaluate`, besides attributes of the locations. Its `where` may speak of them too, and
of `primary_value`, `secondary_value` and, with thresholds, `threshold` and `threshold_value`.

{table(("name", "what it is"), [*columns, *fields])}

## Transforms

What `transform` does to both values of a pair before they are compared, after an epsilon is added
to each: for `log` and `inverse` a hundredth of the mean observation of the group, else nothing,
unless it is given. A pair is left out if one of its values has no finite result.

{table(("transform", "what becomes of a value"), transforms)}
{about}"""


def _metric(metric: Metric) -> str:
    return f"""
### {metric.title}

`{metric.name}`

$$
{metric.formula}
$$

{metric.reference}. [doi:{metric.doi}](https://doi.org/{metric.doi})
"""


def _perfect(metric: Metric) -> str:
    return "" if metric.perfect is None else f"{metric.perfect:g}"


def _needs(metric: Metric) -> str:
    return ", ".join(requires(metric.name))


def catalogue_page() -> str:
    entries = [
        (f"`{entry.name}`", *(getattr(entry, said) for said in catalog.SAID))
        for entry in catalog.entries()
    ]
    return f"""# Catalogue entries

`thalweg.open_catalog()["warehouse"]["metrics"].read()` reads the entry `warehouse.metrics`.

{table(("entry", "what it is", "licence", "source", "units", "where", "when"), entries)}
"""


def tables_page() -> str:
    about = ""
    for name in warehouse.names():
        declared = definition(name)
        columns = [
            (f"`{column}`", f"{each.type}", "null" if each.nullable else "", each.doc)
            for column, each in declared.columns.items()
        ]
        about += (
            f"\n## {name}\n\n{declared.doc} Key: {', '.join(f'`{k}`' for k in declared.key)}.\n"
        )
        about += f"\n{table(('column', 'type', 'may be', 'what it is'), columns)}\n"
    return f"# Tables of the warehouse\n{about}"


def contracts_page() -> str:
    about = ""
    for name in warehouse.names():
        says: dict[str, list[str]] = {}
        for clause in contracts.clauses(name):
            says.setdefault(clause.column, []).append(clause.says)
        lines = [(f"`{column}`", "; ".join(each)) for column, each in says.items()]
        about += f"\n## {name}\n\n{table(('column', 'each row has'), lines)}\n"
    quantities = [
        (f"`{prefix}…`", f"`{q.unit}`", f"{q.lowest:,g}", f"{q.highest:,g}")
        for prefix, q in QUANTITIES.items()
    ]
    return f"""# Contracts

What a row keeps to before it is let into a table; one that does not goes to quarantine with its
reason. First a file is held to what its [source](#sources) promises, then each row to the contract
of its table. Ranges and keys are the same for all sources. A row may be in any known unit that its
source promises: it is converted to the unit of its variable on the way in.
Of `metrics`, which Thalweg computes itself, nothing waits: a batch with such a row is refused.

## Variables

{table(("variable", "kept in", "least", "most"), quantities)}

{about}
## Sources

What each source promises: the `CONTRACT` of its module. A file with other tables, columns or types
goes to quarantine as a whole, and says what was promised and what came; rows with another variable,
unit or configuration go as rows. A field in another unit is not read. How old the newest time of a
configuration is, `thalweg warehouse freshness` tells.
{"".join(_promises(name) for name in sources.names())}"""


def _promises(name: str) -> str:
    """The section of a source."""
    promised = sources.contract(name)
    tables = [
        (f"`{each}`", ", ".join(f"`{column.name}` {column.type}" for column in columns))
        for each, columns in promised.tables.items()
    ]
    units = [
        (f"`{variable}`", ", ".join(f"`{unit}`" for unit in each))
        for variable, each in promised.units.items()
    ]
    fields = [(f"`{each}`", f"`{unit}`") for each, unit in promised.fields.items()]
    ages = [
        (f"`{pattern}`", f"{age / timedelta(hours=1):g} h" if age else "any")
        for pattern, age in promised.configurations.items()
    ]
    parts = (
        table(("table", "columns"), tables) if tables else "",
        table(("variable", "sent in"), units) if units else "",
        table(("field", "unit"), fields) if fields else "",
        table(("configuration", "age of the newest, at most"), ages),
    )
    return f"\n### {name}\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def services_page() -> str:
    described = yaml.safe_load((load().home / "hub-config" / "services.yaml").read_text())
    services = [
        (
            f"`{name}`",
            service["title"],
            service["description"],
            f"`/services/{name}/`" if service.get("web") else "",
            ", ".join(service.get("groups", ())),
        )
        for name, service in described.items()
    ]
    return f"""# Services of the hub

Declared in `hub-config/services.yaml`. A page is open to the groups named, after login.

{table(("name", "title", "what it does", "page", "groups"), services)}
"""


def pipelines_page() -> str:
    about = ""
    for name, pipeline in specification.all(load()).items():
        parameters = [
            (f"`{key}`", each.type, f"`{each.default}`", each.description)
            for key, each in pipeline.parameters.items()
        ]
        about += f"\n## {name}\n\n{pipeline.title}. {pipeline.description}\n"
        if parameters:
            about += f"\n{table(('parameter', 'type', 'default', 'what it is'), parameters)}\n"
    return f"# Pipelines\n\nRun one with `thalweg run NAME -p parameter=value`.\n{about}"


def pipeline_file_page() -> str:
    schema = json.loads(specification.schema())
    models = {"": schema, **schema["$defs"]}
    named = {"Notify": "notify", "Parameter": "parameters.NAME", "Backfill": "partitions.backfill"}
    about = ""
    for name, model in models.items():
        required = model.get("required", ())
        rows = [
            (
                f"`{key}`",
                _kind(each),
                "needed" if key in required else _default(each),
                each.get("description", "see below"),
            )
            for key, each in model["properties"].items()
        ]
        title = f"\n## {named.get(name, name.lower())}\n\n{model['description']}\n" if name else ""
        about += f"{title}\n{table(('key', 'type', 'default', 'what it is'), rows)}\n"
    return f"""# pipeline.yaml

What a pipeline is, beside its notebook. An unknown key or a wrong value is refused, with its line.
`thalweg pipeline schema` prints the same as JSON schema for editors.
{about}"""


def _kind(each: dict[str, Any]) -> str:
    """The type of a key, in words, out of its JSON schema."""
    if "enum" in each:
        return ", ".join(f"`{value}`" for value in each["enum"])
    if "anyOf" in each:
        return ", ".join(_kind(one) for one in each["anyOf"] if one != {"type": "null"})
    if "$ref" in each:
        return each["$ref"].rpartition("/")[2].lower()
    inner = each.get("items") or each.get("additionalProperties")
    words = {"array": "list of ", "object": "by name: "}
    return words[each["type"]] + _kind(inner) if inner else _type(each.get("type", "any"))


def _type(said: str | list[str]) -> str:
    return said if isinstance(said, str) else " or ".join(said)


def _default(each: dict[str, Any]) -> str:
    default = each.get("default")
    return "" if default in (None, [], {}) or isinstance(default, dict) else f"`{default}`"


def chart_page() -> str:
    chart = load().home / "helm" / "thalweg"
    schema = json.loads((chart / "values.schema.json").read_text())
    defaults = yaml.safe_load((chart / "values.yaml").read_text())
    about = ""
    for name, each in schema["properties"].items():
        rows = [
            (f"`{key}`", _kind(leaf), _of_chart(defaults, key), leaf["description"])
            for key, leaf in _leaves(name, each)
        ]
        about += f"\n## {name}\n\n{each['description']}.\n"
        if rows[0][0] != f"`{name}`":
            about += f"\n{table(('key', 'type', 'default', 'what it is'), rows)}\n"
        elif each["type"] != "object":
            about += f"\nDefault: {rows[0][2] or 'none'}.\n"
    return f"""# Values of the chart

What `helm/thalweg` takes, as its `values.schema.json` says; an unknown key or a wrong value is
refused. In `profiles/` are sets of values to begin with: `small`, `production`, `workshop`.
{about}"""


def _leaves(key: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each key below this one that is no group of keys; NAME stands for names of one's own."""
    by_name = schema.get("additionalProperties")
    if "properties" in schema:
        for name, each in schema["properties"].items():
            yield from _leaves(f"{key}.{name}", each)
    elif isinstance(by_name, dict) and "properties" in by_name:
        yield from _leaves(f"{key}.NAME", by_name)
    else:
        yield key, schema


def _of_chart(defaults: Any, key: str) -> str:
    """The default of a key of the chart; nothing, where there is none or it is a long one."""
    for part in key.split("."):
        defaults = defaults.get(part) if isinstance(defaults, dict) else None
    said = json.dumps(defaults)
    return "" if defaults in (None, "", [], {}) or len(said) > 60 else f"`{said}`"


def sources_page() -> str:
    known = [
        (f"`{name}`", sources.get(name).TITLE, sources.get(name).LICENCE)
        for name in sources.names()
    ]
    return f"# Sources\n\n{table(('source', 'what it gives', 'licence'), known)}\n"


def table(head: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    head = tuple(head)
    cells = [head, ("---",) * len(head), *lines]
    return "\n".join(
        "| " + " | ".join(" ".join(str(cell).split()).replace("|", r"\|") for cell in line) + " |"
        for line in cells
    )


def _range(ends: tuple[float, float]) -> str:
    return " to ".join(f"{end:g}".replace("inf", "∞") for end in ends)


PAGES = {
    "commands": commands,
    "settings": settings_page,
    "pipelines": pipelines_page,
    "pipeline_file": pipeline_file_page,
    "catalogue": catalogue_page,
    "tables": tables_page,
    "contracts": contracts_page,
    "metrics": metrics_page,
    "sources": sources_page,
    "services": services_page,
    "chart": chart_page,
}
