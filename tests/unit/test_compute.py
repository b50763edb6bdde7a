"""Compute, on real schedulers and a real Ray: nothing answers a stranger."""

from __future__ import annotations

import gc
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import papermill
import psutil
import pytest
from dask_gateway import Gateway

from thalweg import compute, database, ingest, warehouse
from thalweg.compute import local_ray
from thalweg.errors import InvalidInput, Unavailable
from thalweg.settings import Settings
from thalweg.sources import sample

TOKEN = "a-token-of-the-tests"
DASHBOARD_ROUTES = ("/", "/status", "/status/ws", "/info/main/workers.html", "/metrics", "/health",
                    "/json/counts.json", "/sitemap.json", "/statics/css/base.css", "/api/v1/x",
                    "/individual-plots.json", "/eventstream", "/no-such-page")  # fmt: skip
WORKER_ROUTES = ("/", "/status", "/info/main.html", "/metrics", "/health", "/sitemap.json")
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "bokeh",
}


def test_what_to_compute_on_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compute.cluster() is None
    monkeypatch.setenv("THALWEG_COMPUTE", "dask")
    monkeypatch.delenv("DASK_GATEWAY__ADDRESS", raising=False)
    with pytest.raises(Unavailable, match="no Dask Gateway is known here"):
        compute.cluster()


@pytest.fixture(scope="module")
def dask_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Dashboards of a scheduler and of a worker under a nanny, both with the guard preloaded."""
    folder = tmp_path_factory.mktemp("dask")
    (folder / "token").write_text(TOKEN + "\n")
    ports = dict(zip(("scheduler", "pages", "worker_pages"), _free_ports(3), strict=True))
    environ = os.environ | {
        "THALWEG_DASK_TOKEN_FILE": str(folder / "token"),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": "thalweg.compute.guard",
    }
    scheduler = ["scheduler", "--host=127.0.0.1", f"--port={ports['scheduler']}",
                 f"--dashboard-address=127.0.0.1:{ports['pages']}",
                 "--preload=thalweg.compute.guard"]  # fmt: skip
    worker = ["worker", f"tcp://127.0.0.1:{ports['scheduler']}", "--host=127.0.0.1",
              f"--dashboard-address=127.0.0.1:{ports['worker_pages']}", "--nthreads=1"]  # fmt: skip
    processes = []
    try:
        for command in (scheduler, worker):
            log = (folder / f"{command[0]}.log").open("w")
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *command],
                    env=environ,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                )
            )
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        for name in ("pages", "worker_pages"):
            _wait_until_listening(ports[name], processes, folder)
        yield urls
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize("route", DASHBOARD_ROUTES)
def test_dashboard_is_closed_to_strangers(dask_processes: dict[str, str], route: str) -> None:
    url = dask_processes["pages"] + route
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, WEBSOCKET):
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            assert httpx.request(method, url, headers=headers).status_code == 403


@pytest.mark.parametrize("route", WORKER_ROUTES)
def test_worker_pages_are_closed_to_strangers(dask_processes: dict[str, str], route: str) -> None:
    assert httpx.get(dask_processes["worker_pages"] + route).status_code == 403


def test_dashboard_opens_with_the_token(dask_processes: dict[str, str]) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    pages = dask_processes["pages"]
    status = httpx.get(f"{pages}/status", headers=bearer)
    assert status.status_code == 200
    assert httpx.get(f"{pages}/metrics", headers=bearer).status_code == 200
    worker = httpx.get(f"{dask_processes['worker_pages']}/status", headers=bearer)
    assert worker.status_code == 200
    origin = {"Origin": pages}
    session = re.search(r'"token":"([^"]+)"', status.text)
    assert session, "the page carries no session for its websocket"
    protocol = {"Sec-WebSocket-Protocol": f"bokeh, {session[1]}"}
    with httpx.stream(
        "GET", f"{pages}/status/ws", headers=WEBSOCKET | protocol | origin | bearer
    ) as answer:
        assert answer.status_code == 101


def test_guard_lets_nobody_in_without_a_token_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: importing the guard changes Dask for good."""
    monkeypatch.delenv("THALWEG_DASK_TOKEN_FILE", raising=False)
    program = (
        "from tornado.httputil import HTTPServerRequest, HTTPHeaders\n"
        "from thalweg.compute import guard\n"
        "for value in ('', 'Bearer ', 'Bearer None'):\n"
        "    request = HTTPServerRequest('GET', '/', headers=HTTPHeaders(Authorization=value))\n"
        "    assert not guard._is_allowed(request)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_until_listening(
    port: int, processes: list[subprocess.Popen[bytes]], folder: Path
) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            logs = "\n".join(path.read_text() for path in folder.glob("*.log"))
            assert all(process.poll() is None for process in processes), logs
            assert time.monotonic() < deadline, logs
            time.sleep(0.2)


