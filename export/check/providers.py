"""One model on every execution provider of this onnxruntime: does it load there, and does it answer as on the CPU?

Cost: a load and four runs or so per provider.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.export.model.session import ModelError, StudentSession
from student_clap.featurize.onnx.providers import available, chosen
from student_clap.train.loop import metrics

ALL = "all"
MIN_COSINE = 0.999  # a GPU's convolutions round to 10 bits (TF32)
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answered:
    """A provider and what became of the model on it."""

    provider: str
    passed: bool
    reason: str
    started: bool = True  # False: it is offered, but its device or libraries are missing


def wanted_providers(names: tuple[str, ...]) -> tuple[str, ...]:
    """Short names of providers that are offered here, each once.

    Args:
        names: short names, or ALL.

    Raises:
        ModelError: one is not offered here; those that are are listed.
    """
    found: list[str] = []
    for name in names:
        found += available() if name == ALL else chosen(name, "--provider", special=ALL)
    return tuple(dict.fromkeys(found))


def try_providers(
    model: Path, providers: tuple[str, ...], inputs: Mapping[str, Array], *, limit_s: float
) -> Iterator[Answered]:
    """The model on each provider.

    Args:
        model: a file that loads and answers on the CPU.
        providers: from `wanted_providers`.
        inputs: by name, as the contract's.
        limit_s: of one run.
    """
    session = StudentSession(model, limit_s=limit_s)
    # expected: [input, 512]
    expected = np.concatenate([session.run(given) for given in inputs.values()])
    for name in providers:
        try:
            other = StudentSession(model, limit_s=limit_s, provider=name)
        except ModelError as error:
            yield Answered(name, passed=False, reason=error.message, started=False)
            continue
        try:
            found = np.concatenate([other.run(given) for given in inputs.values()])
        except ModelError as error:
            yield Answered(name, passed=False, reason=error.message)
            continue
        yield compared(name, found, expected)


def compared(name: str, found: Array, expected: Array) -> Answered:
    """How near the answers [input, 512] of a provider are to those of the CPU."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return Answered(name, passed=False, reason="gives other shapes than the CPU, or values that are not finite")
    lowest, apart = float(metrics.cosines(found, expected).min()), float(np.abs(found - expected).max())
    said = f"lowest cosine to the CPU's answers {lowest:.6f}, largest difference {apart:.1e}, {len(found)} inputs"
    if not lowest >= MIN_COSINE:
        return Answered(name, passed=False, reason=f"{said} (expected: a cosine of {MIN_COSINE} or more)")
    return Answered(name, passed=True, reason=said)
