"""File to vector, against an implementation of production's steps that shares nothing with ours but the model file."""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import soundfile

from student_clap.export.model.embedding import NoAudioError, read_audio
from student_clap.featurize.onnx.segments import decibel_segments

from .conftest import RATE, Library, embedder_of, file_vector, tune


def production_vector(path: Path, model: Path) -> npt.NDArray[np.float32]:
    """librosa and onnxruntime alone, one segment at a time."""
    # [sample, channel] -> [sample]; librosa.load without its probe of decoders that Python no longer has
    native, rate = soundfile.read(path, dtype="float32", always_2d=True)
    samples = librosa.resample(librosa.to_mono(native.T), orig_sr=rate, target_sr=48_000, res_type="soxr_hq")[
        :28_800_000
    ]
    samples = np.clip(samples, -1.0, 1.0)
    samples = (samples * 32767.0).astype(np.int16).astype(np.float32) / 32767.0
    pieces = []
    if len(samples) <= 480_000:
        pieces.append(np.pad(samples, (0, 480_000 - len(samples))))
    else:
        start = 0
        while start + 480_000 <= len(samples):
            pieces.append(samples[start : start + 480_000])
            start += 240_000
        if start < len(samples):
            pieces.append(samples[-480_000:])
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    vectors = []
    for piece in pieces:
        power = librosa.feature.melspectrogram(
            y=piece, sr=48_000, n_fft=2048, hop_length=480, n_mels=128, fmin=0, fmax=14_000, pad_mode="reflect"
        )
        mel = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None).astype(np.float32)
        vectors.append(session.run(None, {"mel_spectrogram": mel[None, None]})[0])
    mean = np.mean(np.vstack(vectors), axis=0)
    return np.asarray(mean / (np.linalg.norm(mean) + 1e-9))


@pytest.mark.parametrize("duration_s", [7.0, 12.5, 15.0, 23.3])
def test_equals_plain_librosa_and_onnxruntime(
    duration_s: float, exported: Path, library: Library, tmp_path: Path
) -> None:
    path = tmp_path / "tune.wav"
    soundfile.write(path, tune(99, duration_s), RATE)
    found = file_vector(path, embedder_of(exported, library.recipe))
    expected = production_vector(path, exported)
    assert found.shape == (512,)
    assert found.dtype == np.float32
    assert float(found @ expected) >= 0.9999
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_repeated_tail_counts_twice(exported: Path, library: Library, tmp_path: Path) -> None:
    path = tmp_path / "tune.wav"
    soundfile.write(path, tune(5, 17.0)[:720_000], 48_000)
    segments = decibel_segments(read_audio(path, library.recipe), library.recipe)
    assert segments.shape == (3, 128, 1001)
    np.testing.assert_array_equal(segments[1], segments[2])
    found = embedder_of(exported, library.recipe).embed_decibels(segments)
    mean = (found.segments[0] + 2 * found.segments[1]) / 3
    np.testing.assert_allclose(found.vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_what_cannot_be_decoded_is_an_error(exported: Path, library: Library, tmp_path: Path) -> None:
    path = tmp_path / "page.mp3"
    path.write_text("<html>502</html>")
    with pytest.raises(NoAudioError, match="no audio"):
        embedder_of(exported, library.recipe).read_audio(path)
