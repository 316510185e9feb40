"""`student-clap status` on stores, runs and models as the stages leave them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.schema import AudioConfig, Config
from student_clap.export.app.app_config import Setting
from student_clap.export.app.live_model import LiveModel
from student_clap.export.demo.postgres import Database
from student_clap.export.demo.schema import create_schema, set_app_config, unit_vector
from student_clap.export.model.metadata import set_metadata
from student_clap.export.status.next_step import next_step
from student_clap.export.status.project import App, Project, Rows
from student_clap.featurize.onnx.recipe import METADATA_PREFIX
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.train.comparison.row import RunRow, read_run
from student_clap.train.runs.reader import RUN_FORMAT

from ..app.test_model_verdict import record_of
from ..model.test_contract import model

RECIPE = Recipe.from_config(AudioConfig())
FAILED = "/music/%s.flac is not audio: it has 12345%d bytes"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["status", *map(str, arguments)], catch_exceptions=False)


def write_run(folder: Path, cosines: list[float], *, epochs: int, uuid: str, patience: int = 0) -> Path:
    """A run's small files, as a trainer leaves them."""
    folder.mkdir(parents=True)
    training = {"epochs": epochs, "early_stopping_patience": patience, "seed": 0}
    description = {"format": RUN_FORMAT, "store": {"uuid": uuid}, "training": training, "recipe_name": RECIPE.name}
    (folder / "run.json").write_text(json.dumps(description), encoding="utf-8")
    lines = [json.dumps({"epoch": n, "val_cosine": value}) + "\n" for n, value in enumerate(cosines, 1)]
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Nine rows, two in every state, one gone; two runs, and a configuration."""
    states = [State.LISTED] * 2 + [State.FETCHED] * 4 + [State.FAILED] * 2 + [State.GONE]
    with FeatureStore.create(tmp_path / "store.zarr", "the-teacher") as store:
        store.append_tracks(
            [
                Track("main", f"t{n}", state=state, teacher=unit_vector(n), audio=f"t{n}.flac",
                      error=FAILED % (f"t{n}", n) if state == State.FAILED else "")
                for n, state in enumerate(states)
            ]
        )  # fmt: skip
        hour = RECIPE.sample_rate * 500
        store.features(RECIPE).commit([3, 4, 5], [hour, hour, -1], ["", "", "silence"])
        uuid = store.uuid
    write_run(tmp_path / "runs" / "tinyclap-audiomuse", [0.5, 0.7, 0.6], epochs=3, uuid=uuid)
    write_run(tmp_path / "runs" / "second", [0.4], epochs=3, uuid=uuid)
    write_run(tmp_path / "runs" / "another-store", [0.9], epochs=1, uuid="0" * 32)
    tree: dict[str, Any] = {
        "store": {"path": str(tmp_path / "store.zarr")},
        "training": {"runs_dir": str(tmp_path / "runs")},
    }
    (tmp_path / "config.yaml").write_text(dump_yaml(tree), encoding="utf-8")
    return tmp_path


@pytest.fixture
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a database that is there may take longer than the command would wait."""
    monkeypatch.setattr("student_clap.export.status.project.PATIENCE_S", 60)


def test_the_project_at_a_glance(project: Path) -> None:
    done = run("--config", project / "config.yaml")
    assert done.exit_code == 0
    lines = [line.split("  ", 1) for line in done.stdout.splitlines()]
    shown = {parts[0].strip(): parts[-1].strip() for parts in lines}
    assert shown["rows"] == "9: 2 listed, 1 fetched, 2 featurized, 3 failed, 1 gone"
    assert shown["features"].startswith("audiomuse: 2 tracks, 1 failed, 0.3 h")
    assert "2 in ingest: ... is not audio: it has N bytes" in done.stdout
    assert "1 in featurize audiomuse: silence" in done.stdout
    assert shown["best run"] == "tinyclap-audiomuse: cosine 0.7000, 3 epochs, finished"
    assert "next: student-clap featurize\n" in done.stdout


