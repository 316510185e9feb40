"""A library that no model has heard, from rows without vectors to the teacher's, by the real commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.export.demo.mediaserver import running_media_server
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.teacher.model import Teacher
from student_clap.store import FeatureStore

pytestmark = pytest.mark.slow

COMMAND = str(Path(sys.executable).with_name("student-clap"))


class Library:
    """Three short files, a teacher, and a store."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.files = [home / f"music/{number:08x}.wav" for number in range(3)]
        for number, path in enumerate(self.files):
            self.write(path, number, 6.0 + 5 * number)
        self.model = write_mel_teacher(home / "teacher.onnx", "clap")

    def write(self, path: Path, seed: int, duration_s: float) -> None:
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.random.default_rng(seed).standard_normal(round(16_000 * duration_s)) * 0.1, 16_000)

    def configure(self, source: str, **sections: dict[str, Any]) -> None:
        ingest = {"vectors": "none", "source": source, "cache_dir": str(self.home / "audio")}
        tree = {"ingest": ingest, "store": {"path": str(self.home / "store.zarr")}, **sections}
        (self.home / "config.yaml").write_text(dump_yaml(tree), encoding="utf-8")

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [COMMAND, *words], cwd=self.home, capture_output=True, text=True, timeout=300, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def featurize(self) -> str:
        return self.run("featurize", "--teacher", str(self.model), "--workers", "1", "--provider", "cpu")

    def check(self) -> None:
        """Every row has the vectors that the teacher gives of its file."""
        teacher = Teacher(self.model, threads=1, provider="cpu")
        store = FeatureStore.open(self.home / "store.zarr")
        rows = {Path(track_id).stem: row for (_, track_id), row in store.row_of().items()}
        for path in self.files:
            vector, segments = teacher.embed(decode(path, teacher.max_samples))
            row = rows[path.stem]
            np.testing.assert_allclose(store.teacher(row, row + 1)[0], vector, atol=1e-5)
            np.testing.assert_allclose(store.segment_vectors().read(row), segments.astype(np.float16), atol=1e-3)


def test_a_folder_is_listed_heard_and_heard_again_where_it_changed(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.configure("folder", folder={"path": str(tmp_path / "music")})
    assert "3 tracks have no vector yet" in library.run("ingest")
    assert "3 heard by the teacher" in library.featurize()
    library.check()
    assert "no vector yet" not in library.run("ingest")
    assert "0 heard by the teacher, 3 heard already" in library.featurize()
    library.write(library.files[1], 77, 12.0)
    said = library.run("ingest")
    assert "1 with another file" in said
    assert "1 tracks have no vector yet" in said
    assert "1 heard by the teacher" in library.featurize()
    library.check()
    assert library.run("store", "verify", "--deep")


def test_audio_that_made_room_before_the_teacher_came_is_fetched_by_the_command_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    library = Library(tmp_path)
    with running_media_server({path.stem: path for path in library.files}) as media:
        library.configure("jellyfin", jellyfin=media.section())
        library.run("ingest")
        assert "3 tracks made" in library.run("featurize", "--workers", "1")
        for path in (tmp_path / "audio").rglob("*.wav"):
            path.unlink()
        assert "0 fetched, 3 already there" in library.run("ingest")
        fetch = "student-clap ingest --refetch teacher"
        assert f"3 without audio for the teacher (`{fetch}` fetches it again)" in library.featurize()
        assert "3 fetched" in library.run(*fetch.split()[1:])
        assert "3 heard by the teacher" in library.featurize()
        library.check()
        assert "0 fetched" in library.run(*fetch.split()[1:])
