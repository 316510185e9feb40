"""Whose vectors are these: the conclusion from the cosines of a model's vectors to the stored ones.

Every track's cosine to its stored vector is judged by itself:

    from SAME, 0.995   the same model behind the same front-end. Another decoder or resampler changes less: production's
                       vectors come back at 0.9999 and above. The rest is room for a file that was encoded again since.
    from NEAR, 0.95    the same model behind another front-end: 0.97 to 0.99 is usual between STFT hops and between mels
                       (AudioMuse-AI up to v0.8 used a hop of 320 samples, later ones 480); a student would have to be
                       very good to come here.
    below              another model, or another recording.

Nine tracks of ten decide (MOST), so that a file that was replaced does not; between one and nine of ten it is a
mixture.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime import screen

SAME = 0.995
NEAR = 0.95
MOST = 0.9
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 1.0)
# hop of the teacher's STFT in samples (None: the model takes waveforms) -> [track] cosines
Cosines = Mapping[int | None, npt.NDArray[np.floating]]


def describe(cosines: Cosines, others: npt.NDArray[np.floating] | None = None) -> str:
    """The distribution of the cosines, as a table of a line per hop.

    Args:
        cosines: as `verdict`.
        others: [pair] of vectors of different tracks, for comparison; a line more.
    """
    compared = {"its own input" if hop is None else f"STFT hop {hop}": values for hop, values in cosines.items()}
    if others is not None:
        compared["of different tracks"] = others
    rows = [
        (name, *(f"{value:.4f}" for value in np.quantile(values.astype(np.float64), _QUANTILES)))
        for name, values in compared.items()
    ]
    head = ("cosine to the stored vectors", "min", "5 %", "25 %", "median", "max")
    return screen.table(rows, head, right=(1, 2, 3, 4, 5), indent=2)


def verdict(cosines: Cosines) -> str:
    """The conclusion from the cosines, in a sentence or two.

    Args:
        cosines: for every hop that was tried (None: the model takes waveforms) [track], the same tracks each time; not
            empty.
    """
    for hop, of_hop in cosines.items():
        if np.mean(of_hop >= SAME) >= MOST:
            odd = int(np.count_nonzero(of_hop < SAME))
            tail = f" {odd} of {len(of_hop)} differ: their files may have been replaced since." if odd else ""
            if hop == next(iter(cosines)):
                return f"the same model made the vectors.{tail}"
            return f"the same model made the vectors, with STFT hop {hop}: set teacher.hop_length_stft: {hop}.{tail}"
    # best: [track] by whichever hop fits it best
    best = np.max(list(cosines.values()), axis=0)
    same = best >= SAME
    n, n_same = len(best), int(np.count_nonzero(same))
    if n_same >= MOST * n:
        each = ", ".join(f"{int(np.count_nonzero(c >= SAME))} with hop {hop}" for hop, c in cosines.items())
        return f"the same model made the vectors, but behind two front-ends: {each}."
    if np.mean(best >= NEAR) >= MOST:
        if n_same > (1 - MOST) * n:
            return (
                f"the same model, but {n - n_same} of {n} tracks behind another front-end or from other files (cosine"
                f" {best[~same].min():.3f} to {best[~same].max():.3f})."
            )
        hops = ", ".join(str(hop) for hop in cosines if hop is not None)
        return (
            "the same model behind another front-end (0.97 to 0.99 is usual between two), or a student very close to it"
            + (f"; no hop that was tried fits exactly ({hops})." if hops else ".")
        )
    if n_same > (1 - MOST) * n:
        return (
            f"a mixture: {n_same} of {n} vectors are this model's, {n - n_same} are another's (cosine"
            f" {best[~same].min():.3f} to {best[~same].max():.3f}). Let AudioMuse-AI analyse the library again with one"
            " model, or begin a store of the audio alone (ingest.vectors: none) and give it vectors with featurize"
            " --teacher."
        )
    return f"another model made the vectors (median cosine {np.median(best):.3f})."
