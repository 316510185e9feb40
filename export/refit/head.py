"""The head's last layer, fitted again in closed form after the training, and kept only where validation figures rise.

The layer is linear before the vector's normalisation, so ridge regression finds it: from the features that the layer
takes to the teacher's vectors, segment by segment where the run learnt segment vectors; else from the mean over a
track's segments, with production's weights, to the track's vector. Candidates are layers of several strengths of the
penalty, mixed with the layer that training left. `choice` says when one of them is taken; where none is, the head
stays. Test tracks are not read.

Guarantee: the same checkpoint, store and device give the same layer. The checkpoint is not changed.
Cost: one forward pass over all segments of at most `TRAINING_TRACKS` training and `VALIDATION_TRACKS` validation
tracks, on the training's device. Memory: some 60 MB, for the candidates' vectors of the validation
tracks and for sums; it does not grow with the library.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from student_clap.config.runtime.screen import progress, table
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.export.graph.sampling import sides
from student_clap.export.model.origin import Split
from student_clap.export.refit.choice import FIGURES, Change, change, means, score
from student_clap.export.refit.ridge import Layer, Moments, mix, ridge
from student_clap.store import FeatureStore, Recipe
from student_clap.store.storage.base import StoragePath
from student_clap.store.storage.errors import StoreError
from student_clap.train.data.batches import Batch, TrackReader, make_segments, requests_for
from student_clap.train.data.order import sample_rows
from student_clap.train.data.selection import Rows
from student_clap.train.data.stream import BatchStream
from student_clap.train.loop.step import embed
from student_clap.train.students.student import Student

TRAINING_TRACKS, VALIDATION_TRACKS = 20_000, 2048
STRENGTHS = (0.01, 0.1, 1.0)
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the new layer
_TRACKS_AT_ONCE = 16
_SEGMENTS_AT_ONCE = {"cpu": 8}  # a CPU is faster where the segments stay in its caches
_MOST_AT_ONCE = 128

Targets = Literal["segment", "track"]


@dataclass(frozen=True)
class Candidate:
    """A layer that was tried."""

    strength: float  # of the penalty
    share: float  # of the new layer in the mix
    figures: Mapping[str, float]  # means over the validation tracks
    change: Change


@dataclass(frozen=True)
class Refit:
    """What became of the head."""

    student: Student  # with the layer that was taken, else with its own
    taken: Candidate | None
    before: Mapping[str, float]  # figures of the student as it was trained
    targets: Targets
    n_training: int  # tracks
    n_validation: int

    def record(self) -> dict[str, Any] | None:
        """For the file's metadata; None where the head stayed."""
        if self.taken is None:
            return None
        return {
            "strength": self.taken.strength,
            "share": self.taken.share,
            "targets": self.targets,
            "training_tracks": self.n_training,
            "validation_tracks": self.n_validation,
            "before": _rounded(self.before),
            "after": _rounded(self.taken.figures),
        }

    def __str__(self) -> str:
        if self.taken is None:
            return (
                f"the head stays: of {len(STRENGTHS) * len(SHARES)} layers fitted to the teacher's {self.targets} "
                f"vectors none raises the figures of the {self.n_validation} validation tracks"
            )
        figures = ", ".join(
            f"{FIGURES[name]} {self.before[name]:.3f} -> {self.taken.figures[name]:.3f}"
            for name in FIGURES
            if name in self.before
        )
        return (
            f"the head was fitted again to the teacher's {self.targets} vectors of {self.n_training} training tracks "
            f"(strength {self.taken.strength:g}, {self.taken.share:.0%} new); on {self.n_validation} validation tracks "
            f"{figures}"
        )


def refit_head(
    student: Student,
    recipe: Recipe,
    store: FeatureStore,
    split: Split,
    taught: str | None,
    device: torch.device,
    say: Callable[[str], object] = lambda _: None,
) -> Refit:
    """Fit the last layer of `student`'s head again, and take the result if it pays.

    Args:
        student: in eval mode, on the CPU; it is left as it is.
        recipe: its input.
        store: its run's.
        split: its run's.
        taught: the set of segment vectors that the run learnt; None: it learnt track vectors.
        device: where the student runs.
        say: gets a line beforehand, and the table of what was tried.

    Raises:
        StoreError: a side has no track, or none that can be read.
        click.ClickException: the student answers all tracks alike.
    """
    features = store.features(recipe)
    training, validation = sides(
        store, features, split, "--refit-head fits to training tracks and chooses by validation ones"
    )
    teacher = store.teacher()
    centre = teacher[training].mean(axis=0)
    student = copy.deepcopy(student).to(device)
    passes = _Passes(student, recipe, store.source, taught, features.n_samples(), teacher, device)
    chosen, judged = sample_rows(training, TRAINING_TRACKS, 0), sample_rows(validation, VALIDATION_TRACKS, 0)
    say(
        f"refit: the student hears all segments of {len(chosen)} training and {len(judged)} validation tracks, "
        f"on {device} (training.device)"
    )
    fitted = _fit(passes, chosen)
    old = _layer_of(student.head.project)
    layers = {(0.0, 0.0): old}
    for strength in STRENGTHS:
        try:
            new = ridge(fitted.pairs, strength)
        except ValueError as error:
            raise click.ClickException(f"--refit-head: {error}; leave the option out") from error
        layers |= {(strength, share): mix(new, old, share, fitted.segments) for share in SHARES}
    rows, vectors = _embed(passes, judged, list(layers.values()))
    scores = {key: score(vectors[i], teacher[rows], centre) for i, key in enumerate(layers)}
    before = scores.pop((0.0, 0.0))
    tried = [Candidate(*key, means(found), change(before, found)) for key, found in scores.items()]
    say(_table(means(before), tried))
    taken = max((one for one in tried if one.change.pays), key=lambda one: one.change.mean, default=None)
    if taken is not None:
        _set_layer(student.head.project, layers[taken.strength, taken.share])
    targets: Targets = "segment" if fitted.by_segment else "track"
    return Refit(student.cpu().eval(), taken, means(before), targets, fitted.n_tracks, len(rows))


