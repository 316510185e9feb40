"""A library's vectors in memory, as a file and its parts have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from student_clap.export.app.library import LibraryEmbedding, LibraryTrack
from student_clap.export.app.library_file import library_file
from student_clap.featurize.onnx.recipe import METADATA_PREFIX

METADATA = {METADATA_PREFIX + key: "x" for key in ("model_sha256", "recipe", "library_store", "library_source")}


def outcome(track_id: str, at: int) -> LibraryEmbedding:
    vector = np.zeros(512, np.float32)
    vector[at] = 1
    track = LibraryTrack(0, "d", track_id, track_id, "", "", "", 1, "")
    return LibraryEmbedding(track, vector, 1, 1, "store", strip="0123456789abcdef")


def test_of_several_vectors_of_a_track_the_last_counts_and_no_other_moves(tmp_path: Path) -> None:
    target = tmp_path / "library.parquet"
    with library_file(target, METADATA) as file:
        for number, name in enumerate("abc"):
            file.add(outcome(name, number))
        file.finish([("d", name) for name in "abc"])
        file.add(outcome("b", 10))
        file.flush()
        file.add(outcome("d", 11))
        file.flush()
        found = file.load()
    assert {name: int(found.vectors[found.rows["d", name]].argmax()) for name in "abcd"} == {
        "a": 0,
        "b": 10,
        "c": 2,
        "d": 11,
    }
