"""The forms in which a checkpoint is exported, by name; each is one function that writes a file and says what it wrote.

    mel            the drop-in
    clap           the same behind LAION's layout, [1, 1, frame, mel]
    batch          any number of segments a run
    waveform       48 kHz samples in
    int8, fp16, fp16-weights   fewer bits
    int8-PROCESSOR             int8 for another machine

Adding a form is one function in `_WRITERS`. A form that is not the drop-in is made of the drop-in's proved graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt

from student_clap.export.graph.batch_axis import write_batch_student
from student_clap.export.graph.folding import operator_table
from student_clap.export.graph.int8_target import HERE, TARGETS
from student_clap.export.graph.parity import real_segments
from student_clap.export.graph.quantise import Kind, write_quantised
from student_clap.export.graph.sampling import Samples, draw_samples
from student_clap.export.graph.waveform import real_pieces, write_waveform_student
from student_clap.export.graph.writer import Built, build_student, check_clap_recipe, write_student
from student_clap.export.model.metadata import ANY_TERMS, VALIDATION, Terms
from student_clap.export.model.origin import Origin, Split
from student_clap.train.runs.checkpoint import CheckpointInfo, load_student, read_checkpoint
from student_clap.train.runs.history import figure
from student_clap.train.runs.reader import RunFolder, require_checkpoint

if TYPE_CHECKING:
    from student_clap.export.refit.head import Refit
    from student_clap.store import FeatureStore
    from student_clap.train.students.student import Student

Say = Callable[[str], object]


@dataclass(frozen=True)
class Source:
    """A checkpoint that is to be exported, and what its run says of it."""

    path: Path
    student: Student
    info: CheckpointInfo
    epoch: Mapping[str, Any] | None  # the run's record of the checkpoint's epoch, where it is of these very weights
    home: RunFolder | None  # the run, where the checkpoint lies in its folder
    split: Split
    unjudged: str = ""  # why no validation figures are of these weights
    refit: Mapping[str, Any] | None = None  # how the head was fitted again, where it was
    terms: Terms = ANY_TERMS  # on which the file leaves the house

    @classmethod
    def open(cls, path: Path) -> Self:
        """Load it.

        Raises:
            RunError: there is no such file.
            CheckpointError: it is damaged.
        """
        require_checkpoint(path)
        student, info, progress = _load(path)
        origin = Origin.of_checkpoint(path, info)
        home = None if (nearby := origin.nearby) is None or origin.fits(nearby) is False else nearby
        epochs = [] if home is None else home.epochs()
        epoch = next((entry for entry in epochs if entry.get("epoch") == info.epoch), None)
        unjudged = _why_unjudged(path, info, progress, epoch)
        if unjudged:
            info, epoch = replace(info, val_cosine=math.nan), None
        return cls(path, student, info, epoch, home, Split() if home is None else Split.of(home), unjudged)

    @property
    def origin(self) -> Origin:
        """What the checkpoint says of its run."""
        return Origin.of_checkpoint(self.path, self.info)

    def refitted(self, refit: Refit) -> Self:
        """The same with the head of `refit`, whose figures take the place of the checkpoint's own."""
        if refit.taken is None:
            return self
        figures = refit.taken.figures
        others = {key: value for key, value in (self.epoch or {}).items() if not key.startswith(VALIDATION)}
        return replace(
            self,
            student=refit.student,
            info=replace(self.info, val_cosine=figures["cosine"]),
            epoch=others | {VALIDATION + name: value for name, value in figures.items()},
            refit=refit.record(),
            unjudged="",
        )


def _load(path: Path) -> tuple[Student, CheckpointInfo, Mapping[str, Any] | None]:
    """Student, info and, of a checkpoint to go on from, its progress. Raises CheckpointError."""
    while True:
        student, info = load_student(path)
        again, content = read_checkpoint(path)
        if again.epoch == info.epoch:  # else its run has put the next one in its place
            progress = content.get("progress")
            return student, info, progress if progress is None or isinstance(progress, Mapping) else {}


def _why_unjudged(
    path: Path, info: CheckpointInfo, progress: Mapping[str, Any] | None, epoch: Mapping[str, Any] | None
) -> str:
    """Why the figures of `epoch`, and the cosine in `info`, are not of these weights; "" where they are."""
    if progress is None:  # a student that was kept for its figures
        return ""
    if progress.get("position"):
        return f"{path} was saved within epoch {info.epoch + 1}"
    if epoch is None:
        return f"{path} lies in no run that has a record of its epoch {info.epoch}"
    if figure(dict(epoch), f"{VALIDATION}cosine") is None:
        return f"{path} is of epoch {info.epoch}, which was not validated"
    return ""


