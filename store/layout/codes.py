"""Decibels to one byte and back. Half a step, 0.28 dB, is the largest error inside the range."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.store.layout.recipe import Recipe
from student_clap.store.layout.runs import Run, runs_of

MISSING = 0  # the fill value: never a code, so that missing data cannot pass for silence


def quantise(mel_db: npt.NDArray[np.float32], recipe: Recipe) -> npt.NDArray[np.uint8]:
    """Round `mel_db` (any shape, dB) to codes 1..255; values outside the range are clipped to it."""
    codes = mel_db - np.float32(recipe.offset_db)
    codes *= np.float32(1 / recipe.scale_db)
    np.rint(codes, out=codes)
    np.clip(codes, 1, 255, out=codes)
    return codes.astype(np.uint8)


def dequantise(codes: npt.NDArray[np.uint8], recipe: Recipe) -> npt.NDArray[np.float32]:
    """Codes back to dB, float32, same shape."""
    table = np.arange(256, dtype=np.float32) * np.float32(recipe.scale_db) + np.float32(recipe.offset_db)
    decibels: npt.NDArray[np.float32] = table[codes]
    return decibels


def dequantise_columns(
    codes: npt.NDArray[np.uint8], index: npt.NDArray[np.int32], recipe: Recipe
) -> npt.NDArray[np.float32]:
    """Columns of a strip in dB.

    Args:
        codes: [mel, frame].
        index: [segment, frame] columns.
        recipe: gives the scale.

    Returns:
        [segment, mel, frame] float32, the same numbers as `dequantise` gives.
    """
    out = np.empty((len(index), len(codes), index.shape[1]), np.float32)
    for segment, columns in zip(out, index, strict=True):
        # One segment at a time, so that it stays in the cache: [mel, frame]
        copy_runs(codes, runs_of(columns), segment)
        segment *= np.float32(recipe.scale_db)
        segment += np.float32(recipe.offset_db)
    return out


def take_columns(codes: npt.NDArray[np.uint8], index: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Columns of a strip as codes: [mel, frame] and [segment, frame] give [segment, mel, frame]."""
    out = np.empty((len(index), len(codes), index.shape[1]), np.uint8)
    for segment, columns in zip(out, index, strict=True):
        copy_runs(codes, runs_of(columns), segment)
    return out


def copy_runs(codes: npt.NDArray[np.uint8], runs: Iterable[Run], out: npt.NDArray[Any]) -> None:
    """Copy runs of columns of a strip, [mel, frame], to `out`, [mel, frame], one after the other."""
    begin = 0
    for first, end in runs:
        out[:, begin : begin + end - first] = codes[:, first:end]
        begin += end - first
