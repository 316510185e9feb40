"""The figures that a checkpoint brings along: of its own weights, or none."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from student_clap.export.graph.forms import Source
from student_clap.train.runs.checkpoint import Progress, write_checkpoint

from ..conftest import Library, checkpoint_info, random_student


def save(path: Path, library: Library, progress: Progress | None, **info: object) -> Path:
    """A checkpoint of the library's run; with `progress` one to go on from."""
    uuid = json.loads(library.run.description.read_text(encoding="utf-8"))["store"]["uuid"]
    student = random_student()
    optimizer = None if progress is None else torch.optim.SGD(student.parameters(), 0.1)
    path.parent.mkdir(exist_ok=True)
    write_checkpoint(path, replace(checkpoint_info(uuid), **info), student, optimizer, progress)
    return path


def test_a_checkpoint_of_a_validated_epoch_has_its_figures(copied_library: Library) -> None:
    run = copied_library.run
    for path, progress in ((run.last, Progress(epoch=7)), (run.kept_best(7), None)):
        source = Source.open(save(path, copied_library, progress))
        assert source.unjudged == ""
        assert source.info.val_cosine == 0.625
        assert source.epoch is not None
        assert source.epoch["val_cosine"] == pytest.approx(1 - 1.1 / 7)


@pytest.mark.parametrize(
    ("progress", "epoch", "why"),
    [
        (Progress(epoch=7, position=3), 7, "was saved within epoch 8"),
        (Progress(epoch=6), 6, "is of epoch 6, which was not validated"),
        (Progress(epoch=9), 9, "lies in no run that has a record of its epoch 9"),
    ],
)
def test_a_checkpoint_that_was_not_validated_has_no_figures(
    progress: Progress, epoch: int, why: str, copied_library: Library
) -> None:
    run = copied_library.run
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    lines[5].pop("val_cosine")
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    source = Source.open(save(run.last, copied_library, progress, epoch=epoch))
    assert why in source.unjudged
    assert source.epoch is None
    assert math.isnan(source.info.val_cosine)


def test_a_parent_in_a_run_s_folder_has_none_of_the_run_s_figures(copied_library: Library) -> None:
    run = copied_library.run
    source = Source.open(save(run.parent, copied_library, None))
    assert source.home is None
    assert source.epoch is None
    assert not source.split.artists.all
