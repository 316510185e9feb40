"""`student-clap embed` as a user runs it, on real files."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import CliRunner, Result

from student_clap.config.cli import main

from .conftest import RATE, Library, tune
from .test_production_path import production_vector


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def vectors_of(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"path", "vector"}
        assert file["vector"].dtype == np.float32
        assert file["vector"].shape == (len(file["path"]), 512)
        return dict(zip(file["path"].tolist(), file["vector"], strict=True))


def test_embed_gives_production_vectors(exported: Path, library: Library, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npz"
    single = library.cache_dir / "t02.flac"
    done = run("embed", single, library.cache_dir, single, "--model", exported, "--out", out)
    assert done.exit_code == 0, done.output
    found = vectors_of(out)
    assert list(found) == [str(single), *(str(p) for p in sorted(library.cache_dir.iterdir()) if p != single)]
    for name in ("t00.flac", "t02.flac"):
        expected = production_vector(library.cache_dir / name, exported)
        assert float(found[str(library.cache_dir / name)] @ expected) >= 0.9999
    assert re.search(r"(?m)^embed: wrote 12 vectors of 28 segments to .*; files without a vector: none$", done.stdout)


def test_embed_to_parquet(exported: Path, library: Library, tmp_path: Path) -> None:
    out, single = tmp_path / "vectors.parquet", library.cache_dir / "t02.flac"
    done = run("embed", single, library.cache_dir, "--model", exported, "--out", out)
    assert done.exit_code == 0, done.output
    table = pq.read_table(out)
    assert [(f.name, str(f.type)) for f in table.schema] == [
        ("path", "string"),
        ("vector", "fixed_size_list<element: float>[512]"),
        ("n_samples", "int64"),
        ("duration_s", "double"),
        ("n_segments", "int32"),
    ]
    rows = {row["path"]: row for row in table.to_pylist()}
    assert list(rows) == [str(single), *(str(p) for p in sorted(library.cache_dir.iterdir()) if p != single)]
    for name, samples, segments in (("t00.flac", 336_000, 1), ("t02.flac", 1_118_400, 4)):
        row = rows[str(library.cache_dir / name)]
        assert float(np.float32(row["vector"]) @ production_vector(library.cache_dir / name, exported)) >= 0.9999
        assert row["n_segments"] == segments
        assert row["n_samples"] == pytest.approx(samples, abs=1)  # the resampler rounds
        assert row["duration_s"] == row["n_samples"] / 48_000
    said = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert {p.key: p.value for p in onnx.load(str(exported)).metadata_props}.items() <= said.items()
    assert said["student_clap.model_file"] == exported.name
    assert said["student_clap.model_sha256"] == hashlib.sha256(exported.read_bytes()).hexdigest()


def test_embed_takes_the_runs_model(copied_library: Library, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npz"
    audio = copied_library.cache_dir / "t00.flac"
    missing = run("embed", audio, "--out", out, *copied_library.settings())
    assert missing.exit_code == 1
    assert "there is no model at" in missing.stderr
    shutil.copy(exported, copied_library.run.student_onnx)
    assert run("embed", audio, "--out", out, *copied_library.settings()).exit_code == 0
    assert list(vectors_of(out)) == [str(audio)]


def test_embed_goes_on_after_files_without_audio(exported: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", tune(1, 3.0), RATE)
    (tmp_path / "page.mp3").write_text("<html>502</html>")
    (tmp_path / "empty.flac").write_bytes(b"")
    out = tmp_path / "v.npz"
    done = run("embed", tmp_path, tmp_path / "absent.ogg", "--model", exported, "--out", out)
    assert done.exit_code == 0, done.output
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    assert len(warnings) == 3
    assert any("page.mp3: no audio" in line for line in warnings)
    assert any("empty.flac: no audio; the file is empty" in line for line in warnings)
    assert any("absent.ogg: no audio; there is no such file" in line for line in warnings)
    assert list(vectors_of(out)) == [str(tmp_path / "good.wav")]
    assert "wrote 1 vectors of 1 segments" in done.stdout
    assert "files without a vector: 3" in done.stdout


def test_embed_of_nothing_writes_nothing(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npz"
    out.write_bytes(b"vectors of yesterday")
    (tmp_path / "page.mp3").write_text("<html>502</html>")
    done = run("embed", tmp_path / "page.mp3", "--model", exported, "--out", out)
    assert done.exit_code == 1
    assert "none of 1 files gives a vector" in done.stderr
    (tmp_path / "folder").mkdir()
    assert "no audio files in" in run("embed", tmp_path / "folder", "--model", exported, "--out", out).stderr
    assert out.read_bytes() == b"vectors of yesterday"


@pytest.mark.parametrize(
    ("name", "message"),
    [("v.csv", r"\.parquet or \.npz"), ("v", r"\.parquet or \.npz"), ("file/v.npz", "is not a folder")],
)
def test_embed_refuses_other_formats_before_the_work(name: str, message: str, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = run("embed", tmp_path / "absent.wav", "--model", exported, "--out", tmp_path / name)
    assert done.exit_code == 1
    assert re.search(message, done.stderr)
    assert "absent.wav" not in done.stderr
    assert not (tmp_path / name).exists()
