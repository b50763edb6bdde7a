"""Bootstrap and dev, really applied and destroyed, against moto's server on the loopback address.

`make terraform-apply-test`. What moto 5.2 does not know is taken out of a copy of the files: EKS
add-ons, access entries and pod identity associations; the budget's subscribers; backups and policy
of EFS; lifecycle rules and the queue's permission to set messages aside, which moto forgets; bucket
policies, whose conditions it takes for met, and access logs, which need one. `terraform test` looks
at these. moto has no policy simulator, but evaluates the policies of a role at each call: actions
and resources, without conditions.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError

from thalweg import arrivals, deployment
from thalweg.backup import objects
from thalweg.settings import Settings

CLONE = Path(__file__).resolve().parents[2]
MOTO = Path(os.environ.get("THALWEG_MOTO", CLONE / ".cache" / "moto" / "bin" / "moto_server"))
REGION = "us-east-1"
PATH_STYLE = 'provider "aws" {\n  s3_use_path_style = true\n}\n'
ADMIN = "arn:aws:iam::123456789012:role/administrators"
pytestmark = pytest.mark.timeout(1500)


def none_of(*resources: str, by: str = "for_each = {}") -> str:
    """An override that makes none of these."""
    one = 'resource "{}" "{}" {{\n  {}\n}}\n'
    return "".join(one.format(*name.split("."), by) for name in resources)


#: moto names a security group of the cluster that does not exist.
NODES = """
data "aws_subnet" "moto" {
  id = var.subnet_ids[0]
}

