"""Changes of training segments, made on the device: gain, masks, pitch, tempo, mixtures.

They have the effect of the same change of the waveform. Louder is an offset in decibels; what is masked is silent
(-100 dB), and silence stays silent; two sounds at once are the sum of their powers; a higher pitch moves the spectrum
along the frequency axis; a faster tempo resamples the frames.

Guarantee: the change of a segment is a pure function of its numbers, which come with the batch; with all settings 0 the
segments are returned as they came. Source: SpecAugment, arXiv 1904.08779; mixup, arXiv 1710.09412; mel scale of M.
Slaney's Auditory Toolbox, as in librosa.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from student_clap.config.schema import AugmentationConfig
from student_clap.store import Recipe
from student_clap.store.layout.mel_scale import hz_to_mel, mel_to_hz

FLOOR_DB = -100.0  # digital silence
_MOST_MASKS = 4
# The use of each of a segment's random numbers.
_GAIN, _PITCH, _STRETCH, _MIX, _SHARE = range(5)
_BAND_MASKS = 5
_TIME_MASKS = _BAND_MASKS + 2 * _MOST_MASKS
N_RANDOM = _TIME_MASKS + 2 * _MOST_MASKS


@dataclass(frozen=True)
class Mixture:
    """Which segments are mixed with which, in pairs of tracks, and in which shares."""

    own_segment: Tensor  # [segment] share of the segment itself, 0.5 to 1
    other_segment: Tensor  # [segment] index of the segment it is mixed with
    own_track: Tensor  # [track]
    other_track: Tensor  # [track]


def is_random(settings: AugmentationConfig) -> bool:
    """Whether `augment` uses its numbers at all."""
    kinds = ("gain_db", "band_mask", "time_mask", "mixup", "pitch_semitones", "stretch")
    return any(getattr(settings, kind) for kind in kinds)


def augment(
    mel_db: Tensor, numbers: Tensor, segments_of: tuple[int, ...], settings: AugmentationConfig, recipe: Recipe
) -> tuple[Tensor, Mixture | None]:
    """Change segments.

    Args:
        mel_db: [segment, 1, mel, frame] dB; may be changed in place.
        numbers: [segment, N_RANDOM] in [0, 1).
        segments_of: [track] how many of the segments each track has, in order; for mixtures.
        settings: how much of what.
        recipe: gives the mel scale.

    Returns:
        The segments, the same shape, and how they were mixed; None if they were not.
    """
    if settings.pitch_semitones:
        ratio = torch.exp2(_symmetric(numbers[:, _PITCH]) * settings.pitch_semitones / 12)
        mel_db = shift_pitch(mel_db, ratio, recipe)
    if settings.stretch:
        mel_db = change_tempo(mel_db, 1 + _symmetric(numbers[:, _STRETCH]) * settings.stretch)
    mixture = None
    if settings.mixup and len(segments_of) > 1:
        mixture = plan_mixture(numbers, segments_of, settings.mixup)
        mel_db = mix(mel_db, mixture.own_segment, mixture.other_segment)
    if settings.gain_db:
        mel_db = change_gain(mel_db, _symmetric(numbers[:, _GAIN]) * settings.gain_db)
    if settings.band_mask:
        _mask(mel_db, numbers[:, _BAND_MASKS:_TIME_MASKS], settings.band_mask, settings.masks, axis=2)
    if settings.time_mask:
        _mask(mel_db, numbers[:, _TIME_MASKS:], settings.time_mask, settings.masks, axis=3)
    return mel_db, mixture


def change_gain(mel_db: Tensor, gain_db: Tensor) -> Tensor:
    """Louder by `gain_db` [segment]; nothing falls below the floor, and silence stays there."""
    louder = (mel_db + gain_db[:, None, None, None]).clamp_(min=FLOOR_DB)
    return torch.where(mel_db <= FLOOR_DB, mel_db, louder)


def mix(mel_db: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """Each segment's power times `own` [segment], and that of segment `other` [segment] times the rest, in decibels."""
    rest = mel_db[other] + (10 * torch.log10((1 - own).clamp(min=1e-10)))[:, None, None, None]
    kept = mel_db + (10 * torch.log10(own))[:, None, None, None]
    # 10 log10(10^(a/10) + 10^(b/10))
    nats_per_db = math.log(10) / 10
    mixed: Tensor = torch.logaddexp(kept * nats_per_db, rest * nats_per_db) / nats_per_db
    return mixed.clamp_(min=FLOOR_DB)


