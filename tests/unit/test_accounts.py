import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from thalweg import accounts, database, record
from thalweg import settings as settings_module
from thalweg.accounts import Account
from thalweg.errors import InvalidInput, Unavailable
from thalweg.hub import users
from thalweg.pipelines import history

ROOT = os.geteuid() == 0


@pytest.fixture
def settings(tmp_path):
    return settings_module.load({}, data_dir=tmp_path / "data")


@pytest.mark.parametrize(
    "person", ["ada", "x" * 60, "Ana.M@example.org", "../../etc", "a b", "*", "${x}", "root\n", "ü"]
)
def test_a_name_becomes_part_of_an_account_a_folder_and_a_prefix(settings, person):
    assert re.fullmatch(r"[a-z][a-z0-9._-]{0,21}", accounts.safe(person))
    name = accounts._name(person, settings)
    assert len(name) <= 32, "what useradd takes"
    assert name.startswith("tw-")


def test_no_two_people_have_one_name():
    people = [
        "Ada",
        "ada",
        "ADA",
        "ada ",
        "ada.",
        "ada.c5f3da8b",
        "ada-c5f3da8b",
        "é",
        "è",
        "",
        "-",
    ]
    assert len({accounts.safe(each) for each in people}) == len(people)


def test_two_hubs_share_no_account(settings, tmp_path):
    other = replace(settings, data_dir=tmp_path / "other")
    assert accounts._name("ada", settings) != accounts._name("ada", other)


