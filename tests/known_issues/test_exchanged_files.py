"""A file of the store that lies in another's place, as a copy made by hand leaves it, is a finding and no traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.layout.strip import strip_frames
from student_clap.store.repair import repair_path
from student_clap.store.storage.errors import CorruptMetadataError
from student_clap.store.verify import verify_path

SAMPLES = 11 * 48_000
RECIPE = Recipe.from_config(AudioConfig())
PAIRS = [
    ("item_id", "n_segment_teacher"), ("n_segment_teacher", "segment_teacher"), ("segment_teacher", "server_id"),
    ("features/audiomuse/mel", "teacher"), ("features/audiomuse/error", "state"), ("features", "title"),
    ("features", "features/audiomuse"),
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every kind of member; closed."""
    vector = np.full(512, 512**-0.5, np.float32)
    path = tmp_path_factory.mktemp("made") / "store.zarr"
    with FeatureStore.create(path, "test") as store:
        store.append_tracks([Track("default", f"t{n}", state=State.FETCHED, teacher=vector) for n in range(2)])
        features = store.features(RECIPE)
        codes = np.ones((RECIPE.n_mels, strip_frames(SAMPLES, RECIPE)), np.uint8)
        features.write_strip(0, codes, SAMPLES)
        features.commit([0], [SAMPLES], [""])
        store.write_segment_teacher([0], [np.ones((2, 512), np.float16)])
    return path


@pytest.fixture
def filled(made: Path, tmp_path: Path) -> Path:
    """That store, for one test to damage."""
    return Path(shutil.copytree(made, tmp_path / "store.zarr"))


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_the_zarr_json_of_another_member_is_damaged_metadata(filled: Path, pair: tuple[str, str]) -> None:
    one, other = (filled / name / "zarr.json" for name in pair)
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    findings, n_tracks = verify_path(filled, deep=True)
    assert {f.kind for f in findings} == {"damaged metadata"}
    assert n_tracks == -1
    with pytest.raises(
        CorruptMetadataError, match=r"zarr\.json is damaged: it (is of an? .*, expected an? |names no recipe)"
    ):
        FeatureStore.open(filled)
    done = repair_path(filled, deep=True)
    if "features" in pair:  # a group's is not made again
        assert [f.kind for f in done.left] == ["damaged metadata"]
    else:
        assert done.metadata == 2
        assert verify_path(filled, deep=True) == ([], 2)
