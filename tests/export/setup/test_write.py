"""The two files of `student-clap init`: what each holds, and that they are read back as they were answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from student_clap.config.formats.yaml12 import load_yaml
from student_clap.config.load import load_config
from student_clap.config.servers import MEDIA_SERVERS
from student_clap.export.setup.answers import database_answers, in_env_file, server_keys, teacher_file
from student_clap.export.setup.write import write_both
from student_clap.ingest.vectors.open import KINDS

PASSWORDS = [
    "plain",
    "a b#c",
    'it\'s "q"',
    "back\\slash\\n",
    "$HOME ${HOME} $$ ${",
    "'",
    "\\'",
    "ü\u2028",
    "=a=",
    " edge ",
]


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_secret_is_read_back_and_stands_in_the_env_file_alone(
    password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DB_HOST", "DB_NAME", "DB_USER", "DB_PASSWORD", "JELLYFIN_URL", "JELLYFIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    answers = {"database.host": "nas", "database.port": "5433", "database.password": password}
    answers |= {"database.database": "audiomuse", "database.user": "me"}
    answers |= {"jellyfin.url": "http://nas:8096", "jellyfin.token": password}
    write_both(tmp_path, "database", "jellyfin", answers)
    config = load_config(tmp_path / "config.yaml", needs=frozenset({"database", "jellyfin"}))
    assert config.database.password is not None
    assert config.database.password.get_secret_value() == password
    assert config.jellyfin.token is not None
    assert config.jellyfin.token.get_secret_value() == password
    assert (config.database.host, config.database.port, config.jellyfin.url) == ("nas", 5433, "http://nas:8096")
    sections = load_yaml((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert (sections["database"]["port"], sections["database"]["password"]) == (5433, "${DB_PASSWORD}")
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [".env", "config.yaml"]


@pytest.mark.parametrize("source", MEDIA_SERVERS)
@pytest.mark.parametrize("vectors", KINDS)
def test_every_choice_makes_a_configuration_that_names_what_was_answered(
    vectors: str, source: str, tmp_path: Path
) -> None:
    keys = [*KINDS[vectors].asks, *server_keys(MEDIA_SERVERS[source])]
    long_path = str(tmp_path / ("a folder: with 'quotes' # and more " * 4).strip())
    special = {"database.port": "5444", "database.host": "our-nas"}
    answers = {
        key: special.get(key, "http://nas:1" if key.endswith(".url") else long_path if "path" in key else f"x-{key}")
        for key in keys
    }
    write_both(tmp_path, vectors, source, answers)
    config = load_config(tmp_path / "config.yaml", needs=frozenset({source, "database"}))
    assert (config.ingest.vectors, config.ingest.source) == (vectors, source)
    for key, answer in answers.items():
        section, _, name = key.partition(".")
        value = getattr(getattr(config, section), name)
        assert str(value.get_secret_value() if hasattr(value, "get_secret_value") else value) == answer, key
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert [key for key in keys if in_env_file(key) and answers[key] in text] == []
    assert ("\njellyfin:" in text) == (source == "jellyfin")
    assert ("\ndatabase:" in text) == (vectors == "database")


def test_what_the_env_file_holds_besides_stays(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# mine\nAWS_PROFILE=x\nexport DB_HOST=old\nDB_USER = old\n", encoding="utf-8")
    write_both(tmp_path, "database", "folder", {"database.host": "new", "folder.path": "/music"})
    lines = (tmp_path / ".env").read_text(encoding="utf-8").splitlines()
    assert lines == ["# mine", "AWS_PROFILE=x", "DB_USER = old", "DB_HOST='new'"]


def test_a_url_says_all_of_the_database() -> None:
    assert database_answers("postgresql://me:p%40ss%2F@nas:5433/audiomuse") == {
        "database.host": "nas",
        "database.port": "5433",
        "database.user": "me",
        "database.password": "p@ss/",
        "database.database": "audiomuse",
    }
    assert database_answers("postgres://nas") == {"database.host": "nas"}
    for bad in ("http://nas", "postgresql://", "postgresql://u:secret@nas:x/d"):
        with pytest.raises(ValueError, match=r"URL|expected") as caught:
            database_answers(bad)
        assert "secret" not in str(caught.value)


def test_the_folder_of_the_teacher_has_to_tell_which_file_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds none"):
        teacher_file(tmp_path)
    (tmp_path / "clap_text_model.onnx").touch()
    (tmp_path / "model_epoch_36.onnx").touch()
    assert teacher_file(tmp_path).name == "model_epoch_36.onnx"
    (tmp_path / "another.onnx").touch()
    with pytest.raises(ValueError, match="clap_text_model"):
        teacher_file(tmp_path)
