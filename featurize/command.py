"""`student-clap featurize`."""

from __future__ import annotations

import click

from student_clap.config.options import config_options
from student_clap.config.schema import Config


@click.command()
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler, such as tcp://10.0.0.2:8786.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes on this machine.  [default: one per core]")
@click.option("--retry-failed", is_flag=True, help="Try again what failed before.")
@click.option("--again", "again", type=click.IntRange(min=0), multiple=True, metavar="ROW", help="Make this row anew.")
@config_options()
def featurize(
    config: Config, *, scheduler: str | None, workers: int | None, retry_failed: bool, again: tuple[int, ...]
) -> None:
    """Write every fetched track's log-mel into the store.

    What is there is left alone, so the command may be run again at any time.
    """
    import sys

    from tqdm import tqdm

    from student_clap.featurize.cluster import dask_client
    from student_clap.featurize.driver import Totals, plan, run, shard_bytes
    from student_clap.featurize.task import Outcome
    from student_clap.store import FeatureStore, Recipe

    settings = config.featurize.model_copy(
        update={k: v for k, v in {"scheduler": scheduler, "workers": workers}.items() if v is not None}
    )
    recipe = Recipe.from_config(config.audio)
    with FeatureStore.open(config.store.path, "r+") as store:
        if unknown := [row for row in again if row >= store.n_tracks]:
            raise click.ClickException(f"--again {unknown[0]}: the store has rows 0 to {store.n_tracks - 1}")
        found = plan(
            store,
            store.features(recipe),
            config.ingest.cache_dir,
            retry_failed=retry_failed,
            again=frozenset(again),
        )
        titles = store.strings("title")
        totals = Totals()
        if found.jobs:
            click.echo(
                f"featurize: {len(found.jobs)} tracks to make, recipe {recipe.name} ({recipe.n_mels} mels, "
                f"n_fft {recipe.n_fft}, fingerprint {recipe.fingerprint})"
            )
            with (
                dask_client(settings) as client,
                tqdm(total=len(found.jobs), unit="track", disable=None, file=sys.stderr, smoothing=0.1) as bar,
            ):

                def report(outcome: Outcome) -> None:
                    bar.update()
                    if outcome.error:
                        tqdm.write(
                            f"failed: row {outcome.row} {titles[outcome.row]!r}: {outcome.error}", file=sys.stderr
                        )

                totals = run(client, store, recipe, found.jobs, settings.tracks_per_task, report)
        size = shard_bytes(store, recipe)
        audio_s = float(sum(n for n in store.features(recipe).n_samples() if n > 0)) / recipe.sample_rate
    parts = [f"{totals.made} tracks made"]
    if totals.made:
        speed = totals.audio_s / max(totals.wall_s, 1e-9)
        parts[0] += (
            f" ({totals.audio_s / 60:.1f} min of audio in {totals.wall_s:.1f} s, {speed:.0f} x real time, "
            f"{1e3 * totals.cpu_s / (totals.audio_s / 60):.0f} ms of CPU per minute)"
        )
    parts.append(f"{found.made} there already")
    for number, what in (
        (totals.failed, "failed"),
        (found.failed, "failed before (--retry-failed tries again)"),
        (found.lost, "without their audio file (`student-clap ingest` fetches it again)"),
        (found.waiting, "waiting for audio"),
    ):
        if number:
            parts.append(f"{number} {what}")
    if audio_s:
        parts.append(f"store {size / 1e6:.1f} MB, {size / 1e6 / (audio_s / 60):.3f} MB per minute")
    click.echo(f"featurize: {', '.join(parts)}")
