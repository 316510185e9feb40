"""Observations about a held-out track's audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from student_clap.config.schema import AudioConfig
from student_clap.export.evaluate.held_out import clipped_share
from student_clap.export.model.embedding import read_audio
from student_clap.store import Recipe

from .made_up import RATE


@pytest.mark.parametrize(("peak", "share"), [(1.0, 1.0), (0.9, 0.0)])
def test_samples_at_full_scale_are_counted(tmp_path: Path, peak: float, share: float) -> None:
    square = peak * np.sign(np.sin(2 * np.pi * 50 * (np.arange(RATE) + 0.5) / RATE))
    soundfile.write(tmp_path / "square.wav", square, RATE, subtype="PCM_16")
    samples = read_audio(tmp_path / "square.wav", Recipe.from_config(AudioConfig()))
    assert clipped_share(samples) == pytest.approx(share)
    assert len(samples) == RATE
