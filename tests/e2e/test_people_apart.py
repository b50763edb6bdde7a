"""Each user has an account of the machine: what Alice can do to what is Bob's, tried for real.

`make accounts-test`, where nothing is left out. A hub of its own, started as root in a folder that
other accounts may enter, as the folders of pytest are not. Where this Python itself lies in such a
closed folder, the system's own of the same version runs the same packages.
"""

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import Hub, thalweg

from thalweg import accounts
from thalweg import settings as settings_module
from thalweg.hub import object_store, processes, state

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        os.geteuid() != 0 and "ACCOUNTS" not in os.environ,
        reason="only root can give users accounts of their own",
    ),
]
leave_out = pytest.fail if "ACCOUNTS" in os.environ else pytest.skip

#: What both run first in their kernels.
READY = """
import json, os, pathlib, subprocess, sys
import s3fs
from thalweg import warehouse
from thalweg.warehouse import access
store = s3fs.S3FileSystem()
"""
OF_BOB = (
    READY
    + """
home = pathlib.Path.home()
(home / "secret.txt").write_text("of bob")
store.pipe("s3://users/bob/secret.txt", b"of bob")
sleeping = subprocess.Popen(["sleep", "600"], env={"SECRET": "of bob"})
from ipykernel import get_connection_file
told = {"home": str(home), "pids": [os.getpid(), os.getppid(), sleeping.pid], "uid": os.getuid(),
        "connection": get_connection_file()}
print(json.dumps(told))
"""
)
#: Every line of `tried` must fail.
OF_ALICE = (
    READY
    + """
bob, hub = json.loads({bob!r}), json.loads({hub!r})
theirs, data = pathlib.Path(bob["home"]), pathlib.Path(hub["data_dir"])
tried = {{
    "list": lambda: os.listdir(theirs),
    "read": lambda: (theirs / "secret.txt").read_text(),
    "write": lambda: (theirs / "new.txt").write_text("of alice"),
    "delete": lambda: (theirs / "secret.txt").unlink(),
    "rename": lambda: theirs.rename(theirs.with_name("taken")),
    "mode": lambda: theirs.chmod(0o777),
    "connection": lambda: pathlib.Path(bob["connection"]).read_text(),
    "runtime": lambda: os.listdir(pathlib.Path(bob["connection"]).parent),
    "all homes": lambda: os.listdir(theirs.parent),
    "data folder": lambda: os.listdir(data),
    "get": lambda: store.cat("s3://users/bob/secret.txt"),
    "put": lambda: store.pipe("s3://users/bob/secret.txt", b"of alice"),
    "rm": lambda: store.call_s3("delete_object", Bucket="users", Key="bob/secret.txt"),
    "mv": lambda: store.mv("s3://users/bob/secret.txt", "s3://users/alice/taken.txt"),
    "ls": lambda: store.ls("s3://users/bob", refresh=True),
    "ls all": lambda: store.ls("s3://users", refresh=True),
    "raw": lambda: store.pipe("s3://raw/new", b"of alice"),
    "tables": lambda: access.catalog().create_namespace("of_alice"),
}}
for path in hub["closed"]:
    tried["hub: " + path] = lambda path=path: open(path, "rb").read()
    tried["into hub: " + path] = lambda path=path: open(path, "ab")
for pid in [*bob["pids"], *hub["pids"]]:
    for name in ("environ", "mem", "maps"):
        tried[f"{{name}} of {{pid}}"] = lambda p=f"/proc/{{pid}}/{{name}}": open(p, "rb").read(100)
    tried[f"files of {{pid}}"] = lambda p=f"/proc/{{pid}}/fd": os.listdir(p)
    tried[f"folder of {{pid}}"] = lambda p=f"/proc/{{pid}}/cwd": os.listdir(p)
    for number in (0, 15, 9):
        tried[f"signal {{number}} to {{pid}}"] = lambda pid=pid, n=number: os.kill(pid, n)
done, failed = [], {{}}
for name, attempt in tried.items():
    try:
        attempt()
        done.append(name)
    except Exception as error:
        failed[name] = type(error).__name__ + " " + str(error)[:80]
print(json.dumps({{"done": done, "failed": failed}}))
"""
)
WORKS = (
    READY
    + """
import thalweg
from thalweg.pipelines import history
store.pipe("s3://users/alice/mine.txt", b"of alice")
print(json.dumps({
    "uid": os.getuid(), "home": str(pathlib.Path.home()), "cwd": os.getcwd(),
    "own": store.cat("s3://users/alice/mine.txt").decode(),
    "columns": warehouse.read("configurations").column_names,
    "schedules": len(thalweg.schedules()),
    "terminal": subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip(),
}))
"""
)
DASK = (
    READY
    + """
from thalweg import compute
def who():
    import os, s3fs
    return os.getuid(), s3fs.S3FileSystem().ls("s3://users/alice", refresh=True)
with compute.dask_cluster(workers=1) as cluster, cluster.get_client() as client:
    print(json.dumps(client.submit(who).result(timeout=90)))
"""
)
NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    "cells": [
        {
            "cell_type": "code", "id": "one", "metadata": {}, "outputs": [],
            "execution_count": None,
            "source": "import os, s3fs\nfrom thalweg import warehouse\n"
            "warehouse.read('configurations')\n"
            "s3fs.S3FileSystem().pipe('s3://users/bob/ran.txt', b'ran')\n"
            "open('ran.txt', 'w').write(str(os.getuid()))\n"
            "print(sorted(os.environ))",
        }
    ],
}  # fmt: skip
A_ROW = """
from thalweg.cli.common import local_settings
local_settings()
import pyarrow as pa
from thalweg import warehouse
row = {"name": "nwm", "type": "secondary", "description": "a row, so that there is a snapshot"}
warehouse.write("configurations", pa.Table.from_pylist([row]))
"""
SCHEDULE = """
import json, pathlib, thalweg
pathlib.Path("report.ipynb").write_text({notebook!r})
print(thalweg.schedule("report.ipynb", cron="0 6 1 1 *").name)
"""


