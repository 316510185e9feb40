"""Teachers of every kind against a plain reading of production: librosa's mel and one onnxruntime call per segment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from loopback.mel_teachers import Interface, write_mel_teacher
from student_clap.config.schema import AudioConfig
from student_clap.featurize.onnx.session import OnnxSession
from student_clap.featurize.teacher.model import NoVectorError, Teacher, TeacherError
from student_clap.store import Recipe
from student_clap.store.layout.segments import grid_starts, segment_starts

RATE, SEGMENT, HOP = 48_000, 480_000, 240_000
CORPUS_TEACHER = Path(__file__).resolve().parents[3] / "bench/corpus/teacher.onnx"
Samples = npt.NDArray[np.float32]


def music(duration_s: float, seed: int = 0) -> Samples:
    """Chirps over noise, that no two segments share; through 16 bits as decode leaves them."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(round(duration_s * RATE)) / RATE
    tone = np.sin(2 * np.pi * (200 + 40 * seconds) * seconds) * (0.3 + 0.2 * np.sin(3 * seconds))
    samples = tone + 0.05 * rng.standard_normal(len(seconds)) * (np.sin(seconds) > 0)
    return (np.trunc(np.clip(samples, -1, 1) * 32767) / 32767).astype(np.float32)


def as_production(path: Path, samples: Samples, interface: Interface, hop: int) -> tuple[Samples, Samples]:
    """(track vector, segment vectors) by AudioMuse-AI's own steps, in its order, with librosa."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    if len(samples) <= SEGMENT:
        segments = [np.pad(samples, (0, SEGMENT - len(samples)))]
    else:
        starts = list(range(0, len(samples) - SEGMENT + 1, HOP))
        segments = [samples[s : s + SEGMENT] for s in starts]
        if len(starts) * HOP < len(samples):
            segments.append(samples[-SEGMENT:])
    mel_of: dict[str, Any] = (
        {"n_mels": 64, "n_fft": 1024, "fmin": 50, "fmax": 14_000}
        if interface == "clap"
        else {"n_mels": 128, "n_fft": 2048, "fmin": 0, "fmax": 14_000}
    )
    vectors = []
    for segment in segments:
        power = librosa.feature.melspectrogram(
            y=segment, sr=RATE, hop_length=hop, win_length=mel_of["n_fft"], window="hann", center=True,
            pad_mode="reflect", power=2.0, **mel_of,
        )  # fmt: skip
        mel = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None).astype(np.float32)
        mel = (mel.T if interface == "clap" else mel)[None, None]
        vectors.append(session.run(None, {"mel_spectrogram": mel})[0])
    stacked = np.vstack(vectors)
    mean = stacked.mean(axis=0)
    return mean / (np.linalg.norm(mean) + 1e-9), stacked


@pytest.mark.parametrize("duration_s", [3.7, 15.0, 33.21])
@pytest.mark.parametrize(("interface", "hop"), [("clap", 480), ("clap", 320), ("dclap", 480)])
def test_a_mel_teacher_hears_what_production_gives_it(
    tmp_path: Path, interface: Interface, hop: int, duration_s: float
) -> None:
    path = write_mel_teacher(tmp_path / "teacher.onnx", interface)
    samples = music(duration_s)
    track, segments = Teacher(path, hop_samples=hop, threads=1).embed(samples)
    wanted_track, wanted_segments = as_production(path, samples, interface, hop)
    assert segments.shape == wanted_segments.shape
    assert track.dtype == segments.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(segments, axis=1), 1.0, atol=1e-6)
    assert (segments * wanted_segments).sum(axis=1).min() >= 0.99999
    assert track @ wanted_track >= 0.99999


def test_the_two_hops_give_different_vectors(tmp_path: Path) -> None:
    path = write_mel_teacher(tmp_path / "teacher.onnx", "clap")
    samples = music(12.0)
    at_480 = Teacher(path, threads=1)
    assert (at_480.hop_samples, at_480.other_hops()) == (480, [320])
    at_320 = at_480.with_hop(320)
    assert at_480.embed(samples)[0] @ at_320.embed(samples)[0] < 0.9999
    np.testing.assert_array_equal(at_320.embed(samples)[0], Teacher(path, hop_samples=320, threads=1).embed(samples)[0])
    assert at_480.digest != at_320.digest


def recorded_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what models are run on from now on."""
    shapes: list[tuple[int, ...]] = []
    run = OnnxSession.first_output

    def recording(session: OnnxSession, inputs: Any, **options: Any) -> Samples:
        shapes.extend(array.shape for array in inputs.values())
        return run(session, inputs, **options)

    monkeypatch.setattr(OnnxSession, "first_output", recording)
    return shapes


