"""The fixed vectors that the loss compares with: a bank of the teacher's, and those of texts that the user gives.

Their names are those of the terms that need them.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch

from student_clap.config.schema import EMBEDDING_DIM, LossConfig
from student_clap.train.data.order import sample_rows
from student_clap.train.loop.loss import Loss


def build_loss(
    settings: LossConfig,
    teacher: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    seed: int,
    device: torch.device,
) -> Loss:
    """The loss with the reference vectors that its terms need.

    Args:
        settings: terms and weights.
        teacher: [track, 512] of the whole store.
        rows: training rows, of which the bank takes at most `bank_size`.
        seed: picks them.
        device: where they go.

    Raises:
        click.ClickException: the text vectors cannot be used.
    """
    references: dict[str, npt.NDArray[np.float32]] = {}
    if settings.weights["bank"]:
        references["bank"] = teacher[sample_rows(rows, settings.bank_size, seed)]
    if settings.weights["text"] and settings.text_vectors is not None:
        references["text"] = read_text_vectors(settings.text_vectors)
    return Loss(settings, {name: torch.from_numpy(vectors).to(device) for name, vectors in references.items()})


def read_text_vectors(path: Path) -> npt.NDArray[np.float32]:
    """Read the array ``vector`` of an .npz, [text, 512], and bring its rows to unit length.

    Raises:
        click.ClickException: there is no such file or array, or its shape or values cannot be.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            vectors = np.asarray(content["vector"], np.float64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
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
