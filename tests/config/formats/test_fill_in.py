"""Filling in a config.yaml."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from student_clap.config.formats.fill_in import filled
from student_clap.config.formats.yaml12 import load_yaml
from student_clap.config.load import load_config

_TEXT = """\
# top
database:
  host: ${DB_HOST}
  port: 5432  # the usual

# about the split
split:
  method: hash
"""


def test_values_change_and_comments_stay() -> None:
    assert filled(_TEXT, {"database.port": 6000, "split.method": "sorted"}) == _TEXT.replace("5432", "6000").replace(
        "hash", "sorted"
    )


def test_a_missing_key_joins_its_section() -> None:
    text = filled(_TEXT, {"database.user": "me", "split.folds": 4})
    assert load_yaml(text) == {
        "database": {"host": "${DB_HOST}", "port": 5432, "user": "me"},
        "split": {"method": "hash", "folds": 4},
    }
    assert text.index("user: me") < text.index("# about the split")


def test_a_missing_section_is_added() -> None:
    assert load_yaml(filled(_TEXT, {"training.lr": 0.1, "training.epochs": 3}))["training"] == {
        "lr": 0.1,
        "epochs": 3,
    }


def test_filling_twice_changes_nothing() -> None:
    settings: dict[str, object] = {"database.port": 6000, "split.folds": 4, "training.lr": 0.1}
    assert filled(filled(_TEXT, settings), settings) == filled(_TEXT, settings)


def test_the_template_filled_in_is_a_configuration(tmp_path: Path) -> None:
    template = files("student_clap.config").joinpath("templates", "config.yaml").read_text(encoding="utf-8")
    settings = {"database.port": 6000, "featurize.workers": 2, "training.learning_rate": 1e-3, "split.method": "sorted"}
    (tmp_path / "config.yaml").write_text(filled(template, settings), encoding="utf-8")
    config = load_config(tmp_path / "config.yaml", environment={})
    assert config.database.port == 6000
    assert config.featurize.workers == 2
    assert config.training.learning_rate == 1e-3
    assert config.split.method == "sorted"
