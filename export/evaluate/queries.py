"""Text queries as vectors: from an .npz, or made of texts by AudioMuse-AI's own text model.

An .npz may hold `name` and `vector` (also `names`, `labels`; `vectors`, `embeddings`), or one array per query under the
query's name, as AudioMuse-AI's clap_other_feature_text_embeddings.npz. Nothing in it is unpickled. Vectors come out
with unit length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.formats.npz import ArchiveError, open_npz
from student_clap.config.runtime.text import reason
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.export.evaluate.text_figures import Queries

_NAMES, _VECTORS = ("name", "names", "label", "labels"), ("vector", "vectors", "embedding", "embeddings")


class QueryError(click.ClickException):
    """The queries cannot be used. The message names the file and the remedy."""


def read_queries(path: Path) -> Queries:
    """Query vectors out of an .npz.

    Raises:
        QueryError: there is no such file, or it holds something else.
    """
    try:
        with open_npz(path) as archive:
            arrays = {name: archive[name] for name in archive.names}
    except FileNotFoundError:
        raise QueryError(f"there is no {path}: --queries") from None
    except (OSError, ArchiveError) as error:
        raise QueryError(
            f"{path} cannot be read as .npz without pickles: {reason(error)}; --queries takes names and vectors"
        ) from error
    names_key = next((key for key in _NAMES if key in arrays), None)
    vectors_key = next((key for key in _VECTORS if key in arrays), None)
    if names_key and vectors_key and arrays[names_key].dtype.kind in "US":
        names = arrays[names_key].ravel().tolist()
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]
        return checked(names, arrays[vectors_key], str(path))
    return checked(list(arrays), _stacked(arrays, path), str(path))


def read_texts(path: Path) -> list[str]:
    """Queries out of a text file: one a line; empty lines and those that begin with # are none.

    Raises:
        QueryError: it cannot be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"{path} cannot be read as UTF-8 text: {error}") from error
    texts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not texts:
        raise QueryError(f"{path} has no query; expected one a line")
    return texts


def checked(names: Sequence[str], vectors: npt.NDArray[np.generic], source: str) -> Queries:
    """Queries of unit length, each name once (its first vector).

    Raises:
        QueryError: not [query, 512] finite numbers that point somewhere, or not a name for each.
    """
    if vectors.dtype.kind not in "fiu" or vectors.shape != (len(names), EMBEDDING_DIM):
        raise QueryError(
            f"{source}: {len(names)} names with vectors of shape {list(vectors.shape)} and type {vectors.dtype}; "
            f"expected [{len(names)}, {EMBEDDING_DIM}] numbers"
        )
    if not names:
        raise QueryError(f"{source} has no query")
    vectors = vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1)
    bad = [name for name, length in zip(names, lengths, strict=True) if not (np.isfinite(length) and length > 0)]
    if bad:
        raise QueryError(f"{source}: the vector of {bad[0]!r} is zero or not finite ({len(bad)} such); remove it")
    first = sorted({name: at for at, name in reversed(list(enumerate(names)))}.values())
    unit = (vectors / lengths[:, None]).astype(np.float32)
    return Queries(tuple(names[at] for at in first), unit[first], source)


def joined(parts: Sequence[Queries]) -> Queries | None:
    """All queries in one; None for none."""
    if not parts:
        return None
    names = [name for part in parts for name in part.names]
    return checked(names, np.concatenate([part.vectors for part in parts]), ", ".join(part.source for part in parts))


def _stacked(arrays: Mapping[str, npt.NDArray[np.generic]], path: Path) -> npt.NDArray[np.generic]:
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or array.shape not in ((EMBEDDING_DIM,), (1, EMBEDDING_DIM)):
            raise QueryError(
                f"{path}: {name!r} has shape {list(array.shape)} and type {array.dtype}; expected a vector of "
                f"{EMBEDDING_DIM} numbers per query, or the arrays 'name' and 'vector'"
            )
    return np.stack([array.reshape(EMBEDDING_DIM) for array in arrays.values()]) if arrays else np.empty((0, 0))
