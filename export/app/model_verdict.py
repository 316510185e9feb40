"""The evaluation of a model file: whether it may go to AudioMuse-AI, and how its vectors agree with the old ones.

`evaluate.record.find_evaluation` finds it. A file that was taken elsewhere carries the verdict of its training, which
counts where there is no evaluation.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from student_clap.config.formats.json_text import parse_json
from student_clap.config.runtime.text import one_line
from student_clap.export.evaluate.baselines import conclude
from student_clap.export.evaluate.figures import tells
from student_clap.export.evaluate.record import Evaluated, side_of
from student_clap.export.model.metadata import plain_metadata
from student_clap.export.model.session import StudentSession
from student_clap.export.model.trained_verdict import read_verdict
from student_clap.featurize.onnx.graph import ModelError

_UNKNOWN = "How much an index of old and new vectors loses is not known"
_TRAIN_BETTER = "train longer, on more tracks or with another recipe"
_OWN_NAME = "student.onnx"  # whose evaluation lies in the folder without a suffix


class UnprovenModelError(click.ClickException):
    """A model does not beat both baselines, or was not evaluated. Nothing was changed."""


def check_worth(model: Path, evaluated: Evaluated, *, anyway: bool) -> str:
    """Refuse a model whose vectors are known to be, or may be, worse than those of a predictor that knows nothing.

    Args:
        model: the ONNX file.
        evaluated: from `find_evaluation`.
        anyway: the user wants it all the same.

    Returns:
        A warning, where `anyway` was needed; else "".

    Raises:
        UnprovenModelError: it was not evaluated, or does not beat both baselines; not where `anyway` is set.
    """
    trained = None if evaluated.record is not None else read_verdict(_metadata(model))
    if trained is not None:
        if trained.beats_baselines:
            return ""
        fault = f"{model} did not beat both baselines on the validation tracks of its training: {trained.figures}"
        remedy = _TRAIN_BETTER
    elif evaluated.record is None:
        fault = f"{model} was not evaluated: {evaluated.why_not}"
        remedy = f"`{_evaluate_command(model)}` judges it"
    else:
        conclusion = conclude(evaluated.record)
        if conclusion.beats_baselines:
            return ""
        tracks = f"{evaluated.record['n_tracks']} {side_of(evaluated.record)} tracks"
        fault = f"{model} does not beat both baselines on {tracks}: {conclusion.figures}"
        remedy = _TRAIN_BETTER
    if anyway:
        return one_line(fault, limit=1000)
    raise UnprovenModelError(
        f"{fault}; nothing was changed. {remedy[0].upper()}{remedy[1:]}; --anyway takes it as it is"
    )


def shared_index(model: Path, evaluated: Evaluated) -> str:
    """How often a track's new vector finds its own old one first, and the other way round, in one sentence.

    From the evaluation of these very bytes; else from what training left in the file's metadata; else the sentence says
    that it is not known.
    """
    if evaluated.record is None:
        return _trained(model) or f"{_UNKNOWN}: {evaluated.why_not}; `student-clap evaluate` measures it."
    if not tells("recall@1", evaluated.record["n_tracks"]):
        return f"{_UNKNOWN}: it was evaluated on one track, which every vector finds."
    means = evaluated.record["student"]["means"]
    tracks = f"{evaluated.record['n_tracks']} {side_of(evaluated.record)} tracks"
    forth, back = means["recall@1"], means["reverse_recall@1"]
    return (
        f"Measured on {tracks}: in an index of both, a track's new vector finds its own old one first"
        f" in {forth:.1%} of cases (cross-model retrieval R@1 {forth:.3f}), an old vector its own new one in {back:.1%}"
        f" (R@1 {back:.3f})."
    )


def _trained(model: Path) -> str:
    """A sentence on the checkpoint that the file was made of; "" where the file does not say."""
    try:
        said = _metadata(model)
        # Files from before there were test tracks call the validation side held out.
        known = parse_json(said.get("validation_metrics") or said.get("held_out_metrics") or "{}")
        recall = float(
            known["cross_model_recall_at_1"] if "cross_model_recall_at_1" in known else known["mixed_recall_at_1"]
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return ""
    return (
        "In training, among validation tracks, a new vector of the checkpoint found its own old one first in"
        f" {recall:.1%} of cases (cross-model retrieval R@1 {recall:.3f}); `student-clap evaluate` measures this file."
    )


def _evaluate_command(model: Path) -> str:
    """The command whose metrics.json `find_evaluation` finds."""
    run = _metadata(model).get("run_name", "")
    folder = model.absolute().parent / ("evaluation" if model.name == _OWN_NAME else f"evaluation-{model.stem}")
    words = [
        "student-clap",
        "evaluate",
        *(["--run", run] if run else []),
        "--model",
        str(model),
        "--out",
        str(folder),
    ]
    return one_line(shlex.join(words), limit=2000)


def _metadata(model: Path) -> dict[str, str]:
    try:
        return plain_metadata(StudentSession(model).metadata)
    except ModelError:
        return {}
