"""The rendered configuration of hub, Dask Gateway and Dagster, read by these programs."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
import toolbox
import yaml
from rendered import OPTIONS, OURS, PROFILES, REAL, ROOT, named, render
from test_manifests import ray_pods, restricted, valid

from thalweg import settings as settings_module
from thalweg.hub.state import free_ports
from thalweg.pipelines import scheduler, specification
from thalweg.pipelines.definitions import definitions

PROGRAMS = Path(__file__).parent / "programs"

#: In the place of z2jh's own configuration, where its chart is not here.
STAND_IN = """
import sys
c = get_config()
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.JupyterHub.db_url = "sqlite://"
c.KubeSpawner.namespace = "thalweg"
"""

#: A cluster that nobody asks.
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "none",
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "none", "user": {}}],
}


def program(name, *arguments, given=None, **environ):
    """What one of the programs prints."""
    done = subprocess.run(
        [toolbox.python(), PROGRAMS / name, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]} | environ,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.partition("RESULT")[2])


def write(folder, config_map):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in config_map["data"].items():
        (folder / name).write_text(text)


@pytest.fixture(scope="session")
def hub(production, tmp_path_factory):
    """What the hub says of itself, started in a folder like its pod."""
    folder = tmp_path_factory.mktemp("hub")
    etc, srv = folder / "jupyterhub", folder / "srv"
    write(srv / "hub-config", named(production, "ConfigMap", "thalweg-hub-config"))
    write(srv / "hub-config/templates", named(production, "ConfigMap", "thalweg-hub-templates"))
    write(srv / "hub-config/jupyterhub_config.d", named(production, "ConfigMap", "thalweg-hub-own"))
    write(srv / "cluster", named(production, "ConfigMap", "thalweg-cluster"))
    (srv / "hub-config/jupyterhub_config.d/own.py").write_text("c.Spawner.start_timeout = 321\n")
    values = yaml.safe_load((ROOT / "helm/thalweg/values.yaml").read_text())
    tokens = {
        f"hub.services.{name}.apiToken": "0" * 32
        for name in values["jupyterhub"]["hub"]["services"]
    }
    if REAL:
        files = named(production, "ConfigMap", "hub")["data"]
        secret = named(production, "Secret", "hub")["data"]
        write(etc / "config", {"data": files})
        write(etc, {"data": {name: files[name] for name in ("jupyterhub_config.py", "z2jh.py")}})
        tokens |= {name: decoded(text) for name, text in secret.items()}
    else:
        own = values["jupyterhub"]["hub"]["extraConfig"]["00-thalweg"]
        write(etc, {"data": {"jupyterhub_config.py": STAND_IN + own}})
    write(etc / "secret", {"data": tokens})
    text = (etc / "secret" / "values.yaml").read_text() if REAL else ""
    if REAL:  # the hub of the image has these paths
        (etc / "secret" / "values.yaml").write_text(moved(text, etc, srv))
        (etc / "z2jh.py").write_text(moved((etc / "z2jh.py").read_text(), etc, srv))
    config = moved((etc / "jupyterhub_config.py").read_text(), etc, srv)
    (etc / "config.py").write_text(config)
    cluster = srv / "hub-config" / "cluster.py"
    cluster.write_text(moved(cluster.read_text(), etc, srv))
    (etc / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    ports = {f"{n}_SERVICE_PORT": "8081" for n in ("HUB", "PROXY_API", "PROXY_PUBLIC")}
    return program(
        "hub.py", etc, **ports, OAUTH_CLIENT_SECRET="s", CONFIGPROXY_AUTH_TOKEN="1" * 32,
        HUB_DATABASE_URL="sqlite://", KUBECONFIG=str(etc / "kubeconfig"),
    )  # fmt: skip


def decoded(text):
    return base64.b64decode(text).decode()


def moved(text, etc, srv):
    return text.replace("/usr/local/etc/jupyterhub", str(etc)).replace("/srv/thalweg", str(srv))


def test_the_hub_starts_under_the_charts_jupyterhub(hub):
    assert hub["version"].startswith("5.5")
    assert hub["spawner"] == "KubeSpawner"
    assert hub["authenticator"] == "GenericOAuthenticator"
    assert {"dashboards", "operations", "pipelines", "dask-gateway", "idle-culler"} <= set(
        hub["services"]
    )


def test_who_is_in_no_group_cannot_log_in(hub):
    assert not hub["allow_all"]
    assert hub["allowed_groups"] == ["researchers", "stewards"]
    assert hub["groups_of_staff"] == ["researchers"]


def test_a_pod_for_each_size_that_a_person_may_choose(hub, tmp_path):
    assert set(hub["pods"]) == {"rosa small", "rosa large", "stan small", "stan large"}
    assert valid(list(hub["pods"].values()), tmp_path) == []
    pod = hub["pods"]["rosa large"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "ghcr.io/thalweg/thalweg:0.1.0"
    assert container["resources"]["limits"]["memory"] == 32 * 1024**3
    assert pod["serviceAccountName"] == "thalweg-researchers"
    labels = hub["pods"]["rosa large"]["metadata"]["labels"]
    assert labels["component"] == "singleuser-server", "by which network policies choose"
    assert not REAL or labels["app"] == "jupyterhub"
    assert hub["pods"]["stan small"]["spec"]["serviceAccountName"] == "thalweg-stewards"
    for each in hub["pods"].values():
        restricted(each["spec"])
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {
        f"/srv/thalweg/{f}" for f in ("catalogs", "pipelines", "dashboards", "notebooks")
    } <= mounted


def test_without_volumes_for_homes_a_home_can_be_written(chart):
    """The root of a pod cannot."""
    objects = render(chart, PROFILES["workshop"], OURS, options=OPTIONS)
    cluster = json.loads(named(objects, "ConfigMap", "thalweg-cluster")["data"]["cluster.json"])
    assert cluster["container_security"]["readOnlyRootFilesystem"]
    assert cluster["mounts"]["thalweg-home"] == {"name": "home", "mountPath": "/home/jovyan"}
    assert cluster["volumes"]["thalweg-home"] == {"name": "home", "emptyDir": {}}


def test_lab_is_told_where_a_person_keeps_their_own(hub):
    """By the name of the pod, of which Terraform's policy for the group makes a prefix."""
    pod = hub["pods"]["rosa small"]
    env = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
    assert pod["metadata"]["name"] == "jupyter-rosa"
    assert env["THALWEG_OWN_URI"] == "s3://our-users/people/jupyter-rosa"


