"""Which input a model takes: 48 kHz samples, or a mel, and then which mel and which way round.

    waveform   [batch, sample], 480 000 samples or any number
    mel        [batch, 1, mel, frame] (DCLAP's, our students') or [batch, 1, frame, mel] (LAION CLAP's), dB

A file of ours names its recipe. For any other file the bands are the axis with a known number of them. A shape does not
tell FFT and frequency range: they are the configuration's, or those of the preset with that many bands: 64 are CLAP's
(50 to 14 000 Hz, n_fft 1024), 128 AudioMuse-AI's (0 to 14 000 Hz, n_fft 2048). No graph says the STFT's hop: 480
samples is LAION's, 320 made the vectors of AudioMuse-AI up to v0.8.
Cost: reads the graph without its external data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from student_clap.config.presets import MAX_BANDS, MAX_FRAMES, MEL_PRESETS, SEGMENT_SAMPLES
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.graph import Declaration, GraphValue, ModelError, read_graph
from student_clap.featurize.onnx.recipe import declared_recipe
from student_clap.featurize.onnx.segments import Segments, mel_segments, waveform_segments
from student_clap.store import Recipe

INPUT_NAME = "mel_spectrogram"
WAVEFORM_NAME = "waveform"
HOPS_SAMPLES = (480, 320)  # of the STFTs that CLAP has been asked with
_WAVEFORM_RANK, _MEL_RANK = 2, 4
_PRESET_BANDS = frozenset(preset.n_mels for preset in MEL_PRESETS.values())
_KNOWN_FRAMES = frozenset(SEGMENT_SAMPLES // hop + 1 for hop in HOPS_SAMPLES)
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """A segment's mel as a model takes it: [1, 1, n_mels, frames], or [1, 1, frames, n_mels] where transposed."""

    n_mels: int = 128
    frames: int = 1001
    transposed: bool = False

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Of a segment of `recipe`, bands before time."""
        return cls(recipe.n_mels, recipe.segment_frames)

    @property
    def full(self) -> tuple[int, int, int, int]:
        """The input's shape."""
        return (1, 1, self.frames, self.n_mels) if self.transposed else (1, 1, self.n_mels, self.frames)

    @property
    def time_axis(self) -> int:
        """The one axis that may be symbolic."""
        return 2 if self.transposed else 3

    def lay_out(self, segments_db: Array) -> Array:
        """[segment, mel, frame] -> the same with its last two axes as the model takes them."""
        return segments_db.transpose(0, 2, 1) if self.transposed else segments_db


