"""A session opens what another version of the settings wrote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import pytest
import torch

from student_clap.train.loop.distributed import Distributed
from student_clap.train.loop.session import open_display, open_stream, open_trainer, resolve_device
from student_clap.train.loop.step import is_out_of_memory

if TYPE_CHECKING:
    from tests.train.conftest import Library


def test_a_run_whose_settings_have_their_old_names_goes_on(library: Library) -> None:
    config = library.config(training={"epochs": 1, "warmup_epochs": 0, "micro_batch": 16})
    with (
        open_trainer(config) as trainer,
        open_stream(config, trainer) as stream,
        open_display(trainer) as display,
    ):
        trainer.train(stream, display)
    path = trainer.run.path / "run.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    description["training"]["segments_per_pass"] = description["training"].pop("micro_batch")
    del description["model"]["timm_pretrained"]
    path.write_text(json.dumps(description), encoding="utf-8")

    old_names = library.config(training={"epochs": 2, "warmup_epochs": 0, "segments_per_pass": 32})
    assert old_names.training.micro_batch == 32
    with open_trainer(old_names) as again:
        assert again.run.resumed
        assert again.progress.epoch == 1
        assert again.training.micro_batch == 32


def test_a_gpu_of_apple_s_is_taken_where_torch_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(click.ClickException, match="'mps': torch finds no GPU of Apple's here; use auto or cpu"):
        resolve_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("mps") == torch.device("mps")
    assert resolve_device("auto") == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(click.ClickException, match="several processes"):
        resolve_device("mps", Distributed(0, 2))
    for unknown in ("vulkan", "gpu", "meta"):
        with pytest.raises(click.ClickException, match="expected auto, cpu, cuda, cuda:N or mps"):
            resolve_device(unknown)


@pytest.mark.parametrize(
    "message",
    ["[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "MPS backend out of memory (", "shape"],
)
def test_memory_that_a_device_does_not_have_is_told_from_other_errors(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message)) == ("memory" in message)