def test_a_repeated_tail_is_computed_once_and_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Teacher(write_mel_teacher(tmp_path / "teacher.onnx", "dclap"), threads=1)
    runs = recorded_runs(monkeypatch)
    track, segments = teacher.embed(music(15.0))
    assert runs == [(1, 1, 128, 1001)] * 2
    np.testing.assert_array_equal(segments[1], segments[2])
    mean = (segments[0] + 2 * segments[1]) / 3
    np.testing.assert_allclose(track, mean / np.linalg.norm(mean), atol=1e-6)


def test_a_free_batch_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Teacher(write_mel_teacher(tmp_path / "teacher.onnx", "clap"), threads=1, at_once=4)
    runs = recorded_runs(monkeypatch)
    teacher.embed(music(27.5))
    assert runs == [(4, 1, 1001, 64), (1, 1, 1001, 64)]


def test_a_core_hears_segment_by_segment_and_a_fixed_batch_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = Teacher(write_mel_teacher(tmp_path / "free.onnx", "clap"), threads=1)
    fixed = Teacher(write_mel_teacher(tmp_path / "fixed.onnx", "dclap"), threads=1, at_once=4)
    assert free.provider == "cpu"
    runs = recorded_runs(monkeypatch)
    free.embed(music(12.0))
    fixed.embed(music(12.0))
    assert runs == [(1, 1, 1001, 64)] * 2 + [(1, 1, 128, 1001)] * 2


@pytest.mark.parametrize("duration_s", [3.7, 15.0, 33.21])
@pytest.mark.parametrize("interface", ["clap", "dclap"])
def test_a_finer_grid_hears_more_segments_and_gives_the_same_track(
    tmp_path: Path, interface: Interface, duration_s: float
) -> None:
    teacher = Teacher(write_mel_teacher(tmp_path / "teacher.onnx", interface), threads=1)
    samples = music(duration_s)
    track, coarse = teacher.embed(samples)
    same_track, fine = teacher.embed(samples, grid_samples=120_000)
    np.testing.assert_allclose(track, same_track, atol=1e-6)
    starts = grid_starts(len(samples), teacher.recipe, 120_000)
    assert len(fine) == len(starts)
    # Each is what production makes of these ten seconds alone.
    padded = np.pad(samples, (0, max(0, SEGMENT - len(samples))))
    alone = np.stack([teacher.embed(padded[at : at + SEGMENT])[1][0] for at in starts])
    np.testing.assert_allclose(fine, alone, atol=1e-5)
    own = np.searchsorted(starts, segment_starts(len(samples), teacher.recipe))
    np.testing.assert_allclose(fine[own], coarse, atol=1e-6)


def test_a_grid_that_leaves_production_out_is_refused(tmp_path: Path) -> None:
    at_480 = Teacher(write_mel_teacher(tmp_path / "teacher.onnx", "clap"), threads=1)
    for grid in (240_000, 120_000, 480):
        at_480.check_grid(grid)
    for grid in (0, 480_000, 100_000, 160_000, 240):
        with pytest.raises(TeacherError, match=rf"teacher\.hop_s {grid / RATE:g}: .* one of 5, 2\.5, 1\.25, 1, "):
            at_480.check_grid(grid)
    with pytest.raises(TeacherError, match=r"expected one of 5, 2\.5, 1, "):
        at_480.with_hop(320).check_grid(60_000)
    Teacher(CORPUS_TEACHER, threads=1).check_grid(60_000)


def test_a_provider_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path: Path) -> None:
    path = write_mel_teacher(tmp_path / "teacher.onnx", "clap")
    assert Teacher(path, threads=1, provider="cpu").provider == "cpu"
    with pytest.raises(TeacherError, match=r"teacher\.provider npu: the onnxruntime of this machine offers .*cpu"):
        Teacher(path, threads=1, provider="npu")


def test_a_fixed_number_of_frames_names_the_hop(tmp_path: Path) -> None:
    path = write_mel_teacher(tmp_path / "teacher.onnx", "clap", frames=1501)
    with pytest.raises(TeacherError, match=r"takes 1501 frames of a segment; a hop of 480 samples gives 1001"):
        Teacher(path)
    teacher = Teacher(path, hop_samples=320, threads=1)
    assert teacher.other_hops() == []
    assert teacher.embed(music(4.0))[0] @ as_production(path, music(4.0), "clap", 320)[0] >= 0.99999


def test_a_hop_that_cuts_no_segment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"hop_length_stft 441 does not divide 5 s; expected 480 or 320"):
        Teacher(write_mel_teacher(tmp_path / "teacher.onnx", "clap"), hop_samples=441)


