"""The sections of hub-config on a bare `Config`: what they set, without a hub."""

import sys
from pathlib import Path

import pytest
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hub-config"))

import sections  # noqa: E402

SERVICES, GROUPS = sections.read("services"), sections.read("groups")


@pytest.fixture
def roles():
    c = Config()
    sections.update_access(c, SERVICES, GROUPS)
    return {role["name"]: role for role in c.JupyterHub.load_roles}


def test_sections_import_neither_thalweg_nor_jupyterhub():
    lines = (ROOT / "hub-config" / "sections.py").read_text().splitlines()
    imported = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    assert imported == {"pathlib", "yaml"}


def test_every_service_is_declared_to_the_hub():
    c = Config()
    sections.update_services(c, SERVICES, lambda name: f"http://{name}:80")
    declared = {service["name"]: service for service in c.JupyterHub.services}
    assert set(declared) == set(SERVICES)
    assert declared["dashboards"]["url"] == "http://dashboards:80"
    assert "url" not in declared["dask-gateway"], "Dask Gateway has no public route"


@pytest.mark.parametrize("service", ["pipelines", "operations"])
def test_only_stewards_see_pipelines(roles, service):
    may = {
        name
        for name, role in roles.items()
        if f"access:services!service={service}" in role["scopes"]
    }
    assert may == {"group-stewards"}


def test_what_only_stewards_see_is_not_among_the_dashboards():
    globs = {name: SERVICES[name]["command"][-1] for name in ("dashboards", "operations")}
    pages = {name: {*ROOT.glob(text.removeprefix("{home}/"))} for name, text in globs.items()}
    assert all(pages.values())
    assert not pages["dashboards"] & pages["operations"]


def test_partners_have_no_lab(roles):
    assert "self" in roles["group-researchers"]["scopes"]
    assert "self" not in roles["group-partners"]["scopes"]
    assert "self" not in roles["user"]["scopes"], "who is in no group has nothing"


def test_role_names_are_long_enough_for_jupyterhub(roles):
    assert all(len(name) >= 3 for name in roles)


def test_services_grant_only_groups_that_exist():
    named = {group for service in SERVICES.values() for group in service.get("groups", [])}
    assert named <= set(GROUPS)


def test_lab_tokens_reach_dask_gateway():
    c = Config()
    sections.update_spawner(c, SERVICES)
    assert "access:services!service=dask-gateway" in c.Spawner.server_token_scopes
