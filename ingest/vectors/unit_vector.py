"""The teacher's vector as AudioMuse-AI stores it: 512 little-endian float32, 2048 bytes, unit length.

Source: shared/facts/audiomuse.md, section 1.4. A vector that is not usable comes with the reason as text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from student_clap.config.schema import EMBEDDING_DIM

EMBEDDING_BYTES = EMBEDDING_DIM * 4
UNIT_TOLERANCE = 1e-3  # production's own norms are within 1e-6


@dataclass(frozen=True)
class Vector:
    """A parsed vector, or why there is none."""

    unit: npt.NDArray[np.float32] | None  # [512], L2-normalised
    reason: str = ""  # set where unit is None
    norm: float = 1.0  # before normalising


def parse_vector(data: bytes | memoryview) -> Vector:
    """Check and normalise the bytes of one `clap_embedding.embedding`.

    >>> parse_vector(bytes(800)).reason
    'teacher vector has 800 bytes, expected 2048 (512 float32)'
    """
    if len(data) != EMBEDDING_BYTES:
        return Vector(
            None, f"teacher vector has {len(data)} bytes, expected {EMBEDDING_BYTES} ({EMBEDDING_DIM} float32)"
        )
    # values: [512] float64, so that the norm of large values does not overflow
    values = np.frombuffer(data, "<f4").astype(np.float64)
    broken = int(np.count_nonzero(~np.isfinite(values)))
    if broken:
        return Vector(None, f"teacher vector has {broken} values that are NaN or infinite, expected none")
    norm = float(np.linalg.norm(values))
    if norm < np.finfo(np.float32).tiny:
        return Vector(None, "teacher vector is all zeros, expected unit length")
    return Vector((values / norm).astype(np.float32), norm=norm)
