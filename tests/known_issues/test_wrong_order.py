"""Stages in a wrong order are told in one line, and before anything is loaded that takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, Track

pytestmark = pytest.mark.slow  # starts processes

HEAVY = ("torch", "sklearn", "librosa", "distributed")
CODE = f"""
import sys
from student_clap.config.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("ended with", end.code, "after loading", sorted(set({HEAVY!r}) & set(sys.modules)))
"""


def refused(folder: Path, command: str) -> str:
    """The message; that the command ended with 1, on one line and without what is heavy, is asserted."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *command.split()], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "ended with 1 after loading []", done.stdout + done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration alone."""
    (tmp_path / "config.yaml").touch()
    return tmp_path


def ingested(folder: Path) -> FeatureStore:
    vector = np.full(512, 512**-0.5, np.float32)
    store = FeatureStore.create(folder / "data" / "features.zarr", "test")
    store.append_tracks([Track("d", f"t{n}", artist=f"a{n}", state=State.LISTED, teacher=vector) for n in range(3)])
    return store


@pytest.mark.parametrize("command", ["featurize", "train", "store list"])
def test_before_ingest(folder: Path, command: str) -> None:
    assert "there is no feature store at data/features.zarr; `student-clap ingest` makes one" in refused(
        folder, command
    )


def test_train_before_featurize(folder: Path) -> None:
    with ingested(folder):
        pass
    assert "has no 'audiomuse' features yet; run `student-clap featurize` with this configuration\n" in refused(
        folder, "train"
    )
    with FeatureStore.open(folder / "data" / "features.zarr", "r+") as store:
        store.features(Recipe.from_config(AudioConfig()))
    said = refused(folder, "train")
    assert "the store has no track to train on (3 without features); run `student-clap ingest` and" in said
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("export", "there is no checkpoint at runs/tinyclap-audiomuse/best.pt; `student-clap train` makes one"),
        ("evaluate", "there is no model at runs/tinyclap-audiomuse/student.onnx; `student-clap export` writes one"),
        ("reembed", "there is no model at runs/tinyclap-audiomuse/student.onnx; `student-clap export` writes one"),
        ("check x.onnx", "there is no model at x.onnx; `student-clap export` writes one"),
        ("deploy x.onnx --to .", "there is no model at x.onnx; `student-clap export` writes one"),
        ("bench x.onnx", "there is no model at x.onnx; `student-clap export` writes one"),
        ("embed . --model x.onnx", "there is no model at x.onnx; `student-clap export` writes one"),
    ],
)
def test_before_train_and_export(folder: Path, command: str, says: str) -> None:
    with ingested(folder):
        pass
    assert says in refused(folder, command)
