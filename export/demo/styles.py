"""Six styles of music: each fills a `Song` with chords, a tune, a bass and drums.

Guarantee: a song follows from its numbers and its generator alone. A style is recognisable by its instruments and its
rhythm; within a style the generator chooses the harmony, the tune, the voices' colours and the drum pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from student_clap.export.demo import voices
from student_clap.export.demo.voices import Sound

_T = TypeVar("_T")
_MAJOR, _MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
_PROGRESSIONS = {False: ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4)), True: ((0, 5, 2, 6), (0, 3, 5, 4), (0, 6, 5, 6))}
_STEPS = 16  # sixteenths of a bar


@dataclass
class Song:
    """A song under way: its numbers, its generator and the two channels."""

    rate: int  # Hz
    tempo_bpm: float
    root: int  # the key's MIDI note, 48 to 59
    minor: bool
    duration_s: float
    rng: np.random.Generator
    out: Sound = field(init=False)  # [2, n]
    progression: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.out = np.zeros((2, int(self.duration_s * self.rate)), np.float32)
        self.progression = self.choose(_PROGRESSIONS[self.minor])

    def choose(self, options: Sequence[_T]) -> _T:
        """One of `options`."""
        return options[int(self.rng.integers(len(options)))]

    @property
    def step_s(self) -> float:
        """Seconds of a sixteenth."""
        return 15.0 / self.tempo_bpm

    @property
    def bars(self) -> int:
        """Bars that begin before the end."""
        return int(np.ceil(self.duration_s / (_STEPS * self.step_s)))

    def length(self, steps: float) -> int:
        """Samples of so many sixteenths."""
        return max(64, int(steps * self.step_s * self.rate))

    def hz(self, degree: int, octave: int = 0) -> float:
        """Pitch of a degree of the scale; 0 is the key's root, 7 the octave."""
        scale = _MINOR if self.minor else _MAJOR
        midi = self.root + 12 * (degree // 7 + octave) + scale[degree % 7]
        return float(440.0 * 2 ** ((midi - 69) / 12))

    def chord(self, bar: int) -> list[int]:
        """Degrees of the bar's triad."""
        root = self.progression[bar % len(self.progression)]
        return [root, root + 2, root + 4]

    def add(self, sound: Sound, bar: int, step: float, gain: float, *, pan: float = 0.0, loose_s: float = 0.0) -> None:
        """Mix `sound` in at a sixteenth of a bar. pan: -1 left to 1 right; loose_s: how far off the beat it may be."""
        at_s = (bar * _STEPS + step) * self.step_s
        if loose_s:
            at_s = max(0.0, at_s + loose_s * float(self.rng.uniform(-1, 1)))
        first = int(at_s * self.rate)
        room = self.out.shape[1] - first
        if room > 0:
            angle = (pan + 1) * np.pi / 4
            self.out[0, first : first + len(sound)] += gain * np.cos(angle) * sound[:room]
            self.out[1, first : first + len(sound)] += gain * np.sin(angle) * sound[:room]

    def tune(self, density: float, span: int = 5) -> Iterator[tuple[int, int, int, int]]:
        """A two-bar motif over the chords, its ending varied: (bar, step, steps long, degree)."""
        onsets = [s for s in range(0, 2 * _STEPS, 2) if self.rng.random() < density or s % _STEPS == 0]
        walk = np.cumsum(self.rng.integers(-2, 3, len(onsets)))
        for bar in range(self.bars):
            root, half = self.chord(bar)[0], bar % 2 * _STEPS
            for i, step in enumerate(onsets):
                if half <= step < half + _STEPS:
                    degree = root + int(walk[i]) % span
                    if bar % 4 == 3 and step % _STEPS >= 8:
                        degree += int(self.rng.integers(-1, 2))
                    end = onsets[i + 1] if i + 1 < len(onsets) else 2 * _STEPS
                    yield bar, step - half, end - step, degree


def chiptune(song: Song) -> None:
    """A game console: two pulse voices, fast arpeggios, a triangle bass, a noise channel."""
    lead, arp = song.choose(("square", "pulse")), song.choose(("pulse", "square"))
    for bar, step, steps, degree in song.tune(0.6, span=7):
        n = song.length(min(steps, 4))
        note = voices.tone(lead, song.hz(degree, 2), n, song.rate, vibrato=0.006) * voices.swell(
            n, song.rate, 0.002, 0.03
        )
        song.add(note, bar, step, 0.35, pan=-0.2)
    n = song.length(0.5)
    gate = voices.swell(n, song.rate, 0.001, 0.005)
    for bar in range(song.bars):
        chord = song.chord(bar)
        for i in range(2 * _STEPS):
            note = voices.tone(arp, song.hz(chord[i % 3], 1 + i % 6 // 3), n, song.rate) * gate
            song.add(note, bar, i / 2, 0.16, pan=0.4)
        for step in range(0, _STEPS, 2):
            bass = voices.tone("triangle", song.hz(chord[0], -1 + step % 4 // 2), song.length(1.8), song.rate)
            song.add(bass, bar, step, 0.45)
            clock = 9000.0 if step % 8 == 4 else 20000.0
            hit = voices.chip_noise(song.rate, song.rng, clock_hz=clock, length_s=0.12 if step % 8 == 4 else 0.04)
            song.add(hit, bar, step, 0.35)


def ambient(song: Song) -> None:
    """Slow pads that swell, bells far off, wind; no drums."""
    shape, dark = song.choose(("saw", "reed", "organ")), int(song.rng.integers(4, 9))
    for bar in range(0, song.bars, 2):
        for i, degree in enumerate([*song.chord(bar // 2), song.chord(bar // 2)[0] + 8]):
            n = song.length(2.8 * _STEPS)
            note = voices.pad(shape, song.hz(degree), n, song.rate, harmonics=dark, attack_s=2.5, release_s=3.0)
            song.add(note, bar, 0, 0.22, pan=(i - 1.5) / 2)
        drone = voices.tone("sine", song.hz(0, -1), song.length(2 * _STEPS), song.rate)
        song.add(drone * voices.swell(len(drone), song.rate, 1.0, 1.0), bar, 0, 0.3)
    for bar, step, _, degree in song.tune(0.12):
        note = voices.bell(song.hz(degree, 2), song.length(_STEPS), song.rate, 0.7)
        song.add(note, bar, step, 0.16, pan=float(song.rng.uniform(-0.9, 0.9)))
    wind = voices.low_pass(song.rng.standard_normal(song.out.shape).astype(np.float32), song.rate, 500.0, order=1)
    swells = 0.5 + 0.5 * np.sin(2 * np.pi * np.arange(song.out.shape[1]) / song.rate / 7.3)
    song.out += 0.06 * (wind * swells).astype(np.float32)
    song.out = voices.reverb(song.out, song.rate, song.rng, seconds=4.0, wet=0.6)


def rock(song: Song) -> None:
    """Distorted power chords left and right, bass, a drum kit, a lead guitar on top, or an organ in fast ones."""
    guitar = np.zeros_like(song.out)
    clean, song.out = song.out, guitar
    strokes = song.choose(((0, 2, 4, 6, 8, 10, 12, 14), (0, 3, 6, 8, 11, 14), (0, 4, 6, 8, 12, 14, 15)))
    for bar in range(song.bars):
        for step in strokes:
            for degree, octave in ((song.chord(bar)[0], -1), (song.chord(bar)[2], -1), (song.chord(bar)[0], 0)):
                n = song.length(2.2 if len(strokes) > 6 else 3)
                note = voices.plucked("saw", song.hz(degree, octave), n, song.rate, 0.4)
                for pan in (-0.9, 0.9):
                    song.add(note, bar, step, 0.5, pan=pan, loose_s=0.008)
    song.out = 0.3 * voices.low_pass(np.tanh(9 * song.out), song.rate, 4500.0) + clean
    organ = song.tempo_bpm > 150
    for bar, step, steps, degree in song.tune(0.45):
        if bar % 8 >= 4 or organ:
            n = song.length(steps)
            if organ:
                note = voices.tone("organ", song.hz(degree, 1), n, song.rate, vibrato=0.004)
            else:
                note = np.tanh(5 * voices.plucked("string", song.hz(degree, 1), n, song.rate, 0.8)).astype(np.float32)
            song.add(note * voices.swell(n, song.rate, 0.005, 0.04), bar, step, 0.22, pan=0.2)
    _rhythm_section(song)
    song.out = voices.reverb(song.out, song.rate, song.rng, seconds=0.6, wet=0.12)


def _rhythm_section(song: Song) -> None:
    """Bass and drum kit."""
    ride = song.rng.random() < 0.5
    for bar in range(song.bars):
        for step in range(0, _STEPS, 2):
            n = song.length(2)
            bass = voices.plucked("saw", song.hz(song.chord(bar)[0], -2), n, song.rate, 0.5, 0.6)
            song.add(bass, bar, step, 0.45, loose_s=0.004)
            cymbal = voices.hat(song.rate, song.rng, length_s=0.3 if ride else 0.08)
            song.add(cymbal, bar, step, 0.5, pan=0.3, loose_s=0.004)
        for step in (0, 6, 8) if bar % 2 else (0, 8, 10):
            song.add(voices.kick(song.rate), bar, step, 0.9)
        for step in (4, 12) if bar % 4 < 3 else (4, 12, 13, 14, 15):
            song.add(voices.snare(song.rate, song.rng), bar, step, 0.8)


def piano(song: Song) -> None:
    """A ballad for one piano: broken chords in the left hand, a tune in the right, played louder and softer."""
    pattern = song.choose(((0, 1, 2, 3, 2, 1), (0, 2, 3, 2), (0, 1, 2, 1, 3, 2, 1, 2)))

    def touch(bar: int, step: float) -> float:
        return (
            0.55
            + 0.3 * float(np.sin(2 * np.pi * (bar + step / _STEPS) / 8 - 1.0))
            + float(song.rng.uniform(-0.08, 0.08))
        )

    def key(degree: int, octave: int, bar: int, step: float, steps: float, gain: float) -> None:
        loud, hz = touch(bar, step), song.hz(degree, octave)
        n = song.length(steps) + int(0.4 * song.rate)  # the pedal is down
        note = voices.plucked("string", hz, n, song.rate, 0.9 * (220.0 / hz) ** 0.5, 0.4 + 0.6 * loud)
        song.add(note, bar, step, gain * loud, pan=float(np.clip(np.log2(hz / 300.0) / 4, -0.6, 0.6)), loose_s=0.015)

    for bar in range(song.bars):
        chord = [*song.chord(bar), song.chord(bar)[0] + 7]
        key(chord[0], -2, bar, 0, _STEPS, 0.7)
        for i, step in enumerate(range(0, _STEPS, 2)):
            key(chord[pattern[i % len(pattern)]], -1, bar, step, 4, 0.45)
    for bar, step, steps, degree in song.tune(0.35):
        key(degree, 1, bar, step, steps, 0.75)
        if step % 8 == 0:
            key(degree - 2, 1, bar, step, steps, 0.4)
    song.out = voices.reverb(song.out, song.rate, song.rng, seconds=1.8, wet=0.2)


def techno(song: Song) -> None:
    """Four on the floor: kick, off-beat hats, an acid line that opens and closes, chord stabs, claps."""
    line = [
        (int(song.rng.integers(0, 2)) * 7 + song.choose((0, 0, 2, 4)), song.rng.random() < 0.8) for _ in range(_STEPS)
    ]
    stabs = song.choose(((3, 6, 11), (2, 10), (0, 3, 6, 10, 13)))
    shape = song.choose(("saw", "square"))
    for bar in range(song.bars):
        opening = 0.5 - 0.5 * np.cos(2 * np.pi * bar / 8)
        root = song.progression[bar // 2 % len(song.progression)]
        for step, (degree, sounds) in enumerate(line):
            if sounds:
                n = song.length(0.9)
                top = int(4 + 26 * opening)
                note = voices.tone(shape, song.hz(degree, -1), n, song.rate, harmonics=(1, top))
                song.add(note * voices.decay(n, song.rate, 0.09), bar, step, 0.5)
        for step in stabs if bar % 4 else ():
            for i, degree in enumerate((root, root + 2, root + 4, root + 6)):
                n = song.length(2)
                note = voices.pad("saw", song.hz(degree, 1), n, song.rate, harmonics=14, attack_s=0.003, release_s=0.1)
                song.add(note * voices.decay(n, song.rate, 0.08), bar, step, 0.22, pan=(i - 1.5) / 2)
        for step in range(0, _STEPS, 4):
            song.add(voices.kick(song.rate, punch_hz=260.0, length_s=0.3), bar, step, 1.0)
            song.add(voices.hat(song.rate, song.rng, length_s=0.14), bar, step + 2, 0.8, pan=0.15)
        for step in range(_STEPS) if bar % 8 >= 2 else ():
            song.add(voices.hat(song.rate, song.rng, length_s=0.03), bar, step, 0.35, pan=-0.3)
        for step in (4, 12) if bar % 8 >= 4 else ():
            song.add(voices.snare(song.rate, song.rng, tone_hz=330.0, length_s=0.14), bar, step, 0.55)
    song.out = voices.reverb(song.out, song.rate, song.rng, seconds=0.9, wet=0.1)


def folk(song: Song) -> None:
    """A village band: strummed strings, oom-pah brass or a drone, a fiddle or a horn for the tune, a tambourine."""
    brass = song.root % 12 in (3, 5, 8, 10)  # brass bands play in flat keys, fiddlers in sharp ones
    shape, vibrato, rise_s = ("reed", 0.004, 0.04) if brass else ("saw", 0.009, 0.06)
    for bar, step, steps, degree in song.tune(0.55):
        n = song.length(steps * 0.95)
        for harmony, gain, pan in ((0, 0.4, 0.2), (-2, 0.2, 0.5)) if brass else ((0, 0.3, 0.2),):
            note = voices.tone(shape, song.hz(degree + harmony, 1), n, song.rate, harmonics=(1, 14), vibrato=vibrato)
            song.add(note * voices.swell(n, song.rate, rise_s, 0.06), bar, step, gain, pan=pan, loose_s=0.01)
    for bar in range(song.bars):
        chord = song.chord(bar)
        for step in range(0, _STEPS, 4):
            oom = voices.tone(
                "reed", song.hz(chord[step // 4 % 2 * 2], -2), song.length(2.5), song.rate, harmonics=(1, 10)
            )
            song.add(oom * voices.swell(len(oom), song.rate, 0.03, 0.1), bar, step, 0.5 if brass else 0.15, pan=-0.2)
            for i, degree in enumerate([*chord, chord[0] + 7]):
                string = voices.plucked("string", song.hz(degree), song.length(3.5), song.rate, 0.3)
                song.add(string, bar, step + 2 + 0.12 * i, 0.3, pan=-0.5, loose_s=0.006)
            song.add(voices.hat(song.rate, song.rng, length_s=0.1), bar, step + 2, 0.25, pan=0.6, loose_s=0.006)
            if brass:
                song.add(voices.snare(song.rate, song.rng, length_s=0.12), bar, step + 2, 0.3)
                song.add(voices.kick(song.rate, punch_hz=90.0), bar, step, 0.5)
    song.out = voices.reverb(song.out, song.rate, song.rng, seconds=1.1, wet=0.15)


STYLES: dict[str, Callable[[Song], None]] = {
    "chiptune": chiptune,
    "ambient": ambient,
    "rock": rock,
    "piano": piano,
    "techno": techno,
    "folk": folk,
}
