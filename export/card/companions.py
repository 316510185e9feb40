"""The files beside a model: `<name>.card.md`, space.json and SHA256SUMS, written by export and kept up by evaluate.

    student.onnx          the model
    student.card.md       its card
    space.json            the identity of its space; all models of a folder share it
    SHA256SUMS            of these, and of the folder's other models

Guarantee: each appears whole, SHA256SUMS last; where export is killed before it, `check` says that the model is not
what SHA256SUMS says, and another export makes it good. Evaluate writes over no card that a user has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from student_clap.config.runtime.files import write_text_atomically
from student_clap.export.card.card import card_text
from student_clap.export.card.facts import gather
from student_clap.export.card.space import SPACE, another_space, space_of, space_text
from student_clap.export.card.sums import SUMS, add_sums, is_unchanged
from student_clap.export.evaluate.record import find_evaluation
from student_clap.train.runs.reader import RunFolder


def card_of(model: Path) -> Path:
    """Where a model's card lies."""
    return model.with_name(f"{model.stem}.card.md")


def write_companions(model: Path, run: RunFolder | None) -> str:
    """Write card, space.json and checksums of a model that was just written.

    Args:
        model: the ONNX file.
        run: its run; None where its checkpoint lies in none.

    Returns:
        A warning, where other models of the folder are of another space; else "".

    Raises:
        OSError: one cannot be written.
    """
    facts = gather(model, run, find_evaluation(model).record)
    card, space_file = card_of(model), model.with_name(SPACE)
    space = space_of(facts.teacher, facts.teacher_digest, facts.spec.recipe)
    others = sorted(p.name for p in model.parent.glob("*.onnx") if p.name != model.name and card_of(p).exists())
    warning = ""
    if others and another_space(space_file, space):
        warning = (
            f"{space_file} was of another teacher or recipe, and is now of {model.name}; {', '.join(others)} may be of "
            "the other one: export them again, or keep models of two spaces in two folders (--out)"
        )
    write_text_atomically(card, card_text(facts))
    write_text_atomically(space_file, space_text(space))
    add_sums(model.parent, [model.name, card.name, space_file.name])
    return warning


def refresh_card(model: Path, run: RunFolder | None, record: Mapping[str, Any]) -> str:
    """Bring the figures of an evaluation into the card that lies beside `model`; without one nothing is done.

    Args:
        model: the ONNX file that was judged.
        run: its run; None where it is not known to be of one.
        record: metrics.json.

    Returns:
        Why the card is as it was, where there is one; else "".

    Raises:
        OSError: it cannot be written.
    """
    card = card_of(model)
    if not card.exists():
        return ""
    if not is_unchanged(model):
        return f"{card} was left as it is: {model.name} is not the file that {SUMS} beside it names"
    known = find_evaluation(model).record
    # Figures on test tracks come first, whenever they were measured.
    best = record if known is None or record.get("on") == "test" else known
    text = card_text(gather(model, run, best))
    if not is_unchanged(card) and card.read_text(encoding="utf-8", errors="replace") != text:
        return f"{card} was left as it is, since it was changed by hand; `student-clap export` writes a new one"
    write_text_atomically(card, text)
    add_sums(model.parent, [card.name])
    return ""