resource "aws_security_group" "moto" {
  description = "Nodes"
  vpc_id      = data.aws_subnet.moto.vpc_id
}
"""
NODES_OVERRIDE = 'output "security_group_id" {\n  value = aws_security_group.moto.id\n}\n'

OVERRIDES = {
    "bootstrap": PATH_STYLE
    + none_of(
        "aws_s3_bucket_lifecycle_configuration.state", "aws_s3_bucket_policy.state",
        by="count = 0",
    ),
    "environments/dev": PATH_STYLE,
    "modules/eks": none_of(
        "aws_eks_addon.before_nodes", "aws_eks_addon.after_nodes",
        "aws_eks_access_entry.admin", "aws_eks_access_policy_association.admin",
    )
    + NODES_OVERRIDE,
    "modules/budget": none_of("aws_budgets_budget.this", by="count = 0"),
    "modules/events": none_of("aws_sqs_queue_redrive_allow_policy.dead", by="count = 0"),
    "modules/storage": none_of(
        "aws_s3_bucket_lifecycle_configuration.this",
        "aws_s3_bucket_logging.this", "aws_s3_bucket_policy.this",
    )
    + none_of(
        "aws_efs_backup_policy.homes", "aws_efs_file_system_policy.homes", by="count = 0"
    ),
    "modules/identity": none_of("aws_eks_pod_identity_association.this")
    + none_of("aws_eks_pod_identity_association.autoscaler", by="count = 0"),
}  # fmt: skip


class Account:
    """An account of moto's, and Terraform working in it."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.url = home, f"http://127.0.0.1:{port}"
        self.environ = {
            k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "TF_VAR_"))
        }
        self.environ |= {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "TF_IN_AUTOMATION": "1",
        }

    def terraform(self, folder: str, *arguments: str, expect: int = 0) -> str:
        done = subprocess.run(
            ["terraform", f"-chdir={self.home / 'terraform' / folder}", *arguments],
            env=self.environ, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == expect, (
            f"{arguments}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        )
        return done.stdout

    def enter(self, patch: pytest.MonkeyPatch) -> None:
        """Let the library find this account by the SDK's default chain, as it finds AWS."""
        for name, value in self.environ.items():
            patch.setenv(name, value)

    def client(self, service: str, **keys: str) -> Any:
        keys = keys or {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        return botocore.session.Session().create_client(
            service, region_name=REGION, endpoint_url=self.url,
            config=Config(s3={"addressing_style": "path"}), **keys,
        )  # fmt: skip


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    assert MOTO.exists(), f"no {MOTO}: run `make terraform-apply-test`"
    home = tmp_path_factory.mktemp("account")
    ignored = shutil.ignore_patterns(".terraform", "*.tfstate*", "*.tfvars", "backend.hcl")
    shutil.copytree(CLONE / "terraform", home / "terraform", ignore=ignored)
    shutil.copytree(CLONE / "hub-config", home / "hub-config")
    for folder, text in OVERRIDES.items():
        (home / "terraform" / folder / "moto_override.tf").write_text(text)
    (home / "terraform/modules/eks/moto.tf").write_text(NODES)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (home / "moto.log").open("wb") as log:
        server = subprocess.Popen(
            [str(MOTO), "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=log,
            env=os.environ | {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
        )
        try:
            _wait(server, port)
            yield Account(home, port)
        finally:
            server.terminate()
            server.wait(30)


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(300):
        assert server.poll() is None, "moto's server has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("moto's server does not listen")


@pytest.fixture(scope="module")
def dev(account: Account) -> dict[str, Any]:
    """The outputs of dev, applied with its state in the bucket that bootstrap has made."""
    no_input = ("-input=false", "-no-color")
    account.terraform("bootstrap", "init", *no_input)
    account.terraform(
        "bootstrap", "apply", "-auto-approve", "-var=repository=thalweg/thalweg", *no_input
    )
    backend = account.terraform("bootstrap", "output", "-raw", "backend")
    (account.home / "terraform" / "backend.hcl").write_text(backend)
    (account.home / "terraform/environments/dev/terraform.tfvars").write_text(
        f'emails = ["hydrology@example.org"]\nadmin_role_arns = ["{ADMIN}"]\n'
    )
    account.terraform(
        "environments/dev", "init", "-backend-config=../../backend.hcl",
        "-backend-config=use_path_style=true", *no_input,
    )  # fmt: skip
    account.terraform("environments/dev", "apply", "-auto-approve", *no_input)
    outputs = json.loads(account.terraform("environments/dev", "output", "-json"))
    return dict(outputs["hub"]["value"])


def test_the_state_is_in_its_bucket_and_holds_no_password(
    account: Account, dev: dict[str, Any]
) -> None:
    s3 = account.client("s3")
    state = s3.get_object(Bucket="thalweg-state-123456789012", Key="dev/terraform.tfstate")
    text = state["Body"].read().decode()
    assert "aws_db_instance" in text
    assert dev["database_secret_arns"].keys() == {"thalweg", "lab", "hub", "dagster"}
    for arn in dev["database_secret_arns"].values():
        secret = account.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
        assert len(secret) == 40
        assert secret not in text


@pytest.mark.parametrize("kind", ["raw", "warehouse", "runs", "gridded", "users"])
def test_a_bucket_is_encrypted_versioned_and_closed(
    account: Account, dev: dict[str, Any], kind: str
) -> None:
    s3, bucket = account.client("s3"), dev["buckets"][kind]
    rule = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())


def test_a_file_that_arrives_in_the_inbox_is_told_to_the_library(
    account: Account, dev: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, raw = account.client("s3"), dev["buckets"]["raw"]
    s3.put_object(Bucket=raw, Key="inbox/gauges/today.csv", Body=b"{}")
    s3.put_object(Bucket=raw, Key="usgs/site.json", Body=b"{}")
    s3.put_object(Bucket=dev["buckets"]["runs"], Key="inbox/not/for/the/queue", Body=b"{}")
    account.enter(monkeypatch)
    settings = Settings(arrivals_url=dev["queue_url"])
    told = list(arrivals.waiting(settings))
    assert [each.uri for each in told] == [f"s3://{raw}/inbox/gauges/today.csv"]
    told[0].done()
    kept = account.client("sqs").get_queue_attributes(
        QueueUrl=dev["queue_url"], AttributeNames=["ApproximateNumberOfMessagesNotVisible"]
    )
    assert kept["Attributes"]["ApproximateNumberOfMessagesNotVisible"] == "0"


def test_a_plan_sees_what_is_there(
    account: Account, dev: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    account.enter(monkeypatch)
    values = account.home / "aws.yaml"
    values.write_text(yaml.safe_dump(deployment.chart_values(dev)))
    settings = Settings(home=account.home)
    (account.home / "helm").symlink_to(CLONE / "helm")
    place = deployment.Place("dev", settings, [values])
    steps = {step["title"]: step for step in deployment.plan("install", place)}
    assert steps["Terraform's state, once an account"]["state"] == "done"
    assert steps["The environment"]["state"] == "done"
    assert steps["The cluster"]["seen"] == "cluster thalweg-dev is ACTIVE"
    assert steps["The chart"]["state"] != "done"
    found = {each.name: each for each in deployment.check(place)}
    for name in ("terraform", "credentials", "outputs of Terraform"):
        assert found[name].holds, found[name]
    assert found["values are those of Terraform"].holds, found["values are those of Terraform"]


def test_objects_come_back_by_their_versions(
    account: Account, dev: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.enter(monkeypatch)
    s3, bucket = account.client("s3"), dev["buckets"]["gridded"]
    for name in ("same", "spoilt", "gone"):
        s3.put_object(Bucket=bucket, Key=f"era5/{name}", Body=name.encode())
    place, target = f"s3://{bucket}", f"file://{tmp_path}/gridded"
    objects.note(place, target, lambda done, total: None)
    s3.put_object(Bucket=bucket, Key="era5/spoilt", Body=b"?")
    s3.delete_object(Bucket=bucket, Key="era5/gone")
    assert objects.bring_versions(target, place, lambda done, total: None) == 2
    for name in ("same", "spoilt", "gone"):
        assert s3.get_object(Bucket=bucket, Key=f"era5/{name}")["Body"].read() == name.encode()


def test_what_was_deleted_is_had_back(account: Account, dev: dict[str, Any]) -> None:
    s3 = account.client("s3")
    key = {"Bucket": dev["buckets"]["warehouse"], "Key": "hydro.db/table/data/1.parquet"}
    s3.put_object(Body=b"rows", **key)
    s3.delete_object(**key)
    markers = s3.list_object_versions(Bucket=key["Bucket"], Prefix=key["Key"])["DeleteMarkers"]
    s3.delete_object(VersionId=markers[0]["VersionId"], **key)
    assert s3.get_object(**key)["Body"].read() == b"rows"


def test_the_database_is_brought_back_beside_the_old_one(
    account: Account, dev: dict[str, Any]
) -> None:
    rds, name = account.client("rds"), dev["database_identifier"]
    rds.create_db_snapshot(DBInstanceIdentifier=name, DBSnapshotIdentifier="before-upgrade")
    rds.restore_db_instance_from_db_snapshot(
        DBInstanceIdentifier=f"{name}-restored", DBSnapshotIdentifier="before-upgrade"
    )
    found = rds.describe_db_instances(DBInstanceIdentifier=f"{name}-restored")["DBInstances"][0]
    assert found["StorageEncrypted"]
    rds.delete_db_instance(DBInstanceIdentifier=f"{name}-restored", SkipFinalSnapshot=True)


def test_what_dev_has(account: Account, dev: dict[str, Any]) -> None:
    name = dev["cluster_name"]
    cluster = account.client("eks").describe_cluster(name=name)["cluster"]
    assert cluster["resourcesVpcConfig"]["endpointPrivateAccess"]
    groups = account.client("eks").list_nodegroups(clusterName=name)["nodegroups"]
    assert sorted(groups) == ["core", "users", "workers"]
    database = account.client("rds").describe_db_instances(
        DBInstanceIdentifier=dev["database_identifier"]
    )["DBInstances"][0]
    assert database["StorageEncrypted"]
    assert not database["PubliclyAccessible"]
    assert database["MasterUserSecret"]["SecretArn"] == dev["database_master_secret_arn"]
    files = account.client("efs").describe_file_systems(FileSystemId=dev["efs_id"])["FileSystems"]
    assert files[0]["Encrypted"]
    images = account.client("ecr").describe_repositories(repositoryNames=[name])["repositories"][0]
    assert images["imageTagMutability"] == "IMMUTABLE"
    assert images["repositoryUri"] == dev["image_repository"]
    table = account.client("glue").get_database(Name="hydro")["Database"]
    assert table["LocationUri"].startswith(f"s3://{dev['buckets']['warehouse']}/")
    ec2 = account.client("ec2")
    endpoints = {one["ServiceName"] for one in ec2.describe_vpc_endpoints()["VpcEndpoints"]}
    assert f"com.amazonaws.{REGION}.s3" in endpoints


def keys_of(account: Account, role: str) -> dict[str, str]:
    """Short-lived keys of a role, as pod identity would hand them out."""
    answer = account.client("sts").assume_role(RoleArn=role, RoleSessionName="pod")["Credentials"]
    return {
        "aws_access_key_id": answer["AccessKeyId"],
        "aws_secret_access_key": answer["SecretAccessKey"],
        "aws_session_token": answer["SessionToken"],
    }


@pytest.fixture
def enforced(account: Account, dev: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """An S3 client for each role, while moto evaluates policies at each call."""
    clients = {
        name: account.client("s3", **keys_of(account, role))
        for name, role in dev["role_arns"].items()
    }
    set_unchecked(account, 0)
    yield clients
    set_unchecked(account, 10**9)


def set_unchecked(account: Account, calls: int) -> None:
    import httpx

    answer = httpx.post(f"{account.url}/moto-api/reset-auth", content=str(calls))
    assert answer.status_code == 200


def allowed(call: Any, **arguments: Any) -> bool:
    try:
        call(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("AccessDenied", "Forbidden", "403"):
            raise
        return False
    return True


def test_a_group_reaches_its_own_prefix_and_reads_what_is_shared(
    enforced: dict[str, Any], dev: dict[str, Any]
) -> None:
    researchers, stewards = enforced["group-researchers"], enforced["group-stewards"]
    own = {"Bucket": dev["buckets"]["users"], "Key": "researchers/paper.csv"}
    assert allowed(researchers.put_object, Body=b"1", **own)
    assert allowed(researchers.get_object, **own)
    assert not allowed(stewards.get_object, **own)
    assert not allowed(stewards.put_object, Body=b"2", **own)
    assert not allowed(stewards.delete_object, **own)
    raw = {"Bucket": dev["buckets"]["raw"], "Key": "usgs/site.json"}
    assert allowed(researchers.get_object, **raw)
    assert not allowed(researchers.put_object, Body=b"2", **raw)
    assert not allowed(researchers.delete_object, **raw)
    assert allowed(researchers.delete_object, **own)


def test_runs_write_raw_but_do_not_delete_there(
    enforced: dict[str, Any], dev: dict[str, Any]
) -> None:
    key = {"Bucket": dev["buckets"]["raw"], "Key": "usgs/other.json"}
    assert allowed(enforced["runs"].put_object, Body=b"{}", **key)
    assert not allowed(enforced["runs"].delete_object, **key)
    assert not allowed(enforced["dashboards"].get_object, **key)
    users = {"Bucket": dev["buckets"]["users"], "Key": "researchers/x"}
    assert not allowed(enforced["runs"].put_object, Body=b"", **users)


def test_destroying_dev_leaves_the_state_alone(account: Account, dev: dict[str, Any]) -> None:
    s3, users = account.client("s3"), dev["buckets"]["users"]
    # moto's answer to a batch with a marker in it is 500
    for marker in s3.list_object_versions(Bucket=users).get("DeleteMarkers", []):
        s3.delete_object(Bucket=users, Key=marker["Key"], VersionId=marker["VersionId"])
    account.terraform("environments/dev", "destroy", "-auto-approve", "-input=false", "-no-color")
    buckets = account.client("s3").list_buckets()["Buckets"]
    assert [bucket["Name"] for bucket in buckets] == ["thalweg-state-123456789012"]
    assert account.client("eks").list_clusters()["clusters"] == []
    assert account.client("rds").describe_db_instances()["DBInstances"] == []
