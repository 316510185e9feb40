"""The corpus teacher: production's segmentation and mean, and ears."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from student_clap.export.demo.tunes import TUNES, Tune, encode, render
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.teacher.model import Teacher

_MODEL = Path(__file__).resolve().parents[2] / "bench/corpus/teacher.onnx"


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher(_MODEL)


def noise(duration_s: float) -> npt.NDArray[np.float32]:
    samples = 0.1 * np.random.default_rng(0).standard_normal(int(duration_s * 48_000))
    return samples.astype(np.float32)


@pytest.mark.parametrize(("duration_s", "segments"), [(3.0, 1), (10.0, 1), (12.3, 2), (15.0, 3)])
def test_a_track_is_the_normalised_mean_of_productions_segments(
    teacher: Teacher, duration_s: float, segments: int
) -> None:
    track, parts = teacher.embed(noise(duration_s))
    assert track.shape == (512,)
    assert parts.shape == (segments, 512)
    assert track.dtype == parts.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(parts, axis=1), 1.0, atol=1e-5)
    mean = parts.mean(axis=0)
    np.testing.assert_allclose(track, mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.slow
def test_each_segment_is_heard_by_itself(teacher: Teacher) -> None:
    samples = noise(17.0)
    _, parts = teacher.embed(samples)
    for part, start_s in zip(parts, (0, 5, 7), strict=True):
        alone, _ = teacher.embed(samples[start_s * 48_000 :][: 10 * 48_000])
        np.testing.assert_allclose(part, alone, atol=1e-5)


def test_the_tail_of_a_whole_multiple_counts_twice(teacher: Teacher) -> None:
    _, parts = teacher.embed(noise(15.0))
    np.testing.assert_allclose(parts[1], parts[2], atol=1e-6)


def test_a_short_track_is_padded_with_silence(teacher: Teacher) -> None:
    short = noise(4.0)
    padded = np.pad(short, (0, 6 * 48_000))
    np.testing.assert_allclose(teacher.embed(short)[0], teacher.embed(padded)[0], atol=1e-6)


def test_more_than_the_cap_is_refused(teacher: Teacher) -> None:
    most = teacher.max_samples + 1  # resampling may give one more
    with pytest.raises(ValueError, match=f"{most + 1} samples; expected 1 to {most}"):
        teacher.embed(np.zeros(most + 1, np.float32))


@pytest.mark.slow
def test_it_tells_styles_apart(teacher: Teacher, tmp_path: Path) -> None:
    def hear(tune: Tune) -> npt.NDArray[np.float32]:
        tune = replace(tune, duration_s=10.0)
        path = tmp_path / tune.file_name
        path.write_bytes(encode(tune, render(tune)))
        return teacher.embed(decode(path, teacher.max_samples))[0]

    by_style = {s: [hear(t) for t in TUNES if t.style == s][:2] for s in ("chiptune", "ambient", "rock")}
    for style, (first, second) in by_style.items():
        others = max(first @ other for name, pair in by_style.items() if name != style for other in pair)
        assert first @ second > others + 0.2