@dataclass(frozen=True)
class InputSpec:
    """The input that a model takes."""

    recipe: Recipe  # of the mel; of a waveform model, the segments'
    shape: Shape
    source: str  # where the numbers come from
    declared: bool = False  # the file says it; otherwise it is inferred
    waveform: bool = False  # it takes samples [batch, sample] and makes its own mel
    name: str = INPUT_NAME  # of the graph's input
    n_mels: int | None = None  # that the graph fixes
    frames: int | None = None  # that the graph fixes
    any_batch: bool = False  # several segments a run

    @classmethod
    def of_recipe(cls, recipe: Recipe, source: str, *, transposed: bool = False, declared: bool = False) -> Self:
        """The mel of `recipe`; a segment is always ten seconds, as AudioMuse-AI cuts it."""
        shape = Shape(recipe.n_mels, SEGMENT_SAMPLES // recipe.hop_samples + 1, transposed)
        return cls(recipe, shape, source, declared)

    @property
    def layout(self) -> str:
        """In a word: "waveform", "mel" or "transposed"."""
        if self.waveform:
            return "waveform"
        return "transposed" if self.shape.transposed else "mel"

    def segments(self, samples: Array, log_mel: LogMel) -> Segments:
        """A track's segments as the model takes them.

        Args:
            samples: [sample] float32 as `decode` gives them; not empty.
            log_mel: of the recipe.

        Raises:
            ValueError: no samples, or more than the recipe's cap.
        """
        if self.waveform:
            return waveform_segments(samples, self.recipe)
        return mel_segments(samples, log_mel, transposed=self.shape.transposed)

    def inputs(self, samples: Array, log_mel: LogMel) -> Iterator[Array]:
        """`segments` one by one: [1, sample], [1, 1, mel, frame] or [1, 1, frame, mel] dB."""
        return iter(self.segments(samples, log_mel))


def input_spec_of(model: Path, configured: Recipe) -> InputSpec:
    """The input that the file `model` takes.

    Args:
        model: any ONNX file; of one that cannot be read it is the configuration's mel, and the contract says the rest.
        configured: stands in for what the file does not tell.

    Raises:
        ModelError: there is no such file, or its recipe cannot be read.
    """
    if not model.is_file():
        raise ModelError(f"there is no model at {model}; `student-clap export` writes one")
    try:
        declaration = Declaration.of_model(read_graph(model))
    except ModelError:
        return InputSpec.of_recipe(configured, "the configuration")
    return input_spec(declaration, configured, str(model))


def input_spec(declaration: Declaration, configured: Recipe, where: str) -> InputSpec:
    """The input that a model takes, by what it says of itself.

    Args:
        declaration: of its file or its session.
        configured: stands in for what it does not say.
        where: the model's name, for errors.

    Raises:
        ModelError: the recipe that it names cannot be read, or it takes more bands than can be made.
    """
    end = _main_input(declaration)
    axes = _mel_axes(end)
    recipe = declared_recipe(declaration.metadata, where)
    if recipe is not None:
        frames = SEGMENT_SAMPLES // recipe.hop_samples + 1
        turned = is_transposed(axes, frozenset({recipe.n_mels}), frozenset({frames}))
        spec = InputSpec.of_recipe(recipe, "the file's own recipe", transposed=turned, declared=True)
    else:
        turned = is_transposed(axes, _PRESET_BANDS | {configured.n_mels}, _KNOWN_FRAMES | {configured.segment_frames})
        spec = _inferred(axes, turned, configured)
    if takes_waveform(declaration):
        spec = replace(spec, waveform=True, source=spec.source if spec.declared else "the model, which takes samples")
    n_mels, fixed_frames = axes[::-1] if turned else axes
    if n_mels is not None and n_mels > MAX_BANDS:
        raise ModelError(f"{where} takes a mel of {n_mels} bands; expected at most {MAX_BANDS}")
    return replace(
        spec,
        name=INPUT_NAME if end is None else end.name,
        n_mels=n_mels,
        frames=fixed_frames,
        any_batch=end is not None and bool(end.dims) and not isinstance(end.dims[0], int),
    )


def takes_waveform(declaration: Declaration) -> bool:
    """Whether its one input is [batch, sample]."""
    return [len(value.dims) for value in declaration.inputs] == [_WAVEFORM_RANK]


def is_transposed(axes: tuple[int | None, int | None], bands: frozenset[int], frames: frozenset[int]) -> bool:
    """Whether the last two axes of a mel are [frame, mel].

    Args:
        axes: their sizes; None where the graph leaves one open.
        bands: likely numbers of bands.
        frames: likely numbers of frames.

    >>> is_transposed((None, 64), frozenset({64}), frozenset({1001}))  # LAION's teacher
    True
    >>> is_transposed((None, 1001), frozenset({64}), frozenset({1001}))  # it fixes the frames and no band
    False
    >>> is_transposed((1001, 96), frozenset({64}), frozenset({1001}))  # a segment has more frames than bands
    True
    """
    first, second = axes
    if (first in bands) != (second in bands):
        return second in bands
    if first is None or second is None:
        # Of one fixed axis of no known width: exporters leave the time open.
        return (second is not None and second not in frames) or (first is not None and first in frames)
    return first > second


def _main_input(declaration: Declaration) -> GraphValue | None:
    """The input that is called as production calls it, else the first."""
    inputs = declaration.inputs
    return next((value for value in inputs if value.name == INPUT_NAME), inputs[0] if inputs else None)


def _mel_axes(end: GraphValue | None) -> tuple[int | None, int | None]:
    """The sizes of the last two of four axes; None for one that is open, and where there are not four."""
    if end is None or len(end.dims) != _MEL_RANK:
        return None, None
    first, second = (dim if isinstance(dim, int) and dim > 0 else None for dim in end.dims[2:])
    return first, second


def _inferred(axes: tuple[int | None, int | None], transposed: bool, configured: Recipe) -> InputSpec:  # noqa: FBT001
    """The mel of a file that names no recipe."""
    n_mels, frames = axes[::-1] if transposed else axes
    if n_mels is None and frames is None:
        return InputSpec.of_recipe(configured, "the configuration; the file fixes no shape")
    recipe = configured
    if n_mels is not None and n_mels != configured.n_mels:
        recipe = replace(recipe, n_mels=n_mels)
        preset = next((p for p in MEL_PRESETS.values() if p.n_mels == n_mels), None)
        if preset is not None:
            recipe = replace(
                recipe,
                n_fft=preset.n_fft,
                hop_samples=preset.hop_samples,
                fmin_hz=preset.fmin_hz,
                fmax_hz=preset.fmax_hz,
            )
    # A hop that gives this many frames and divides segment and segment hop; without one the contract fails.
    steps = frames - 1 if frames is not None and frames <= MAX_FRAMES else 0
    if steps > 0 and SEGMENT_SAMPLES // 2 % max(SEGMENT_SAMPLES // steps, 1) == 0 and SEGMENT_SAMPLES % steps == 0:
        recipe = replace(recipe, hop_samples=SEGMENT_SAMPLES // steps)
    return InputSpec.of_recipe(recipe, "the input's shape; FFT and frequencies are assumed", transposed=transposed)