def test_a_students_own_file_says_which_mel_it_hears(tmp_path: Path) -> None:
    recipe = Recipe.from_config(AudioConfig(preset="original"))
    written = {"student_clap.recipe": json.dumps(recipe.as_attributes())}
    said = Teacher(write_mel_teacher(tmp_path / "said.onnx", "dclap", metadata=written), threads=1)
    unsaid = Teacher(write_mel_teacher(tmp_path / "unsaid.onnx", "dclap"), threads=1)
    assert (said.recipe.n_fft, unsaid.recipe.n_fft) == (1024, 2048)
    assert said.recipe == recipe
    assert said.embed(music(3.0))[0] @ unsaid.embed(music(3.0))[0] < 0.9999
    with pytest.raises(TeacherError, match=r"its metadata student_clap\.recipe cannot be read"):
        Teacher(write_mel_teacher(tmp_path / "odd.onnx", "dclap", metadata={"student_clap.recipe": '{"odd": 1}'}))


def test_weights_beside_the_file_are_found_and_count(tmp_path: Path) -> None:
    whole = Teacher(write_mel_teacher(tmp_path / "whole.onnx", "dclap"), threads=1)
    split = Teacher(write_mel_teacher(tmp_path / "split.onnx", "dclap", external=True), threads=1)
    assert (tmp_path / "split.onnx.data").stat().st_size > 100_000
    np.testing.assert_allclose(split.embed(music(3.0))[0], whole.embed(music(3.0))[0], atol=1e-6)
    digest = split.digest
    other = write_mel_teacher(tmp_path / "other/split.onnx", "dclap", external=True, seed=1)
    (tmp_path / "split.onnx.data").write_bytes(Path(f"{other}.data").read_bytes())
    changed = Teacher(tmp_path / "split.onnx", threads=1)
    assert len(digest) == 8
    assert changed.digest != digest
    (tmp_path / "split.onnx.data").unlink()
    with pytest.raises(TeacherError, match=r"split\.onnx cannot be loaded by onnxruntime: .*split\.onnx\.data"):
        Teacher(tmp_path / "split.onnx")


def model_of(path: Path, inputs: list[Any], output: Any, op: str = "Identity") -> Path:
    """A graph with these ends that does nothing sensible."""
    node = helper.make_node(op, [i.name for i in inputs][:1], [output.name])
    graph = helper.make_graph([node], "g", inputs, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def end(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize(
    ("inputs", "output", "found"),
    [
        ([end("mel", ["b", 1, "t", 64])], end("out", ["b", 512]), r"mel FLOAT \[b, 1, t, 64\]"),
        ([end("mel_spectrogram", ["b", 1, "t", 80])], end("out", ["b", 512]), r"\[b, 1, t, 80\]"),
        ([end("mel_spectrogram", [8, 1, "t", 64])], end("out", [8, 512]), r"\[8, 1, t, 64\]"),
        ([end("waveform", ["b", 160_000])], end("out", ["b", 512]), r"waveform FLOAT \[b, 160000\]"),
        ([end("waveform", ["b", SEGMENT])], end("out", ["b", SEGMENT]), r"gives out FLOAT \[b, 480000\]"),
        ([end("waveform", ["b", SEGMENT], TensorProto.DOUBLE)], end("out", ["b", 512], TensorProto.DOUBLE), "DOUBLE"),
        ([end("waveform", ["b", SEGMENT]), end("x", [1])], end("out", ["b", 512]), r", x FLOAT \[1\]"),
    ],
)
def test_a_model_with_other_ends_is_refused(tmp_path: Path, inputs: list[Any], output: Any, found: str) -> None:
    path = model_of(tmp_path / "other.onnx", inputs, output)
    with pytest.raises(TeacherError, match=found) as caught:
        Teacher(path)
    assert "other.onnx" in caught.value.message
    assert "expected one float input, waveform [batch, 480000] or mel_spectrogram" in caught.value.message


def test_a_model_that_answers_nothing_is_told(tmp_path: Path) -> None:
    path = write_mel_teacher(tmp_path / "zero.onnx", "clap")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "second":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros((64, 512), np.float32), "second"))
    onnx.save(model, path)
    with pytest.raises(NoVectorError, match="answers zeros, NaN or infinity"):
        Teacher(path, threads=1).embed(music(2.0))


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(TeacherError, match=r"text\.onnx cannot be loaded by onnxruntime"):
        Teacher(tmp_path / "text.onnx")
    with pytest.raises(TeacherError, match=r"absent\.onnx: no such file"):
        Teacher(tmp_path / "absent.onnx")


@pytest.mark.slow
def test_the_corpus_teacher_hears_waveforms() -> None:
    teacher = Teacher(CORPUS_TEACHER, threads=1)
    assert (teacher.hop_samples, teacher.other_hops(), len(teacher.digest)) == (None, [], 8)
    session = onnxruntime.InferenceSession(str(CORPUS_TEACHER), providers=["CPUExecutionProvider"])
    samples = music(10.5)
    wanted = session.run(None, {"waveform": np.stack([samples[:SEGMENT], samples[-SEGMENT:]])})[0]
    track, segments = teacher.embed(samples)
    np.testing.assert_allclose(segments, wanted, atol=1e-5)
    assert track @ wanted.mean(axis=0) / np.linalg.norm(wanted.mean(axis=0)) >= 0.99999
