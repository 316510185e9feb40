"""`student-clap store info|list|verify|repair`."""

from __future__ import annotations

import click

from student_clap.config.options import config_options
from student_clap.config.schema import Config


@click.group()
def store() -> None:
    """Look into the feature store, and mend it."""


@store.command()
@config_options()
def info(config: Config) -> None:
    """Say what the store holds."""
    from collections import Counter

    from student_clap.store import FeatureStore, State

    with FeatureStore.open(config.store.path) as opened:
        states = Counter(State(int(s)).name.lower() for s in opened.states())
        click.echo(f"store    {opened.path}")
        click.echo(f"uuid     {opened.uuid}")
        click.echo(f"teacher  {opened.teacher_name}")
        click.echo(f"tracks   {opened.n_tracks}" + "".join(f", {n} {name}" for name, n in sorted(states.items())))
        click.echo(f"artists  {len(set(opened.strings('artist')))}")
        for name, recipe in opened.recipes().items():
            features = opened.features(recipe)
            n_samples = features.n_samples()
            minutes = float(n_samples.clip(0).sum()) / recipe.sample_rate / 60
            size_mb = features.stored_bytes() / 1e6
            click.echo(
                f"features {name}: {int((n_samples > 0).sum())} tracks, {int((n_samples < 0).sum())} failed, "
                f"{minutes:.1f} min, {size_mb:.1f} MB; {recipe.n_mels} mels, n_fft {recipe.n_fft}, "
                f"fingerprint {recipe.fingerprint}"
            )


@store.command("list")
@click.option("--failed", is_flag=True, help="Only tracks with an error.")
@config_options()
def list_tracks(config: Config, *, failed: bool) -> None:
    """Print one line per track, tab-separated: row, server, id, state, minutes, artist, title, error."""
    from student_clap.store import FeatureStore, Recipe, State

    recipe = Recipe.from_config(config.audio)
    with FeatureStore.open(config.store.path) as opened:
        made = recipe.name in opened.recipes()
        n_samples = opened.features(recipe).n_samples().tolist() if made else [0] * opened.n_tracks
        feature_errors = opened.features(recipe).errors() if made else [""] * opened.n_tracks
        columns = {name: opened.strings(name) for name in ("server_id", "track_id", "artist", "title", "error")}
        for row, state in enumerate(opened.states()):
            error = columns["error"][row] or feature_errors[row]
            if failed and not error:
                continue
            minutes = f"{n_samples[row] / recipe.sample_rate / 60:.2f}" if n_samples[row] > 0 else "-"
            fields = [str(row), columns["server_id"][row], columns["track_id"][row], State(int(state)).name.lower()]
            fields += [minutes, columns["artist"][row], columns["title"][row], error]
            click.echo("\t".join(" ".join(field.split()) for field in fields))


@store.command()
@click.option("--deep", is_flag=True, help="Read every shard and test its checksums.")
@config_options()
def verify(config: Config, *, deep: bool) -> None:
    """Look for lost, damaged and uncounted shards. Exit code 1 if there are any faults."""
    from student_clap.store import FeatureStore
    from student_clap.store.verify import verify as look

    with FeatureStore.open(config.store.path) as opened:
        findings = look(opened, deep=deep)
        names = opened.strings("track_id")
    for finding in findings:
        where = f"row {finding.row}" if finding.row >= 0 else "all rows"
        track = f" (track {names[finding.row]})" if 0 <= finding.row < len(names) else ""
        click.echo(f"{finding.kind}: {finding.recipe or 'track table'}, {where}{track}: {finding.detail}")
    how = "every shard read" if deep else "shards listed, not read (--deep reads them)"
    if findings:
        raise click.ClickException(
            f"{len(findings)} faults ({how}); `student-clap store repair` mends what can be mended"
        )
    click.echo(f"store verify: no faults, {how}")


@store.command("repair")
@click.option("--deep", is_flag=True, help="Read every shard and test its checksums.")
@config_options()
def repair_store(config: Config, *, deep: bool) -> None:
    """Set damaged tracks back, so that featurize makes them again, and remove uncounted shards."""
    from student_clap.store import FeatureStore
    from student_clap.store.verify import repair
    from student_clap.store.verify import verify as look

    with FeatureStore.open(config.store.path, "r+") as opened:
        findings = look(opened, deep=deep)
        again = repair(opened, findings)
    orphans = sum(f.kind == "orphan shard" for f in findings)
    left = len(findings) - again - orphans
    rest = f", {left} faults left that no shard can be blamed for" if left else ""
    click.echo(
        f"store repair: {again} tracks set back (`student-clap featurize` makes them again), "
        f"{orphans} uncounted shards removed{rest}"
    )
