"""The best run's ONNX files against its best epoch and against the live model. Reads only.

Cost: the graph of each file, and the bytes of those that are as long as the live one.
"""

from __future__ import annotations

from pathlib import Path

from student_clap.config.formats.json_text import parse_json
from student_clap.export.app.live_model import LiveModel
from student_clap.export.model.metadata import REFIT_KEY, plain_metadata
from student_clap.featurize.onnx.graph import Declaration, ModelError, read_graph
from student_clap.train.comparison.row import RunRow
from student_clap.train.runs.history import figure
from student_clap.train.runs.reader import RunFolder

_ROUNDING = 1e-6  # of the figures in a file's metadata


def live_file(folder: RunFolder, run: RunRow, live: LiveModel | None) -> Path | None:
    """Which of the run's ONNX files of its best epoch is the live model; None where none is."""
    if live is None:
        return None
    others = sorted(set(folder.path.glob(f"{folder.student_onnx.stem}-*.onnx")))
    files = [path for path in (folder.student_onnx, *others) if path.is_file()]
    return next((path for path in files if live.is_model(path) and not why_outdated(path, run)), None)


def why_outdated(model: Path, run: RunRow) -> str:
    """Why `model` is not what `export` would make of the run's best epoch now; "" where nothing says so."""
    try:
        metadata = Declaration.of_model(read_graph(model)).metadata
    except ModelError:
        return f"{model.name} cannot be read"
    said, best = plain_metadata(metadata), run.best_epoch
    if best is None or not said.get("epoch", "").isdecimal():
        return ""
    if int(said["epoch"]) != best["epoch"]:
        return f"{model.name} is of epoch {said['epoch']}, and epoch {best['epoch']} is the best one now"
    before, now = _cosine(said), figure(best, "val_cosine")
    # A head that was fitted again has figures of its own.
    if REFIT_KEY in metadata or before is None or now is None or abs(before - now) <= _ROUNDING:
        return ""
    return f"{model.name} is of an earlier training: its validation cosine is {before:.4f}, and the run's {now:.4f}"


def _cosine(said: dict[str, str]) -> float | None:
    """The validation cosine that a file carries; None where it has none."""
    try:
        return float(parse_json(said.get("validation_metrics") or "{}")["cosine"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
