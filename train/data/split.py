"""What is held out: whole artists, by a pure function of their names.

Guarantee: tracks of one artist are on one side. With ``hash`` an artist's side depends on nothing but the name (case,
width and outer blanks aside), `folds` and `fold`, so it stays when the library grows. With ``sorted`` every `folds`-th
of the sorted names is held out, which gives even parts where artists are few.

Tracks without an artist's name are never held out: nothing says which of them belong together, and a held-out track
whose neighbour on the album was trained on would flatter.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from student_clap.config.schema import SplitConfig


def held_out(artists: Sequence[str], split: SplitConfig) -> npt.NDArray[np.bool_]:
    """Which tracks are held out.

    Args:
        artists: [track] names; empty where unknown.
        split: method, number of parts, and which part is held out.

    Returns:
        [track] True where held out.
    """
    names = {artist for artist in artists if artist.strip()}
    if split.method == "sorted":
        chosen = set(sorted(names)[split.fold :: split.folds])
    else:
        chosen = {artist for artist in names if _fold_of(artist, split.folds) == split.fold}
    return np.fromiter((artist in chosen for artist in artists), np.bool_, len(artists))


def _fold_of(artist: str, folds: int) -> int:
    name = unicodedata.normalize("NFKC", artist).casefold().strip()
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % folds
