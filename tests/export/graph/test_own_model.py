"""A torch module that `train` did not make, as a drop-in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from student_clap.config.schema import AudioConfig
from student_clap.export.graph.own_model import write_module
from student_clap.export.graph.writer import ExportError
from student_clap.export.model.contract import check_contract, failures
from student_clap.export.model.metadata import plain_metadata
from student_clap.export.model.session import StudentSession
from student_clap.featurize.onnx.recipe import declared_recipe
from student_clap.store import Recipe

RECIPE = Recipe.from_config(AudioConfig())
SEGMENTS = np.random.default_rng(0).uniform(-90, 10, (3, 1, RECIPE.n_mels, RECIPE.segment_frames)).astype(np.float32)


class Linear(nn.Module):
    """A vector per segment out of its mean mel."""

    def __init__(self, *, unit: bool = True) -> None:
        super().__init__()
        self.head, self.norm, self.unit = nn.Linear(RECIPE.n_mels, 512), nn.BatchNorm1d(512), unit

    def forward(self, mel_db: Tensor) -> Tensor:
        vectors = self.norm(self.head(mel_db.mean((1, 3)) / 40))
        return nn.functional.normalize(vectors, dim=1) if self.unit else vectors


def test_it_is_the_drop_in_and_names_its_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Linear()
    module(torch.from_numpy(SEGMENTS))  # in training mode, so that the norm has statistics
    written = write_module(module, RECIPE, tmp_path / "own.onnx", SEGMENTS, n_tracks=2)
    assert failures(check_contract(written.path)) == []
    session = StudentSession(written.path)
    assert declared_recipe(session.metadata, "own.onnx") == RECIPE
    said = plain_metadata({entry.key: entry.value for entry in onnx.load(str(written.path)).metadata_props})
    assert int(said["parameters"]) == written.n_parameters == sum(p.numel() for p in module.parameters())
    assert "run_name" not in said
    with torch.inference_mode():
        expected = module(torch.from_numpy(SEGMENTS)).numpy()
    np.testing.assert_allclose(session.embed_segments(SEGMENTS[:, 0]), expected, atol=1e-5)
    assert (written.parity.n_segments, written.parity.n_tracks) == (3, 2)
    # The same of segments without the channel.
    again = write_module(module, RECIPE, str(tmp_path / "again.onnx"), SEGMENTS[:, 0], n_tracks=2)
    assert again.path.read_bytes() == written.path.read_bytes()


@pytest.mark.parametrize(
    ("module", "segments", "said"),
    [
        (Linear(unit=False), SEGMENTS, "does not meet the drop-in contract"),
        (
            Linear(),
            SEGMENTS[:, :, :64],
            r"has the shape \(3, 1, 64, 1001\); recipe 'audiomuse' makes \[segment, 128, 1001\]",
        ),
        (Linear().to("meta"), SEGMENTS, r"the model is on meta; move it to the CPU first: model\.cpu\(\)"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    module: nn.Module, segments: np.ndarray, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=said):
        write_module(module, RECIPE, tmp_path / "own.onnx", segments)
    assert list(tmp_path.iterdir()) == []
