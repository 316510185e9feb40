"""Instruments: one note or one drum hit as a float array, by numpy alone.

Guarantee: no harmonic lies above 0.45 of the sample rate, so no voice folds back; the noise comes from the generator
that is passed in, so a seed gives the same sound. Cost: about 10 ns per sample and wavetable.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Sound = npt.NDArray[np.float32]
_TABLE_SAMPLES = 4096


@lru_cache(maxsize=1024)
def _table(shape: str, low: int, high: int) -> Sound:
    """One cycle of `shape` from its harmonics `low` to `high`, plus one sample for interpolation."""
    k = np.arange(low, high + 1)
    amplitude = {
        "sine": (k == 1) * 1.0,
        "triangle": (k % 2) * (-1.0) ** (k // 2) * 0.8 / k**2,
        "saw": 0.6 / k,
        "square": (k % 2) * 0.8 / k,
        "pulse": np.sin(np.pi * k * 0.25) * 0.9 / k,  # a quarter duty cycle
        "reed": np.exp(-(((k - 3) / 2.5) ** 2)) * 0.5 + 0.4 / k**1.5,  # a broad formant: brass, voice
        "string": (0.9 + 0.5 * np.cos(2.1 * k)) * 0.6 / k**1.2,  # a plucked string's uneven harmonics
        "organ": np.isin(k, (1, 2, 3, 4, 6, 8)) * 0.5 / np.sqrt(k),  # drawbars
    }[shape]
    spectrum = np.zeros(_TABLE_SAMPLES // 2 + 1, np.complex128)
    spectrum[k] = -0.5j * _TABLE_SAMPLES * amplitude
    cycle = np.fft.irfft(spectrum)
    return np.append(cycle, cycle[0]).astype(np.float32)


def tone(
    shape: str,
    freq_hz: float,
    n: int,
    rate: int,
    *,
    harmonics: tuple[int, int] = (1, 40),
    vibrato: float = 0.0,
    phase: float = 0.0,
) -> Sound:
    """A steady note of `n` samples.

    Args:
        shape: a waveform's name.
        freq_hz: pitch.
        n: samples.
        rate: Hz.
        harmonics: the first and the last that sound; those above 0.45 of the rate never do.
        vibrato: depth as a fraction of the pitch, at 5.5 Hz.
        phase: start, cycles.
    """
    low, high = harmonics
    high = min(high, int(0.45 * rate / (freq_hz * (1 + vibrato))))
    if high < low:
        return np.zeros(n, np.float32)
    t = np.arange(n) / rate
    cycles = freq_hz * t + phase
    if vibrato:
        wobble = 2 * np.pi * 5.5
        cycles -= freq_hz * vibrato / wobble * np.cos(wobble * t)
    position = (cycles % 1.0) * _TABLE_SAMPLES
    index = position.astype(np.int32)
    table = _table(shape, low, high)
    left = table[index]
    return left + (position - index).astype(np.float32) * (table[index + 1] - left)


def swell(n: int, rate: int, attack_s: float, release_s: float) -> Sound:
    """An envelope that rises, holds and falls: [n]."""
    rise = max(2, min(n // 2, int(attack_s * rate)))
    fall = max(2, min(n - rise, int(release_s * rate)))
    shape = np.ones(n, np.float32)
    shape[:rise] = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, rise))
    shape[n - fall :] *= 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, fall))
    return shape


def decay(n: int, rate: int, half_life_s: float) -> Sound:
    """An envelope that halves every `half_life_s`, with a click-free start and end: [n]."""
    shape = np.exp2(-np.arange(n) / (half_life_s * rate)).astype(np.float32)
    ramp = min(n, max(2, rate // 500))
    shape[:ramp] *= np.linspace(0, 1, ramp, dtype=np.float32)
    shape[n - ramp :] *= np.linspace(1, 0, ramp, dtype=np.float32)
    return shape


def plucked(shape: str, freq_hz: float, n: int, rate: int, half_life_s: float, brightness: float = 1.0) -> Sound:
    """A struck or plucked string: the higher a harmonic, the sooner it is gone.

    Args:
        shape: a waveform's name.
        freq_hz: pitch.
        n: samples.
        rate: Hz.
        half_life_s: of the fundamental.
        brightness: how long the upper harmonics last, 0 to 1 and beyond.
    """
    sound = np.zeros(n, np.float32)
    for low, high, life in ((1, 2, 1.0), (3, 5, 0.5), (6, 11, 0.25), (12, 30, 0.12)):
        life = life if low == 1 else life * brightness
        sound += tone(shape, freq_hz, n, rate, harmonics=(low, high)) * decay(n, rate, max(half_life_s * life, 0.004))
    return sound


def bell(freq_hz: float, n: int, rate: int, half_life_s: float) -> Sound:
    """A bell: five partials that are no harmonics of one another."""
    sound = np.zeros(n, np.float32)
    for ratio, gain, life in ((1.0, 0.6, 1.0), (2.0, 0.3, 0.7), (2.76, 0.35, 0.5), (5.4, 0.2, 0.25), (8.93, 0.1, 0.12)):
        if freq_hz * ratio < 0.45 * rate:
            sound += gain * tone("sine", freq_hz * ratio, n, rate) * decay(n, rate, half_life_s * life)
    return sound


def pad(shape: str, freq_hz: float, n: int, rate: int, *, harmonics: int, attack_s: float, release_s: float) -> Sound:
    """Three slightly detuned tones that swell."""
    detuned = ((0.9965, 0.0), (1.0, 0.37), (1.0035, 0.71))
    sound = sum(tone(shape, freq_hz * d, n, rate, harmonics=(1, harmonics), phase=p) for d, p in detuned)
    return (np.asarray(sound, np.float32) * swell(n, rate, attack_s, release_s) / 2).astype(np.float32)


def kick(rate: int, *, punch_hz: float = 160.0, length_s: float = 0.25) -> Sound:
    """A bass drum: a sine that falls to 45 Hz."""
    n = int(length_s * rate)
    t = np.arange(n) / rate
    cycles = 45.0 * t + (punch_hz - 45.0) * 0.03 * (1 - np.exp(-t / 0.03))
    return (np.sin(2 * np.pi * cycles) * decay(n, rate, length_s / 4)).astype(np.float32)


def snare(rate: int, rng: np.random.Generator, *, tone_hz: float = 190.0, length_s: float = 0.2) -> Sound:
    """A snare drum: noise over a short tone."""
    n = int(length_s * rate)
    noise = np.diff(rng.standard_normal(n + 1)).astype(np.float32) * 0.3
    return noise * decay(n, rate, length_s / 5) + 0.5 * tone("triangle", tone_hz, n, rate) * decay(n, rate, 0.03)


def hat(rate: int, rng: np.random.Generator, *, length_s: float = 0.06) -> Sound:
    """A cymbal, closed or open by its length: noise without its lows."""
    n = int(length_s * rate)
    return (np.diff(rng.standard_normal(n + 3), n=3) * 0.06).astype(np.float32) * decay(n, rate, length_s / 4)


def chip_noise(rate: int, rng: np.random.Generator, *, clock_hz: float, length_s: float) -> Sound:
    """A game console's noise channel: random bits at a slow clock."""
    n = int(length_s * rate)
    bits = rng.integers(0, 2, int(length_s * clock_hz) + 2) * 0.8 - 0.4
    return (bits[(np.arange(n) * clock_hz / rate).astype(np.int64)]).astype(np.float32) * decay(n, rate, length_s / 4)


