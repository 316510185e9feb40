"""One audio file through the production path: what a model makes of it, how fast, and how near to another model.

Cost: decodes once; every segment once per model, and 21 more runs of one segment for the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click
import numpy as np
import numpy.typing as npt

from student_clap.export.model.contract import Shape
from student_clap.export.model.inputs import AppMel, mel_of
from student_clap.export.model.session import StudentSession, pool
from student_clap.featurize.audio.decode import DecodeError, decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.store import Recipe
from student_clap.train.loop import metrics

if TYPE_CHECKING:
    from torch import nn

TORCH_SUFFIX = ".pt"
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Trial:
    """A model's answer to a file."""

    n_segments: int
    norm: float  # of the track's vector
    ms_per_segment: float  # median, on one thread
    segments: Array  # [segment, 512]
    vector: Array  # [512]


@dataclass(frozen=True)
class Likeness:
    """Two models' answers to one file."""

    track: float  # cosine of the two track vectors
    lowest_segment: float  # lowest cosine of two segment vectors
    mel_from: str  # of the reference

    def __str__(self) -> str:
        segments = f"of single segments {self.lowest_segment:.6f} or more"
        return f"cosine {self.track:.6f}, {segments}; its mel from {self.mel_from}"


class _Model(Protocol):
    """What answers segments."""

    def embed_inputs(self, inputs: Iterable[Array]) -> Array:
        """What it takes, one run each -> [run, 512]."""


def audio_samples(audio: Path, recipe: Recipe) -> Array:
    """[sample] of a file that the user named.

    Raises:
        click.ClickException: there is no audio in it.
    """
    try:
        return decode(audio, recipe.max_samples)
    except (DecodeError, OSError) as error:
        raise click.ClickException(f"{audio}: {error}") from error


def segments_of(samples: Array, recipe: Recipe) -> Array:
    """[segment, mel, frame] dB."""
    whole = AppMel(recipe, Shape.of(recipe), "", declared=True)
    return np.concatenate([given[0] for given in whole.feed(samples, LogMel(recipe))])


def try_samples(model: Path, mel: AppMel, samples: Array) -> Trial:
    """Embed [sample] with `model`. Raises ModelError."""
    session, log_mel = StudentSession(model), LogMel(mel.recipe)
    vectors = session.embed_inputs(mel.feed(samples, log_mel))
    vector = pool(vectors)
    ms = session.time_input_ms(next(mel.feed(samples, log_mel)))
    return Trial(len(vectors), float(np.linalg.norm(vector)), ms, vectors, vector)


def compare_to(reference: Path, samples: Array, configured: Recipe, trial: Trial) -> Likeness:
    """How near `trial` is to what `reference` makes of the same samples, fed what it takes itself.

    Args:
        reference: an ONNX file, or a checkpoint (.pt) that torch runs.
        samples: [sample] as decoded.
        configured: stands in for what the reference does not tell of its mel.
        trial: of the same samples.

    Raises:
        ModelError: the reference cannot be run.
        CheckpointError: the checkpoint is missing or damaged.
    """
    model, mel = _open(reference, configured)
    log_mel = LogMel(mel.recipe)
    # others: [segment, 512]
    others = model.embed_inputs(mel.feed(samples, log_mel))
    segments = metrics.cosines(trial.segments, others)
    track = metrics.cosines(trial.vector[None], pool(others)[None])
    return Likeness(float(track[0]), float(segments.min()), mel.source)


def _open(reference: Path, configured: Recipe) -> tuple[_Model, AppMel]:
    if reference.suffix != TORCH_SUFFIX:
        return StudentSession(reference), mel_of(reference, configured)
    from student_clap.train.runs.checkpoint import load_student

    student, info = load_student(reference)
    return _Torch(student), AppMel(info.recipe, Shape.of(info.recipe), "the checkpoint", declared=True)


class _Torch:
    """A torch student."""

    def __init__(self, student: nn.Module) -> None:
        self._student = student.eval()

    def embed_inputs(self, inputs: Iterable[Array]) -> Array:
        import torch

        with torch.inference_mode():
            return np.concatenate([self._student(torch.from_numpy(mel_db)).numpy() for mel_db in inputs])
