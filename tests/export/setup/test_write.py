"""What the answers become in config.yaml and .env: read back, they are the answers."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from student_clap.config.load import load_config
from student_clap.export.setup.answers import database_answers
from student_clap.export.setup.write import former_env, write_both

LONG = "/mnt/My Music Library/A very long folder name of mine/" + "and one below it " * 8


@pytest.mark.parametrize(
    "name", ["2024", "0123", "1e3", "yes", "null", "~", "a: b", "# x", "'quoted'", '"', "\\n", "é"]
)
def test_a_text_is_read_back_as_it_was_said(tmp_path: Path, name: str) -> None:
    write_both(tmp_path, "none", "folder", {"teacher.name": name, "folder.path": LONG + name, "database.port": "5433"})
    config = load_config(tmp_path / "config.yaml")
    assert (config.teacher.name, str(config.folder.path)) == (name, str(Path(LONG + name)))
    assert config.database.port == 5433


def test_what_stands_in_the_way_is_said_before_the_questions(tmp_path: Path) -> None:
    assert former_env(tmp_path) == ""
    (tmp_path / ".env").write_bytes(b"FOO=caf\xe9\n")
    with pytest.raises(click.ClickException, match="is not UTF-8"):
        former_env(tmp_path)
    with pytest.raises(click.ClickException, match="is not a folder that can be written to"):
        former_env(tmp_path / ".env")


def test_what_a_url_asks_for_besides_is_not_dropped() -> None:
    assert database_answers("postgresql://u@h/d") == {
        "database.host": "h",
        "database.user": "u",
        "database.database": "d",
    }
    with pytest.raises(ValueError, match="PGSSLMODE"):
        database_answers("postgresql://u@h/d?sslmode=require")
