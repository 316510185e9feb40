"""Linear layers in closed form: ridge regression from sums over rows, and a mix of two layers that is one layer.

Guarantee: pure functions of the rows in their order, in double precision.
Cost: two square matrices of doubles, 4 MB for 512 features and 512 targets, however many rows there are.
Source of the regression: Hoerl and Kennard (1970).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """A linear layer: features @ weight.T + bias."""

    weight: Matrix  # [output, feature]
    bias: Matrix  # [output]

    def rms_length(self, features: Moments) -> float:
        """Root mean square of the length of the layer's outputs over the rows of `features`."""
        mean = features.sum_x / features.rows
        # E|Wx + b|^2 = tr(W E[xx'] W') + 2 b'W E[x] + |b|^2
        squares = np.sum(self.weight @ (features.xx / features.rows) * self.weight)
        return float(np.sqrt(squares + 2 * self.bias @ self.weight @ mean + self.bias @ self.bias))


class Moments:
    """Sums over rows of features and their targets.

    Args:
        n_features: of a row.
        n_targets: of a row; 0 where the features alone are wanted.
    """

    def __init__(self, n_features: int, n_targets: int = 0) -> None:
        self.rows = 0
        self.sum_x = np.zeros(n_features)
        self.sum_y = np.zeros(n_targets)
        self.xx = np.zeros((n_features, n_features))
        self.xy = np.zeros((n_features, n_targets))

    def add(self, features: npt.NDArray[np.floating], targets: npt.NDArray[np.floating] | None = None) -> None:
        """Count rows in.

        Args:
            features: [row, feature].
            targets: [row, target].
        """
        x = np.asarray(features, np.float64)
        y = np.zeros((len(x), 0)) if targets is None else np.asarray(targets, np.float64)
        self.rows += len(x)
        self.sum_x += x.sum(axis=0)
        self.sum_y += y.sum(axis=0)
        self.xx += x.T @ x
        self.xy += x.T @ y


def ridge(sums: Moments, strength: float) -> Layer:
    """The layer with the least squared error over the rows, plus a penalty on its weights but not on its bias.

    Args:
        sums: over the rows.
        strength: of the penalty, in units of the mean over the features of their summed squared deviations.

    Raises:
        ValueError: the rows have no finite spread, so there is nothing to fit.
    """
    n_features = len(sums.sum_x)
    mean_x, mean_y = (total / max(1, sums.rows) for total in (sums.sum_x, sums.sum_y))
    # centred: [feature, feature] and [feature, target]
    spread = sums.xx - sums.rows * np.outer(mean_x, mean_x)
    shared = sums.xy - sums.rows * np.outer(mean_x, mean_y)
    penalty = strength * float(np.trace(spread)) / n_features
    if not (np.isfinite(penalty) and penalty > 0 and np.isfinite(shared).all()):
        raise ValueError(f"{sums.rows} rows of features without a finite spread; there is nothing to fit")
    weight = solve(spread + penalty * np.eye(n_features), shared, assume_a="pos").T
    return Layer(weight, mean_y - weight @ mean_x)


def mix(new: Layer, old: Layer, share: float, features: Moments) -> Layer:
    """One layer whose outputs are `share` of `new`'s and the rest of `old`'s, each brought to a root mean square of 1.

    What is averaged so is nearly the average of the two unit vectors, which no single layer could give.

    Args:
        new: a layer.
        old: another one.
        share: 0 to 1.
        features: the rows over which lengths are measured.
    """
    a, b = share / new.rms_length(features), (1 - share) / old.rms_length(features)
    return Layer(a * new.weight + b * old.weight, a * new.bias + b * old.bias)
