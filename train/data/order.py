"""Randomness as pure functions: the order of the tracks, the choice of segments, the seed of a step.

Guarantee: the result depends on the arguments alone, on every machine and with every version of numpy (only the raw
stream of PCG64 is used, which numpy promises not to change). Streams for different seeds, epochs or purposes have
nothing in common: the key is the SHA-256 of all of them, never a sum.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from all of `parts`, in order.

    >>> derive_seed("order", 1, 2) != derive_seed("order", 2, 1)
    True
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def epoch_order(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of `n` items in `epoch`: a permutation, [n] int64."""
    return _shuffled(n, "order", seed, epoch)


def choose_segments(n_segments: int, wanted: int | None, seed: int, epoch: int, row: int) -> npt.NDArray[np.int64]:
    """Which segments of the track in `row` are used in `epoch`.

    Args:
        n_segments: of the track.
        wanted: how many at most; None takes all.
        seed: of the run.
        epoch: counted from 0.
        row: of the track in the store.

    Returns:
        [min(n_segments, wanted)] rising, without repetition.
    """
    if wanted is None or wanted >= n_segments:
        return np.arange(n_segments)
    return np.sort(_shuffled(n_segments, "segments", seed, epoch, row)[:wanted])


def uniform(shape: tuple[int, ...], *parts: int | str) -> npt.NDArray[np.float32]:
    """Random numbers in [0, 1) of this shape, a function of `parts`."""
    raw = np.asarray(np.random.PCG64(derive_seed(*parts)).random_raw(math.prod(shape)), np.uint64)
    # 24 bits are exact in float32
    return ((raw >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)).reshape(shape)


def sample_rows(rows: npt.NDArray[np.int64], limit: int, seed: int) -> npt.NDArray[np.int64]:
    """At most `limit` of `rows`, without repetition, rising."""
    return np.sort(rows[_shuffled(len(rows), "sample", seed)[:limit]])


def share(n: int, rank: int, world_size: int) -> slice:
    """Which of `n` items belong to process `rank` of `world_size`: a run of neighbours, equal to within one.

    >>> share(5, 0, 2), share(5, 1, 2)
    (slice(0, 2, None), slice(2, 5, None))
    """
    return slice(rank * n // world_size, (rank + 1) * n // world_size)


def _shuffled(n: int, *parts: int | str) -> npt.NDArray[np.int64]:
    keys = np.random.PCG64(derive_seed(*parts)).random_raw(n)
    return np.argsort(np.asarray(keys, np.uint64).reshape(n), kind="stable")
