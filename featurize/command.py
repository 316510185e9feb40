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
    from student_clap.featurize.driver import Totals, plan, run
    from student_clap.featurize.stop import Stopped, stoppable
    from student_clap.featurize.summary import closing_line
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
        totals, stopped = Totals(), None
        if found.jobs:
            click.echo(
                f"featurize: {len(found.jobs)} tracks to make, recipe {recipe.name} ({recipe.n_mels} mels, "
                f"n_fft {recipe.n_fft}, fingerprint {recipe.fingerprint})"
            )
            bar = tqdm(total=len(found.jobs), unit="track", disable=None, file=sys.stderr, smoothing=0.1)

            def report(outcome: Outcome) -> None:
                bar.update()
                if outcome.error:
                    tqdm.write(f"failed: row {outcome.row} {titles[outcome.row]!r}: {outcome.error}", file=sys.stderr)

            try:
                with stoppable(), bar, dask_client(settings) as client:
                    run(client, store, recipe, found.jobs, settings.tracks_per_task, totals, report)
            except Stopped as signal:
                stopped = signal
        click.echo(closing_line(found, totals, store.features(recipe), stopped))
    if stopped is not None:
        sys.exit(stopped.exit_code)
