"""The hub on AWS: what is to do in which order, what is there already, what is in the way.

Plans are data; `docs/howto/deploy-to-aws.md` and `look-after-aws.md` show the same commands. AWS,
the cluster and Terraform's state are asked, and nothing is changed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import botocore.session
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from thalweg.errors import InvalidInput, NotFound, ThalwegError, Unavailable, nearest
from thalweg.settings import Settings

__all__ = ["PLANS", "Check", "Place", "Step", "chart_values", "check", "plan"]

NAMESPACE = RELEASE = "thalweg"
#: Values of the chart, by the output of Terraform that each is.
VALUES = {
    "aws.region": "region",
    "aws.efsId": "efs_id",
    "catalogue.accountId": "account",
    "storage.rawBucket": "buckets.raw",
    "storage.warehouseBucket": "buckets.warehouse",
    "storage.runsBucket": "buckets.runs",
    "storage.griddedBucket": "buckets.gridded",
    "storage.usersBucket": "buckets.users",
    "settings.arrivals_url": "queue_url",
    "upkeep.backup.bucket": "backup_bucket",
    "dagster.postgresql.postgresqlHost": "database_endpoint",
}
#: What goes with them.
WITH_THEM = {"jupyterhub.singleuser.storage.dynamic.storageClass": "thalweg-homes"}
#: Programs, with the oldest version that will do.
TOOLS = {"terraform": (1, 11), "helm": (3, 17), "kubectl": (1, 30), "aws": (2,), "jq": ()}
VERSION = {"helm": ["version", "--short"], "kubectl": ["version", "--client"]}
#: What each environment takes when all its nodes are there, by service and code of the quota.
QUOTAS = {
    "L-1216C47A": ("ec2", "vCPUs of on-demand instances", {"dev": 8, "staging": 22, "prod": 184}),
    "L-34B43A08": ("ec2", "vCPUs of spot instances", {"dev": 16, "staging": 80, "prod": 800}),
    "L-0263D0A3": ("ec2", "elastic addresses", {"dev": 1, "staging": 1, "prod": 3}),
}
State = Literal["done", "to do", "unknown"]


@dataclass(frozen=True)
class Place:
    """One environment of `terraform/environments`, and the files of values of its chart."""

    name: str
    settings: Settings
    values: Sequence[Path] = ()
    session: Any = field(default_factory=botocore.session.get_session)

    def __post_init__(self) -> None:
        known = [path.parent.name for path in self.home.glob("*/main.tf")]
        if self.name not in known:
            raise NotFound(f"no environment {self.name!r}{nearest(self.name, known)}")

    @property
    def home(self) -> Path:
        """The folder of all environments."""
        return self.settings.home / "terraform" / "environments"

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """What Terraform tells of this environment; nothing where it is not applied."""
        said = run("terraform", f"-chdir={self.home / self.name}", "output", "-json")
        return outputs_of(said) if said.strip() not in ("", "{}") else {}

    @cached_property
    def chart(self) -> dict[str, Any]:
        """The values that the chart would have."""
        merged: dict[str, Any] = {}
        for path in (self.settings.home / "helm" / "thalweg" / "values.yaml", *self.values):
            merged = _over(merged, yaml.safe_load(path.read_text()) or {})
        return merged

    @property
    def image(self) -> str:
        """The one image, as the values say it."""
        return "{repository}:{tag}".format(**self.chart["image"])

    def ask(self, service: str, call: str, **arguments: Any) -> dict[str, Any]:
        """AWS's answer; NotFound where it has no such thing, Unavailable where it says nothing."""
        region = self.outputs.get("region") or self.session.get_config_variable("region")
        try:
            client = self.session.create_client(service, region_name=region or "us-east-1")
            return getattr(client, call)(**arguments)  # type: ignore[no-any-return]
        except ClientError as error:
            code = error.response["Error"]["Code"]
            kind = (
                NotFound if "NotFound" in code or code in ("404", "NoSuchBucket") else Unavailable
            )
            raise kind(
                f"{service} {call}: {error.response['Error'].get('Message') or code}"
            ) from None
        except BotoCoreError as error:
            raise Unavailable(f"{service} {call}: {error}") from None


