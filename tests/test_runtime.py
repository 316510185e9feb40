"""The commands of a small machine work where nothing of the extra `train` is installed; others say what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.runtime.packages import TRAINING
from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.mel import LogMel
from student_clap.store import FeatureStore, Recipe, State, Track

ROOT = Path(__file__).parents[1]
STORE = ("--set", "store.path=features.zarr")
IMPORTED_AS = {"scikit-learn": "sklearn"}


def test_the_extra_is_what_its_message_speaks_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^A-Za-z0-9-]", line)[0] for line in project["optional-dependencies"]["train"]]
    assert {IMPORTED_AS.get(name, name) for name in names} == TRAINING
    assert project["optional-dependencies"]["runtime"] == []


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, an audio file and a store of four tracks; and a Python that lacks the extra."""
    folder = tmp_path_factory.mktemp("small")
    write_mel_teacher(folder / "student.onnx", "dclap")
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 480_000).astype(np.float32)
    soundfile.write(folder / "a.wav", samples, 48_000)
    recipe = Recipe.from_config(AudioConfig())
    with FeatureStore.create(folder / "features.zarr", "a-teacher") as store:
        teacher = np.eye(1, 512, dtype=np.float32)[0]
        tracks = [Track("default", n, title=n, artist=n, state=State.FETCHED, teacher=teacher) for n in "1234"]
        rows, features = store.append_tracks(tracks), store.features(recipe)
        for row in rows:
            features.write_strip(row, LogMel(recipe).codes(samples), len(samples))
        features.commit(list(rows), [len(samples)] * len(rows), [""] * len(rows))
    (folder / "bare").mkdir()
    # Python's own hook: it runs in every process, so also in those that a command starts.
    barred = sorted(TRAINING | {"librosa", "numba"})
    hook = f"import sys\nsys.modules.update(dict.fromkeys({barred!r}))\n"
    (folder / "bare" / "sitecustomize.py").write_text(hook)
    return folder


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder / "bare"), str(ROOT / "typings")])
    return subprocess.run(
        [sys.executable, "-m", "student_clap.config", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "student.onnx", "--audio", "a.wav", "--provider", "all"),
        ("embed", "a.wav", "--model", "student.onnx"),
        ("bench", "student.onnx", "--rounds", "3"),
        ("reembed", "--model", "student.onnx", *STORE),
    ],
    ids=lambda arguments: arguments[0],
)
def test_it_works_without_the_extra(arguments: tuple[str, ...], small: Path) -> None:
    done = command(small, *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "package"),
    [
        (("train", *STORE, "--set", "split.folds=2"), "torch"),
        (("export", "--checkpoint", "best.pt", *STORE), "torch"),
        (("ingest", *STORE), "requests"),
        (("check", "student.onnx", "--audio", "a.wav", "--reference", "best.pt"), "torch"),
    ],
    ids=("train", "export", "ingest", "checkpoint"),
)
def test_what_needs_the_extra_says_so(arguments: tuple[str, ...], package: str, small: Path) -> None:
    (small / "best.pt").write_bytes(b"PK")
    done = command(small, *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"needs the package {package}, which is not installed: pip install 'student-clap[train]'" in done.stderr