def an_open_python(folder):
    """A Python that all accounts may run, with this one's packages; skips where there is none."""
    here = [Path(sys.base_prefix), Path(sys.prefix)]
    if not any(accounts._closed(path) for path in here):
        return sys.executable
    version = "python{}.{}".format(*sys.version_info[:2])
    system = shutil.which(version, path="/usr/bin:/usr/local/bin")
    if not system or accounts._closed(Path(system).resolve().parent):
        leave_out(f"no {version} that other accounts may run: this one lies in {sys.base_prefix}")
    made = subprocess.run([system, "-m", "venv", "--without-pip", folder], capture_output=True)
    target = folder / "lib" / version / "site-packages"
    if made.returncode or not target.is_dir():
        leave_out(f"{system} makes no environment: {made.stderr.decode()[-200:]}")
    installed = Path(httpx.__file__).parents[1]
    if accounts._closed(installed):
        leave_out(f"the packages lie in {installed}, which other accounts may not enter")
    (target / "these.pth").write_text(f"import site; site.addsitedir({str(installed)!r})\n")
    for name in ("share", "etc"):
        (folder / name).symlink_to(Path(sys.prefix) / name)
    for path in (Path(sys.prefix) / "bin").iterdir():
        if not (folder / "bin" / path.name).exists():
            (folder / "bin" / path.name).symlink_to(path)
    script = folder / "bin" / "jupyterhub-singleuser"  # the only one that people's accounts start
    script.unlink()
    script.write_text(f"#!{folder}/bin/python\nfrom jupyterhub.singleuser import main\nmain()\n")
    script.chmod(0o755)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def hub():
    folder = Path(tempfile.mkdtemp(prefix="thalweg-accounts-", dir="/tmp"))
    folder.chmod(0o711)
    (port,) = state.free_ports(1)
    settings = settings_module.load({}, data_dir=folder / "data", port=port, sample=False)
    why = accounts.why_shared(settings)
    if why and not why.startswith(("Python", "the environment")):
        leave_out(why)
    try:
        python = an_open_python(folder / "env")
        up = ("up", "--detach", "--no-open", f"--port={port}")
        printed = thalweg(settings, *up, python=python)
        yield Hub(settings, printed, python)
        thalweg(settings, "down", python=python)
        assert not processes.of_hub(settings)
    finally:
        processes.end(processes.of_hub(settings))
        mark = accounts._name("x", settings)[:-1]
        for entry in pwd.getpwall():
            if entry.pw_name.startswith(mark):
                subprocess.run(["userdel", entry.pw_name], check=True)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def people(hub):
    """The tokens of two people, whose servers are starting."""
    tokens = {}
    for name in ("alice", "bob"):
        password = hub.command("user", "add", name).split()[-1]
        tokens[name] = hub.token(name, password)
        headers = {"Authorization": f"token {tokens[name]}"}
        httpx.post(f"{hub.url}/hub/api/users/{name}/server", headers=headers, timeout=120)
    return tokens