def low_pass(sound: Sound, rate: int, cutoff_hz: float, order: int = 4) -> Sound:
    """Butterworth magnitude over the last axis, zero phase."""
    # freq: [frequency]
    freq = np.fft.rfftfreq(sound.shape[-1], 1 / rate)
    gain = 1 / np.sqrt(1 + (freq / cutoff_hz) ** (2 * order))
    return np.fft.irfft(np.fft.rfft(sound) * gain, sound.shape[-1]).astype(np.float32)


def tilt(sound: Sound, rate: int, db_per_octave: float) -> Sound:
    """Brighten (above 0) or darken (below 0) around 1 kHz, over the last axis."""
    freq = np.maximum(np.fft.rfftfreq(sound.shape[-1], 1 / rate), 40.0)
    gain = 10 ** (db_per_octave * np.log2(freq / 1000.0) / 20)
    return np.fft.irfft(np.fft.rfft(sound) * gain, sound.shape[-1]).astype(np.float32)


def reverb(stereo: Sound, rate: int, rng: np.random.Generator, *, seconds: float, wet: float) -> Sound:
    """A room: both channels convolved with their own decaying noise. stereo, result: [2, n]."""
    n = stereo.shape[-1]
    n_room = int(seconds * rate)
    # room: [2, n_room], 60 dB down at its end, of unit energy
    noise = rng.standard_normal((2, n_room)) * np.exp(-6.9 * np.arange(n_room) / n_room)
    room = low_pass(noise.astype(np.float32), rate, 5000.0, order=1)
    room /= np.sqrt((room**2).sum(axis=1, keepdims=True))
    size = 1 << (n + n_room - 1).bit_length()
    echo = np.fft.irfft(np.fft.rfft(stereo, size) * np.fft.rfft(room, size), size)[:, :n]
    return ((1 - wet) * stereo + wet * echo).astype(np.float32)
