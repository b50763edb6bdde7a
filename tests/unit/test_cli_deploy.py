"""`thalweg deploy`: outputs as values of the chart, the order of things, what is in the way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.stub import Stubber
from typer.testing import CliRunner

from thalweg import deployment
from thalweg.cli import app
from thalweg.deployment import PLANS, QUOTAS, VALUES, Place, chart_values, outputs_of
from thalweg.errors import InvalidInput, NotFound
from thalweg.settings import load

CLONE = Path(__file__).resolve().parents[2]
ENVIRONMENTS = CLONE / "terraform" / "environments"
OUTPUTS = {
    "region": "us-west-2",
    "account": "012345678901",
    "buckets": {n: f"our-{n}" for n in ("raw", "warehouse", "runs", "gridded", "users")},
    "database_endpoint": "db.example.internal:5432",
    "database_identifier": "thalweg-dev",
    "cluster_name": "thalweg-dev",
    "efs_id": "fs-0123456789abcdef0",
    "backup_bucket": "our-backups",
    "queue_url": "https://sqs.us-west-2.amazonaws.com/012345678901/arrivals",
    "image_repository": "012345678901.dkr.ecr.us-west-2.amazonaws.com/thalweg-dev",
}
WRITTEN = json.dumps({"hub": {"sensitive": False, "value": OUTPUTS}})
OURS = CLONE / "tests" / "chart" / "ours.yaml"
WHO = {"Account": "012345678901", "Arn": "arn:aws:iam::012345678901:role/a", "UserId": "a"}
SIZES = {"large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16}


def test_values_of_the_chart() -> None:
    result = CliRunner().invoke(app, ["deploy", "values", "-"], input=WRITTEN)
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(result.stdout) == {
        "aws": {"region": "us-west-2", "efsId": "fs-0123456789abcdef0"},
        "catalogue": {"accountId": "012345678901"},
        "storage": {
            "rawBucket": "our-raw",
            "warehouseBucket": "our-warehouse",
            "runsBucket": "our-runs",
            "griddedBucket": "our-gridded",
            "usersBucket": "our-users",
        },
        "upkeep": {"backup": {"bucket": "our-backups"}},
        "settings": {"arrivals_url": "https://sqs.us-west-2.amazonaws.com/012345678901/arrivals"},
        "dagster": {"postgresql": {"postgresqlHost": "db.example.internal"}},
        "jupyterhub": {"singleuser": {"storage": {"dynamic": {"storageClass": "thalweg-homes"}}}},
    }


def test_an_output_that_is_missing_is_named() -> None:
    some = OUTPUTS | {"buckets": {"raw": "our-raw", "warehouse": "our-warehouse"}}
    with pytest.raises(InvalidInput, match=r"no output buckets\.runs"):
        chart_values(some)


@pytest.mark.parametrize("text", ["", "[]", '{"region": "us-east-1"}', "region = us-east-1"])
def test_something_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="terraform output -json"):
        outputs_of(text)


def test_the_hub_of_terraform_has_these_outputs() -> None:
    text = (CLONE / "terraform/modules/hub/outputs.tf").read_text()
    there = set(re.findall(r'^output "(\w+)"', text, re.MULTILINE))
    assert {output.partition(".")[0] for output in VALUES.values()} | set(OUTPUTS) <= there


@pytest.mark.parametrize("environment", ["dev", "staging", "prod"])
def test_the_quotas_are_those_of_all_nodes(environment: str) -> None:
    text = (ENVIRONMENTS / environment / "main.tf").read_text()
    vcpus = {"true": 0, "false": 0}
    pattern = r'instance_types = \["\w+\.(\w+)".*?spot = (\w+).*?max = (\d+)'
    for size, spot, most in re.findall(pattern, text):
        vcpus[spot] += SIZES[size] * int(most)
    addresses = int(re.findall(r"nat_gateways\s+= (\d+)", text)[0])
    needed = {code: of[environment] for code, (_, _, of) in QUOTAS.items()}
    assert list(needed.values()) == [vcpus["false"], vcpus["true"], addresses]


# What is asked of others, each answered as it would be.


class Session:
    """botocore's clients, which check what they are asked and answered by AWS's own models."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.inner = answers, botocore.session.get_session()

    def get_config_variable(self, name: str) -> None:
        return None

    def create_client(self, service: str, region_name: str) -> Any:
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        client = self.inner.create_client(service, region_name=region_name, **keys)
        stub = Stubber(client)
        for call in ("get_caller_identity", "head_bucket", "describe_cluster", "describe_images",
                     "get_service_quota"):  # fmt: skip
            answer = self.answers.get(call)
            if not hasattr(client, call):
                continue
            if answer is None:
                stub.add_client_error(call, "ResourceNotFoundException", "no such thing", 404)
            else:
                stub.add_response(call, answer)
        stub.activate()
        return client


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts programs on PATH that say what they are told to, and nothing else is there."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(**said: str) -> None:
        for name, script in said.items():
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o700)

    return put


