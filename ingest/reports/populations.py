"""The search for vectors of two models in one library, in the vectors alone, after every listing.

Nothing in a database says which model made which vector, and one that was upgraded without a new analysis holds two
kinds. Four numbers per vector are looked at: the logarithm of its energy outside the leading RANK principal
directions of the sample (a student has learnt the leading ones and leaves less outside), and its places along the first
three (models of different make have different means). A number tells two kinds apart where two Gaussians describe its
distribution clearly better than one (GAIN, in BIC per track), both kinds have a share (LEAST_SHARE), and the kinds are
not styles of music: styles follow artists, so tracks of one artist would fall on one side. STRADDLE is how often two
tracks of an artist fall on different sides, relative to any two tracks.

Guarantee: at most SAMPLE rows are looked at, at least LEAST_ROWS are needed; the sample follows from a seed.
Cost: one read of the vectors in blocks, 40 MB and about a second, whatever the size of the library.
bench/populations.py measures how often it is right (docs/log.md has the table). It does not find a very good student
next to its teacher, nor one model behind two front-ends, nor models that embedded different artists:
`--probe` does.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from student_clap.store import FeatureStore, State, row_blocks

SAMPLE = 4096
LEAST_ROWS = 500
RANK = 20
GAIN_RESIDUAL, GAIN_PLACE = 0.12, 0.5
STRADDLE = 0.85
LEAST_SHARE = 0.05
_LEAST_PAIRED = 100  # rows by artists with two tracks or more
_BLOCK_ROWS = 1024  # the store's chunk of vectors
_SEED = 0
_TINY = 1e-12
_CONVERGED = 1e-2  # of the logarithm of the likelihood
_LEAST_VARIANCE = 1e-2  # added to a side's, so that no side shrinks to a point
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """How one number divides the sample in two."""

    number: str  # "residual", or "place 1" to "place 3"
    gain: float  # BIC per row, of two Gaussians over one
    share: float  # of the smaller side
    straddle: float

    @property
    def convinces(self) -> bool:
        """Whether the two sides are two models rather than chance or styles of music."""
        gain = GAIN_RESIDUAL if self.number == "residual" else GAIN_PLACE
        return self.gain >= gain and self.share >= LEAST_SHARE and self.straddle >= STRADDLE


def populations_warning(store: FeatureStore, server_id: str) -> str | None:
    """The text of a warning where the vectors of a server's rows come from two models, else None."""
    vectors, artists = sample_vectors(store, server_id)
    found = [split for split in splits(vectors, artists) if split.convinces]
    if not found:
        return None
    share = max(found, key=lambda split: split.gain).share
    return (
        f"the vectors look like those of two models, about {share:.0%} and {1 - share:.0%} of the tracks; a student"
        " would learn a mixture. `student-clap ingest --probe teacher.onnx` tells which tracks are of which"
    )


def splits(vectors: npt.NDArray[np.float32], artists: list[str]) -> list[Split]:
    """How the sample divides along each of the numbers; [] where it is too small to say.

    Args:
        vectors: [row, 512] unit.
        artists: [row]; "" where it is not known.
    """
    names, artist, n_of = np.unique(np.array(artists, np.dtypes.StringDType()), return_inverse=True, return_counts=True)
    paired = (n_of[artist] > 1) & (np.array(artists, dtype=object) != "")
    if len(vectors) < LEAST_ROWS or np.count_nonzero(paired) < _LEAST_PAIRED:
        return []
    centred = vectors.astype(np.float64)
    centred -= centred.mean(axis=0)
    # directions: [512, rank], the leading ones first
    directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :RANK]
    # places: [row, rank]
    places = centred @ directions
    outside = (centred**2).sum(axis=1) - (places**2).sum(axis=1)
    numbers = {"residual": np.log(np.maximum(outside, _TINY)), **{f"place {i + 1}": places[:, i] for i in range(3)}}
    found = []
    for name, number in numbers.items():
        gain, side = _two_gaussians(number)
        share = float(min(side.mean(), 1 - side.mean()))
        found.append(Split(name, gain, share, _straddle(side[paired], artist[paired], len(names))))
    return found


