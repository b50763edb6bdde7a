"""What only the cluster's hub needs: logins of an institution, pods in place of processes.

The chart's hub calls `update` after the chart's own configuration. It has neither `thalweg` nor the
user image: this imports the standard library and what stands beside it. What the chart was given
as values it finds in `cluster.json`.
"""

import json
import os
import sys
from pathlib import Path

import sections

__all__ = ["lab_group", "mapped_groups", "profiles_of", "services_of", "update", "url"]

HERE = Path(__file__).parent
CLUSTER = HERE.parent / "cluster" / "cluster.json"
SECRETS = Path("/usr/local/etc/jupyterhub/secret")
AUTHENTICATORS = {
    "oidc": "oauthenticator.generic.GenericOAuthenticator",
    "github": "oauthenticator.github.GitHubOAuthenticator",
    "cilogon": "oauthenticator.cilogon.CILogonOAuthenticator",
}
#: Run by the hub itself, on a laptop and here; every other service is a deployment of the chart.
OF_THE_HUB = ("idle-culler",)
#: Services without a face or a token of the hub.
WITHOUT_TOKEN = ("scheduler",)


def url(name):
    """Where the login before this web service listens."""
    return f"http://{name}:8000"


def update(c, load_subconfig=None, cluster=None, secrets=SECRETS):
    """The hub: what every hub has, the cluster's part, then one's own files."""
    cluster = cluster or json.loads(CLUSTER.read_text())
    services, groups = services_of(cluster), sections.read("groups")
    sections.update_hub(c)
    sections.update_services(c, services, url)
    sections.update_access(c, services, groups)
    sections.update_spawner(c, services)
    update_services(c, services, cluster, secrets)
    update_login(c, cluster)
    update_spawner(c, cluster, sections.read("profiles"))
    for own in sorted((HERE / "jupyterhub_config.d").glob("*.py")) if load_subconfig else ():
        load_subconfig(str(own))


def services_of(cluster):
    """What services.yaml declares; groups that the values name for a page stand in place of its."""
    services = sections.read("services")
    for name, groups in cluster["groups"].items():
        services[name]["groups"] = groups
    return services


def update_services(c, services, cluster, secrets):
    """Tokens for the services that are deployments; the command of the one that the hub runs."""
    c.JupyterHub.public_url = f"https://{cluster['host']}/"
    if address := os.environ.get("HUB_DATABASE_URL"):
        c.JupyterHub.db_url = address
    for declared in c.JupyterHub.services:
        name = declared["name"]
        if name in OF_THE_HUB:
            names = {"python": sys.executable, "idle_timeout": cluster["idle_timeout"]}
            declared["command"] = [part.format(**names) for part in services[name]["command"]]
        elif name not in WITHOUT_TOKEN:
            declared["api_token"] = token(secrets, name)
    if cluster["metrics"]:
        metrics = {
            "name": "prometheus",
            "display": False,
            "api_token": token(secrets, "prometheus"),
        }
        c.JupyterHub.services.append(metrics)
        role = {"name": "metrics", "scopes": ["read:metrics"], "services": ["prometheus"]}
        c.JupyterHub.load_roles.append(role)


def token(secrets, name):
    """The token that z2jh has made for a service, which its deployment reads as well."""
    return (secrets / f"hub.services.{name}.apiToken").read_text()


def update_login(c, cluster):
    """Who may log in: members of the groups that `login.groups` names, and the admins."""
    login = cluster["login"]
    c.JupyterHub.authenticator_class = AUTHENTICATORS[login["kind"]]
    c.OAuthenticator.client_id = login["clientId"]
    c.OAuthenticator.oauth_callback_url = f"https://{cluster['host']}/hub/oauth_callback"
    c.OAuthenticator.allow_all = False
    c.OAuthenticator.allowed_groups = set(login["groups"])
    c.OAuthenticator.admin_users = set(login["admins"])
    c.OAuthenticator.auth_state_groups_key = lambda state: mapped_groups(login, state)
    if login["kind"] == "oidc":
        oidc = login["oidc"]
        c.GenericOAuthenticator.login_service = oidc["title"]
        c.GenericOAuthenticator.authorize_url = oidc["authorizeUrl"]
        c.GenericOAuthenticator.token_url = oidc["tokenUrl"]
        c.GenericOAuthenticator.userdata_url = oidc["userdataUrl"]
        c.GenericOAuthenticator.username_claim = oidc["usernameClaim"]
        c.GenericOAuthenticator.scope = oidc["scope"]
    elif login["kind"] == "github":
        c.GitHubOAuthenticator.scope = ["read:org"]
        c.GitHubOAuthenticator.populate_teams_in_auth_state = True
    else:
        c.CILogonOAuthenticator.allowed_idps = login["cilogon"]["allowedIdps"]
        c.CILogonOAuthenticator.scope = ["openid", "email", "org.cilogon.userinfo"]


