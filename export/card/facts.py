"""What a card says: facts of the model's own file, of its run and of its evaluation. Foreign text is on one line.

Guarantee: a run or an evaluation that cannot be read is one that is not there. Where the file says that facts of the
library are left out, the run's split is not even read.
Cost: reads the model once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from student_clap.config.formats.json_text import parse_json
from student_clap.config.runtime.files import sha256_of
from student_clap.config.runtime.text import one_line
from student_clap.config.schema import AudioConfig, TeacherConfig
from student_clap.export.evaluate.baselines import KeyFigure, key_figures
from student_clap.export.evaluate.record import heard_of, side_of
from student_clap.export.model.metadata import QUANTISATION_KEY, Terms, plain_metadata
from student_clap.export.model.origin import heard_before
from student_clap.featurize.onnx.graph import Declaration, read_graph
from student_clap.featurize.onnx.input_spec import InputSpec, input_spec
from student_clap.store import Recipe
from student_clap.train.runs.reader import RunError, RunFolder

# Of training's validation figures, those that a reader asks for: key in the metadata -> (key of `evaluate`, name).
_TRAINED = {
    "cosine": ("cosine", "Cosine"),
    "centred": ("centred_cosine", "Centred cosine"),
    "overlap": ("overlap", "Neighbour overlap"),
    "ndcg": ("ndcg", "nDCG"),
    "mixed_recall_at_1": ("recall@1", "Cross-model retrieval R@1"),
}
_LONGEST = 120  # characters of a name


@dataclass(frozen=True)
class HeldOut:
    """The sides of the run's split; None where the run does not say."""

    training_tracks: int | None = None
    validation_tracks: int | None = None
    test_tracks: int | None = None
    validation_artists: tuple[str, ...] = ()  # by name
    test_artists: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """The figures of `student-clap evaluate`."""

    on: str  # side of the split
    n_tracks: int
    n_artists: int | None
    figures: tuple[KeyFigure, ...]
    heard: int | None  # held-out tracks that the model may have been trained on, at most; None: nothing tells

    @classmethod
    def of_record(cls, record: Mapping[str, Any] | None) -> Evaluation | None:
        """From metrics.json; None where there is none, or another program's."""
        if record is None:
            return None
        try:
            figures = tuple(key_figures(record))
            artists = record.get("n_artists")
            for figure in figures:
                for number in (figure.student, figure.mean_vector, figure.shuffled, *(figure.interval or ())):
                    float(number or 0.0)
            return cls(
                side if (side := side_of(record)) in ("test", "validation") else "held-out",
                int(record["n_tracks"]),
                None if artists is None else int(artists),
                figures,
                heard_of(record),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


@dataclass(frozen=True)
class Facts:
    """Everything that the card of one model says."""

    file: str
    n_bytes: int
    sha256: str
    spec: InputSpec
    metadata: Mapping[str, str]  # keys without their prefix
    terms: Terms
    quantisation: Mapping[str, Any]
    teacher_digest: str
    held_out: HeldOut
    heard: int | None  # of the run's held-out tracks, by the student that it began with; None: nothing tells
    evaluation: Evaluation | None

    @property
    def teacher(self) -> str:
        """The teacher's declared name; "" where none was declared."""
        name = _word(self.metadata.get("teacher_name", ""))
        return "" if name == TeacherConfig().name else name

    @property
    def side(self) -> str:
        """The side of the split that the figures are of."""
        return "validation" if self.evaluation is None else self.evaluation.on

    @property
    def trained_figures(self) -> list[tuple[str, str, float]]:
        """(key, name, value) of the validation figures that the file carries from its training."""
        known = _object(self.metadata.get("validation_metrics", ""))
        return [
            (key, name, float(known[own]))
            for own, (key, name) in _TRAINED.items()
            if isinstance(known.get(own), float | int)
        ]


def gather(model: Path, run: RunFolder | None, record: Mapping[str, Any] | None) -> Facts:
    """The facts of `model`.

    Args:
        model: an ONNX file of ours.
        run: its run; None: not known.
        record: metrics.json of its evaluation; None: it has none.

    Raises:
        ModelError: it is not an ONNX file.
        OSError: it cannot be read.
    """
    declaration = Declaration.of_model(read_graph(model))
    terms = Terms.of_file(declaration.metadata)
    return Facts(
        _word(model.name),
        model.stat().st_size,
        sha256_of(model),
        input_spec(declaration, Recipe.from_config(AudioConfig()), str(model)),
        plain_metadata(declaration.metadata),
        replace(terms, licence=_word(terms.licence)),
        _object(declaration.metadata.get(QUANTISATION_KEY, "")),
        "" if run is None else _teacher_digest(run),
        _held_out(run) if run is not None and terms.library_facts else HeldOut(),
        None if run is None else heard_before(run.record()),
        Evaluation.of_record(record),
    )


def _teacher_digest(run: RunFolder) -> str:
    """Of the teacher whose segment vectors the run learnt; "" where it learnt none."""
    taught = run.record().get("segment_vectors")
    return _word(taught.get("model") or "") if isinstance(taught, dict) else ""


def _held_out(run: RunFolder) -> HeldOut:
    try:
        artists, counts = run.held_out_artists(), run.track_counts()
    except RunError:
        return HeldOut()
    return HeldOut(
        counts.get("training"),
        counts.get("validation"),
        counts.get("test"),
        tuple(sorted(map(_word, artists.validation))),
        tuple(sorted(map(_word, artists.test))),
    )


def _object(text: str) -> dict[str, Any]:
    """A JSON object; an empty one where the text is none."""
    try:
        found = parse_json(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _word(text: object) -> str:
    return one_line(text, _LONGEST)
