"""The live model against another file, and what reembed says where AudioMuse-AI goes on with another one."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from student_clap.config.schema import Config
from student_clap.export.app.live_model import why_another_is_live
from student_clap.export.demo.postgres import Database
from student_clap.export.demo.schema import set_app_config
from student_clap.featurize.onnx.input_spec import input_spec_of

from ..conftest import Library
from ..model.test_contract import model as made_up
from .reembed_world import make_world

NAME = "model_epoch_36.onnx"


def why(folder: Path | None, model: Path, library: Library) -> str:
    config = Config.model_validate({"audiomuse": {"model_dir": folder}})
    return why_another_is_live(config, model, input_spec_of(model, library.recipe))


def test_which_model_the_app_goes_on_with(tmp_path: Path, exported: Path, library: Library) -> None:
    assert why(None, exported, library) == ""
    assert "holds no model that it would load" in why(tmp_path, exported, library)
    shutil.copy(exported, tmp_path / NAME)
    assert why(tmp_path, exported, library) == ""
    onnx.save(made_up(), str(tmp_path / NAME))
    assert f"it loads {tmp_path / NAME}, which student-clap has not made, and not {exported}" in why(
        tmp_path, exported, library
    )
    (tmp_path / NAME).write_bytes(b"no model")
    assert why(tmp_path, exported, library).startswith("which one it loads is not known: ")
    assert why(tmp_path / ("x" * 300), exported, library).startswith("which one it loads is not known: ")


@pytest.mark.slow
def test_reembed_says_before_it_asks_that_another_model_is_live(
    copied_library: Library, exported: Path, database: Database, tmp_path: Path
) -> None:
    home, folder = tmp_path / "home", tmp_path / "model"
    home.mkdir()
    folder.mkdir()
    world = make_world("B", copied_library, exported, database, home)
    set_app_config(database, {"CLAP_AUDIO_MODEL_PATH": "/app/model/ours.onnx"})
    onnx.save(made_up(), str(folder / "ours.onnx"))
    shutil.copy(exported, folder / NAME)  # which it would load by default
    before = world.table()
    setting = ("--set", f"audiomuse.model_dir={folder}")
    declined = world.run("--write-database", *setting, answer="n\n")
    assert declined.exit_code == 1
    warned, asked = (declined.stderr.index(text) for text in ("get another model's vectors", "are about to get"))
    assert warned < asked
    assert f"it loads {folder / 'ours.onnx'}" in declined.stderr
    assert world.table() == before
    shutil.copy(exported, folder / "ours.onnx")
    done = world.run("--write-database", "--yes", *setting)
    assert done.exit_code == 0, done.output
    assert "another model's vectors" not in done.stderr


@pytest.mark.slow
def test_v08_never_goes_on_with_a_student(
    copied_library: Library, exported: Path, database: Database, tmp_path: Path
) -> None:
    world = make_world("A", copied_library, exported, database, tmp_path)
    done = world.run("--write-database", "--yes")
    assert done.exit_code == 0, done.output
    assert "that of AudioMuse-AI v0.8" in done.stderr
    assert "student-clap deploy" not in done.stderr
