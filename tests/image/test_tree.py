"""The built image really used: `make image-test` names its tree and what buildah says of it.

bwrap makes of the tree what Kubernetes does: a root that nobody can write to, /tmp and the home
elsewhere, uid 1000 without any capability. The target's network has no way out, and swallows what
is sent: whatever asks the outside at its start hangs here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import psycopg
import pytest
import tornado.websocket
import yaml
from image_lock import LEFT_OUT, PYTHON, ROOT, locked
from tornado.httpclient import HTTPRequest

from thalweg.hub.state import free_ports
from thalweg.settings import Settings

sys.path.insert(0, str(ROOT))

from benchmarks.hubs import BEHIND_TRAEFIK

TREE, DIR = Path(os.environ.get("IMAGE_TREE", "")), Path(os.environ.get("IMAGE_DIR", ""))
UID = 1000
DIGEST = f"sha256:{'0a' * 32}"
pytestmark = [
    pytest.mark.skipif("IMAGE_TREE" not in os.environ, reason="make image-test"),
    pytest.mark.timeout(600),
]


def configuration() -> dict[str, Any]:
    """What the image says of itself: environment, entry point, command, user, health check."""
    manifest = json.loads((DIR / "manifest.json").read_text())
    config = json.loads((DIR / manifest["config"]["digest"].partition(":")[2]).read_text())
    return config["config"] | {"architecture": config["architecture"]}


class Pod:
    """The image with a home, a data folder and the top folders that the chart mounts."""

    def __init__(self, folder: Path) -> None:
        self.config = configuration()
        self.home, self.state = folder / "home", folder / "state"
        for own in (self.home, self.state):
            own.mkdir(parents=True)
            os.chown(own, UID, UID)
        for name in ("hosts", "resolv.conf"):  # places for mounts, as Kubernetes makes them
            (TREE / "etc" / name).touch()
        self.environ = dict(pair.split("=", 1) for pair in self.config["Env"])
        self.environ |= {"THALWEG_HOME": "/srv/thalweg", "THALWEG_DATA_DIR": "/var/lib/thalweg"}
        self.mounted: Path | None = None

    def command(self, *words: str, keep: bool = False, **environ: str) -> list[str]:
        """The words as a container's; with `keep`, the environment of who starts it is kept."""
        mounts = [f"--ro-bind {TREE} / --proc /proc --dev /dev --tmpfs /srv/thalweg"]
        mounts += [f"--perms 1777 --tmpfs {path}" for path in ("/tmp", "/dev/shm")]
        mounts += [f"--bind {self.home} /home/jovyan --bind {self.state} /var/lib/thalweg"]
        mounts += [f"--ro-bind /etc/{name} /etc/{name}" for name in ("hosts", "resolv.conf")]
        for name in ("catalogs", "dashboards", "notebooks", "pipelines", "hub-config/singleuser"):
            mounts.append(f"--ro-bind {ROOT / name} /srv/thalweg/{name}")
        if self.mounted:
            mounts.append(f"--bind {self.mounted} /mnt")
        variables = [] if keep else ["--clearenv"]
        for name, value in (self.environ | environ).items():
            variables += ["--setenv", name, value]
        uid, gid = self.config["User"].split(":")
        return [
            *["bwrap", *" ".join(mounts).split(), *variables],
            *["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1", "--die-with-parent"],
            *["--new-session", "--chdir", self.config["WorkingDir"]],
            *["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"],
            *["--cap-add", "CAP_SETPCAP", "setpriv", f"--reuid={uid}", f"--regid={gid}"],
            *["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"],
            *self.config["Entrypoint"],
            *words,
        ]

    def run(self, *words: str, **environ: str) -> str:
        """What a command prints, once it has ended well."""
        done = subprocess.run(
            self.command(*words, **environ), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def python(self, program: str, **environ: str) -> str:
        return self.run("python", "-c", program, **environ)

    def start(self, *words: str, **environ: str) -> Started:
        return Started(self.command(*words, **environ), self.home.parent / f"{words[0]}.log")


class Started:
    """A process that goes on until the end of a `with` block."""

    def __init__(self, command: list[str], log: Path, **options: Any) -> None:
        self.log = log
        with log.open("a") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, **options)

    def until(self, answers: Callable[[], object], seconds: float = 120) -> Any:
        """The first true answer."""
        end = time.monotonic() + seconds
        while True:
            try:
                if answer := answers():
                    return answer
            except (httpx.HTTPError, OSError):
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                pytest.fail(self.log.read_text()[-4000:])
            time.sleep(0.2)

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path / "pod")


