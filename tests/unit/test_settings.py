from pathlib import Path

import pytest

from thalweg import settings
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
        ({"THALWEG_SAMPLE": "perhaps"}, "'sample' in the environment: expected bool"),
    ],
)
def test_what_is_wrong_is_named(home, environ, message):
    with pytest.raises(InvalidInput, match=message):
        settings.load(environ, home=home)


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
