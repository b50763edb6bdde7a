"""The laptop's hub and the cluster's, on a bare `Config`: services, roles, scopes, spawner.

The rendered chart is compared in tests/chart/test_renderings.py (`make chart-test`).
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from traitlets.config import Config

from thalweg import settings as settings_module
from thalweg.hub import users

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hub-config"))

import cluster  # noqa: E402
import sections  # noqa: E402

SERVICES, GROUPS = sections.read("services"), sections.read("groups")
VALUES = yaml.safe_load((ROOT / "helm" / "thalweg" / "values.yaml").read_text())
LOGIN = {"kind": "github", "clientId": "abc", "admins": ["ada"], "groups": {"researchers": ["o:t"]}}
GIVEN = {
    "host": "hub.example.org", "image": "thalweg:1", "idle_timeout": 3600, "metrics": True,
    "login": LOGIN, "environment": {}, "volumes": {}, "mounts": {}, "pod_security": {},
    "container_security": {}, "users": "our-users",
    "groups": {n: page["groups"] for n, page in VALUES["services"].items() if "groups" in page},
}  # fmt: skip

#: What the two say otherwise, and why.
SERVICE_DIFFERENCES = {
    "url": "a service of the cluster in place of a port",
    "command": "deployments in place of processes; the idle culler is the hub's own in both",
    "environment": "the environment of a process; a deployment has its own",
    "api_token": "a laptop's managed services get theirs from the hub",
    "timeout": "a laptop's hub does not wait for pages that it starts itself",
}
#: Pages that a group opens on a laptop and, by the values of the chart, not on a cluster.
PAGES_OF_THE_LAPTOP = {
    ("group-researchers", "schedules"): "a notebook that is scheduled runs there as pipelines do, "
    "and may write what they may",
}
ROLES_OF_THE_CLUSTER = {"metrics": "Prometheus reads the hub's metrics with a token"}
#: `thalweg user remove`; on a cluster people are removed where they log in.
OF_THE_LAPTOP = {users.REMOVAL}
SPAWNER_DIFFERENCES = {
    "args": "--allow-root, where all share the account of root, or kernels on UNIX sockets, where "
    "each has an account of their own: a pod has no root and a network of its own",
    "environment": "compared in tests/chart",
    "pre_spawn_hook": "a folder is filled; a pod gets the account of its owner's group, and on one "
    "machine `thalweg.hub.own_accounts` gives each person theirs",
}

#: Settings that the chart has no value for, or another one.
OF_ONE_MACHINE = {"home", "data_dir", "host", "port", "accounts"}
GIVEN_ELSEWHERE = {
    "launcher", "image", "namespace", "database_url", "raw_uri", "runs_uri", "gridded_uri",
    "warehouse", "smtp_url", "schedules_url", "own_uri",
}  # fmt: skip


def of_the_laptop(folder):
    """What jupyterhub_config.py does."""
    c = Config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THALWEG_DATA_DIR", str(folder))
        sys.modules.pop("local", None)  # which reads the settings once
        import local
    sections.update_hub(c)
    sections.update_services(c, SERVICES, local.url)
    sections.update_access(c, SERVICES, GROUPS)
    sections.update_spawner(c, SERVICES)
    local.update(c, SERVICES)
    return c


def of_the_cluster(folder):
    """What the values of the chart have the hub call."""
    for name in (*SERVICES, "prometheus"):
        (folder / f"hub.services.{name}.apiToken").write_text("0" * 32)
    c = Config()
    cluster.update(c, cluster=GIVEN, secrets=folder)
    return c


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    laptop, secrets = tmp_path_factory.mktemp("laptop"), tmp_path_factory.mktemp("secrets")
    return of_the_laptop(laptop), of_the_cluster(secrets)


def by_name(items):
    return {item["name"]: item for item in items}


def test_services_are_the_same(both):
    here, there = (by_name(c.JupyterHub.services) for c in both)
    logins = {f"{name}-login" for name, s in SERVICES.items() if s.get("web")}
    assert set(here) - logins - OF_THE_LAPTOP == set(there) - {"prometheus"}
    for name in SERVICES:
        keys = {*here[name], *there[name]}
        differing = {k for k in keys if here[name].get(k) != there[name].get(k)}
        assert differing <= set(SERVICE_DIFFERENCES), name
    assert here["idle-culler"]["command"][-4:] == there["idle-culler"]["command"][-4:]


def test_roles_and_scopes_are_the_same(both):
    here, there = (by_name(c.JupyterHub.load_roles) for c in both)
    here = {n: r for n, r in here.items() if n not in OF_THE_LAPTOP}
    for role, page in PAGES_OF_THE_LAPTOP:
        less = [f"{verb}:services!service={page}" for verb in ("access", "read")]
        assert set(less) <= set(here[role]["scopes"])
        here[role]["scopes"] = [each for each in here[role]["scopes"] if each not in less]
    assert {n: r for n, r in there.items() if n not in ROLES_OF_THE_CLUSTER} == here


def test_who_may_schedule_on_a_cluster_is_a_value(tmp_path):
    for name in (*SERVICES, "prometheus"):
        (tmp_path / f"hub.services.{name}.apiToken").write_text("0" * 32)
    c, everybody = Config(), {"groups": {"schedules": ["researchers", "stewards"]}}
    cluster.update(c, cluster=GIVEN | everybody, secrets=tmp_path)
    scopes = by_name(c.JupyterHub.load_roles)["group-researchers"]["scopes"]
    assert "access:services!service=schedules" in scopes


def test_a_persons_own_place_bears_the_name_of_their_pod(both):
    place = both[1].KubeSpawner.environment["THALWEG_OWN_URI"]
    assert place(SimpleNamespace(pod_name="jupyter-ada")) == "s3://our-users/people/jupyter-ada"
    assert cluster.own_prefix("") == {}


def test_lab_servers_are_the_same(both):
    here, there = (dict(c.Spawner) for c in both)
    differing = {k for k in {*here, *there} if here.get(k) != there.get(k)}
    assert differing <= set(SPAWNER_DIFFERENCES)
    assert here["server_token_scopes"] == there["server_token_scopes"]
    assert here["default_url"] == there["default_url"]


def test_the_hub_is_the_same(both):
    here, there = (c.JupyterHub for c in both)
    for name in ("template_paths", "template_vars", "authenticate_prometheus", "default_url"):
        assert here[name] == there[name]
    assert both[0].Authenticator == both[1].Authenticator


def test_sizes_are_those_of_the_persons_groups():
    profiles = sections.read("profiles")

    def person(*groups, admin=False):
        return SimpleNamespace(admin=admin, groups=[SimpleNamespace(name=g) for g in groups])

    assert [p["slug"] for p in cluster.profiles_of(person("researchers"), profiles)] == [
        n for n, p in profiles.items() if "researchers" in p["groups"]
    ]
    assert cluster.profiles_of(person("partners"), profiles) == []
    assert len(cluster.profiles_of(person(admin=True), profiles)) == len(profiles)
    assert all(set(p["groups"]) <= set(GROUPS) for p in profiles.values())


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("github", {"teams": [{"organization": {"login": "o"}, "slug": "t"}]}),
        ("oidc", {"oauth_user": {"groups": ["t", "o:t"]}}),
        ("cilogon", {"cilogon_user": {"groups": "choir;o:t"}}),
    ],
)
def test_groups_of_the_institution_become_those_of_the_hub(kind, state):
    login = LOGIN | {"kind": kind, "groupsClaim": "groups"}
    assert cluster.mapped_groups(login, state) == {"researchers"}
    assert cluster.mapped_groups(login | {"groups": {"stewards": ["x"]}}, state) == set()


def test_stewards_reach_data_as_stewards():
    assert cluster.lab_group({"researchers", "stewards"}, GROUPS) == "stewards"
    assert cluster.lab_group({"partners"}, GROUPS) is None


def test_the_chart_takes_the_settings_that_do_not_stand_elsewhere():
    schema = json.loads((ROOT / "helm" / "thalweg" / "values.schema.json").read_text())
    known = {name for name, _, _ in settings_module.describe()}
    assert (
        set(schema["properties"]["settings"]["properties"])
        == known - OF_ONE_MACHINE - GIVEN_ELSEWHERE
    )
