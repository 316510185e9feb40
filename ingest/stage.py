"""The stage: the tracks of the source of vectors into rows, then audio for the rows that lack it."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from tqdm import tqdm

from student_clap.config.schema import Config
from student_clap.ingest.fetch.progress import logs_beside_bar
from student_clap.ingest.fetch.stage import fetch_audio
from student_clap.ingest.reports.populations import populations_warning
from student_clap.ingest.reports.summary import Summary
from student_clap.ingest.rows.catalogue import BATCH_ROWS, Catalogue
from student_clap.ingest.rows.file_paths import FilePaths
from student_clap.ingest.vectors.base import VectorSource, VectorSourceError, open_vector_source
from student_clap.store import FeatureStore

logger = logging.getLogger(__name__)

UNDECLARED = "unknown"  # teacher.name where the user has not said


def run_ingest(config: Config, *, server_name: str | None, retry_failed: bool, vectors_only: bool = False) -> Summary:
    """Run the stage.

    Args:
        config: the configuration.
        server_name: name or id of the server whose track ids are used; None takes ingest.server or the default.
        retry_failed: try downloads again that failed for good.
        vectors_only: bring the rows up to date and leave the audio alone.

    Raises:
        VectorSourceError, SourceError, StoreError: nothing more can be done. What was done is in the store.
    """
    with ExitStack() as stack:
        with open_vector_source(config, server_name) as vectors:
            n_rows = vectors.count()
            store = stack.enter_context(FeatureStore.open_or_create(config.store.path, config.teacher.name))
            _declare_teacher(store, config.teacher.name)
            keep_paths = not vectors_only and (config.ingest.source == "folder" or bool(config.ingest.map))
            file_paths = stack.enter_context(FilePaths()) if keep_paths else None
            catalogue = _list_tracks(vectors, store, n_rows, file_paths)
        if vectors_only:
            return Summary(catalogue.counts, None)
        counts = fetch_audio(
            config,
            store,
            catalogue.rows(),
            vectors.server.server_id,
            {} if file_paths is None else file_paths,
            retry_failed=retry_failed,
        )
        return Summary(catalogue.counts, counts)


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


def _list_tracks(vectors: VectorSource, store: FeatureStore, n_rows: int, file_paths: FilePaths | None) -> Catalogue:
    """Bring every track into the store, and the paths that files are searched by into `file_paths`."""
    catalogue = Catalogue(store, vectors.server.server_id)
    with tqdm(total=n_rows, desc="vectors", unit="track", disable=None, leave=False) as bar, logs_beside_bar():
        for batch in vectors.tracks(store, BATCH_ROWS):
            catalogue.take(batch)
            if file_paths is not None:
                file_paths.add((t.track_id, t.file_path) for t in batch if t.file_path)
            bar.update(len(batch))
    if not catalogue.counts.tracks:
        raise VectorSourceError(
            f"none of the {n_rows} rows of {vectors.server} has a vector; let AudioMuse-AI analyse the library first"
        )
    if vectors.complete():
        catalogue.finish()
    else:
        logger.warning("the list of tracks was not complete; nothing is marked as gone")
    if (warning := populations_warning(store, vectors.server.server_id)) is not None:
        logger.warning("%s", warning)
    if catalogue.counts.off_unit:
        logger.warning("%d vectors were not of unit length; they were normalised", catalogue.counts.off_unit)
    if catalogue.counts.changed_vectors:
        logger.info(
            "%d vectors changed; their features stay valid, and a student trained before learnt the old vectors",
            catalogue.counts.changed_vectors,
        )
    return catalogue
