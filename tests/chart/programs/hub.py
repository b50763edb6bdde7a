"""The rendered hub starts, and makes pods; run by the Python of the tools, prints JSON.

    python hub.py FOLDER

FOLDER/config.py is the configuration of the chart's hub, with the paths of FOLDER in it.
"""

import asyncio
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import kmock
from jupyterhub.app import JupyterHub
from kubernetes_asyncio import client
from kubespawner import KubeSpawner

PEOPLE = {"rosa": ["researchers"], "stan": ["researchers", "stewards"], "paul": ["partners"]}


def spawner(app, name):
    groups = [SimpleNamespace(name=group) for group in PEOPLE[name]]
    user = SimpleNamespace(
        name=name, escaped_name=name, id=1, url=f"/user/{name}", admin=False, groups=groups
    )
    hub = SimpleNamespace(public_host="", base_url="/hub/", api_url="http://hub:8081/hub/api")
    made = KubeSpawner(config=app.config, user=user, hub=hub, _mock=True, api_token="0" * 32)
    made.server = SimpleNamespace(base_url=f"/user/{name}/", port=8888)
    return made


async def pods(app):
    """Each person's pod in each size that they may choose."""
    made = {}
    for name in PEOPLE:
        for profile in app.config.KubeSpawner.profile_list(spawner(app, name)):
            each = spawner(app, name)
            each.user_options = {"profile": profile["slug"]}
            await each.load_user_options()
            app.config.Spawner.pre_spawn_hook(each)
            pod = await each.get_pod_manifest()
            made[f"{name} {profile['slug']}"] = client.ApiClient().sanitize_for_serialization(pod)
    return made


RESOURCES = {"pods": "Pod", "events": "Event", "persistentvolumeclaims": "PersistentVolumeClaim"}


async def started(app):
    """What a server that starts asks a Kubernetes API to make, up to its pod."""
    async with kmock.KubernetesEmulator() as api, kmock.Server(api):
        for plural, kind in RESOURCES.items():
            api.resources[f"v1/{plural}"] = kmock.ResourceInfo(
                kind=kind, namespaced=True, verbs={"list", "watch", "get", "create"}
            )
        app.config.KubeSpawner.k8s_api_host = str(api.url).rstrip("/")
        each = spawner(app, "rosa")
        await each.load_user_options()
        app.config.Spawner.pre_spawn_hook(each)
        start = asyncio.create_task(each._start())
        while not start.done() and not made(api, "pods"):
            await asyncio.sleep(0.2)
        start.cancel()  # no node runs it
        return [*made(api, "persistentvolumeclaims"), *made(api, "pods")]


def made(api, plural):
    return [key[2] for key in api.objects._objects if key[0].plural == plural]


def login(app, state):
    """The groups of a person of whom the provider says this."""
    return sorted(app.authenticator.auth_state_groups_key(state))


async def main(folder):
    app = JupyterHub()
    await app.initialize([f"--config={folder / 'config.py'}"])
    roles = {role["name"]: role for role in app.load_roles}
    said = {
        "version": version("jupyterhub"),
        "spawner": app.spawner_class.__name__,
        "authenticator": type(app.authenticator).__name__,
        "allow_all": app.authenticator.allow_all,
        "allowed_groups": sorted(app.authenticator.allowed_groups),
        "groups_of_staff": login(app, {"oauth_user": {"groups": ["staff", "choir"]}}),
        "services": {name: service.url for name, service in app._service_map.items()},
        "roles": {name: sorted(role.get("scopes", ())) for name, role in roles.items()},
        "started": await started(app),  # first: the first client of Kubernetes is kept
        "pods": await pods(app),
    }
    print("RESULT" + json.dumps(said))


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    asyncio.run(main(Path(sys.argv[1])))
