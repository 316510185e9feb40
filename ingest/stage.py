"""The stage: the database's tracks into rows, then audio for the rows that lack it."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from student_clap.config.schema import Config
from student_clap.ingest.cache import AudioCache
from student_clap.ingest.catalogue import BATCH_ROWS, Catalogue
from student_clap.ingest.database import AudioMuseDatabase, DatabaseError, MusicServer, open_database
from student_clap.ingest.fetch import Outcomes, fetch_all, plan_fetch
from student_clap.ingest.sources import open_source
from student_clap.ingest.summary import Summary, readable_bytes
from student_clap.store import FeatureStore

logger = logging.getLogger(__name__)

UNDECLARED = "unknown"  # teacher.name where the user has not said
_REPORT_S = 30.0  # between two lines of progress where there is no terminal


def run_ingest(config: Config, *, server_name: str | None, retry_failed: bool) -> Summary:
    """Run the stage.

    Args:
        config: the configuration.
        server_name: name or id of the server whose track ids are used; None takes ingest.server or the default.
        retry_failed: try downloads again that failed for good.

    Raises:
        DatabaseError, SourceError, StoreError: nothing, or nothing more, can be done. What was done is in the store.
    """
    stop = threading.Event()
    with ExitStack() as stack:
        with open_database(config.database) as database:
            server = database.choose_server(server_name or config.ingest.server, config.ingest.source)
            n_rows = _check_count(database, server)
            store = stack.enter_context(FeatureStore.open_or_create(config.store.path, config.teacher.name))
            _declare_teacher(store, config.teacher.name)
            catalogue, file_paths = _list_tracks(database, server, store, n_rows, config)
        cache = None
        if config.ingest.source != "folder":
            cache = stack.enter_context(AudioCache(config.ingest.cache_dir, server.server_id))
        outcomes = Outcomes(store, cache.relative if cache is not None else str)
        rows = catalogue.row_of.values()
        plan = plan_fetch(store, rows, config.ingest.cache_dir, cache, retry_failed=retry_failed)
        outcomes.counts.there, outcomes.counts.failed = plan.there, plan.failed
        for row, path in plan.adopted:
            outcomes.adopt(row, path)
        outcomes.flush()
        if plan.wanted:
            source = stack.enter_context(open_source(config, file_paths, stop))
            source.check()
            with _progress(len(plan.wanted), outcomes) as advance:
                fetch_all(
                    plan.wanted,
                    source,
                    outcomes,
                    concurrency=config.ingest.concurrency,
                    stop=stop,
                    progress=advance,
                )
        return Summary(catalogue.counts, outcomes.counts)


def _check_count(database: AudioMuseDatabase, server: MusicServer) -> int:
    mine, everyone = database.count(server)
    if not everyone:
        raise DatabaseError("clap_embedding is empty; let AudioMuse-AI analyse the library with CLAP switched on first")
    if not mine:
        raise DatabaseError(
            f"none of the {everyone} tracks in clap_embedding belongs to {server}; choose another with --server"
        )
    elsewhere = f"; {everyone - mine} rows of other servers, or of none, left out" if everyone > mine else ""
    logger.info("database of generation %s, server %s: %d rows%s", database.generation, server, mine, elsewhere)
    return mine


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
    database: AudioMuseDatabase, server: MusicServer, store: FeatureStore, n_rows: int, config: Config
) -> tuple[Catalogue, dict[str, str]]:
    """Bring every track into the store. Returns the catalogue, and the paths that a folder is searched by."""
    catalogue = Catalogue(store, server.server_id)
    file_paths: dict[str, str] = {}
    with tqdm(total=n_rows, desc="vectors", unit="track", disable=None, leave=False) as bar, _logs_beside_bar():
        for batch in database.tracks(server, BATCH_ROWS):
            catalogue.take(batch)
            if config.ingest.source == "folder":
                file_paths.update((t.track_id, t.file_path) for t in batch if t.file_path)
            bar.update(len(batch))
    if not catalogue.counts.tracks:
        raise DatabaseError(
            f"none of the {n_rows} rows of {server} has a vector; let AudioMuse-AI analyse the library first"
        )
    catalogue.finish()
    if catalogue.counts.off_unit:
        logger.warning("%d vectors were not of unit length; they were normalised", catalogue.counts.off_unit)
    return catalogue, file_paths


@contextmanager
def _progress(total: int, outcomes: Outcomes) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, else a line now and then."""
    reported_at = time.monotonic()
    done = 0
    with tqdm(total=total, desc="audio", unit="track", disable=None, leave=False) as bar, _logs_beside_bar():

        def advance() -> None:
            nonlocal reported_at, done
            done += 1
            counts = outcomes.counts
            text = f"{readable_bytes(counts.fetched_bytes)}, {counts.failed + counts.waiting} failed"
            bar.set_postfix_str(text, refresh=False)
            bar.update()
            if bar.disable and time.monotonic() - reported_at >= _REPORT_S:
                reported_at = time.monotonic()
                logger.info("audio: %d of %d tracks (%s)", done, total, text)

        yield advance


@contextmanager
def _logs_beside_bar() -> Iterator[None]:
    """Let log lines go above the bar where there is one."""
    if sys.stderr.isatty():
        with logging_redirect_tqdm([logging.getLogger("student_clap")]):
            yield
    else:
        yield
