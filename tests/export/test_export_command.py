"""`student-clap export`: whose folder a checkpoint's file goes to, and which figures it carries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.export.app.model_verdict import UnprovenModelError, check_worth
from student_clap.export.evaluate.record import find_evaluation
from student_clap.export.model.metadata import plain_metadata
from student_clap.train.runs.checkpoint import Progress, write_checkpoint
from student_clap.train.runs.reader import RunFolder

from .conftest import Library, checkpoint_info, random_student

pytestmark = pytest.mark.slow  # a second and more each


def export(library: Library, *more: object) -> Result:
    return CliRunner().invoke(main, ["export", *library.settings(), *map(str, more)], catch_exceptions=False)


def said_of(model: Path) -> dict[str, str]:
    return plain_metadata({entry.key: entry.value for entry in onnx.load(str(model)).metadata_props})


def uuid_of(library: Library) -> str:
    return str(json.loads(library.run.description.read_text(encoding="utf-8"))["store"]["uuid"])


@pytest.fixture
def other(copied_library: Library) -> RunFolder:
    """Another run, with a kept checkpoint."""
    run, uuid = RunFolder(copied_library.runs_dir / "other"), uuid_of(copied_library)
    run.path.mkdir()
    run.split.write_text(json.dumps({"validation_artists": ["Ada"]}), encoding="utf-8")
    run.description.write_text(json.dumps({"name": run.name, "store": {"uuid": uuid}}), encoding="utf-8")
    run.kept(7).parent.mkdir()
    write_checkpoint(run.kept(7), replace(checkpoint_info(uuid), run_name=run.name), random_student())
    return run


def test_a_checkpoint_s_file_goes_to_its_own_run(copied_library: Library, other: RunFolder) -> None:
    checkpoint, own = other.kept(7), copied_library.run
    done = export(copied_library, "--checkpoint", checkpoint)
    assert done.exit_code == 0, done.output
    assert said_of(other.student_onnx)["run_name"] == other.name
    assert not own.student_onnx.exists()

    refused = export(copied_library, "--run", own.name, "--checkpoint", checkpoint)
    assert refused.exit_code == 1
    assert f"{checkpoint} is of the run {other.path}, and --run names {own.path}" in refused.stderr
    # One that was taken elsewhere is known by its name; when its run is gone, nobody's file is written over.
    moved = copied_library.root / "moved.pt"
    checkpoint.rename(moved)
    other.student_onnx.unlink()
    assert export(copied_library, "--checkpoint", moved).exit_code == 0
    assert other.student_onnx.exists()
    other.path.rename(copied_library.root / "gone")
    for named in ((), ("--run", own.name)):
        refused = export(copied_library, *named, "--checkpoint", moved)
        assert refused.exit_code == 1
        assert "was trained in the run other, which is not to be found; name the file" in refused.stderr
    assert not own.student_onnx.exists()
    assert export(copied_library, "--checkpoint", moved, "--out", copied_library.root / "m.onnx").exit_code == 0


def test_a_student_that_was_not_validated_carries_no_figures(copied_library: Library) -> None:
    run, student = copied_library.run, random_student()
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    baselines = {"mean_vector_cosine": 0.1, "shuffled_cosine": 0.1, "shuffled_centred": 0.0, "centred": 0.8}
    lines[6] |= {f"val_{name}": value for name, value in baselines.items()}
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for position, verdict in ((0, "yes"), (5, "")):
        progress = Progress(epoch=7, position=position)
        write_checkpoint(run.last, checkpoint_info(uuid_of(copied_library)), student, optimizer, progress)
        done = export(copied_library, "--checkpoint", run.last)
        assert done.exit_code == 0, done.output
        said = said_of(run.student_onnx)
        assert said["beats_baselines"] == verdict
        assert bool(said["validation_metrics"]) == bool(said["validation_cosine"]) == (position == 0)
        assert ("was saved within epoch 8: the file has no validation figures" in done.stderr) == (position > 0)
    with pytest.raises(UnprovenModelError, match="was not evaluated"):
        check_worth(run.student_onnx, find_evaluation(run.student_onnx), anyway=False)
