"""One audio file through the production path: a model's answer to it, its time, and how near another model's is.

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

from student_clap.export.model.contract import refuse_unsafe
from student_clap.export.model.embedding import Embedder, NoAudioError, TrackEmbedding, read_audio
from student_clap.export.model.session import StudentSession
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.input_spec import InputSpec, input_spec_of
from student_clap.featurize.onnx.segments import pool
from student_clap.store import Recipe
from student_clap.train.loop import metrics

if TYPE_CHECKING:
    from torch import nn

TORCH_SUFFIX = ".pt"
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Similarity:
    """How near two models' answers to one file are."""

    track: float  # cosine of the two track vectors
    lowest_segment: float  # lowest cosine of two segment vectors
    mel_from: str  # of the reference

    def __str__(self) -> str:
        segments = f"of single segments {self.lowest_segment:.6f} or more"
        return f"cosine {self.track:.6f}, {segments}; its mel from {self.mel_from}"


class _Model(Protocol):
    """A model that answers segments."""

    def embed_inputs(self, inputs: Iterable[Array]) -> Array:
        """Its inputs, one run each -> [run, 512]."""


def audio_samples(audio: Path, recipe: Recipe) -> Array:
    """[sample] of a file that the user named, at most as many as the recipe takes.

    Raises:
        click.ClickException: there is no audio in it.
    """
    try:
        return read_audio(audio, recipe)
    except NoAudioError as error:
        raise click.ClickException(f"{audio}: {error}") from error


def time_segment_ms(embedder: Embedder, samples: Array) -> float:
    """Median ms of a run on the first segment of [sample], on one thread; the mel is not counted. Raises ModelError."""
    first = next(embedder.spec.inputs(samples, LogMel(embedder.spec.recipe)))
    return embedder.session.time_input_ms(first)


def compare_to(reference: Path, samples: Array, configured: Recipe, answer: TrackEmbedding) -> Similarity:
    """How near `answer` is to that of `reference` to the same samples, given the input that it takes itself.

    Args:
        reference: an ONNX file, or a checkpoint (.pt) that torch runs.
        samples: [sample] as decoded.
        configured: stands in for what the reference does not tell of its mel.
        answer: to the same samples.

    Raises:
        ModelError: the reference cannot be run.
        CheckpointError: the checkpoint is missing or damaged.
    """
    model, spec = _open(reference, configured)
    # others: [segment, 512]
    others = model.embed_inputs(spec.inputs(samples, LogMel(spec.recipe)))
    segments = metrics.cosines(answer.segments, others)
    track = metrics.cosines(answer.vector[None], pool(others)[None])
    return Similarity(float(track[0]), float(segments.min()), spec.source)


def _open(reference: Path, configured: Recipe) -> tuple[_Model, InputSpec]:
    if reference.suffix != TORCH_SUFFIX:
        spec = input_spec_of(reference, configured)
        refuse_unsafe(reference)
        return StudentSession(reference), spec
    from student_clap.train.runs.checkpoint import load_student

    student, info = load_student(reference)
    return _Torch(student), InputSpec.of_recipe(info.recipe, "the checkpoint", declared=True)


class _Torch:
    """A torch student."""

    def __init__(self, student: nn.Module) -> None:
        self._student = student.eval()

    def embed_inputs(self, inputs: Iterable[Array]) -> Array:
        import torch

        with torch.inference_mode():
            return np.concatenate([self._student(torch.from_numpy(given)).numpy() for given in inputs])
