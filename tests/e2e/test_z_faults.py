"""kill -9 of anything, then of everything: the hub comes back with every acknowledged row."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from thalweg.hub import processes, stack

pytestmark = pytest.mark.e2e

WRITE = """
import pyarrow as pa
from thalweg import warehouse
for i in range({first}, {first} + {count}):
    name = f"configuration_{{i}}"
    rows = {{"name": [name], "type": ["secondary"], "description": ["written before a kill"]}}
    warehouse.write("configurations", pa.table(rows))
    print("acknowledged", name, flush=True)
"""
READ = """
from thalweg import warehouse
print(*warehouse.read("configurations")["name"].to_pylist())
"""


def start_in_the_hub(hub, code):
    """Start code as a user's terminal on this machine would."""
    program = "from thalweg.cli.common import local_settings; local_settings()\n" + code
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("THALWEG_", "PYICEBERG"))}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environ | {"THALWEG_DATA_DIR": str(hub.settings.data_dir)},
        stdout=subprocess.PIPE,
        text=True,
    )


def in_the_hub(hub, code):
    """Run code to its end; what it prints."""
    with start_in_the_hub(hub, code) as process:
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return printed


def kill(*victims):
    for process in victims:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(victims, timeout=10)


def part(hub, name):
    """The first process of this part, which is what its supervisor watches."""
    pid = hub.status()[name]["pid"]
    assert pid, f"{name} has no process"
    return psutil.Process(pid)


def all_well(hub):
    return all(p["state"] != "down" for p in hub.status().values())


def test_each_part_comes_back_by_itself(hub):
    hub.wait_for(lambda: all_well(hub), 60)
    acknowledged = set(in_the_hub(hub, WRITE.format(first=0, count=5)).split()[1::2])
    token = hub.token()
    assert hub.run_code(token, "print(6 * 7)").strip() == "42"
    lab = part(hub, "lab:admin")
    for name in ("object-store", "proxy", "hub", "scheduler", "dask-gateway", "dashboards"):
        killed = part(hub, name)
        kill(killed)
        hub.wait_for(lambda name=name: hub.status()[name]["pid"] is not None, 60)
        hub.wait_for(lambda: all_well(hub), 120)
        assert part(hub, name).pid != killed.pid
    assert lab.is_running(), "a Lab server outlives the hub that started it"
    assert hub.run_code(hub.token(), "print(6 * 7)").strip() == "42"
    assert acknowledged <= set(in_the_hub(hub, READ).split())


def test_everything_killed_in_the_middle_of_writing(hub):
    writer = start_in_the_hub(hub, WRITE.format(first=100, count=1000))
    lines = [writer.stdout.readline() for _ in range(4)]
    supervisor = psutil.Process(stack.running_pid(hub.settings))
    kill(supervisor, *processes.of_hub(hub.settings))
    lines += writer.communicate(timeout=120)[0].splitlines()
    assert writer.returncode != 0, "it was still writing"
    acknowledged = {line.split()[1] for line in lines}
    assert hub.status()["thalweg up"]["state"] == "down"
    printed = hub.up()
    assert "The hub is up" in printed
    assert hub.password not in printed, "the password is printed once"
    hub.wait_for(lambda: all_well(hub), 60)
    assert acknowledged <= set(in_the_hub(hub, READ).split())
    assert "usgs_observations" in in_the_hub(hub, READ), "the sample is still there"


def test_down_leaves_no_process_and_no_socket_behind(hub):
    before = set(processes.of_hub(hub.settings))
    assert before
    assert "all data is kept" in hub.command("down")
    time.sleep(1)
    assert not processes.of_hub(hub.settings)
    assert not [p for p in before if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert stack.running_pid(hub.settings) is None
