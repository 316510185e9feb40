"""`export --waveform`: the mel in the graph against librosa, and one file from samples to the vector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import soundfile
from click.testing import CliRunner, Result

from loopback.production import production_mel
from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig
from student_clap.export.graph import mel_graph as mel_graph_module
from student_clap.export.graph import waveform as waveform_module
from student_clap.export.graph.mel_graph import Factors, mel_graph
from student_clap.export.graph.waveform import real_pieces, synthetic_signals, write_waveform_student
from student_clap.export.graph.writer import Built, ExportError, build_student
from student_clap.store import FeatureStore, Recipe

from ..conftest import RATE, Library, checkpoint_info, random_student, tune
from ..test_production_path import production_vector

pytestmark = pytest.mark.slow

Array = npt.NDArray[np.float32]
SHORT = {"segment_length": 48_000, "hop_length": 24_000}  # of one second, for what does not depend on it


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def recipe_of(**audio: Any) -> Recipe:
    return Recipe.from_config(AudioConfig.model_validate(audio))


def in_graph(recipe: Recipe, samples: Array) -> Array:
    """[sample] -> [mel, frame] by onnxruntime."""
    session = onnxruntime.InferenceSession(mel_graph(recipe).SerializeToString(), providers=["CPUExecutionProvider"])
    mel: Array = session.run(None, {"waveform": samples[None]})[0]
    assert mel.shape == (1, 1, recipe.n_mels, recipe.segment_frames)
    return mel[0, 0]


def by_librosa(recipe: Recipe, samples: Array) -> Array:
    """Production's steps from 48 kHz samples on."""
    samples = (np.clip(samples, -1, 1) * 32767.0).astype(np.int16).astype(np.float32) / 32767.0
    samples = np.pad(samples, (0, recipe.segment_samples - len(samples)))
    return production_mel(samples, recipe)


def music(duration_s: float, seed: int = 3) -> Array:
    """[sample] at 48 kHz, mono, not yet cut to 16 bits."""
    return np.asarray(tune(seed, duration_s * 48_000 / RATE).mean(axis=1)[: int(duration_s * 48_000)])


@pytest.mark.parametrize("preset", ["audiomuse", "original", "clap"])
@pytest.mark.parametrize("duration_s", [10.0, 3.3])
def test_the_graphs_mel_is_librosas(preset: str, duration_s: float) -> None:
    recipe, samples = recipe_of(preset=preset), music(duration_s)
    expected, found = by_librosa(recipe, samples), in_graph(recipe, samples)
    assert found.dtype == np.float32
    # What is far below a frame's peak is single precision's own noise.
    near = expected >= expected.max(axis=0) - 80
    assert np.abs(found - expected)[near].max() < 2e-3
    assert np.abs(found - expected).max() < 0.5
    assert expected.max() - expected.min() > 40  # a mel of music, not of silence


@pytest.mark.parametrize(
    ("n_fft", "hop", "q"),
    [(2048, 480, 32), (1024, 320, 32), (1200, 480, 30), (512, 375, 1), (4096, 480, 32)],
    ids=["2048x480", "1024x320", "1200x480", "nothing in common", "4096x480"],
)
def test_any_transform_is_factored_or_plain(n_fft: int, hop: int, q: int) -> None:
    recipe = recipe_of(preset="clap", n_mels=20, n_fft=n_fft, hop_length_stft=hop, **SHORT)
    samples = music(1.0)
    np.testing.assert_allclose(in_graph(recipe, samples), by_librosa(recipe, samples), atol=5e-3)
    (convolution,) = [node for node in mel_graph(recipe).graph.node if node.op_type == "Conv"]
    assert next(a.i for a in convolution.attribute if a.name == "group") == q


