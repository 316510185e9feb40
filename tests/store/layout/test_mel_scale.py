"""The mel scale is librosa's, for arrays and for tensors."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch

from student_clap.store.layout.mel_scale import hz_to_mel, mel_to_hz

HZ = np.concatenate([np.linspace(0, 24_000, 501), [999.999, 1000.0, 1000.001]])


def test_it_is_librosas() -> None:
    np.testing.assert_allclose(hz_to_mel(HZ), librosa.hz_to_mel(HZ), rtol=1e-12, atol=1e-12)
    mels = np.linspace(0, 60, 301)
    np.testing.assert_allclose(mel_to_hz(mels), librosa.mel_to_hz(mels), rtol=1e-12, atol=1e-12)


def test_tensors_give_the_same() -> None:
    mels = hz_to_mel(torch.from_numpy(HZ), torch)
    np.testing.assert_allclose(mels.numpy(), hz_to_mel(HZ), rtol=1e-12, atol=1e-12)
    assert mel_to_hz(mels, torch).numpy() == pytest.approx(HZ, rel=1e-12, abs=1e-9)
