"""Commands: judge forecasts by metrics, and what the metrics mean."""

from __future__ import annotations

import datetime as dt
import math
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from thalweg.cli.common import (
    DataDir,
    Json,
    local_settings,
    pairs,
    print_json,
    print_table,
    working,
)
from thalweg.errors import InvalidInput, NotFound, nearest

if TYPE_CHECKING:
    import pyarrow as pa

    from thalweg.metrics import Bootstrap, Metric

__all__ = ["register"]

SHOWN = 50  # rows of an answer on the screen
DEFAULT = ("primary_location_id", "configuration_name")
Kind = Literal["deterministic", "categorical", "probabilistic", "signature"]
Method = Literal["circular", "stationary", "gumboot"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    app.command()(evaluate)
    app.command("metrics")(explain)


def _metrics(incomplete: str) -> list[tuple[str, str]]:
    from thalweg.metrics import METRICS

    return [(m.name, m.title) for m in METRICS.values() if m.name.startswith(incomplete)]


def _columns(incomplete: str) -> list[tuple[str, str]]:
    from thalweg.metrics import FIELDS
    from thalweg.metrics.fields import COLUMNS, OF_THRESHOLDS

    known = [(name, "column") for name in COLUMNS]
    known += [(name, field.says) for name, field in (FIELDS | OF_THRESHOLDS).items()]
    return [each for each in known if each[0].startswith(incomplete)]


def evaluate(
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", "-m", metavar="NAME", autocompletion=_metrics,
            help="A metric; repeatable. `thalweg metrics` lists them. [default: kge, kge_2012, nse,"
            " rmse, relative_bias, pearson_r]",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by", "-b", metavar="NAME", autocompletion=_columns,
            help="What to group by: a column of the pairs, a calculated field or an attribute of"
            " the location; repeatable. [default: primary_location_id, configuration_name]",
        ),
    ] = None,
    configuration: Annotated[
        list[str] | None,
        typer.Option("--configuration", "-c", metavar="NAME", help="Only these; repeatable."),
    ] = None,
    location: Annotated[
        list[str] | None,
        typer.Option("--location", "-l", metavar="ID", help="Only these gauges; repeatable."),
    ] = None,
    lead_time_bin: Annotated[
        int | None, typer.Option(min=1, metavar="HOURS", help="Also a row for each so many hours.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="A condition in SQL on columns and fields of the pairs.")
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            "--threshold", "-t", metavar="NAME=VALUE",
            help="A value in the unit of the variable, or a percentile of the observations as 90%;"
            " repeatable.",
        ),
    ] = None,
    transform: Annotated[
        Literal["log", "sqrt", "inverse", "power"] | None,
        typer.Option(help="What is done to both values of a pair before they are compared."),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="What is added before, in the unit of the variable. [default: a hundredth"
                          " of the mean observation for log and inverse, else nothing]"),
    ] = None,
    exponent: Annotated[float | None, typer.Option(help="Of the transform power, as 0.2.")] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Also the skill against it: persistence, climatology or another configuration.",
        ),
    ] = None,
    primary_configuration: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The observations to compare with, of several."),
    ] = None,
    minimum: Annotated[
        int, typer.Option(min=1, help="A group of fewer pairs has no metric.")
    ] = 1,
    bootstrap: Annotated[
        Method | None,
        typer.Option(help="Tell how uncertain each metric is: its 5 % to 95 % quantiles."),
    ] = None,
    replicates: Annotated[
        int, typer.Option(min=1, help="How many series the bootstrap draws.")
    ] = 1000,
    block: Annotated[
        int | None, typer.Option(min=1, help="Times of a block of the bootstrap. [default: what"
                                 " the autocorrelation of the errors asks for]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Makes the bootstrap repeatable.")] = 0,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, all rows and digits.")] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:  # fmt: skip
    """Judge the forecasts in the warehouse by metrics; nothing is written.

    Examples:

        thalweg evaluate

        thalweg evaluate -m kge -m nse --configuration nwm30_medium_range --lead-time-bin 24

        thalweg evaluate -m rmse --by configuration_name --by season --where "year >= 2020"

        thalweg evaluate -m probability_of_detection -t flood=120 -t high=90%

        thalweg evaluate -m crps_ensemble --reference climatology

        thalweg evaluate -m kge --bootstrap gumboot --replicates 500 --seed 1 --csv
    """
    from pyarrow import csv as arrow_csv
    from pyiceberg.expressions import In

    from thalweg import metrics, warehouse
    from thalweg.metrics.question import named

    settings = local_settings(data_dir)
    how = bootstrap and metrics.Bootstrap(bootstrap, replicates, block, seed)
    if transform is None and (epsilon, exponent) != (None, None):
        raise InvalidInput("--epsilon and --exponent are of a transform: name it by --transform")
    changed = metrics.Transform(transform, epsilon, exponent) if transform else None
    condition, parameters = _condition(where, configuration)
    names = named(metric or metrics.DEFAULT)
    against: Any = partial(metrics.skill, reference=reference) if reference else metrics.evaluate
    keys = tuple(by or DEFAULT)
    with working("Reading and counting"):
        links: Any = "location_crosswalks"
        if location:
            chosen = In("primary_location_id", location)  # type: ignore[call-arg, arg-type]
            links = warehouse.read(links, where=chosen, settings=settings)
        found = against(
            crosswalk=links, metrics=names, by=keys, lead_time_bin=lead_time_bin, where=condition,
            parameters=parameters, thresholds=pairs(threshold) or None,
            attributes=None if _are_known(keys) and not where else "location_attributes",
            transform=changed, minimum=minimum, bootstrap=how or None,
            primary_configuration=primary_configuration, settings=settings,
        )  # fmt: skip
    if csv:
        arrow_csv.write_csv(found, sys.stdout.buffer)
    elif json:
        print_json(found.to_pylist())
    elif not len(found):
        typer.echo(
            "No pairs. What there is: thalweg sql"
            ' "select distinct configuration_name, location_id from secondary_timeseries"'
        )
    else:
        columns = [c for c in found.column_names if c.removesuffix("_reference") in names
                   or c.removesuffix("_skill") in names]  # fmt: skip
        _print(found, columns, how or None, f"{transform}({{}})" if transform else "{}")
        if len(found) > SHOWN:
            typer.echo(f"{SHOWN} of {len(found):,} rows; --csv or --json prints all")
        typer.echo(f"What it means: thalweg metrics {names[0]}; all digits: --csv or --json")


