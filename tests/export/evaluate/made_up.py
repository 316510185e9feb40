"""Made-up tracks for the tests of evaluate."""

from __future__ import annotations

from typing import Any

import numpy as np

RATE = 48_000


def unit(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def tracks(n: int, noise: float, seed: int = 0) -> tuple[Any, Any, Any]:
    """Student, teacher, and the styles they are made of."""
    rng = np.random.default_rng(seed)
    styles = unit(rng.normal(size=(6, 512)))
    teacher = unit(styles[np.arange(n) % 6] + 0.03 * rng.normal(size=(n, 512)))
    return unit(teacher + noise * rng.normal(size=(n, 512))), teacher, styles
