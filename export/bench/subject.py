"""One model under the stopwatch, in a process of its own: `python -m student_clap.export.bench.subject`.

Reads one JSON object a line and answers each with one. The first, {"model", "threads", "recipe", "input"}, loads; then
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
from dataclasses import replace
from pathlib import Path
from typing import Any

from student_clap.config.formats.json_text import parse_json
from student_clap.config.presets import SEGMENT_SAMPLES
from student_clap.export.model.embedding import Embedder
from student_clap.export.model.session import ModelError, StudentSession
from student_clap.export.model.signals import RATE, music
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.input_spec import InputSpec
from student_clap.store import Recipe

MINUTE_SAMPLES = 60 * RATE


class Subject:
    """A loaded model and a minute of sound for it."""

    def __init__(self, model: Path, threads: int, recipe: Recipe, layout: str) -> None:
        """Load.

        Args:
            model: the ONNX file.
            threads: inside one run; 0: all cores.
            recipe: of the mel; of a waveform model, the segments'.
            layout: "waveform", "mel" ([1, 1, mel, frame]) or "transposed" ([1, 1, frame, mel]).

        Raises:
            ModelError: it cannot be loaded.
        """
        import onnxruntime  # noqa: F401  a library's import is not the model's load

        self.before_bytes = peak_bytes()
        began = time.perf_counter()
        session = StudentSession(model, intra_op_threads=threads)
        self.load_s = time.perf_counter() - began
        spec = InputSpec.of_recipe(recipe, "", transposed=layout == "transposed")
        self.embedder = Embedder(session, replace(spec, waveform=layout == "waveform"))
        self.minute = music(MINUTE_SAMPLES)  # [sample]
        self._segment = next(self.embedder.spec.inputs(self.minute[:SEGMENT_SAMPLES], LogMel(recipe)))

    def segment_s(self) -> float:
        """Seconds of one run on a segment that is ready, its mel not counted. Raises ModelError."""
        began = time.perf_counter()
        self.embedder.session.run(self._segment)
        return time.perf_counter() - began

    def minute_s(self) -> float:
        """Seconds from a minute of decoded audio to its vector: mel, 12 segments in turn, mean. Raises ModelError."""
        began = time.perf_counter()
        self.embedder.embed_samples(self.minute)
        return time.perf_counter() - began


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


def main() -> None:
    """Serve the parent until it closes the pipe."""
    subject: Subject | None = None
    for line in sys.stdin:
        asked = parse_json(line)
        try:
            if subject is None:
                recipe = Recipe.from_attributes(asked["recipe"])
                subject = Subject(Path(asked["model"]), asked["threads"], recipe, asked["input"])
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
