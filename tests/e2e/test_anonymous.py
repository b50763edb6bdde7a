"""No route of any service answers data to an anonymous request.

The list of what is asked is made from the running hub: every TCP port that a process of the hub
listens on, and every route of the public proxy; on each, the paths at which the parts of the hub
(and what they are built from) keep their data.
"""

import contextlib
import json
from pathlib import Path

import httpx
import psutil
import pytest
from websocket import WebSocketBadStatusException, WebSocketException, create_connection

from thalweg.hub import processes

pytestmark = pytest.mark.e2e

#: Where the parts keep data: S3, filer, master, volume server, Iceberg REST; hub, Lab; Dask's
#: scheduler, worker and gateway; Dagster; Panel; Ray.
PATHS = (Path(__file__).parent / "data_paths.txt").read_text().split()

STORE = {"/", "/status", "/cluster/status", "/v1/config", "/metrics", "/ui/index.html"}
HUB = {"/hub/login", "/hub/health", "/hub/api/"}
#: What anybody may be told, by part: that it is alive, its version, how to log in, how busy
#: the store is (the master's page and the admin's counters know volumes, not what is in them).
PUBLIC = {
    "object-store": STORE,
    "hub": HUB,
    "proxy": HUB,
    "thalweg up": HUB,
    "dask-gateway": {"/api/health", "/api/version"},
}
#: Where the parts talk over a websocket, through the public proxy and at their own ports.
WEBSOCKETS = (
    "/services/dashboards/forecast_skill/ws",
    "/services/operations/operations/ws",
    "/services/schedules/schedules/ws",
    "/services/pipelines/graphql",
    "/user/admin/api/events/subscribe",
    "/user/admin/dask/clusters/{cluster}/status/ws",
)
INNER_WEBSOCKETS = ("/forecast_skill/ws", "/graphql", "/clusters/{cluster}/status/ws", "/status/ws")
LOGIN_FORM = 'id="login_submit"'

KERNEL = """
import thalweg.compute as compute
cluster = compute.dask_cluster(workers=1)
client = cluster.get_client()
client.wait_for_workers(1, timeout=90)
assert client.submit(lambda x: x + 1, 41).result() == 42
ray = compute.ray()
assert ray.get(ray.remote(lambda: 7).remote()) == 7
print("cluster", cluster.name)
"""


@pytest.fixture(scope="module")
def everything_runs(hub):
    """Lab, a Dask cluster and Ray run as well; the name of the cluster."""
    token = hub.token()
    client = hub.log_in()
    # They start at the first visit.
    for service in ("dashboards", "operations", "pipelines", "schedules"):
        assert client.get(f"/services/{service}/").is_success
    yield hub.run_code(token, KERNEL).split()[-1]
    hub.stop_kernels(token)


def listening(hub):
    """Label and port of every socket on which a process of the hub listens."""
    found = {("thalweg up", hub.settings.port)}
    for process, environ in processes.of_hub(hub.settings).items():
        try:
            connections = process.net_connections("inet")
        except psutil.Error:  # ended meanwhile
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1"), (
                    f"{processes.label(environ)} listens on {connection.laddr}: {process.cmdline()}"
                )
                found.add((processes.label(environ), connection.laddr.port))
    return sorted(found)


def speaks_http(port):
    """Whether HTTP is answered here at all; ZeroMQ, gRPC and TLS are not HTTP."""
    try:
        httpx.get(f"http://127.0.0.1:{port}/", timeout=2)
    except httpx.HTTPError:
        return False
    return True


def secrets_of(hub):
    """Words that no anonymous answer may hold: data, names, keys."""
    files = [p for p in (hub.settings.data_dir / "secrets").rglob("*") if p.is_file()]
    keys = [p.read_text().strip() for p in files if p.name in ("s3-secret-key", "admin-password")]
    return ["03171000", "usgs_observations", "nwm30", "primary_timeseries", "load_sample", *keys]