def test_the_split_is_exact_and_makes_every_wanted_bin_once() -> None:
    for n_fft, hop, wanted in ((2048, 480, np.arange(598)), (96, 36, np.arange(49)), (30, 12, np.array([0, 7, 15]))):
        split = Factors.best(n_fft, hop, wanted)
        assert split.p * split.q == n_fft
        assert hop % split.q == 0
        assert set(wanted) <= set(split.bins.ravel())
    assert Factors.best(2048, 480, np.arange(598)).multiplications < 2 * 2048 * 598 / 8


def test_silence_is_exactly_the_floor_and_steps_are_16_bits() -> None:
    recipe = recipe_of(**SHORT)
    assert np.unique(in_graph(recipe, np.zeros(48_000, np.float32))).tolist() == [-100.0]
    # Below the smallest step production hears nothing; a mel without its steps hears -90 dB noise.
    assert np.unique(in_graph(recipe, music(1.0) * np.float32(1e-6))).tolist() == [-100.0]
    loud = music(1.0) * np.float32(50)
    np.testing.assert_array_equal(in_graph(recipe, loud), in_graph(recipe, np.clip(loud, -1, 1)))


def test_samples_that_were_cut_to_16_bits_before_stay_as_they_are() -> None:
    steps = np.arange(-32767, 32768).astype(np.float32)
    again = np.trunc(steps / np.float32(32767) * np.float32(32767))
    np.testing.assert_array_equal(again, steps)


def test_more_than_a_segment_is_an_error() -> None:
    recipe = recipe_of(**SHORT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        mel_graph(recipe).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    with pytest.raises(Exception, match="ConstantOfShape"):
        session.run(None, {"waveform": np.zeros((1, 48_001), np.float32)})


@pytest.fixture(scope="module")
def built(library: Library) -> Built:
    with FeatureStore.open(library.store) as store:
        segments = store.features(library.recipe).segments(1)
    return build_student(random_student(), checkpoint_info(), segments, 1)


def test_export_waveform_gives_productions_vector(copied_library: Library, exported: Path) -> None:
    done = run("export", "--waveform", *copied_library.settings())
    assert done.exit_code == 0, done.output
    path = copied_library.run.path / "student-waveform.onnx"
    assert f"export: wrote {path}: " in done.stdout
    assert "for clients without a mel and not for AudioMuse-AI" in done.stdout
    assert "over 11 signals, 4 of them music" in done.stdout
    assert not copied_library.run.student_onnx.exists()

    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert {node.domain for node in model.graph.node} == {""}
    dims = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.output)
    ]
    assert dims == [["batch", "samples"], ["batch", 512]]
    said = {p.key: p.value for p in model.metadata_props}
    assert said["student_clap.hears"] == "waveform"
    assert said["student_clap.recipe_fingerprint"] == copied_library.recipe.fingerprint

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    audio = copied_library.cache_dir / "t00.flac"  # seven seconds: one segment
    native, rate = soundfile.read(audio, dtype="float32", always_2d=True)
    samples = librosa.resample(librosa.to_mono(native.T), orig_sr=rate, target_sr=48_000, res_type="soxr_hq")
    (vector,) = session.run(None, {"waveform": samples[None]})[0]
    assert float(vector @ production_vector(audio, exported)) >= 0.99999
    # Several at once, each as it is alone.
    batch = np.stack([music(4.0, seed) for seed in (1, 2, 3)])
    together = session.run(None, {"waveform": batch})[0]
    alone = np.concatenate([session.run(None, {"waveform": row[None]})[0] for row in batch])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_check_embed_and_deploy_know_a_waveform_student(
    built: Built, exported: Path, library: Library, tmp_path: Path
) -> None:
    path = write_waveform_student(built, library.recipe, tmp_path / "student-waveform.onnx").path
    audio = library.cache_dir / "t02.flac"
    checked = run("check", path, "--audio", audio, "--reference", exported)
    assert checked.exit_code == 1
    failed = [line.split()[1] for line in checked.stdout.splitlines() if line.startswith("FAIL")]
    assert failed == ["input-name", "input-type", "static-batch", "app-mel"]
    assert "made with --waveform" in checked.stdout
    assert "cosine 1.000000" in checked.stdout or "cosine 0.99999" in checked.stdout

    out = tmp_path / "v.npz"
    assert run("embed", audio, "--model", path, "--out", out).exit_code == 0
    with np.load(out) as file:
        assert float(file["vector"][0] @ production_vector(audio, exported)) >= 0.9999

    unjudged = run("evaluate", *library.settings(), "--model", path, "--output", tmp_path / "judged")
    assert unjudged.exit_code == 1
    assert "evaluate the drop-in" in unjudged.output

    (tmp_path / "app").mkdir()
    refused = run("deploy", path, "--to", tmp_path / "app")
    assert refused.exit_code == 1
    assert list((tmp_path / "app").iterdir()) == []


