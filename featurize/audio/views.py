"""Views: changed copies of a track, which a teacher hears as it hears tracks, so that a student has more to learn from.

A view is up to a minute from somewhere in the track, played faster or slower, with bands and the whole louder or
softer, and in half of them another track of the store beneath. What a teacher says of it is exact, where a change of
the segments in the trainer leaves the target behind.

Guarantee: a pure function of the samples, the view's number and the track's row, to the rounding of a processor.
Cost: 0.1 s of CPU, whatever the track's length, besides decoding the track and the one beneath.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import soxr

from student_clap.config.presets import SAMPLE_RATE
from student_clap.featurize.audio.decode import Samples, through_int16
from student_clap.store.layout.segments import PRODUCTION
from student_clap.store.layout.views import numbers

LENGTH_S = 60.0
SPEED = 1.15  # at most, and as much slower
BAND_DB = 8.0  # up or down, of each band
GAIN_DB = 6.0  # up or down, of the whole
BENEATH_DB = 12.0  # softer at most, what is beneath
_BAND_HZ = np.geomspace(50.0, 16_000.0, 6)  # where the bands' gains are reached; between them they pass smoothly
_GRID = 10_000  # samples; a spectrum of a multiple has small factors, and is quick
_SILENCE = 1e-9  # power


@dataclass(frozen=True)
class Excerpt:
    """A part of a track, changed."""

    begin: float  # of what can be the beginning, 0 to 1
    speed: float  # above 1 faster, and higher
    band_db: npt.NDArray[np.float64]  # [band]

    @classmethod
    def by(cls, chance: npt.NDArray[np.float64]) -> Self:
        """By 2 + 6 numbers in [0, 1)."""
        return cls(float(chance[0]), SPEED ** float(2 * chance[1] - 1), BAND_DB * (2 * chance[2:] - 1))

    def of(self, samples: Samples) -> Samples:
        """[sample] at 48 kHz, a minute at most, from [sample] at 48 kHz."""
        length = round(LENGTH_S * SAMPLE_RATE * self.speed)
        begin = int(self.begin * max(0, len(samples) - length + 1))
        played = soxr.resample(samples[begin : begin + length], SAMPLE_RATE * self.speed, SAMPLE_RATE)
        if not len(played):  # of a sample or two
            played = samples[:1]
        return _equalised(played[: round(LENGTH_S * SAMPLE_RATE)], self.band_db)


@dataclass(frozen=True)
class Change:
    """How a view is made of its track, and of the one beneath where there is one (`store.layout.views.beneath`)."""

    excerpt: Excerpt
    beneath: Excerpt
    beneath_db: float  # against the excerpt
    gain_db: float

    @classmethod
    def drawn(cls, view: int, row: int) -> Self:
        """That of a view of the track in `row`.

        Args:
            view: number of the view, from 1.
            row: of the store.
        """
        each = 2 + len(_BAND_HZ)
        chance = numbers(view, row, 4 + 2 * each)
        return cls(
            excerpt=Excerpt.by(chance[4 : 4 + each]),
            beneath=Excerpt.by(chance[4 + each :]),
            beneath_db=BENEATH_DB * (float(chance[3]) - 1),
            gain_db=GAIN_DB * (2 * float(chance[2]) - 1),
        )


def view_of(
    samples: Samples, change: Change, beneath: Samples | None = None, max_samples: int = PRODUCTION.max_samples
) -> Samples:
    """A view of a track.

    Args:
        samples: [sample] at 48 kHz, as `decode` gives them up to production's cap, whatever the recipe's: two recipes
            have the same views. Not empty.
        change: which one.
        beneath: [sample] of the other track, the same way; None: there is none.
        max_samples: the recipe's cap.

    Returns:
        [sample] float32 at 48 kHz, multiples of 1/32767 in [-1, 1], a minute at most.
    """
    sound = change.excerpt.of(samples)[:max_samples]
    if beneath is not None:
        other = change.beneath.of(beneath)[: len(sound)]
        power, theirs = float(np.mean(sound**2)), float(np.mean(other**2))
        level = np.sqrt(power / max(theirs, _SILENCE)) * 10 ** (change.beneath_db / 20)
        sound[: len(other)] += other * np.float32(level)
    return through_int16(sound * np.float32(10 ** (change.gain_db / 20)))


def _equalised(samples: Samples, band_db: npt.NDArray[np.float64]) -> Samples:
    """Louder or softer by the gain of each band."""
    n = -(-len(samples) // _GRID) * _GRID
    spectrum = np.fft.rfft(samples, n)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 1.0))
    spectrum *= 10 ** (np.interp(octaves, np.log2(_BAND_HZ), band_db) / 20)
    return np.fft.irfft(spectrum, n)[: len(samples)].astype(np.float32)
