"""The log-mel as an ONNX graph: 48 kHz samples in, decibels out, with standard operators alone.

The Fourier transform is factored, n_fft = P * Q with Q a divisor of the STFT's hop, so that frames are whole rows of Q
samples (Cooley and Tukey, 1965):

    x[Q n1 + n2]  ->  for each n2 a transform over n1, window and twiddle folded into its weights: a grouped convolution
                      over the rows, which cuts the frames at the same time
                  ->  for each k1 a transform over n2: a matrix product; gives X[k1 + P k2]

Of a real signal X[n_fft - k] has the power of X[k], so k1 goes to P / 2 only, and only bins are made that a band sees.
Where hop and n_fft have no divisor in common Q is 1, which is the plain transform as one convolution.
Guarantee: production's mel: zeros behind what is shorter than a segment, clip, int16 truncation, reflect padding,
power, slaney bands, dB re 1 with amin 1e-10, -100 dB for digital silence. In single precision: a band 110 dB below its
frame's peak may be off by tenths of a decibel.
Cost: 0.3 G multiplications a segment for 2048 x 480 and 128 bands; docs/export.md has the milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from student_clap.featurize.audio.filterbank import slaney_filterbank
from student_clap.featurize.onnx.input_spec import INPUT_NAME, WAVEFORM_NAME
from student_clap.store.layout.recipe import Recipe

BATCH_AXIS, SAMPLE_AXIS = "batch", "samples"
_AMIN = 1e-10
_FLOOR_DB = -100.0
INT16_STEPS = 32767.0
_LARGEST_Q = 256
# Rounded up, so that the logarithm of amin does not end above the floor.
DB_PER_LOG = np.nextafter(np.float32(10 / np.log(10)), np.float32(np.inf))
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Factors:
    """How n_fft is split, and which outputs are made."""

    p: int
    q: int
    k1: npt.NDArray[np.int64]  # first index of the outputs
    k2: npt.NDArray[np.int64]  # second

    @property
    def multiplications(self) -> int:
        """Of one frame, the bands' not counted."""
        n_k1, n_k2 = len(self.k1), len(self.k2)
        second = 0 if self.q == 1 else n_k1 * 4 * self.q * n_k2
        return 2 * n_k1 * self.p * self.q + second

    @property
    def bins(self) -> npt.NDArray[np.int64]:
        """[k1, k2] the bin, 0 to n_fft // 2, whose power comes out there."""
        n_fft = self.p * self.q
        full = self.k1[:, None] + self.p * self.k2
        folded: npt.NDArray[np.int64] = np.minimum(full, n_fft - full)
        return folded

    @classmethod
    def best(cls, n_fft: int, hop_samples: int, bins: npt.NDArray[np.int64]) -> Self:
        """The cheapest split for `bins`, the bins that are wanted."""
        common = np.gcd(n_fft, hop_samples)
        splits = [cls._of(n_fft, q, bins) for q in range(1, min(common, _LARGEST_Q) + 1) if common % q == 0]
        return min(splits, key=lambda split: split.multiplications)

    @classmethod
    def _of(cls, n_fft: int, q: int, bins: npt.NDArray[np.int64]) -> Self:
        p = n_fft // q
        # Either a bin or its mirror has its first index at or below P / 2.
        both = np.concatenate([bins, (n_fft - bins) % n_fft])
        kept = both[both % p <= p // 2]
        return cls(p, q, np.unique(kept % p), np.unique(kept // p))


def mel_graph(recipe: Recipe) -> onnx.ModelProto:
    """[batch, samples] float32 at the recipe's rate, at most a segment -> `mel_spectrogram` [batch, 1, mel, frame] dB.

    A longer input is an error when the graph is run.
    """
    graph = _Graph()
    samples = _segment(graph, recipe)
    decibels = _decibels(graph, _power(graph, samples, recipe), recipe)
    graph.add("Reshape", [decibels, graph.ints("mel_shape", [0, 1, recipe.n_mels, recipe.segment_frames])], INPUT_NAME)
    shape = (BATCH_AXIS, 1, recipe.n_mels, recipe.segment_frames)
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "log_mel",
            [helper.make_tensor_value_info(WAVEFORM_NAME, TensorProto.FLOAT, (BATCH_AXIS, SAMPLE_AXIS))],
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape)],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


class _Graph:
    """Nodes and weights in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node; returns its output's name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def ints(self, name: str, values: list[int]) -> str:
        return self.array(name, np.array(values, np.int64))

    def scalar(self, name: str, value: float) -> str:
        return self.array(name, np.array(value, np.float32))

    def array(self, name: str, values: npt.NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _segment(graph: _Graph, recipe: Recipe) -> str:
    """[batch, segment] samples as production takes them: int16 steps, zeros behind the end."""
    graph.add("Clip", [WAVEFORM_NAME, graph.scalar("wave_min", -1), graph.scalar("wave_max", 1)], "wave_clipped")
    graph.add("Mul", ["wave_clipped", graph.scalar("wave_steps", INT16_STEPS)], "wave_scaled")
    # A cast to an integer truncates towards zero.
    graph.add("Cast", ["wave_scaled"], "wave_integer", to=TensorProto.INT32)
    graph.add("Cast", ["wave_integer"], "wave_whole", to=TensorProto.FLOAT)
    graph.add("Div", ["wave_whole", "wave_steps"], "wave_heard")
    graph.add("Shape", [WAVEFORM_NAME], "wave_shape")
    graph.add("Gather", ["wave_shape", graph.ints("first", [0])], "wave_rows", axis=0)
    graph.add("Gather", ["wave_shape", graph.ints("second", [1])], "wave_length", axis=0)
    graph.add("Sub", [graph.ints("segment_samples", [recipe.segment_samples]), "wave_length"], "wave_missing")
    graph.add("Concat", ["wave_rows", "wave_missing"], "silence_shape", axis=0)
    graph.add("ConstantOfShape", ["silence_shape"], "silence")
    return graph.add("Concat", ["wave_heard", "silence"], "segment", axis=1)


def _power(graph: _Graph, samples: str, recipe: Recipe) -> str:
    """[batch, segment] -> [batch, bins of `_Transform`, frame] power."""
    half, n_fft = recipe.n_fft // 2, recipe.n_fft
    transform = _Transform(recipe)
    p, q, n_k1, n_k2 = transform.factors.p, transform.factors.q, len(transform.factors.k1), len(transform.factors.k2)
    frames = recipe.segment_frames
    graph.add("Pad", [samples, graph.ints("reflection", [0, half, 0, half])], "padded", mode="reflect")
    # [batch, sample] -> [batch, row, Q] -> [batch, Q, row]
    rows = (recipe.segment_samples + n_fft) // q
    graph.add("Reshape", ["padded", graph.ints("rows_shape", [0, rows, q])], "rows")
    graph.add("Transpose", ["rows"], "columns", perm=[0, 2, 1])
    # -> [batch, (n2, part, k1), frame]
    graph.add(
        "Conv",
        ["columns", graph.array("first_transform", transform.first())],
        "partial",
        group=q,
        kernel_shape=[p],
        strides=[recipe.hop_samples // q],
    )
    if q == 1:
        # [batch, (part, k1), frame] -> [batch, part, k1, frame]
        graph.add("Reshape", ["partial", graph.ints("parts_shape", [0, 2, n_k1, frames])], "parts")
        graph.add("Mul", ["parts", "parts"], "squares")
        return graph.add("ReduceSum", ["squares", graph.ints("parts_axis", [1])], "power", keepdims=0)
    # -> [batch, (n2, part), k1, frame] -> [batch, k1, (n2, part), frame]
    graph.add("Reshape", ["partial", graph.ints("partial_shape", [0, 2 * q, n_k1, frames])], "by_column")
    graph.add("Transpose", ["by_column"], "by_k1", perm=[0, 2, 1, 3])
    # [(part, k2), (n2, part)] x [batch, k1, (n2, part), frame] -> [batch, k1, (part, k2), frame]
    graph.add("MatMul", [graph.array("second_transform", transform.second()), "by_k1"], "spectrum")
    graph.add("Mul", ["spectrum", "spectrum"], "squares")
    graph.add("Reshape", ["squares", graph.ints("squares_shape", [0, n_k1, 2, n_k2 * frames])], "square_parts")
    graph.add("ReduceSum", ["square_parts", graph.ints("parts_axis", [2])], "power_sum", keepdims=0)
    return graph.add("Reshape", ["power_sum", graph.ints("power_shape", [0, n_k1 * n_k2, frames])], "power")


def _decibels(graph: _Graph, power: str, recipe: Recipe) -> str:
    """[batch, bin, frame] power -> [batch, mel, frame] dB."""
    graph.add("MatMul", [graph.array("bands", _Transform(recipe).bands()), power], "mel_power")
    graph.add("Max", ["mel_power", graph.scalar("amin", _AMIN)], "mel_power_floored")
    graph.add("Log", ["mel_power_floored"], "mel_log")
    graph.add("Mul", ["mel_log", graph.array("db_per_log", np.array(DB_PER_LOG))], "mel_db")
    return graph.add("Max", ["mel_db", graph.scalar("floor_db", _FLOOR_DB)], "mel_db_floored")


class _Transform:
    """The weights of the transform and of the bands."""

    def __init__(self, recipe: Recipe) -> None:
        # bank: [bin, mel]
        self._bank = slaney_filterbank(recipe.sample_rate, recipe.n_fft, recipe.n_mels, recipe.fmin_hz, recipe.fmax_hz)
        self._n_fft = recipe.n_fft
        self.factors = Factors.best(recipe.n_fft, recipe.hop_samples, np.flatnonzero(self._bank.any(axis=1)))

    def first(self) -> Array:
        """[(n2, part, k1), 1, n1]: window, transform over n1, twiddle; real parts before imaginary ones."""
        p, q, k1 = self.factors.p, self.factors.q, self.factors.k1
        n1, n2 = np.arange(p), np.arange(q)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self._n_fft) / self._n_fft)
        # turns: [n2, k1, n1], exact in integers
        turns = (k1[:, None] * (q * n1 + n2[:, None, None])) % self._n_fft
        weights = window.reshape(p, q).T[:, None, :] * np.exp(-2j * np.pi * turns / self._n_fft)
        parts = np.stack([weights.real, weights.imag], axis=1)
        return parts.reshape(q * 2 * len(k1), 1, p).astype(np.float32)

    def second(self) -> Array:
        """[(part, k2), (n2, part)]: transform over n2."""
        q, k2 = self.factors.q, self.factors.k2
        turns = (k2[:, None] * np.arange(q)) % q
        # wave: [k2, n2]
        wave = np.exp(-2j * np.pi * turns / q)
        real = np.stack([wave.real, -wave.imag], axis=2)
        imaginary = np.stack([wave.imag, wave.real], axis=2)
        return np.stack([real, imaginary]).reshape(2 * len(k2), 2 * q).astype(np.float32)

    def bands(self) -> Array:
        """[mel, (k1, k2)] weights of the powers; a bin that comes out twice counts once."""
        bins = self.factors.bins.ravel()
        first = np.zeros(len(bins), bool)
        first[np.unique(bins, return_index=True)[1]] = True
        return (self._bank[bins] * first[:, None]).T
