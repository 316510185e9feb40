"""Decibels to one byte and back. Half a step, 0.28 dB, is the largest error inside the range."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from student_clap.store.recipe import Recipe

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