def run(*command: str) -> str:
    """What a program writes.

    Raises `Unavailable` where it is not installed or says that it cannot, `NotFound` where it says
    that there is nothing.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} cannot be asked: {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        kind = NotFound if re.search(r"not ?found", said, re.I) else Unavailable
        raise kind(f"{command[0]}: {' '.join(said.splitlines()[:3])}")
    return done.stdout


# Plans --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """Something to do: its commands, and how to see whether it is done (raises where it is not)."""

    title: str
    commands: tuple[str, ...]
    seen: Callable[[Place], str] | None = None


def _state_bucket(place: Place) -> str:
    bucket = f"thalweg-state-{place.ask('sts', 'get_caller_identity')['Account']}"
    place.ask("s3", "head_bucket", Bucket=bucket)
    return f"bucket {bucket}"


def _applied(place: Place) -> str:
    if not place.outputs:
        raise NotFound("its state has no outputs")
    return f"{len(place.outputs)} outputs in {place.outputs['region']}"


def _cluster(place: Place) -> str:
    _applied(place)
    found = place.ask("eks", "describe_cluster", name=place.outputs["cluster_name"])["cluster"]
    return f"cluster {found['name']} is {found['status']}"


def _secret(name: str) -> Callable[[Place], str]:
    def seen(place: Place) -> str:
        return run("kubectl", "-n", NAMESPACE, "get", "secret", name, "-o", "name").strip()

    return seen


def _image(place: Place) -> str:
    repository, tag = (str(place.chart["image"][key]) for key in ("repository", "tag"))
    ours = place.outputs.get("image_repository", "")
    if repository != ours:
        return f"{place.image}, from elsewhere"
    place.ask(
        "ecr",
        "describe_images",
        repositoryName=ours.partition("/")[2],
        imageIds=[{"imageTag": tag.partition("@")[0]}],
    )
    return place.image


def _release(place: Place) -> str:
    answer = run("helm", "-n", NAMESPACE, "status", RELEASE, "-o", "json")
    try:
        said = json.loads(answer)
    except ValueError:
        raise Unavailable(f"helm status: expected JSON, got {answer[:40]!r}") from None
    if said["info"]["status"] != "deployed":
        raise Unavailable(f"revision {said['version']} is {said['info']['status']}")
    return f"revision {said['version']} is deployed"


FOLDER = "terraform/environments/{name}"
APPLY = (
    "terraform -chdir=" + FOLDER + " plan -out plan",
    "terraform -chdir=" + FOLDER + " apply plan",
)
CHECK = "thalweg deploy check {name} {values}"
WRITE_VALUES = "terraform -chdir=" + FOLDER + " output -json | thalweg deploy values - > aws.yaml"
INSTALL = "helm upgrade --install thalweg helm/thalweg --namespace thalweg {values}"
TEST = "helm test thalweg --namespace thalweg"
SNAPSHOT = (
    "aws rds create-db-snapshot --db-instance-identifier {database} "
    "--db-snapshot-identifier before-upgrade"
)
#: In pods of the hub: it has the data's environment and the role that may read and write all of it.
JOB = "kubectl -n thalweg create job "
BACKUP = JOB + "backup-now --from=cronjob/backup"
RESTORE = (
    JOB + "restore --from=cronjob/backup --dry-run=client -o json | "
    """jq '.spec.template.spec.containers[0].args = ["thalweg", "deploy", "restore", """
    """"s3://OUR-BACKUPS/TIME", "--part", "objects", "--part", "tables"]' | """
    "kubectl -n thalweg create -f -"
)
VERIFY = JOB + "verify-now --from=cronjob/verify-raw"
STOP = "kubectl -n thalweg scale deployment --all --replicas 0"
#: In order. What the pages say more of, as SQL and restores, they say at the same step.
PLANS: dict[str, tuple[Step, ...]] = {
    "install": (
        Step(
            "Terraform's state, once an account",
            (
                "terraform -chdir=terraform/bootstrap init",
                "terraform -chdir=terraform/bootstrap apply -var repository=OWNER/NAME",
                "terraform -chdir=terraform/bootstrap output -raw backend > terraform/backend.hcl",
            ),
            _state_bucket,
        ),
        Step(
            "The environment",
            (
                "cp " + FOLDER + "/terraform.tfvars.example " + FOLDER + "/terraform.tfvars",
                "terraform -chdir=" + FOLDER + " init -backend-config=../../backend.hcl",
                *APPLY,
            ),
            _applied,
        ),
        Step("The cluster", ("aws eks update-kubeconfig --name {cluster}",
                             "kubectl create namespace thalweg"), _cluster),
        Step("The database's roles and their secret",
             ("kubectl -n thalweg get secret thalweg-database",), _secret("thalweg-database")),
        Step("The secret of the login",
             ("kubectl -n thalweg get secret thalweg-login",), _secret("thalweg-login")),
        Step("The image", ("buildah push {image}",), _image),
        Step("Values that Terraform knows", (WRITE_VALUES, CHECK)),
        Step("The chart", ("helm dependency build helm/thalweg", INSTALL), _release),
        Step("Does it work together?", (TEST,)),
    ),
    "upgrade": (
        Step("What is in the way?", (CHECK,)),
        Step("A way back", (SNAPSHOT, BACKUP)),
        Step("Infrastructure", APPLY, _applied),
        Step("The image", ("buildah push {image}",), _image),
        Step("What would change", (WRITE_VALUES, INSTALL + " --dry-run=server")),
        Step("The chart; tables and databases are brought forward", (INSTALL,), _release),
        Step("Does it work together?", (TEST,)),
    ),
    "rollback": (
        Step("Which revision was good", ("helm history thalweg --namespace thalweg",), _release),
        Step("The chart", ("helm rollback thalweg --namespace thalweg",)),
        Step("Infrastructure, with the change taken back in git", APPLY, _applied),
        Step("Does it work together?", (TEST,)),
    ),
    "restore": (
        Step("Nothing writes meanwhile", (STOP,)),
        Step(
            "The database, beside the old one and then under its name",
            (
                "aws rds restore-db-instance-to-point-in-time "
                "--source-db-instance-identifier {database} "
                "--target-db-instance-identifier {database}-restored --use-latest-restorable-time",
            ),
        ),
        Step(
            "Objects and tables",
            (RESTORE,),
        ),
        Step("The hub again", (INSTALL, TEST), _release),
        Step("Is every raw file what it was?", (VERIFY,)),
    ),
}  # fmt: skip