def explain(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A metric; all by default.", autocompletion=_metrics),
    ] = None,
    kind: Annotated[Kind | None, typer.Option(help="Only metrics of this kind.")] = None,
    json: Json = False,
) -> None:
    """List the metrics, or explain one: formula, range, perfect value, unit, needs, reference.

    Examples:

        thalweg metrics --kind categorical

        thalweg metrics kge
    """
    from thalweg.metrics import METRICS
    from thalweg.metrics.table import TEEHR

    name = TEEHR.get(name or "", name)
    if name is not None and name not in METRICS:
        raise NotFound(f"unknown metric {name!r}{nearest(name, METRICS)}")
    chosen = [m for m in METRICS.values() if name in (None, m.name) and kind in (None, m.kind)]
    if json:
        about = [_described(each) for each in chosen]
        return print_json(about[0] if name else about)
    if name is None:
        rows = [
            [m.name, m.title, m.kind, _range(m), _perfect(m), m.unit("unit"), _needs(m)]
            for m in chosen
        ]
        print_table(["metric", "what it is", "kind", "range", "perfect", "in", "needs"], rows)
        return typer.echo("Explain one: thalweg metrics kge; compute it: thalweg evaluate -m kge")
    for metric in chosen:
        _explained(metric)


def _explained(metric: Metric) -> None:
    lines = {
        "kind": metric.kind, "formula": metric.formula, "range": _range(metric),
        "perfect": _perfect(metric), "unit": metric.unit("unit of the variable"),
        "needs": _needs(metric), "reference": metric.reference,
        "doi": f"https://doi.org/{metric.doi}",
    }  # fmt: skip
    typer.echo(f"{metric.name}: {metric.title}")
    for key, value in lines.items():
        if value:
            typer.echo(f"  {key:10} {value}")
    options = " -t high=90%" if "thresholds" in _needs(metric) else ""
    typer.echo(f"Compute it: thalweg evaluate -m {metric.name}{options}")


