"""A student in onnxruntime, run as AudioMuse-AI runs it.

One `session.run` per segment (batch 1), the first output, mean over the segments, division by norm + 1e-9; every graph
optimisation on, the CPU memory arena and memory patterns off. Source: AudioMuse-AI, tasks/clap_analyzer.py.
Cost: onnxruntime is imported on construction, so build sessions inside commands only. A session may be used from
several threads at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.schema import EMBEDDING_DIM

INPUT_NAME = "mel_spectrogram"
NORM_GUARD = 1e-9  # production's, against division by zero
_ERRORS_AND_WORSE = 3  # onnxruntime's log severity
Vectors = npt.NDArray[np.float32]


class ModelError(click.ClickException):
    """The model cannot be used. The message names the file and the reason."""


class StudentSession:
    """An ONNX student, loaded with production's session options."""

    def __init__(self, model: Path | bytes, *, intra_op_threads: int = 1) -> None:
        """Load `model`.

        Args:
            model: a file, or the bytes of one that has no external data.
            intra_op_threads: threads inside one run; callers that run tracks in parallel want 1.

        Raises:
            ModelError: onnxruntime cannot load it, or it does not take one input.
        """
        import onnxruntime

        self._name = str(model) if isinstance(model, Path) else "the model"
        if isinstance(model, Path) and not model.is_file():
            raise ModelError(f"there is no model at {model}; `student-clap export` writes one, --model names another")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.intra_op_num_threads = intra_op_threads
        options.log_severity_level = _ERRORS_AND_WORSE
        source = str(model) if isinstance(model, Path) else model
        try:
            self._session: Any = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen types with no common base
            raise ModelError(f"{self._name} cannot be loaded by onnxruntime: {_one_line(error)}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ModelError(f"{self._name} takes {len(inputs)} inputs; expected one, {INPUT_NAME!r}")
        self._input: str = inputs[0].name

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself (`metadata_props`)."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, mel_db: Vectors) -> Vectors:
        """The first output for one segment, whatever its shape.

        Args:
            mel_db: [1, 1, mel, frame] dB float32, or whatever else the model takes.

        Raises:
            ModelError: the model refuses the shape or fails.
        """
        try:
            output: Vectors = self._session.run(None, {self._input: mel_db})[0]
        except Exception as error:  # as above
            raise ModelError(f"{self._name} fails on input {list(mel_db.shape)}: {_one_line(error)}") from error
        return output

    def embed_segments(self, segments_db: Vectors) -> Vectors:
        """[segment, mel, frame] dB -> [segment, 512], one run per segment. Raises ModelError as `embed_inputs`."""
        # segment: [mel, frame] -> [1, 1, mel, frame]
        return self.embed_inputs(np.ascontiguousarray(segment[None, None], np.float32) for segment in segments_db)

    def embed_inputs(self, inputs: Iterable[Vectors]) -> Vectors:
        """What the model takes, one run each -> [run, 512].

        Raises:
            ModelError: the model fails, or its first output is not (1, 512).
        """
        vectors = [np.empty((0, EMBEDDING_DIM), np.float32)]
        for given in inputs:
            output = self.run(given)
            if output.shape != (1, EMBEDDING_DIM):
                raise ModelError(f"{self._name} gives {list(output.shape)}; expected [1, {EMBEDDING_DIM}]")
            vectors.append(output)
        return np.concatenate(vectors)

    def embed_track(self, segments_db: Vectors) -> Vectors:
        """[segment, mel, frame] dB -> the track's vector [512], unit length. Raises ModelError."""
        return pool(self.embed_segments(segments_db))

    def time_segment_ms(self, segment_db: Vectors, *, runs: int = 20) -> float:
        """Median wall time of `runs` runs on one segment, [mel, frame] dB, after one that warms up; milliseconds."""
        return self.time_input_ms(np.ascontiguousarray(segment_db[None, None], np.float32), runs=runs)

    def time_input_ms(self, given: Vectors, *, runs: int = 20) -> float:
        """`time_segment_ms` for what the model takes, whatever its shape."""
        self.run(given)
        times = []
        for _ in range(runs):
            began = time.perf_counter()
            self.run(given)
            times.append(time.perf_counter() - began)
        return float(np.median(times)) * 1000


def pool(segment_vectors: Vectors) -> Vectors:
    """[segment, 512] -> [512]: the unweighted mean over norm + 1e-9. A repeated tail segment counts twice."""
    mean = np.mean(segment_vectors, axis=0)
    vector: Vectors = (mean / (np.linalg.norm(mean) + NORM_GUARD)).astype(np.float32)
    return vector


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