def test_anonymous_requests_get_nothing(hub, everything_runs):
    cluster = everything_runs
    sockets = listening(hub)
    labels = {label for label, _ in sockets}
    assert {"object-store", "hub", "proxy", "dask-gateway", "lab:admin", "dask clusters"} <= labels
    paths = [
        p.format(port=hub.settings.port, clusters=f"/clusters/{cluster}/status") for p in PATHS
    ]
    words, answered, silent = secrets_of(hub), [], []
    with httpx.Client(follow_redirects=False, timeout=5) as client:
        for label, port in sockets:
            if not speaks_http(port):
                silent.append(label)
                continue
            for path in paths:
                answer = client.get(f"http://127.0.0.1:{port}{path}")
                text = answer.text
                assert not [w for w in words if w in text], f"{label} {port} {path} tells data"
                public = path.partition("?")[0] in PUBLIC.get(label, set()) or LOGIN_FORM in text
                if answer.status_code == 200 and not public:
                    answered.append(f"{label} :{port}{path} {text[:60]!r}")
    print(f"{len(sockets)} sockets of {sorted(labels)}, {len(paths)} paths; no HTTP: {silent}")
    assert not answered, "\n".join(answered)


def test_anonymous_writes_and_queries_are_refused(hub, everything_runs):
    query = {"query": "{ runsOrError { __typename } }"}
    s3 = hub.status()["object-store"]["url"]
    for method, url, body in (
        ("POST", f"{hub.url}/services/pipelines/graphql", query),
        ("PUT", f"{s3}/raw/anonymous", None),
        ("PUT", f"{s3}/a-new-bucket", None),
        ("DELETE", f"{s3}/raw", None),
        ("POST", f"{hub.url}/hub/api/users/mallory", None),
        ("POST", f"{hub.url}/user/admin/api/kernels", {"name": "python3"}),
    ):
        content = json.dumps(body) if body else None
        answer = httpx.request(method, url, content=content, timeout=10)
        assert answer.status_code in (302, 401, 403), f"{method} {url}: {answer.status_code}"


def test_anonymous_websockets_are_refused(hub, everything_runs):
    for path in (each.format(cluster=everything_runs) for each in WEBSOCKETS):
        with pytest.raises(WebSocketBadStatusException) as refused:
            create_connection(hub.url.replace("http", "ws") + path, timeout=10)
        assert refused.value.status_code in (302, 401, 403), path


def test_inner_ports_open_no_websocket(hub, everything_runs):
    """Nor does one open behind the proxy, at the ports of the parts themselves."""
    paths = [each.format(cluster=everything_runs) for each in WEBSOCKETS + INNER_WEBSOCKETS]
    opened = []
    for label, port in [pair for pair in listening(hub) if speaks_http(pair[1])]:
        for path in paths:
            with contextlib.suppress(WebSocketException, OSError):
                create_connection(f"ws://127.0.0.1:{port}{path}", timeout=5).close()
                opened.append(f"{label} :{port}{path}")
    assert not opened


def test_groups_hold(hub):
    """A partner sees dashboards, not pipelines nor operations, and gets no Lab."""
    password = hub.command("user", "add", "paula", "--group", "partners").split()[-1]
    client = hub.log_in("paula", password)
    assert client.get("/services/dashboards/").is_success
    for service in ("pipelines", "operations", "schedules"):
        assert client.get(f"/services/{service}/").status_code == 403
    client.get("/hub/spawn")
    assert "JupyterLab" not in client.get("/hub/home").text
    assert client.get("/user/admin/lab").status_code in (403, 404)


def test_who_is_removed_is_out_and_what_they_had_is_kept(hub):
    """Password, cookie and token let in no more, and nothing of theirs works on."""
    password = hub.command("user", "add", "eve").split()[-1]
    token = hub.token("eve", password)
    hub.run_code(token, "open('mine.txt', 'w').write('mine')", name="eve")
    client, ours = hub.log_in("eve", password), {"Authorization": f"token {token}"}
    assert httpx.get(f"{hub.url}/hub/api/user", headers=ours).json()["name"] == "eve"
    done = json.loads(hub.command("user", "remove", "eve", "--yes", "--json"))
    assert (Path(done["home"]) / "mine.txt").read_text() == "mine"
    assert Path(done["home"]).parent.stat().st_mode & 0o777 == 0o700
    assert httpx.get(f"{hub.url}/hub/api/user", headers=ours).status_code == 403
    assert client.get("/hub/home").url.path == "/hub/login"
    form = {"username": "eve", "password": password, "_xsrf": client.cookies["_xsrf"]}
    assert client.post("/hub/login", data=form).status_code == 403
    assert "lab:eve" not in hub.status()
    assert "eve" not in json.loads(hub.command("user", "list", "--json"))
