"""`ingest --probe teacher.onnx`: did this model make the vectors? A few tracks are embedded again and compared.

The tracks are spread over the rows, one out of every n-th part, because a library that two models have analysed was
mostly analysed by one and then by the other. The cosines are judged by `teacher.verdict`. A teacher that takes a mel is
asked with the other hop too where its own does not fit.

Guarantee: reads only, but for audio that is fetched into the cache. Cost: the model's time for the tracks, twice where
two hops are tried; 15 s of one core for four minutes of music is usual.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime import screen
from student_clap.config.runtime.machine import available_cores
from student_clap.config.runtime.text import one_line, reason
from student_clap.config.schema import Config
from student_clap.featurize.audio.decode import DecodeError, decode
from student_clap.featurize.teacher.model import NoVectorError, Teacher, TeacherError
from student_clap.featurize.teacher.verdict import MOST, SAME, describe, verdict
from student_clap.ingest.cache.files import AudioCache
from student_clap.ingest.http.errors import FetchError, SourceError, StoppedError
from student_clap.ingest.sources.base import AudioSource, Wanted
from student_clap.ingest.sources.open import open_source
from student_clap.ingest.vectors.base import VectorSourceError, parse_vector
from student_clap.ingest.vectors.open import KINDS, open_vector_source
from student_clap.store import FeatureStore

SEED = 0
_TRIES = 4  # tracks looked at in one part of the rows
_WORST = 5  # tracks shown
_BATCH_ROWS = 2048
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Probed:
    """A track of the sample."""

    track_id: str
    title: str
    stored: Vector  # [512] unit
    audio: str  # where the store says its file is; empty where it does not
    file_path: str = ""


@dataclass
class Sample:
    """The tracks with their audio, and notes on those that have none."""

    tracks: list[Probed] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def report(config: Config, model: Path, n_tracks: int, server_name: str | None = None) -> str:
    """Compare, and describe the result.

    Args:
        config: names the store, or the source of vectors where there is none yet, and the audio.
        model: the teacher's ONNX.
        n_tracks: most tracks to embed.
        server_name: name or id of the server whose tracks are taken; None takes ingest.server, else the one with the
            most tracks.

    Raises:
        VectorSourceError: the model cannot be used, or there are no vectors to compare with.
    """
    try:
        return _report(config, model, n_tracks, server_name)
    except TeacherError as error:
        raise VectorSourceError(error.message) from error


def _report(config: Config, model: Path, n_tracks: int, server_name: str | None) -> str:
    cores = available_cores()
    n_workers = min(cores, n_tracks, 8)
    teacher = Teacher(model, hop_samples=config.teacher.declared_hop, threads=max(1, cores // n_workers))
    server_id, parts, where = _candidates(config, n_tracks, server_name)
    sample = _with_audio(config, server_id, parts)
    found = {teacher.hop_samples: _cosines(teacher, sample, n_workers)}
    first = found[teacher.hop_samples][0]
    if len(first) and np.mean(first >= SAME) < MOST:
        for hop in teacher.other_hops():
            found[hop] = _cosines(teacher.with_hop(hop), sample, n_workers)
    return "\n".join(_lines(model, where, sample, found, n_tracks))


def _candidates(config: Config, n_tracks: int, server_name: str | None) -> tuple[str, list[list[Probed]], str]:
    """(server id, for every part of the rows a few tracks to choose from, where they are from)."""
    if FeatureStore.is_at(config.store.path):
        store = FeatureStore.open(config.store.path)
        servers = Counter(store.strings("server_id"))
        wanted = server_name or config.ingest.server
        server_id = wanted or (servers.most_common(1)[0][0] if servers else "")
        if wanted and wanted not in servers and KINDS[config.ingest.vectors].names_servers:
            # The store has ids; the source knows the names.
            with open_vector_source(config, wanted) as vectors:
                server_id = vectors.server.server_id
        parts = list(_from_store(store, server_id, n_tracks))
        if not parts:
            known = ", ".join(sorted(servers)) or "none"
            raise VectorSourceError(f"{store.path} has no vectors of server {server_id!r} (its servers: {known})")
        return server_id, parts, f"store {store.path}"
    with open_vector_source(config, server_name) as vectors:
        if KINDS[config.ingest.vectors].makes_vectors:
            raise VectorSourceError(
                f"--probe compares with vectors that are there; ingest.vectors: {config.ingest.vectors} makes them"
            )
        n_rows = vectors.count()
        chosen = {int(p): i for i, part in enumerate(_spread(np.arange(n_rows), n_tracks)) for p in part}
        found: dict[int, list[Probed]] = {}
        position = 0
        for batch in vectors.tracks(None, _BATCH_ROWS):
            for track in batch:
                unit = parse_vector(track.embedding).unit if track.embedding is not None else None
                if unit is not None and position in chosen:
                    probed = Probed(track.track_id, track.title, unit, "", track.file_path)
                    found.setdefault(chosen[position], []).append(probed)
                position += 1
        if not found:
            raise VectorSourceError(f"none of the rows of {vectors.server} has a usable vector")
        return vectors.server.server_id, list(found.values()), str(vectors.server)


def _from_store(store: FeatureStore, server_id: str, n_tracks: int) -> Iterator[list[Probed]]:
    rows = []
    for begin in range(0, store.n_tracks, _BATCH_ROWS):
        end = begin + _BATCH_ROWS
        finite = np.asarray(np.isfinite(store.teacher(begin, end)).all(axis=1))
        servers = store.strings("server_id", begin, end)
        rows += [begin + i for i, server in enumerate(servers) if finite[i] and server == server_id]
    for part in _spread(np.array(rows, np.int64), n_tracks):
        texts = [[store.strings(name, r, r + 1)[0] for name in ("track_id", "title", "audio")] for r in part.tolist()]
        vectors = [store.teacher(r, r + 1)[0] for r in part.tolist()]
        yield [Probed(i, title, v, audio) for (i, title, audio), v in zip(texts, vectors, strict=True)]


def _spread(rows: npt.NDArray[np.int64], n_parts: int) -> Iterator[npt.NDArray[np.int64]]:
    """A few rows, drawn by SEED, of each of `n_parts` equal parts."""
    rng = np.random.default_rng(SEED)
    for part in np.array_split(rows, min(n_parts, len(rows))) if len(rows) else []:
        yield rng.permutation(part)[:_TRIES]


def _with_audio(config: Config, server_id: str, parts: Sequence[list[Probed]]) -> Sample:
    """One track of every part, with its file; a file that is there goes before one that must be fetched."""
    sample = Sample()
    missing = []
    for part in parts:
        there = next((t for t in part if t.audio and (config.ingest.cache_dir / t.audio).is_file()), None)
        if there is None:
            missing.append(part)
        else:
            sample.tracks.append(there)
            sample.files.append(config.ingest.cache_dir / there.audio)
    if missing:
        try:
            _fetch(config, server_id, missing, sample)
        except SourceError as error:
            sample.notes.append(f"audio of {len(missing)} tracks is not here and cannot be fetched: {error.message}")
    return sample


def _fetch(config: Config, server_id: str, parts: Sequence[list[Probed]], sample: Sample) -> None:
    """Get one track of every part through the source of audio. Raises SourceError."""
    stop = threading.Event()
    paths = {t.track_id: t.file_path for part in parts for t in part if t.file_path}
    with ExitStack() as stack:
        stack.callback(stop.set)
        cache = None
        if config.ingest.source != "folder":
            cache = stack.enter_context(AudioCache(config.ingest.cache_dir, server_id))
        source = stack.enter_context(open_source(config, paths, stop))
        source.check()
        bar = stack.enter_context(screen.progress("track", len(parts), label="audio"))
        for part in parts:
            first_failure = ""
            for track in part:
                try:
                    path = _get(track, source, cache)
                except FetchError as error:
                    first_failure = first_failure or f"{_named(track)}: {error.reason}"
                    continue
                sample.tracks.append(track)
                sample.files.append(path)
                break
            else:
                sample.notes.append(f"no audio: {first_failure}")
            bar.advance()


def _get(track: Probed, source: AudioSource, cache: AudioCache | None) -> Path:
    if cache is None:
        return source.fetch(Wanted(-1, track.track_id, track.title, Path()))
    there = cache.find(track.track_id)
    return there or source.fetch(Wanted(-1, track.track_id, track.title, cache.stem(track.track_id)))


def _cosines(teacher: Teacher, sample: Sample, n_workers: int) -> tuple[npt.NDArray[np.float64], list[Vector | None]]:
    """[embedded track] cosines to the stored vectors, and [track] new vectors, None for a track that gives none."""
    stop = threading.Event()

    def proceed() -> None:
        if stop.is_set():
            raise StoppedError

    def embed(path: Path) -> Vector | str:
        try:
            proceed()
            return teacher.embed(decode(path, teacher.max_samples), proceed)[0]
        except (DecodeError, NoVectorError) as error:
            return reason(error)

    with ThreadPoolExecutor(n_workers, thread_name_prefix="probe") as pool:
        try:
            with screen.progress("track", len(sample.files), label="probe") as bar:
                answers = []
                for answer in pool.map(embed, sample.files):
                    answers.append(answer)
                    bar.advance()
        finally:
            stop.set()
    for track, answer in zip(sample.tracks, answers, strict=True):
        note = f"no vector: {_named(track)}: {answer}"
        if isinstance(answer, str) and note not in sample.notes:
            sample.notes.append(note)
    vectors = [None if isinstance(a, str) else a for a in answers]
    pairs = [(t.stored, v) for t, v in zip(sample.tracks, vectors, strict=True) if v is not None]
    return np.array([float(stored @ vector) for stored, vector in pairs], np.float64), vectors


def _lines(
    model: Path,
    where: str,
    sample: Sample,
    found: dict[int | None, tuple[npt.NDArray[np.float64], list[Vector | None]]],
    n_wanted: int,
) -> Iterator[str]:
    """The report, line by line."""
    vectors = next(iter(found.values()))[1]
    embedded = [(t, v) for t, v in zip(sample.tracks, vectors, strict=True) if v is not None]
    few = f" of {n_wanted} wanted" if len(embedded) < n_wanted else ""
    yield f"probe: {model} against {where}, {len(embedded)}{few} tracks"
    yield from (f"  {note}" for note in sample.notes)
    if not embedded:
        yield "verdict: none; no track's audio could be found"
        return
    compared = {hop: cosines for hop, (cosines, _) in found.items()}
    others = None
    if len(embedded) > 1:
        # grams: [stored, embedded]; off the diagonal the tracks differ
        grams = np.stack([t.stored for t, _ in embedded]) @ np.stack([v for _, v in embedded]).T
        others = grams[~np.eye(len(embedded), dtype=bool)]
    yield describe(compared, others)
    best = np.max([cosines for cosines, _ in found.values()], axis=0)
    worst = np.argsort(best, kind="stable")[:_WORST]
    yield f"  the {len(worst)} worst:"
    yield screen.table([(f"{best[i]:.4f}", embedded[i][0].track_id, embedded[i][0].title) for i in worst], indent=4)
    caution = "" if len(embedded) >= min(10, n_wanted) else f" (of {len(embedded)} tracks only)"
    yield f"verdict{caution}: {verdict(compared)}"


def _named(track: Probed) -> str:
    return f"{one_line(track.track_id)} ({one_line(track.title)})"