def plan_mixture(numbers: Tensor, segments_of: tuple[int, ...], probability: float) -> Mixture:
    """Pair neighbouring tracks; each of a pair keeps at least half of itself, and the last of an odd number all."""
    device = numbers.device
    n_tracks = len(segments_of)
    firsts = [sum(segments_of[:track]) for track in range(n_tracks)]
    partner = [track ^ 1 if track ^ 1 < n_tracks else track for track in range(n_tracks)]
    other = [
        firsts[partner[track]] + k % segments_of[partner[track]]
        for track in range(n_tracks)
        for k in range(segments_of[track])
    ]
    first_numbers = numbers[torch.tensor(firsts, device=device)]
    own = torch.where(first_numbers[:, _MIX] < probability, 1 - 0.5 * first_numbers[:, _SHARE], 1.0)
    owners = torch.repeat_interleave(torch.arange(n_tracks, device=device), torch.tensor(segments_of, device=device))
    return Mixture(
        own_segment=own[owners],
        other_segment=torch.tensor(other, device=device),
        own_track=own,
        other_track=torch.tensor(partner, device=device),
    )


def shift_pitch(mel_db: Tensor, ratio: Tensor, recipe: Recipe) -> Tensor:
    """All frequencies times `ratio` [segment]: each band takes what lay at its centre frequency / ratio."""
    n_mels = mel_db.shape[2]
    low, high = hz_to_mel(np.array([recipe.fmin_hz, recipe.fmax_hz])).tolist()
    step = (high - low) / (n_mels + 1)
    # In double precision, which Apple's GPUs do not have.
    exact = torch.device("cpu") if mel_db.device.type == "mps" else mel_db.device
    centres = low + step * torch.arange(1, n_mels + 1, dtype=torch.float64, device=exact)
    source = hz_to_mel(mel_to_hz(centres, torch)[None] / ratio[:, None].to(exact).double(), torch)
    # position: [segment, mel] on the axis of bands
    position = ((source - low) / step - 1).clamp(0, n_mels - 1).to(mel_db.dtype).to(mel_db.device)
    # weights: [segment, mel, mel] linear interpolation, hat functions around the position
    weights = (1 - (position[:, :, None] - torch.arange(n_mels, device=mel_db.device)).abs()).clamp_(min=0)
    moved: Tensor = weights @ mel_db[:, 0]
    return moved[:, None]


def change_tempo(mel_db: Tensor, speed: Tensor) -> Tensor:
    """Faster by `speed` [segment] around the middle; frames beyond the ends are those before them in reverse."""
    n_frames = mel_db.shape[3]
    middle, last = (n_frames - 1) / 2, n_frames - 1
    times = middle + (torch.arange(n_frames, device=mel_db.device) - middle) * speed[:, None]
    # reflect at 0 and at the last frame
    times = (last - (last - times.abs()).abs()).clamp(0, last)
    before = times.floor().clamp(max=max(last - 1, 0))
    share = (times - before)[:, None, None]
    index = before.long()[:, None, None].expand(-1, 1, mel_db.shape[2], -1)
    return torch.lerp(mel_db.gather(3, index), mel_db.gather(3, (index + 1).clamp(max=last)), share)


def _mask(mel_db: Tensor, numbers: Tensor, widest: float, masks: int, *, axis: int) -> None:
    """Silence up to `masks` stretches of `axis`, each of a width between nothing and `widest` of it. In place."""
    length = mel_db.shape[axis]
    # width, first: [segment, mask]
    width = torch.floor(numbers[:, 0 : 2 * masks : 2] * (widest * length + 1))
    first = torch.floor(numbers[:, 1 : 2 * masks : 2] * (length - width + 1))
    places = torch.arange(length, device=mel_db.device)
    # masked: [segment, place]
    masked = ((places >= first[..., None]) & (places < (first + width)[..., None])).any(dim=1)
    mel_db.masked_fill_(masked[:, None, :, None] if axis == 2 else masked[:, None, None, :], FLOOR_DB)


def _symmetric(numbers: Tensor) -> Tensor:
    """[0, 1) to [-1, 1)."""
    return 2 * numbers - 1