@pytest.fixture(scope="module")
def with_data(tmp_path_factory: pytest.TempPathFactory, store_settings: Settings) -> Pod:
    """A pod that reaches an object store outside, with the sample, loaded by a run in the pod."""
    from thalweg.hub import environment

    pod = Pod(tmp_path_factory.mktemp("data"))
    data = environment.data_environment(store_settings)
    for name in ("credentials", ".pyiceberg.yaml"):
        copy = pod.home / name
        shutil.copy(store_settings.data_dir / "secrets" / "clients" / name, copy)
        os.chown(copy, UID, UID)
    names = [n for n in data if n.startswith("AWS_") or n.endswith(("_URI", "_WAREHOUSE"))]
    pod.environ |= {name: data[name] for name in names}
    pod.environ |= {"AWS_SHARED_CREDENTIALS_FILE": "/home/jovyan/credentials"}
    pod.environ |= {"PYICEBERG_HOME": "/home/jovyan"}
    pod.environ |= {"THALWEG_IMAGE": f"example.org/thalweg:0.1.0@{DIGEST}"}
    pod.run("thalweg", "migrate")
    pod.run("thalweg", "run", "load_sample")
    return pod


def answers(url: str, **options: Any) -> bool:
    return httpx.get(url, timeout=5, **options).status_code == 200


# --- the tree ------------------------------------------------------------------------------------


def test_every_package_is_the_locks_and_no_other_is_there(pod: Pod) -> None:
    program = "from importlib.metadata import distributions as d\n"
    program += "print(*sorted(f'{x.name}=={x.version}' for x in d()), sep='\\n')"
    found = {re.sub(r"[-_.]+", "-", line).lower() for line in pod.python(program).split()}
    (python,) = TREE.glob("opt/thalweg/lib/python3.*")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[pod.config["architecture"]]
    wanted = locked(python.name.removeprefix("python"), machine)
    lines = {f"{n}=={p['version']}" for n, p in wanted.items()} | {"thalweg==0.1.0"}
    assert found == {re.sub(r"[-_.]+", "-", line).lower() for line in lines}
    assert not [name for name in LEFT_OUT if f"{name}==" in "".join(found)]


def test_the_base_has_the_python_that_a_release_has(pod: Pod) -> None:
    assert pod.python("import sys; print(*sys.version_info[:2], sep='.')").strip() == PYTHON


def test_everything_can_be_imported(pod: Pod) -> None:
    shutil.copy(ROOT / "image" / "smoke.py", pod.home)
    said = pod.run("python", "/home/jovyan/smoke.py")
    imported = int(re.search(r"(\d+) modules", said)[1])  # type: ignore[index]
    assert imported > 200, said


def test_no_secret_no_cache_and_no_door_to_root_is_left() -> None:
    bad = []
    for path in TREE.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        name, about = f"/{path.relative_to(TREE)}", path.stat()
        if name.startswith("/usr/share/doc/"):
            continue
        if about.st_mode & (stat.S_ISUID | stat.S_ISGID):
            bad.append(f"{name}: setuid")
        if about.st_mode & stat.S_IWOTH or about.st_uid == UID:
            bad.append(f"{name}: a person can write to it")
        if re.search(r"/(\.cache|\.git|\.aws|\.ssh)/|\.(netrc|pypirc|git-credentials|env)$", name):
            bad.append(f"{name}: of the build")
        if re.search(
            r"^/(var/cache|var/lib/apt/lists|root|tmp|build)/(?!\.bashrc|\.profile)", name
        ):
            bad.append(f"{name}: left over")
        is_key = re.search(r"\.(pem|key|crt)$", name) and b"PRIVATE KEY-----" in path.read_bytes()
        if is_key and not re.search("/tests?/", name):
            bad.append(f"{name}: a private key")
    assert bad == []


def test_nobody_can_write_to_the_root_and_everybody_at_home(pod: Pod) -> None:
    said = pod.run(
        "sh",
        "-c",
        "id -u; touch /opt/thalweg/x /usr/x /etc/x 2>&1 | grep -c Read-only; "
        "touch ~/x /tmp/x && echo written; grep -E '^Cap(Eff|Bnd)|^NoNewPrivs' /proc/self/status",
    ).split()
    assert said[:3] == ["1000", "3", "written"]
    assert set(said[4::2]) == {"0000000000000000", "1"}