VERSIONS = {
    "terraform": f"case $1 in --version) echo Terraform v1.11.4;; *) echo '{WRITTEN}';; esac",
    "helm": "case $1 in version) echo v4.0.0;; esac",
    "kubectl": "case $1 in version) echo Client Version: v1.34.0;; "
    "*) echo 'Error: secrets \"thalweg-login\" not found' >&2; exit 1;; esac",
    "aws": "echo aws-cli/2.31.0",
    "jq": "echo jq-1.7",
}


def place(tmp_path: Path, session: Any, **given: Any) -> Place:
    agreed = tmp_path / "aws.yaml"
    values = chart_values(OUTPUTS)
    for key, value in given.items():
        values["storage"][key] = value
    agreed.write_text(yaml.safe_dump(values))
    return Place("dev", load({}, home=CLONE), [OURS, agreed], session)


def checked(at: Place) -> dict[str, deployment.Check]:
    return {each.name: each for each in deployment.check(at)}


def test_a_place_where_all_is_well(tmp_path: Path, programs: Callable[..., None]) -> None:
    programs(**VERSIONS)
    answers = Session(get_caller_identity=WHO, get_service_quota={"Quota": {"Value": 1000.0}})
    found = checked(place(tmp_path, answers))
    assert [each for each in found.values() if not each.holds] == []
    assert found["terraform"].seen == "Terraform v1.11.4"
    assert found["credentials"].seen == WHO["Arn"]
    assert found["image"].seen == "ghcr.io/thalweg/thalweg:0.1.0, from elsewhere"


