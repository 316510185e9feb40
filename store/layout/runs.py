"""Runs of neighbouring columns, which stand for many columns with two numbers.

What a batch needs of a strip are a few runs of hundreds of columns. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Run = tuple[int, int]  # the first column, and the one behind the last


def runs_of(columns: npt.NDArray[np.integer]) -> list[Run]:
    """The runs of `columns`, [column] in any order, one after the other.

    >>> runs_of(np.array([4, 5, 6, 9, 2, 3]))
    [(4, 7), (9, 10), (2, 4)]
    """
    if not len(columns):
        return []
    cuts = np.flatnonzero(np.diff(columns) != 1)
    firsts, lasts = columns[np.append(0, cuts + 1)], columns[np.append(cuts, -1)] + 1
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def n_columns(runs: Iterable[Run]) -> int:
    """How many columns they are."""
    return sum(end - begin for begin, end in runs)


def union(pieces: npt.NDArray[np.int64], lengths: Sequence[int]) -> tuple[list[Run], npt.NDArray[np.int64]]:
    """The columns that some pieces have between them, and where each piece begins within those.

    Args:
        pieces: [segment, piece] first columns.
        lengths: [piece] columns of each, 1 or more.

    Returns:
        Runs, rising and apart, and [segment, piece].

    >>> union(np.array([[7, 20], [9, 4]]), [3, 1])
    ([(4, 5), (7, 12), (20, 21)], array([[1, 6],
           [3, 0]]))
    """
    begins: list[int] = pieces.reshape(-1).tolist()
    ends = [begin + length for begin, length in zip(begins, len(pieces) * tuple(lengths), strict=True)]
    runs: list[Run] = []
    within = begins.copy()
    first, last, before = 0, -1, 0  # the run at hand, and the columns before it
    for piece in sorted(range(len(begins)), key=begins.__getitem__):
        begin, end = begins[piece], ends[piece]
        if begin > last:
            if last >= 0:
                runs.append((first, last))
                before += last - first
            first, last = begin, end
        elif end > last:
            last = end
        within[piece] = before + begin - first
    if last >= 0:
        runs.append((first, last))
    return runs, np.array(within, np.int64).reshape(pieces.shape)
