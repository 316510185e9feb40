"""Which nodes of a student tolerate eight bits: sensitive ones are left out, one after the other, until the rest does.

Each plan (everything; layers; convolutions; matrices) begins with all its nodes. While the centred cosine on training
segments is too low, the node that costs most when it alone is quantised goes back to float32. Of the plans that get
there the fastest is taken; of those for another machine, of which no time here says anything, the smallest. Validation
segments have no say in the choice; they judge it.
Cost: seconds for a student that tolerates eight bits as it is; else two builds and two dozen segments per node: a
minute or two per plan of a graph of 100 nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from student_clap.config.runtime.screen import progress
from student_clap.export.graph.gate import MIN_CENTRED_COSINE, Judge, Speed
from student_clap.export.graph.int8_graph import PLANS, Int8Graph
from student_clap.export.graph.writer import serialise
from student_clap.export.model.session import StudentSession

# Above the gate's, because validation segments are new to the ranges.
TARGET = MIN_CENTRED_COSINE + (1 - MIN_CENTRED_COSINE) / 4


@dataclass(frozen=True)
class Candidate:
    """A choice of nodes that is good enough on training segments."""

    plan: str
    quantised: tuple[str, ...]
    left_out: tuple[str, ...]  # sensitive ones, in the order they were left out
    centred_cosine: float  # mean over the training segments of the search
    speed: Speed | None  # None: it is for another machine
    model: onnx.ModelProto

    def __str__(self) -> str:
        total = len(self.quantised) + len(self.left_out)
        return f"plan {self.plan!r}, {len(self.quantised)} of {total} nodes in int8"


def find_candidates(
    graph: Int8Graph, judge: Judge, say: Callable[[str], object] = lambda _: None, target: float | None = None
) -> list[Candidate]:
    """Every plan's candidate, fastest first, or smallest first where the graph is built for another machine.

    A plan of which nothing is left gives none.

    Args:
        graph: calibrated.
        judge: with training segments.
        say: gets one line per plan.
        target: mean centred cosine to reach; None: `TARGET`.

    Raises:
        ModelError: onnxruntime cannot run what it built.
    """
    target = TARGET if target is None else target
    damage: dict[str, float] = {}
    found: list[Candidate] = []
    tried: set[tuple[str, ...]] = set()
    for plan in PLANS:
        nodes = graph.nodes(plan)
        if not nodes or tuple(nodes) in tried:
            continue
        tried.add(tuple(nodes))
        candidate = _reduce(graph, judge, plan, nodes, damage, target)
        if candidate is None:
            say(f"plan {plan!r}: no choice of its {len(nodes)} nodes reaches a centred cosine of {target:.4f}")
            continue
        cost = candidate.speed or f"{candidate.model.ByteSize() / 1e6:.2f} MB"
        say(f"{candidate}: centred cosine {candidate.centred_cosine:.4f} on training segments, {cost}")
        found.append(candidate)
    return sorted(found, key=lambda c: c.model.ByteSize() if c.speed is None else -c.speed.speedup)


def _reduce(
    graph: Int8Graph, judge: Judge, plan: str, nodes: list[str], damage: dict[str, float], target: float
) -> Candidate | None:
    """Leave nodes out until the rest reaches `target`; `damage` remembers what each costs alone."""
    left, left_out = list(nodes), list[str]()
    while left:
        model = graph.build(left)
        session = StudentSession(serialise(model))
        mean = judge.quality(session).mean
        if mean >= target:
            speed = judge.speed(session) if graph.target.is_here else None
            return Candidate(plan, tuple(left), tuple(left_out), mean, speed, model)
        unknown = [name for name in left if name not in damage]
        with progress("node", len(unknown), label="each node alone in int8") as bar:
            for name in unknown:
                alone = judge.quality(StudentSession(serialise(graph.build([name])))).mean
                damage[name] = 1 - alone if alone == alone else float("inf")
                bar.advance()
        worst = max(left, key=damage.__getitem__)
        left.remove(worst)
        left_out.append(worst)
    return None
