"""Many files: which are taken, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from student_clap.export.model.embedding import Embedder
from student_clap.export.model.file_batch import audio_files, embed_files
from student_clap.export.model.session import ModelError, StudentSession
from student_clap.featurize.onnx.input_spec import input_spec_of

from ..conftest import Library, embedder_of
from ..models import transposed_teacher


def test_vectors_are_handed_on_before_all_files_are_done(exported: Path, library: Library) -> None:
    done: list[int] = []
    files = [library.cache_dir / "t00.flac"] * 30
    stream = embed_files(files, embedder_of(exported, library.recipe), threads=1, advance=lambda: done.append(1))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(done) < len(files)


def test_embed_with_a_model_that_does_not_take_the_mel(exported: Path, library: Library, tmp_path: Path) -> None:
    # A file with the teacher's interface fixes the mel; the student takes another.
    spec = input_spec_of(transposed_teacher(tmp_path / "teacher.onnx"), library.recipe)
    with pytest.raises(ModelError, match=r"fails on input \[1, 1, 1001, 64\]"):
        list(embed_files([library.cache_dir / "t00.flac"] * 3, Embedder(StudentSession(exported), spec), threads=2))


def test_which_files_of_a_folder_are_taken(tmp_path: Path) -> None:
    for name in ("b/2.FLAC", "b/1.mp3", "a/cover.jpg", "a/song.opus", ".hidden/x.mp3", "b/.y.mp3", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = audio_files([tmp_path, tmp_path / "c.txt", tmp_path / "b" / "1.mp3"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/song.opus", "b/1.mp3", "b/2.FLAC", "c.txt"]
