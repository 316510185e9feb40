"""Does the ONNX file answer as the torch student does? On real segments of the store, validation tracks first.

Guarantee: every segment and the two extremes (silence, +40 dB) are compared one by one; the worst figure counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import numpy as np
import numpy.typing as npt

from student_clap.export.graph.sampling import spread, spread_segments
from student_clap.export.model.run_checks import LOUD_DB, SILENCE_DB
from student_clap.export.model.session import StudentSession
from student_clap.store import Features
from student_clap.store.storage.errors import StoreError

if TYPE_CHECKING:
    from torch import nn

MIN_COSINE = 0.9999
TRACKS = 16
SEGMENTS_PER_TRACK = 2


class ParityError(click.ClickException):
    """The ONNX model does not answer as the torch student does."""


@dataclass(frozen=True)
class Parity:
    """How far the two are apart over all inputs that were tried."""

    n_segments: int  # real ones
    n_tracks: int
    min_cosine: float
    max_difference: float  # of any of the 512 values

    def __str__(self) -> str:
        return (
            f"cosine >= {self.min_cosine:.6f}, largest difference {self.max_difference:.1e} "
            f"over {self.n_segments} real segments of {self.n_tracks} tracks"
        )


def real_segments(features: Features, preferred: Sequence[int]) -> tuple[npt.NDArray[np.float32], int]:
    """Segments of up to `TRACKS` tracks: of `preferred` rows, spread evenly, then of any others.

    Returns:
        [segment, mel, frame] dB, and from how many tracks they are.

    Raises:
        StoreError: no track has features.
    """
    made = features.made()
    wanted = [row for row in preferred if made[row]]
    others = np.setdiff1d(np.flatnonzero(made), wanted)
    rows = [*spread(wanted, TRACKS), *spread(others.tolist(), TRACKS - min(TRACKS, len(wanted)))]
    if not rows:
        raise StoreError(
            f"no track has {features.recipe.name!r} features, and parity is shown on real segments; "
            "run `student-clap featurize` first"
        )
    return spread_segments(features, rows, SEGMENTS_PER_TRACK), len(rows)


def compare(student: nn.Module, session: StudentSession, segments_db: npt.NDArray[np.float32], n_tracks: int) -> Parity:
    """Run both on every segment, and on silence and +40 dB.

    Args:
        student: in eval mode, on the CPU.
        session: the ONNX model.
        segments_db: [segment, mel, frame] dB.
        n_tracks: from how many tracks the segments are, for the record.

    Raises:
        ParityError: a cosine is below `MIN_COSINE`, or a value is not finite.
    """
    import torch

    extremes = [np.full((1, *segments_db.shape[1:]), level, np.float32) for level in (SILENCE_DB, LOUD_DB)]
    inputs = np.concatenate([segments_db, *extremes])
    with torch.inference_mode():
        # One at a time, as the ONNX model is run: [1, 1, mel, frame] -> [512]
        expected = np.stack([student(torch.from_numpy(mel[None, None]))[0].numpy() for mel in inputs])
    found = session.embed_segments(inputs)
    names = [*(f"segment {n}" for n in range(1, len(segments_db) + 1)), "silence", f"{LOUD_DB:+g} dB"]
    for who, vectors in (("torch", expected), ("onnxruntime", found)):
        broken = [name for name, vector in zip(names, vectors, strict=True) if not np.isfinite(vector).all()]
        if broken:
            raise ParityError(f"{who} gives values that are not finite for {', '.join(broken[:5])}")
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    cosines = np.sum(expected.astype(np.float64) * found, axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    difference = float(np.abs(expected - found).max())
    worst = int(np.argmin(cosines))
    if not cosines[worst] >= MIN_COSINE:
        raise ParityError(
            f"onnxruntime and torch disagree: cosine {cosines[worst]:.6f} for {names[worst]} (expected at least "
            f"{MIN_COSINE}), largest difference {difference:.1e}"
        )
    return Parity(len(segments_db), n_tracks, min(1.0, float(cosines[worst])), difference)
