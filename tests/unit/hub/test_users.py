import asyncio
import json
import stat

import pytest
from tenacity import stop_after_attempt

from thalweg import database
from thalweg import settings as settings_module
from thalweg.errors import InvalidInput, NotFound, Unavailable
from thalweg.hub import removal, state, users
from thalweg.hub.authenticator import FileAuthenticator


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("THALWEG_DATA_DIR", str(tmp_path))
    return settings_module.load()


def log_in(name, password):
    data = {"username": name, "password": password}
    return asyncio.run(FileAuthenticator().authenticate(None, data))


def test_the_first_user_is_made_once_and_the_password_kept_private(settings):
    password = users.ensure_admin(settings)
    assert log_in("admin", password)["groups"] == users.groups(settings)
    kept = settings.data_dir / "secrets" / "admin-password"
    assert kept.read_text().strip() == password
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert users.ensure_admin(settings) is None


def test_no_password_stands_in_the_users_file(settings):
    password = users.add(settings, "ada", ["researchers"])
    path = settings.data_dir / "secrets" / "users.json"
    assert password not in path.read_text()
    assert json.loads(path.read_text())["ada"]["password"].startswith("$argon2id$")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_wrong_password_unknown_name_and_old_password_are_refused(settings):
    old = users.add(settings, "ada", ["researchers"])
    assert log_in("ada", old + "x") is None
    assert log_in("nobody", old) is None
    new = users.set_password(settings, "ada")
    assert log_in("ada", old) is None
    assert log_in("ada", new) == {"name": "ada", "groups": ["researchers"]}


def test_a_user_who_is_taken_out_is_logged_out(settings):
    users.add(settings, "ada", ["researchers"])

    class Ada:
        name = "ada"

    assert asyncio.run(FileAuthenticator().refresh_user(Ada()))["groups"] == ["researchers"]
    (settings.data_dir / "secrets" / "users.json").write_text("{}")
    assert asyncio.run(FileAuthenticator().refresh_user(Ada())) is False


@pytest.mark.parametrize("name", ["", "Ada", "../x", "a b", "1a", "x" * 33])
def test_odd_names_are_refused(settings, name):
    with pytest.raises(InvalidInput, match="user name"):
        users.add(settings, name, [])


def test_unknown_group_names_the_nearest(settings):
    with pytest.raises(NotFound, match="did you mean 'stewards'"):
        users.add(settings, "ada", ["steward"])


def test_existing_user_and_short_password(settings):
    users.add(settings, "ada", [])
    with pytest.raises(InvalidInput, match="thalweg user password ada"):
        users.add(settings, "ada", [])
    with pytest.raises(InvalidInput, match="fewer than 8"):
        users.set_password(settings, "ada", "short")
    with pytest.raises(NotFound, match="did you mean 'ada'"):
        users.set_password(settings, "adda")


def test_who_is_removed_has_no_login_and_the_first_user_stays(settings):
    password = users.add(settings, "ada", ["researchers"])
    users.remove(settings, "ada")
    assert log_in("ada", password) is None
    assert users.names(settings) == {}
    with pytest.raises(NotFound, match="no user 'ada'"):
        removal.remove("ada", settings)
    with pytest.raises(InvalidInput, match="'admin' stays"):
        removal.remove("admin", settings)


def test_a_hub_that_is_down_forgets_nobody(settings, monkeypatch):
    """What it keeps of them would let them in again; their password lets them in no more."""
    database.migrate(settings)
    password = users.add(settings, "ada", ["researchers"])
    state.folder(settings, "home", "ada")
    monkeypatch.setattr(removal._forget.retry, "stop", stop_after_attempt(1))
    with pytest.raises(Unavailable, match=r"`thalweg up`, then remove them again"):
        removal.remove("ada", settings)
    assert log_in("ada", password) is None
    assert "ada" in users.names(settings)
    assert (settings.data_dir / "home" / "ada").is_dir()
