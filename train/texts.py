"""Vectors of texts that the user gives, for the `text` term of the loss."""

from __future__ import annotations

import zipfile
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.schema import EMBEDDING_DIM


def read_text_vectors(path: Path) -> npt.NDArray[np.float32]:
    """The array ``vector`` of an .npz, [text, 512], brought to unit length.

    Raises:
        click.ClickException: there is no such file or array, or its shape or values cannot be.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
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