def sample_vectors(store: FeatureStore, server_id: str) -> tuple[npt.NDArray[np.float32], list[str]]:
    """([row, 512], [row] artists) of at most SAMPLE random rows of a server that have a vector and are not gone."""
    is_ours = np.asarray(store.states() != State.GONE)
    chances = np.random.default_rng(_SEED).random(store.n_tracks)
    # Twice as many as wanted, so that rows without a vector leave enough.
    kept = np.sort(np.argsort(np.where(is_ours, chances, 2.0), kind="stable")[: 2 * SAMPLE])
    vectors, artists = [], []
    for begin, end in row_blocks(store.n_tracks):
        servers, names = store.strings("server_id", begin, end), store.strings("artist", begin, end)
        rows = [int(row) for row in kept[(kept >= begin) & (kept < end)] if servers[row - begin] == server_id]
        for first in range(begin, end, _BLOCK_ROWS):
            last = min(first + _BLOCK_ROWS, end)
            here = [row for row in rows if first <= row < last and is_ours[row]]
            if here:
                block = store.teacher(first, last)[np.array(here) - first]
                finite = np.asarray(np.isfinite(block).all(axis=1))
                vectors.append(block[finite])
                artists += [names[row - begin] for row, good in zip(here, finite, strict=True) if good]
    if not vectors:
        return np.empty((0, 512), np.float32), []
    found = np.concatenate(vectors)
    some = np.sort(np.random.default_rng(_SEED).permutation(len(found))[:SAMPLE])
    return found[some], [artists[i] for i in some]


def _two_gaussians(number: Floats) -> tuple[float, Floats]:
    """(BIC gained per row over one Gaussian, [row] probability of the second side); the best of three starts."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    n = len(number)
    # values: [row, 1]
    values = ((number - number.mean()) / max(float(number.std()), _TINY))[:, None]
    one = GaussianMixture(1).fit(values)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the place reached by then is good enough
        for quantile in (0.1, 0.5, 0.9):
            high = np.where(values > np.quantile(values, quantile), 0.95, 0.05)
            # weights: [row, side]
            weights = np.concatenate([1 - high, high], axis=1)
            mass = weights.sum(axis=0)
            means = (weights * values).sum(axis=0) / mass
            variances = (weights * (values - means) ** 2).sum(axis=0) / mass + _LEAST_VARIANCE
            two = GaussianMixture(
                2,
                covariance_type="diag",
                reg_covar=_LEAST_VARIANCE,
                tol=_CONVERGED / n,
                weights_init=mass / n,
                means_init=means[:, None],
                precisions_init=1 / variances[:, None],
            )
            found.append(two.fit(values))
    best = min(found, key=lambda two: float(two.bic(values)))
    second: Floats = best.predict_proba(values)[:, 1]
    return float(one.bic(values) - best.bic(values)) / n, second


def _straddle(side: Floats, artist: npt.NDArray[np.int64], n_artists: int) -> float:
    """How often two tracks of one artist fall on different sides, relative to any two tracks; 1: as if by chance."""
    count = np.bincount(artist, minlength=n_artists).astype(np.float64)
    total = np.bincount(artist, side, n_artists)
    itself = np.bincount(artist, side * (1 - side), n_artists)
    several = count > 1
    count, total, itself = count[several], total[several], itself[several]
    # Every artist's chance that two of its tracks differ, weighted by its tracks.
    differ = 2 * (total * (count - total) - itself) / (count * (count - 1))
    expected = 2 * side.mean() * (1 - side.mean())
    return float((differ * (count - 1)).sum() / (count - 1).sum() / max(expected, _TINY))