def test_a_mel_that_is_off_is_not_published(
    built: Built, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mel_graph_module, "INT16_STEPS", 32768.0)
    monkeypatch.setattr(mel_graph_module, "DB_PER_LOG", np.float32(4.35))
    output = tmp_path / "w.onnx"
    output.write_bytes(b"the old one")
    with pytest.raises(ExportError, match=r"the mel in the graph is 0\.\d+ dB off for signal 0 .*nothing was written"):
        write_waveform_student(built, library.recipe, output)
    assert output.read_bytes() == b"the old one"


def test_another_vector_is_not_published(
    built: Built, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build_student(random_student(5), checkpoint_info(), np.full((1, 128, 1001), -40, np.float32), 1)
    real_join = waveform_module.join
    monkeypatch.setattr(
        waveform_module, "join", lambda mel, _: real_join(mel, waveform_module.open_batch_axis(other.model))
    )
    with pytest.raises(ExportError, match="from samples the student answers otherwise: cosine"):
        write_waveform_student(built, library.recipe, tmp_path / "w.onnx")
    assert list(tmp_path.iterdir()) == []


def test_signals_to_try_with(library: Library) -> None:
    recipe = library.recipe
    lengths = {len(signal) for signal in synthetic_signals(recipe)}
    assert recipe.segment_samples in lengths
    assert min(lengths) == 1
    with FeatureStore.open(library.store) as store:
        pieces = real_pieces(store, [1, 3], library.cache_dir, recipe)
        assert [len(piece) for piece in pieces] == pytest.approx([480_000, 336_000, 336_000, 480_000], abs=1)
        assert real_pieces(store, [1], library.root / "absent", recipe) == []


class Counted(list[int]):
    """Rows that count how often they are gone through."""

    times = 0

    def __iter__(self) -> Iterator[int]:
        self.times += 1
        return super().__iter__()


def test_preferred_rows_are_heard_first_and_gone_through_once(library: Library) -> None:
    preferred = Counted([4, 2, 4])
    with FeatureStore.open(library.store) as store:
        pieces = real_pieces(store, preferred, library.cache_dir, library.recipe)
        others = real_pieces(store, [0, 1], library.cache_dir, library.recipe)
    assert preferred.times == 1
    # Rows 4 and 2, then 0 and 1 of those that are left.
    assert [len(piece) for piece in pieces[2:]] == [len(piece) for piece in others[:2]]
    np.testing.assert_array_equal(pieces[2], others[0])
    np.testing.assert_array_equal(pieces[1], others[2])


def test_two_forms_at_once_are_refused(library: Library) -> None:
    done = run("export", "--waveform", "--layout", "clap", *library.settings())
    assert done.exit_code == 2
    assert "--waveform and --layout clap are two different files" in done.stderr


def test_a_recipe_of_other_segments(library: Library) -> None:
    recipe = replace(library.recipe, segment_samples=240_000, segment_hop_samples=120_000)
    samples = music(5.0)
    np.testing.assert_allclose(in_graph(recipe, samples), by_librosa(recipe, samples), atol=5e-3)