def plan(what: str, place: Place) -> Iterator[dict[str, Any]]:
    """The steps of a plan for a place, in order: `title`, `commands`, `state`, and what was `seen`.

    Raises
    ------
    InvalidInput
        There is no such plan.
    """
    if what not in PLANS:
        raise InvalidInput(f"no plan {what!r}{nearest(what, PLANS)}")
    for step in PLANS[what]:
        state, seen = _state(step, place)
        # An upgrade finds the release that it is to change.
        if what != "install" and state == "done":
            state = "to do"
        commands = [command.format_map(_words(place)) for command in step.commands]
        yield {"title": step.title, "state": state, "seen": seen, "commands": commands}


def _state(step: Step, place: Place) -> tuple[State, str]:
    if step.seen is None:
        return "to do", ""
    try:
        return "done", step.seen(place)
    except NotFound as error:
        return "to do", str(error)
    except Unavailable as error:
        return "unknown", str(error)


def _words(place: Place) -> dict[str, str]:
    try:
        outputs = place.outputs
    except ThalwegError:
        outputs = {}
    files = place.values or ("helm/thalweg/profiles/production.yaml", "aws.yaml", "our.yaml")
    return {
        "name": place.name,
        "cluster": outputs.get("cluster_name", f"thalweg-{place.name}"),
        "database": outputs.get("database_identifier", f"thalweg-{place.name}"),
        "image": place.image,
        "values": " ".join(f"-f {path}" for path in files),
    }


# Checks -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """Something that has to hold: whether it does (None: it cannot be asked), and what was seen."""

    name: str
    holds: bool | None
    seen: str


def check(place: Place) -> Iterator[Check]:
    """What an installation or upgrade needs, asked one after the other; none raises."""
    for tool, oldest in TOOLS.items():
        yield _held(tool, partial(_tool, tool, oldest))
    yield _held("credentials", lambda: _credentials(place))
    for code in QUOTAS:
        yield _held(f"quota: {QUOTAS[code][1]}", partial(_quota, code, place))
    yield _held("outputs of Terraform", lambda: _applied(place))
    yield _held("values fit the chart", lambda: _fits(place))
    yield _held("values are those of Terraform", lambda: _agree(place))
    yield _held("image", lambda: _image(place))


