"""What `train` needs to be there, asked before torch is loaded: a wrong order of the stages is told in a second.

Cost: no heavy import; for a new run one reading of the track table more, 2 KB per track.
"""

from __future__ import annotations

import os

from student_clap.config.schema import Config
from student_clap.store import FeatureStore, Recipe
from student_clap.train.data.selection import TrackTable, select
from student_clap.train.runs.directory import is_run, run_directory


def check_prerequisites(config: Config, run_name: str | None) -> None:
    """Look for the store, the features of the recipe and, for a new run, tracks on both sides of the split.

    Raises:
        click.ClickException: one of them is missing, with the stage that makes it.
    """
    directory = run_directory(config, run_name)
    store = FeatureStore.open(config.store.path)
    features = store.features(Recipe.from_config(config.audio))
    # Of several processes one speaks.
    if os.environ.get("RANK", "0") == "0" and not is_run(directory):
        select(TrackTable.read(store, features), config.split)
