"""A rollback that broke off after the model came back and before its settings were committed can be completed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import psycopg2.extensions
import pytest

from student_clap.config.schema import AudioConfig
from student_clap.export.app import app_config as module
from student_clap.export.app import kept_settings
from student_clap.export.app.deployment import DeployError
from student_clap.export.demo.postgres import Database
from student_clap.export.demo.schema import app_config, set_app_config
from student_clap.store import Recipe

from ...known_issues.test_settings_of_the_app import BOOTSTRAPPED, NAME, Breaking, World, student


@pytest.fixture
def world(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    """A student of n_fft 1024, deployed with its settings over a model of 2048."""
    monkeypatch.setattr("student_clap.export.app.model_verdict.check_worth", lambda *_, **__: "")
    world = World(tmp_path, database)
    set_app_config(world.database, BOOTSTRAPPED)
    return world


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """While it is entered no commit to app_config comes about."""
    real: Callable[..., psycopg2.extensions.connection] = module.connect

    @contextmanager
    def entered() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(module, "connect", lambda config: Breaking(real(config)))
            yield

    return entered


def say_nothing(path: Path) -> None:
    """Take away what a file says of its mel, as AudioMuse-AI's own has it."""
    proto = onnx.load(str(path))
    del proto.metadata_props[:]
    onnx.save(proto, str(path))


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("named", [False, True])
def test_the_same_command_again_completes_it(
    world: World, breaking: Callable[[], Any], *, declared: bool, named: bool
) -> None:
    if not declared:
        say_nothing(world.folder / NAME)
    shipped = world.live
    assert world.deploy("--write-settings").exit_code == 0
    (kept,) = world.folder.glob(f"{NAME}.2*Z")
    same = ("--write-settings", *(("--kept", kept.name) if named else ()))
    with breaking():
        broken = world.rollback(*same)
    assert broken.exit_code == 1
    assert "run the same command again" in broken.stderr
    assert world.live == shipped
    assert app_config(world.database) == BOOTSTRAPPED | {"CLAP_AUDIO_N_FFT": "1024"}
    only_said = world.rollback(*same[1:])
    assert only_said.exit_code == 0, only_said.output
    assert "CLAP_AUDIO_N_FFT is 1024 (app_config), and the model needs 2048" in only_said.stderr
    assert "nothing was changed" in only_said.stdout
    with breaking():
        assert world.rollback(*same).exit_code == 1
    done = world.rollback(*same)
    assert done.exit_code == 0, done.output
    assert "rollback: only settings were changed" in done.stdout
    assert "restart AudioMuse-AI" in done.stdout
    assert app_config(world.database) == BOOTSTRAPPED
    assert world.live == shipped
    again = world.rollback("--write-settings")
    assert "rollback: nothing was changed" in again.stdout
    assert app_config(world.database) == BOOTSTRAPPED
    (withdrawn,) = world.folder.glob(f"{NAME}.2*Z.withdrawn")
    assert world.rollback("--kept", withdrawn.name, "--write-settings").exit_code == 0
    assert app_config(world.database) == BOOTSTRAPPED | {"CLAP_AUDIO_N_FFT": "1024"}
    assert list(world.folder.glob("*.unfinished")) == []


def test_without_its_database_it_is_said_that_it_broke_off(world: World, breaking: Callable[[], Any]) -> None:
    assert world.deploy("--write-settings").exit_code == 0
    with breaking():
        assert world.rollback("--write-settings").exit_code == 1
    world.config.write_text("{}", encoding="utf-8")
    done = world.rollback()
    assert done.exit_code == 0, done.output
    assert "the last rollback broke off" in done.stderr
    assert "SQL" not in done.output


def test_settings_alone_are_completed(world: World, breaking: Callable[[], Any]) -> None:
    assert world.deploy("--as", "mine.onnx", "--write-settings").exit_code == 0
    before = app_config(world.database)
    with breaking():
        assert world.rollback("--write-settings").exit_code == 1
    assert app_config(world.database) == before
    done = world.rollback("--write-settings")
    assert done.exit_code == 0, done.output
    assert "only settings were changed" in done.stdout
    assert app_config(world.database) == BOOTSTRAPPED
    again = world.rollback("--write-settings")
    assert again.exit_code == 1
    assert "nothing to restore" in again.stderr


def test_settings_that_were_left_are_written_by_a_second_call(world: World) -> None:
    assert world.deploy("--write-settings").exit_code == 0
    assert world.rollback("--anyway").exit_code == 0
    assert app_config(world.database)["CLAP_AUDIO_N_FFT"] == "1024"
    done = world.rollback("--write-settings")
    assert done.exit_code == 0, done.output
    assert app_config(world.database) == BOOTSTRAPPED


def test_what_the_file_says_is_believed_before_settings_that_know_a_part(world: World) -> None:
    assert world.deploy("--write-settings").exit_code == 0
    set_app_config(world.database, BOOTSTRAPPED)  # by hand
    recipe = replace(Recipe.from_config(AudioConfig()), fmax_hz=13_000.0)
    other = student(world.home / "other.onnx", recipe)
    done = world.run("deploy", other, "--to", world.folder, "--write-settings")
    assert done.exit_code == 0, done.output
    assert app_config(world.database) == BOOTSTRAPPED | {"CLAP_AUDIO_FMAX": "13000"}
    refused = world.rollback()
    assert refused.exit_code == 1
    assert "CLAP_AUDIO_N_FFT is 2048 (app_config), and the model needs 1024" in refused.stderr
    assert world.rollback("--write-settings").exit_code == 0
    assert world.live == world.original.read_bytes()
    assert app_config(world.database) == BOOTSTRAPPED | {"CLAP_AUDIO_N_FFT": "1024"}


@pytest.mark.parametrize("text", ["{", "[]", '{"restored": 1, "wanted": {}}', '{"restored": "", "wanted": {"x": "y"}}'])
def test_a_damaged_file_of_what_is_unfinished(text: str, tmp_path: Path) -> None:
    stamp = "20260101T000000Z"
    (tmp_path / f"{NAME}.app_config.json.{stamp}.withdrawn").write_text("{}")
    path = tmp_path / f"{NAME}.app_config.json.{stamp}.unfinished"
    path.write_text(text)
    with pytest.raises(DeployError, match=f"{path.name}.*move it away"):
        kept_settings.last_unfinished(tmp_path, NAME)