def test_an_image_with_a_digest_is_looked_for_by_its_tag(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    client = SimpleNamespace(describe_images=lambda **words: asked.append(words))
    session = SimpleNamespace(
        get_config_variable=lambda name: None, create_client=lambda *_, **__: client
    )
    ours = {"repository": OUTPUTS["image_repository"], "tag": "0.2.0@sha256:0a"}
    (tmp_path / "ours.yaml").write_text(yaml.safe_dump({"image": ours}))
    at = Place("dev", load({}, home=CLONE), [tmp_path / "ours.yaml"], session)
    vars(at)["outputs"] = OUTPUTS
    assert deployment._image(at) == f"{OUTPUTS['image_repository']}:0.2.0@sha256:0a"
    assert asked[0]["imageIds"] == [{"imageTag": "0.2.0"}]


def test_what_is_wrong_is_told_with_what_to_do(
    tmp_path: Path, programs: Callable[..., None]
) -> None:
    refuses = "echo 'Error: host is empty: set it' >&2; exit 1"
    refuses = f"case $1 in version) echo v3.9.1;; *) {refuses};; esac"
    programs(**VERSIONS | {"helm": refuses})
    (tmp_path / "jq").unlink()
    answers = Session(
        get_caller_identity=WHO | {"Account": "999999999999"},
        get_service_quota={"Quota": {"Value": 5.0}},
    )
    found = checked(place(tmp_path, answers, rawBucket="theirs"))
    wrong = {name: each.seen for name, each in found.items() if each.holds is False}
    assert wrong.keys() == {
        "helm", "jq", "credentials", "quota: vCPUs of on-demand instances",
        "quota: vCPUs of spot instances", "values fit the chart", "values are those of Terraform",
    }  # fmt: skip
    assert "expected 3.17 or newer" in wrong["helm"]
    assert "install it" in wrong["jq"]
    assert "dev is in the account 012345678901: choose its profile" in wrong["credentials"]
    assert "--quota-code L-34B43A08 --desired-value 16" in wrong["quota: vCPUs of spot instances"]
    assert "host is empty" in wrong["values fit the chart"]
    assert wrong["values are those of Terraform"].startswith(
        "storage.rawBucket is 'theirs', and Terraform says 'our-raw'"
    )


def test_what_cannot_be_asked_is_no_failure(
    tmp_path: Path, programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(**VERSIONS | {"terraform": "echo Error: Backend initialization required >&2; exit 1"})
    found = checked(place(tmp_path, Session()))
    assert found["outputs of Terraform"].holds is None
    assert "Backend initialization required" in found["outputs of Terraform"].seen


def test_a_plan_tells_what_is_there_already(tmp_path: Path, programs: Callable[..., None]) -> None:
    programs(**VERSIONS)
    cluster = {"cluster": {"name": "thalweg-dev", "status": "ACTIVE"}}
    answers = Session(get_caller_identity=WHO, head_bucket={}, describe_cluster=cluster)
    steps = list(deployment.plan("install", place(tmp_path, answers)))
    states = {step["title"]: step["state"] for step in steps}
    assert [*states.values()][:3] == ["done"] * 3
    assert states["The secret of the login"] == "to do"
    assert states["The chart"] == "unknown"  # this helm says nothing that is JSON
    assert any("--name thalweg-dev" in command for step in steps for command in step["commands"])


def test_the_command_prints_the_next_step(
    tmp_path: Path, programs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(**VERSIONS | {"terraform": "echo '{}'"})
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    result = CliRunner().invoke(app, ["deploy", "plan", "dev"])
    assert result.exit_code == 0, result.output
    assert "Next: Terraform's state, once an account" in result.stdout
    assert "$ terraform -chdir=terraform/environments/dev apply plan" in result.stdout
    steps = json.loads(
        CliRunner().invoke(app, ["deploy", "plan", "dev", "upgrade", "--json"]).stdout
    )
    assert "done" not in {step["state"] for step in steps}
    assert CliRunner().invoke(app, ["deploy", "check", "dev"]).exit_code in (0, 1)


@pytest.mark.parametrize(("name", "what", "error"), [
    ("prd", "install", (NotFound, "did you mean 'prod'")),
    ("prod", "upgrad", (InvalidInput, "did you mean 'upgrade'")),
])  # fmt: skip
def test_an_unknown_word_is_told(name: str, what: str, error: Any) -> None:
    with pytest.raises(error[0], match=error[1]):
        list(deployment.plan(what, Place(name, load({}, home=CLONE))))


def test_the_pages_show_the_commands_of_the_plans() -> None:
    """What a page shows is what the plan says, line by line."""
    text = "".join(
        (CLONE / "docs/howto" / page).read_text()
        for page in ("deploy-to-aws.md", "look-after-aws.md")
    ).replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    shown = {line.removeprefix("$ ") for line in lines if line.startswith("$ ")}
    told = {
        " ".join(command.format_map(WORDS).split())
        for steps in PLANS.values()
        for step in steps
        for command in step.commands
    }
    assert [each for each in told if not any(line.startswith(each) for line in shown)] == []


WORDS = {
    "name": "dev", "cluster": "thalweg-dev", "database": "thalweg-dev",
    "image": "IMAGE", "values": "-f helm/thalweg/profiles/production.yaml -f aws.yaml -f our.yaml",
}  # fmt: skip
