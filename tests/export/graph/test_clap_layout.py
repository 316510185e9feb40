"""`export --layout clap`: a 64-band student behind the teacher's own input, through check, embed and deploy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig
from student_clap.export.graph import writer as onnx_writer
from student_clap.export.graph.parity import real_segments
from student_clap.export.graph.writer import ExportError, check_clap_recipe, write_student
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.input_spec import input_spec_of
from student_clap.store import FeatureStore, Recipe
from student_clap.train.runs.checkpoint import CheckpointInfo, write_checkpoint
from student_clap.train.students.registry import build_student

from ..conftest import NARROW, Library, checkpoint_info, random_student
from ..models import transposed_vector

pytestmark = pytest.mark.slow

CLAP = Recipe.from_config(AudioConfig(preset="clap"))
SETTINGS = {
    "CLAP_AUDIO_N_MELS": "64",
    "CLAP_AUDIO_N_FFT": "1024",
    "CLAP_AUDIO_FMIN": "50",
    "CLAP_AUDIO_MEL_TRANSPOSE": "true",
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def clap_library(copied_library: Library) -> Library:
    """The library with 64-band features of three tracks and a student that was trained on them."""
    log_mel = LogMel(CLAP)
    with FeatureStore.open(copied_library.store, "r+") as store:
        features, lengths = store.features(CLAP), []
        for row in range(3):
            samples = decode(copied_library.cache_dir / f"t{row:02d}.flac", CLAP.max_samples)
            features.write_strip(row, log_mel.codes(samples), len(samples))
            lengths.append(len(samples))
        features.commit([0, 1, 2], lengths, [""] * 3)
        info = CheckpointInfo(7, NARROW, CLAP, "a-teacher", store.uuid, "tinyclap-audiomuse", 0.5)
    write_checkpoint(copied_library.run.best, info, build_student(NARROW, CLAP.n_mels).eval())
    return copied_library


def test_a_64_band_student_takes_the_teachers_input(clap_library: Library, tmp_path: Path) -> None:
    settings = clap_library.settings()
    done = run("export", "--layout", "clap", *settings)
    assert done.exit_code == 0, done.output
    path = clap_library.run.path / "student-clap.onnx"
    assert f"export: wrote {path}: " in done.stdout
    assert run("export", *settings).exit_code == 0

    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["mel_spectrogram"]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 1, 1001, 64]
    assert [o.name for o in model.graph.output] == ["audio_embedding"]
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (8, [("", 17)])

    mel = np.random.default_rng(0).uniform(-90, 20, (1, 1, 64, 1001)).astype(np.float32)
    vectors = [
        onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(
            None, {"mel_spectrogram": given}
        )[0]
        for file, given in ((clap_library.run.student_onnx, mel), (path, mel.transpose(0, 1, 3, 2).copy()))
    ]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-6)

    audio = clap_library.cache_dir / "t00.flac"
    checked = run("check", path, "--audio", audio, "--reference", clap_library.run.best)
    assert checked.exit_code == 0, checked.output
    assert "app-mel" in checked.stdout
    assert " ".join(f"{k}={v}" for k, v in SETTINGS.items()) in checked.stdout
    assert "cosine 1.00000" in checked.stdout or "cosine 0.99999" in checked.stdout

    assert run("embed", audio, "--model", path, "--out", tmp_path / "v.npz").exit_code == 0
    with np.load(tmp_path / "v.npz") as file:
        assert float(file["vector"][0] @ transposed_vector(audio, path)) >= 0.9999

    figures = []
    for model in (clap_library.run.student_onnx, path):
        preset = ("--set", "audio.preset=clap", "--run", clap_library.run.path.name)
        judged = run("evaluate", *settings, *preset, "--model", model, "--output", tmp_path / model.stem)
        assert judged.exit_code == 0, judged.output
        figures.append(json.loads((tmp_path / model.stem / "metrics.json").read_text(encoding="utf-8"))["student"])
    assert figures[1]["cosine"] == pytest.approx(figures[0]["cosine"], abs=1e-5)

    (tmp_path / "app").mkdir()
    deployed = run("deploy", "--anyway", path, "--to", tmp_path / "app")
    assert deployed.exit_code == 0, deployed.output
    lines = [line.strip() for line in deployed.stdout.splitlines() if line.startswith("  ")]
    assert lines[: len(SETTINGS)] == [f"{key}={value}" for key, value in SETTINGS.items()]


def test_a_student_of_other_bands_is_refused_with_the_reason(library: Library) -> None:
    before = sorted(library.run.path.iterdir())
    done = run("export", "--layout", "clap", *library.settings())
    assert done.exit_code == 1
    assert "[1, 1, 1001, 64]" in done.stderr
    assert "trained on 128 bands (recipe 'audiomuse')" in done.stderr
    assert "audio.preset clap" in done.stderr
    assert sorted(library.run.path.iterdir()) == before
    check_clap_recipe(CLAP)


def test_a_transposition_that_changes_the_answer_is_not_published(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FeatureStore.open(library.store) as store:
        segments, _ = real_segments(store.features(library.recipe), [1])

    real = onnx_writer.transpose_input

    def wrong(model: onnx.ModelProto, shape: onnx_writer.Shape) -> onnx.ModelProto:
        turned = real(model, shape)
        turned.graph.node[0].op_type = "Reshape"  # the right shape, the wrong values
        del turned.graph.node[0].attribute[:]
        turned.graph.node[0].input.append("by_mel")
        turned.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 128, 1001]), "by_mel"))
        return turned

    monkeypatch.setattr(onnx_writer, "transpose_input", wrong)
    with pytest.raises(ExportError, match="with its input transposed the student answers otherwise"):
        write_student(random_student(), checkpoint_info(), tmp_path / "s.onnx", segments[:2], 1, transposed=True)
    assert list(tmp_path.iterdir()) == []


def test_a_recipes_file_is_transposed_only_where_its_shape_says_so(exported: Path) -> None:
    assert not input_spec_of(exported, CLAP).shape.transposed
