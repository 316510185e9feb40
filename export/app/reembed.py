"""The two steps of reembed: a library's vectors into a file, and from there into AudioMuse-AI's table.

Guarantee: the table is written only by `write_database` and `restore`, only after `confirm`. Both steps may be stopped
at any point and run again. Tracks and rows without a new vector are listed in a CSV, with the reason.
"""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.screen import progress
from student_clap.config.runtime.text import counted, one_line
from student_clap.config.schema import Config
from student_clap.export.app.clap_table import ClapTable, ExchangeOutcome, Item, open_clap_table
from student_clap.export.app.library import LibraryTrack, embed_library, fitting_features, library_tracks
from student_clap.export.app.library_file import LibraryVectors, library_file, unfinished
from student_clap.export.app.replacement import Plan, make_plan, replace_rows, restorable, restore_rows
from student_clap.export.app.vector_dump import Dump, DumpError, dumps_in
from student_clap.export.model.embedding import Embedder, default_threads
from student_clap.export.model.metadata import vectors_metadata
from student_clap.export.model.session import StudentSession
from student_clap.featurize.onnx.input_spec import InputSpec
from student_clap.featurize.onnx.recipe import METADATA_PREFIX
from student_clap.store import FeatureStore
from student_clap.store.storage.open import reading_path

logger = logging.getLogger(__name__)

_SHOWN = 5  # tracks without a vector


@dataclass(frozen=True)
class Settings:
    """Which vectors are made, where they go, and whose rows they may replace."""

    model: Path
    out: Path
    server: str | None = None  # name or id of the media server whose tracks' rows are replaced; None: of all
    from_audio: bool = False  # also where the store has the model's mel
    fresh: bool = False
    threads: int | None = None  # tracks at a time; None: `default_threads`

    @property
    def missing(self) -> Path:
        """The list of what has no new vector."""
        return self.out.with_suffix(".missing.csv")


@dataclass
class Embedded:
    """The vectors that the first step made or found."""

    vectors: LibraryVectors
    metadata: dict[str, str]  # of the file's schema
    n_new: int = 0
    from_store: int = 0  # of those
    without: list[tuple[LibraryTrack, str]] = field(default_factory=list)  # why they have no vector


def embed(config: Config, settings: Settings, spec: InputSpec) -> Embedded:
    """Make the vectors that are not in `settings.out` yet.

    Raises:
        LibraryFileError, StoreError, ModelError: nothing more can be made. Finished vectors lie in the file's parts.
        click.ClickException: the store has no tracks, or none of them gives a vector.
    """
    session = StudentSession(settings.model)
    with FeatureStore.open(reading_path(config.store)) as store:
        features = None if settings.from_audio else fitting_features(store, spec)
        tracks = library_tracks(store, features)
        if not tracks:
            raise click.ClickException(f"{store.path} has no tracks; `student-clap ingest` lists the library first")
        metadata = vectors_metadata(settings.model, session.metadata, spec) | {
            METADATA_PREFIX + "library_store": store.uuid,
            METADATA_PREFIX + "library_source": "audio" if settings.from_audio else "store",
        }
        with library_file(settings.out, metadata, fresh=settings.fresh) as file:
            done, marked = file.done(), features
            if features is not None and config.store.local_cache is not None:  # marks are not worth copies of shards
                marked = FeatureStore.open(config.store.path).features(spec.recipe)
            if marked is not None and (n_unmarked := sum(made.strip is None for made in done.values())):
                logger.warning(
                    "%s of %s came from an older version, which kept no mark of the mel: whether it is another one now"
                    " shows by the track's length alone; --fresh makes them again",
                    counted(n_unmarked, "vector"),
                    settings.out,
                )
            todo = unfinished(tracks, done, marked)
            logger.info(
                "%d tracks, %d of them have their vector; the mel comes from %s",
                len(tracks),
                len(tracks) - len(todo),
                "audio" if features is None else "the store where it has it, else from audio",
            )
            result = Embedded(LibraryVectors.empty(), metadata)
            threads, embedder = settings.threads or default_threads(), Embedder(session, spec)
            with progress("track", len(todo), label="reembed") as bar:
                for outcome in embed_library(todo, embedder, features, config.ingest.cache_dir, threads=threads):
                    bar.advance()
                    if outcome.vector is None:
                        result.without.append((outcome.track, outcome.error))
                        continue
                    file.add(outcome)
                    result.n_new += 1
                    result.from_store += outcome.source == "store"
            # A track whose strip is of other audio now and gives nothing keeps no vector of the old audio.
            failed = {track.key for track, _ in result.without}
            if not file.finish({t.key for t in tracks} - failed):
                first = result.without[0]
                raise click.ClickException(
                    f"none of {len(tracks)} tracks gives a vector, such as {_name(first[0])}: {first[1]}"
                )
            result.vectors = file.load()
    return result


def write_missing(path: Path, embedded: Embedded, kept: Sequence[tuple[Item, str]]) -> int:
    """List tracks of the store without a new vector, and rows of the table that keep an old one.

    Returns how many. Where there is nothing to list, a list of an earlier run goes.
    """
    lines = [("store", t.server_id, t.track_id, t.item_id, t.title, t.artist, reason) for t, reason in embedded.without]
    listed = {track.key for track, _ in embedded.without}
    for item, reason in kept:
        server, track = item.tracks[0] if item.tracks else ("", "")
        if listed.isdisjoint(item.tracks):
            reason = f"{reason}; its track is not in the store: run `student-clap ingest`" if item.tracks else reason
            lines.append(("clap_embedding", server, track, item.item_id, item.title, item.artist, reason))
    if not lines:
        path.unlink(missing_ok=True)
        return 0
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("where", "server_id", "track_id", "item_id", "title", "artist", "reason"))
    table.writerows(lines)
    write_text_atomically(path, text.getvalue())
    return len(lines)