@dataclass(frozen=True)
class _Fitted:
    """Sums over the training tracks."""

    pairs: Moments  # what the layer takes, and the teacher's vectors
    segments: Moments  # what it takes, of all segments
    by_segment: bool  # whether any track gave its segments one by one
    n_tracks: int


@dataclass(frozen=True)
class _Passes:
    """The student over all segments of some tracks."""

    student: Student
    recipe: Recipe
    source: StoragePath
    taught: str | None
    n_samples: npt.NDArray[np.int64]  # [row]
    teacher: npt.NDArray[np.float32]  # [row, 512]
    device: torch.device

    def over(self, rows: Rows, label: str) -> Iterator[tuple[Batch, Tensor]]:
        """Batches on the device, and what the last layer takes of their segments, [segment, 512] float32.

        Raises:
            StoreError: none of `rows` can be read.
        """
        reader = TrackReader(
            self.source,
            self.recipe,
            seed=0,
            segments_per_track=None,
            segment_targets=self.taught is not None,
            segment_teacher=self.taught,
        )
        requests = requests_for(rows, self.n_samples, _TRACKS_AT_ONCE, None)
        at_once = _SEGMENTS_AT_ONCE.get(self.device.type, _MOST_AT_ONCE)
        read, reason = 0, ""
        with (
            BatchStream(reader, workers=0, pin=self.device.type == "cuda") as stream,
            closing(stream.read(requests)) as batches,
            progress("track", len(rows), label=label) as bar,
            _inputs_of(self.student.head.project) as taken,
        ):
            for batch in batches:
                read += len(batch.rows)
                reason = batch.failures[-1][1] if batch.failures else reason
                if batch.rows:
                    here = batch.to(self.device)
                    with torch.no_grad():
                        for index in torch.split(here.index, at_once):
                            embed(self.student, make_segments(here.codes, index, self.recipe), "float32")
                    yield here, torch.cat(taken)
                    taken.clear()
                bar.advance(len(batch.rows) + len(batch.failures))
        if not read:
            raise StoreError(
                f"none of {len(rows)} tracks can be read, --refit-head needs them; the last reason: {reason}"
            )


def _fit(passes: _Passes, rows: Rows) -> _Fitted:
    """Sums over the segments of tracks whose segment vectors are known, and over the means of the others."""
    width = passes.student.head.project.in_features
    pairs, segments, by_segment, n_tracks = Moments(width, EMBEDDING_DIM), Moments(width), False, 0
    for batch, features in passes.over(rows, "refit: training"):
        # x: [segment, 512], of_tracks: [track, 512]
        x, of_tracks = features.cpu().numpy(), (batch.weights @ features).cpu().numpy()
        segments.add(x)
        taught = np.array(batch.taught)
        each = np.repeat(taught, batch.segments_of)
        pairs.add(x[each], batch.segment_teacher.cpu().numpy()[each])
        pairs.add(of_tracks[~taught], passes.teacher[list(batch.rows)][~taught])
        by_segment, n_tracks = by_segment or bool(taught.any()), n_tracks + len(batch.rows)
    return _Fitted(pairs, segments, by_segment, n_tracks)


def _embed(passes: _Passes, rows: Rows, layers: Sequence[Layer]) -> tuple[list[int], npt.NDArray[np.float32]]:
    """The rows that could be read, and their vectors by each of `layers`, [layer, track, 512]."""
    heads = [(_tensor(layer.weight, passes.device), _tensor(layer.bias, passes.device)) for layer in layers]
    read: list[int] = []
    found = np.empty((len(layers), len(rows), EMBEDDING_DIM), np.float32)
    for batch, features in passes.over(rows, "refit: validation"):
        at = slice(len(read), len(read) + len(batch.rows))
        for number, (weight, bias) in enumerate(heads):
            unit = nn.functional.normalize(nn.functional.linear(features, weight, bias), dim=-1)
            found[number, at] = (batch.weights @ unit).cpu().numpy()
        read += batch.rows
    return read, found[:, : len(read)]


@contextmanager
def _inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What `layer` takes while the block lasts, in a list that may be emptied."""
    taken: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].float()))
    try:
        yield taken
    finally:
        hook.remove()


def _layer_of(linear: nn.Linear) -> Layer:
    weight, bias = (p.detach().cpu().double().numpy() for p in (linear.weight, linear.bias))
    return Layer(weight, bias)


def _set_layer(linear: nn.Linear, layer: Layer) -> None:
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(layer.weight))
        linear.bias.copy_(torch.from_numpy(layer.bias))


def _tensor(values: npt.NDArray[np.float64], device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device, torch.float32)


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in sorted(figures.items())}


def _table(before: Mapping[str, float], tried: Sequence[Candidate]) -> str:
    names = [name for name in FIGURES if name in before]
    rows = [["as trained", "", *(f"{before[name]:.3f}" for name in names), ""]]
    for one in tried:
        change = f"{one.change.mean:+.4f} +- {one.change.standard_error:.4f}"
        change += f", {', '.join(FIGURES[name] for name in one.change.falls)} falls" if one.change.falls else ""
        rows.append([f"{one.strength:g}", f"{one.share:.0%}", *(f"{one.figures[name]:.3f}" for name in names), change])
    headers = ["strength", "new", *(FIGURES[name] for name in names), "mean change"]
    return table(rows, headers, right=range(1, 2 + len(names)))
