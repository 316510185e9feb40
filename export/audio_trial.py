"""One audio file through the production path: what a model makes of it, how fast, and how near to another model.

Cost: every segment once per model, and 21 more runs of one segment for the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from student_clap.export.app_mel import AppMel, mel_of
from student_clap.export.embedding import file_segments
from student_clap.export.session import StudentSession
from student_clap.featurize.decode import DecodeError
from student_clap.featurize.mel import LogMel
from student_clap.store import Recipe


@dataclass(frozen=True)
class Trial:
    """A model's answer to a file."""

    n_segments: int
    norm: float  # of the track's vector
    ms_per_segment: float  # median, on one thread
    vector: npt.NDArray[np.float32]  # [512]


def audio_segments(audio: Path, recipe: Recipe) -> npt.NDArray[np.float32]:
    """[segment, mel, frame] dB of a file that the user named.

    Raises:
        click.ClickException: there is no audio in it.
    """
    try:
        return file_segments(audio, LogMel(recipe))
    except (DecodeError, OSError) as error:
        raise click.ClickException(f"{audio}: {error}") from error


def try_segments(model: Path, mel: AppMel, segments_db: npt.NDArray[np.float32]) -> Trial:
    """Embed [segment, mel, frame] dB with `model`. Raises ModelError."""
    session, fed = StudentSession(model), mel.shape.lay_out(segments_db)
    vector = session.embed_track(fed)
    return Trial(len(fed), float(np.linalg.norm(vector)), session.time_segment_ms(fed[0]), vector)


def cosine_to(reference: Path, audio: Path, configured: Recipe, vector: npt.NDArray[np.float32]) -> tuple[float, str]:
    """The cosine of `vector` [512] to what `reference` makes of `audio` with its own mel, and where that mel is from.

    Raises:
        ModelError: the reference cannot be run.
        click.ClickException: there is no audio.
    """
    mel = mel_of(reference, configured)
    segments_db = audio_segments(audio, mel.recipe)
    other = StudentSession(reference).embed_track(mel.shape.lay_out(segments_db))
    return float(vector @ other / (np.linalg.norm(vector) * np.linalg.norm(other))), mel.source
