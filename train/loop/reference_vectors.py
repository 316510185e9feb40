"""The fixed vectors that the loss compares with: a bank of the teacher's, and those of texts that the user gives.

Their names are those of the terms that need them.
"""

from __future__ import annotations

import logging
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch

from student_clap.config.formats.npz import open_npz
from student_clap.config.schema import EMBEDDING_DIM, LossConfig
from student_clap.store.arrays.segment_vectors import SegmentVectors
from student_clap.train.data.batches import why_left_out
from student_clap.train.data.order import derive_seed, sample_rows
from student_clap.train.data.segment_targets import counts_of
from student_clap.train.loop.loss import Loss

_log = logging.getLogger(__name__)


def build_loss(
    settings: LossConfig,
    teacher: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    seed: int,
    device: torch.device,
    segments: SegmentVectors | None = None,
    taught_rows: npt.NDArray[np.int64] | None = None,
) -> Loss:
    """The loss with the reference vectors that its terms need.

    Args:
        settings: terms and weights.
        teacher: [track, 512] of the whole store.
        rows: training rows, of which the bank takes at most `bank_size`.
        seed: picks them.
        device: where they go.
        segments: the teacher's vectors of segments, for a bank of these.
        taught_rows: whose tracks' are taken; None: all that there are.

    Raises:
        click.ClickException: the text vectors cannot be used, or the segments' cannot be read.
    """
    references: dict[str, npt.NDArray[np.float32]] = {}
    if settings.weights["bank"]:
        of_segments = None
        if settings.bank_of == "segments" and segments is not None:
            of_segments = sample_segments(segments, rows, settings.bank_size, seed, taught_rows)
        references["bank"] = (
            teacher[sample_rows(rows, settings.bank_size, seed)] if of_segments is None else of_segments
        )
    if settings.weights["text"] and settings.text_vectors is not None:
        references["text"] = read_text_vectors(settings.text_vectors)
    return Loss(settings, {name: torch.from_numpy(vectors).to(device) for name, vectors in references.items()})


def sample_segments(
    segments: SegmentVectors,
    rows: npt.NDArray[np.int64],
    limit: int,
    seed: int,
    taught_rows: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.float32] | None:
    """At most `limit` of the segment vectors of `rows`, as many of each track as that allows; None: there are none.

    Args:
        segments: to read from.
        rows: training rows; at most `limit` of those that have vectors are read.
        limit: of the result.
        seed: picks rows and segments.
        taught_rows: as in `build_loss`.

    Returns:
        [entry, 512] of unit length.

    Raises:
        click.ClickException: none of the vectors can be read, or the store is out of reach. A track whose vectors are
            damaged or gone is left out with a warning.
    """
    counts = counts_of(segments, taught_rows)
    taught = rows[counts[rows] > 0]
    if not len(taught):
        return None
    taught = sample_rows(taught, limit, seed)
    each = max(1, limit // len(taught))
    found = []
    last_error = ""
    for row in taught.tolist():
        try:
            vectors = segments.read(row, int(counts[row])).astype(np.float32)
        except (click.ClickException, OSError) as error:
            last_error = why_left_out(error)
            _log.warning("row %d left out of the bank: %s", row, last_error)
            continue
        found.append(vectors[sample_rows(np.arange(len(vectors)), each, derive_seed("bank", seed, row))])
    if not found:
        raise click.ClickException(
            f"none of the training tracks' segment vectors can be read; the last error: {last_error}"
        )
    entries = np.concatenate(found)
    unit: npt.NDArray[np.float32] = entries / np.linalg.norm(entries, axis=1, keepdims=True).clip(1e-9)
    return unit


def read_text_vectors(path: Path) -> npt.NDArray[np.float32]:
    """Read the array ``vector`` of an .npz, [text, 512], and bring its rows to unit length.

    Raises:
        click.ClickException: there is no such file or array, or its shape or values cannot be.
    """
    try:
        with open_npz(path) as content:
            vectors = np.asarray(content["vector"], np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise click.ClickException(
            f"loss.text_vectors {path}: {error}; expected an .npz with an array `vector` [text, {EMBEDDING_DIM}]"
        ) from error
    if vectors.ndim != 2 or vectors.shape[1] != EMBEDDING_DIM or not len(vectors):
        raise click.ClickException(
            f"loss.text_vectors {path}: `vector` is {list(vectors.shape)}, expected [text, {EMBEDDING_DIM}]"
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(vectors).all() or not lengths.all():
        raise click.ClickException(f"loss.text_vectors {path}: a vector is zero, NaN or infinite; remove it")
    return np.asarray(vectors / lengths, np.float32)
