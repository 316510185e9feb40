"""Views, the changed copies of tracks: what they are called, and which other track is heard beneath.

Guarantee: a pure function of the view's number and the track's row, on every machine and with every version of numpy.
It is part of the store's format: a trainer that holds artists out has to know whose music is in a view.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_MARK = ".view-"
_MIXED = 0.5  # share of the views that have another track beneath
_NEAR = 256  # rows before the track's, of which one is beneath: a cache of bounded size may still have its audio
_BITS = 53  # of a number in [0, 1)


def view_name(name: str, view: int) -> str:
    """What a view of features, or of a set of segment vectors, is called that have that name.

    >>> view_name("audiomuse", 1)
    'audiomuse.view-1'
    """
    return f"{name}{_MARK}{view}" if view else name


def command_of(name: str) -> str:
    """The command that makes the features, or has a teacher hear what is in the set, of that name."""
    return "student-clap featurize --teacher MODEL --views N" if _MARK in name else "student-clap featurize"


def numbers(view: int, row: int, n: int) -> npt.NDArray[np.float64]:
    """[n] numbers in [0, 1) that a view of the track in `row` is made by. The first two say what is beneath."""
    raw = np.random.PCG64(np.random.SeedSequence((view, row))).random_raw(n)
    return (np.asarray(raw, np.uint64).reshape(n) >> np.uint64(64 - _BITS)) / float(1 << _BITS)


def with_above(view: int, rows: Sequence[int], n_tracks: int) -> list[int]:
    """`rows`, and those of whose views one of them is beneath, rising.

    Args:
        view: number of the view; 0: the tracks, which have nothing beneath.
        rows: of tracks.
        n_tracks: of the store.
    """
    if not view:
        return sorted(set(rows))
    wanted = set(rows)
    near = {above for row in wanted for above in range(row + 1, min(row + _NEAR, n_tracks - 1) + 1)}
    return sorted(wanted | {above for above in near if beneath(view, above) in wanted})


def beneath(view: int, row: int) -> int | None:
    """The row of the track that is heard beneath, an earlier one; None where there is none.

    Args:
        view: number of the view, from 1.
        row: of the track.
    """
    mixed, which = numbers(view, row, 2)
    near = min(row, _NEAR)
    return row - near + int(which * near) if row and mixed < _MIXED else None
