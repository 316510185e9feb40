"""The mels of AudioMuse-AI, of the original README and of LAION, by name, and what features may take at most."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_RATE = 48_000  # Hz
SEGMENT_SAMPLES = 480_000  # 10 s at 48 kHz
MAX_BANDS = 1024
MAX_VIEWS = 16  # changed copies of a track
MAX_FRAMES = 16_384  # of one segment
MAX_STRIP_BYTES = 1_000_000_000  # of one track's features


@dataclass(frozen=True)
class MelPreset:
    """Parameters of a log-mel: slaney scale and norm, periodic Hann, centred, power 2, dB re 1 with amin 1e-10."""

    n_mels: int
    n_fft: int  # samples
    hop_samples: int
    fmin_hz: float
    fmax_hz: float

    @property
    def edge_frames(self) -> int:
        """Frames on each side of a segment that see the reflection: ceil((n_fft / 2) / hop)."""
        return -(-(self.n_fft // 2) // self.hop_samples)

    def frames(self, n_samples: int) -> int:
        """STFT frames of so many samples, centred: 1001 of 10 s."""
        return n_samples // self.hop_samples + 1

    def most_frames(self, *, max_samples: int, segment: int, hop: int) -> int:
        """An upper bound of the frames that are kept of a track: its own, and the edges of its segments.

        Args:
            max_samples: of the track.
            segment: length of a segment, samples.
            hop: from the start of a segment to the next, samples.
        """
        longest = max_samples + 1  # resampling rounds up
        n_segments = (longest - segment) // hop + 2
        return self.frames(longest) + 2 * self.edge_frames * n_segments + self.frames(segment)


MEL_PRESETS: dict[str, MelPreset] = {
    # AudioMuse-AI feeds this to a swapped-in model today (CLAP_AUDIO_* defaults).
    "audiomuse": MelPreset(n_mels=128, n_fft=2048, hop_samples=480, fmin_hz=0.0, fmax_hz=14_000.0),
    # The original student_clap README.
    "original": MelPreset(n_mels=128, n_fft=1024, hop_samples=480, fmin_hz=0.0, fmax_hz=14_000.0),
    # The LAION teacher itself was trained on this.
    "clap": MelPreset(n_mels=64, n_fft=1024, hop_samples=480, fmin_hz=50.0, fmax_hz=14_000.0),
}


def preset_name(mel: MelPreset) -> str | None:
    """Name of the preset with exactly these numbers, or None.

    >>> preset_name(MelPreset(128, 1024, 480, 0.0, 14000.0))
    'original'
    """
    return next((name for name, preset in MEL_PRESETS.items() if preset == mel), None)
