"""`student-clap store info|list|export|verify|repair|remove-teacher`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from student_clap.config.options import config_options, json_option
from student_clap.config.presets import SAMPLE_RATE
from student_clap.config.runtime.screen import echo, echo_json, progress, table
from student_clap.config.runtime.text import counted, one_line, readable_bytes
from student_clap.config.schema import Config

if TYPE_CHECKING:
    from student_clap.store import FeatureStore
    from student_clap.store.arrays.segment_vectors import SegmentVectors
    from student_clap.store.verify import Finding

_WHOLE = 10_000  # characters: more than any field has


@click.group()
def store() -> None:
    """Show, export, verify and repair the feature store."""


@store.command()
@json_option
@config_options()
def info(config: Config, *, as_json: bool) -> None:
    """Print what the store holds."""
    from collections import Counter

    from student_clap.store import FeatureStore, State
    from student_clap.store.storage.open import about_cache, reading_path

    with FeatureStore.open(reading_path(config.store)) as opened:
        if as_json:
            echo_json(_content(opened))
            return
        states = Counter(State(int(s)).name.lower() for s in opened.states())
        rows: list[tuple[str, object]] = [
            ("store", opened.path),
            ("uuid", opened.uuid),
            ("teacher", opened.teacher_name),
            ("tracks", ", ".join([str(opened.n_tracks), *(f"{n} {name}" for name, n in sorted(states.items()))])),
            ("artists", _n_artists(opened)),
        ]
        for name, recipe in opened.recipes().items():
            features = opened.features(recipe)
            n_samples = features.n_samples()
            minutes = float(n_samples.clip(0).sum()) / recipe.sample_rate / 60
            made = (
                f"{name}: {counted(int((n_samples > 0).sum()), 'track')}, {int((n_samples < 0).sum())} failed, "
                f"{minutes:.1f} min, {readable_bytes(features.stored_bytes())}; {recipe.n_mels} mels, "
                f"n_fft {recipe.n_fft}, fingerprint {recipe.fingerprint}"
            )
            rows.append(("features", made))
            if cached := about_cache(config.store, features.shards):
                rows.append(("local cache", f"{name}: {cached}"))
        rows += [("segment vectors", _taught(vectors)) for vectors in _sets(opened)]
        echo(table(rows))


def _content(opened: FeatureStore) -> dict[str, Any]:
    """What `info` prints, for other programs."""
    from student_clap.store import State

    states = opened.states().tolist()
    features = {}
    for name, recipe in opened.recipes().items():
        made = opened.features(recipe)
        n_samples = made.n_samples()
        features[name] = {
            "made": int((n_samples > 0).sum()),
            "failed": int((n_samples < 0).sum()),
            "minutes": float(n_samples.clip(0).sum()) / recipe.sample_rate / 60,
            "bytes": made.stored_bytes(),
            "recipe": recipe.as_attributes(),
            "fingerprint": recipe.fingerprint,
        }
    segment_vectors = {}
    for vectors in _sets(opened):
        counts = vectors.counts()
        segment_vectors[vectors.name] = {
            "tracks": int((counts > 0).sum()),
            "vectors": int(counts.sum()),
            "hop_s": vectors.hop_samples / SAMPLE_RATE,
            "bytes": vectors.stored_bytes(),
            "model": vectors.model,
        }
    return {
        "store": opened.path,
        "uuid": opened.uuid,
        "teacher": opened.teacher_name,
        "tracks": opened.n_tracks,
        "states": {state.name.lower(): states.count(state) for state in State if state != State.ABSENT},
        "artists": _n_artists(opened),
        "features": features,
        "segment_vectors": segment_vectors,
    }


def _sets(opened: FeatureStore) -> Iterator[SegmentVectors]:
    """The segment vectors of each teacher, of the tracks and of their views."""
    for name in opened.segment_sets():
        for view in (0, *opened.views(name)):
            yield opened.segment_vectors(name, view=view)


def _taught(vectors: SegmentVectors) -> str:
    counts = vectors.counts()
    hop_s = vectors.hop_samples / SAMPLE_RATE
    model = f"; model {vectors.model}" if vectors.model else ""
    return (
        f"{vectors.name}: {counted(int((counts > 0).sum()), 'track')}, {counted(int(counts.sum()), 'vector')}, "
        f"every {hop_s:g} s, "
        f"{readable_bytes(vectors.stored_bytes())}{model}"
    )


@store.command("list")
@click.option("--failed", is_flag=True, help="Only tracks with an error.")
@json_option
@config_options(recipe=True)
def list_tracks(config: Config, *, failed: bool, as_json: bool) -> None:
    """Print one line per track, tab-separated: row, server, id, state, minutes, artist, title, error."""
    from student_clap.store import FeatureStore, Recipe, State

    recipe = Recipe.from_config(config.audio)
    with FeatureStore.open(config.store.path) as opened:
        made = recipe.name in opened.recipes() or recipe.name in opened.unknown_recipes()
        n_samples = opened.features(recipe).n_samples().tolist() if made else [0] * opened.n_tracks
        feature_errors = opened.features(recipe).errors() if made else [""] * opened.n_tracks
        columns = {name: opened.strings(name) for name in ("server_id", "track_id", "artist", "title", "error")}
        tracks = []
        for row, state in enumerate(opened.states()):
            error = columns["error"][row] or feature_errors[row]
            if failed and not error:
                continue
            if as_json:
                track = {name: column[row] for name, column in columns.items()}
                named = {"row": row, **track, "state": State(int(state)).name.lower(), "error": error}
                tracks.append({**named, "minutes": max(0, n_samples[row]) / recipe.sample_rate / 60})
                continue
            minutes = f"{n_samples[row] / recipe.sample_rate / 60:.2f}" if n_samples[row] > 0 else "-"
            fields = [str(row), columns["server_id"][row], columns["track_id"][row], State(int(state)).name.lower()]
            fields += [minutes, columns["artist"][row], columns["title"][row], error]
            echo("\t".join(one_line(field, limit=_WHOLE) for field in fields))
        if as_json:
            echo_json({"store": opened.path, "tracks": tracks})


@store.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write: .parquet, or .npz.")
@click.option("--track", "track_id", metavar="ID", help="This track's segments instead of all rows.")
@click.option("--server", "server_id", metavar="ID", help="Server of --track, where several have that id.")
@click.option(
    "--failures",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the tracks with an error: .csv or .parquet.",
)
@config_options(recipe=True)
def export(
    config: Config, *, out: Path | None, track_id: str | None, server_id: str | None, failures: Path | None
) -> None:
    """Write all rows as Parquet, one track's segments as npz, or the failures as a table."""
    from student_clap.store import FeatureStore, Recipe, tables

    if track_id is not None and out is None:
        raise click.UsageError("--track needs --out FILE.npz")
    if out is None and failures is None:
        raise click.UsageError(
            "nothing to write: give --out FILE.parquet, --track ID --out FILE.npz, or --failures FILE"
        )
    with FeatureStore.open(config.store.path) as opened:
        if track_id is not None and out is not None:
            row = tables.find_track(opened, track_id, server_id)
            shape = tables.write_track(opened, Recipe.from_config(config.audio), row, out)
            echo(f"store export: {out}, {counted(shape[0], 'segment')} of {shape[1]} mels x {shape[2]} frames")
        elif out is not None:
            tables.write_rows(opened, out)
            echo(f"store export: {out}, {counted(opened.n_tracks, 'row')}")
        if failures is not None:
            echo(f"store export: {failures}, {counted(tables.write_failures(opened, failures), 'failure')}")