def check_database(config: Config) -> None:
    """Find out, before hours of work, whether the table may be written. Raises DatabaseError."""
    with open_clap_table(config.database) as table:
        table.check_writable()


def write_database(
    config: Config,
    settings: Settings,
    embedded: Embedded,
    dumps: Path,
    confirm: Callable[[str], bool],
) -> tuple[Plan, Counter[ExchangeOutcome]]:
    """Replace the table's vectors by the library's.

    Args:
        config: names the database.
        settings: names the server.
        embedded: from `embed`.
        dumps: folder that the old vectors are dumped to.
        confirm: asked with a text that says what is about to happen.

    Raises:
        Declined: `confirm` said no; nothing was changed.
        DatabaseError, DumpError: see `replacement`.
    """
    with open_clap_table(config.database) as table:
        table.check_writable()
        items = table.items(settings.server, config.ingest.source)
        metadata = {
            key: embedded.metadata[METADATA_PREFIX + key]
            for key in ("model_file", "model_sha256", "recipe", "embedded_by", "library_store")
        }
        plan = make_plan(
            table,
            items,
            embedded.vectors,
            dumps,
            {METADATA_PREFIX + key: value for key, value in metadata.items()},
            lambda plan: confirm(_question(table, plan, dumps, settings.model)),
        )
        if not (plan.rows or plan.already):
            raise click.ClickException(
                f"no row of clap_embedding in the database {table.where} has a track of the store {config.store.path};"
                " was the store filled from this database? `student-clap ingest` lists its tracks"
            )
        with progress("row", len(plan.rows), label="write") as bar:
            outcomes = replace_rows(table, plan, embedded.vectors, bar.advance)
    return plan, outcomes


def restore(
    config: Config,
    given: Path,
    confirm: Callable[[str], bool],
    *,
    overwrite: bool,
    any_database: bool,
) -> tuple[list[Dump], Counter[ExchangeOutcome]] | None:
    """Put the rows of dumps back, the newest dump first.

    Args:
        config: names the database.
        given: a dump, or a folder of them.
        confirm: asked with a text that says what is about to happen.
        overwrite: also over vectors that neither were there nor were written by reembed.
        any_database: also into another database than the dump's.

    Returns:
        The dumps and how the exchanges of their rows ended; None where `confirm` said no.

    Raises:
        DatabaseError, DumpError: see `replacement`.
    """
    dumps = dumps_in(given)
    with open_clap_table(config.database) as table:
        table.check_writable()
        if not any_database:
            own = [dump for dump in dumps if dump.database == str(table.identity)]
            if not own or (len(own) < len(dumps) and not given.is_dir()):
                raise DumpError(
                    f"{given} was made of another database ({dumps[0].database}) than {table.where}"
                    f" ({table.identity}); --any-database puts it back by item id all the same"
                )
            dumps = own
        for dump in dumps:
            dump.verify()
        found = {dump.path: restorable(table, dump, overwrite=overwrite) for dump in dumps}
        # Of several dumps a later one may uncover rows that an earlier one has.
        if not confirm(_restore_question(table, dumps, found)):
            return None
        outcomes: Counter[ExchangeOutcome] = Counter()
        with progress("row", sum(d.n_rows for d in dumps), label="restore") as bar:
            for dump in dumps:
                outcomes += restore_rows(table, dump, overwrite=overwrite, advance=bar.advance)
    return dumps, outcomes


def first_lines(without: Sequence[tuple[LibraryTrack, str]]) -> list[str]:
    """Some tracks that have no vector, a line each."""
    lines = [f"no vector: {_name(track)}: {reason}" for track, reason in without[:_SHOWN]]
    return [*lines, *([f"... and {len(without) - _SHOWN} more"] if len(without) > _SHOWN else [])]


def _question(table: ClapTable, plan: Plan, dumps: Path, model: Path) -> str:
    where = f"database {table.where} (generation {table.generation})"
    text = [
        f"{plan.updates} rows of clap_embedding in the {where} are about to get vectors of {model.name}"
        + (f", and {plan.inserts} rows are added for items that have none" if plan.inserts else "")
        + ".",
        f"{plan.already} rows hold theirs already; {len(plan.kept)} rows keep the vector that they have.",
        f"The vectors that are replaced are dumped first, to {plan.back(dumps)}.",
    ]
    return "\n".join(text)


def _restore_question(table: ClapTable, dumps: Sequence[Dump], found: Mapping[Path, Counter[ExchangeOutcome]]) -> str:
    lines = [f"Rows of clap_embedding in the database {table.where} are about to get back what they held:"]
    for dump in dumps:
        done, already, other, gone = (found[dump.path][outcome] for outcome in ExchangeOutcome)
        lines.append(
            f"  {dump.path.name}: {done} of {dump.n_rows} rows, before {dump.model} was written at {dump.written_at};"
            f" {already} hold it already, {other} hold other vectors, {gone} items are gone"
        )
    return "\n".join(lines)


def _name(track: LibraryTrack) -> str:
    return one_line(f"{track.track_id} ({track.artist}: {track.title})")