def mapped_groups(login, state):
    """The hub's groups of a person, of what the institution says about them.

    GitHub names teams `ORGANIZATION:TEAM`; others say the groups in a claim, as a list or as text
    with `;` between them.
    """
    if login["kind"] == "github":
        theirs = {f"{t['organization']['login']}:{t['slug']}" for t in state.get("teams") or ()}
    else:
        user = state["oauth_user" if login["kind"] == "oidc" else "cilogon_user"]
        said = user.get(login["groupsClaim"]) or ()
        theirs = set(said.split(";") if isinstance(said, str) else said)
    return {group for group, names in login["groups"].items() if theirs & set(names)}


def update_spawner(c, cluster, profiles):
    """Lab as a pod: the one image, the data's environment, the sizes that the person may use."""
    c.KubeSpawner.image = cluster["image"]
    c.KubeSpawner.environment = cluster["environment"] | own_prefix(cluster["users"])
    c.KubeSpawner.volumes = dict(c.KubeSpawner.get("volumes", {})) | cluster["volumes"]
    c.KubeSpawner.volume_mounts = dict(c.KubeSpawner.get("volume_mounts", {})) | cluster["mounts"]
    c.KubeSpawner.pod_security_context = cluster["pod_security"]
    c.KubeSpawner.container_security_context = cluster["container_security"]
    c.KubeSpawner.automount_service_account_token = False
    # Kubernetes would tell each service in a variable, and THALWEG_… are settings.
    c.KubeSpawner.extra_pod_config = {"enableServiceLinks": False}
    c.KubeSpawner.lifecycle_hooks = {"postStart": {"exec": {"command": FILL_HOME}}}
    c.KubeSpawner.profile_list = lambda spawner: profiles_of(spawner.user, profiles)
    c.Spawner.pre_spawn_hook = choose_account


def own_prefix(bucket):
    """Where a person keeps what nobody else opens: the group's role knows the pod by its name."""
    place = lambda spawner: f"s3://{bucket}/people/{spawner.pod_name}"  # noqa: E731
    return {"THALWEG_OWN_URI": place} if bucket else {}


#: The tutorials, as on a laptop; what the person has changed is left as it is.
FILL_HOME = ["sh", "-c", 'cp -rnL /srv/thalweg/notebooks/[!.]* "$HOME"/ || true']


def profiles_of(user, profiles):
    """The sizes that this person may choose, as KubeSpawner wants them; an admin has all."""
    theirs = {group.name for group in user.groups}
    usable = {n: p for n, p in profiles.items() if user.admin or theirs & set(p["groups"])}
    return [
        {
            "slug": name,
            "display_name": profile["title"],
            "description": profile["description"],
            "default": name == next(iter(usable)),
            "kubespawner_override": {
                "cpu_guarantee": profile["cpu"][0],
                "cpu_limit": profile["cpu"][1],
                "mem_guarantee": f"{profile['memory'][0]}G",
                "mem_limit": f"{profile['memory'][1]}G",
            },
        }
        for name, profile in usable.items()
    ]


def lab_group(names, groups):
    """The group by which a person's servers and clusters reach data: the last one with a Lab.

    None for an admin who is in no such group: such a server has no identity for data.
    """
    return next((g for g in reversed(groups) if g in names and groups[g]["lab"]), None)


def choose_account(spawner):
    """The service account of the person's group, whose role reaches what the group may."""
    group = lab_group({g.name for g in spawner.user.groups}, sections.read("groups"))
    spawner.service_account = f"thalweg-{group}" if group else None
