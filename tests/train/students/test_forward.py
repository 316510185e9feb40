"""Which shapes are run as a graph, and what happens where none can be made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from student_clap.config.schema import TrainingConfig
from student_clap.train.students.forward import GraphedShapes, make_forward, make_graphed


def batch(segments: int) -> Tensor:
    return torch.ones(segments, 1, 4, 3)


def test_the_shapes_that_come_most_are_graphed() -> None:
    graphed: list[int] = []

    def graph(mel_db: Tensor) -> Tensor:
        graphed.append(len(mel_db))
        return mel_db.sum(dim=(1, 2, 3))

    forward = GraphedShapes(lambda mel_db: mel_db.sum(dim=(1, 2, 3)), graph)
    for segments in [8, 8, 5, 8, 8, 5, 7, 5, 7, 7, 7, 5, 8]:
        assert torch.equal(forward(batch(segments)), torch.full((segments,), 12.0))
    # From the third time on; a third shape has no graph.
    assert graphed == [8, 8, 5, 5, 8]


def test_where_no_graph_can_be_made_it_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[int] = []

    def broken(mel_db: Tensor) -> Tensor:
        calls.append(len(mel_db))
        raise RuntimeError("no compiler\nand a long story")

    forward = GraphedShapes(lambda mel_db: mel_db * 2, broken)
    for _ in range(6):
        assert torch.equal(forward(batch(2)), batch(2) * 2)
    assert calls == [2]
    assert capsys.readouterr().err.count("no graph can be made") == 1


def test_a_failure_of_a_graph_that_has_run_is_not_hidden() -> None:
    times = iter([True, False])

    def forgetful(mel_db: Tensor) -> Tensor:
        if not next(times):
            raise RuntimeError("out of memory")
        return mel_db

    forward = GraphedShapes(lambda mel_db: mel_db, forgetful)
    for _ in range(3):
        forward(batch(2))
    with pytest.raises(RuntimeError, match="out of memory"):
        forward(batch(2))


def test_a_cpu_runs_without(capsys: pytest.CaptureFixture[str]) -> None:
    student, training = nn.Linear(2, 2), TrainingConfig(cuda_graph=True)
    forward = make_forward(student, training)
    assert forward is student
    assert make_graphed(student, training, torch.device("cpu"), forward) is student
    assert "training.cuda_graph is for a GPU" in capsys.readouterr().err
    assert make_graphed(student, TrainingConfig(), torch.device("cuda"), forward) is student


def test_both_ways_to_save_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        TrainingConfig(cuda_graph=True, gradient_checkpointing=True)