@pytest.fixture(scope="module")
def bob(hub, people):
    """Bob at work: his home, his processes, his account."""
    return json.loads(hub.run_code(people["bob"], OF_BOB, name="bob").splitlines()[-1])


def test_it_says_that_each_user_has_an_account(hub):
    assert "Each user has an account of this machine" in hub.printed
    told = json.loads(hub.command("status", "--json"))
    assert told["why_shared"] == ""


def test_alice_reaches_nothing_of_bob_nor_of_the_hub(hub, people, bob):
    data = hub.settings.data_dir
    closed = [
        *(data / "secrets").rglob("*"), *data.glob("*.db*"), *data.glob("*.json"), data / "up.lock",
        *(data / "jupyterhub").iterdir(), *(data / "logs").iterdir(), *(data / "dagster").iterdir(),
    ]  # fmt: skip
    names = [str(path) for path in closed if path.is_file()]
    assert {"jupyterhub.sqlite", "s3.json", "thalweg.db"} <= {Path(name).name for name in names}
    hubs = {"object-store", "hub", "scheduler", "thalweg up"}
    parts = hub.status()
    told = {
        "data_dir": str(data), "closed": names, "pids": [parts[name]["pid"] for name in hubs]
    }  # fmt: skip
    code = OF_ALICE.format(bob=json.dumps(bob), hub=json.dumps(told))
    answer = json.loads(hub.run_code(people["alice"], code, name="alice").splitlines()[-1])
    assert answer["done"] == []
    assert len(answer["failed"]) > 80
    kinds = {said.split()[0] for said in answer["failed"].values()}
    assert kinds <= {"PermissionError", "ForbiddenError"}, answer["failed"]
    assert (Path(bob["home"]) / "secret.txt").read_text() == "of bob"
    assert all(psutil.pid_exists(pid) for pid in bob["pids"])
    kept = object_store.ask(hub.settings, "GET", "/users/bob/secret.txt", "s3")
    assert kept.text == "of bob"
    ours = {"Authorization": f"token {people['alice']}"}
    for path in ("/hub/api/users/bob", "/user/bob/api/status", "/user/bob/api/contents"):
        assert httpx.get(hub.url + path, headers=ours).status_code in (403, 404)


def test_bobs_server_and_kernels_answer_nobody_else_on_this_machine(hub, people, bob):
    """Kernels do not speak on TCP, where all accounts could hear what they print."""
    connection = Path(bob["connection"])
    told = json.loads(connection.read_text())
    assert told["transport"] == "ipc"
    assert Path(f"{told['ip']}-{told['iopub_port']}").is_socket()
    assert connection.parent.stat().st_mode & 0o777 == 0o700
    ports = [each.laddr.port for each in psutil.Process(bob["pids"][1]).net_connections("inet")
             if each.status == psutil.CONN_LISTEN]  # fmt: skip
    assert ports
    ours = {"Authorization": f"token {people['alice']}"}
    for port in ports:
        answer = httpx.get(f"http://127.0.0.1:{port}/user/bob/api/kernels", headers=ours)
        assert answer.status_code in (401, 403)