def test_a_server_that_starts_asks_kubernetes_for_its_home_and_its_pod(hub):
    assert [name.partition("-")[0] for name in hub["started"]] == ["claim", "jupyter"][not REAL :]


def test_lab_has_the_address_of_the_database_from_a_secret(hub):
    (container,) = hub["pods"]["rosa small"]["spec"]["containers"]
    (url,) = [e for e in container["env"] if e["name"] == "THALWEG_DATABASE_URL"]
    assert url["valueFrom"]["secretKeyRef"]["key"] == "lab-url"


def dask_pods(production, tmp_path):
    """What Dask Gateway makes of the rendered configuration: a scheduler's pod and a worker's."""
    cluster = named(production, "ConfigMap", "thalweg-cluster")["data"]["cluster.json"]
    code = named(production, "ConfigMap", "thalweg-hub-config")["data"]["dask_gateway_cluster.py"]
    if REAL:
        config = named(production, "ConfigMap", "api-dask-gateway")["data"][
            "dask_gateway_config.py"
        ]
    else:
        values = yaml.safe_load((ROOT / "helm/thalweg/values.yaml").read_text())
        extra = values["dask-gateway"]["gateway"]["extraConfig"]["00-thalweg"]
        config = "import json, os\nc = get_config()\n" + extra
    (tmp_path / "config.py").write_text(config)
    return program(
        "dask_gateway.py", tmp_path / "config.py", THALWEG_CLUSTER=cluster, THALWEG_DASK_CONFIG=code
    )


