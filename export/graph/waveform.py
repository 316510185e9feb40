"""The student as one file from samples to the vector: the mel's graph before the student's.

For a client without a mel of its own: 48 kHz mono float samples [batch, samples], ten seconds or less, to unit vectors
[batch, 512]. Not for AudioMuse-AI, which feeds mels.
Guarantee: nothing is written unless the graph's mel and vector are those of our mel and the drop-in, on real signals,
on short ones, on silence and on clipped ones. Slower than a mel made outside, which costs neighbouring segments half.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from onnx import compose

from student_clap.export.graph.batch_axis import MAX_DIFFERENCE, open_batch_axis
from student_clap.export.graph.mel_graph import mel_graph
from student_clap.export.graph.parity import MIN_COSINE
from student_clap.export.graph.writer import Built, ExportError, serialise, validate_and_write
from student_clap.export.model.contract import MEL_CLAUSES
from student_clap.export.model.metadata import ANY_BATCH, BATCH_KEY, INPUT_KEY, WAVEFORM, get_metadata, set_metadata
from student_clap.export.model.session import StudentSession
from student_clap.export.model.signals import music
from student_clap.featurize.audio.decode import DecodeError, decode, through_int16
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.input_spec import Shape
from student_clap.store import Recipe, frame_index

if TYPE_CHECKING:
    from student_clap.store import FeatureStore

# Single precision cannot tell a band from the noise of a louder one further below than this.
AUDIBLE_DB = 80.0
MAX_DIFFERENCE_DB = 0.01
FILES = 4
_PAIRS = 15
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WaveformExported:
    """The file that was written, compared with a mel made outside and the drop-in."""

    path: Path
    n_bytes: int
    n_signals: int
    n_files: int  # of the signals, from real audio
    min_cosine: float
    max_difference_db: float  # of any value of the mel
    inside_ms: float  # one segment, samples to vector in the one file; median, one thread
    outside_ms: float  # the same with our mel and the drop-in

    def __str__(self) -> str:
        return (
            f"cosine >= {self.min_cosine:.6f} and mel within {self.max_difference_db:.4f} dB of the mel made outside "
            f"and the drop-in, over {self.n_signals} signals, {self.n_files} of them music; {self.inside_ms:.1f} ms "
            f"per segment against {self.outside_ms:.1f}"
        )


def write_waveform_student(
    built: Built, recipe: Recipe, output: Path, pieces: Sequence[Array] = ()
) -> WaveformExported:
    """Write `built` behind the recipe's mel as `output`.

    Args:
        built: the drop-in, proved.
        recipe: the mel that it takes.
        output: the file to write.
        pieces: real audio, [sample] each, at most a segment.

    Raises:
        ExportError: mel or vector differ, a clause of the contract that speaks of no mel is not met, or the student's
            graph is tied to one segment.
    """
    model = join(mel_graph(recipe), open_batch_axis(built.model))
    set_metadata(model, {**get_metadata(built.model), BATCH_KEY: ANY_BATCH, INPUT_KEY: WAVEFORM})
    session, drop_in, log_mel = StudentSession(serialise(model)), StudentSession(serialise(built.model)), LogMel(recipe)
    signals = [*pieces, *synthetic_signals(recipe)]
    difference_db = _compare_mels(recipe, log_mel, signals)
    expected = np.concatenate([drop_in.embed_segments(outside_mel(log_mel, signal)[None]) for signal in signals])
    found = session.embed_inputs(signal[None] for signal in signals)
    cosines = np.sum(expected.astype(np.float64) * found, axis=1)
    if not cosines.min() >= MIN_COSINE:
        raise ExportError(
            f"from samples the student answers otherwise: cosine {cosines.min():.6f} for signal "
            f"{int(cosines.argmin())} (expected at least {MIN_COSINE}); nothing was written"
        )
    _compare_batches(session, signals, recipe)
    data = validate_and_write(model, output, Shape.of(recipe), _NOTHING, MEL_CLAUSES, built.carried)
    inside_ms, outside_ms = _time(session, drop_in, log_mel, music(recipe.segment_samples))
    return WaveformExported(
        output,
        len(data),
        len(signals),
        len(pieces),
        min(1.0, float(cosines.min())),
        difference_db,
        inside_ms,
        outside_ms,
    )


_NOTHING = np.empty((0, 1, 1), np.float32)


def join(mel: onnx.ModelProto, student: onnx.ModelProto) -> onnx.ModelProto:
    """One graph out of two, the first one's output being the second one's input; names of the first get a prefix."""
    first = compose.add_prefix(mel, "mel/", rename_inputs=False, rename_outputs=False)
    joined = compose.merge_models(
        first,
        student,
        io_map=[(mel.graph.output[0].name, student.graph.input[0].name)],
        name=student.graph.name,
        producer_name=student.producer_name,
        producer_version=student.producer_version,
    )
    # merge_models lists the opset of each part.
    del joined.graph.value_info[:], joined.opset_import[:]
    joined.opset_import.extend(student.opset_import)
    return joined


def outside_mel(log_mel: LogMel, samples: Array) -> Array:
    """[sample], at most a segment -> [mel, frame] dB as production makes it, int16 steps included."""
    whole = through_int16(samples.copy())
    return log_mel.strip(whole)[:, frame_index(len(whole), log_mel.recipe)[0]]


def synthetic_signals(recipe: Recipe) -> list[Array]:
    """Music that is none, whole and short; over full scale; a single click; silence; below the smallest step."""
    length = recipe.segment_samples
    whole, click = music(length), np.zeros(length, np.float32)
    click[length // 3] = 1.0
    return [
        whole,
        whole[: length // 3],
        whole[:1],
        whole * np.float32(20),
        click,
        np.zeros(length, np.float32),
        whole * np.float32(1e-5),
    ]


def real_pieces(store: FeatureStore, preferred: Sequence[int], cache_dir: Path, recipe: Recipe) -> list[Array]:
    """[sample] a segment out of the middle of up to `FILES` tracks whose audio is there; `preferred` rows first."""
    audio = store.strings("audio")
    first = dict.fromkeys(preferred)
    pieces: list[Array] = []
    for row in (*first, *(row for row in range(len(audio)) if row not in first)):
        if len(pieces) == FILES:
            break
        path = cache_dir / audio[row]
        if not audio[row] or not os.path.isfile(path):  # noqa: PTH113  never raises
            continue
        try:
            samples = decode(path, recipe.max_samples)
        except (DecodeError, OSError):
            continue
        begin = max(0, (len(samples) - recipe.segment_samples) // 2)
        pieces.append(samples[begin : begin + recipe.segment_samples])
    return pieces


def _compare_mels(recipe: Recipe, log_mel: LogMel, signals: Sequence[Array]) -> float:
    """The largest difference in dB of the graph's mel to ours. Raises ExportError where it can be heard."""
    session = StudentSession(mel_graph(recipe).SerializeToString())
    largest = 0.0
    for number, signal in enumerate(signals):
        expected, found = outside_mel(log_mel, signal), session.run(signal[None])[0, 0]
        # difference: [mel, frame] dB
        difference = np.abs(expected - found)
        audible = expected >= expected.max(axis=0) - AUDIBLE_DB
        if not (worst := float(difference[audible].max())) <= MAX_DIFFERENCE_DB:
            raise ExportError(
                f"the mel in the graph is {worst:.3f} dB off for signal {number} (expected at most {MAX_DIFFERENCE_DB} "
                f"within {AUDIBLE_DB:g} dB of a frame's loudest band); nothing was written"
            )
        largest = max(largest, float(difference.max()))
    return largest


