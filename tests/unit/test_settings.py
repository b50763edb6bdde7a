import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thalweg import database, settings
from thalweg.cli import app
from thalweg.errors import InvalidInput


@pytest.fixture
def home(tmp_path):
    (tmp_path / "hub-config").mkdir()
    return tmp_path


def test_flag_beats_environment_beats_file_beats_default(home):
    (home / "thalweg.toml").write_text("port = 1111\nidle_timeout = 5\nsample = false\n")
    environ = {"THALWEG_PORT": "2222", "THALWEG_SCHEDULES": "yes"}
    loaded = settings.load(environ, home=home, port=3333)
    assert (loaded.port, loaded.idle_timeout, loaded.sample) == (3333, 5, False)
    assert loaded.schedules is True
    assert settings.load(environ, home=home).port == 2222
    assert settings.load({}, home=home).port == 1111
    assert settings.load({}, home=home).dask_idle_timeout == 1800


def test_data_dir_is_below_home_unless_absolute(home):
    assert settings.load({}, home=home).data_dir == home / ".thalweg"
    assert settings.load({}, home=home, data_dir=Path("/x/y")).data_dir == Path("/x/y")
    assert settings.load({"THALWEG_DATA_DIR": "s/../t"}, home=home).data_dir == home / "t"


def test_data_dir_of_the_command_line_is_where_it_is_typed(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings.load({}, home=home, data_dir=Path("here")).data_dir == tmp_path / "here"


@pytest.mark.parametrize("port", [0, 65536, "-1"])
def test_a_port_that_is_none_is_refused(home, port):
    with pytest.raises(InvalidInput, match="expected 1 to 65535"):
        settings.load({}, home=home, port=port)
    assert settings.load({}, home=home).database == f"sqlite:///{home}/.thalweg/thalweg.db"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"THALWEG_COMPUTE": "dsk"}, "setting 'compute': unknown value 'dsk'; did you mean 'dask'"),
        ({"THALWEG_PROT": "1"}, "unknown setting 'prot' in the environment; did you mean 'port'"),
        ({"THALWEG_PORT": "many"}, "'port' in the environment: expected int, got 'many'"),
        (
            {"THALWEG_SMTP_URL": "mail.example.org"},
            "'smtp_url': expected smtp://HOST:PORT or smtps",
        ),
        ({"THALWEG_SMTP_URL": "smtp://ada:1@2@h"}, "/ and @ of user and password as %20, %2F and"),
        ({"THALWEG_SAMPLE": "perhaps"}, "'sample' in the environment: expected bool"),
    ],
)
def test_what_is_wrong_is_named(home, environ, message):
    with pytest.raises(InvalidInput, match=message):
        settings.load(environ, home=home)


@pytest.mark.parametrize(
    "url", ["mine", "postgres://ada:secret@h/d", "sqlite://:x:y", "mysql://h/d"]
)
def test_a_database_that_is_none_is_told_in_a_line(url):
    with pytest.raises(InvalidInput, match="setting 'database_url': expected a URL") as caught:
        database.engine(url)
    assert "secret" not in str(caught.value)


def test_settings_are_shown_without_passwords(home, monkeypatch):
    monkeypatch.setenv("THALWEG_HOME", str(home))
    monkeypatch.setenv("THALWEG_SMTP_URL", "smtps://ada:secret@mail.example.org:465")
    monkeypatch.setenv("THALWEG_DATABASE_URL", "postgresql://ada:se@cret@h/d?sslpassword=secret")
    monkeypatch.setenv("THALWEG_USGS_URL", "https://example.org/nwis?site=1&api_key=secret")
    shown = CliRunner().invoke(app, ["settings", "--json"], catch_exceptions=False).stdout
    values = {each["name"]: each["value"] for each in json.loads(shown)}
    assert values["smtp_url"] == "smtps://ada:***@mail.example.org:465"
    assert values["database_url"] == "postgresql://ada:***@h/d"
    assert values["usgs_url"] == "https://example.org/nwis?site=1"


def test_unknown_key_and_damaged_file(home):
    (home / "thalweg.toml").write_text("dta_dir = 'x'\n")
    with pytest.raises(InvalidInput, match=r"thalweg.toml; did you mean 'data_dir'"):
        settings.load({}, home=home)
    (home / "thalweg.toml").write_text("port = = 1")
    with pytest.raises(InvalidInput, match="not valid TOML"):
        settings.load({}, home=home)


def test_what_the_hub_hands_to_children_is_no_setting(home):
    assert settings.load({"THALWEG_RUN_ID": "x", "THALWEG_INSTANCE": "y"}, home=home)


def test_every_setting_is_described():
    assert all(text for _, _, text in settings.describe())
