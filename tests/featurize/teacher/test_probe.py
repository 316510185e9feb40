"""Whose vectors are these: the command over a store and its audio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.teacher.model import Teacher
from student_clap.store import FeatureStore, State, Track


@dataclass
class Library:
    """A store whose tracks have audio, and vectors of the models that heard it in turns."""

    home: Path

    def make(self, n_tracks: int, *models: Teacher) -> None:
        tracks = []
        for number in range(n_tracks):
            path = self.home / f"audio/s/{number}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.random.default_rng(number).standard_normal(8_000) * 0.1, 16_000)
            teacher = models[number % len(models)]
            vector, _ = teacher.embed(decode(path, teacher.max_samples))
            audio = f"s/{number}.flac"
            tracks.append(
                Track("s", f"{number}", title=f"Title {number}", audio=audio, state=State.FETCHED, teacher=vector)
            )
        with FeatureStore.create(self.home / "store.zarr", "t") as store:
            store.append_tracks(tracks)

    def probe(self, n_tracks: int, *arguments: str, ok: bool = True, **sections: dict[str, Any]) -> Result:
        tree = {
            "store": {"path": str(self.home / "store.zarr")},
            "ingest": {"cache_dir": str(self.home / "audio")},
            **sections,
        }
        config = self.home / "config.yaml"
        config.write_text(dump_yaml(tree), encoding="utf-8")
        result = CliRunner().invoke(
            main, ["featurize", "--config", str(config), "--probe", str(n_tracks), *map(str, arguments)]
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert (result.exit_code == 0) == ok, result.output
        return result

    def files(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted(self.home.rglob("*")) if p.is_file() and p.suffix != ".yaml"}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def test_the_command_tells_the_model_from_another_and_writes_nothing(library: Library) -> None:
    mine = write_mel_teacher(library.home / "mine.onnx", "clap")
    other = write_mel_teacher(library.home / "other.onnx", "clap", seed=1)
    library.make(12, Teacher(mine, hop_samples=320, threads=1))
    before = library.files()
    result = library.probe(5, "--teacher", str(mine))
    assert "verdict: the same model made the vectors, with STFT hop 320" in result.output
    assert "5 tracks" in result.output
    assert "of different tracks" in result.output
    declared = {"model": str(mine), "hop_length_stft": 320}
    assert "verdict: the same model made the vectors.\n" in library.probe(5, teacher=declared).output
    result = library.probe(20, "--teacher", str(other), teacher=declared)
    assert "12 of 20 wanted tracks" in result.output
    assert "verdict: another model made the vectors" in result.output
    assert library.files() == before


def test_a_mixture_is_told(library: Library) -> None:
    models = [write_mel_teacher(library.home / f"{seed}.onnx", "dclap", seed=seed) for seed in (0, 1)]
    library.make(12, *(Teacher(m, threads=1) for m in models))
    result = library.probe(20, "--teacher", str(models[0]))
    assert "verdict: a mixture: 6 of 12 vectors are this model's, 6 are another's" in result.output


def test_tracks_are_spread_and_audio_that_is_not_here_is_counted_with_the_command_that_fetches_it(
    library: Library,
) -> None:
    model = write_mel_teacher(library.home / "model.onnx", "dclap")
    library.make(12, Teacher(model, threads=1))
    for number in (1, 2, 6, 7, 8):  # of the parts 0-2, 3-5, 6-8, 9-11 one has lost all of its files
        (library.home / f"audio/s/{number}.flac").unlink()
    result = library.probe(4, "--teacher", str(model))
    assert "1 of 4 parts of the library have no audio here; `student-clap ingest --sample 4` fetches" in result.output
    assert "verdict (of 3 tracks only): the same model" in result.output
    shown = {line.split()[1] for line in result.output.splitlines() if "Title" in line}
    assert len(shown & {"0"}) == len(shown & {"3", "4", "5"}) == len(shown & {"9", "10", "11"}) == 1
    for file in (library.home / "audio/s").iterdir():
        file.unlink()
    result = library.probe(4, "--teacher", str(model))
    assert "4 of 4 parts" in result.output
    assert "verdict: none; no track's audio could be heard" in result.output


def test_a_file_without_audio_is_named_and_leaves_the_others(library: Library) -> None:
    model = write_mel_teacher(library.home / "model.onnx", "dclap")
    library.make(3, Teacher(model, threads=1))
    (library.home / "audio/s/1.flac").write_bytes(b"no music" * 100)
    result = library.probe(3, "--teacher", str(model))
    assert "no vector: 1 (Title 1): " in result.output
    assert "verdict (of 2 tracks only): the same model" in result.output


def test_rows_without_a_vector_are_not_compared(library: Library) -> None:
    model = write_mel_teacher(library.home / "model.onnx", "dclap")
    library.make(2, Teacher(model, threads=1))
    with FeatureStore.open(library.home / "store.zarr", "r+") as store:
        store.append_tracks([Track("s", "bare", audio="s/0.flac", state=State.FETCHED)])
    assert "2 of 9 wanted tracks" in library.probe(9, "--teacher", str(model)).output
    with FeatureStore.open(library.home / "store.zarr", "r+") as store:
        store.update_tracks([0, 1], teacher=np.full((2, 512), np.nan, np.float32))
    assert "has no track vectors to compare with;" in library.probe(9, "--teacher", str(model), ok=False).output
    with FeatureStore.open(library.home / "store.zarr", "r+") as store:
        store.write_teacher([0], np.full((1, 512), 512**-0.5, np.float32))
    assert "but those that featurize --teacher gave" in library.probe(9, "--teacher", str(model), ok=False).output


def test_what_is_missing_is_named(library: Library) -> None:
    assert "name it with --teacher ONNX" in library.probe(5, ok=False).output
    absent = library.home / "absent.onnx"
    assert "absent.onnx: no such file" in library.probe(5, "--teacher", str(absent), ok=False).output
    model = write_mel_teacher(library.home / "model.onnx", "dclap")
    said = library.probe(5, "--teacher", str(model), ok=False).output
    assert "there is no store at" in said
    assert "run `student-clap ingest --sample 5`" in said
