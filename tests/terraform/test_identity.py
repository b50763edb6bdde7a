"""What people reach on AWS, decided by the policies that Terraform renders, conditions and all.

`make terraform-test`. `terraform test` shows them, with a mocked AWS.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from iam import allows

from thalweg.hub import credentials

CLONE = Path(__file__).resolve().parents[2]

OURS, THEIRS = "hydrology", "hydro"
ADA, ADAM = ({"kubernetes-pod-name": f"jupyter-{name}"} for name in ("ada", "adam"))
USERS = "arn:aws:s3:::test-users"
CHANGES = ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")
Policies = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Policies:
    """The policy of each role, by its name."""
    copy = tmp_path_factory.mktemp("identity") / "terraform"
    shutil.copytree(CLONE / "terraform", copy, ignore=shutil.ignore_patterns(".terraform"))
    folder = f"-chdir={copy / 'modules' / 'identity'}"
    subprocess.run(["terraform", folder, "init", "-backend=false", "-input=false"], check=True)
    command = ["terraform", folder, "test", "-json", "-verbose"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    told = [json.loads(line) for line in said.splitlines()]
    state = next(each["test_state"] for each in told if "test_state" in each)
    return {
        each["index"]: json.loads(each["values"]["policy"])
        for each in state["root_module"]["resources"]
        if each["address"].startswith("aws_iam_role_policy.this[")
    }


def test_a_person_has_what_is_their_groups_own(policies: Policies) -> None:
    mine = policies[f"group-{OURS}"]
    for action in ("s3:GetObject", *CHANGES):
        assert allows(mine, action, f"{USERS}/{OURS}/a/notes.csv")
    assert allows(mine, "s3:ListBucket", USERS, s3_prefix=f"{OURS}/")
    assert allows(mine, "s3:ListBucket", USERS, s3_prefix=f"{OURS}/a/")


def test_what_is_a_persons_own_nobody_else_of_their_group_reaches(policies: Policies) -> None:
    """By the name of the pod, which pod identity puts into each session."""
    mine = policies[f"group-{OURS}"]
    theirs = f"{USERS}/people/jupyter-ada/notes.csv"
    for action in ("s3:GetObject", *CHANGES):
        assert allows(mine, action, theirs, ADA)
        assert allows(policies[f"group-{THEIRS}"], action, theirs, ADA), "whichever group she is in"
        worker = {"kubernetes-pod-name": "dask-worker-1a2b3c-x7"}
        for other in (ADAM, worker, {"kubernetes-pod-name": "jupyter-*"}, {}):
            assert not allows(mine, action, theirs, other)
        for name in ("runs", "dashboards"):
            assert not allows(policies[name], action, theirs, ADA)
    assert allows(mine, "s3:ListBucket", USERS, ADA, s3_prefix="people/jupyter-ada/a")
    for prefix in ("people/", "people/jupyter-ada", "people/jupyter-adam/", "people/*"):
        assert not allows(mine, "s3:ListBucket", USERS, ADA, s3_prefix=prefix)


@pytest.mark.parametrize(("one", "other"), [(OURS, THEIRS), (THEIRS, OURS)])
def test_nobody_reads_lists_or_changes_what_another_group_has(
    policies: Policies, one: str, other: str
) -> None:
    mine = policies[f"group-{one}"]
    for action in ("s3:GetObject", "s3:GetObjectVersion", "s3:PutObjectAcl", *CHANGES):
        assert not allows(mine, action, f"{USERS}/{other}/notes.csv")
        assert not allows(mine, action, f"{USERS}/{one}")  # not even what begins alike
    for prefix in (f"{other}/", other, "", one, f"{one}x/"):
        assert not allows(mine, "s3:ListBucket", USERS, s3_prefix=prefix)
    assert not allows(mine, "s3:ListBucket", USERS), "without a prefix it would list all"


def test_people_read_what_is_shared_and_change_nothing_there(policies: Policies) -> None:
    mine = policies[f"group-{OURS}"]
    for bucket in ("raw", "warehouse", "runs", "gridded"):
        assert allows(mine, "s3:GetObject", f"arn:aws:s3:::test-{bucket}/a")
        for action in (*CHANGES, "s3:PutBucketPolicy", "s3:DeleteBucket"):
            assert not allows(mine, action, f"arn:aws:s3:::test-{bucket}/a")
            assert not allows(mine, action, f"arn:aws:s3:::test-{bucket}")
    assert not allows(mine, "s3:GetObject", "arn:aws:s3:::test-logs/a")


def test_people_get_no_other_role_and_no_key(policies: Policies) -> None:
    for group in (OURS, THEIRS):
        for action in ("sts:AssumeRole", "iam:CreateAccessKey", "iam:PassRole", "sqs:SendMessage"):
            assert not allows(policies[f"group-{group}"], action, "arn:aws:iam::1:role/test-runs")
    key = "arn:aws:kms:us-east-1:123456789012:key/1"
    assert not allows(policies[f"group-{OURS}"], "kms:Decrypt", key), "but for S3"


def test_services_do_not_reach_what_people_keep_for_themselves(policies: Policies) -> None:
    for name in ("runs", "dashboards"):
        for action in ("s3:GetObject", *CHANGES):
            assert not allows(policies[name], action, f"{USERS}/{OURS}/notes.csv")


def test_on_one_machine_people_have_the_same_shape_of_policy(policies: Policies) -> None:
    """Statement by statement; a person of one machine has what one has on AWS, but no group's."""
    there = {each["Sid"]: each for each in policies[f"group-{OURS}"]["Statement"]}
    here = {each["Sid"]: each for each in credentials.policy("ada")["Statement"]}
    assert set(there) - set(here) == {"Catalogue", "Key"}, "Iceberg's own door; no encryption"
    assert set(here) <= set(there)
    bucket = "s3:GetBucketLocation"  # of which a store has none
    for sid in here:
        assert {*here[sid]["Action"]} == {*there[sid]["Action"]} - {bucket}
        persons = [each for each in there[sid]["Resource"] if f"/{OURS}/" not in each]
        own = "people/${aws:PrincipalTag/kubernetes-pod-name}"
        text = json.dumps(persons).replace("test-", "").replace(own, "ada")
        assert sorted(here[sid]["Resource"]) == sorted(json.loads(text))
        assert set(here[sid].get("Condition", {})) == set(there[sid].get("Condition", {}))
