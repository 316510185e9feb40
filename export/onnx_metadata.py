"""What a student's ONNX file says of itself, in `metadata_props`, under a prefix of our own."""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from student_clap.train.checkpoint import CheckpointInfo

METADATA_PREFIX = "student_clap."


def metadata_of(info: CheckpointInfo, n_parameters: int, checkpoint: str) -> dict[str, str]:
    """The file's metadata, keys with their prefix."""
    known = {
        "recipe": json.dumps(info.recipe.as_attributes(), sort_keys=True),
        "recipe_fingerprint": info.recipe.fingerprint,
        "recipe_name": info.recipe.name,
        "teacher_name": info.teacher_name,
        "store_uuid": info.store_uuid,
        "run_name": info.run_name,
        "epoch": str(info.epoch),
        "checkpoint": checkpoint,
        "held_out_cosine": f"{info.val_cosine:.6f}" if math.isfinite(info.val_cosine) else "",
        "architecture": info.model.architecture,
        "model": info.model.model_dump_json(),
        "parameters": str(n_parameters),
        "package_version": version("student-clap"),
    }
    return {METADATA_PREFIX + key: value for key, value in known.items()}


def plain_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Our entries, keys without their prefix; {} for a file of another maker."""
    return {k.removeprefix(METADATA_PREFIX): v for k, v in metadata.items() if k.startswith(METADATA_PREFIX)}
