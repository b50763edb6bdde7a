"""What `thalweg up` says when the machine is not ready for it; each as a user would meet it."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from thalweg import settings as settings_module
from thalweg.errors import Unavailable
from thalweg.hub import stack, state


def thalweg(*arguments, **environ):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("THALWEG_", "PYICEBERG"))}
    return subprocess.run(
        [sys.executable, "-m", "thalweg", *arguments],
        env=inherited | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def one_line(done):
    """The one line of an error: no traceback, exit code 1."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = one_line(thalweg("up", "--no-open", f"--port={port}", f"--data-dir={tmp_path}"))
    assert f"port {port}" in line
    assert f"--port {port + 1}" in line
    assert not (tmp_path / "object-store").exists()


def test_a_data_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    line = one_line(thalweg("up", "--no-open", f"--data-dir={tmp_path}/file/hub"))
    assert "cannot make the folder" in line
    assert "--data-dir" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    assert "permissions" in one_line(thalweg("up", "--no-open", f"--data-dir={tmp_path}"))


def test_unknown_setting(tmp_path):
    line = one_line(thalweg("up", "--no-open", f"--data-dir={tmp_path}", THALWEG_PROT="1"))
    assert "did you mean 'port'" in line


def test_a_full_disk(tmp_path, monkeypatch):
    class Usage:
        free = 0.4e9

    monkeypatch.setattr(stack.psutil, "disk_usage", lambda _: Usage)
    with pytest.raises(Unavailable, match=r"only 0.40 GB free .* wants 1 GB: make room"):
        stack.checks(settings_module.load({}, data_dir=tmp_path))


def test_status_and_down_of_a_hub_that_never_ran(tmp_path):
    status = thalweg("status", f"--data-dir={tmp_path}")
    assert status.returncode == 3
    assert "`thalweg up` starts it" in status.stdout
    assert "was not running" in thalweg("down", f"--data-dir={tmp_path}").stdout
    assert "no logs" in one_line(thalweg("logs", f"--data-dir={tmp_path}"))


def test_ports_are_different_and_kept(tmp_path):
    settings = settings_module.load({}, data_dir=tmp_path)
    ports = state.ports(settings)
    assert len(set(ports.values())) == len(state.PORTS)
    assert state.ports(settings) == ports


def test_secrets_are_private_and_kept(tmp_path):
    settings = settings_module.load({}, data_dir=tmp_path / "deep" / "er")
    first = state.secret(settings, "x")
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert state.secret(settings, "x") == first
    path = settings.data_dir / "secrets" / "x"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_of_two_that_make_a_secret_at_once_one_wins(tmp_path):
    settings = settings_module.load({}, data_dir=tmp_path)

    def slow():
        state.secret(settings, "x", lambda: "theirs")
        return "ours"

    assert state.secret(settings, "x", slow) == "theirs"
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["x"]


def test_help_has_examples():
    help_text = thalweg("up", "--help").stdout
    assert "thalweg up --port 8080 --detach" in help_text


def test_services_know_the_webhooks_and_the_start_imports_little(tmp_path):
    """What pipelines name is handed on; reading them, or the database, would delay the hub."""
    pipelines = {
        "good": "notify:\n  - webhook: THE_HOOK  # Slack\n    on: [dead_letter]\n",
        "short": "notify: [{'webhook': \"OTHER_HOOK\"}, {webhook: UNSET_HOOK}]\n",
        "broken": "title: [\nwebhooks: NO_HOOK\n",
    }
    for name, text in pipelines.items():
        (tmp_path / "pipelines" / name).mkdir(parents=True)
        (tmp_path / "pipelines" / name / "pipeline.yaml").write_text(text)
    with (tmp_path / "pipelines" / "broken" / "pipeline.yaml").open("ab") as file:
        file.write(b"\xff")  # the hub starts all the same
    asked = (
        "import json, sys; from thalweg import settings;"
        "from thalweg.hub import environment, stack;"
        "around = environment.service_environment(settings.load());"
        "print(json.dumps([[n for n in around if n.endswith('_HOOK')], list(sys.modules)]))"
    )
    hooks = dict.fromkeys(("THE_HOOK", "OTHER_HOOK", "NO_HOOK", "STRANGE"), "https://example.org")
    home = {"THALWEG_HOME": str(tmp_path), "THALWEG_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-c", asked], env=os.environ | hooks | home, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    known, modules = json.loads(done.stdout)
    assert sorted(known) == ["OTHER_HOOK", "THE_HOOK"]
    assert not {"sqlalchemy", "pydantic", "pyiceberg", "numpy"} & set(modules)
