"""One configuration, two renderings: what the laptop's hub and the chart's hub have in common.

What differs is declared here, each with its reason; any other difference fails.
"""

import json

import pytest
import yaml
from rendered import named

from thalweg import settings as settings_module
from thalweg.hub import environment

#: Settings whose value is another one in the chart.
SETTINGS = {
    "home": "the top folders are config maps, mounted where the chart says",
    "data_dir": "pods keep no state: an empty folder of their own",
    "schedules": "an institution wants its data kept up to date; a laptop asks first",
    "sample": "an institution has data of its own",
    "launcher": "runs are jobs on Kubernetes",
    "image": "goes on record with each run; a laptop has no image",
    "namespace": "that of the release",
    "database_url": "PostgreSQL, whose address is a secret",
    "raw_uri": "the bucket's name is the institution's",
    "runs_uri": "the same",
    "gridded_uri": "the same",
}
#: Other variables that one side alone has.
VARIABLES = {
    "AWS_SHARED_CREDENTIALS_FILE": "pods have an identity of AWS, and no key",
    "AWS_ENDPOINT_URL": "AWS itself, and not the laptop's store",
    "PYICEBERG_HOME": "the catalogue stands in the environment: there is no secret in it",
    "HOLOVIEWSRC": "the image sets it: it knows where the package lies",
    "PATH": "the image's",
    "AWS_DEFAULT_REGION": "that of the buckets",
    "AWS_REGION": "that of the buckets",
    "THALWEG_INSTANCE": "a mark by which a laptop finds its processes",
    "DASK_GATEWAY__ADDRESS": "a service in place of a port",
    "DASK_GATEWAY__PROXY_ADDRESS": "a service in place of a port",
    "DASK_GATEWAY__PUBLIC_ADDRESS": "pages of clusters open through Lab on a laptop only",
    "THALWEG_DASK_TOKEN_FILE": "the same: nobody has a token for them",
    "JUPYTER_CONFIG_PATH": "the same folder, mounted elsewhere",
}


@pytest.fixture
def laptop(tmp_path):
    return settings_module.load({}, data_dir=tmp_path)


@pytest.fixture
def cluster(production):
    return json.loads(named(production, "ConfigMap", "thalweg-cluster")["data"]["cluster.json"])


def test_the_settings_are_the_same(laptop, production):
    """Those that a process has, whether by a variable or by default."""
    chart = settings_module.load(named(production, "ConfigMap", "thalweg-environment")["data"])
    here = settings_module.load(environment.data_environment(laptop))
    differing = {n for n in vars(chart) if getattr(chart, n) != getattr(here, n)}
    assert differing - set(SETTINGS) == set()
    assert set(SETTINGS) - differing <= {"namespace", "database_url"}, "declared, but the same"


def test_labs_environment_is_the_same(laptop, cluster):
    here, there = environment.lab_environment(laptop), cluster["environment"]
    alike = {n for n in {*here, *there} if here.get(n) == there.get(n)}
    differing = {
        name
        for name in {*here, *there} - alike
        if not name.startswith("PYICEBERG_CATALOG__") and not is_setting(name)
    }
    assert differing - set(VARIABLES) == set()
    assert set(VARIABLES) - differing == {"AWS_DEFAULT_REGION", "AWS_REGION"}, "the same by chance"


def is_setting(name):
    known = {f"THALWEG_{setting.upper()}" for setting, _, _ in settings_module.describe()}
    return name in known  # compared by value above


def test_the_catalogue_has_one_name_and_one_protocol(laptop, cluster):
    environment.data_environment(laptop)
    file = laptop.data_dir / "secrets" / "clients" / ".pyiceberg.yaml"
    ((name, here),) = yaml.safe_load(file.read_text())["catalog"].items()
    prefix = f"PYICEBERG_CATALOG__{name.upper()}__"
    there = {
        key.removeprefix(prefix).lower().replace("__", ".").replace("_", "-"): value
        for key, value in cluster["environment"].items()
        if key.startswith(prefix)
    }
    assert here["type"] == there["type"] == "rest"
    assert {"uri", "warehouse", "s3.region"} <= set(there)
    assert "credential" not in there, "a pod signs by its identity"


def test_each_page_is_served_by_the_command_of_the_laptop(production, laptop):
    """The chart's deployments say what services.yaml says, behind the same login."""
    services = yaml.safe_load((laptop.home / "hub-config" / "services.yaml").read_text())
    for name, service in services.items():
        if not service.get("web") or name == "pipelines":  # Dagster's own chart serves these
            continue
        spec = named(production, "Deployment", name)["spec"]["template"]["spec"]
        args = spec["containers"][0]["args"]
        socket = f"/run/thalweg/{name}.sock"
        wanted = [
            p.format(python="python", socket=socket, home="/srv/thalweg")
            for p in service["command"]
        ]
        assert args[:4] == ["python", "-m", "thalweg.hub.login_proxy", name]
        assert args[args.index("--") + 1 :] == wanted
