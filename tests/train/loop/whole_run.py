"""A run from its beginning to its end, as the command makes it, and what it gives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from student_clap.train.loop.session import open_display, open_stream, open_trainer

if TYPE_CHECKING:
    from pathlib import Path

    from student_clap.config.schema import Config
    from student_clap.train.loop.loop import Trainer

MEASURED = {"seconds", "tracks_per_s", "segments_per_s", "data_wait_s"}  # all that may differ between equal runs


def train(config: Config, name: str | None = None, **options: Any) -> Trainer:
    """What `student-clap train` does."""
    with (
        open_trainer(config, name, **options) as trainer,
        open_stream(config, trainer) as stream,
        open_display(trainer) as display,
    ):
        trainer.train(stream, display)
        return trainer


def lines_of(trainer: Trainer) -> list[dict[str, Any]]:
    """metrics.jsonl without what is measured."""
    return lines_in(trainer.run.path)


def lines_in(directory: Path) -> list[dict[str, Any]]:
    """The same, of the run that lies there."""
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in lines]
