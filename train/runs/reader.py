"""What a run left behind: its split, its record and its learning curves. Reads only; the trainer writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import click
import numpy as np
import numpy.typing as npt

SPLIT_FILE = "split.json"
METRICS_FILE = "metrics.jsonl"
RUN_FILE = "run.json"


class RunError(click.ClickException):
    """A run directory lacks something. The message names the file and the remedy."""


@dataclass(frozen=True)
class RunFolder:
    """`<training.runs_dir>/<name>/`."""

    path: Path

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> Self | None:
        """The run that a checkpoint lies in, or in a folder of; None for one that was moved away."""
        nearby = (checkpoint.resolve().parent, checkpoint.resolve().parent.parent)
        return next((cls(folder) for folder in nearby if (folder / SPLIT_FILE).is_file()), None)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def student_onnx(self) -> Path:
        """Where export writes and evaluate reads."""
        return self.path / "student.onnx"

    def variant(self, name: str) -> Path:
        """Where export writes the student in another form: "batch", "int8", "fp16"."""
        return self.path / f"student-{name}.onnx"

    @property
    def evaluation(self) -> Path:
        """Where evaluate writes."""
        return self.path / "evaluation"

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint with the best held-out cosine."""
        return self.path / "best.pt"

    def held_out_artists(self) -> frozenset[str]:
        """The artists no track of which was trained on.

        Raises:
            RunError: there is no such run, or its split cannot be read.
        """
        split = self._json(SPLIT_FILE)
        artists = split.get("held_out_artists") if isinstance(split, dict) else None
        if not isinstance(artists, list):
            raise RunError(f"{self.path / SPLIT_FILE} has no held_out_artists; train the run again")
        return frozenset(str(artist) for artist in artists)

    def record(self) -> dict[str, Any]:
        """run.json, or {} where there is none."""
        try:
            record = json.loads((self.path / RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def epochs(self) -> list[dict[str, Any]]:
        """The learning curves, one object per epoch; lines that a killed run left unfinished are skipped.

        An epoch that was run again after a resume counts once, as it was run last.
        """
        try:
            lines = (self.path / METRICS_FILE).read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        by_epoch: dict[int, dict[str, Any]] = {}
        for line in lines:
            try:
                entry = json.loads(line)
                by_epoch[int(entry["epoch"])] = entry
            except (ValueError, KeyError, TypeError):
                continue
        return [by_epoch[epoch] for epoch in sorted(by_epoch)]

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"{self.path} has no {name}; train first, or name a run with --run (runs lie in training.runs_dir)"
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} cannot be read: {error}") from error


def held_out_rows(
    teacher: npt.NDArray[np.float32], artists: Sequence[str], held_out: frozenset[str]
) -> npt.NDArray[np.int64]:
    """Rows with a finite teacher vector whose artist is held out.

    Args:
        teacher: [track, 512]; NaN rows have none.
        artists: one per track.
        held_out: the artists of the split.
    """
    out = np.fromiter((artist in held_out for artist in artists), bool, len(artists))
    return np.flatnonzero(np.isfinite(teacher).all(axis=1) & out)
