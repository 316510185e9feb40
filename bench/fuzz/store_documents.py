"""The zarr.json files of a store: a byte that chooses the member, then its JSON, which is sealed as the writer does."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fuzz.json_mutator import mutated
from fuzz.target import Target, work_folder
from student_clap.config.formats.json_text import parse_json
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.arrays.metadata import sealed_bytes
from student_clap.store.storage.errors import StoreError

_RECIPE = Recipe.from_config(AudioConfig())
_GROUP = f"features/{_RECIPE.name}"
MEMBERS = (
    ".", "state", "title", "teacher", "features", _GROUP, f"{_GROUP}/mel", f"{_GROUP}/n_samples",
    "segment_vectors/fine", "segment_vectors/fine/vectors",
)  # fmt: skip


def make_store(path: Path) -> Path:
    """A store of two tracks with a strip, and a set of segment vectors."""
    vector = np.full(512, 512**-0.5, np.float32)
    with FeatureStore.create(path, "teacher") as store:
        store.append_tracks([Track("s", f"t{n}", title="x", state=State.FETCHED, teacher=vector) for n in range(2)])
        store.features(_RECIPE)
        store.add_segment_set("fine", hop_samples=120_000, model="m").write([0], [np.ones((3, 512), np.float16)])
    return path


@functools.cache
def _whole() -> Path:
    folder = work_folder() / "student-clap-fuzz-whole.zarr"
    shutil.rmtree(folder, ignore_errors=True)
    return make_store(folder)


def _run(data: bytes, folder: Path) -> None:
    path = folder / "store.zarr"
    if not path.exists():
        shutil.copytree(_whole(), path)
    member = MEMBERS[data[0] % len(MEMBERS)] if data else "."
    file = path / member / "zarr.json"
    before, content = file.read_bytes(), data[1:]
    try:
        document = parse_json(content)
        if isinstance(document, dict) and isinstance(document.get("attributes", {}), dict):
            content = sealed_bytes(document)
    except ValueError:
        pass
    file.write_bytes(content)
    try:
        read_all(path)
    finally:
        file.write_bytes(before)


def read_all(path: Path) -> None:
    """What the stages read of a store."""
    with FeatureStore.open(path) as store:
        features = store.features(_RECIPE)
        store.strings("title")
        store.teacher()
        features.n_samples()
        for name in store.segment_sets():
            vectors = store.segment_vectors(name)
            for row, count in enumerate(vectors.counts()):
                if count:
                    vectors.read(row, int(count))


def _seeds() -> Iterator[bytes]:
    for number, member in enumerate(MEMBERS):
        yield bytes([number]) + (_whole() / member / "zarr.json").read_bytes()


TARGET = Target("store_documents", _run, (StoreError,), _seeds, mutated)
