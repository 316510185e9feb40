"""`student-clap featurize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from student_clap.config.options import config_options
from student_clap.config.runtime.screen import echo
from student_clap.config.schema import Config, FeaturizeConfig

_PLACES = ("scheduler", "scheduler_file", "cluster")  # where to work; one at most


@click.command()
@click.option("--workers", type=click.IntRange(min=1), help="Processes on this machine.  [default: one per core]")
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler, such as tcp://10.0.0.2:8786.")
@click.option(
    "--scheduler-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file that `dask scheduler --scheduler-file` writes.",
)
@click.option("--cluster", type=click.Choice(["local", "slurm"]), help="This machine, or SLURM jobs.  [default: local]")
@click.option("--jobs", type=click.IntRange(min=1), help="SLURM jobs that run workers.  [default: 1]")
@click.option("--retry-failed", is_flag=True, help="Try again what failed before.")
@click.option("--again", "again", type=click.IntRange(min=0), multiple=True, metavar="ROW", help="Make this row anew.")
@click.option("--again-old-decoder", is_flag=True, help="Make again what an older rule of decoding made.")
@config_options(recipe=True)
def featurize(
    config: Config, *, retry_failed: bool, again: tuple[int, ...], again_old_decoder: bool, **places: Any
) -> None:
    """Write every fetched track's log-mel into the store.

    What is there is left alone, so the command may be run again at any time.
    """
    import sys

    from tqdm import tqdm

    from student_clap.config.runtime.signals import Stopped, stoppable
    from student_clap.featurize.cluster.open import ClusterError, dask_cluster
    from student_clap.featurize.cluster.task import Outcome
    from student_clap.featurize.driver import Totals, plan, run
    from student_clap.featurize.summary import closing_line
    from student_clap.store import FeatureStore, Recipe
    from student_clap.store.storage.errors import StoreError

    settings = _settings(config.featurize, {k: v for k, v in places.items() if v is not None})
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
            again_old_decoder=again_old_decoder,
        )
        titles = store.strings("title")
        totals = Totals()
        broken: Stopped | ClusterError | StoreError | None = None
        stopped_by = ""
        if found.jobs:
            echo(
                f"featurize: {len(found.jobs)} tracks to make, recipe {recipe.name} ({recipe.n_mels} mels, "
                f"n_fft {recipe.n_fft}, fingerprint {recipe.fingerprint})"
            )
            bar = tqdm(total=len(found.jobs), unit="track", disable=None, file=sys.stderr, smoothing=0.1)

            def say(message: str) -> None:
                tqdm.write(message, file=sys.stderr)

            def report(outcome: Outcome) -> None:
                bar.update()
                if outcome.error:
                    say(f"failed: row {outcome.row} {titles[outcome.row]!r}: {outcome.error}")
                if outcome.remark:
                    say(f"warning: row {outcome.row} {titles[outcome.row]!r}: {outcome.remark}")

            try:
                with stoppable(), bar, dask_cluster(settings, say) as cluster:
                    served = f", dashboard {cluster.dashboard}" if cluster.dashboard else ""
                    echo(f"featurize: Dask scheduler {cluster.address}{served}")
                    run(cluster, store, recipe, found.jobs, settings.tracks_per_task, totals, report, say)
            except (Stopped, ClusterError, StoreError) as error:
                broken = error
                whose = "cluster" if isinstance(error, ClusterError) else "store"
                stopped_by = str(error) if isinstance(error, Stopped) else f"the {whose}'s failure"
        echo(closing_line(found, totals, store.features(recipe), _fetch_command(), stopped_by))
    if isinstance(broken, Stopped):
        sys.exit(broken.exit_code)
    if broken is not None:
        raise broken


def _fetch_command() -> str:
    """What fetches the audio that this command's recipe needs."""
    recipe = click.get_current_context().params.get("recipe")
    return f"student-clap ingest --recipe {recipe}" if recipe else "student-clap ingest"


def _settings(config: FeaturizeConfig, given: dict[str, Any]) -> FeaturizeConfig:
    """`config` with what was given on the command line, which wins."""
    chosen = [f"--{name.replace('_', '-')}" for name in _PLACES if name in given]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude one another")
    if given.get("cluster", config.cluster) != "slurm" and "jobs" in given:
        raise click.UsageError("--jobs counts SLURM jobs; give --cluster slurm, or --workers for this machine")
    if chosen:
        given = {"scheduler": None, "scheduler_file": None, "cluster": "local", **given}
    return config.model_copy(update=given)
