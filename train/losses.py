"""What the student is asked for: its track vector beside the teacher's.

The student sees segments; the teacher's vector is the mean of a track's segment vectors, brought to unit length. So
the student's segment vectors are averaged and normalised the same way before they are compared. On unit vectors
the mean square over 512 dimensions is (1 - cos) / 256: the two terms pull in one direction and differ in scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_EPSILON = 1e-6


def track_vectors(segment_vectors: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the segments of each track, at unit length.

    Args:
        segment_vectors: [segment, 512].
        weights: [track, segment], each row sums to 1 over the track's own segments and is 0 elsewhere.

    Returns:
        [track, 512].
    """
    return F.normalize(weights @ segment_vectors, dim=-1, eps=_EPSILON)


def distillation_loss(
    student: Tensor, teacher: Tensor, *, mse_weight: float, cosine_weight: float
) -> tuple[Tensor, Tensor]:
    """Loss of each track: mse_weight * mean square over the dimensions + cosine_weight * (1 - cos).

    Args:
        student: [track, 512] unit vectors.
        teacher: [track, 512] unit vectors.
        mse_weight: of the mean square difference.
        cosine_weight: of 1 - cosine.

    Returns:
        Losses [track] and cosines [track].
    """
    cosine = F.cosine_similarity(student, teacher, dim=-1)
    mse = torch.square(student - teacher).mean(dim=-1)
    return mse_weight * mse + cosine_weight * (1 - cosine), cosine