def _held(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name, True, ask())
    except Unavailable as error:
        return Check(name, None, str(error))
    except ThalwegError as error:
        return Check(name, False, str(error))


def _tool(name: str, oldest: tuple[int, ...]) -> str:
    if shutil.which(name) is None:
        raise NotFound(f"{name} is not on PATH: install it")
    said = run(name, *VERSION.get(name, ["--version"])).partition("\n")[0]
    found = tuple(map(int, re.findall(r"\d+", said)))[: len(oldest)]
    if found < oldest:
        raise InvalidInput(f"{said}: expected {'.'.join(map(str, oldest))} or newer")
    return said


def _credentials(place: Place) -> str:
    who = place.ask("sts", "get_caller_identity")
    there = place.outputs.get("account", who["Account"])
    if who["Account"] != there:
        raise InvalidInput(
            f"you are {who['Arn']}, and {place.name} is in the account {there}: choose its profile"
        )
    return str(who["Arn"])


def _quota(code: str, place: Place) -> str:
    service, name, needed = QUOTAS[code]
    asked = place.ask("service-quotas", "get_service_quota", ServiceCode=service, QuotaCode=code)
    value = asked["Quota"]["Value"]
    if value < needed.get(place.name, 0):
        raise InvalidInput(
            f"{value:.0f} {name}, and {place.name} takes {needed[place.name]} with all its nodes: "
            f"aws service-quotas request-service-quota-increase --service-code {service} "
            f"--quota-code {code} --desired-value {needed[place.name]}"
        )
    return f"{value:.0f}"


def _fits(place: Place) -> str:
    chart = place.settings.home / "helm" / "thalweg"
    files = [f"--values={path}" for path in place.values]
    try:
        run("helm", "template", RELEASE, str(chart), f"--namespace={NAMESPACE}", *files)
    except Unavailable as error:
        if "cannot be asked" in str(error):
            raise
        if "missing in charts/" in str(error):
            raise Unavailable("run `helm dependency build helm/thalweg` first") from None
        raise InvalidInput(str(error)) from None
    return f"{len(files)} files of values"


def _agree(place: Place) -> str:
    _applied(place)
    given = _given(place.outputs)
    found = {key: _at(place.chart, key) for key in given}
    wrong = [
        f"{key} is {found[key]!r}, and Terraform says {value!r}"
        for key, value in given.items()
        if str(found[key]) != value
    ]
    if wrong:
        raise InvalidInput("; ".join(wrong) + ": write them anew with `thalweg deploy values`")
    return f"{len(given)} values"


# Values of the chart ------------------------------------------------------------------------------


def outputs_of(text: str) -> dict[str, Any]:
    """What an environment tells, from what `terraform output -json` writes; else InvalidInput."""
    try:
        return json.loads(text)["hub"]["value"]  # type: ignore[no-any-return]
    except (ValueError, AttributeError, KeyError, TypeError):
        raise InvalidInput(
            "expected what `terraform output -json` writes in a folder of terraform/environments, "
            "after `terraform apply` there"
        ) from None


def chart_values(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The chart's values, from the outputs of an environment; InvalidInput where one is missing."""
    values: dict[str, Any] = {}
    for key, value in _given(outputs).items():
        *path, last = key.split(".")
        place = values
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return values


def _given(outputs: Mapping[str, Any]) -> dict[str, str]:
    return {key: _value(outputs, output) for key, output in VALUES.items()} | WITH_THEM


def _value(outputs: Mapping[str, Any], output: str) -> str:
    found = _at(outputs, output)
    if found is None:
        raise InvalidInput(
            f"Terraform has no output {output}: run `terraform apply` in a folder of "
            "terraform/environments, then `terraform output -json` there"
        )
    # RDS tells its endpoint as HOST:PORT; Dagster wants the host.
    return str(found).removesuffix(":5432")


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """As helm puts one file of values over another."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _over(merged[key], value) if both else value
    return merged