def test_why_all_share_one_account(settings, monkeypatch):
    assert "setting" in accounts.why_shared(replace(settings, accounts="shared"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in accounts.why_shared(settings)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(accounts.shutil, "which", lambda _: None)
    assert "useradd" in accounts.why_shared(settings)


def test_a_folder_that_no_other_account_may_enter_is_named(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(accounts.shutil, "which", lambda _: "/usr/sbin/useradd")
    monkeypatch.setattr(accounts.sys, "platform", "linux")
    for name in ("base_prefix", "prefix"):
        monkeypatch.setattr(accounts.sys, name, "/usr")
    monkeypatch.setattr(accounts.thalweg, "__file__", "/usr/lib/thalweg/__init__.py")
    closed = tmp_path / "closed"
    (closed / "clone").mkdir(parents=True)
    closed.chmod(0o700)
    here = replace(settings, home=closed / "clone")
    assert str(tmp_path) in accounts.why_shared(here)
    assert accounts._closed(Path("/usr/bin")) is None


def test_the_setting_takes_three_values():
    with pytest.raises(InvalidInput, match="accounts"):
        settings_module.load({}, accounts="mine")


def test_what_a_person_left_is_read_and_no_link_is_followed(tmp_path):
    secret, link, hard = tmp_path / "secret", tmp_path / "link", tmp_path / "hard"
    secret.write_text("{}")
    link.symlink_to(secret)
    hard.hardlink_to(secret)
    me = Account("me", "me", os.getuid(), os.getgid(), tmp_path, tmp_path)
    other = replace(me, uid=os.getuid() + 1)
    assert accounts.read_theirs(secret, me) == b"{}"
    with pytest.raises(OSError, match="symbolic links"):
        accounts.read_theirs(link, me)
    with pytest.raises(PermissionError):
        accounts.read_theirs(hard, other)  # a file of another by a name of theirs
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PermissionError):
        accounts.read_theirs(tmp_path / "pipe", me)  # and nobody waits for a writer


def test_what_a_kernel_notes_in_a_file_is_of_its_run_alone(settings, tmp_path, monkeypatch):
    database.migrate(settings)
    first, other = (
        history.begin(database.new_id(), "ada/p", {}, "command", settings) for _ in range(2)
    )
    notes = tmp_path / "notes"
    with monkeypatch.context() as kernel:
        kernel.setenv("THALWEG_NOTES", str(notes))
        kernel.setenv("THALWEG_RUN_ID", first.id)
        kernel.setenv("THALWEG_DATABASE_URL", "sqlite:////nowhere/at-all.db")
        record.note("read", "table", "locations", "7", 3)
    forged = {"direction": "wrote", "kind": "raw", "name": "x", "version": "1", "rows": None}
    with notes.open("a") as file:
        file.write("no json\n[1]\n" + json.dumps(forged | {"run_id": other.id}) + "\n")
        file.write(json.dumps(forged | {"kind": "secret"}) + "\n")
        file.write(json.dumps(forged | {"rows": "many"}) + "\n")
    record.take(first.id, notes.read_text().splitlines(), settings)
    uses = [(use.direction, use.name, use.rows) for use in history.get(first.id, settings).uses]
    assert uses == [("read", "locations", 3), ("wrote", "x", None)]
    assert not history.get(other.id, settings).uses

    record.pin(notes, first.id, settings)
    with monkeypatch.context() as kernel:
        kernel.setenv("THALWEG_NOTES", str(notes))
        kernel.setenv("THALWEG_PINNED", first.id)
        kernel.setenv("THALWEG_DATABASE_URL", "sqlite:////nowhere/at-all.db")
        assert record.pinned_version("table", "locations") == "7"
        assert record.pinned_uses("table", "metrics") == []


def test_a_folder_is_named_as_its_person_with_or_without_an_account(settings):
    """So that who was in a hub of one account finds what they had in one of many."""
    for person in ("ada", "hydrology-research-team-lead"):
        assert accounts.home(person, settings) == settings.data_dir / "home" / person
    for person in ("../../etc", "Ana@example.org", "x" * 40):
        assert accounts.home(person, settings).parent == settings.data_dir / "home"


@pytest.mark.skipif(not ROOT, reason="only root makes accounts")
def test_the_account_of_who_was_removed_is_nobodys_again(settings):
    account = accounts.ensure("ada", settings)
    try:
        assert accounts.owner(account.uid, ["bob", "ada"], settings) == "ada"
        assert accounts.owner(account.uid, ["bob"], settings) is None
        assert accounts.owner(os.getuid(), ["ada"], settings) is None
        assert accounts.retire("ada", settings) == account
        _, password, *_, expires, _ = next(
            line.split(":")
            for line in Path("/etc/shadow").read_text().splitlines()
            if line.startswith(f"{account.name}:")
        )
        assert (password[0], expires) == ("!", "1")
        assert accounts.owner(account.uid, ["ada"], settings) is None, "no keys"
        assert account.uid in accounts.ids(settings), "what is left of it is found and ended"
        for again in (accounts.ensure, lambda *a: users.add(a[1], a[0], [])):
            with pytest.raises(Unavailable, match=f"ada was removed.*userdel {account.name}"):
                again("ada", settings)
    finally:
        subprocess.run(["userdel", account.name], check=True)
        account.runtime.rmdir()
        account.runtime.parent.rmdir()
    assert accounts.retire("ada", settings) is None


@pytest.mark.skipif(not ROOT, reason="only root makes accounts")
def test_an_account_is_made_once_and_takes_over_what_root_had(settings, tmp_path):
    home = settings.data_dir / "home" / "ada"
    (home / "work").mkdir(parents=True)
    (home / "work" / "link").symlink_to("/etc/passwd")
    before = Path("/etc/passwd").stat()
    account = accounts.ensure("ada", settings)
    try:
        assert accounts.ensure("ada", settings) == account == accounts.find("ada", settings)
        assert accounts.IDS[0] <= account.uid <= accounts.IDS[1]
        assert account.gid == account.uid or account.gid >= accounts.IDS[0]
        entry = subprocess.run(
            ["getent", "passwd", account.name], capture_output=True, text=True, check=True
        ).stdout
        assert entry.rstrip().endswith(":/usr/sbin/nologin")
        shadow = Path("/etc/shadow").read_text()
        assert re.search(rf"^{account.name}:!", shadow, re.M), "no password"
        assert (home / "work").stat().st_uid == account.uid
        assert home.stat().st_mode & 0o777 == 0o700
        after = Path("/etc/passwd").stat()
        assert (after.st_uid, after.st_mode) == (0, before.st_mode), "no link was followed"
    finally:
        subprocess.run(["userdel", account.name], check=True)
        account.runtime.rmdir()
        account.runtime.parent.rmdir()
