"""What lies in the data folder, and the sockets, are their owner's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from thalweg import private
from thalweg import settings as settings_module
from thalweg.errors import Unavailable


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_folder_on_the_way_is_private(tmp_path: Path) -> None:
    settings = settings_module.load({}, data_dir=tmp_path / "new" / "hub")
    deepest = private.folder(settings, "secrets", "clients")
    assert [mode(p) for p in (deepest, deepest.parent, settings.data_dir)] == [0o700] * 3


def test_a_private_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for content in ("first", "second"):
        private.private_file(path, content)
        assert (path.read_text(), mode(path)) == (content, 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_socket_paths_fit_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 30)))
    deep = settings_module.load({}, data_dir=tmp_path / ("very-long-name" * 8))
    path = private.socket_path(deep, "dagster-code")
    assert len(os.fsencode(path)) < 104
    assert mode(path.parent) == 0o700
    path.parent.rmdir()


def test_a_socket_folder_that_others_can_enter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_module.load({}, data_dir=tmp_path)
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    place = private.socket_path(settings, "any").parent
    try:
        place.chmod(0o755)
        with pytest.raises(Unavailable, match="can be entered by others"):
            private.socket_path(settings, "any")
        place.rmdir()
        place.symlink_to(tmp_path)
        with pytest.raises(Unavailable, match="can be entered by others"):
            private.socket_path(settings, "any")
    finally:
        place.unlink() if place.is_symlink() else place.rmdir()
