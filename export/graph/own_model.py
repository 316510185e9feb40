"""Anybody's torch module as a drop-in ONNX file, as a checkpoint of `train` becomes one, without a run behind it.

Guarantee: as of `writer`: the file appears whole, and only after it answered as torch does on the given segments and
met every clause of the contract.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from student_clap.export.graph.parity import compare
from student_clap.export.graph.writer import Exported, ExportError, serialise, trace, validate_and_write
from student_clap.export.model.metadata import recipe_metadata, set_metadata
from student_clap.export.model.session import StudentSession
from student_clap.featurize.onnx.input_spec import Shape

if TYPE_CHECKING:
    from torch import nn

    from student_clap.store import Recipe


def write_module(
    module: nn.Module, recipe: Recipe, output: str | Path, segments_db: npt.NDArray[np.float32], n_tracks: int = 1
) -> Exported:
    """Export `module` as `output`. The file says which features it was made for, so that `embed` makes the same.

    Args:
        module: on the CPU; takes [1, 1, mel, frame] float32 dB, returns [1, 512] of length 1. It is put in eval mode.
        recipe: of the features that it was trained on.
        output: the file to write.
        segments_db: [segment, mel, frame] or [segment, 1, mel, frame] dB, real segments that both must answer alike.
        n_tracks: from how many tracks they are, for the record.

    Raises:
        ExportError: the module is not on the CPU or cannot be traced, the segments are of another recipe, or a clause
            of the contract is not met.
        ParityError: the file answers otherwise than torch.
    """
    shape, output = Shape.of(recipe), Path(output)
    segments = np.asarray(segments_db, np.float32)
    bands, frames = shape.n_mels, shape.frames
    if segments.shape[1:] not in ((bands, frames), (1, bands, frames)):
        raise ExportError(
            f"segments_db has the shape {segments.shape}; recipe {recipe.name!r} makes [segment, {bands}, {frames}]"
        )
    segments = segments.reshape(-1, bands, frames)
    devices = {str(parameter.device) for parameter in module.parameters()}
    if devices - {"cpu"}:
        raise ExportError(f"the model is on {', '.join(sorted(devices))}; move it to the CPU first: model.cpu()")
    module.eval()
    model = trace(module, recipe)
    n_parameters = sum(parameter.numel() for parameter in module.parameters())
    set_metadata(model, recipe_metadata(recipe, n_parameters))
    parity = compare(module, StudentSession(serialise(model)), segments, n_tracks)
    data = validate_and_write(model, output, shape, segments)
    return Exported(output, len(data), n_parameters, model, parity)
