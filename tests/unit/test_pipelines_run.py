"""A run from its beginning to every end it can have, with real kernels and a real store."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from s3fs import S3FileSystem

from thalweg import database, raw, storage
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.hub import environment, object_store
from thalweg.pipelines import history, pages
from thalweg.pipelines.history import Busy, Run
from thalweg.pipelines.run import RunFailed, executor, retry, run
from thalweg.settings import Settings, load

YAML = """\
title: A test
owner: tests
description: Runs some code.
timeout: {timeout}
parameters:
  gage: {{type: string, description: a gauge, default: "03171000"}}
partitions: {{by: key, keys: [new, yuba], parameters: {{gage: "{{key}}"}}}}
"""

Make = Callable[..., Settings]


@pytest.fixture
def pipeline(store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a home with one pipeline, named `work`, whose notebook runs the given code."""
    database.migrate(store)
    settings = replace(store, home=tmp_path)
    monkeypatch.setenv("THALWEG_HOME", str(tmp_path))

    def make(*code: str, timeout: int = 60) -> Settings:
        folder = tmp_path / "pipelines" / "work"
        folder.mkdir(parents=True)
        (folder / "pipeline.yaml").write_text(YAML.format(timeout=timeout))
        cells = [
            {
                "cell_type": "code",
                "id": f"c{number}",
                "metadata": {"tags": ["parameters"] if number == 0 else []},
                "source": source,
                "outputs": [],
                "execution_count": None,
            }
            for number, source in enumerate(('gage = ""', *code))
        ]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4}
        (folder / "notebook.ipynb").write_text(json.dumps(notebook | {"nbformat_minor": 5}))
        return settings

    return make


def saved(run: Run) -> dict:
    return json.loads(storage.read(run.notebook_uri))


def failure(settings: Settings) -> Run:
    with pytest.raises(RunFailed) as caught:
        run("work", settings=settings)
    return caught.value.run


def kernels() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if "ipykernel_launcher" in str(p.info)]


def test_a_run_leaves_a_record(pipeline: Make) -> None:
    settings = pipeline(
        "import os; from thalweg import record",
        'for _ in range(2): record.note("read", "raw", "helene", "file-1")',
        'record.note("wrote", "table", "primary_timeseries", "42", 121)',
        'print(gage, os.environ["THALWEG_RUN_ID"])',
    )
    seen: list[tuple[int, int]] = []
    done = run(
        "work", {"gage": "01013500"}, settings=settings, progress=lambda *at: seen.append(at)
    )

    assert (done.state, done.error, done.trigger) == ("succeeded", None, "command")
    assert (done.attempt, done.partition, done.repeats, done.differences) == (1, None, None, None)
    assert 30e6 < done.peak_memory < 1e9
    assert seen == [(number, 6) for number in range(1, 7)]  # five cells and the injected one
    assert done.parameters == {"gage": "01013500"}
    uses = [(use.direction, use.kind, use.name, use.version, use.rows) for use in done.uses]
    assert uses == [
        ("read", "raw", "helene", "file-1", None),
        ("wrote", "table", "primary_timeseries", "42", 121),
    ]
    assert history.get(done.id[-12:], settings) == done
    assert done.id in [each.id for each in history.find("work", "succeeded", settings=settings)]

    notebook = saved(done)
    assert notebook["metadata"]["thalweg"] == json.loads(json.dumps(done.as_dict()))
    assert notebook["cells"][-1]["outputs"][0]["text"] == [f"01013500 {done.id}\n"]
    header = notebook["cells"][0]
    assert (header["cell_type"], header["metadata"]) == ("markdown", {"tags": ["thalweg-record"]})
    for shown in ("**succeeded**", done.id, "01013500", "1 raw files of helene", "121 rows"):
        assert shown in header["source"]
    _wait_for(lambda: not list((settings.data_dir / "pages-due").glob("*-*")))
    page = storage.read(done.html_uri).decode()  # nobody has asked for it
    assert f"01013500 {done.id}" in page
    assert "<strong>succeeded</strong>" in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//[^"']+""", page)
    assert f"/work/{done.started_at:%Y-%m-%d}/{done.id}.ipynb" in done.notebook_uri
    assert not (settings.data_dir / "work" / done.id).exists()


