"""Kill -9 at any moment: after the next run the store is, byte for byte, that of a run that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.verify import verify_path

pytestmark = pytest.mark.slow

MOMENTS = 50
RECIPE = Recipe.from_config(AudioConfig())


class LightRuns:
    """Runs of the driver in a process of their own; see light_run."""

    def __init__(self) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("light_run.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads},
        )  # fmt: skip

    def __call__(self, folder: Path, last_step: int = 0) -> str:
        """Run, and die at `last_step`: "killed", or "ended STEPS"."""
        self._process.stdin.write(f"{folder} {last_step}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def light_run() -> Iterator[LightRuns]:
    runs = LightRuns()
    yield runs
    runs.close()


@pytest.fixture
def fresh(tmp_path: Path, write_audio: Callable[..., Path]) -> Path:
    """A folder with a store of six tracks: four good ones, one that is no audio, one whose file is gone."""
    files = [write_audio(f"{s}.wav", s, 48_000, 1, seed=s) for s in (1, 2, 3, 11)]
    html = tmp_path / "page.ogg"
    html.write_text("<html>Sign in</html>")
    files += [html, tmp_path / "gone.wav"]
    vector = np.full(512, 512**-0.5, np.float32)
    folder = tmp_path / "fresh"
    folder.mkdir()
    with FeatureStore.create(folder / "features.zarr", "test") as store:
        store.append_tracks(
            [Track("d", str(n), audio=str(f), state=State.FETCHED, teacher=vector) for n, f in enumerate(files)]
        )
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Every file of the store."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in (folder / "features.zarr").rglob("*") if p.is_file()}


def kill_at(moments: list[int], fresh: Path, light_run: LightRuns, expected: dict[str, bytes]) -> int:
    """A run that is killed at a step, and run again, ends with `expected`. Returns how often a half was left."""
    halves = 0
    for moment in sorted(moments):
        killed = fresh.with_name(f"killed-{moment}")
        shutil.copytree(fresh, killed)
        assert light_run(killed, moment) == "killed"
        halves += content(killed) != expected
        assert light_run(killed).startswith("ended ")
        assert content(killed) == expected, f"killed at step {moment}"
        shutil.rmtree(killed)
    return halves


def test_twenty_moments_with_a_teacher(tmp_path, fresh, light_run):
    write_mel_teacher(fresh / "teacher.onnx", "clap")
    with FeatureStore.open(fresh / "features.zarr", "r+") as store:  # two get their own vector from it too
        store.update_tracks([1, 3], teacher=np.full((2, 512), np.nan, np.float32))
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(fresh, undisturbed)
    _, steps = light_run(undisturbed).split()
    expected = content(undisturbed)
    with FeatureStore.open(undisturbed / "features.zarr") as store:
        assert store.segment_vectors().counts().tolist() == [1, 1, 1, 2, 0, 0]
        assert store.given_vectors().tolist() == [False, True, False, True, False, False]
        assert np.isfinite(store.teacher()).all()
    kill_at(random.Random(5).sample(range(1, int(steps) + 1), 20), fresh, light_run, expected)


@pytest.mark.parametrize("teacher", [True, False])
def test_ten_moments_of_tracks_whose_files_were_replaced(tmp_path, fresh, light_run, write_audio, teacher):
    model = write_mel_teacher(fresh / "teacher.onnx", "clap")
    with FeatureStore.open(fresh / "features.zarr", "r+") as store:
        store.update_tracks([1, 3], teacher=np.full((2, 512), np.nan, np.float32))
    assert light_run(fresh).startswith("ended ")
    with FeatureStore.open(fresh / "features.zarr", "r+") as store:
        before = store.features(RECIPE).n_samples()
    write_audio("11.wav", 22.0, 48_000, 1, seed=5)
    write_audio("2.wav", 2.0, 48_000, 1, seed=6)  # as long as before
    (fresh / "selection.json").write_text(json.dumps({"again": [0, 1, 3]}))
    if not teacher:
        model.unlink()
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(fresh, undisturbed)
    _, steps = light_run(undisturbed).split()
    expected = content(undisturbed)
    with FeatureStore.open(undisturbed / "features.zarr") as store:
        assert store.segment_vectors().counts().tolist() == ([1, 1, 1, 4, 0, 0] if teacher else [1, 0, 1, 0, 0, 0])
        assert np.isfinite(store.teacher()).all(axis=1).tolist() == [True, teacher, True, teacher, True, True]
        assert store.features(RECIPE).n_samples().tolist() == [*before[:3], 22 * 48_000, *before[4:]]
    kill_at(random.Random(6).sample(range(1, int(steps) + 1), 10), fresh, light_run, expected)


def test_ten_moments_of_a_pass_that_is_made_again(tmp_path, fresh, light_run):
    write_mel_teacher(fresh / "teacher.onnx", "clap")
    with FeatureStore.open(fresh / "features.zarr", "r+") as store:
        store.update_tracks([1, 3], teacher=np.full((2, 512), np.nan, np.float32))
    assert light_run(fresh).startswith("ended ")
    (fresh / "selection.json").write_text(json.dumps({"again_teacher": True}))
    for other in (False, True):  # the same model, then another one
        if other:
            write_mel_teacher(fresh / "teacher.onnx", "clap", seed=1)
        undisturbed = tmp_path / f"undisturbed-{other}"
        shutil.copytree(fresh, undisturbed)
        _, steps = light_run(undisturbed).split()
        expected = content(undisturbed)
        kill_at(random.Random(7).sample(range(1, int(steps) + 1), 5), fresh, light_run, expected)


def test_fifty_moments(tmp_path, fresh, light_run):
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(fresh, undisturbed)
    ended, steps = light_run(undisturbed).split()
    assert ended == "ended"
    expected = content(undisturbed)
    features = FeatureStore.open(undisturbed / "features.zarr").features(RECIPE)
    assert [np.sign(n) for n in features.n_samples()] == [1, 1, 1, 1, -1, 0]
    assert [bool(e) for e in features.errors()] == [False] * 4 + [True, False]
    assert verify_path(undisturbed / "features.zarr", deep=True) == ([], 6)
    assert [features.strip(row).shape[0] for row in range(4)] == [128] * 4

    halves = kill_at(random.Random(4).sample(range(1, int(steps) + 1), MOMENTS), fresh, light_run, expected)
    assert halves > MOMENTS * 0.8  # the kills came in the middle of the work