def test_login_shells_and_git_are_there(pod: Pod) -> None:
    assert pod.run("bash", "-lc", "command -v python thalweg").split() == [
        "/opt/thalweg/bin/python",
        "/opt/thalweg/bin/thalweg",
    ]
    said = pod.run(
        "sh", "-c", "git init -q w && cd w && git status --short --branch && ssh -V 2>&1"
    )
    assert "No commits yet" in said
    assert "OpenSSH" in said


def test_postgresqls_programs_are_not_older_than_terraforms_server(pod: Pod) -> None:
    """An older pg_dump refuses a newer server."""
    text = (ROOT / "terraform" / "modules" / "database" / "variables.tf").read_text()
    server = int(re.search(r'"postgres_version".*?default\s+= "(\d+)"', text, re.DOTALL)[1])  # type: ignore[index]
    for program in ("pg_dump", "pg_restore", "psql"):
        version = re.search(r"\) (\d+)", pod.run(program, "--version"))
        assert version
        assert int(version[1]) >= server, program


# --- each role -----------------------------------------------------------------------------------


def test_started_by_itself_it_is_a_lab_and_healthy(pod: Pod) -> None:
    health = pod.config["Healthcheck"]["Test"]
    assert health[0] == "CMD"
    command = pod.command(*health[1:])
    assert subprocess.run(command, capture_output=True).returncode != 0, "healthy before it runs"
    with pod.start(*pod.config["Cmd"]) as lab:
        lab.until(lambda: subprocess.run(command, capture_output=True).returncode == 0)
        assert httpx.get("http://127.0.0.1:8888/api/contents").status_code == 403, "without a token"
        told = re.search(r"http://127\.0\.0\.1:8888/lab\?token=\w+", lab.log.read_text())
        assert told, lab.log.read_text()
        assert answers(told[0], follow_redirects=True)


HUB = (
    BEHIND_TRAEFIK
    + """\
c.JupyterHub.authenticator_class = "null"
c.Spawner.cmd = {command!r}
c.Spawner.env_keep = []
c.Spawner.ip = "127.0.0.1"
c.Spawner.default_url = "/lab"
c.JupyterHub.services = [{{"name": "test", "api_token": {token!r}}}]
scopes = ["admin:users", "admin:servers", "access:servers"]
c.JupyterHub.load_roles = [{{"name": "tester", "services": ["test"], "scopes": scopes}}]
"""
)


