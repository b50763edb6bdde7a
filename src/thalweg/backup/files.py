"""What people have on a hub of one machine: their home folders, and who they are."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from thalweg import storage
from thalweg.errors import InvalidInput
from thalweg.private import folder
from thalweg.settings import Settings

__all__ = ["pack", "refuse_unless_empty", "unpack"]

#: On a cluster there is neither: homes are volumes, and people log in at their institution.
FOUND = ("home", "removed", "secrets/users.json")
LEFT_OUT = {".cache", ".ipynb_checkpoints"}
IN_MEMORY = 64 * 2**20


def pack(uri: str, settings: Settings) -> int:
    """Write people's files to `uri`, a gzipped tar; how many, and nothing is written for none."""
    found = [path for name in FOUND for path in _walk(settings.data_dir / name)]
    if not found:
        return 0
    with storage.translated(uri):
        files = storage.filesystem(uri)
        with files.open(uri, "wb") as out, tarfile.open(fileobj=out, mode="w|gz") as tar:
            return sum(_add(tar, path, settings) for path in found)


def refuse_unless_empty(settings: Settings) -> None:
    """InvalidInput where somebody has a home folder."""
    home = settings.data_dir / "home"
    if home.is_dir() and any(home.iterdir()):
        raise InvalidInput(
            f"{home} is not empty: restore into a new data folder, or leave it as it is, and name "
            "the other parts with --part"
        )


def unpack(uri: str, settings: Settings) -> int:
    """Put people's files back; how many."""
    root, count = folder(settings), 0
    with (
        storage.translated(uri),
        storage.filesystem(uri).open(uri, "rb") as content,
        tarfile.open(fileobj=content, mode="r|gz") as tar,
    ):
        for member in tar:
            tar.extract(member, root, filter="tar")  # with its owner, whom `data` would leave out
            count += 1
    return count


def _walk(path: Path) -> Iterator[Path]:
    if path.is_symlink() or path.is_file():
        yield path
    elif path.is_dir() and path.name not in LEFT_OUT:
        yield path
        for each in sorted(path.iterdir()):
            yield from _walk(each)


def _add(tar: tarfile.TarFile, path: Path, settings: Settings) -> bool:
    """Add a file as it is at one moment: people go on writing; False where it has gone."""
    try:
        info = tar.gettarinfo(path, str(path.relative_to(settings.data_dir)))
        if not info.isreg():
            tar.addfile(info)
            return True
        with path.open("rb") as live, tempfile.SpooledTemporaryFile(IN_MEMORY) as copy:
            shutil.copyfileobj(live, copy)
            info.size = copy.tell()
            copy.seek(0)
            tar.addfile(info, copy)
    except FileNotFoundError:
        return False
    return True
