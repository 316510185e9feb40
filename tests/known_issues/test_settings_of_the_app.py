"""AudioMuse-AI goes by rows of its table app_config, not by its environment: deploy, rollback and check read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psycopg2.extensions
import pytest
import yaml
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from pydantic import SecretStr

from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig, DatabaseConfig
from student_clap.export.app import app_config as module
from student_clap.export.app import deployment, kept_settings
from student_clap.export.app.app_config import Setting, changes_to, needed_rows, sql_of
from student_clap.export.app.deployment import DeployError
from student_clap.export.app.installation import V08_MEL, App, why_not_in_v08
from student_clap.export.demo.postgres import Database
from student_clap.export.demo.schema import app_config, create_schema, set_app_config
from student_clap.export.model.app_settings import APP_DEFAULTS, app_mel
from student_clap.featurize.onnx.input_spec import InputSpec
from student_clap.featurize.onnx.recipe import RECIPE_KEY
from student_clap.store import Recipe

from ..export.models import transposed_teacher

NAME = "model_epoch_36.onnx"
# What a start with a configured environment leaves: everything at its default, as text.
BOOTSTRAPPED = APP_DEFAULTS | {"CLAP_AUDIO_MEL_TRANSPOSE": "False", "MUSICNN_PATH": "/app/model/musicnn.onnx"}
ORIGINAL = Recipe.from_config(AudioConfig(preset="original"))


def student(path: Path, recipe: Recipe, note: str = "") -> Path:
    """A model of 128 x 1001 mels that names `recipe`."""
    weights = np.random.default_rng(0).normal(size=(128, 512)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["mel_spectrogram"], ["mean"], axes=[1, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["raw"]),
        helper.make_node("LpNormalization", ["raw"], ["embedding"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info("mel_spectrogram", TensorProto.FLOAT, (1, 1, 128, 1001))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, (1, 512))],
        [numpy_helper.from_array(weights, "w")],
        doc_string=note,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    entry = proto.metadata_props.add()
    entry.key, entry.value = RECIPE_KEY, json.dumps(recipe.as_attributes())
    onnx.save(proto, str(path))
    return path


class World:
    """AudioMuse-AI's folder and database, and a student of the preset `original`: the default's shape, another mel."""

    def __init__(self, home: Path, database: Database) -> None:
        self.home, self.database = home, database
        self.folder = home / "app" / "model"
        self.folder.mkdir(parents=True)
        student(self.folder / NAME, Recipe.from_config(AudioConfig()), "shipped")
        (self.folder / "clap_text_model.onnx").write_bytes(b"text model")
        self.original = student(home / "student.onnx", ORIGINAL)
        self.config = home / "config.yaml"
        self.config.write_text(yaml.safe_dump({"database": database.section()}), encoding="utf-8")
        create_schema(database, "B")

    def run(self, command: str, *arguments: object) -> Result:
        words = [command, "--config", self.config, *arguments]
        done = CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False)
        assert self.database.password not in done.output
        return done

    def deploy(self, *arguments: object) -> Result:
        """Of a model that was never evaluated, which is not what is asked here."""
        return self.run("deploy", self.original, "--to", self.folder, *arguments)

    def rollback(self, *arguments: object) -> Result:
        return self.run("rollback", "--to", self.folder, *arguments)

    @property
    def live(self) -> bytes:
        return (self.folder / NAME).read_bytes()

    @property
    def section(self) -> DatabaseConfig:
        return DatabaseConfig(**self.database.section() | {"password": SecretStr(self.database.password)})

    def execute(self, statement: str) -> None:
        with closing(self.database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)


@pytest.fixture
def world(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("student_clap.export.app.model_verdict.check_worth", lambda *_, **__: "")
    return World(tmp_path, database)


# --- deploy


def test_a_student_of_another_mel_of_the_same_shape_is_refused(world: World) -> None:
    set_app_config(world.database, BOOTSTRAPPED)
    before = world.live
    done = world.deploy()
    assert done.exit_code == 1
    assert "CLAP_AUDIO_N_FFT is 2048 (app_config), and the model needs 1024" in done.stderr
    assert "another mel" in done.stderr
    assert "--write-settings" in done.stderr
    assert world.live == before
    assert app_config(world.database) == BOOTSTRAPPED
    (differing,) = [line for line in done.stdout.splitlines() if "DIFFERS" in line]
    assert differing.split() == ["CLAP_AUDIO_N_FFT", "2048", "app_config", "1024", "DIFFERS"]
    anyway = world.deploy("--anyway")
    assert anyway.exit_code == 0, anyway.output
    assert "CLAP_AUDIO_N_FFT is 2048" in anyway.stderr
    assert world.live == world.original.read_bytes()
    assert app_config(world.database) == BOOTSTRAPPED


def test_a_setting_without_a_row_falls_to_the_default(world: World) -> None:
    """A fresh installation by the wizard has no rows of the mel."""
    done = world.deploy()
    assert done.exit_code == 1
    assert "CLAP_AUDIO_N_FFT is ? or 2048 (environment, else default)" in done.stderr


def test_settings_and_model_change_and_come_back_together(world: World) -> None:
    set_app_config(world.database, BOOTSTRAPPED)
    shipped = world.live
    done = world.deploy("--write-settings")
    assert done.exit_code == 0, done.output
    assert app_config(world.database) == BOOTSTRAPPED | {"CLAP_AUDIO_N_FFT": "1024"}
    assert world.live == world.original.read_bytes()
    assert "restart AudioMuse-AI" in done.stdout
    (kept,) = world.folder.glob(f"{NAME}.app_config.json.*")
    assert json.loads(kept.read_text()) == {"CLAP_AUDIO_N_FFT": "2048"}
    assert world.deploy().exit_code == 0  # they agree now

    refused = world.rollback()
    assert refused.exit_code == 1
    assert "the model needs 2048" in refused.stderr
    assert "--write-settings" in refused.stderr
    assert world.live == world.original.read_bytes()

    back = world.rollback("--write-settings")
    assert back.exit_code == 0, back.output
    assert app_config(world.database) == BOOTSTRAPPED
    assert world.live == shipped
    again = world.rollback("--write-settings")
    assert again.exit_code == 0, again.output
    assert "nothing was changed" in again.stdout
    assert app_config(world.database) == BOOTSTRAPPED

    (withdrawn,) = world.folder.glob(f"{NAME}.2*Z.withdrawn")
    forth = world.rollback("--kept", withdrawn.name, "--write-settings")
    assert forth.exit_code == 0, forth.output
    assert world.live == world.original.read_bytes()
    assert app_config(world.database)["CLAP_AUDIO_N_FFT"] == "1024"


def test_rows_that_were_not_there_are_removed_again(world: World) -> None:
    done = world.deploy("--write-settings")
    assert done.exit_code == 0, done.output
    assert app_config(world.database) == app_mel(InputSpec.of_recipe(ORIGINAL, "test"))
    assert world.rollback("--write-settings").exit_code == 0
    assert app_config(world.database) == {}


def test_settings_that_came_after_the_model_come_back_with_it(world: World) -> None:
    set_app_config(world.database, BOOTSTRAPPED)
    shipped = world.live
    assert world.deploy("--anyway").exit_code == 0
    done = world.deploy("--write-settings")
    assert "only settings were changed" in done.stdout
    assert world.rollback("--write-settings").exit_code == 0
    assert world.live == shipped
    assert app_config(world.database) == BOOTSTRAPPED


def test_a_student_under_another_name_is_not_loaded_and_said_so(world: World) -> None:
    set_app_config(world.database, BOOTSTRAPPED | {"CLAP_AUDIO_N_FFT": "1024"})
    refused = world.deploy("--as", "mine.onnx")
    assert refused.exit_code == 1
    assert "would never be loaded" in refused.stderr
    assert "--as gives the model the name that /app/model/model_epoch_36.onnx has" in refused.stderr
    assert not (world.folder / "mine.onnx").exists()
    done = world.deploy("--as", "mine.onnx", "--write-settings")
    assert done.exit_code == 0, done.output
    assert app_config(world.database)["CLAP_AUDIO_MODEL_PATH"] == "/app/model/mine.onnx"
    assert "CLAP_AUDIO_MODEL_PATH" in done.stderr
    # Nothing stood under that name, so the way back is the settings' alone.
    refused = world.rollback()
    assert refused.exit_code == 1
    assert "--write-settings puts them back" in refused.stderr
    assert world.rollback("--write-settings").exit_code == 0
    assert app_config(world.database)["CLAP_AUDIO_MODEL_PATH"] == f"/app/model/{NAME}"
    assert (world.folder / "mine.onnx").is_file()
    done = world.rollback("--write-settings")
    assert done.exit_code == 1
    assert "nothing to restore" in done.stderr


def test_the_folder_of_a_native_build_stays_in_the_path(world: World) -> None:
    set_app_config(world.database, {"CLAP_AUDIO_MODEL_PATH": r"C:\AudioMuse\model\model_epoch_36.onnx"})
    done = world.deploy("--as", "mine.onnx", "--write-settings")
    assert done.exit_code == 0, done.output
    assert app_config(world.database)["CLAP_AUDIO_MODEL_PATH"] == r"C:\AudioMuse\model\mine.onnx"
    assert "make sure that" in done.stderr


def test_the_name_is_the_apps_own(world: World) -> None:
    set_app_config(world.database, {"CLAP_AUDIO_N_FFT": "1024"})
    (world.folder / NAME).unlink()
    done = world.deploy()
    assert done.exit_code == 0, done.output
    assert world.live == world.original.read_bytes()
    assert f"AudioMuse-AI's own name, {NAME}" in done.stdout


# --- what is not known


def test_before_v1_the_environment_is_all(world: World) -> None:
    world.execute("DROP TABLE app_config")
    done = world.deploy()
    assert done.exit_code == 0, done.output
    assert "  CLAP_AUDIO_N_FFT=1024" in done.stdout
    assert "has no table app_config" in done.stdout
    assert "INSERT" not in done.stdout
    refused = world.deploy("--write-settings")
    assert refused.exit_code == 1
    assert "leave --write-settings away" in refused.stderr


def other_input(world: World) -> Path:
    """CLAP's own model in the app's folder, as v0.8 has it, in the place of the shipped one."""
    (world.folder / NAME).unlink()
    return transposed_teacher(world.folder / "clap_audio_model.onnx")


def test_v08_runs_no_student(world: World) -> None:
    """It makes one mel, whatever its environment says: each song would end in an error of shapes."""
    world.execute(
        "DROP TABLE app_config, track_server_map, music_servers;"
        "ALTER TABLE score DROP album_artist, DROP year, DROP rating, DROP file_path"
    )
    theirs = other_input(world)
    before = theirs.read_bytes()
    refused = world.deploy()
    assert refused.exit_code == 1
    assert "AudioMuse-AI v0.8" in refused.stderr
    assert "a mel [1, 1, 1501, 64] and has no setting for another; the model takes [1, 1, 128, 1001]" in refused.stderr
    assert "Update AudioMuse-AI" in refused.stderr
    assert "CLAP_AUDIO_" not in refused.output
    assert theirs.read_bytes() == before
    assert not list(world.folder.glob("*.onnx.*"))
    checked = world.run("check", world.original, "--app")
    assert checked.exit_code == 1
    assert "update AudioMuse-AI first" in checked.stderr
    anyway = world.deploy("--anyway")
    assert anyway.exit_code == 0, anyway.output
    assert "AudioMuse-AI v0.8" in anyway.stderr
    assert "CLAP_AUDIO_N_FFT" not in anyway.output
    assert theirs.read_bytes() == world.original.read_bytes()


def test_a_student_of_the_mel_of_v08_runs_there() -> None:
    audio = AudioConfig(preset="clap", hop_length_stft=320)
    fits, turned = (InputSpec.of_recipe(Recipe.from_config(audio), "test", transposed=t) for t in (True, False))
    assert app_mel(fits) == V08_MEL
    assert fits.shape.full == (1, 1, 1501, 64)
    for version, spec, runs in ((True, fits, True), (True, turned, False), (False, turned, True)):
        assert (why_not_in_v08(App("db", has_table=False, is_v08=version), spec) == "") is runs


@pytest.mark.parametrize("known", [True, False])
def test_without_rows_a_model_of_another_input_than_the_live_ones_is_refused(world: World, known: bool) -> None:
    world.execute("DROP TABLE app_config")
    if not known:
        world.config.write_text("{}", encoding="utf-8")
    theirs = other_input(world)
    before = theirs.read_bytes()
    refused = world.deploy()
    assert refused.exit_code == 1
    assert "takes [1, 1, 128, 1001], and " in refused.stderr
    assert "which it is to replace, takes [1, 1, frame, 64]" in refused.stderr
    assert ("environment for it first" if known else "Name AudioMuse-AI's database") in refused.stderr
    assert theirs.read_bytes() == before
    done = world.deploy("--anyway")
    assert done.exit_code == 0, done.output
    assert "which it is to replace" in done.stderr
    assert "  CLAP_AUDIO_N_FFT=1024" in done.stdout


def test_without_a_database_the_sql_is_printed(world: World) -> None:
    set_app_config(world.database, BOOTSTRAPPED)
    world.config.write_text("{}", encoding="utf-8")
    done = world.deploy()
    assert done.exit_code == 0, done.output
    assert "not known: the configuration names no database" in done.stderr
    assert "restart AudioMuse-AI" in done.stdout
    lines = done.stdout.splitlines()
    world.execute("\n".join(lines[lines.index("BEGIN;") : lines.index("COMMIT;") + 1]))
    assert app_config(world.database) == BOOTSTRAPPED | app_mel(InputSpec.of_recipe(ORIGINAL, "test"))
    needed = world.deploy("--write-settings")
    assert needed.exit_code == 1
    assert "set database.host" in needed.stderr


def test_an_unreachable_database_is_said_and_does_not_stop_a_deploy(world: World) -> None:
    section = world.database.section() | {"host": str(world.home)}
    world.config.write_text(yaml.safe_dump({"database": section}), encoding="utf-8")
    done = world.deploy()
    assert done.exit_code == 0, done.output
    assert "not known: cannot open the database" in done.stderr
    assert "INSERT INTO app_config" in done.stdout
    assert world.rollback().exit_code == 0
    assert world.deploy("--write-settings").exit_code == 1


def test_without_a_database_a_rollback_prints_the_sql_of_the_former_settings(world: World) -> None:
    set_app_config(world.database, BOOTSTRAPPED)
    assert world.deploy("--write-settings").exit_code == 0
    world.config.write_text("{}", encoding="utf-8")
    done = world.rollback()
    assert done.exit_code == 0, done.output
    assert "variable" not in done.stdout
    lines = done.stdout.splitlines()
    world.execute("\n".join(lines[lines.index("BEGIN;") : lines.index("COMMIT;") + 1]))
    assert app_config(world.database) == BOOTSTRAPPED | {"CLAP_AUDIO_MEL_TRANSPOSE": "false"}  # was False, the same


def test_a_database_that_is_not_the_apps(world: World, postgres_server: Any) -> None:
    empty = postgres_server.create_database()
    world.config.write_text(yaml.safe_dump({"database": empty.section()}), encoding="utf-8")
    done = world.deploy("--write-settings")
    assert done.exit_code == 1
    assert "neither a table app_config nor score" in done.stderr
    assert "audiomusedb" in done.stderr
    postgres_server.drop_database(empty)


# --- nothing is lost


def test_a_file_that_cannot_be_replaced_leaves_the_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    set_app_config(world.database, BOOTSTRAPPED)
    before = {path.name: path.read_bytes() for path in world.folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deployment, "write_bytes_atomically", full)
    done = world.deploy("--write-settings")
    assert done.exit_code == 1
    assert "No space left" in done.stderr
    assert app_config(world.database) == BOOTSTRAPPED
    assert {path.name: path.read_bytes() for path in world.folder.iterdir()} == before


class Breaking:
    """A connection that goes when it is to commit."""

    def __init__(self, connection: psycopg2.extensions.connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def commit(self) -> None:
        raise psycopg2.OperationalError("server closed the connection unexpectedly")


def test_a_commit_that_fails_is_said_and_made_good_by_the_next_call(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_app_config(world.database, BOOTSTRAPPED)
    shipped = world.live
    real: Callable[..., psycopg2.extensions.connection] = module.connect

    with monkeypatch.context() as patch:
        patch.setattr(module, "connect", lambda config: Breaking(real(config)))
        done = world.deploy("--write-settings")
    assert done.exit_code == 1
    assert "run the same command again" in done.stderr
    assert app_config(world.database) == BOOTSTRAPPED
    assert world.deploy("--write-settings").exit_code == 0
    assert app_config(world.database)["CLAP_AUDIO_N_FFT"] == "1024"
    assert world.rollback("--write-settings").exit_code == 0
    assert world.live == shipped
    assert app_config(world.database) == BOOTSTRAPPED


def test_a_trigger_that_undoes_it_takes_the_change_back(world: World) -> None:
    set_app_config(world.database, BOOTSTRAPPED)
    world.execute(
        "CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.value := OLD.value; RETURN NEW; END';"
        "CREATE TRIGGER stay BEFORE UPDATE ON app_config FOR EACH ROW EXECUTE FUNCTION stay()"
    )
    before = world.live
    done = world.deploy("--write-settings")
    assert done.exit_code == 1
    assert "does not hold what was written" in done.stderr
    assert world.live == before


def test_a_user_without_the_right_is_told_which(world: World) -> None:
    set_app_config(world.database, BOOTSTRAPPED)
    world.execute(f"REVOKE UPDATE, INSERT ON app_config FROM {world.database.user}")
    done = world.deploy("--write-settings")
    assert done.exit_code == 1
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON app_config" in done.stderr


def test_a_damaged_file_of_kept_settings(tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.app_config.json.20260101T000000Z"
    for text in ("{", "[1]", '{"POSTGRES_PASSWORD": "x"}', '{"CLAP_AUDIO_N_FFT": 1}'):
        path.write_text(text)
        with pytest.raises(DeployError, match=f"{path.name}.*move it away"):
            kept_settings.settings_of_kept(tmp_path, NAME, "20260101T000000Z")


# --- check --app


def test_check_says_what_differs(world: World) -> None:
    set_app_config(world.database, BOOTSTRAPPED)
    done = world.run("check", world.original, "--app")
    assert done.exit_code == 1
    assert "CLAP_AUDIO_N_FFT is 2048 (app_config), and the model needs 1024" in done.stderr
    assert f"app: it loads /app/model/{NAME}" in done.stdout
    set_app_config(world.database, {"CLAP_AUDIO_N_FFT": " 1024"})
    assert world.run("check", world.original, "--app").exit_code == 0
    world.config.write_text("{}", encoding="utf-8")
    done = world.run("check", world.original, "--app")
    assert done.exit_code == 1
    assert "set database.host" in done.stderr


# --- values


@pytest.mark.parametrize(
    ("key", "row", "needed", "agrees"),
    [
        ("CLAP_AUDIO_MEL_TRANSPOSE", "False", "false", True),
        ("CLAP_AUDIO_MEL_TRANSPOSE", "0", "false", True),
        ("CLAP_AUDIO_MEL_TRANSPOSE", "TRUE", "false", False),
        ("CLAP_AUDIO_MEL_TRANSPOSE", "maybe", "false", False),
        ("CLAP_AUDIO_MEL_TRANSPOSE", "yes", "true", True),
        ("CLAP_AUDIO_FMIN", "0", "0", True),
        ("CLAP_AUDIO_FMIN", "", "0", False),
        ("CLAP_AUDIO_N_MELS", "0128", "128", True),
        ("CLAP_AUDIO_N_MELS", "128.5", "128", False),
        ("CLAP_AUDIO_N_MELS", None, "128", True),
        ("CLAP_AUDIO_N_MELS", None, "64", False),
        ("CLAP_AUDIO_N_MELS", "64", None, False),
        ("CLAP_AUDIO_N_MELS", "128", None, True),
        ("CLAP_AUDIO_MODEL_PATH", "/opt/m/model_epoch_36.onnx", "/app/model/model_epoch_36.onnx", True),
        ("CLAP_AUDIO_MODEL_PATH", "C:\\m\\a.onnx", "/app/model/b.onnx", False),
    ],
)
def test_what_agrees(key: str, row: str | None, needed: str | None, agrees: bool) -> None:
    assert Setting(key, row, needed).agrees is agrees


def test_nothing_is_written_that_means_the_same() -> None:
    wanted = needed_rows(app_mel(InputSpec.of_recipe(Recipe.from_config(AudioConfig()), "test")), NAME, BOOTSTRAPPED)
    assert changes_to(BOOTSTRAPPED, wanted) == {}


def test_sql_quotes_what_it_is_given() -> None:
    (_, _, row, *_) = sql_of({"CLAP_AUDIO_MODEL_PATH": "/it's/m.onnx"})
    assert row == "('CLAP_AUDIO_MODEL_PATH', '/it''s/m.onnx')"
