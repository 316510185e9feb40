"""The command group: quick, lazy, and init/config."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import load_yaml

HEAVY = ("torch", "dask", "distributed", "psycopg2", "onnxruntime", "zarr", "av", "requests")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom student_clap.config.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print('loaded:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "loaded: []" in done.stdout
    for stage in ("ingest", "featurize", "train", "export", "evaluate"):
        assert stage in done.stdout


def test_every_stage_has_help_config_and_set():
    for stage in ("config", "ingest", "featurize", "train", "export", "evaluate"):
        done = CliRunner().invoke(main, [stage, "--help"])
        assert done.exit_code == 0, done.output
        assert "--config" in done.output
        assert "--set" in done.output


def test_init_writes_both_files_once(tmp_path):
    done = CliRunner().invoke(main, ["init", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "jellyfin" in load_yaml((tmp_path / "config.yaml").read_text())
    assert "JELLYFIN_TOKEN=" in (tmp_path / ".env.example").read_text()
    (tmp_path / "config.yaml").write_text("mine")
    again = CliRunner().invoke(main, ["init", str(tmp_path)])
    assert again.exit_code == 1
    assert "--force" in again.output
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_config_prints_the_resolved_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("jellyfin:\n  token: ${TOKEN}\n")
    done = CliRunner().invoke(main, ["config", "--set", "training.lr=3e-4"], env={"TOKEN": "abc123"})
    assert done.exit_code == 0, done.output
    assert load_yaml(done.output)["training"]["learning_rate"] == 3e-4
    assert "abc123" not in done.output


@pytest.mark.parametrize(
    "words", [("ingest",), ("featurize",), ("evaluate",), ("export",), ("store", "verify"), ("runs",)]
)
def test_no_stage_takes_a_default_for_a_variable_that_is_not_set(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BIG_DISK", raising=False)
    (tmp_path / "config.yaml").write_text("store:\n  path: ${BIG_DISK}/features.zarr\nfolder: {path: .}\n")
    done = CliRunner().invoke(main, [*words])
    assert done.exit_code == 1
    assert "store.path: the variable BIG_DISK is not set" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_bad_setting_ends_with_exit_code_1_and_no_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["config", "--set", "training.lr=x"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")


def test_the_list_of_commands_says_what_each_one_s_help_says():
    listed = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    for name in main.list_commands(None):
        command = main.get_command(None, name)
        assert " ".join(command.help.split()).partition(". ")[0].rstrip(".") + "." in listed, name
