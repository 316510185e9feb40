"""`ingest --verify`: the content of the store and of the audio cache, as one report. Reads only; needs no network.

Cost: one read of the vectors in blocks, and one look at every audio file's directory entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from student_clap.config.runtime import screen
from student_clap.config.runtime.text import counted, one_line, readable_bytes
from student_clap.config.schema import Config
from student_clap.ingest.cache import partial
from student_clap.ingest.cache.files import is_cached
from student_clap.ingest.vectors.base import UNIT_TOLERANCE
from student_clap.store import FeatureStore, State, row_blocks

SHOWN_FAILURES = 100
Row = tuple[str, str]  # a name and its value


def report(config: Config, *, all_failures: bool = False) -> str:
    """The report's text.

    Args:
        config: names the store and the audio cache.
        all_failures: list every failure, not the first SHOWN_FAILURES.

    Raises:
        StoreError: there is no store.
    """
    store = FeatureStore.open(config.store.path)
    lines = [f"store {store.path}", screen.table(_rows(store, config), indent=2)]
    failed, waiting = _failed_and_waiting(store)
    limit = None if all_failures else SHOWN_FAILURES
    lines += _failure_lines("failed; `ingest --retry-failed` tries the downloads again", store, failed, limit)
    lines += _failure_lines("not fetched yet; the next `ingest` tries again", store, waiting, limit)
    return "\n".join(lines)


def as_object(config: Config) -> dict[str, Any]:
    """The report for other programs: the states counted, every failure, and the texts of its lines."""
    store = FeatureStore.open(config.store.path)
    counts = Counter(store.states().tolist())
    failed, waiting = _failed_and_waiting(store)
    return {
        "store": store.path,
        "teacher": store.teacher_name,
        "tracks": store.n_tracks,
        "states": {state.name.lower(): counts[state] for state in State if state != State.ABSENT},
        "lines": [{"name": name, "text": text} for name, text in _rows(store, config)],
        "failed": list(_failures(store, failed)),
        "not_fetched_yet": list(_failures(store, waiting)),
    }


def _rows(store: FeatureStore, config: Config) -> list[Row]:
    rows = [("teacher", store.teacher_name), *_track_rows(store, store.states())]
    if store.n_tracks:
        rows += [*_vector_rows(store), *_segment_rows(store)]
        rows += [*_audio_rows(store, config.ingest.cache_dir), *_feature_rows(store)]
    return rows


def _failed_and_waiting(store: FeatureStore) -> tuple[list[int], list[int]]:
    """The rows whose audio failed for good, and those whose audio the next ingest tries again."""
    states = store.states()
    failed = [int(r) for r in np.flatnonzero(states == State.FAILED)]
    return failed, [row for row, error in _texts(store, "error") if error and states[row] == State.LISTED]


def _texts(store: FeatureStore, column: str) -> Iterator[tuple[int, str]]:
    """(row, text) of a text column, a block in memory at a time."""
    for begin, end in row_blocks(store.n_tracks):
        yield from enumerate(store.strings(column, begin, end), begin)


def _track_rows(store: FeatureStore, states: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Iterator[Row]:
    counts = Counter(states.tolist())
    by_state = ", ".join(f"{counts[s]} {s.name.lower()}" for s in State if s != State.ABSENT)
    yield "tracks", f"{store.n_tracks}: {by_state}"
    artists = Counter(name for _, name in _texts(store, "artist"))
    nameless = artists.pop("", 0)
    yield "artists", f"{len(artists)}" + (f", and {counted(nameless, 'track')} without one" if nameless else "")
    servers = Counter(name for _, name in _texts(store, "server_id"))
    if len(servers) > 1:
        yield "servers", ", ".join(f"{name} {n}" for name, n in sorted(servers.items()))


def _vector_rows(store: FeatureStore) -> Iterator[Row]:
    without, off_unit, shortest, longest = 0, 0, np.inf, -np.inf
    for begin, end in row_blocks(store.n_tracks):
        # norms: [track]
        norms = np.linalg.norm(store.teacher(begin, end), axis=1)
        finite = norms[np.isfinite(norms)]
        without += len(norms) - len(finite)
        if len(finite):
            off_unit += int(np.count_nonzero(np.abs(finite - 1) > UNIT_TOLERANCE))
            shortest, longest = min(shortest, float(finite.min())), max(longest, float(finite.max()))
    present = store.n_tracks - without
    yield "vectors", f"{present} present, {without} missing (NaN)"
    if present:
        off = f", {off_unit} OFF by more than {UNIT_TOLERANCE:g}" if off_unit else ""
        yield "norms", f"{shortest:.6f} to {longest:.6f}{off}"


def _segment_rows(store: FeatureStore) -> Iterator[Row]:
    for name in store.segment_sets():
        # counts: [track]
        counts = store.segment_vectors(name).counts()
        if counts.any():
            of = counted(int(np.count_nonzero(counts)), "track")
            yield "segments", f"{name}: {int(counts.sum())} vectors, of {of}"


def _audio_rows(store: FeatureStore, cache_dir: Path) -> Iterator[Row]:
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
    yield "audio", f"{present}, {files['missing']} missing, {where}"
    if files["removed"]:
        yield "removed", f"{counted(files['removed'], 'file')} whose features are made"
    n_partial, n_bytes = partial.usage(cache_dir)
    if n_partial:
        yield (
            "partial",
            f"{counted(n_partial, 'file')} ({readable_bytes(n_bytes)}), which the next `ingest` goes on with",
        )


def _feature_rows(store: FeatureStore) -> Iterator[Row]:
    recipes = store.recipes()
    if not recipes:
        yield "features", "none yet; `student-clap featurize` makes them"
    for name, recipe in recipes.items():
        n_samples = store.features(recipe).n_samples()
        made, failed = int(np.count_nonzero(n_samples > 0)), int(np.count_nonzero(n_samples < 0))
        yield "features", f"{name}: {made} made, {failed} failed, {store.n_tracks - made - failed} not made"


def _failure_lines(title: str, store: FeatureStore, rows: list[int], limit: int | None) -> Iterator[str]:
    if not rows:
        return
    yield ""
    yield f"{len(rows)} {title}"
    for failure in _failures(store, rows[:limit]):
        yield f"  {one_line(failure['track_id'])}  {one_line(failure['title'])}: {one_line(failure['error'])}"
    if limit is not None and len(rows) > limit:
        yield f"  ... and {len(rows) - limit} more; --all lists them"


def _failures(store: FeatureStore, rows: list[int]) -> Iterator[dict[str, str]]:
    """Id, title and reason of each of `rows`, a block in memory at a time."""
    names = ("track_id", "title", "error")
    for begin, end in row_blocks(store.n_tracks):
        here = [row - begin for row in rows if begin <= row < end]
        if here:
            columns = [store.strings(name, begin, end) for name in names]
            yield from ({name: column[at] for name, column in zip(names, columns, strict=True)} for at in here)
