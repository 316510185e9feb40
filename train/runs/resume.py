"""Whether a run may go on with a configuration: the differences to the one it was begun with.

Everything counts that would make the run another one; `FREE_SETTINGS` lists what may change, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from student_clap.config.schema import Config
from student_clap.train.runs.history import History
from student_clap.train.runs.plan import NOT_PROJECTING, Plan, Reached

# Training settings that may change when a run goes on.
FREE_SETTINGS: Mapping[str, str] = {
    "epochs": "how far the run goes; it may only grow, and the learning rate's schedule stretches to the new end",
    "early_stopping_patience": "how far the run goes",
    "projection_epochs": "how far the run goes",
    "save_every": "which checkpoints are kept",
    "runs_dir": "where the run lies",
    "device": "where the numbers are computed; they agree to rounding",
    "compile": "how the numbers are computed; they agree to rounding",
    "cuda_graph": "how the numbers are computed; they agree to rounding",
    "gradient_checkpointing": "memory against time; the numbers are the same",
    "loader_workers": "how fast the batches come; their order and content are the same",
    "cache": "how fast the batches come; their order and content are the same",
    "cache_size": "how fast the batches come; their order and content are the same",
    "log_every": "how often a GPU is asked for its figures; they are the same",
    # BatchNorm takes its statistics over what is on the device at once, so the losses change a little.
    "micro_batch": "memory against time; another machine may have less of it",
    "segments_per_pass": "the name that micro_batch has in older runs",
}

# Section -> key -> what runs did that were begun before the setting came.
EARLIER: Mapping[str, Mapping[str, Any]] = {"loss": {"bank_of": "tracks"}}


def settings(config: Config) -> dict[str, dict[str, Any]]:
    """Everything of the configuration that makes a run what it is, by section; the loss with every weight written."""
    loss = {**config.objective.model_dump(mode="json"), **config.objective.weights}
    # Without test tracks a run is the one that it was before there was such a setting.
    unset = None if config.split.test_folds else {"test_folds"}
    return {
        "model": config.model.model_dump(mode="json"),
        "split": config.split.model_dump(mode="json", exclude=unset),
        "loss": {name: value for name, value in loss.items() if name != "preset"},
        "augmentation": config.augmentation.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json", exclude={"mse_weight", "cosine_weight"}),
    }


def changed_settings(stored: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for every setting with which the run would go on differently.

    Args:
        stored: run.json.
        now: `settings` of the configuration, and any other section of run.json that must be the same.
    """
    found = []
    for section, values in now.items():
        before = {**EARLIER.get(section, {}), **stored[section]}
        for key in sorted(before.keys() | values.keys()):
            if section == "training" and key in FREE_SETTINGS:
                continue
            if (section, key) == ("augmentation", "views") and key not in before and not values[key]:
                continue  # of before there were views, of which it learns none
            if before.get(key) != values.get(key):
                found.append(f"{section}.{key}: the run has {before.get(key)!r}, now it is {values.get(key)!r}")
    epochs, asked = stored["training"]["epochs"], now["training"]["epochs"]
    if asked < epochs:
        found.append(f"training.epochs: the run has {epochs}, now it is {asked}; it may only grow")
    return found


def ended_stage(stored: Mapping[str, Any], now: Config, history: History, began: int) -> list[str]:
    """One line where the configuration would make the first stage longer and the second one has begun.

    Args:
        stored: run.json.
        now: the configuration.
        history: of the run.
        began: complete epochs when the second stage began, as the checkpoint says that the run goes on from.
    """
    before, asked = Plan.from_description(stored["training"]), Plan.of(now.training)
    if began == NOT_PROJECTING or before is None:
        return []
    if (before.epochs, before.early_stopping_patience) == (asked.epochs, asked.early_stopping_patience):
        return []
    first_stage = History(tuple(metrics for metrics in history.epochs if metrics["epoch"] <= began))
    if asked.first_stage_over(Reached(began, asked.reached(first_stage).best_epoch)):
        return []
    line = (
        "training.epochs, early_stopping_patience: the first stage would be longer, but the second one has begun after "
        f"epoch {began}; `--resume` a checkpoint from before that, or begin another run with `--from`"
    )
    return [line]
