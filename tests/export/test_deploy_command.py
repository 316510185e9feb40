"""`student-clap deploy` and `rollback` as a user runs them, on real files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.export.model.session import StudentSession

from .model.test_contract import model

NAME = "model_epoch_36.onnx"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A tree like AudioMuse-AI's: a model with external data next to the text model."""
    folder = tmp_path / "app" / "model"
    folder.mkdir(parents=True)
    proto = model(dims=(1, 1, 8, 21))
    onnx.save(proto, str(folder / NAME), save_as_external_data=True, location=NAME + ".data", size_threshold=1024)
    (folder / "clap_text_model.onnx").write_bytes(b"text tower")
    return folder


def test_deploy_and_rollback_in_a_tree_like_the_apps(models: Path, exported: Path) -> None:
    before = {path.name: path.read_bytes() for path in models.iterdir()}
    done = run("deploy", "--anyway", exported, "--to", models)
    assert done.exit_code == 0, done.output
    assert (models / NAME).read_bytes() == exported.read_bytes()
    assert "defaults fit this model" in done.stdout
    assert "CLAP_AUDIO_MODEL_PATH=" not in done.stdout
    assert "should not share an index" in done.stderr
    assert re.search(
        rf"(?m)^deploy: .* is now .*{NAME}; what stood there is kept as {NAME}\.\d+T\d+Z, {NAME}\.data\.\d+T\d+Z$",
        done.stdout,
    )
    after = {path.name: path.read_bytes() for path in models.iterdir()}

    again = run("deploy", "--anyway", exported, "--to", models)
    assert again.exit_code == 0
    assert "nothing was changed" in again.stdout
    assert {path.name: path.read_bytes() for path in models.iterdir()} == after

    back = run("rollback", "--to", models)
    assert back.exit_code == 0, back.output
    assert re.search(rf"(?m)^rollback: .*{NAME} is again what was kept as {NAME}\.\d+T\d+Z, ", back.stdout)
    restored = {path.name: path.read_bytes() for path in models.iterdir()}
    assert {name: restored[name] for name in before} == before
    assert StudentSession(models / NAME).run(np.zeros((1, 1, 8, 21), np.float32)).shape == (1, 512)


def test_the_folder_may_stand_in_the_configuration(models: Path, exported: Path) -> None:
    none = run("deploy", "--anyway", exported)
    assert none.exit_code == 2
    assert "audiomuse.model_dir" in none.stderr
    setting = ("--set", f"audiomuse.model_dir={models}")
    assert run("deploy", "--anyway", exported, *setting).exit_code == 0
    assert (models / NAME).read_bytes() == exported.read_bytes()
    assert run("rollback", *setting).exit_code == 0
    assert (models / NAME).read_bytes() != exported.read_bytes()


def test_deploy_refuses_what_fails_the_contract(models: Path, tmp_path: Path) -> None:
    onnx.save(model(normalise=False), str(tmp_path / "m.onnx"))
    before = {path.name: path.read_bytes() for path in models.iterdir()}
    done = run("deploy", tmp_path / "m.onnx", "--to", models)
    assert done.exit_code == 1
    assert "unit-norm" in done.stderr
    assert {path.name: path.read_bytes() for path in models.iterdir()} == before


def test_deploy_says_what_to_set(models: Path, tmp_path: Path) -> None:
    onnx.save(model(), str(tmp_path / "m.onnx"))
    done = run("deploy", "--anyway", tmp_path / "m.onnx", "--to", models, "--as", "clap_audio_model.onnx")
    assert done.exit_code == 0, done.output
    assert "does not say which mel" in done.stdout
    settings = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert settings == [
        "CLAP_AUDIO_N_MELS=8",
        "CLAP_AUDIO_HOP_LENGTH=24000",
        "CLAP_AUDIO_MODEL_PATH=/app/model/clap_audio_model.onnx",
    ]
    assert "nothing stood there before" in done.stdout


def test_what_is_left_to_the_user_comes_after_what_was_done(models: Path, tmp_path: Path) -> None:
    onnx.save(model(), str(tmp_path / "m.onnx"))
    for command in (("deploy", "--anyway", tmp_path / "m.onnx"), ("rollback", "--anyway")):
        done = run(*command, "--to", models)
        assert done.exit_code == 0, done.output
        assert done.stdout.index(f"{command[0]}: ") < done.stdout.index("This SQL, run in AudioMuse-AI's database")
    again = run("rollback", "--to", models)
    assert again.stdout.startswith("rollback: nothing was changed; the last rollback has taken a model away already")
    assert "SQL" not in again.output


def test_rollback_of_nothing(models: Path) -> None:
    done = run("rollback", "--to", models)
    assert done.exit_code == 1
    assert "there is nothing to restore" in done.stderr
    absent = run("rollback", "--to", models / "absent")
    assert absent.exit_code == 1
    assert "there is no folder" in absent.stderr
    named = run("rollback", "--to", models, "--as", NAME)
    assert named.exit_code == 1
    assert "there is nothing to restore" in named.stderr


def test_a_folder_that_is_not_there_is_named(models: Path, exported: Path) -> None:
    done = run("deploy", "--anyway", exported, "--to", models / "absent")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (
        f"Error: there is no folder {models / 'absent'}; --to names AudioMuse-AI's model folder"
    )
    assert done.stdout == ""