@store.command()
@click.option("--deep", is_flag=True, help="Read every chunk and every shard and test its checksums.")
@json_option
@config_options()
def verify(config: Config, *, deep: bool, as_json: bool) -> None:
    """Look for lost, damaged and unreadable files. Exit code 1 if there are any."""
    from student_clap.store.verify import remarks, verify_path

    with progress("shard", label="verify") as bar:
        findings, n_tracks = verify_path(config.store.path, deep=deep, advance=bar.advance)
    names = _track_ids(config.store.path) if n_tracks >= 0 else []
    faults = [finding for finding in findings if finding.is_fault]
    for finding in faults:
        where = f"row {finding.row}" if finding.row >= 0 else "all rows"
        track = f" (track {one_line(names[finding.row])})" if 0 <= finding.row < len(names) else ""
        echo(f"{finding.kind}: {finding.where}, {where}{track}: {one_line(finding.detail, limit=_WHOLE)}")
    for remark in _still_to_do(findings):
        echo(f"remark: {remark}")
    if as_json:
        found = [{**asdict(finding), "fault": finding.is_fault} for finding in findings]
        echo_json({"store": config.store.path, "tracks": n_tracks, "faults": len(faults), "findings": found})
    how = _extent(deep=deep) if n_tracks >= 0 else "only metadata were read: repair these first, then verify again"
    if faults:
        repair = "store repair --deep" if deep else "store repair"
        raise click.ClickException(
            f"{counted(len(faults), 'fault')} ({how}); `student-clap {repair}` repairs those that can be repaired"
        )
    for remark in remarks(config.store.path):
        echo(f"remark: {remark}")
    echo(f"store verify: no faults in {counted(n_tracks, 'track')}, {how}")