def _described(metric: Metric) -> dict[str, Any]:
    from thalweg.metrics import requires

    return {
        "name": metric.name, "title": metric.title, "kind": metric.kind, "formula": metric.formula,
        "range": [end if math.isfinite(end) else None for end in metric.range],
        "perfect": metric.perfect, "unit": metric.unit("unit of the variable"),
        "needs": list(requires(metric.name)), "reference": metric.reference, "doi": metric.doi,
    }  # fmt: skip


def _condition(where: str | None, configurations: list[str] | None) -> tuple[str | None, list[str]]:
    """The condition of all that was asked for, and the values that are bound in it."""
    from thalweg.metrics.pairs import check_condition

    if where:
        check_condition(where)
    parts = [f"({where}\n)"] if where else []  # it may end in a comment
    if configurations:
        parts.append(f"configuration_name IN ({', '.join('?' * len(configurations))})")
    return " AND ".join(parts) or None, configurations or []


def _are_known(by: Iterable[str]) -> bool:
    """Whether all of them are columns or fields; else they may be attributes."""
    from thalweg.metrics.fields import COLUMNS, FIELDS, OF_THRESHOLDS

    return {*by} <= {*COLUMNS, *FIELDS, *OF_THRESHOLDS}


def _print(found: pa.Table, names: Sequence[str], how: Bootstrap | None, compared: str) -> None:
    """Metrics beside each other if the screen is wide enough, else below each other.

    `compared` is what of a value is compared, as `log({})`: it is in the units then.
    """
    from rich.console import Console

    keys, alike = _keys(found)
    bounds = {name: how.columns(name) if how else [] for name in names}
    interval = f"{how.quantiles[0]:.4g} to {how.quantiles[-1]:.4g}" if how else ""
    rows = found.slice(0, SHOWN).to_pylist()

    def of(row: dict[str, Any], name: str) -> list[str]:
        low, *_, high = [_cell(row[each]) for each in bounds[name]] or ["", ""]
        return [_cell(row[name]), *([f"{low} to {high}" if low and high else ""] if how else [])]

    def start(row: dict[str, Any]) -> list[str]:
        row = {key: _cell(row[key]) for key in keys} | {"count": f"{row['count']:,}"}
        return ["all" if k == "lead_time_bin" and not v else v for k, v in row.items()]

    heads = [[name, interval] if how else [name] for name in names]
    head = [*keys, "count", *(text for each in heads for text in each)]
    table = [[*start(row), *(text for name in names for text in of(row, name))] for row in rows]
    if (
        sum(2 + max(map(len, column)) for column in zip(head, *table, strict=True))
        > Console().width
    ):
        head = [*keys, "count", "metric", "value", *([interval] if how else []), "in"]
        table = [[*start(row), name, *of(row, name), _unit(name, compared.format(row["unit_name"]))]
                 for row in rows for name in names]  # fmt: skip
    if alike:
        typer.echo(", ".join(f"{key} {value}" for key, value in alike.items()))
    print_table(head, table)


def _unit(column: str, unit: str) -> str:
    """The unit of a metric, of that of a reference, or of a skill."""
    from thalweg.metrics import METRICS

    metric = METRICS.get(column.removesuffix("_reference"))
    return metric.unit(unit) if metric else "1"


def _keys(found: pa.Table) -> tuple[list[str], dict[str, str]]:
    """Columns of the keys that tell rows apart, and what is the same in all rows."""
    keys = found.column_names[: found.column_names.index("count")]
    values = {key: found[key].unique().to_pylist() for key in keys}
    alike = {key: _cell(each[0]) for key, each in values.items() if len(each) == 1}
    return [key for key in keys if key not in alike], {k: v for k, v in alike.items() if v}


def _cell(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"
    return "" if value is None else str(value)


def _range(metric: Metric) -> str:
    return " to ".join(f"{end:.4g}".replace("inf", "∞") for end in metric.range)


def _perfect(metric: Metric) -> str:
    return "" if metric.perfect is None else f"{metric.perfect:g}"


def _needs(metric: Metric) -> str:
    from thalweg.metrics import requires

    return ", ".join(requires(metric.name))
