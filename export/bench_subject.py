"""One model under the stopwatch, in a process of its own: `python -m student_clap.export.bench_subject`.

Reads one JSON object a line and answers each with one. The first, {"model", "threads", "recipe", "hears"}, loads; then
{"do": "segment"} and {"do": "minute"} run and time, anything else tells memory and process id. A process per model,
because peak memory is a process's and load time depends on what is loaded already.

Guarantee: times are of this process's work, measured inside it; nothing but answers goes to stdout.
Cost: the model's memory; onnxruntime and the mel front end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.config.presets import SEGMENT_SAMPLES
from student_clap.export.session import ModelError, StudentSession, pool
from student_clap.featurize.mel import LogMel
from student_clap.store import Recipe, frame_index
from student_clap.store.segments import segment_starts

RATE = 48_000
MINUTE_SAMPLES = 60 * RATE


class Subject:
    """A loaded model and something for it to hear."""

    def __init__(self, model: Path, threads: int, recipe: Recipe, hears: str) -> None:
        """Load.

        Args:
            model: the ONNX file.
            threads: inside one run; 0: all cores.
            recipe: of the mel; of a waveform model, the segments'.
            hears: "waveform", "mel" ([1, 1, mel, frame]) or "transposed" ([1, 1, frame, mel]).

        Raises:
            ModelError: it cannot be loaded.
        """
        import onnxruntime  # noqa: F401  a library's import is not the model's load

        self.before_bytes = peak_bytes()
        began = time.perf_counter()
        self._session = StudentSession(model, intra_op_threads=threads)
        self.load_s = time.perf_counter() - began
        self._recipe, self._hears = recipe, hears
        self._log_mel = None if hears == "waveform" else LogMel(recipe)
        self._minute = _music(MINUTE_SAMPLES)
        self._segment = next(iter(self._inputs(self._minute[:SEGMENT_SAMPLES])))

    def segment_s(self) -> float:
        """Seconds of one run on a segment that is ready, its mel not counted. Raises ModelError."""
        began = time.perf_counter()
        self._session.run(self._segment)
        return time.perf_counter() - began

    def minute_s(self) -> float:
        """Seconds from a minute of decoded audio to its vector: mel, 12 segments in turn, mean. Raises ModelError."""
        began = time.perf_counter()
        pool(np.concatenate([self._session.run(given) for given in self._inputs(self._minute)]))
        return time.perf_counter() - began

    def _inputs(self, samples: npt.NDArray[np.float32]) -> Any:
        """What the model takes, one segment at a time."""
        if self._log_mel is None:
            for start in segment_starts(len(samples), self._recipe):
                # [1, sample]
                yield samples[None, start : start + self._recipe.segment_samples]
            return
        strip = self._log_mel.strip(samples)
        for columns in frame_index(len(samples), self._recipe):
            # segment: [mel, frame] -> [1, 1, mel, frame] or [1, 1, frame, mel]
            segment = strip[:, columns]
            yield np.ascontiguousarray((segment.T if self._hears == "transposed" else segment)[None, None])


def peak_bytes() -> int:
    """The most memory this process has held at once.

    Linux keeps the parent's peak in `getrusage` across exec, so it is read from /proc where that is.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _music(n_samples: int) -> npt.NDArray[np.float32]:
    """[n] a chord struck every second, with noise: silence could be faster. Takes no memory but the result's."""
    rng = np.random.default_rng(0)
    t = np.arange(RATE, dtype=np.float32) / RATE
    chord = np.sum([np.sin(2 * np.pi * f * t) for f in (110.0, 277.0, 440.0, 1318.0, 5274.0)], axis=0)
    second = np.exp(-3 * t) * chord * 0.15 + rng.standard_normal(RATE) * 0.02
    return np.resize(second.astype(np.float32), n_samples)


def main() -> None:
    """Serve the parent until it closes the pipe."""
    subject: Subject | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if subject is None:
                recipe = Recipe.from_attributes(asked["recipe"])
                subject = Subject(Path(asked["model"]), asked["threads"], recipe, asked["hears"])
                answer: dict[str, Any] = {"load_s": subject.load_s}
            elif asked["do"] == "segment":
                answer = {"s": subject.segment_s()}
            elif asked["do"] == "minute":
                answer = {"s": subject.minute_s()}
            else:
                answer = {"peak_bytes": peak_bytes(), "before_bytes": subject.before_bytes, "pid": os.getpid()}
        except ModelError as error:
            answer = {"error": error.message}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
