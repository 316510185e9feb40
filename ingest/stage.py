"""The stage: the tracks of the source of vectors into rows, then audio for the rows that lack it."""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet
from contextlib import ExitStack

from student_clap.config.runtime.screen import progress
from student_clap.config.runtime.text import counted
from student_clap.config.schema import Config
from student_clap.ingest.fetch.stage import fetch_audio
from student_clap.ingest.id_map import IdMap
from student_clap.ingest.reports.summary import Summary
from student_clap.ingest.rows.catalogue import BATCH_ROWS, Catalogue, CatalogueCounts
from student_clap.ingest.vectors.base import VectorSource, VectorSourceError
from student_clap.ingest.vectors.open import open_vector_source
from student_clap.store import FeatureStore

logger = logging.getLogger(__name__)

UNDECLARED = "unknown"  # teacher.name where the user has not said


def run_ingest(
    config: Config,
    *,
    server_name: str | None,
    retry_failed: bool,
    vectors_only: bool = False,
    refetch: AbstractSet[str] = frozenset(),
    sample: int | None = None,
) -> Summary:
    """Run the stage.

    Args:
        config: the configuration.
        server_name: name or id of the server whose track ids are used; None takes ingest.server or the default.
        retry_failed: try downloads again that failed for good.
        vectors_only: bring the rows up to date and leave the audio alone.
        refetch: why audio is fetched again that the features no longer need; of `fetch.refetch.REASONS`.
        sample: fetch no more than so many tracks' audio, spread over the library; None: all.

    Raises:
        VectorSourceError, SourceError, StoreError: the run cannot go on. All that was done is in the store.
    """
    with ExitStack() as stack:
        paths = stack.enter_context(IdMap[str]())
        with open_vector_source(config, server_name) as vectors:
            n_rows = vectors.count()
            store = stack.enter_context(FeatureStore.open_or_create(config.store.path, config.teacher.name))
            _declare_teacher(store, config.teacher.name)
            in_folder = config.ingest.source == "folder"
            needs_paths = not vectors_only and (in_folder or bool(config.ingest.map))
            catalogue = _list_tracks(vectors, store, n_rows, paths if needs_paths else None, every_id=in_folder)
        _tell_changes(catalogue.counts, config)
        if vectors_only:
            return Summary(catalogue.counts, None)
        server_id = vectors.server.server_id
        fetched = fetch_audio(
            config,
            store,
            catalogue.rows(),
            server_id,
            paths,
            retry_failed=retry_failed,
            refetch=refetch,
            sample=sample,
        )
        return Summary(catalogue.counts, fetched)


def _declare_teacher(store: FeatureStore, name: str) -> None:
    if name in (store.teacher_name, UNDECLARED):
        if store.teacher_name == UNDECLARED:
            logger.info(
                "the vectors' model is not declared; set teacher.name, it is recorded in the store and the ONNX"
            )
        return
    if store.n_tracks:
        logger.warning("the teacher is now declared as %r; the store said %r", name, store.teacher_name)
    store.teacher_name = name


def _list_tracks(
    vectors: VectorSource, store: FeatureStore, n_rows: int | None, paths: IdMap[str] | None, *, every_id: bool
) -> Catalogue:
    """Bring every track into the store, and the paths that files are searched by into `paths`.

    Args:
        vectors: the source, counted.
        store: open for writing.
        n_rows: of the source, if known.
        paths: track id -> path; None where none are needed.
        every_id: ids whose path is not known come into `paths` too, with "".

    Raises:
        VectorSourceError: no track has a vector.
    """
    catalogue = Catalogue(store, vectors.server.server_id)
    with progress("track", n_rows, label="vectors") as bar:
        for batch in vectors.tracks(store, BATCH_ROWS):
            catalogue.take(batch)
            if paths is not None:
                paths.add((t.track_id, t.file_path) for t in batch if t.file_path or every_id)
            bar.advance(len(batch))
    if not catalogue.counts.tracks:
        raise VectorSourceError(
            f"none of the {n_rows} rows of {vectors.server} has a vector; let AudioMuse-AI analyse the library first"
        )
    if vectors.complete():
        catalogue.finish()
    else:
        logger.warning("the list of tracks was not complete; nothing is marked as gone")
    return catalogue


def _tell_changes(counts: CatalogueCounts, config: Config) -> None:
    """Log the findings about the tracks and their vectors that a user should know of."""
    if counts.nameless:
        logger.info(
            "%s without an artist's name, always trained on: validation is by artist", counted(counts.nameless, "track")
        )
    if counts.bare:
        option = "" if config.teacher.model is not None else " --teacher ONNX"
        logger.info("%d tracks have no vector yet; `student-clap featurize%s` makes them", counts.bare, option)
    if counts.off_unit:
        logger.warning("%d vectors were not of unit length; they were normalised", counts.off_unit)
    if counts.changed_vectors:
        logger.info(
            "%d vectors changed; their features stay valid, and a student trained before learnt the old vectors",
            counts.changed_vectors,
        )