def test_json_holds_all_of_it(project: Path) -> None:
    found = json.loads(run("--json", "--config", project / "config.yaml").stdout)
    assert found["rows"] == {"total": 9, "listed": 2, "fetched": 1, "featurized": 2, "failed": 3, "gone": 1}
    assert found["failures"][0] == {"stage": "ingest", "reason": "... is not audio: it has N bytes", "tracks": 2}
    assert found["best_run"] == "tinyclap-audiomuse"
    assert {run["name"]: run["cosine"] for run in found["runs"]}["another-store"] == 0.9
    assert found["next"]["command"] == "student-clap featurize"
    assert found["app"]["live"] is None


@pytest.mark.usefixtures("time_enough")
def test_the_live_model(project: Path, exported: Path, database: Database) -> None:
    """As AudioMuse-AI's folder has it, under the name that its settings say."""
    create_schema(database, "B")
    set_app_config(database, {"CLAP_AUDIO_MODEL_PATH": "/app/model/ours.onnx"})
    folder = project / "model"
    folder.mkdir()
    shutil.copy(exported, folder / "ours.onnx")
    tree = {"database": database.section(), "audiomuse": {"model_dir": str(folder)}}
    (project / "more.yaml").write_text(dump_yaml(tree), encoding="utf-8")
    settings = [part for key in ("store.path=store.zarr", "training.runs_dir=runs") for part in ("--set", key)]
    found = json.loads(run("--json", "--config", project / "more.yaml", *settings).stdout)
    assert found["app"]["live"]["about"]["run_name"] == "tinyclap-audiomuse"
    assert found["app"]["loads"] == "/app/model/ours.onnx"
    shown = run("--config", project / "more.yaml", *settings).stdout
    assert "ours.onnx, run tinyclap-audiomuse, epoch 7" in shown
    assert database.password not in shown


def test_without_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run()
    assert done.exit_code == 0
    assert "next: student-clap init" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_does_not_answer_is_no_reason_to_stop(project: Path) -> None:
    done = run("--config", project / "config.yaml", "--set", "database.host=/nowhere")
    assert done.exit_code == 0
    assert "not known: cannot open the database" in done.stdout


