"""Failures by reason: those of ingest and of each recipe, put together where they differ in names and numbers alone.

Cost: reads the texts of those blocks of rows that have a failure, and no others.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.text import one_line
from student_clap.store import FeatureStore, State, row_blocks

_NAMES = re.compile(r"'[^']*'|\"[^\"]*\"|(?:[A-Za-z]:)?[^\s:;,()]*[/\\][^\s:;,()]*")
_NUMBERS = re.compile(r"\d+\.\d+|\d{4,}")
_LONGEST = 120
_READ = 1000  # characters of a reason; ours are shorter, and a name is looked for from each of them


@dataclass(frozen=True)
class Failures:
    """Tracks that a stage could not use, for one reason."""

    stage: str  # ingest, or featurize and the recipe
    reason: str
    tracks: int


def failures(store: FeatureStore) -> list[Failures]:
    """The failures, the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    failed = store.states() == State.FAILED
    counts.update(("ingest", reason) for reason in _reasons(failed, lambda b, e: store.strings("error", b, e)))
    for name, recipe in store.recipes().items():
        features = store.features(recipe)
        counts.update((f"featurize {name}", reason) for reason in _reasons(features.n_samples() < 0, features.errors))
    return [Failures(stage, reason, n) for (stage, reason), n in counts.most_common()]


def kind_of_reason(text: str) -> str:
    """A reason without what is one track's own.

    >>> kind_of_reason("/music/a b.flac is not audio: it has 12345 bytes")
    '... b.flac is not audio: it has N bytes'
    >>> kind_of_reason("it is gone from the media server (404)")
    'it is gone from the media server (404)'
    """
    return (
        one_line(_NUMBERS.sub("N", _NAMES.sub("...", one_line(text, limit=_READ))), limit=_LONGEST) or "no reason given"
    )


def _reasons(failed: npt.NDArray[np.bool_], texts: Callable[[int, int], list[str]]) -> list[str]:
    found = []
    for begin, end in row_blocks(len(failed)):
        rows = np.flatnonzero(failed[begin:end]).tolist()
        if rows:
            block = texts(begin, end)
            found += [kind_of_reason(block[row]) for row in rows]
    return found