def test_the_pods_of_a_dask_cluster(production, tmp_path):
    scheduler_pod, worker = dask_pods(production, tmp_path)
    assert valid([scheduler_pod, worker], tmp_path) == []
    args = scheduler_pod["spec"]["containers"][0]["args"]
    assert args[:4] == ["dask", "scheduler", "--preload", "thalweg.compute.guard"]
    for pod in (scheduler_pod, worker):
        (container,) = pod["spec"]["containers"]
        environment = {each["name"]: each.get("value") for each in container["env"]}
        assert container["image"] == "ghcr.io/thalweg/thalweg:0.1.0"
        assert pod["spec"]["serviceAccountName"] == "thalweg-researchers", "the caller's"
        restricted(pod["spec"])
        assert environment["DASK_DISTRIBUTED__WORKER__PRELOAD"] == "thalweg.compute.guard"
        assert environment["THALWEG_RAW_URI"] == "s3://our-raw"


def test_workers_go_to_the_nodes_that_terraform_makes_for_them(production, everything, tmp_path):
    """Spot instances: a scheduler or head that goes would take all with it."""
    nodes = (ROOT / "terraform" / "modules" / "eks" / "main.tf").read_text()
    scheduler_pod, worker = dask_pods(production, tmp_path)
    head, ray_worker, *_ = ray_pods(everything)
    for pod in (worker["spec"], ray_worker):
        (toleration,) = pod["tolerations"]
        assert f'"{toleration["key"]}"' in nodes
        assert toleration["value"] == "worker"
        affinity = pod["affinity"]["nodeAffinity"]
        ((preferred,),) = affinity.values()
        (label,) = preferred["preference"]["matchExpressions"]
        assert f'"{label["key"]}"' in nodes
        assert label["values"] == ["worker"]
    for pod in (scheduler_pod["spec"], head):
        assert not pod.get("tolerations")
        assert not pod.get("affinity")


@pytest.mark.skipif(not REAL, reason="Dagster's own chart is not here: THALWEG_CHARTS")
def test_the_job_of_a_run(production, tmp_path):
    """Dagster's launcher makes it of the instance, the code server's context and the pipeline."""
    shutil.copytree(ROOT / "pipelines" / "maintain_warehouse", tmp_path / "pipelines" / "large")
    with (tmp_path / "pipelines" / "large" / "pipeline.yaml").open("a") as file:
        file.write("resources: {cpu: 0.5, memory: 16}\n")
    of_pipeline = definitions(settings_module.load({}, home=tmp_path)).resolve_job_def("run_large")
    instance = named(production, "ConfigMap", "dagster-instance")["data"]["dagster.yaml"]
    code = named(production, "Deployment", "pipelines-code")["spec"]["template"]["spec"]
    env = {e["name"]: e.get("value") for e in code["containers"][0]["env"]}
    given = {
        "launcher": yaml.safe_load(instance)["run_launcher"]["config"],
        "context": json.loads(env["DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT"]),
        "image": env["DAGSTER_CURRENT_IMAGE"],
        "tags": json.loads(of_pipeline.tags["dagster-k8s/config"]),
    }
    job = program("dagster_run.py", given=given)
    assert valid([job], tmp_path) == []
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["serviceAccountName"] == "thalweg-runs"
    assert spec["enableServiceLinks"] is False
    assert container["image"] == "ghcr.io/thalweg/thalweg:0.1.0"
    assert container["resources"] == {
        "requests": {"cpu": "500m", "memory": "16000M"},
        "limits": {"memory": "16000M"},
    }, "those of pipeline.yaml"
    restricted(spec)
    assert {"configMapRef": {"name": "thalweg-environment"}} in [
        {"configMapRef": {"name": each["configMapRef"]["name"]}} for each in container["envFrom"]
    ]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    paths = {item["path"] for item in volumes["pipelines"]["configMap"]["items"]}
    named_ = specification.all(settings_module.load({}, home=ROOT))
    assert {f"{name}/pipeline.yaml" for name in named_} <= paths


