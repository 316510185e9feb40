"""How the trainer runs a student: as it is, by torch.compile, or as CUDA graphs for the shapes that come most.

A small student on a large GPU waits for Python, which launches its kernels one by one; a CUDA graph launches those of a
pass, and those of its gradient, at once. A graph holds for one shape, and its memory is overwritten by its next run.

Guarantee: shapes that are rare, and everything after a failure, run as they are; the numbers agree to rounding. Nobody
may keep what a graph returned, or run one twice, before the gradient is taken.
Cost: half a minute or more for each shape that a graph is made for; a C++ compiler is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from student_clap.config.runtime.screen import warn
from student_clap.config.runtime.text import reason
from student_clap.config.schema import TrainingConfig

_TIMES = 3  # that a shape comes before a graph is made for it
_SHAPES = 2  # that graphs are made for: the full batch, and the one that an epoch ends with
Forward = Callable[[Tensor], Tensor]


def make_forward(student: nn.Module, training: TrainingConfig) -> Forward:
    """The student's forward as `training` asks for it, on any device and for batches of any shape."""
    return torch.compile(student, dynamic=True) if training.compile else student


def make_graphed(student: nn.Module, training: TrainingConfig, device: torch.device, forward: Forward) -> Forward:
    """The forward for batches that pass over the device at once: `training.cuda_graph` on a GPU, else `forward`."""
    if not training.cuda_graph:
        return forward
    if device.type != "cuda":
        warn(f"training.cuda_graph is for a GPU; on {device.type} the student runs without")
        return forward
    # What inductor calls "reduce-overhead" are CUDA graphs, with torch's own care for gradients and random numbers.
    compiled = torch.compile(student, dynamic=False, mode="reduce-overhead")

    def graphed(mel_db: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # what the last run returned is no longer needed
        found: Tensor = compiled(mel_db)
        return found

    return GraphedShapes(forward, graphed)


class GraphedShapes:
    """Runs `graphed` for the shapes that come most, and `plain` for the others.

    Args:
        plain: [segment, 1, mel, frame] to [segment, width].
        graphed: the same, made for a shape when it is first called with it.
    """

    def __init__(self, plain: Forward, graphed: Forward) -> None:
        self._plain = plain
        self._graphed: Forward | None = graphed
        self._seen: Counter[torch.Size] = Counter()
        self._made: set[torch.Size] = set()

    def __call__(self, mel_db: Tensor) -> Tensor:
        """[segment, 1, mel, frame] -> [segment, width]."""
        if self._graphed is None or not self._wanted(mel_db.shape):
            return self._plain(mel_db)
        try:
            found = self._graphed(mel_db)
        except RuntimeError as error:
            if mel_db.shape in self._made:
                raise  # it worked before: no fault of the graph's making
            self._graphed = None
            warn(f"training.cuda_graph: no graph can be made ({reason(error)}); the student runs without")
            return self._plain(mel_db)
        self._made.add(mel_db.shape)
        return found

    def _wanted(self, shape: torch.Size) -> bool:
        if shape in self._made:
            return True
        self._seen[shape] += 1
        return len(self._made) < _SHAPES and self._seen[shape] >= _TIMES