@pytest.fixture
def hub(pod: Pod, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A real hub outside, whose servers are the image: its address, and a header that may all."""
    ports = dict(zip(("port", "hub_port", "api_port"), free_ports(3), strict=True))
    token = "0123456789abcdef" * 2
    pod.environ |= {"JUPYTER_CONFIG_PATH": "/srv/thalweg/hub-config/singleuser"}
    command = pod.command("jupyterhub-singleuser", keep=True)
    config = tmp_path / "jupyterhub_config.py"
    config.write_text(HUB.format(**ports, token=token, command=command))
    environ = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    started = Started(
        [sys.executable, "-m", "jupyterhub", "-f", str(config)],
        tmp_path / "hub.log",
        cwd=tmp_path,
        env=environ,
    )
    with started:
        address = f"http://127.0.0.1:{ports['port']}"
        started.until(lambda: answers(f"{address}/hub/health"))
        yield address, {"Authorization": f"token {token}"}


def test_a_persons_server_answers_and_a_kernel_computes(
    hub: tuple[str, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    address, header = hub
    began = time.monotonic()
    with httpx.Client(base_url=address, headers=header, timeout=120) as client:
        assert client.post("/hub/api/users/ada").status_code == 201
        assert client.post("/hub/api/users/ada/server").status_code in (201, 202)
        while not client.get("/hub/api/users/ada").json()["servers"].get("", {}).get("ready"):
            assert time.monotonic() < began + 120, "the server does not start"
            time.sleep(0.1)
        seconds = time.monotonic() - began
        with capsys.disabled():
            print(f"\na person's server answered after {seconds:.1f} s")
        assert client.get("/user/ada/lab").status_code == 200
        # What VS Code's Jupyter extension does with the server's address and a token.
        kernel = client.post("/user/ada/api/kernels", json={"name": "python3"}).json()["id"]
    url = f"{address.replace('http', 'ws')}/user/ada/api/kernels/{kernel}/channels"

    async def computed() -> str:
        socket = await tornado.websocket.websocket_connect(HTTPRequest(url, headers=header))
        about = {"msg_id": "1", "msg_type": "execute_request", "session": "1", "username": "ada"}
        content = {"code": "import thalweg; print(6 * 7)", "silent": False}
        about |= {"version": "5.3", "date": ""}
        message = {"header": about, "parent_header": {}, "metadata": {}, "content": content}
        await socket.write_message(json.dumps(message | {"channel": "shell"}))
        while answer := json.loads(await socket.read_message()):
            if answer["msg_type"] in ("stream", "error"):
                return answer["content"].get("text") or str(answer["content"])

    import asyncio

    assert asyncio.run(asyncio.wait_for(computed(), 60)) == "42\n"


def test_a_run_loads_the_sample_and_the_quick_start_judges_it(with_data: Pod) -> None:
    notebook = "/srv/thalweg/notebooks/tutorials/01-quickstart.ipynb"
    with_data.run("papermill", "--no-progress-bar", notebook, "/home/jovyan/ran.ipynb")
    ran = json.loads((with_data.home / "ran.ipynb").read_text())
    cells = [cell for cell in ran["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert "bokeh" in json.dumps([cell["outputs"] for cell in cells]).lower(), "there is no plot"
    said = with_data.python(
        "from thalweg import database\n"
        "with database.session() as s: print(*s.query(database.RunRow.environment).distinct())"
    )
    assert DIGEST in said, "a run does not know by which image it was made"


def test_a_pod_backs_up_postgresql(with_data: Pod, postgres: Path) -> None:
    """As the cron job `backup` does, of a server that really runs."""
    url = {"THALWEG_DATABASE_URL": "postgresql+psycopg://thalweg@/postgres?host=/mnt"}
    postgres.chmod(0o711)  # the pod is another user; what lies below stays closed
    with_data.mounted = postgres
    try:
        with_data.run("thalweg", "migrate", **url)
        told = json.loads(with_data.run("thalweg", "deploy", "backup", "backups", "--json", **url))
    finally:
        with_data.mounted = None
    assert told["database"] == "postgresql"
    (dump,) = (with_data.home / "backups").glob("*/database")
    assert dump.read_bytes().startswith(b"PGDMP")


def of_glue() -> dict[str, str]:
    """What the chart says of the catalogue where it is Glue's."""
    text = (ROOT / "helm" / "thalweg" / "templates" / "_helpers.tpl").read_text()
    (part,) = re.findall(r'\.catalogue\.kind "glue" }}\n(.*?)\n{{- else', text, re.DOTALL)
    part = part.replace("{{ .Values.aws.region }}", "us-west-2")
    part = part.replace("{{ .Values.catalogue.accountId | quote }}", "123456789012")
    assert "{{" not in part
    return {name: value.strip('"') for name, value in re.findall(r"^(\w+): (.*)$", part, re.M)}


def test_glues_catalogue_is_asked_with_a_signature(pod: Pod) -> None:
    """PyIceberg signs by boto3, which is in the image alone."""
    asked = []

    class Glue(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            body = b'{"namespaces": [["hydro"]], "defaults": {}, "overrides": {}}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Glue) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environ = of_glue() | {"PYICEBERG_CATALOG__THALWEG__TYPE": "rest"}
        uri = environ["PYICEBERG_CATALOG__THALWEG__URI"]
        assert uri == "https://glue.us-west-2.amazonaws.com/iceberg"
        environ["PYICEBERG_CATALOG__THALWEG__URI"] = f"http://127.0.0.1:{server.server_port}"
        keys = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret"}
        said = pod.python(
            "from thalweg.settings import load\nfrom thalweg.warehouse.access import catalog\n"
            "print(catalog(load()).list_namespaces())",
            **environ, **keys,
        )  # fmt: skip
        server.shutdown()
    assert "hydro" in said
    assert [path.partition("?")[0] for path, _ in asked] == ["/v1/config", "/v1/namespaces"]
    assert "warehouse=123456789012" in asked[0][0]
    for _, signature in asked:
        assert signature.startswith("AWS4-HMAC-SHA256 Credential=AKIATEST/")
        assert "/us-west-2/glue/aws4_request" in signature


def test_dask_scheduler_worker_and_client_understand_each_other(pod: Pod) -> None:
    port, page, worker_page = free_ports(3)
    at = f"tcp://127.0.0.1:{port}"
    (pod.home / "token").write_text("dask-token")
    os.chown(pod.home / "token", UID, UID)
    environ = {"THALWEG_DASK_TOKEN_FILE": "/home/jovyan/token", "THALWEG_IMAGE": "i:1"}
    environ["DASK_DISTRIBUTED__WORKER__PRELOAD"] = "thalweg.compute.guard"
    guard = ["--preload", "thalweg.compute.guard", "--dashboard-address", f"127.0.0.1:{page}"]
    local = ["--host", "127.0.0.1"]
    scheduler = ["dask", "scheduler", *local, "--port", str(port), *guard]
    worker = ["dask", "worker", at, *local, "--dashboard-address", f"127.0.0.1:{worker_page}"]
    program = f"""
from distributed import Client
import os
with Client({at!r}, timeout=60) as client:
    client.wait_for_workers(1, timeout=60)
    import xarray, dask.array
    field = xarray.DataArray(dask.array.ones((100, 100), chunks=50)).sum()
    print(int(client.compute(field).result()), client.run_on_scheduler(os.getenv, "THALWEG_IMAGE"))
"""
    with pod.start(*scheduler, **environ) as first, pod.start(*worker, **environ):
        first.until(lambda: httpx.get(f"http://127.0.0.1:{page}/status").status_code == 403)
        assert pod.python(program).split() == ["10000", "i:1"]


def test_ray_works_here_and_has_the_charts_version(pod: Pod) -> None:
    version = yaml.safe_load((ROOT / "helm" / "thalweg" / "values.yaml").read_text())["ray"][
        "version"
    ]
    assert pod.run("ray", "--version").split()[-1] == version
    program = "from thalweg import compute; ray = compute.ray(num_cpus=1)\n"
    program += "print(ray.get(ray.remote(lambda x: x**2).remote(6)))"
    assert pod.python(program).split()[-1] == "36"


def test_dagsters_code_server_holds_the_pipelines(pod: Pod) -> None:
    (port,) = free_ports(1)
    words = ["dagster", "api", "grpc", "--host=127.0.0.1", f"--port={port}"]
    words += ["--lazy-load-user-code", "--module-name=thalweg.pipelines.definitions"]
    check = pod.command("dagster", "api", "grpc-health-check", "-p", str(port))
    home = {"DAGSTER_HOME": "/var/lib/thalweg"}
    with pod.start(*words, "--location-name=thalweg", **home) as server:
        server.until(lambda: subprocess.run(check, capture_output=True).returncode == 0)
    said = pod.python(
        "from dagster_k8s import K8sRunLauncher\n"
        "from dagster_postgres import DagsterPostgresStorage\n"
        "from thalweg.pipelines.definitions import definitions\n"
        "from thalweg.settings import load\n"
        "print(*sorted(k.to_user_string() for k in "
        "definitions(load()).resolve_asset_graph().get_all_asset_keys()))",
        **home,
    )
    assert "load_sample" in said


def test_what_runs_before_the_code_server_prepares_dagsters_database(
    pod: Pod, postgres: Path
) -> None:
    """On a PostgreSQL that really runs: first empty, then again as after an upgrade."""
    text = (ROOT / "helm" / "thalweg" / "templates" / "pipelines.yaml").read_text()
    (program,) = re.findall(r"- -c\n +- \|-\n(.*?)\n +env: ", text, re.DOTALL)
    with psycopg.connect(f"host={postgres} user=thalweg dbname=postgres", autocommit=True) as made:
        made.execute("CREATE DATABASE dagster")
    postgres.chmod(0o711)
    pod.mounted = postgres
    home = pod.home / "dagster"
    home.mkdir()
    url = {"postgres_url": "postgresql://thalweg@/dagster?host=/mnt"}
    (home / "dagster.yaml").write_text(yaml.safe_dump({"storage": {"postgres": url}}))
    os.chown(home, UID, UID)
    for _ in range(2):
        around = {"DAGSTER_HOME": "/home/jovyan/dagster", "THALWEG_LAUNCHER": "kubernetes"}
        pod.python(dedent(program), **around)
    with psycopg.connect(f"host={postgres} user=thalweg dbname=dagster") as made:
        pools = made.execute("SELECT concurrency_key FROM concurrency_limits").fetchall()
    assert ("Personal",) in pools, "ten notebooks of people at once"


def test_the_dashboards_are_served(with_data: Pod) -> None:
    service = yaml.safe_load((ROOT / "hub-config" / "services.yaml").read_text())["dashboards"]
    names = {"python": "python", "socket": "/home/jovyan/d.sock", "home": "/srv/thalweg"}
    words = [part.format(**names) for part in service["command"]]
    through = httpx.HTTPTransport(uds=str(with_data.home / "d.sock"))
    with with_data.start(*words) as server, httpx.Client(transport=through, timeout=60) as client:
        page = "http://localhost/services/dashboards/forecast_skill"
        server.until(lambda: client.get(page).status_code == 200)