def _still_to_do(findings: list[Finding]) -> list[str]:
    """The remains of stopped runs and the rows without a vector, a line per recipe and set."""
    from collections import Counter

    from student_clap.store.layout.views import command_of

    teacher = "`student-clap featurize --teacher MODEL`"
    uncounted, left = "written, but not counted,", "as a stopped run leaves them; the next"
    again = "writes them again, `student-clap store repair` removes them"
    lines = []
    for (kind, recipe, stage, segment_set), n in Counter(
        (f.kind, f.recipe, f.stage, f.segment_set) for f in findings if not f.is_fault
    ).items():
        if kind == "no vector":
            have = f"{counted(n, 'track')} {'has' if n == 1 else 'have'}"
            lines.append(f"{have} no teacher's vector; `student-clap ingest` or {teacher} brings it")
        elif kind == "orphan shard":
            are = "is" if n == 1 else "are"
            lines.append(f"{recipe}: {counted(n, 'shard')} {are} {uncounted} {left} `{command_of(recipe)}` {again}")
        else:
            lines.append(
                f"segment vectors of {counted(n, 'track')} are {uncounted} for {segment_set}, {left} `{stage}` {again}"
            )
    return lines


def _commands(stages: set[str]) -> str:
    return " or ".join(f"`{stage}`" for stage in sorted(stages))


def _extent(*, deep: bool) -> str:
    return "every shard read" if deep else "shards listed, not read (--deep reads them)"


def _track_ids(path: str) -> list[str]:
    from student_clap.store import FeatureStore
    from student_clap.store.storage.errors import StoreError

    try:
        with FeatureStore.open(path) as opened:
            return opened.strings("track_id")
    except StoreError:  # which the findings say
        return []


@store.command("repair")
@click.option("--deep", is_flag=True, help="Read every chunk and every shard and test its checksums.")
@config_options()
def repair_store(config: Config, *, deep: bool) -> None:
    """Set damaged tracks back, so that the stages make them again, and remove uncounted shards."""
    from student_clap.store.repair import repair_path

    with progress("shard", label="verify") as bar:
        done = repair_path(config.store.path, deep=deep, advance=bar.advance)
    for finding in done.left:
        echo(f"left: {finding.kind}: {finding.where}: {one_line(finding.detail, limit=_WHOLE)}")
    again = _commands(done.stages or {"student-clap featurize"})
    parts = [
        f"{counted(done.tracks, 'track')} set back ({again} makes them again)",
        f"{counted(done.orphans, 'uncounted shard')} removed",
    ]
    if done.segment_vectors:
        stages = _commands(done.vector_stages)
        parts.append(
            f"segment vectors of {counted(done.segment_vectors, 'track')} removed ({stages} writes them again)"
        )
    if done.chunks:
        parts.append(f"{counted(done.chunks, 'damaged chunk')} of columns emptied (run the stages again)")
    if done.metadata:
        parts.append(f"{done.metadata} zarr.json written again")
    how = _extent(deep=deep)
    left = f"; {counted(len(done.left), 'fault')} left" if done.left else ""
    echo(f"store repair: {', '.join(parts)}{left}; {how}")


@store.command("remove-teacher")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_options()
def remove_teacher(config: Config, *, name: str, yes: bool) -> None:
    """Remove the segment vectors of the teacher NAME, as `store info` calls it. Track vectors stay."""
    from student_clap.store.repair import remove_teacher as remove

    try:
        if not yes and not click.confirm(f"Remove all segment vectors of {one_line(name)}?", default=False, err=True):
            raise click.ClickException("not confirmed; nothing was removed")
    except click.Abort:
        raise click.ClickException("there is no answer; nothing was removed. Scripts say --yes") from None
    n_tracks = remove(config.store.path, name)
    of = f"of {counted(n_tracks, 'track')}" if n_tracks >= 0 else "of a damaged set"
    echo(f"store remove-teacher: segment vectors {of} removed ({one_line(name)})")


def _n_artists(store: FeatureStore) -> int:
    """How many artists there are by name; tracks without one have none in common."""
    return len(set(store.strings("artist")) - {""})