def _compare_batches(session: StudentSession, signals: Sequence[Array], recipe: Recipe) -> None:
    """Raises ExportError where a run of several segments differs from runs of one."""
    batch = np.stack([signal for signal in signals if len(signal) == recipe.segment_samples])
    one_by_one = session.embed_inputs(signal[None] for signal in batch)
    together = session.run(batch)
    if together.shape != one_by_one.shape or not np.abs(together - one_by_one).max() <= MAX_DIFFERENCE:
        raise ExportError(f"{len(batch)} segments in one run give other vectors than one by one; nothing was written")


def _time(session: StudentSession, drop_in: StudentSession, log_mel: LogMel, samples: Array) -> tuple[float, float]:
    """Median ms of one segment, samples to vector: in the graph, and with the mel outside; in turn, on one thread."""
    # seconds: [pair, way]
    seconds = np.empty((_PAIRS, 2))
    for number in range(-1, _PAIRS):
        began = time.perf_counter()
        session.run(samples[None])
        between = time.perf_counter()
        drop_in.embed_segments(log_mel.strip(samples)[None, :, frame_index(len(samples), log_mel.recipe)[0]])
        seconds[number] = between - began, time.perf_counter() - between
    inside, outside = np.median(seconds, axis=0) * 1000
    return float(inside), float(outside)
