"""`export --dynamic-batch`: the drop-in with its batch axis open, and that it is kept from AudioMuse-AI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.config.schema import ModelConfig
from student_clap.export.graph.batch_axis import compare_batches, open_batch_axis, write_batch_student
from student_clap.export.graph.parity import real_segments
from student_clap.export.graph.writer import ExportError, build_student, serialise
from student_clap.export.model.session import StudentSession
from student_clap.store import FeatureStore

from ..conftest import NARROW, Library, checkpoint_info, random_student

pytestmark = pytest.mark.slow

Array = npt.NDArray[np.float32]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def segments(library: Library) -> Array:
    with FeatureStore.open(library.store) as store:
        return real_segments(store.features(library.recipe), [1, 3, 5])[0]


@pytest.mark.parametrize("architecture", ["tinyclap", "hybrid-s"])
def test_any_number_of_rows_gives_what_the_drop_in_gives(architecture: Any, segments: Array, tmp_path: Path) -> None:
    model = NARROW if architecture == "tinyclap" else ModelConfig(architecture=architecture)
    built = build_student(random_student(2, model), checkpoint_info(), segments[:2], 2)
    done = write_batch_student(built, checkpoint_info().recipe, tmp_path / "student-batch.onnx", segments)
    assert done.max_difference <= 1e-5
    single = onnxruntime.InferenceSession(serialise(built.model), providers=["CPUExecutionProvider"])
    batch = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    for rows in (1, 3, 16):
        mels = segments[np.arange(rows) % len(segments), None]
        expected = np.concatenate([single.run(None, {"mel_spectrogram": mel[None]})[0] for mel in mels])
        found = batch.run(None, {"mel_spectrogram": mels})[0]
        assert found.shape == (rows, 512)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    # The same operators and weights: no shape arithmetic comes with the open axis.
    opened = onnx.load(str(done.path))
    onnx.checker.check_model(opened, full_check=True)
    assert [n.op_type for n in opened.graph.node] == [n.op_type for n in built.model.graph.node]
    dims = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in opened.graph.input]
    assert dims == [["batch", 1, 128, 1001]]
    assert opened.ir_version == 8
    assert [(o.domain, o.version) for o in opened.opset_import] == [("", 17)]


class TiedToOne(torch.nn.Module):
    """A student that subtracts the mean over the batch, which is nothing for one segment."""

    def __init__(self, change: float) -> None:
        super().__init__()
        self.inner = random_student()
        self.change = change

    def forward(self, mel_db: torch.Tensor) -> torch.Tensor:
        others = mel_db.sum(dim=0, keepdim=True) - mel_db
        vectors: torch.Tensor = self.inner(mel_db + self.change * others)
        return vectors


class Flattened(torch.nn.Module):
    """A student that takes what comes in for one long segment."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = random_student()

    def forward(self, mel_db: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.inner(mel_db).sum(dim=0, keepdim=True), dim=1)


@pytest.mark.parametrize(
    ("student", "message"), [(TiedToOne(0.1), "answers otherwise"), (Flattened(), r"gives \[1, 512\] for 3 segments")]
)
def test_a_student_whose_rows_meet_is_refused(
    student: torch.nn.Module, message: str, segments: Array, tmp_path: Path
) -> None:
    built = build_student(student, checkpoint_info(), segments[:2], 2)
    output = tmp_path / "student-batch.onnx"
    output.write_bytes(b"the old one")
    with pytest.raises(ExportError, match=message):
        write_batch_student(built, checkpoint_info().recipe, output, segments)
    assert output.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [output]


def test_a_graph_that_cannot_run_with_more_rows_is_refused(segments: Array) -> None:
    built = build_student(random_student(), checkpoint_info(), segments[:2], 2)
    opened = open_batch_axis(built.model)
    # Reshapes as the drop-in has them: for one segment.
    for node, before in zip(opened.graph.node, built.model.graph.node, strict=True):
        node.input[:] = before.input
    del opened.graph.initializer[:]
    opened.graph.initializer.extend(built.model.graph.initializer)
    with pytest.raises(ExportError, match="cannot be run, so nothing was written"):
        compare_batches(StudentSession(serialise(built.model)), serialise(opened), segments)


def test_export_check_and_deploy(copied_library: Library, tmp_path: Path) -> None:
    done = run("export", "--dynamic-batch", *copied_library.settings())
    assert done.exit_code == 0, done.output
    path = copied_library.run.path / "student-batch.onnx"
    assert f"export: wrote {path}: " in done.stdout
    assert "for batch users and not for AudioMuse-AI" in done.stdout
    assert not copied_library.run.student_onnx.exists()
    first = path.read_bytes()
    assert run("export", "--dynamic-batch", *copied_library.settings()).exit_code == 0
    assert path.read_bytes() == first

    checked = run("check", path)
    assert checked.exit_code == 1
    (line,) = [line for line in checked.stdout.splitlines() if line.startswith("FAIL")]
    assert line.split()[1] == "static-batch"
    assert "axis 'batch' is symbolic" in line
    assert "made with --dynamic-batch" in line

    models = tmp_path / "model"
    models.mkdir()
    (models / "model_epoch_36.onnx").write_bytes(b"the app's")
    refused = run("deploy", path, "--to", models)
    assert refused.exit_code == 1
    assert "made with --dynamic-batch" in refused.stderr
    assert [(p.name, p.read_bytes()) for p in models.iterdir()] == [("model_epoch_36.onnx", b"the app's")]


def test_two_forms_at_once_are_refused(copied_library: Library) -> None:
    done = run("export", "--dynamic-batch", "--quantize", "int8", *copied_library.settings())
    assert done.exit_code == 2
    assert "two different files" in done.stderr
