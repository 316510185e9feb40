"""A model in onnxruntime: the one place that opens a session.

Guarantee: what onnxruntime raises becomes one ModelError on one line that names the file. A session may be used from
several threads at once. Cost: onnxruntime is imported on construction, so build sessions inside commands only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.text import one_line, readable_duration, reason
from student_clap.featurize.onnx.graph import Declaration, ModelError, data_outside
from student_clap.featurize.onnx.providers import CPU, for_session

_ERRORS_AND_WORSE = 3  # onnxruntime's log severity


class OnnxSession:
    """A loaded model."""

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int = 1,
        keep_memory: bool = True,
        missing: str = "",
        provider: str = CPU,
    ) -> None:
        """Load `model` with every graph optimisation on.

        Args:
            model: a file, or the bytes of one that has no external data.
            threads: inside one run; 0 takes every core, callers that run tracks in parallel want 1.
            keep_memory: let onnxruntime keep what a run has taken for the next one (its arena and memory patterns).
            missing: the error's message where there is no such file; "" takes a plain one.
            provider: one of `providers.available()`.

        Raises:
            ModelError: there is no such file, or onnxruntime cannot load it, or not with that provider.
        """
        import onnxruntime

        self.name = str(model) if isinstance(model, Path) else "the model"
        if isinstance(model, Path) and not model.is_file():
            raise ModelError(missing or f"{model}: there is no such file")
        if isinstance(model, Path) and (outside := _data_outside(model)):
            raise ModelError(
                f"{model} wants its weights from {one_line(outside[0])}, outside of its folder; put them next to it,"
                " and name them in it without a path"
            )
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.enable_cpu_mem_arena = options.enable_mem_pattern = keep_memory
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_AND_WORSE
        source = str(model) if isinstance(model, Path) else model
        try:
            self._session: Any = onnxruntime.InferenceSession(source, options, providers=for_session(provider))
        except Exception as error:  # onnxruntime raises a dozen types with no common base
            raise ModelError(f"{self.name} cannot be loaded by onnxruntime: {reason(error)}") from error
        # onnxruntime goes on without a provider whose libraries or device are missing.
        if not self._session.get_providers()[0].lower().startswith(provider):
            raise ModelError(
                f"{self.name}: onnxruntime offers {provider}, but cannot start it here; are its driver and libraries"
                " installed?"
            )
        self.declaration = Declaration.of_session(self._session)

    @property
    def metadata(self) -> dict[str, str]:
        """The file's `metadata_props`."""
        return dict(self.declaration.metadata)

    def first_output(
        self, inputs: Mapping[str, npt.NDArray[Any]], *, limit_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """The first output of one run.

        Args:
            inputs: by name.
            limit_s: end a run that takes longer; it ends between two nodes of the graph, also inside a loop.

        Raises:
            ModelError: the model refuses the inputs, fails, or takes longer than `limit_s`.
        """
        with _time_limit(limit_s) as (options, over):
            try:
                output: npt.NDArray[np.float32] = self._session.run(None, dict(inputs), options)[0]
            except Exception as error:  # as above
                if over.is_set():
                    fault = f"was stopped: one run took longer than {readable_duration(limit_s or 0)}"
                else:
                    shapes = ", ".join(str(list(array.shape)) for array in inputs.values())
                    fault = f"fails on input {shapes}: {reason(error)}"
                raise ModelError(f"{self.name} {fault}") from error
        return output


def _data_outside(model: Path) -> list[str]:
    try:
        return data_outside(model)
    except ModelError:
        return []  # onnxruntime says what is wrong with it


@contextmanager
def _time_limit(limit_s: float | None) -> Iterator[tuple[Any, threading.Event]]:
    """Options of a run that is ended after `limit_s`, and whether that happened; no options where there is no limit."""
    over = threading.Event()
    if limit_s is None:
        yield None, over
        return
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = _ERRORS_AND_WORSE + 1  # that a run was ended is not an error of the library

    def end() -> None:
        over.set()
        options.terminate = True

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield options, over
    finally:
        timer.cancel()