@dataclass(frozen=True)
class Material:
    """Real audio of the store that a form is proved on."""

    segments_db: npt.NDArray[np.float32]  # [segment, mel, frame]
    n_tracks: int  # that they are of
    samples: Samples | None  # for fewer bits alone
    pieces: list[npt.NDArray[np.float32]]  # [sample] each, for the waveform form alone


def gather(form: str, source: Source, store: FeatureStore, cache_dir: Path) -> Material:
    """The material for `form` from the store. Raises StoreError where it has no features, or no tracks of a side."""
    preferred = source.split.sides(store).validation.tolist()
    features = store.features(source.info.recipe)
    segments_db, n_tracks = real_segments(features, preferred)
    samples = draw_samples(store, features, source.split) if form in QUANTISED else None
    pieces = real_pieces(store, preferred, cache_dir, source.info.recipe) if form == "waveform" else []
    return Material(segments_db, n_tracks, samples, pieces)


def check_form(form: str, source: Source) -> None:
    """Raises ExportError for a student that a form does not fit, before anything is made."""
    if form == "clap":
        check_clap_recipe(source.info.recipe)


def write_form(form: str, source: Source, material: Material, output: Path, say: Say) -> str:
    """Write the file and return one sentence about it.

    Args:
        form: one of `FORMS`.
        source: the checkpoint.
        material: as `gather` makes it for this form.
        output: the file to write.
        say: gets a line about each thing that was tried, and the drop-in's table of operators.

    Raises:
        ExportError, ParityError: the file was not written; the message says why.
        ModelError: onnxruntime cannot run what was built.
    """
    said = _WRITERS[form](form, source, material, output, say)
    return f"{said}; it carries the checkpoint, for `train --from`" if source.terms.weights else said


def _write_mel(form: str, source: Source, material: Material, output: Path, say: Say) -> str:
    done = write_student(
        source.student,
        source.info,
        output,
        material.segments_db,
        material.n_tracks,
        checkpoint=source.path.name,
        epoch=source.epoch,
        refit=source.refit,
        terms=source.terms,
        transposed=form == "clap",
    )
    say(operator_table(done.model))
    return (
        f"{done.path}: {source.info.model.architecture}, epoch {source.info.epoch}, "
        f"{done.n_parameters / 1e6:.2f} M parameters, {done.n_bytes / 1e6:.2f} MB; parity with torch: {done.parity}"
    )


def _write_batch(_: str, source: Source, material: Material, output: Path, _say: Say) -> str:
    done = write_batch_student(_build(source, material), source.info.recipe, output, material.segments_db)
    return (
        f"{done.path}: {done.n_bytes / 1e6:.2f} MB, for batch users and not for AudioMuse-AI; 1, 3 and 16 segments a "
        f"run differ from the drop-in by {done.max_difference:.1e} at most"
    )


def _write_waveform(_: str, source: Source, material: Material, output: Path, _say: Say) -> str:
    done = write_waveform_student(_build(source, material), source.info.recipe, output, material.pieces)
    return f"{done.path}: {done.n_bytes / 1e6:.2f} MB, for clients without a mel and not for AudioMuse-AI; {done}"


def _write_quantised(form: str, source: Source, material: Material, output: Path, say: Say) -> str:
    if material.samples is None:
        raise ValueError(f"{form} needs the samples that gather({form!r}, ...) draws")
    built, target = _build(source, material), _INT8.get(form, TARGETS[HERE])
    kind = cast("Kind", "int8" if form in _INT8 else form)
    done = write_quantised(kind, built, source.info.recipe, material.samples, output, say, target)
    speed = done.verdict.speed or f"not timed: it is for {target.meaning}"
    return (
        f"{done.path}: {done.how}; {done.n_bytes / 1e6:.2f} MB against {done.float_bytes / 1e6:.2f}; "
        f"{done.verdict.quality} on {done.verdict.quality.n_segments} validation segments; {speed}"
    )


def _build(source: Source, material: Material) -> Built:
    """The drop-in's graph, compared with torch."""
    return build_student(
        source.student,
        source.info,
        material.segments_db,
        material.n_tracks,
        checkpoint=source.path.name,
        epoch=source.epoch,
        refit=source.refit,
        terms=source.terms,
    )


_INT8 = {"int8" if target.is_here else f"int8-{target.name}": target for target in TARGETS.values()}
QUANTISED = (*_INT8, "fp16", "fp16-weights")
_WRITERS: dict[str, Callable[[str, Source, Material, Path, Say], str]] = {
    "mel": _write_mel,
    "clap": _write_mel,
    "batch": _write_batch,
    "waveform": _write_waveform,
    **dict.fromkeys(QUANTISED, _write_quantised),
}
FORMS = tuple(_WRITERS)