def test_pages_are_rendered_one_at_a_time_or_when_they_are_read(
    pipeline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = pipeline("6 * 7")
    due = settings.data_dir / "pages-due"
    with pages._alone(due):  # as one that is at work
        first = run("work", settings=settings)
        second = replace(first, id=database.new_id(), html_uri=f"{first.html_uri}.again")
        pages.later(second, settings)
        assert {first.id, second.id} <= {note.name for note in due.iterdir()}
        with pytest.raises(NotFound):
            storage.read(str(first.html_uri))
        assert "42" in pages.read(first).decode()
        assert storage.read(str(first.html_uri)) == pages.read(first)
    pages.later(first, settings)
    _wait_for(lambda: not list(due.glob("*-*")))
    assert "42" in storage.read(str(second.html_uri)).decode()

    def gone(uri: str) -> bytes:
        raise Unavailable("gone")

    monkeypatch.setattr(storage, "read", gone)
    pages.later(first, replace(settings, launcher="kubernetes"))  # which renders at once
    assert (due / first.id).exists(), "it waits for the next run"
    monkeypatch.setattr(storage, "read", lambda uri: b"{}")
    pages._render_due(due)
    assert not (due / first.id).exists(), "what cannot be rendered is not tried again"


def test_the_clone_is_looked_at_whoever_has_it_and_left_as_it_is(tmp_path: Path) -> None:
    """Who commits in it meanwhile finds no lock of ours."""

    def git(*words: str) -> None:
        me = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        subprocess.run(["git", "-C", tmp_path, *me, *words], check=True, capture_output=True)

    git("init")
    (file := tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    os.utime(file, (1, 1))
    before = (tmp_path / ".git" / "index").read_bytes()
    commit, dirty = history._git(tmp_path)
    assert (len(str(commit)), dirty) == (40, False)
    assert (tmp_path / ".git" / "index").read_bytes() == before
    if os.geteuid() == 0:
        for path in (tmp_path, *tmp_path.rglob("*")):
            os.chown(path, 12345, 12345)
        assert history._git(tmp_path) == (commit, False)


def test_nothing_starts_with_wrong_parameters(pipeline: Make) -> None:
    settings = pipeline("1")
    before = len(history.find("work", limit=1000, settings=settings))
    with pytest.raises(InvalidInput, match="no parameter 'gauge'; did you mean 'gage'"):
        run("work", {"gauge": "1"}, settings=settings)
    with pytest.raises(NotFound, match="did you mean 'work'"):
        run("wrk", settings=settings)
    assert len(history.find("work", limit=1000, settings=settings)) == before


def test_a_kernel_that_is_not_there(pipeline: Make) -> None:
    settings = pipeline("1")
    path = settings.home / "pipelines" / "work" / "notebook.ipynb"
    path.write_text(path.read_text().replace('"python3"', '"fortran"'))
    error = failure(settings).error
    assert error.startswith("NoSuchKernel: No such kernel named fortran; say a kernel that")


def test_an_error_in_a_cell(pipeline: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", sys)  # as in Lab
    settings = pipeline("1 + 1", 'raise ValueError("no such gauge")', "2 + 2")
    failed = failure(settings)
    assert (failed.state, failed.error) == ("failed", "In [4]: ValueError: no such gauge")
    assert failed.trigger == "notebook"
    code = [cell for cell in saved(failed)["cells"] if cell["cell_type"] == "code"]
    assert code[3]["outputs"][0]["ename"] == "ValueError"
    assert code[4]["execution_count"] is None


def test_a_killed_kernel(pipeline: Make) -> None:
    settings = pipeline("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)")
    failed = failure(settings)
    assert failed.error.startswith("cell 4: the kernel died: it was killed, or the machine ran")
    assert saved(failed)["metadata"]["thalweg"]["state"] == "failed"


def test_a_killed_executor(pipeline: Make) -> None:
    settings = pipeline("import os, signal", "os.kill(os.getppid(), signal.SIGKILL)", "1")
    assert "the process that executes the notebook died" in failure(settings).error


def test_the_time_limit(pipeline: Make) -> None:
    started = time.monotonic()
    failed = failure(pipeline("import time; time.sleep(120)", timeout=1))
    assert failed.error.startswith("it took longer than its time limit of 1 s; give it less")
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("deaf", [False, True], ids=["interrupted", "killed"])
def test_late_kernels_are_interrupted_and_if_need_be_killed(
    pipeline: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    class WhenTheCellRuns(threading.Timer):
        def run(self) -> None:
            _wait_for((tmp_path / "runs").exists)
            super().run()

    monkeypatch.setattr(threading, "Timer", lambda _, end: WhenTheCellRuns(0, end))
    settings = pipeline(
        "import signal, time; from pathlib import Path",
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)\n" if deaf else "")
        + f'Path("{tmp_path}/runs").touch()\nfor _ in range(120): time.sleep(1)',
    )
    failed = failure(settings)
    assert failed.error.startswith("it took longer than its time limit of 60 s")
    interrupted = "KeyboardInterrupt" in json.dumps(saved(failed)["cells"])
    assert interrupted is not deaf
    assert not [kernel for kernel in kernels() if _is_ours(kernel, settings)]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_is_not_running_for_ever(
    pipeline: Make, stop: signal.Signals, tmp_path: Path
) -> None:
    marker = tmp_path / "started"
    settings = pipeline(
        f'from pathlib import Path; Path("{marker}").touch()', "import time; time.sleep(120)"
    )
    process = _run_in_process()
    _wait_for(marker.exists)
    (running,) = history.find("work", "running", settings=settings)
    process.send_signal(stop)
    code = process.wait(30)
    ended = history.get(running.id, settings)
    if stop == signal.SIGKILL:
        assert ended.error == history.LOST
    else:
        assert code in (-stop, 128 + stop)
        said = "cancelled at the" if stop == signal.SIGINT else "stopped from outside (SIGTERM:"
        assert ended.error.startswith(said)
        assert saved(ended)["metadata"]["thalweg"]["state"] == ended.state
    assert ended.state == ("cancelled" if stop == signal.SIGINT else "failed")
    _wait_for(lambda: not [p for p in kernels() if _is_ours(p, settings, running.id)])


def test_a_running_run_is_not_taken_for_lost(pipeline: Make, tmp_path: Path) -> None:
    marker, go = tmp_path / "started", tmp_path / "go"
    settings = pipeline(
        f'from pathlib import Path; Path("{marker}").touch()',
        f'import time\nwhile not Path("{go}").exists(): time.sleep(0.05)',
    )
    process = _run_in_process()
    _wait_for(marker.exists)
    assert history.find("work", settings=settings)[0].state == "running"
    go.touch()
    assert process.wait(30) == 0
    assert history.find("work", settings=settings)[0].state == "succeeded"


def test_without_memory(pipeline: Make) -> None:
    settings = pipeline(
        'import resource, time; held = b"x" * 300_000_000; time.sleep(0.8)',
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)); more = bytearray(2**32)",
    )
    failed = failure(settings)
    assert failed.error.startswith("In [4]: MemoryError: ; give it less to do at once, or more mem")
    assert failed.peak_memory > 300e6


def test_a_full_disk(pipeline: Make) -> None:
    settings = pipeline("print('water ' * 100_000)")
    with executor() as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(RunFailed) as caught:
            run("work", settings=settings, process=process)
    failed = caught.value.run
    assert failed.error.endswith("File too large; the disk is full: make room on it")
    assert (failed.state, failed.notebook_uri) == ("failed", None)


def test_of_two_runs_of_a_partition_one_waits_or_is_left_out(
    pipeline: Make, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    settings = pipeline(
        f'from pathlib import Path; Path("{started}").touch()',
        'import time; time.sleep(120 if gage == "new" else 0)',
    )
    first = _run_in_process("partition='new'")
    _wait_for(started.exists)
    (running,) = history.find("work", "running", settings=settings, partition="new")
    assert running.parameters == {"gage": "new"}

    assert run("work", partition="yuba", settings=settings).state == "succeeded"
    file = tmp_path / "pipelines" / "work" / "pipeline.yaml"
    queued = file.read_text()
    file.write_text(f"{queued}overlap: skip\n")
    with pytest.raises(Busy, match=f"run {running.id} of 'work', partition new is at work"):
        run("work", partition="new", settings=settings)
    file.write_text(queued)

    third = history.begin(
        database.new_id(), "work", {}, "command", settings, partition="new", overlap="queue",
        waits=lambda other: history.cancel(other.id[-12:], settings),
    )  # fmt: skip
    first.wait(30)
    cancelled = history.get(running.id, settings)
    assert cancelled.state == "cancelled"
    assert cancelled.error.startswith("cancelled by ")
    assert third.started_at >= cancelled.ended_at
    with pytest.raises(InvalidInput, match="has cancelled already"):
        history.cancel(running.id, settings)
    history.end(replace(third, state="succeeded", ended_at=third.started_at), settings)


def test_a_silent_run_of_another_machine_is_lost(store: Settings) -> None:
    database.migrate(store)
    ids = [database.new_id() for _ in range(3)]
    for id, is_last in zip(ids, (False, True, False), strict=True):
        history.begin(
            id, "elsewhere", {}, "dagster", store,
            partition=id, is_last=is_last, overlap="skip",
        )  # fmt: skip
    with database.session(store) as session, session.begin():
        hour_ago = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
        silent = session.query(database.RunRow).filter(database.RunRow.id.in_(ids[:2]))
        silent.update({"seen_at": hour_ago})
    states = [history.get(id, store).state for id in ids]
    assert states == ["failed", "dead", "running"]
    assert history.get(ids[1], store).error == history.LOST
    again = history.begin(
        database.new_id(), "elsewhere", {}, "dagster", store, partition=ids[1], overlap="skip"
    )
    history.end(replace(again, state="succeeded", ended_at=again.started_at), store)
    assert history.get(ids[1], store).state == "failed"  # no dead letter any more


def test_a_store_that_is_gone_fails_the_run_and_keeps_the_notebook(pipeline: Make) -> None:
    settings = replace(pipeline("6 * 7"), runs_uri="s3://no-such-bucket")
    failed = failure(settings)
    assert failed.notebook_uri is None
    assert "could not be saved" in failed.error
    kept = json.loads((settings.data_dir / "unsaved" / f"{failed.id}.ipynb").read_text())
    assert kept["cells"][-1]["outputs"][0]["data"]["text/plain"] == ["42"]


def test_the_object_store_is_killed_in_the_middle(
    pipeline: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had landed is there once after it is back and the run was tried again."""
    started, gate = tmp_path / "started", tmp_path / "gate"
    own = replace(load({}, data_dir=tmp_path / "data"), home=tmp_path)
    with a_store(own) as store:
        for name, value in environment.data_environment(own).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        database.migrate(own)
        land = "raw.land('t', 'cut', b'{0}', extension='txt', url='https://x/{0}')"
        wait = f"import time\nwhile not Path({str(gate)!r}).exists(): time.sleep(0.05)"
        pipeline(
            "from thalweg import raw; from pathlib import Path; " + land.format(1),
            f"Path({str(started)!r}).touch()\n{wait}",
            land.format(2),
        )
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(failure, own)
            _wait_for(started.exists)
            store.kill()
            store.wait()
            gate.touch()
            failed = running.result(60)
        assert (failed.state, failed.notebook_uri) == ("failed", None)
        assert "Unavailable: the object store" in str(failed.error)
        assert (own.data_dir / "unsaved" / f"{failed.id}.ipynb").exists()
        with a_store(own):
            done = retry(failed.id, own)
            assert (done.state, done.repeats) == ("succeeded", failed.id)
            assert [raw.read(file) for file in raw.find("t", "cut")] == [b"1", b"2"]


@contextmanager
def a_store(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """An object store of its own, started anew on the ports that it had."""
    S3FileSystem.clear_instance_cache()
    object_store.prepare(settings)
    command = object_store.command(settings)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(lambda: object_store.is_healthy(settings), 60)
        yield process
    finally:
        process.kill()
        process.wait()
        object_store.remove_sockets(settings)
        S3FileSystem.clear_instance_cache()


def test_the_record_is_stamped_whatever_saving_says(
    pipeline: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(uri: str, data: bytes) -> None:
        raise AttributeError("half a module")

    monkeypatch.setattr(storage, "put_new", broken)
    failed = failure(pipeline("1"))
    assert "half a module" in failed.error
    assert failed.state == "failed"


def test_a_database_that_is_not_there(pipeline: Make, tmp_path: Path) -> None:
    settings = replace(pipeline("1"), database_url=f"sqlite:///{tmp_path}/none/thalweg.db")
    with pytest.raises(Unavailable, match="thalweg up"):
        run("work", settings=settings)


def test_the_runner_does_not_import_what_is_heavy() -> None:
    code = "import sys, thalweg.pipelines.run; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    heavy = {"papermill", "dagster", "pandas", "pyarrow", "s3fs", "sqlalchemy", "pydantic", "ray"}
    assert not heavy & set(loaded.split())
    assert "thalweg" in loaded.split()


def _run_in_process(how: str = "") -> subprocess.Popen[bytes]:
    # A test that runs in a shell's background inherits an ignored SIGINT.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from thalweg.pipelines import run, supervise; supervise.BEAT = 0.5;"
        f"run.run('work', {how})"
    )
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ)


def _wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_ours(process: psutil.Process, settings: Settings, run_id: str = "") -> bool:
    try:
        environ = process.environ()
    except psutil.Error:
        return False
    return environ.get("THALWEG_HOME") == str(settings.home) and run_id in environ.get(
        "THALWEG_RUN_ID", ""
    )
