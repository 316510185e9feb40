"""`ingest --verify`: what the store and the audio cache hold, as one report. Reads only; needs no network.

Cost: one read of the vectors in blocks, and one look at every audio file's directory entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from student_clap.config.runtime.text import readable_bytes
from student_clap.config.schema import Config
from student_clap.ingest.cache import partial
from student_clap.ingest.cache.files import is_cached
from student_clap.ingest.rows.row_index import blocks
from student_clap.ingest.vectors.unit_vector import UNIT_TOLERANCE
from student_clap.store import FeatureStore, State

SHOWN_FAILURES = 100
_BLOCK_ROWS = 4096


def report(config: Config, *, all_failures: bool = False) -> str:
    """The report's text.

    Args:
        config: names the store and the audio cache.
        all_failures: list every failure, not the first SHOWN_FAILURES.

    Raises:
        StoreError: there is no store.
    """
    store = FeatureStore.open(config.store.path)
    states = store.states()
    lines = [f"store {store.path}", _line("teacher", store.teacher_name), *_track_lines(store, states)]
    if store.n_tracks:
        lines += [*_vector_lines(store), *_segment_lines(store)]
        lines += [*_audio_lines(store, config.ingest.cache_dir), *_feature_lines(store)]
    failed = [int(r) for r in np.flatnonzero(states == State.FAILED)]
    waiting = [row for row, error in _texts(store, "error") if error and states[row] == State.LISTED]
    limit = None if all_failures else SHOWN_FAILURES
    lines += _failure_lines("failed; `ingest --retry-failed` tries the downloads again", store, failed, limit)
    lines += _failure_lines("not fetched yet; the next `ingest` tries again", store, waiting, limit)
    return "\n".join(lines)


def _texts(store: FeatureStore, column: str) -> Iterator[tuple[int, str]]:
    """(row, text) of a text column, a block in memory at a time."""
    for begin, end in blocks(store.n_tracks):
        yield from enumerate(store.strings(column, begin, end), begin)


def _line(name: str, text: str) -> str:
    return f"  {name:<12}{text}"


def _track_lines(store: FeatureStore, states: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Iterator[str]:
    counts = Counter(states.tolist())
    by_state = ", ".join(f"{counts[s]} {s.name.lower()}" for s in State if s != State.ABSENT)
    yield _line("tracks", f"{store.n_tracks}: {by_state}")
    servers = Counter(name for _, name in _texts(store, "server_id"))
    if len(servers) > 1:
        yield _line("servers", ", ".join(f"{name} {n}" for name, n in sorted(servers.items())))


def _vector_lines(store: FeatureStore) -> Iterator[str]:
    without, off_unit, shortest, longest = 0, 0, np.inf, -np.inf
    for begin in range(0, store.n_tracks, _BLOCK_ROWS):
        # norms: [track]
        norms = np.linalg.norm(store.teacher(begin, begin + _BLOCK_ROWS), axis=1)
        finite = norms[np.isfinite(norms)]
        without += len(norms) - len(finite)
        if len(finite):
            off_unit += int(np.count_nonzero(np.abs(finite - 1) > UNIT_TOLERANCE))
            shortest, longest = min(shortest, float(finite.min())), max(longest, float(finite.max()))
    present = store.n_tracks - without
    yield _line("vectors", f"{present} present, {without} missing (NaN)")
    if present:
        off = f", {off_unit} OFF by more than {UNIT_TOLERANCE:g}" if off_unit else ""
        yield _line("norms", f"{shortest:.6f} to {longest:.6f}{off}")


def _segment_lines(store: FeatureStore) -> Iterator[str]:
    # n_segments: [track]
    n_segments = store.n_segment_teacher()
    if n_segments.any():
        yield _line("segments", f"{int(n_segments.sum())} vectors, of {int(np.count_nonzero(n_segments))} tracks")


def _audio_lines(store: FeatureStore, cache_dir: Path) -> Iterator[str]:
    made = np.zeros(store.n_tracks, np.bool_)
    for recipe in store.recipes().values():
        made |= store.features(recipe).made()
    files, sizes = Counter[str](), Counter[str]()
    for row, audio in _texts(store, "audio"):
        if not audio:
            continue
        try:
            n_bytes = (cache_dir / audio).stat().st_size
        except OSError:
            files["removed" if made[row] and is_cached(audio) else "missing"] += 1
        else:
            where = "cache" if is_cached(audio) else "in place"
            files[where] += 1
            sizes[where] += n_bytes
    present = f"{files['cache'] + files['in place']} files present ({readable_bytes(sizes.total())})"
    where = f"in {cache_dir}"
    if files["in place"]:
        here = f"{files['in place']} of them ({readable_bytes(sizes['in place'])}) where they lie"
        where = f"{here}, the others {where}" if files["cache"] else "where they lie"
    yield _line("audio", f"{present}, {files['missing']} missing, {where}")
    if files["removed"]:
        yield _line("removed", f"{files['removed']} files whose features are made")
    n_partial, n_bytes = partial.usage(cache_dir)
    if n_partial:
        yield _line("partial", f"{n_partial} files ({readable_bytes(n_bytes)}), which the next `ingest` goes on with")


def _feature_lines(store: FeatureStore) -> Iterator[str]:
    recipes = store.recipes()
    if not recipes:
        yield _line("features", "none yet; `student-clap featurize` makes them")
    for name, recipe in recipes.items():
        n_samples = store.features(recipe).n_samples()
        made, failed = int(np.count_nonzero(n_samples > 0)), int(np.count_nonzero(n_samples < 0))
        yield _line("features", f"{name}: {made} made, {failed} failed, {store.n_tracks - made - failed} not made")


def _failure_lines(what: str, store: FeatureStore, rows: list[int], limit: int | None) -> Iterator[str]:
    if not rows:
        return
    yield ""
    yield f"{len(rows)} {what}"
    shown = rows[:limit]
    for begin, end in blocks(store.n_tracks):
        here = [row - begin for row in shown if begin <= row < end]
        if here:
            columns = [store.strings(name, begin, end) for name in ("track_id", "title", "error")]
            for track_id, title, error in ([column[at] for column in columns] for at in here):
                yield f"  {track_id}  {title}: {error}"
    if limit is not None and len(rows) > limit:
        yield f"  ... and {len(rows) - limit} more; --all lists them"