@pytest.mark.slow
def test_it_loads_neither_torch_nor_dask(project: Path) -> None:
    code = (
        "import sys\nfrom student_clap.config.cli import main\n"
        "main(['status', '--config', sys.argv[1]], standalone_mode=False)\n"
        "sys.exit(str(sorted({'torch', 'dask', 'distributed', 'onnxruntime'} & set(sys.modules)) or ''))"
    )
    command = [sys.executable, "-c", code, str(project / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


# --- the next step


def best(tmp_path: Path, cosines: list[float], name: str = "tinyclap-audiomuse") -> RunRow:
    row = read_run(write_run(tmp_path / "runs" / name, cosines, epochs=2, uuid="u"))
    assert row is not None
    return row


def step(tmp_path: Path, rows: Rows, *, configured: bool = True, **more: Any) -> str:
    tree = {"training": {"runs_dir": str(tmp_path / "runs")}, "database": {"host": "db"}} | more.pop("config", {})
    project = Project(str(tmp_path), more.pop("teacher", "t"), rows, **more)
    return next_step(Config.model_validate(tree), project, configured=configured).command


def test_the_next_step_of_the_store(tmp_path: Path) -> None:
    assert step(tmp_path, Rows(), teacher=None, configured=False) == "student-clap init"
    assert step(tmp_path, Rows(), teacher=None, config={"database": {}}) == "student-clap doctor"
    assert step(tmp_path, Rows(), teacher=None) == "student-clap ingest"
    assert step(tmp_path, Rows(listed=5)) == "student-clap ingest"
    assert step(tmp_path, Rows(listed=50, fetched=1)) == "student-clap featurize"
    assert step(tmp_path, Rows(listed=50, featurized=50)) == "student-clap ingest"
    assert step(tmp_path, Rows(listed=1, featurized=50)) == "student-clap train"
    assert step(tmp_path, Rows(failed=9)) == "student-clap ingest --verify"
    none = {"ingest": {"vectors": "none"}}
    assert step(tmp_path, Rows(fetched=5), config=none) == "student-clap featurize --teacher MODEL.onnx"


def student(path: Path, *, epoch: int, cosine: float, note: str = "", **more: str) -> Path:
    """An ONNX file of ours that export made of that epoch; it says no run where the library's facts were left out."""
    proto = model()
    proto.doc_string = note
    said = {"epoch": str(epoch), "validation_metrics": json.dumps({"cosine": cosine}), **more}
    set_metadata(proto, {METADATA_PREFIX + key: value for key, value in said.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, str(path))
    return path


def evaluate(path: Path, *, cosine: float = 0.8, folder: str = "evaluation") -> None:
    record = path.parent / folder / "metrics.json"
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps(record_of(path, cosine)), encoding="utf-8")


def test_the_next_step_of_the_runs(tmp_path: Path) -> None:
    rows, done = Rows(featurized=9), best(tmp_path, [0.5, 0.6])
    folder = tmp_path / "runs" / done.name
    assert step(tmp_path, rows, runs=(done,), best=done) == "student-clap export"
    onnx_file = student(folder / "student.onnx", epoch=2, cosine=0.6)
    assert step(tmp_path, rows, runs=(done,), best=done) == "student-clap evaluate"
    evaluate(onnx_file)
    assert step(tmp_path, rows, runs=(done,), best=done).startswith("student-clap deploy ")
    app = App(model_dir=tmp_path / "model")
    assert step(tmp_path, rows, runs=(done,), best=done, app=app).endswith(f"--to {tmp_path / 'model'}")
    live = LiveModel(Path(shutil.copy(onnx_file, tmp_path / "m.onnx")), {})
    assert step(tmp_path, rows, runs=(done,), best=done, app=App(live=live)) == "student-clap reembed"
    stopped = best(tmp_path, [0.5], "other run")
    assert step(tmp_path, rows, runs=(stopped,), best=stopped) == "student-clap train --run 'other run'"
    running = RunRow("now", "running")
    assert step(tmp_path, rows, runs=(running,), best=done) == "student-clap runs now"


def test_what_is_live_is_told_by_its_bytes(tmp_path: Path) -> None:
    """Not by the run's name, which is the default one every time, and which not every file says."""
    rows, done = Rows(featurized=9), best(tmp_path, [0.5, 0.6])
    onnx_file = student(tmp_path / "runs" / done.name / "student.onnx", epoch=2, cosine=0.6)
    evaluate(onnx_file)
    before = student(tmp_path / "m.onnx", epoch=2, cosine=0.6, note="earlier", run_name=done.name)
    app = App(model_dir=tmp_path, live=LiveModel(before, {"run_name": done.name}))
    assert step(tmp_path, rows, runs=(done,), best=done, app=app).startswith("student-clap deploy ")
    shutil.copy(onnx_file, before)
    assert step(tmp_path, rows, runs=(done,), best=done, app=app) == "student-clap reembed"


def test_external_data_is_part_of_the_live_model(tmp_path: Path) -> None:
    for folder, value in (("a", 0.0), ("b", 1.0)):
        (tmp_path / folder).mkdir()
        proto = model()
        (weights,) = [tensor for tensor in proto.graph.initializer if tensor.name == "w"]
        weights.raw_data = np.full(weights.dims, value, np.float32).tobytes()
        onnx.save(
            proto, str(tmp_path / folder / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=99
        )
    first, second = (tmp_path / folder / "m.onnx" for folder in "ab")
    assert first.read_bytes() == second.read_bytes()
    live = LiveModel(first, {})
    assert live.is_model(first)
    assert not live.is_model(second)
    (tmp_path / "a" / "m.data").unlink()
    assert not live.is_model(second)


@pytest.mark.parametrize(("epoch", "cosine"), [(1, 0.5), (2, 0.55)])
def test_a_run_that_was_trained_on_is_exported_again(tmp_path: Path, epoch: int, cosine: float) -> None:
    rows, done = Rows(featurized=9), best(tmp_path, [0.5, 0.6])
    onnx_file = student(tmp_path / "runs" / done.name / "student.onnx", epoch=epoch, cosine=cosine)
    evaluate(onnx_file)
    live = LiveModel(Path(shutil.copy(onnx_file, tmp_path / "m.onnx")), {})
    assert step(tmp_path, rows, runs=(done,), best=done, app=App(live=live)) == "student-clap export"


def test_a_head_that_was_fitted_again_has_figures_of_its_own(tmp_path: Path) -> None:
    done = best(tmp_path, [0.5, 0.6])
    folder = tmp_path / "runs" / done.name
    student(folder / "student.onnx", epoch=2, cosine=0.7, refit_head="{}")
    assert step(tmp_path, Rows(featurized=9), runs=(done,), best=done) == "student-clap evaluate"


def test_an_evaluation_of_other_bytes_is_none(tmp_path: Path) -> None:
    done = best(tmp_path, [0.5, 0.6])
    onnx_file = student(tmp_path / "runs" / done.name / "student.onnx", epoch=2, cosine=0.6)
    evaluate(onnx_file)
    student(onnx_file, epoch=2, cosine=0.6, note="exported again")
    assert step(tmp_path, Rows(featurized=9), runs=(done,), best=done) == "student-clap evaluate"


def test_another_form_of_the_student_may_be_live(tmp_path: Path) -> None:
    rows, done = Rows(featurized=9), best(tmp_path, [0.5, 0.6], "mine")
    onnx_file = student(tmp_path / "runs" / "mine" / "student.onnx", epoch=2, cosine=0.6)
    evaluate(onnx_file)
    small = student(onnx_file.with_name("student-int8.onnx"), epoch=2, cosine=0.6, note="int8")
    live = LiveModel(Path(shutil.copy(small, tmp_path / "m.onnx")), {})
    assert step(tmp_path, rows, runs=(done,), best=done, app=App(live=live)) == f"student-clap reembed --model {small}"
    shutil.copy(onnx_file, live.path)
    assert step(tmp_path, rows, runs=(done,), best=done, app=App(live=live)) == "student-clap reembed --run mine"


def test_what_deploy_would_refuse_is_not_advised(tmp_path: Path) -> None:
    rows, done = Rows(featurized=9), best(tmp_path, [0.5, 0.6])
    onnx_file = student(tmp_path / "runs" / done.name / "student.onnx", epoch=2, cosine=0.6)
    evaluate(onnx_file, cosine=0.5)  # the mean vector has 0.511
    assert step(tmp_path, rows, runs=(done,), best=done) == "student-clap train --set training.epochs=4"
    early = read_run(write_run(tmp_path / "runs" / "early", [0.5, 0.6], epochs=9, uuid="u", patience=1))
    assert early is not None
    evaluate(student(tmp_path / "runs" / "early" / "student.onnx", epoch=2, cosine=0.6), cosine=0.5)
    (tmp_path / "runs" / "early-2").mkdir()
    early = replace(early, state="finished")
    assert step(tmp_path, rows, runs=(early,), best=early) == "student-clap train --from early --run early-3"


def test_the_name_that_the_app_loads_is_given_to_deploy(tmp_path: Path) -> None:
    done = best(tmp_path, [0.5, 0.6])
    evaluate(student(tmp_path / "runs" / done.name / "student.onnx", epoch=2, cosine=0.6))
    path = Setting("CLAP_AUDIO_MODEL_PATH", "/app/model/ours.onnx", None)
    app = App(model_dir=tmp_path, path=path)
    assert step(tmp_path, Rows(featurized=9), runs=(done,), best=done, app=app).endswith(" --as ours.onnx")


@pytest.mark.usefixtures("time_enough")
def test_without_a_row_the_environment_decides(project: Path, database: Database) -> None:
    create_schema(database, "B")
    (project / "more.yaml").write_text(dump_yaml({"database": database.section()}), encoding="utf-8")
    shown = run("--config", project / "more.yaml").stdout
    assert "loads ? or /app/model/model_epoch_36.onnx (environment, else default)" in shown
    assert json.loads(run("--json", "--config", project / "more.yaml").stdout)["app"]["loads"] is None


def test_a_model_folder_that_may_not_be_entered(project: Path) -> None:
    """A name that is too long is refused as a folder without rights is, for every user."""
    done = run("--config", project / "config.yaml", "--set", f"audiomuse.model_dir={project / ('x' * 300)}")
    assert done.exit_code == 0
    assert re.search(r"AudioMuse-AI +not known: ", done.stdout)
    assert "File name too long" in done.stdout
