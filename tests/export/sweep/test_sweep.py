"""`student-clap sweep`: killed, resumed, with a point that fails, here and on a Dask cluster."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.train.conftest import Library, make_library

from loopback.daskcluster import DaskProcesses, children
from student_clap.export.sweep.cluster import ANNOUNCEMENT, ANNOUNCES
from student_clap.export.sweep_command import sweep
from student_clap.train.command import train
from student_clap.train.runs.reader import RunFolder

DEADLINE_S = 240
EPOCHS = 30
POINTS = f"""
name: two
settings: {{training.epochs: {EPOCHS}, training.early_stopping_patience: 0}}
grid: {{training.lr: [1e-3, 3e-4]}}
"""
NAMES = ("two-lr-0.001", "two-lr-0.0003")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Eight tracks, and the file of a sweep beside its config.yaml; the working directory lies there."""
    made = make_library(tmp_path / "library", [1.0, 2.0, 2.3, 3.0, 0.8, 1.2, 2.5, 2.0])
    made.config_file(made.config(loss={"targets": "track"}))
    (made.root / "two.yaml").write_text(POINTS, encoding="utf-8")
    monkeypatch.chdir(made.root)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return made


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, killed with -9 when the block ends."""
    program_path = str(Path(sys.executable).with_name("student-clap"))
    with subprocess.Popen(
        [program_path, "sweep", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        try:
            yield command
        finally:
            command.kill()


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(sweep, arguments)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def folder(library: Library, name: str) -> RunFolder:
    return RunFolder(library.root / "runs" / name)


def done(library: Library, name: str) -> int:
    return folder(library, name).history().done


NONE_YET = dict.fromkeys(NAMES, 1)


@contextmanager
def held(library: Library, parents: Sequence[int], reached: Mapping[str, int] = NONE_YET) -> Iterator[dict[str, int]]:
    """The process of each point, stopped once it has more epochs than `reached`, and let go when the block ends.

    So none is at its end when the last one has so many. `parents` started them, or started who started them.
    """
    points: dict[str, int] = {}

    def hold_those_ready() -> bool:
        for name in NAMES:
            if name not in points and done(library, name) > reached[name]:
                (points[name],) = (pid for pid in descendants(parents) if name in command_line(pid))
                os.kill(points[name], signal.SIGSTOP)
        return len(points) == len(NAMES)

    try:
        wait_until(hold_those_ready)
        yield points
    finally:
        for pid in points.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def descendants(pids: Sequence[int]) -> list[int]:
    below = [child for pid in pids for child in children(pid)]
    return below + (descendants(below) if below else [])


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    except OSError:  # it has ended
        return []


def wait_until_unwanted(point: int) -> None:
    """Until whoever started a point holds its standard input open no more: by that it will know, when it is let go."""
    end = os.open(f"/proc/{point}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    try:
        poll = select.poll()
        poll.register(end, select.POLLIN)
        assert poll.poll(DEADLINE_S * 1000)
    finally:
        os.close(end)


def losses(run: RunFolder) -> list[dict[str, Any]]:
    """What a training gives, without its times."""
    kept = ("epoch", "step", "lr", "train_loss", "train_cosine", "val_loss", "val_cosine")
    return [{key: epoch[key] for key in kept} for epoch in run.epochs()]


def compare(library: Library) -> None:
    """The runs are those that `train` makes undisturbed."""
    for name, rate in zip(NAMES, ("1e-3", "3e-4"), strict=True):
        settings = (f"training.lr={rate}", f"training.epochs={EPOCHS}", "training.early_stopping_patience=0")
        words = [word for setting in settings for word in ("--set", setting)]
        result = CliRunner().invoke(train, ["--run", f"alone-{rate}", *words])
        assert result.exit_code == 0, result.output
        alone, swept = losses(folder(library, f"alone-{rate}")), losses(folder(library, name))
        assert len(swept) == EPOCHS
        for mine, theirs in zip(swept, alone, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_killed_and_run_again_it_is_as_if_nothing_had_been(library: Library) -> None:
    with started("two.yaml", "--jobs", "2") as command, held(library, [command.pid]) as points:
        killed, other = (points[name] for name in NAMES)
        os.kill(killed, signal.SIGKILL)  # a point goes on by itself, from its last epoch
        wait_until(lambda: len(children(command.pid)) == 2 and killed not in children(command.pid))
        assert ask("two.yaml").exit_code == 1  # another sweep of the name
        for point in children(command.pid):
            os.kill(point, signal.SIGTERM)  # as a batch system, besides
        os.kill(other, signal.SIGCONT)
        log = folder(library, NAMES[1]).log
        wait_until(lambda: "stopped by SIGTERM" in log.read_text(encoding="utf-8"))
    # By its death, -9, the points see that nobody wants them: they save themselves and end.
    wait_until(lambda: not any(folder(library, name).is_locked() for name in NAMES))
    assert not any(done(library, name) == EPOCHS for name in NAMES)

    again = ask("two.yaml", "--jobs", "2", "--json")
    assert again.exit_code == 0, again.output
    content = json.loads(again.stdout)
    assert [point["name"] for point in content["points"] if "cosine" in point["best_in"]] == [
        content["points"][0]["name"]
    ]
    compare(library)
    before = [folder(library, name).last.stat().st_mtime_ns for name in NAMES]
    assert "2 runs: 2 are finished, 0 to do" in ask("two.yaml").stderr
    assert [folder(library, name).last.stat().st_mtime_ns for name in NAMES] == before


def test_a_number_that_is_given_twice_counts_once(library: Library) -> None:
    del library
    result = ask("two.yaml", "--dry-run", "--seed", "5", "--seed", "5", "--fold", "0", "--fold", "0")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == [f"{name}-f0-s5: to do" for name in NAMES]
    Path("seeds.yaml").write_text("grid: {training.seed: [0, 1]}", encoding="utf-8")
    refused = ask("seeds.yaml", "--dry-run", "--seed", "5")
    assert refused.exit_code == 1
    assert "--seed: the point seed-0 sets training.seed" in refused.stderr


@pytest.mark.slow
def test_a_point_that_fails_stops_no_other_and_is_named(library: Library) -> None:
    (library.root / "bad.yaml").write_text(
        "settings: {training.epochs: 2}\n"
        "points: {bad: {loss.text: 1, loss.text_vectors: none.npz}, good: {}}\nseeds: [3]\n",
        encoding="utf-8",
    )
    result = ask("bad.yaml", "--jobs", "2")
    assert result.exit_code == 1
    assert "1 of 2 runs failed" in result.stderr
    assert "- bad-bad-s3: loss.text_vectors none.npz" in result.stderr
    good, bad = (line.split() for line in result.stdout.splitlines() if line.startswith(("good ", "bad ")))
    assert (good[0], good[1], bad[:2]) == ("good", "1/1", ["bad", "0/1"])
    shown = ask("bad.yaml", "good", "--markdown", "--dry-run")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[-1].split()[:4] == ["|", "good", "|", "1/1"]
    # More epochs are asked of runs that are there; another rate is another run.
    assert "bad-good-s3: to do" in ask("bad.yaml", "good", "--dry-run", "--set", "training.epochs=3").stderr
    other = ask("bad.yaml", "good", "--set", "training.lr=1e-5")
    assert other.exit_code == 1
    assert "bad-good-s3: training.learning_rate: the run has 0.001" in other.stderr
    assert "--name" in other.stderr


@pytest.mark.slow
def test_on_a_cluster_of_workers_that_announce_a_gpu(library: Library, tmp_path: Path) -> None:
    with DaskProcesses(tmp_path / "dask") as cluster:
        place = ("--scheduler-file", str(cluster.scheduler_file))
        cluster.scheduler()
        wait_until(cluster.scheduler_file.exists)
        cluster.worker("without")
        refused = ask("two.yaml", *place, "--set", "featurize.wait_s=4")
        assert refused.exit_code == 1
        assert "announces GPU=1" in refused.stderr
        # As a person starts one, and as a batch job's script does.
        nannies = [cluster.worker("first", resources="GPU=1"), cluster.worker("second", dict([ANNOUNCEMENT]))]
        parents = [nanny.pid for nanny in nannies]
        with started("two.yaml", *place) as command, held(library, parents) as points:
            command.kill()
            # The workers live; the runs see that nobody wants them any more.
            for point in points.values():
                wait_until_unwanted(point)
        wait_until(lambda: not any(folder(library, name).is_locked() for name in NAMES))
        assert not any(done(library, name) == EPOCHS for name in NAMES)

        reached = {name: done(library, name) for name in NAMES}
        with started("two.yaml", *place, "--json") as command:
            with held(library, parents, reached) as points:
                lost = points[NAMES[0]]
                (worker,) = (pid for pid in descendants(parents) if lost in children(pid))
                os.kill(worker, signal.SIGKILL)  # a node is lost, with its run
                wait_until_unwanted(lost)
            out, err = command.communicate(timeout=DEADLINE_S)
        assert command.returncode == 0, err
        assert {tuple(point["runs"]) for point in json.loads(out)["points"]} == {(name,) for name in NAMES}
    assert all(done(library, name) == EPOCHS for name in NAMES)


def test_a_batch_job_announces_its_gpu() -> None:
    assert shlex.split(ANNOUNCES) == ["export", "=".join(ANNOUNCEMENT)]


def test_places_exclude_one_another(library: Library) -> None:
    result = ask("two.yaml", "--scheduler", "tcp://127.0.0.1:1", "--cluster", "slurm")
    assert result.exit_code == 2
    assert "exclude one another" in result.stderr