#: What differs between the instance of the laptop's scheduler, for Kubernetes, and the chart's.
DECLARED = {
    "compute_logs": "both are NoOp; the laptop's names its module by another path",
    "nux": "Dagster's own first-run dialogue: off in both",
    "run_coordinator": "the chart names the default",
    "schedules": "threads for ticks, the chart's default",
    "sensors": "threads for ticks, the chart's default",
    "backfills": "threads for ticks, the chart's default",
    "run_queue": "the chart cannot say it; there the code server does not end with the daemon",
    "run_launcher": "the chart gives the launcher's part by the code server's context",
    "run_storage": "the chart names each of the three stores, the laptop all in one",
    "event_log_storage": "the same",
    "schedule_storage": "the same",
    "storage": "the same",
}


@pytest.mark.skipif(not REAL, reason="Dagster's own chart is not here: THALWEG_CHARTS")
def test_dagsters_instance_is_that_of_the_laptop(production, tmp_path):
    text = named(production, "ConfigMap", "dagster-instance")["data"]["dagster.yaml"]
    theirs = yaml.safe_load(text)
    settings = settings_module.load(
        {}, home=ROOT, data_dir=tmp_path, launcher="kubernetes", image="thalweg:0.1.0"
    )
    ours = yaml.safe_load((scheduler.dagster_home(settings) / "dagster.yaml").read_text())
    differing = {key for key in {*ours, *theirs} - set(DECLARED) if not within(ours, theirs, key)}
    assert differing == set()


def within(ours, theirs, key):
    """Whether the chart says all that the laptop says; it may say defaults besides."""
    mine, other = ours.get(key), theirs.get(key)
    if isinstance(mine, dict) and isinstance(other, dict):
        return all(within(mine, other, each) for each in mine)
    return mine == other


@pytest.fixture
def login(tmp_path):
    """The container `login` of Dagster's pod, and pages beside it that answer `secret`."""
    values = yaml.safe_load((ROOT / "helm/thalweg/values.yaml").read_text())
    (container,) = values["dagster"]["dagsterWebserver"]["extraContainers"]
    pages = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    Thread(target=pages.serve_forever, daemon=True).start()
    (port,) = free_ports(1)
    shell, flag, script = container["args"]
    script = script.replace("0.0.0.0:8000", f"127.0.0.1:{port}")
    script = script.replace("3000", str(pages.server_port))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "service-pipelines-token").write_text("0" * 32)
    given = {e["name"]: e["value"] for e in container["env"]} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "HOME": str(tmp_path),
        "THALWEG_HOME": str(ROOT),
        "THALWEG_DATA_DIR": str(tmp_path),
        # what Kubernetes tells of Dagster's service, in a release called thalweg
        "THALWEG_DAGSTER_WEBSERVER_SERVICE_HOST": "10.0.0.1",
        "THALWEG_DAGSTER_WEBSERVER_PORT_3000_TCP": "tcp://10.0.0.1:3000",
    }
    process = subprocess.Popen([shell, flag, script], env=given)
    address = f"http://127.0.0.1:{port}/services/pipelines"
    yield address
    process.terminate()
    process.wait(20)
    pages.shutdown()


class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, *_):
        pass


def test_dagsters_pages_ask_for_a_login(login):
    answer = patiently(f"{login}/runs")
    assert answer.status_code == 302
    assert "/hub/api/oauth2/authorize" in answer.headers["location"]
    assert "secret" not in answer.text
    assert httpx.get(f"{login}/graphql", headers=UPGRADE).status_code == 403


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def patiently(url):
    deadline = time.monotonic() + 90
    while True:
        try:
            return httpx.get(url, timeout=10)
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the login does not answer"
            time.sleep(0.5)
