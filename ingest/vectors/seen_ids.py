"""Which of many ids came before: 8 bytes each, as sorted hashes.

Two ids are taken for one only where their 64-bit hashes are equal: for a million ids, one chance in thirty million.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class SeenIds:
    """A set of ids that only grows. Cost: `add` copies the hashes, so ids should come some hundred at a time."""

    def __init__(self) -> None:
        self._hashes = np.empty(0, np.int64)  # rising

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, ids: Sequence[str]) -> list[bool]:
        """Remember `ids`. Returns whether each is new; of equal ones the first is.

        >>> seen = SeenIds()
        >>> seen.add(["a", "b", "a"]), seen.add(["c", "b"]), len(seen)
        ([True, True, False], [True, False], 3)
        """
        hashes = _hashes(ids)
        _, first = np.unique(hashes, return_index=True)
        new = np.zeros(len(hashes), np.bool_)
        new[first] = True
        new &= ~self._known(hashes)
        added = np.sort(hashes[new])
        self._hashes = np.insert(self._hashes, np.searchsorted(self._hashes, added), added)
        return [bool(is_new) for is_new in new]

    def known(self, ids: Sequence[str]) -> list[bool]:
        """Whether each of `ids` came."""
        return [bool(is_known) for is_known in self._known(_hashes(ids))]

    def _known(self, hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        at = np.searchsorted(self._hashes, hashes)
        inside = at < len(self._hashes)
        found = np.zeros(len(hashes), np.bool_)
        found[inside] = self._hashes[at[inside]] == hashes[inside]
        return found


def _hashes(ids: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.array([hash(text) for text in ids], np.int64)
