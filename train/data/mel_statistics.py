"""The mel bands' mean and deviation over the training tracks, for the student's input normalisation.

Guarantee: a pure function of the rows' codes and the seed, exact to rounding: codes are counted, not summed.
Cost: one strip read for each of at most 256 tracks.
"""

from __future__ import annotations

import logging

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.screen import progress
from student_clap.store import Features
from student_clap.store.layout.codes import dequantise
from student_clap.train.data.batches import why_left_out
from student_clap.train.data.order import sample_rows

_MAX_TRACKS = 256
_CODES = 256
_log = logging.getLogger(__name__)


def band_statistics(
    features: Features, rows: npt.NDArray[np.int64], n_samples: npt.NDArray[np.int64], seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation of every band over the frames of some tracks.

    Args:
        features: to read from.
        rows: training rows; 256 of them are used where there are more.
        n_samples: [track] of the whole store, by row.
        seed: picks the tracks.

    Returns:
        mean [mel] dB and deviation [mel] dB.

    Raises:
        click.ClickException: none of the tracks can be read, or the store is out of reach.
    """
    n_mels = features.recipe.n_mels
    # counts: [mel, code] frames
    counts = np.zeros((n_mels, _CODES), np.int64)
    bands = np.arange(n_mels)[:, None] * _CODES
    last_error = ""
    chosen = sample_rows(rows, _MAX_TRACKS, seed)
    with progress("track", len(chosen), label="mel statistics") as bar:
        for row in chosen:
            bar.advance()
            try:
                strip = features.strip(int(row), int(n_samples[row]))
            except (click.ClickException, OSError) as error:
                last_error = why_left_out(error)
                _log.warning("row %d left out of the mel statistics: %s", row, last_error)
                continue
            counts += np.bincount((strip + bands).ravel(), minlength=counts.size).reshape(counts.shape)
    total = counts.sum(axis=1)
    if not total.all():
        raise click.ClickException(f"none of the training tracks can be read; the last error: {last_error}")
    decibels = dequantise(np.arange(_CODES, dtype=np.uint8), features.recipe).astype(np.float64)
    mean = counts @ decibels / total
    variance = (counts * np.square(decibels - mean[:, None])).sum(axis=1) / total
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
