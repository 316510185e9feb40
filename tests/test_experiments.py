"""What docs/experiments.md shows works as it is shown: a model of one's own becomes a file that `check` passes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.layout.strip import strip_frames

PAGE = Path(__file__).resolve().parent.parent / "docs" / "experiments.md"
N_TRACKS = 15
N_SAMPLES = 12 * 48_000
pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/features.zarr of fifteen tracks by five artists, in a directory that is made the current one."""
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.from_config(AudioConfig())
    rng = np.random.default_rng(0)
    teacher = rng.standard_normal((N_TRACKS, 512)).astype(np.float32)
    teacher /= np.linalg.norm(teacher, axis=1, keepdims=True)
    texts = [{"track_id": f"t{n}", "title": f"title {n}", "artist": f"artist {n % 5}"} for n in range(N_TRACKS)]
    with FeatureStore.create(Path("data/features.zarr"), "teacher") as store:
        store.append_tracks(
            [Track("default", **text, state=State.FETCHED, teacher=teacher[n]) for n, text in enumerate(texts)]
        )
        features = store.features(recipe)
        for row in range(N_TRACKS):
            shape = (recipe.n_mels, strip_frames(N_SAMPLES, recipe))
            features.write_strip(row, rng.integers(60, 200, shape, dtype=np.uint8), N_SAMPLES)
        features.commit(list(range(N_TRACKS)), [N_SAMPLES] * N_TRACKS, [""] * N_TRACKS)
    return tmp_path


def test_every_block_of_code_runs(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102  the documentation's own code
    printed = capsys.readouterr().out
    assert re.search(r"title \d+ by artist \d at \[0\.0, 2\.0\] s: \(2, 1, 128, 1001\)", printed)
    assert "30 segments in the store" in printed
    assert re.search(r"epoch 1: loss [01]\.\d{3}", printed)
    assert re.search(r"^validation tracks +student +95 % +mean vector +shuffled$", printed, re.MULTILINE)
    record = names["record"]
    assert isinstance(record, dict)
    assert -1 <= record["student"]["mean_cosine"] <= 1
    done = CliRunner().invoke(main, ["check", "small.onnx"])
    assert done.exit_code == 0, done.output
