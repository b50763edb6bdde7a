"""Wrong values are refused with the key in the message; each key is described."""

import json

import pytest
import yaml
from rendered import CHART, OURS, PROFILES, REAL, run

#: What is given, and what the message has to name.
WRONG = {
    "a key that is none": ("hots=x", "hots"),
    "a setting that is none": ("settings.usgs_ulr=x", "usgs_ulr"),
    "no host": ("host=", "host is empty"),
    "a host with https": ("host=https://hub.example.org", "without https://"),
    "no region": ("aws.region=", "aws.region is empty"),
    "a region that is none": ("aws.region=Virginia", "/aws/region"),
    "a file system that is none": ("aws.efsId=homes", "/aws/efsId"),
    "homes elsewhere than on the file system": (
        "aws.efsId=fs-0123456789abcdef0",
        "jupyterhub.singleuser.storage.dynamic.storageClass",
    ),
    "no bucket": ("storage.rawBucket=", "storage.rawBucket is empty"),
    "a bucket as an address": ("storage.runsBucket=s3://runs", "storage.runsBucket"),
    "a bucket that is none": ("storage.griddedBucket=Our_Grids", "/storage/griddedBucket"),
    "no secret of the database": ("database.existingSecret=", "database.existingSecret is empty"),
    "another secret": ("database.existingSecret=other", "database.existingSecret"),
    "latest": ("image.tag=latest", "image.tag is latest"),
    "another image of users": (
        "jupyterhub.singleuser.image.tag=9.9.9",
        "jupyterhub.singleuser.image",
    ),
    "another image of Dask": (
        "dask-gateway.gateway.backend.image.tag=9.9.9",
        "dask-gateway.gateway.backend.image",
    ),
    "another image of pipelines": (
        "dagster.dagsterDaemon.image.tag=9.9.9",
        "dagster.dagsterDaemon.image",
    ),
    "another image of all others": ("image.tag=9.9.9", "have one image"),
    "a pull policy that is none": ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
    "no database of Dagster": ("dagster.postgresql.postgresqlHost=", "postgresqlHost is empty"),
    "a catalogue that is none": ("catalogue.kind=hive", "/catalogue/kind"),
    "an account that is none": ("catalogue.accountId=12x", "catalogue.accountId"),
    "a catalogue without an address": ("catalogue.kind=rest", "catalogue.uri is empty"),
    "a login that is none": ("login.kind=password", "/login/kind"),
    "no client id": ("login.clientId=", "login.clientId is empty"),
    "nobody may log in": ("login.groups=null", "login.groups is empty"),
    "a group that is none": ("login.groups.writers[0]=w", "login.groups.writers"),
    "an address without https": ("login.oidc.tokenUrl=http://x", "login.oidc.tokenUrl"),
    "no identity providers": ("login.kind=cilogon", "login.cilogon.allowedIdps is empty"),
    "an account of nobody": ("serviceAccounts.writers.roleArn=", "serviceAccounts.writers"),
    "a role that is none": ("serviceAccounts.runs.roleArn=runs", "/serviceAccounts/runs/roleArn"),
    "a page that is none": ("services.maps.replicas=1", "services.maps"),
    "no pod": ("services.dashboards.replicas=0", "/services/dashboards/replicas"),
    "memory that is none": ("ray.head.limits.memory=lots", "/ray/head/limits/memory"),
    "a time that is none": ("upkeep.verifyRaw.schedule=daily", "/upkeep/verifyRaw/schedule"),
    "Ray without an operator": ("ray.enabled=true", "components.rayOperator"),
    "Dagster without the hub": ("components.jupyterhub=false", "components.dagster"),
    "a service without a token": (
        "jupyterhub.hub.services.operations=null",
        "jupyterhub.hub.services",
    ),
    "two cullers": ("jupyterhub.cull.enabled=true", "jupyterhub.cull.enabled"),
    "a page for a group that is none": (
        "services.schedules.groups[0]=x",
        "services.schedules.groups",
    ),
    "backups to nowhere": ("upkeep.backup.enabled=true", "upkeep.backup.bucket"),
    "a Ray job without a time": ("ray.jobs.weekly.command=x", "/ray/jobs/weekly"),
    "metrics without Prometheus": ("metrics.serviceMonitor=true", "metrics.serviceMonitor"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_value_is_refused_by_name(chart, wrong):
    given, said = WRONG[wrong]
    done = run("template", "thalweg", chart, "-f", PROFILES["small"], "-f", OURS, "--set", given)
    assert done.returncode != 0, f"{given} was taken"
    assert said in done.stderr


@pytest.mark.skipif(not REAL, reason="the parts' own schemas are not here: THALWEG_CHARTS")
@pytest.mark.parametrize("given", ["jupyterhub.hub.dbb=1", "dask-gateway.gatewya=1"])
def test_a_wrong_value_of_a_part_is_refused(chart, given):
    done = run("template", "thalweg", chart, "-f", PROFILES["small"], "-f", OURS, "--set", given)
    assert done.returncode != 0
    assert given.split("=")[0].rpartition(".")[2] in done.stderr


def test_without_values_of_ones_own_it_says_what_to_give(chart):
    done = run("template", "thalweg", chart)
    assert "host is empty: set it to the name" in done.stderr


def test_every_value_is_described_and_every_description_has_a_value():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    parts = {"jupyterhub", "dask-gateway", "kuberay-operator", "dagster"}
    assert set(schema["properties"]) == set(values) | {"global"}
    for key, each in schema["properties"].items():
        described(key, each)
        if key not in parts and "properties" in each and key != "settings":
            assert set(each["properties"]) >= set(values.get(key, {}))


def described(key, schema):
    assert schema.get("description"), f"{key} is not described"
    for name, each in schema.get("properties", {}).items():
        described(f"{key}.{name}", each)
    if "properties" in schema:
        assert schema["additionalProperties"] is False, key
