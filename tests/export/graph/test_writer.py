"""What export writes, read back with onnx and onnxruntime; and that it writes nothing it cannot vouch for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from student_clap.config.schema import ModelConfig
from student_clap.export.graph import parity
from student_clap.export.graph.folding import operator_counts
from student_clap.export.graph.parity import ParityError, real_segments
from student_clap.export.graph.writer import ExportError, write_student
from student_clap.export.model.contract import check_contract, failures
from student_clap.export.model.metadata import plain_metadata
from student_clap.featurize.onnx.input_spec import Shape
from student_clap.store import FeatureStore, Recipe
from student_clap.store.storage.errors import StoreError

from ..conftest import NARROW, Library, checkpoint_info, random_student

Array = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def segments(library: Library) -> Array:
    with FeatureStore.open(library.store) as store:
        return real_segments(store.features(library.recipe), [1, 3, 5])[0]


def test_the_file_is_the_drop_in(exported: Path) -> None:
    model = onnx.load(str(exported), load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert [i.name for i in model.graph.input] == ["mel_spectrogram"]
    assert [o.name for o in model.graph.output] == ["embedding"]
    shapes = [
        [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (model.graph.input[0], model.graph.output[0])
    ]
    assert shapes == [[1, 1, 128, 1001], [1, 512]]
    assert failures(check_contract(exported)) == []
    assert list(exported.parent.iterdir()) == [exported]


def test_it_answers_as_torch_does(exported: Path, segments: Array) -> None:
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    student = random_student()
    for mel in segments:
        with torch.inference_mode():
            expected = student(torch.from_numpy(mel[None, None])).numpy()
        found = session.run(None, {"mel_spectrogram": mel[None, None]})[0]
        assert found.shape == (1, 512)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_the_file_says_where_it_comes_from(exported: Path, library: Library) -> None:
    said = plain_metadata({p.key: p.value for p in onnx.load(str(exported)).metadata_props})
    assert Recipe.from_attributes(json.loads(said["recipe"])) == library.recipe
    assert said["recipe_fingerprint"] == library.recipe.fingerprint
    assert said["teacher_name"] == "a-teacher"
    assert said["epoch"] == "7"
    assert said["validation_cosine"] == "0.625000"
    assert said["architecture"] == "tinyclap"
    assert said["validation_metrics"] == ""  # no run beside it
    assert said["run_name"] == "tinyclap-audiomuse"
    assert int(said["parameters"]) == sum(p.numel() for p in random_student().parameters())
    with FeatureStore.open(library.store) as store:
        assert said["store_uuid"] == store.uuid


def test_the_same_checkpoint_gives_the_same_bytes(
    exported: Path, segments: Array, library: Library, tmp_path: Path
) -> None:
    with FeatureStore.open(library.store) as store:
        info = checkpoint_info(store.uuid)
    again = write_student(random_student(), info, tmp_path / "again.onnx", segments, 3)
    assert again.path.read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("architecture", ["tinyclap", "hybrid-s"])
def test_full_size_students_are_folded_and_exact(architecture: Any, segments: Array, tmp_path: Path) -> None:
    model = ModelConfig(architecture=architecture)
    done = write_student(random_student(1, model), checkpoint_info(), tmp_path / "s.onnx", segments[:2], 2)
    assert done.parity.min_cosine > 0.9999
    assert done.parity.max_difference < 1e-4
    operators = operator_counts(onnx.load(str(done.path)))
    assert operators["Conv"] >= 3
    # Shapes are static, so no shape is left to compute.
    assert not {"Shape", "Gather", "Constant", "Identity", "Dropout", "BatchNormalization"} & set(operators)


class Wrong(torch.nn.Module):
    """A student whose answer in onnxruntime differs: it remembers that it was traced."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.inner = random_student()
        self.factor = factor

    def forward(self, mel_db: torch.Tensor) -> torch.Tensor:
        if torch.onnx.is_in_onnx_export():
            mel_db = mel_db * self.factor
        vectors: torch.Tensor = self.inner(mel_db)
        return vectors


def test_a_model_that_disagrees_is_not_published(segments: Array, tmp_path: Path) -> None:
    output = tmp_path / "student.onnx"
    output.write_bytes(b"the old one")
    with pytest.raises(ParityError, match=r"onnxruntime and torch disagree: cosine 0\.\d+ for .*at least 0\.9999"):
        write_student(Wrong(-0.5), checkpoint_info(), output, segments, 3)
    assert output.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["student.onnx"]


class Scaled(torch.nn.Module):
    """A student whose vectors are not of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = random_student()

    def forward(self, mel_db: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.inner(mel_db) * 2.0
        return vectors


def test_a_model_that_breaks_the_contract_is_not_published(segments: Array, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"unit-norm: length 2 "):
        write_student(Scaled(), checkpoint_info(), tmp_path / "student.onnx", segments, 3)
    assert list(tmp_path.iterdir()) == []


class LogOfLevel(torch.nn.Module):
    """A student that breaks down in digital silence."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = random_student()

    def forward(self, mel_db: torch.Tensor) -> torch.Tensor:
        level = (mel_db.mean(dim=(1, 2, 3)) + 100.0)[:, None]
        vectors: torch.Tensor = self.inner(mel_db) * torch.log(level) / torch.log(level)
        return vectors


def test_a_model_that_is_not_finite_in_silence_is_not_published(segments: Array, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="not finite for silence"):
        write_student(LogOfLevel(), checkpoint_info(), tmp_path / "student.onnx", segments, 3)
    assert list(tmp_path.iterdir()) == []


class Unknown(torch.nn.Module):
    """A student with an operation that ONNX does not have."""

    def forward(self, mel_db: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(mel_db)


def test_what_cannot_be_exported_is_one_error(segments: Array, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be exported to ONNX"):
        write_student(Unknown(), checkpoint_info(), tmp_path / "student.onnx", segments, 3)


def test_parity_prefers_held_out_tracks(library: Library) -> None:
    with FeatureStore.open(library.store) as store:
        features = store.features(library.recipe)
        segments, n_tracks = real_segments(features, [9, 11])
        assert n_tracks == 12
        np.testing.assert_array_equal(segments[0], features.segments(9)[0])
        last = features.segments(11)[-1]
    assert any(np.array_equal(segment, last) for segment in segments[:4])


def test_many_held_out_tracks_are_spread(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "TRACKS", 3)
    with FeatureStore.open(library.store) as store:
        features = store.features(library.recipe)
        segments, n_tracks = real_segments(features, list(range(10)))
        assert n_tracks == 3
        np.testing.assert_array_equal(segments[0], features.segments(0)[0])
        np.testing.assert_array_equal(segments[-1], features.segments(9)[-1])


def test_parity_needs_real_segments(tmp_path: Path, library: Library) -> None:
    with FeatureStore.create(tmp_path / "empty.zarr", "t") as store, pytest.raises(StoreError, match="real segments"):
        real_segments(store.features(library.recipe), [])


def test_weights_are_not_stored_twice(exported: Path) -> None:
    graph = onnx.load(str(exported)).graph
    total = sum(numpy_helper.to_array(i).nbytes for i in graph.initializer)
    own = 4 * sum(p.numel() for p in random_student(0, NARROW).parameters())
    assert total < 1.05 * own
    assert exported.stat().st_size < 1.1 * own


def test_shape_is_the_recipes(library: Library) -> None:
    assert Shape(library.recipe.n_mels, library.recipe.segment_frames).full == (1, 1, 128, 1001)
