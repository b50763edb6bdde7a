"""`thalweg deploy values`: from Terraform's outputs to the chart's values."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from thalweg.cli import app
from thalweg.cli.deploy import VALUES, chart_values
from thalweg.errors import InvalidInput

CLONE = Path(__file__).resolve().parents[2]
OUTPUTS = {
    "region": "us-west-2",
    "account": "012345678901",
    "raw_bucket": "our-raw",
    "warehouse_bucket": "our-warehouse",
    "runs_bucket": "our-runs",
    "gridded_bucket": "our-gridded",
    "database_endpoint": "db.example.internal:5432",
    "efs_id": "fs-1",
}
WRITTEN = {name: {"sensitive": False, "value": value} for name, value in OUTPUTS.items()}


def test_values_of_the_chart() -> None:
    result = CliRunner().invoke(app, ["deploy", "values", "-"], input=json.dumps(WRITTEN))
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(result.stdout) == {
        "aws": {"region": "us-west-2"},
        "catalogue": {"accountId": "012345678901"},
        "storage": {
            "rawBucket": "our-raw",
            "warehouseBucket": "our-warehouse",
            "runsBucket": "our-runs",
            "griddedBucket": "our-gridded",
        },
        "dagster": {"postgresql": {"postgresqlHost": "db.example.internal"}},
    }


def test_an_output_that_is_missing_is_named() -> None:
    some = {name: output for name, output in WRITTEN.items() if name != "runs_bucket"}
    with pytest.raises(InvalidInput, match="no output runs_bucket"):
        chart_values(json.dumps(some))


@pytest.mark.parametrize("text", ["", "[]", '{"region": "us-east-1"}', "region = us-east-1"])
def test_something_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="terraform output -json"):
        chart_values(text)


@pytest.mark.parametrize("environment", ["dev", "staging", "prod"])
def test_each_environment_has_these_outputs(environment: str) -> None:
    text = (CLONE / "terraform/environments" / environment / "outputs.tf").read_text()
    assert set(VALUES.values()) <= set(re.findall(r'^output "(\w+)"', text, re.MULTILINE))
