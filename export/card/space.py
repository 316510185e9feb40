"""space.json: the identity of the space that a model's vectors lie in, for programs.

Vectors of two models may be compared where the `id` is the same: one teacher, one recipe, one pooling, one number of
dimensions. That they are the same vectors it does not say; the models' figures tell how near they are. A space whose
teacher nobody has declared has no id.

Guarantee: nothing of the library is in it. The same space gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from student_clap.config.formats.json_text import read_json
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.featurize.onnx.segments import NORM_GUARD
from student_clap.store import Recipe

SPACE = "space.json"
FORMAT, FORMAT_VERSION = "student-clap-space", 1
DIGEST_METHOD = "BLAKE2b of 4 bytes over the hop of the teacher's mel and the BLAKE2b of each of its files"


def space_of(teacher_name: str, teacher_digest: str, recipe: Recipe) -> dict[str, Any]:
    """The content of space.json.

    Args:
        teacher_name: as declared; "" where it was not.
        teacher_digest: 8 hex digits of the teacher's files and its mel's hop (`featurize.teacher`); "" where the
            teacher was not run, so that its name is all that is known.
        recipe: what the student hears.
    """
    space = {
        "teacher": {
            "name": teacher_name or None,
            "digest": teacher_digest or None,
            "digest_method": DIGEST_METHOD if teacher_digest else None,
        },
        "recipe": {"fingerprint": recipe.fingerprint, **recipe.as_attributes()},
        "pooling": {
            "segment_samples": recipe.segment_samples,
            "segment_hop_samples": recipe.segment_hop_samples,
            "tail": "a longer track ends with the segment of its last samples, also where that repeats one",
            "method": "mean",
            "normalised": f"divided by (its Euclidean length + {NORM_GUARD:g})",
        },
        "dimensions": EMBEDDING_DIM,
        "type": "float32",
        "similarity": "cosine",
    }
    known = bool(teacher_name or teacher_digest)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "id": _digest(space) if known else None,
        "space": space,
    }


def space_text(space: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(space, indent=2, ensure_ascii=False) + "\n"


def another_space(path: Path, space: dict[str, Any]) -> bool:
    """Whether the file there is of another space than `space`; False where none can be read."""
    try:
        return bool(read_json(path)["space"] != space["space"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digest(space: dict[str, Any]) -> str:
    plain = json.dumps(space, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(plain.encode()).hexdigest()[:32]
