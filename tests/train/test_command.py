"""`student-clap train` as a user runs it: kills, signals, changed settings, the run directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner, Result

from loopback.processes import ENOUGH_S, started
from student_clap.config.formats.yaml12 import load_yaml
from student_clap.config.schema import Config
from student_clap.store import FeatureStore
from student_clap.train.command import train
from student_clap.train.loop.loop import Trainer
from student_clap.train.runs.checkpoint import load_student
from student_clap.train.runs.directory import default_run_name, lock_run, run_directory

if TYPE_CHECKING:
    from tests.train.conftest import Library

pytestmark = pytest.mark.slow

PROGRAM = Path(sys.executable).with_name("student-clap")
MEASURED = {"seconds", "tracks_per_s", "segments_per_s", "data_wait_s"}


def losses(directory: Path) -> list[dict[str, float]]:
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in lines]


def start(library: Library, config: Config, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return started(
        [str(PROGRAM), "train", "--config", str(library.config_file(config)), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=library.root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run(library: Library, config: Config, *arguments: str) -> Result:
    return CliRunner().invoke(train, ["--config", str(library.config_file(config)), *arguments])


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + ENOUGH_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def n_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_and_stopped_runs_end_as_an_undisturbed_one(library: Library) -> None:
    config = library.config(training={"epochs": 30, "segments_per_track": 4, "early_stopping_patience": 0})
    whole = library.root / "runs" / "whole"
    result = run(library, config, "--run", "whole")
    assert result.exit_code == 0, result.output

    broken = library.root / "runs" / "broken"
    for signal_number in (signal.SIGKILL, signal.SIGINT):
        wanted = n_lines(broken / "metrics.jsonl") + 3  # epochs of this turn
        with start(library, config, "--run", "broken") as process:
            wait_for(lambda wanted=wanted: n_lines(broken / "metrics.jsonl") >= wanted, process)
            process.send_signal(signal_number)
            output = process.communicate(timeout=ENOUGH_S)[0]
        if signal_number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
            # What a kill in the middle of writing leaves behind.
            with (broken / "metrics.jsonl").open("a") as file:
                file.write('{"epoch": 4, "train_lo')
        else:
            assert process.returncode == 128 + signal_number
            assert f"stopped by {signal.Signals(signal_number).name} in epoch" in output
            assert "run the same command again to go on" in output
        assert n_lines(broken / "metrics.jsonl") < 30
    result = run(library, config, "--run", "broken")
    assert result.exit_code == 0, result.output
    assert "resuming" in result.output
    assert losses(broken) == losses(whole)
    assert len(losses(whole)) == 30
    for name in ("last.pt", "best.pt", "checkpoints/epoch_0030.pt"):
        one, other = (load_student(directory / name)[0].state_dict() for directory in (whole, broken))
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(
    library: Library, number: signal.Signals, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)
    step = Trainer.train_batch

    def raise_signal(self: Trainer, batch: Any) -> None:
        step(self, batch)
        signal.raise_signal(number)

    monkeypatch.setattr(Trainer, "train_batch", raise_signal)
    result = run(library, library.config())
    assert result.exit_code == exit_code, result.output
    assert f"stopped by {number.name} in epoch 1 after batch 1, saved to " in result.output
    assert result.output.endswith("run the same command again to go on\n")
    assert (run_directory(library.config()) / "last.pt").exists()
    assert signal.getsignal(number) is before


def test_a_killed_trainer_takes_its_workers_along(library: Library) -> None:
    config = library.config(training={"epochs": 500, "loader_workers": 2, "early_stopping_patience": 0})
    with start(library, config, "--run", "killed") as process:
        wait_for(lambda: n_lines(library.root / "runs" / "killed" / "metrics.jsonl") >= 1, process)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3  # the fork server and two workers
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(family, timeout=ENOUGH_S)
        for orphan in alive:
            orphan.kill()
    assert alive == []


def test_the_run_directory_tells_the_whole_story(library: Library) -> None:
    config = library.config(training={"epochs": 4, "save_every": 2})
    result = run(library, config)
    assert result.exit_code == 0, result.output
    name = f"tinyclap-{library.recipe.name}"
    assert default_run_name(config) == name
    directory = library.root / "runs" / name
    made = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()} - {".lock"}
    (events,) = (name for name in made if name.startswith("tensorboard/events.out.tfevents."))
    assert made - {events} == {
        *("config.yaml", "run.json", "split.json", "tracks.npz", "metrics.jsonl", "curves.svg", "train.log"),
        *("last.pt", "previous.pt", "best.pt", "checkpoints/epoch_0002.pt", "checkpoints/epoch_0004.pt"),
        *("checkpoints/best_0002.pt", "checkpoints/best_0004.pt"),
    }
    training, validation = "training    12 tracks by 12 artists, 69 segments", "validation  4 tracks by 4 artists"
    for line in ("device      cpu", training, validation):
        assert line in result.output
    assert "12 of 4 tracks (4 epochs of 3)" in result.output
    last_line = result.output.splitlines()[-1]
    assert last_line.startswith("all 4 epochs are done: best validation cosine")
    assert last_line.endswith(str(directory / "best.pt"))

    with FeatureStore.open(library.store_path) as store:
        uuid = store.uuid
    description = json.loads((directory / "run.json").read_text())
    assert description["store"]["uuid"] == uuid
    assert description["recipe"] == library.recipe.as_attributes()
    assert description["fingerprint"] == library.recipe.fingerprint
    assert description["teacher"] == "synthetic"
    assert description["environment"]["torch"] == torch.__version__
    split = json.loads((directory / "split.json").read_text())
    assert split == {
        "method": "sorted",
        "folds": 4,
        "fold": 0,
        "test_folds": [],
        "validation_artists": ["artist 000", "artist 004", "artist 008", "artist 012"],
        "test_artists": [],
        "training_tracks": 12,
        "validation_tracks": 4,
        "test_tracks": 0,
    }
    assert load_yaml((directory / "config.yaml").read_text())["training"]["epochs"] == 4
    metrics = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [m["epoch"] for m in metrics] == [1, 2, 3, 4]
    assert [m["step"] for m in metrics] == [3, 6, 9, 12]
    keys = {"epoch", "step", "projecting_since", "train_loss", "train_cosine", "lr", *MEASURED}
    keys |= {"val_loss", "val_cosine", "val_centred", "val_overlap", "val_mixed_recall_at_1", "val_ndcg"}
    keys |= {"val_mean_vector_cosine", "val_shuffled_cosine", "val_shuffled_centred"}
    assert all(m.keys() == keys for m in metrics)

    student, info = load_student(directory / "best.pt")
    best = max(metrics, key=lambda m: m["val_cosine"])
    assert (info.epoch, info.val_cosine) == (best["epoch"], best["val_cosine"])
    assert (info.run_name, info.store_uuid, info.teacher_name) == (name, uuid, "synthetic")
    assert info.recipe == library.recipe
    assert info.model == config.model
    assert not student.training
    assert student.mel_mean.std() > 1  # set from the training rows
    assert load_student(directory / "checkpoints" / "epoch_0002.pt")[1].epoch == 2


def test_test_tracks_are_neither_trained_on_nor_validated_on(library: Library) -> None:
    config = library.config(split={"test_folds": [2, 3]})
    result = run(library, config)
    assert result.exit_code == 0, result.output
    for line in ("training    4 tracks", "validation  4 tracks", "test        8 tracks by 8 artists, "):
        assert line in result.output
    directory = library.root / "runs" / default_run_name(config)
    split = json.loads((directory / "split.json").read_text())
    test = [f"artist {n:03}" for n in range(16) if n % 4 in (2, 3)]
    assert (split["test_folds"], split["test_artists"], split["test_tracks"]) == ([2, 3], test, 8)
    with np.load(directory / "tracks.npz") as rows:
        sides = {name: rows[name].tolist() for name in rows}
    assert sides == {
        "training_rows": [1, 5, 9, 13],
        "validation_rows": [0, 4, 8, 12],
        "test_rows": [2, 3, 6, 7, 10, 11, 14, 15],
        "taught_rows": [],  # no track has vectors of its segments
        "views": [],
    }
    # The run is the same whatever the test tracks are.
    with FeatureStore.open(library.store_path, "r+") as store:
        store.update_tracks(sides["test_rows"], teacher=np.eye(8, 512, dtype=np.float32))
    again = run(library, config, "--run", "again")
    assert again.exit_code == 0, again.output
    assert losses(directory) == losses(directory.with_name("again"))
    assert run(library, library.config(split={"test_folds": [2, 3]}, training={"epochs": 4})).exit_code == 0
    changed = run(library, library.config(split={"test_folds": [2]}, training={"epochs": 4}))
    assert changed.exit_code == 1
    assert "split.test_folds: the run has [2, 3], now it is [2]" in changed.output


def test_a_run_from_before_there_were_test_tracks_goes_on(library: Library) -> None:
    assert run(library, library.config()).exit_code == 0
    directory = library.root / "runs" / default_run_name(library.config())
    split = json.loads((directory / "split.json").read_text())
    old = {"held_out_artists": split["validation_artists"], "held_out_tracks": split["validation_tracks"]}
    kept = {key: split[key] for key in ("method", "folds", "fold", "training_tracks")}
    (directory / "split.json").write_text(json.dumps(kept | old))
    with np.load(directory / "tracks.npz") as rows:
        training, validation = rows["training_rows"], rows["validation_rows"]
    np.savez(directory / "tracks.npz", training_rows=training, held_out_rows=validation)
    assert "test_folds" not in json.loads((directory / "run.json").read_text())["split"]
    grown = run(library, library.config(training={"epochs": 4}))
    assert grown.exit_code == 0, grown.output
    assert "resuming    after epoch 3" in grown.output
    refused = run(library, library.config(training={"epochs": 4}, split={"test_folds": [1]}))
    assert "split.test_folds: the run has None, now it is [1]" in refused.output


def test_a_finished_run_says_so_and_may_grow(library: Library) -> None:
    assert run(library, library.config()).exit_code == 0
    again = run(library, library.config())
    assert again.exit_code == 0
    assert again.output.startswith("all 3 epochs are done: best validation cosine")
    assert again.output.count("\n") == 1
    grown = run(library, library.config(training={"epochs": 5}))
    assert grown.exit_code == 0, grown.output
    assert "resuming    after epoch 3" in grown.output
    assert len(losses(run_directory(library.config()))) == 5
    shrunk = run(library, library.config(training={"epochs": 4}))
    assert shrunk.exit_code == 1
    assert "training.epochs: the run has 5, now it is 4; it may only grow" in shrunk.output


def test_other_settings_are_refused_with_every_difference_and_the_remedy(library: Library) -> None:
    assert run(library, library.config()).exit_code == 0
    other = library.config(
        training={"learning_rate": 5e-3, "seed": 1}, model={"dropout": 0.2}, split={"fold": 1}, audio={"fmax": 13_000.0}
    )
    # Another mel is another run by name, so it meets this one only where the name is given.
    name = default_run_name(library.config())
    result = run(library, other, "--run", name)
    assert result.exit_code == 1
    assert "features" in result.output
    result = run(
        library, library.config(training={"learning_rate": 5e-3, "seed": 1}, model={"dropout": 0.2}, split={"fold": 1})
    )
    assert result.exit_code == 1
    for line in (
        "  - model.dropout: the run has 0.1, now it is 0.2",
        "  - split.fold: the run has 0, now it is 1",
        "  - training.learning_rate: the run has 0.001, now it is 0.005",
        "  - training.seed: the run has 0, now it is 1",
    ):
        assert line in result.output
    assert result.output.count("  - ") == 4
    assert "`--run NAME`" in result.output
    # What changes no number is free.
    free = {"device": "auto", "save_every": 1, "micro_batch": 64, "early_stopping_patience": 3}
    assert run(library, library.config(training=free)).exit_code == 0


def test_another_store_or_changed_tracks_are_refused_and_new_tracks_are_not(
    library: Library, make: Callable[..., Library]
) -> None:
    assert run(library, library.config()).exit_code == 0
    with FeatureStore.open(library.store_path, "r+") as store:
        from student_clap.store import Track

        store.append_tracks([Track("default", "new", artist="new")])
    assert run(library, library.config(training={"epochs": 4})).exit_code == 0
    with FeatureStore.open(library.store_path, "r+") as store:
        store.update_tracks([3], teacher=store.teacher()[4:5])
    result = run(library, library.config(training={"epochs": 5}))
    assert result.exit_code == 1
    assert "features or teacher vectors of the run's tracks have changed" in result.output

    stranger = make([1.0, 1.0, 1.0, 1.0, 1.0], name="stranger")
    config = library.config(store={"path": str(stranger.store_path)}, training={"epochs": 4})
    result = run(library, config)
    assert result.exit_code == 1
    assert f"{stranger.store_path} is " in result.output


def test_one_trainer_at_a_time(library: Library) -> None:
    config = library.config()
    lock = lock_run(run_directory(config))
    try:
        result = run(library, config)
    finally:
        lock.release()
    assert result.exit_code == 75
    assert "another process is training in" in result.output


@pytest.mark.parametrize("name", ["../outside", "a/b", "", ".hidden", "x" * 200])
def test_run_names_are_plain(library: Library, name: str) -> None:
    result = run(library, library.config(), "--run", name)
    assert result.exit_code == 1
    assert "use letters, digits" in result.output


def test_a_directory_with_checkpoints_of_no_known_run_is_left_alone(library: Library) -> None:
    assert run(library, library.config()).exit_code == 0
    directory = run_directory(library.config())
    (directory / "run.json").unlink()
    result = run(library, library.config())
    assert result.exit_code == 1
    assert "but no run.json" in result.output
    assert (directory / "last.pt").exists()


@pytest.mark.parametrize("left", ["checkpoints", "set_aside"])
def test_what_rm_leaves_of_a_run_is_not_taken_for_a_new_one_s(library: Library, left: str) -> None:
    assert run(library, library.config(training={"epochs": 1, "save_every": 1})).exit_code == 0
    directory = run_directory(library.config())
    (directory / "checkpoints").rename(directory / "was")
    (directory / left / "1").parent.mkdir()
    (directory / "was").rename(directory / left / "1")
    if left == "checkpoints":
        for path in (directory / left / "1").iterdir():
            path.rename(directory / left / path.name)
    for path in directory.iterdir():
        if path.is_file() and not path.name.startswith("."):
            path.unlink()  # rm runs/NAME/*
    result = run(library, library.config(split={"fold": 1}))
    assert result.exit_code == 1
    within = "" if left == "checkpoints" else "1/"
    named = f"holds {left}/{within}best_0001.pt, {left}/{within}epoch_0001.pt but no run.json; delete it or use `--run"
    assert named in result.output
    assert not (directory / "run.json").exists()


def test_the_help_needs_no_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from student_clap.config.cli import main;"
        "r = CliRunner().invoke(main, ['train', '--help']); assert r.exit_code == 0, r.output;"
        "assert '--run NAME' in r.output; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=ENOUGH_S)
