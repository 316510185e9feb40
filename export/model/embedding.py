"""An audio file to its track vector, the way production goes: decode, mel, segments, student, mean, normalise.

The mel is made once per track as a strip and cut into segments, which gives production's per-segment mels exactly at
about a fifth of their cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.export.model.session import StudentSession
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.store import frame_index

# A 16-bit file's largest sample, 32767 / 32768, is just below 1 after production's truncation.
FULL_SCALE = 0.9999


@dataclass(frozen=True)
class Heard:
    """What production hears of a file."""

    n_samples: int  # at 48 kHz, after the cap
    segments_db: npt.NDArray[np.float32]  # [segment, mel, frame]
    clipped_share: float  # of the samples that stand at full scale


def hear(path: Path, log_mel: LogMel) -> Heard:
    """Decode an audio file and cut its mel into production's segments.

    Raises:
        DecodeError: there is no audio in it.
    """
    recipe = log_mel.recipe
    samples = decode(path, recipe.max_samples)
    strip = log_mel.strip(samples)
    # strip[:, index]: [mel, segment, frame]
    segments_db = strip[:, frame_index(len(samples), recipe)].transpose(1, 0, 2)
    return Heard(len(samples), segments_db, float(np.mean(np.abs(samples) >= FULL_SCALE)))


def file_segments(path: Path, log_mel: LogMel) -> npt.NDArray[np.float32]:
    """The segments of an audio file, [segment, mel, frame] dB. Raises DecodeError."""
    return hear(path, log_mel).segments_db


def embed_file(path: Path, session: StudentSession, log_mel: LogMel) -> npt.NDArray[np.float32]:
    """The track vector of an audio file, [512], unit length.

    Raises:
        DecodeError: there is no audio in it.
        ModelError: the student does not take the recipe's segments.
    """
    return session.embed_track(file_segments(path, log_mel))
