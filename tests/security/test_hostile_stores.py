"""Stores of strangers, their checksums right: opening one runs no code, reads no pipe, fills no memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.arrays.metadata import sealed_bytes
from student_clap.store.repair import repair_path
from student_clap.store.storage.errors import StoreError
from student_clap.store.storage.open import open_storage
from student_clap.store.verify import verify_path

RECIPE = Recipe.from_config(AudioConfig())
GROUP = f"features/{RECIPE.name}"
Document = dict[str, Any]

pytestmark = pytest.mark.timeout(120)  # what hangs would do so for hours


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "made.zarr"
    vector = np.full(512, 512**-0.5, np.float32)
    with FeatureStore.create(path, "teacher") as store:
        store.append_tracks([Track("s", f"t{n}", title="x", state=State.FETCHED, teacher=vector) for n in range(3)])
        store.features(RECIPE)
        store.add_segment_set("fine", hop_samples=120_000, model="m")
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "s.zarr"))


def change(path: Path, member: str, how: Callable[[Document], object]) -> None:
    """Change the zarr.json of a member and seal it again."""
    file = path / member / "zarr.json"
    document = json.loads(file.read_bytes())
    how(document)
    file.write_bytes(sealed_bytes(document))


def use(path: Path) -> object:
    """All that a stage reads."""
    with FeatureStore.open(path) as store:
        features = store.features(RECIPE)
        said = [store.strings(name) for name in ("track_id", "title", "artist")], store.states(), store.teacher()
        return said, features.n_samples(), store.segment_vectors("fine").counts()


def at(*keys: str | int, value: object) -> Callable[[Document], object]:
    def how(document: Document) -> None:
        found: Any = document
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = value

    return how


def hole(file: Path) -> None:
    """A terabyte that takes no room."""
    with file.open("wb") as opened:
        opened.truncate(1 << 40)


BLOSC = {
    "name": "blosc",
    "configuration": {"typesize": 1, "cname": "zstd", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0},
}
GRID = ("chunk_grid", "configuration", "chunk_shape")
HOSTILE = {
    "1e9 rows": ("state", at("shape", value=[10**9])),
    "1e13 rows": ("title", at("shape", value=[10**13])),
    "rows that are no list": ("title", at("shape", value=5)),
    "negative rows": ("state", at("shape", value=[-1])),
    "chunks of 1e12": ("state", at(*GRID, value=[10**12])),
    "chunks of -1": ("state", at(*GRID, value=[-1])),
    "chunks of 0": ("state", at(*GRID, value=[0])),
    "a grid that is none": ("state", at("chunk_grid", value=["x"])),
    "a codec that unpickles": ("title", at("codecs", value=[{"name": "numcodecs.pickle", "configuration": {}}])),
    "no codecs": ("title", at("codecs", value=[])),
    "Blosc, whose heads are believed": ("state", at("codecs", value=[{"name": "bytes"}, BLOSC, {"name": "crc32c"}])),
    "Python objects": ("title", at("data_type", value="object")),
    "a strange type": ("state", at("data_type", value={"name": "x", "configuration": {}})),
    "strips of 1e9 frames": (f"{GROUP}/mel", at("shape", value=[3, 128, 10**9])),
    "a recipe that is none": (GROUP, at("attributes", "recipe", value=5)),
    "an FFT of 1e12": (GROUP, at("attributes", "recipe", "n_fft", value=10**12)),
    "a hop of 0": (GROUP, at("attributes", "recipe", "hop_samples", value=0)),
    "a hop of text": (GROUP, at("attributes", "recipe", "hop_samples", value={"a": 1})),
    "1e15 samples": (GROUP, at("attributes", "recipe", "max_samples", value=10**15)),
    "segments every sample": ("segment_vectors/fine", at("attributes", "hop_samples", value=1)),
    "segments of text": ("segment_vectors/fine", at("attributes", "hop_samples", value="1")),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_metadata_that_mean_harm_are_one_error(kind: str, path: Path) -> None:
    assert use(path)
    change(path, *HOSTILE[kind])
    with pytest.raises(StoreError) as caught:
        use(path)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("member", ["zarr.json", "state/zarr.json", f"{GROUP}/zarr.json", "state/c/0"])
def test_a_file_that_would_be_waited_for_is_an_error(member: str, path: Path) -> None:
    kept = (path / member).read_bytes()
    for put in (os.mkfifo, lambda file: file.symlink_to("/dev/zero"), hole):
        (path / member).unlink()
        put(path / member)
        with pytest.raises(StoreError, match="cannot be read"):
            use(path)
    (path / member).unlink()
    (path / member).write_bytes(kept)
    assert use(path)


def test_json_without_a_bottom_is_damaged_metadata(path: Path) -> None:
    (path / "state" / "zarr.json").write_text("[" * 100_000)
    with pytest.raises(StoreError, match="nested too deeply"):
        use(path)


def test_a_link_out_of_the_store_is_never_cleared(path: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "c").mkdir(parents=True)
    (mine / "c" / "precious").write_text("x")
    shutil.rmtree(path / "segment_vectors" / "fine")
    (path / "segment_vectors" / "fine").symlink_to(mine)
    open_storage(path / "segment_vectors" / "fine").clear()
    with pytest.raises(StoreError):
        use(path)
    repair_path(path, deep=True)
    verify_path(path, deep=True)
    assert (mine / "c" / "precious").read_text() == "x"
