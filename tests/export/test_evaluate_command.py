"""`student-clap evaluate`: by whose held-out tracks a file is judged, and what is kept when something else fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.export.bench.compare import BenchError
from student_clap.featurize.onnx.recipe import METADATA_PREFIX
from student_clap.store import FeatureStore
from student_clap.train.runs.reader import RunFolder

from .conftest import ARTISTS, HELD_OUT, Library

pytestmark = pytest.mark.slow  # a second and more each

OTHERS = tuple(artist for artist in ARTISTS if artist not in HELD_OUT)


def evaluate(library: Library, *more: object) -> Result:
    arguments = ["evaluate", *library.settings(), "--from-store", *map(str, more)]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def record_in(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return record


def judged(folder: Path) -> set[str]:
    return {track["artist"] for track in record_in(folder)["tracks"]}


def copy_of(model: Path, path: Path, run_name: str) -> Path:
    """`model` as a student of another run."""
    proto = onnx.load(str(model))
    said = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, said | {METADATA_PREFIX + "run_name": run_name})
    onnx.save(proto, str(path))
    return path


@pytest.fixture
def ready(copied_library: Library, exported: Path) -> Library:
    """A library whose run has its ONNX file."""
    copied_library.run.student_onnx.write_bytes(exported.read_bytes())
    return copied_library


@pytest.fixture
def other(ready: Library) -> RunFolder:
    """The run of another fold, with its ONNX file."""
    run = RunFolder(ready.runs_dir / "fold-1")
    run.path.mkdir()
    run.split.write_text(json.dumps({"validation_artists": list(OTHERS)}), encoding="utf-8")
    description = json.loads(ready.run.description.read_text(encoding="utf-8"))
    run.description.write_text(json.dumps(description | {"name": run.name}), encoding="utf-8")
    copy_of(ready.run.student_onnx, run.student_onnx, run.name)
    return run


def test_a_model_is_judged_by_the_tracks_of_its_own_run(ready: Library, other: RunFolder) -> None:
    done = evaluate(ready, "--model", other.student_onnx)
    assert done.exit_code == 0, done.output
    assert judged(other.evaluation) == set(OTHERS)
    assert not ready.run.evaluation.exists()
    assert record_in(other.evaluation)["heard"] == 0
    assert "never trained on" in other.report.read_text(encoding="utf-8")
    # Taken elsewhere it still has its name.
    moved, folder = ready.root / "moved.onnx", ready.root / "judged"
    other.student_onnx.rename(moved)
    assert evaluate(ready, "--model", moved, "--out", folder).exit_code == 0
    assert judged(folder) == set(OTHERS)

    refused = evaluate(ready, "--run", ready.run.name, "--model", moved)
    assert refused.exit_code == 1
    assert str(other.path) in refused.stderr
    assert f"--run names {ready.run.path}" in refused.stderr
    # As an older `export --checkpoint` wrote it.
    moved.rename(ready.run.student_onnx)
    refused = evaluate(ready)
    assert refused.exit_code == 1
    assert f"lies in the run {ready.run.path} and was trained in {other.path}" in refused.stderr
    assert not ready.run.evaluation.exists()
    assert evaluate(ready, "--run", other.name, "--model", ready.run.student_onnx).exit_code == 0


def test_a_model_whose_run_is_gone_is_judged_and_not_called_unheard(ready: Library) -> None:
    model = copy_of(ready.run.student_onnx, ready.root / "old.onnx", "gone")
    done = evaluate(ready, "--model", model, "--out", ready.root / "judged")
    assert done.exit_code == 0, done.output
    assert "was trained in a run gone that is not to be found" in done.stderr
    assert record_in(ready.root / "judged")["heard"] is None
    assert "never trained on" not in (ready.root / "judged" / "report.html").read_text(encoding="utf-8")


def test_tracks_that_the_run_trained_on_are_not_judged_under_a_new_name(ready: Library) -> None:
    rows = {"training_rows": [0, 2, 4, 6], "validation_rows": [1, 3, 5, 7, 9, 11], "test_rows": []}
    np.savez(ready.run.tracks, **{name: np.array(values, np.int64) for name, values in rows.items()})
    with FeatureStore.open(ready.store, "r+") as store:
        store.update_tracks([0, 1], artist=[HELD_OUT[0], ARTISTS[0]])
    parent = json.loads(ready.run.description.read_text(encoding="utf-8")) | {"parent": {"heard": 5}}
    ready.run.description.write_text(json.dumps(parent), encoding="utf-8")
    assert evaluate(ready).exit_code == 0
    record = record_in(ready.run.evaluation)
    assert [track["track_id"] for track in record["tracks"]] == [f"t{row:02d}" for row in (1, 3, 5, 7, 9, 11)]
    assert record["n_training_tracks"] == 6
    assert record["heard"] == 5


@pytest.mark.parametrize("fault", [BenchError("the process that measures it died"), KeyboardInterrupt()])
def test_the_judgement_stays_where_the_models_cannot_be_timed(
    fault: BaseException, ready: Library, other: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare_models(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr("student_clap.export.bench.compare.compare_models", compare_models)
    done = evaluate(ready, "--against", other.student_onnx)
    assert (done.exit_code == 0) == isinstance(fault, BenchError)
    record = record_in(ready.run.evaluation)
    assert record["speed"] is None
    assert record["against"]["model"]["run_name"] == other.name
    assert ready.run.report.exists()
    assert ("the two models were not timed: the process that measures it died" in done.stderr) == (done.exit_code == 0)
    assert f"was trained in the run {other.path}, and may know 6 of the 6 validation tracks" in done.stderr


def test_the_judgement_stays_where_a_segment_vector_is_damaged(ready: Library) -> None:
    with FeatureStore.open(ready.store, "r+") as store:
        unit = np.eye(8, 512, dtype=np.float16)
        counts = [len(store.features(ready.recipe).segments(row)) for row in range(12)]
        store.write_segment_teacher(list(range(12)), [unit[:count] for count in counts])
    np.savez(ready.root / "q.npz", name=np.array(["one", "two"]), vector=np.eye(2, 512, dtype=np.float32))
    queries = ("--queries", ready.root / "q.npz")
    assert evaluate(ready, *queries).exit_code == 0
    assert record_in(ready.run.evaluation)["text"]["every_second_segment"] is not None
    for shard in (ready.store / "segment_teacher" / "c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(b"\xff" * shard.stat().st_size)
    done = evaluate(ready, *queries)
    assert done.exit_code == 0, done.output
    assert "every_second_segment is left out: " in done.stderr
    text = record_in(ready.run.evaluation)["text"]
    assert text["every_second_segment"] is None
    assert text["n_queries"] == 2
