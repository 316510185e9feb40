"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal

FLOOR = 1e-6  # what the cosine decays to


def learning_rate(
    step: int,
    *,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    schedule: Literal["cosine", "plateau", "constant"] = "cosine",
    scale: float = 1.0,
) -> float:
    """Linear warm-up to `peak` over `warmup_steps`, then what `schedule` says.

    Args:
        step: optimiser steps done before this one.
        peak: the configured learning rate.
        warmup_steps: the rate of step s is peak * (s + 1) / warmup_steps while s < warmup_steps.
        total_steps: of the whole run.
        schedule: half a cosine down to 1e-6 at the last step; `peak` throughout; or `peak` times `scale`.
        scale: of a plateau: what the falls so far multiply to.

    >>> [round(learning_rate(s, peak=1.0, warmup_steps=2, total_steps=5), 2) for s in range(5)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    floor = min(FLOOR, peak)
    if schedule != "cosine":
        return max(floor, peak * (scale if schedule == "plateau" else 1.0))
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps))
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
