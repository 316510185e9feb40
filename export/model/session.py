"""A student in onnxruntime, run as AudioMuse-AI runs it.

One run per segment (batch 1), the first output; every graph optimisation on, the CPU memory arena and memory patterns
off. Source: AudioMuse-AI, tasks/clap_analyzer.py.
Cost: onnxruntime is imported on construction, so build sessions inside commands only. A session may be used from
several threads at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.schema import EMBEDDING_DIM
from student_clap.featurize.onnx.graph import ModelError
from student_clap.featurize.onnx.input_spec import INPUT_NAME
from student_clap.featurize.onnx.providers import CPU
from student_clap.featurize.onnx.session import OnnxSession

__all__ = ["ModelError", "StudentSession"]
Vectors = npt.NDArray[np.float32]


class StudentSession:
    """An ONNX student, loaded with production's session options."""

    def __init__(
        self, model: Path | bytes, *, intra_op_threads: int = 1, limit_s: float | None = None, provider: str = CPU
    ) -> None:
        """Load `model`.

        Args:
            model: a file, or the bytes of one that has no external data.
            intra_op_threads: threads inside one run; callers that run tracks in parallel want 1.
            limit_s: end a run that takes longer, for a file that nothing is known of.
            provider: where it computes, one of `providers.available()`.

        Raises:
            ModelError: onnxruntime cannot load it, or it does not take one input.
        """
        missing = f"there is no model at {model!s}; `student-clap export` writes one, --model names another"
        self._session = OnnxSession(
            model,
            threads=intra_op_threads,
            keep_memory=False,
            missing=missing if isinstance(model, Path) else "",
            provider=provider,
        )
        inputs = self._session.declaration.inputs
        if len(inputs) != 1:
            raise ModelError(f"{self._session.name} takes {len(inputs)} inputs; expected one, {INPUT_NAME!r}")
        self._input, self._limit_s = inputs[0].name, limit_s

    @property
    def metadata(self) -> dict[str, str]:
        """The file's `metadata_props`."""
        return self._session.metadata

    def run(self, given: Vectors) -> Vectors:
        """The first output for one segment, whatever its shape.

        Args:
            given: [1, 1, mel, frame] dB float32, or whatever else the model takes.

        Raises:
            ModelError: the model refuses the shape, fails, or takes longer than it may.
        """
        return self._session.first_output({self._input: given}, limit_s=self._limit_s)

    def embed_segments(self, segments_db: Vectors) -> Vectors:
        """[segment, mel, frame] dB -> [segment, 512], one run per segment. Raises ModelError as `embed_inputs`."""
        # segment: [mel, frame] -> [1, 1, mel, frame]
        return self.embed_inputs(np.ascontiguousarray(segment[None, None], np.float32) for segment in segments_db)

    def embed_inputs(self, inputs: Iterable[Vectors]) -> Vectors:
        """Inputs of the model, one run each -> [run, 512].

        Raises:
            ModelError: the model fails, or its first output is not (1, 512).
        """
        vectors = [np.empty((0, EMBEDDING_DIM), np.float32)]
        for given in inputs:
            output = self.run(given)
            if output.shape != (1, EMBEDDING_DIM):
                raise ModelError(f"{self._session.name} gives {list(output.shape)}; expected [1, {EMBEDDING_DIM}]")
            vectors.append(output)
        return np.concatenate(vectors)

    def time_segment_ms(self, segment_db: Vectors, *, runs: int = 20) -> float:
        """Median wall time of `runs` runs on one segment, [mel, frame] dB, after one that warms up; milliseconds."""
        return self.time_input_ms(np.ascontiguousarray(segment_db[None, None], np.float32), runs=runs)

    def time_input_ms(self, given: Vectors, *, runs: int = 20) -> float:
        """`time_segment_ms` for an input of the model, whatever its shape."""
        self.run(given)
        times = []
        for _ in range(runs):
            began = time.perf_counter()
            self.run(given)
            times.append(time.perf_counter() - began)
        return float(np.median(times)) * 1000
