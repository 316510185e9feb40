"""The fixed vectors that the loss compares with: a bank of the teacher's, and those of texts that the user gives."""

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
from student_clap.train.loop.loss import Objective


def build_objective(
    settings: LossConfig,
    teacher: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    seed: int,
    device: torch.device,
) -> Objective:
    """The loss with its bank and texts.

    Args:
        settings: terms and weights.
        teacher: [track, 512] of the whole store.
        rows: training rows, of which the bank takes at most `bank_size`.
        seed: picks them.
        device: where they go.

    Raises:
        click.ClickException: the text vectors cannot be used.
    """
    bank = texts = None
    if settings.weights["bank"]:
        bank = torch.from_numpy(teacher[sample_rows(rows, settings.bank_size, seed)]).to(device)
    if settings.weights["text"] and settings.text_vectors is not None:
        texts = torch.from_numpy(read_text_vectors(settings.text_vectors)).to(device)
    return Objective(settings, bank, texts)


def read_text_vectors(path: Path) -> npt.NDArray[np.float32]:
    """The array ``vector`` of an .npz, [text, 512], brought to unit length.

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