RAY_PROGRAM = """
import json, os, sys
import psutil
from thalweg import compute

ray = compute.ray(num_cpus=1)
assert compute.ray() is ray
squares = ray.get([ray.remote(lambda x: x * x).remote(x) for x in range(3)])
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
listening = [c.laddr for p in processes for c in p.net_connections() if c.status == "LISTEN"]
folder = os.path.dirname(os.environ["RAY_AUTH_TOKEN_PATH"])
modes = [oct(os.stat(path).st_mode & 0o777) for path in (folder, folder + "/token")]
print(json.dumps([squares, listening, modes, ray.get_runtime_context().gcs_address, folder]))
sys.stdout.flush()
sys.stdin.read()
"""
#: As the command of a Ray job, whose cluster is there already.
OF_A_JOB = """
import json
from thalweg import compute

ray = compute.ray()
squares = ray.get([ray.remote(lambda x: x * x).remote(x) for x in range(3)])
print(json.dumps([squares, ray.get_runtime_context().gcs_address]))
"""
STRANGER = "import sys, ray; ray.init(address=sys.argv[1]); print('connected', ray.nodes())"


@pytest.mark.hub
@pytest.mark.timeout(400)
def test_ray_is_on_loopback_behind_a_token_and_gone_at_exit() -> None:
    """One Ray for all of it, for it takes 20 s to start."""
    owner = subprocess.Popen(
        [sys.executable, "-c", RAY_PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert owner.stdout is not None
        line = owner.stdout.readline()
        assert line, owner.stderr and owner.stderr.read()
        squares, listening, modes, address, folder = json.loads(line)
        children = psutil.Process(owner.pid).children(recursive=True)
        assert squares == [0, 1, 4]
        assert modes == ["0o700", "0o600"]
        assert len(listening) > 5
        assert {host.removeprefix("::ffff:") for host, _ in listening} == {"127.0.0.1"}
        for _, port in listening:
            assert _anonymous_answer(port) in (None, 401), port
        stranger = subprocess.run(
            [sys.executable, "-c", STRANGER, address],
            env={k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
            | {"RAY_AUTH_MODE": "disabled", "RAY_gcs_rpc_server_reconnect_timeout_s": "5"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert stranger.returncode != 0
        assert "connected" not in stranger.stdout
        around = {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN_PATH": f"{folder}/token"}
        job = subprocess.run(
            [sys.executable, "-c", OF_A_JOB],
            env=os.environ | local_ray.ENVIRONMENT | around,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert job.returncode == 0, job.stderr
        assert json.loads(job.stdout.splitlines()[-1]) == [[0, 1, 4], address]
        assert owner.poll() is None, "it goes on without the job"
    finally:
        owner.communicate("", timeout=60)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    assert not Path(folder).exists()


def test_ray_that_was_imported_open_is_refused() -> None:
    program = (
        "import ray\nfrom thalweg import compute, errors\n"
        "try:\n    compute.ray()\nexcept errors.Unavailable as error:\n    print(error)\n"
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert "restart the kernel" in result.stdout


def _anonymous_answer(port: int) -> int | None:
    """Status of an anonymous HTTP request; None where the port speaks no HTTP/1."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).status_code
    except httpx.HTTPError:
        return None


GATEWAY_CONFIG = """
import sys
dask = [sys.executable, "-m", "dask"]
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.DaskGateway.address = "127.0.0.1:{api}"
c.Proxy.address = "127.0.0.1:{proxy}"
c.UnsafeLocalBackend.clusters_directory = "{folder}/clusters"
c.ClusterConfig.scheduler_cmd = [*dask, "scheduler", "--preload", "thalweg.compute.guard"]
c.ClusterConfig.worker_cmd = [*dask, "worker"]
c.ClusterConfig.worker_cores = 1
c.ClusterConfig.worker_memory = "1 G"
c.ClusterConfig.environment = {environment}
"""


@pytest.fixture
def sample_data(store: Settings) -> Settings:
    """The embedded sample in the warehouse of the running store."""
    database.migrate()
    warehouse.migrate()
    ingest.load(sample.read, sample.fetch())
    return store


@pytest.fixture
def gateway(store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real Dask Gateway, configured as the hub's, and the environment that leads there."""
    api, proxy = _free_ports(2)
    (tmp_path / "clusters").mkdir()
    (tmp_path / "token").write_text(TOKEN)
    config = tmp_path / "gateway.py"
    names = [name for name in os.environ if name.startswith(("AWS_", "PYICEBERG_", "THALWEG_"))]
    environment = {name: os.environ[name] for name in names} | {
        "THALWEG_DASK_TOKEN_FILE": str(tmp_path / "token"),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": "thalweg.compute.guard",
    }
    config.write_text(
        GATEWAY_CONFIG.format(api=api, proxy=proxy, folder=tmp_path, environment=environment)
    )
    log = (tmp_path / "gateway.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "dask_gateway_server", "--config", str(config)],
        stdout=log, stderr=log, cwd=tmp_path,
    )  # fmt: skip
    monkeypatch.setenv("DASK_GATEWAY__ADDRESS", f"http://127.0.0.1:{proxy}")
    monkeypatch.setenv("DASK_GATEWAY__PROXY_ADDRESS", f"gateway://127.0.0.1:{proxy}")
    monkeypatch.setenv("DASK_GATEWAY__AUTH__TYPE", "basic")
    try:
        _wait_until_healthy(f"http://127.0.0.1:{proxy}/api/health", server, tmp_path)
        yield f"http://127.0.0.1:{proxy}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_dask_cluster_of_a_gateway(gateway: str) -> None:
    with compute.dask_cluster(workers=1) as cluster, cluster.get_client() as client:
        assert client.submit(sum, [1, 2, 3]).result(timeout=90) == 6
        page = f"{gateway}/clusters/{cluster.name}/status"
        assert httpx.get(page).status_code == 403
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx.get(page, headers=bearer).status_code == 200
        name = cluster.name
    running = [report.name for report in Gateway().list_clusters()]
    assert name not in running
    # The client's own __del__ stumbles over a closed loop: have that done with here.
    del cluster, client
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_of_another_image_is_refused(
    gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALWEG_IMAGE", "example.org/thalweg:0.1.0")
    with pytest.raises(Unavailable, match=r"image example.org/thalweg:0.1.0, .* have none: stop"):
        compute.dask_cluster(workers=1)
    with Gateway() as asked:
        assert asked.list_clusters() == []
    del asked
    gc.collect()


@pytest.mark.hub
@pytest.mark.timeout(400)
def test_the_tutorial_finds_the_same_on_dask_and_on_ray(
    sample_data: Settings, gateway: str, tmp_path: Path
) -> None:
    notebook = sample_data.home / "notebooks" / "tutorials" / "02-scale-out.ipynb"
    ran = papermill.execute_notebook(
        notebook, tmp_path / "ran.ipynb", {"workers": [1]}, progress_bar=False
    )
    said = {
        cell.source: cell.outputs[-1].data.get("text/plain", "")
        for cell in ran.cells
        if cell.cell_type == "code" and cell.outputs and "data" in cell.outputs[-1]
    }
    assert said["on_dask.equals(on_ray)"] == "True"
    assert [v for source, v in said.items() if source.endswith(".equals(here)")] == ["True"]
    (pieces,) = (value for source, value in said.items() if source.endswith("len(pieces)"))
    assert int(pieces) >= 3
    (differences,) = (v for source, v in said.items() if source.endswith(".abs().max()"))
    largest = dict(line.split() for line in differences.splitlines()[:-1])
    assert set(largest) == {"kge", "nse", "rmse", "relative_bias"}
    # Not so for NaN either.
    assert all(float(value) < 1e-8 for value in largest.values()), largest


def test_no_cluster_of_nothing() -> None:
    with pytest.raises(InvalidInput, match="at least 1 worker"):
        compute.dask_cluster(workers=0)


@pytest.mark.parametrize(
    ("address", "message"),
    [("", "run this inside the hub"), ("http://127.0.0.1:9", "thalweg status")],
)
def test_dask_cluster_outside_the_hub(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_GATEWAY__ADDRESS", address)
    with pytest.raises(Unavailable, match=message):
        compute.dask_cluster()


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.get(url, timeout=2).is_success:
                return
        except httpx.HTTPError:
            pass
        log = (folder / "gateway.log").read_text()
        assert server.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.2)
