"""The recipe that a model file names in its metadata: read with care, since anybody may have made the file.

Guarantee: a recipe that comes out of here can be computed: its numbers are of the right type and within bounds, so that
no file can ask for a mel of a billion bands. A recipe that cannot be read is one ModelError on one line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from student_clap.config.runtime.text import one_line, reason
from student_clap.config.schema import AudioConfig
from student_clap.featurize.onnx.graph import ModelError
from student_clap.store import Recipe

METADATA_PREFIX = "student_clap."  # of every entry that this package writes
RECIPE_KEY = METADATA_PREFIX + "recipe"
MAX_BANDS = 1024
MAX_FRAMES = 16_384  # of one segment
_TYPES: dict[Any, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}


def declared_recipe(metadata: Mapping[str, str], where: str) -> Recipe | None:
    """The recipe in a file's metadata; None where there is none.

    Args:
        metadata: of the file.
        where: the file's name, for the error.

    Raises:
        ModelError: it is damaged, of a version that this one does not know, or asks for what cannot be computed.
    """
    text = metadata.get(RECIPE_KEY)
    if text is None:
        return None
    try:
        recipe = Recipe.from_attributes(dict(json.loads(text)))
        _check(recipe)
    except RecursionError:
        raise ModelError(f"{where}: its metadata {RECIPE_KEY} cannot be read: it is nested too deeply") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{where}: its metadata {RECIPE_KEY} cannot be read: {reason(error)}") from None
    return recipe


def _check(recipe: Recipe) -> None:
    """Raises ValueError for a recipe that cannot be computed."""
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if isinstance(value, bool) or not isinstance(value, _TYPES[field.type]):
            raise TypeError(f"{field.name} is {one_line(repr(value), 40)}; expected a value of type {field.type}")
    if recipe.n_mels > MAX_BANDS:
        raise ValueError(f"n_mels is {recipe.n_mels}; expected at most {MAX_BANDS}")
    try:
        # A file may ask for no more than a configuration.
        AudioConfig.model_validate(
            {
                "sample_rate": recipe.sample_rate,
                "segment_length": recipe.segment_samples,
                "hop_length": recipe.segment_hop_samples,
                "n_mels": recipe.n_mels,
                "n_fft": recipe.n_fft,
                "hop_length_stft": recipe.hop_samples,
                "fmin": float(recipe.fmin_hz),
                "fmax": float(recipe.fmax_hz),
                "max_duration_s": recipe.max_samples / AudioConfig().sample_rate,
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        names = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{names}: {first['msg']}" if names else first["msg"]) from None
    if recipe.segment_frames > MAX_FRAMES:
        raise ValueError(f"a segment has {recipe.segment_frames} frames; expected at most {MAX_FRAMES}")