def test_no_process_of_a_person_holds_a_key_of_the_hub(hub, people, bob):
    secrets = [p for p in (hub.settings.data_dir / "secrets").rglob("*") if p.is_file()]
    keys = {p.read_text().strip() for p in secrets if 0 < len(p.read_text().strip()) < 100}
    assert len(keys) > 5
    theirs = 0
    for process, environ in processes.of_hub(hub.settings).items():
        name = pwd.getpwuid(process.uids().real).pw_name
        if environ.get("JUPYTERHUB_USER") == "alice":
            theirs += 1
            assert name.startswith("tw-"), process.cmdline()
            assert not keys & set(environ.values())
            assert not any(each.startswith("AWS_SECRET") for each in environ)
    assert theirs >= 2, "a server and a kernel"


def test_alice_works(hub, people):
    told = json.loads(hub.run_code(people["alice"], WORKS, name="alice").splitlines()[-1])
    account = accounts.find("alice", hub.settings)
    assert told["uid"] == account.uid
    assert told["home"] == told["cwd"] == str(account.home)
    assert told["own"] == "of alice"
    assert "name" in told["columns"]
    assert told["schedules"] == 0
    assert told["terminal"] == account.name
    assert (account.home / "tutorials" / "01-quickstart.ipynb").stat().st_uid == account.uid


def test_a_dask_cluster_is_its_owners(hub, people):
    uid, listed = json.loads(hub.run_code(people["alice"], DASK, name="alice").splitlines()[-1])
    assert uid == accounts.find("alice", hub.settings).uid
    assert listed == ["users/alice/mine.txt"]


def test_a_scheduled_notebook_runs_as_who_has_scheduled_it(hub, people, bob):
    code = SCHEDULE.format(notebook=json.dumps(NOTEBOOK))
    assert hub.run_code(people["bob"], code, name="bob").split()[-1] == "bob/report"
    environ = os.environ | {"THALWEG_DATA_DIR": str(hub.settings.data_dir)}
    subprocess.run([hub.python, "-c", A_ROW], env=environ, check=True)
    hub.command("run", "bob/report")
    ran = Path(bob["home"]) / "ran.txt"
    assert ran.read_text() == str(bob["uid"])
    assert ran.stat().st_uid == bob["uid"]
    (run,) = json.loads(hub.command("runs", "list", "--json", "--pipeline", "bob/report"))
    run = json.loads(hub.command("runs", "show", run["id"], "--json"))
    assert (run["state"], run["user"]) == ("succeeded", "bob")
    assert [(use["direction"], use["name"]) for use in run["uses"]] == [("read", "configurations")]
    assert "JUPYTERHUB_API_TOKEN" not in json.dumps(run)


def test_who_is_removed_works_no_more_and_leaves_all_to_the_keeper(hub, people, bob):
    done = json.loads(hub.command("user", "remove", "bob", "--yes", "--json"))
    account = pwd.getpwuid(bob["uid"])
    assert (done["account"], done["schedules"]) == (account.pw_name, ["bob/report"])
    kept = Path(done["home"])
    assert (kept / "secret.txt").read_text() == "of bob"
    assert (kept.stat().st_uid, kept.parent.stat().st_uid) == (bob["uid"], 0)
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert not any(p.uids().real == bob["uid"] for p in processes.of_hub(hub.settings))
    shadow = Path("/etc/shadow").read_text()
    assert re.search(rf"^{account.pw_name}:!", shadow, re.M)
    ours = {"Authorization": f"token {people['bob']}"}
    assert httpx.get(f"{hub.url}/hub/api/user", headers=ours).status_code == 403
    with pytest.raises(AssertionError, match=f"bob was removed.*userdel {account.pw_name}"):
        hub.command("user", "add", "bob")
    assert "own" in hub.run_code(people["alice"], WORKS, name="alice"), "others work on"
