"""Commands: the hub on AWS, from Terraform's files to the chart's."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
import yaml

from thalweg.errors import InvalidInput

__all__ = ["register"]

commands = typer.Typer(help="The hub on AWS: what the chart has to know.", no_args_is_help=True)

#: Values of the chart, by the output of Terraform that each is.
VALUES = {
    "aws.region": "region",
    "catalogue.accountId": "account",
    "storage.rawBucket": "raw_bucket",
    "storage.warehouseBucket": "warehouse_bucket",
    "storage.runsBucket": "runs_bucket",
    "storage.griddedBucket": "gridded_bucket",
    "dagster.postgresql.postgresqlHost": "database_endpoint",
}


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the `thalweg` command."""
    app.add_typer(commands, name="deploy")


@commands.command()
def values(
    outputs: Annotated[
        typer.FileText,
        typer.Argument(help="What `terraform output -json` has written; - for stdin."),
    ],
) -> None:
    """Write the chart's values that Terraform's outputs give, as YAML.

    Example: `terraform output -json | thalweg deploy values - > aws.yaml`
    """
    typer.echo(yaml.safe_dump(chart_values(outputs.read()), sort_keys=False), nl=False)


def chart_values(text: str) -> dict[str, Any]:
    """The chart's values, from what `terraform output -json` writes.

    Raises
    ------
    InvalidInput
        It is not that, or an output is missing.
    """
    try:
        outputs = {name: output["value"] for name, output in json.loads(text).items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise InvalidInput(
            "expected what `terraform output -json` writes in a folder of terraform/environments"
        ) from None
    if missing := sorted(set(VALUES.values()) - outputs.keys()):
        raise InvalidInput(
            f"Terraform has no output {', '.join(missing)}: run `terraform apply` in a folder of "
            "terraform/environments, then `terraform output -json` there"
        )
    values: dict[str, Any] = {}
    for key, output in VALUES.items():
        *path, last = key.split(".")
        place = values
        for part in path:
            place = place.setdefault(part, {})
        # RDS tells its endpoint as HOST:PORT; Dagster wants the host.
        place[last] = str(outputs[output]).removesuffix(":5432")
    return values
