"""A student's checkpoint inside its ONNX file (`export --with-weights`), for `train --from` to begin with.

The graph alone cannot be trained on: its BatchNorms are folded and most weights have lost their names. So the file's
metadata holds the student as a checkpoint does, in base64, whatever form the graph has.
Guarantee: it is read as a .pt is, with no code run and nothing unpacked; data that the graph names outside of the file
are not looked at. Whatever is wrong with a file is one CheckpointError that names it.
Cost: four thirds of the checkpoint, in the file and in the memory of whoever loads it.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from student_clap.config.formats.onnx_metadata import CHECKPOINT_KEY, read_metadata
from student_clap.config.runtime.text import reason
from student_clap.config.schema import ModelConfig
from student_clap.train.runs.checkpoint import CheckpointError, CheckpointInfo, checkpoint_bytes, load_student
from student_clap.train.students.student import Student

SUFFIX = ".onnx"
_BATCHES = "num_batches_tracked"  # BatchNorm's count of what it was trained on; nothing goes by it
_PLACE = Path("weights.pt")  # in the stead of a path: that there was one shapes the network


def checkpoint_entry(student: nn.Module, info: CheckpointInfo, *, library_facts: bool) -> dict[str, str]:
    """The entry of an ONNX file's metadata that carries `student`.

    Args:
        student: as it is to be trained on; it is left as it is.
        info: where it comes from. The path of `model.pretrained`, which is of this machine, is never told.
        library_facts: tell the store's identity and the run's name, and how many batches were trained on.
    """
    weights = {name: value.detach().cpu() for name, value in student.state_dict().items()}
    info = replace(info, model=_without_path(info.model))
    if not library_facts:
        info = replace(info, store_uuid="", run_name="")
        weights |= {name: torch.zeros_like(weights[name]) for name in weights if name.rpartition(".")[2] == _BATCHES}
    return {CHECKPOINT_KEY: base64.b64encode(checkpoint_bytes(info, weights)).decode("ascii")}


def load_carried(path: Path) -> tuple[Student, CheckpointInfo] | None:
    """The student, in eval mode, that the ONNX file `path` carries; None where it has its graph alone.

    Raises:
        CheckpointError: the file cannot be read or is no ONNX file, or what it carries is damaged or no checkpoint.
    """
    try:
        text = read_metadata(path).get(CHECKPOINT_KEY)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)})") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged or is not an ONNX file ({reason(error)})") from error
    if text is None:
        return None
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata {CHECKPOINT_KEY} is damaged ({reason(error)})") from error
    return load_student(path, content=content)


def _without_path(model: ModelConfig) -> ModelConfig:
    """`model` that names no file; the name of weights that timm publishes stays."""
    if model.pretrained is None or model.architecture.startswith("timm/"):
        return model
    return model.model_copy(update={"pretrained": _PLACE})
