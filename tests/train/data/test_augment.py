"""Changes of segments are what the same change of the waveform would do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from student_clap.config.schema import AudioConfig, AugmentationConfig
from student_clap.store import Recipe
from student_clap.train.data.augment import (
    FLOOR_DB,
    N_RANDOM,
    augment,
    change_gain,
    change_tempo,
    is_random,
    mix,
    plan_mixture,
    shift_pitch,
)

RECIPE = Recipe.from_config(AudioConfig())
RATE = 48_000


def mel_db(waveform: np.ndarray) -> Tensor:
    """[1, 1, mel, frame] of a waveform, by torch's own STFT and torchaudio's filterbank."""
    window = torch.hann_window(RECIPE.n_fft)
    spectrum = torch.stft(
        torch.from_numpy(waveform.astype(np.float32)),
        RECIPE.n_fft,
        RECIPE.hop_samples,
        window=window,
        return_complex=True,
    )
    banks = melscale_fbanks(
        RECIPE.n_fft // 2 + 1, RECIPE.fmin_hz, RECIPE.fmax_hz, RECIPE.n_mels, RATE, norm="slaney", mel_scale="slaney"
    )
    power = banks.T @ spectrum.abs().square()
    return (10 * torch.log10(power.clamp(min=1e-10)))[None, None]


def noise(seed: int, seconds: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.1, size=int(seconds * RATE))


def test_nothing_is_changed_where_nothing_is_asked() -> None:
    segments = torch.randn(3, 1, 8, 20) * 10 - 40
    kept, mixture = augment(segments.clone(), torch.rand(3, N_RANDOM), (2, 1), AugmentationConfig(), RECIPE)
    assert torch.equal(kept, segments)
    assert mixture is None


@pytest.mark.parametrize("kind", sorted(AugmentationConfig.model_fields.keys() - {"views"}))  # which are read, not made
def test_numbers_are_drawn_for_every_kind_of_change_that_uses_them(kind: str) -> None:
    """Else a kind that is added would change all segments alike, by zeros."""
    settings = AugmentationConfig.model_validate({kind: 1 if kind == "masks" else 0.5})
    segments = torch.randn(4, 1, RECIPE.n_mels, 60, generator=torch.Generator().manual_seed(0)) * 10 - 40
    zeros, ones = torch.zeros(4, N_RANDOM), torch.full((4, N_RANDOM), 0.75)
    ones[:, 3] = 0.25  # whether a pair is mixed
    few, _ = augment(segments.clone(), zeros, (2, 2), settings, RECIPE)
    many, _ = augment(segments.clone(), ones, (2, 2), settings, RECIPE)
    assert is_random(settings) == (not torch.equal(few, many))


def test_gain_is_the_mel_of_a_louder_waveform_and_silence_stays_silent() -> None:
    sound = noise(0)
    for gain_db in (6.0, -20.0):
        louder = change_gain(mel_db(sound), torch.tensor([gain_db]))
        torch.testing.assert_close(louder, mel_db(sound * 10 ** (gain_db / 20)), atol=1e-3, rtol=0)
    silence = torch.full((1, 1, 4, 5), FLOOR_DB)
    assert torch.equal(change_gain(silence, torch.tensor([30.0])), silence)
    assert change_gain(silence + 5, torch.tensor([-30.0])).min() == FLOOR_DB


def test_a_mixture_is_the_mel_of_both_at_once() -> None:
    one, other = noise(1, 20.0), noise(2, 20.0)
    both = torch.cat([mel_db(one), mel_db(other)])
    mixed = mix(both, torch.tensor([0.7, 0.6]), torch.tensor([1, 0]))
    # Powers of independent sounds add up: the mean over the frames is what can be compared.
    for row, (own, rest, share) in enumerate([(one, other, 0.7), (other, one, 0.6)]):
        expected = mel_db(math.sqrt(share) * own + math.sqrt(1 - share) * rest)
        powers = [10 ** (m / 10) for m in (mixed[row : row + 1], expected)]
        difference = 10 * torch.log10(powers[0].mean(dim=3) / powers[1].mean(dim=3))
        assert difference.abs().max() < 0.5
    alone = mix(both, torch.tensor([1.0, 1.0]), torch.tensor([1, 0]))
    torch.testing.assert_close(alone, both, atol=1e-4, rtol=0)


def test_tracks_are_mixed_in_pairs_and_keep_at_least_half_of_themselves() -> None:
    torch.manual_seed(0)
    plan = plan_mixture(torch.rand(8, N_RANDOM), (3, 1, 2, 1, 1), 1.0)
    assert plan.other_track.tolist() == [1, 0, 3, 2, 4]
    assert plan.other_segment.tolist() == [3, 3, 3, 0, 6, 6, 4, 7]
    assert ((plan.own_track > 0.5) & (plan.own_track <= 1)).all()
    assert torch.equal(plan.own_segment, plan.own_track[torch.tensor([0, 0, 0, 1, 2, 2, 3, 4])])
    none = plan_mixture(torch.rand(8, N_RANDOM), (3, 1, 2, 1, 1), 0.0)
    assert (none.own_track == 1).all()


def test_a_mask_is_silence_of_a_band_or_a_time_never_wider_than_asked() -> None:
    torch.manual_seed(0)
    widths = []
    for axis, key in ((2, "band_mask"), (3, "time_mask")):
        settings = AugmentationConfig.model_validate({key: 0.2, "masks": 1})
        masked, _ = augment(torch.zeros(200, 1, 40, 50), torch.rand(200, N_RANDOM), (200,), settings, RECIPE)
        silent = masked[:, 0] == FLOOR_DB
        assert ((masked == 0) | (masked == FLOOR_DB)).all()
        places = silent.all(dim=2 if axis == 2 else 1)
        assert torch.equal(
            silent, places[:, :, None].expand_as(silent) if axis == 2 else places[:, None].expand_as(silent)
        )
        count = places.sum(dim=1)
        assert count.max() == 0.2 * masked.shape[axis]
        assert count.min() == 0
        # in one piece
        assert ((places[:, 1:] & ~places[:, :-1]).sum(dim=1) + places[:, 0] <= 1).all()
        widths.append(float(count.float().mean()) / masked.shape[axis])
    assert widths == pytest.approx([0.1, 0.1], abs=0.02)


def test_a_shift_of_pitch_moves_a_tone_to_its_new_frequency() -> None:
    seconds = np.arange(2 * RATE) / RATE
    for semitones in (3.0, -5.0):
        ratio = 2 ** (semitones / 12)
        tone, wanted = (0.3 * np.sin(2 * np.pi * f * seconds) for f in (2000.0, 2000.0 * ratio))
        moved = shift_pitch(mel_db(tone), torch.tensor([ratio]), RECIPE)[0, 0, :, 50]
        expected = mel_db(wanted)[0, 0, :, 50]
        assert abs(int(moved.argmax()) - int(expected.argmax())) <= 1
        assert float(moved.max()) == pytest.approx(float(expected.max()), abs=3.0)
    same = mel_db(noise(3))
    torch.testing.assert_close(shift_pitch(same, torch.tensor([1.0]), RECIPE), same, atol=1e-3, rtol=0)


def test_a_faster_tempo_brings_frames_nearer_to_the_middle() -> None:
    ramp = torch.arange(101.0)[None, None, None].repeat(2, 1, 3, 1)
    fast = change_tempo(ramp, torch.tensor([1.0, 1.2]))
    torch.testing.assert_close(fast[0], ramp[0])
    torch.testing.assert_close(fast[1, 0, 0, 40:61], 50 + (torch.arange(40.0, 61.0) - 50) * 1.2)
    assert float(fast[1].min()) >= 0
    assert float(fast[1].max()) <= 100
    # beyond the end it goes back: frame 100 would read 110
    assert float(fast[1, 0, 0, 100]) == pytest.approx(90.0, abs=1e-3)


def test_changes_are_a_function_of_the_random_numbers() -> None:
    torch.manual_seed(0)
    settings = AugmentationConfig(gain_db=6, band_mask=0.1, time_mask=0.1, mixup=1.0, pitch_semitones=2, stretch=0.1)
    segments, numbers = torch.randn(4, 1, RECIPE.n_mels, 60) * 10 - 40, torch.rand(4, N_RANDOM)
    one, _ = augment(segments.clone(), numbers, (2, 2), settings, RECIPE)
    torch.manual_seed(1)
    two, _ = augment(segments.clone(), numbers, (2, 2), settings, RECIPE)
    assert torch.equal(one, two)
    other, _ = augment(segments.clone(), torch.rand(4, N_RANDOM), (2, 2), settings, RECIPE)
    assert not torch.allclose(one, other)
    assert torch.isfinite(one).all()
    assert one.min() >= FLOOR_DB
