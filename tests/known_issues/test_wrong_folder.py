"""A stage that is started where there is no config.yaml says so, instead of using the defaults without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.mark.parametrize(
    "words",
    [
        ("ingest",),
        ("featurize",),
        ("train",),
        ("export",),
        ("evaluate",),
        ("runs",),
        ("config",),
        ("store", "info"),
        ("store", "verify"),
        ("train", "--set", "training.epochs=1"),
    ],
)
def test_every_stage_says_it(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*words)
    assert f"warning: no config.yaml in {tmp_path}; using the defaults; --config names another\n" in done.stderr
    (tmp_path / "config.yaml").write_text("")
    assert "no config.yaml" not in run(*words).output
    (tmp_path / "config.yaml").rename(tmp_path / "other.yaml")
    assert "no config.yaml" not in run(*words, "--config", "other.yaml").output


@pytest.mark.parametrize("words", [("ingest",), ("train",), ("store", "info"), ("featurize",)])
def test_an_error_about_a_setting_says_it_too(words: tuple[str, ...], tmp_path: Path) -> None:
    by_hand = ("--set", "store.path=elsewhere.zarr")
    for more in ((),) if words == ("ingest",) else ((), by_hand):
        done = run(*words, *more)
        assert done.exit_code == 1
        last = done.stderr.splitlines()[-1]
        assert last == f"no config.yaml in {tmp_path}, so the defaults were used; --config names another"


def test_who_names_the_store_by_hand_is_in_no_wrong_folder(tmp_path: Path) -> None:
    assert "warning: no config.yaml" not in run("store", "info", "--set", "store.path=elsewhere.zarr").output
