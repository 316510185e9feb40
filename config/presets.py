"""The mels of AudioMuse-AI, of the original README and of LAION, by name."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_RATE = 48_000  # Hz
SEGMENT_SAMPLES = 480_000  # 10 s at 48 kHz


@dataclass(frozen=True)
class MelPreset:
    """Parameters of a log-mel: slaney scale and norm, periodic Hann, centred, power 2, dB re 1 with amin 1e-10."""

    n_mels: int
    n_fft: int  # samples
    hop_samples: int
    fmin_hz: float
    fmax_hz: float


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
