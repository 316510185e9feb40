"""A run's folder: the names of its files and how they are read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from student_clap.train.runs.directory import lock_run
from student_clap.train.runs.reader import HeldOutArtists, RunError, RunFolder

DEADLINE_S = 60


def test_the_names_of_all_files(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "try-2")
    assert run.name == "try-2"
    files = {
        *(run.config, run.description, run.split, run.tracks, run.metrics, run.curves, run.events, run.lock),
        *(run.last, run.previous, run.best, run.kept(7), run.student_onnx, run.variant("int8")),
        *(run.evaluation_record, run.report),
    }
    assert {str(path.relative_to(run.path)) for path in files} == {
        *("config.yaml", "run.json", "split.json", "tracks.npz", "metrics.jsonl", "curves.svg", "tensorboard", ".lock"),
        *("last.pt", "previous.pt", "best.pt", "checkpoints/epoch_0007.pt", "student.onnx", "student-int8.onnx"),
        *("evaluation/metrics.json", "evaluation/report.html"),
    }
    assert run.evaluation_record.parent == run.report.parent == run.evaluation


def test_checkpoints_to_go_on_from_come_the_newest_first(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.resumable() == []
    run.kept(0).parent.mkdir()
    for path in (run.kept(5), run.previous, run.best, run.kept(10), run.last):
        path.touch()
    assert run.resumable() == [run.last, run.previous, run.kept(10), run.kept(5)]


def test_all_weights_are_found_also_those_that_are_kept_and_set_aside(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.weights() == []
    aside = RunFolder(tmp_path / "set_aside/1")
    paths = [run.best, run.last, run.kept_best(5), run.kept(5), aside.kept(10), aside.last]
    for path in (*paths, tmp_path / "another run/last.pt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert run.weights() == paths


def test_the_run_of_a_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    assert RunFolder.of_checkpoint(run.best) is None
    run.split.write_text("{}")
    for path in (run.best, run.kept(3)):
        assert RunFolder.of_checkpoint(path) == run
    assert RunFolder.of_checkpoint(tmp_path / "moved.pt") is None


def test_the_held_out_artists(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(RunError, match=r"no split\.json.*train first.*--run"):
        run.held_out_artists()
    run.split.write_text(json.dumps({"validation_artists": ["a", "b", "a"], "test_artists": ["c"]}))
    assert run.held_out_artists() == HeldOutArtists(frozenset("ab"), frozenset("c"))
    assert run.held_out_artists().all == {"a", "b", "c"}
    # As it was before there were test tracks.
    run.split.write_text(json.dumps({"held_out_artists": ["a", "b", "a"]}))
    assert run.held_out_artists() == HeldOutArtists(frozenset("ab"))
    for content in ("[]", "{}", '{"held_out_artists": "a"}', '{"validation_artists": [], "test_artists": 1}'):
        run.split.write_text(content)
        with pytest.raises(RunError, match=r"split\.json has no validation_artists; train the run again"):
            run.held_out_artists()
    for damaged in (b"{", b"\xff\xfe\x00"):
        run.split.write_bytes(damaged)
        with pytest.raises(RunError, match=r"split\.json cannot be read"):
            run.held_out_artists()


def test_the_description(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert not run.is_begun()
    assert run.read_description() == ({}, "there is no run.json")
    run.description.write_text('{"begun": "today"}')
    assert run.is_begun()
    assert run.read_description() == ({"begun": "today"}, "")
    assert run.record() == {"begun": "today"}
    for content, problem in ((b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"[1]", "does not describe a run")):
        run.description.write_bytes(content)
        assert run.read_description() == ({}, f"run.json {problem}")
        assert run.record() == {}


@pytest.mark.skipif(sys.platform == "win32", reason="locks cannot be looked at there")
def test_a_folder_that_is_held_by_a_trainer(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert not run.is_locked()
    assert list(tmp_path.iterdir()) == []
    lock = lock_run(tmp_path)
    assert run.is_locked()
    lock.release()
    assert not run.is_locked()


def test_reading_needs_no_heavy_import() -> None:
    code = (
        "import sys, student_clap.train.runs.reader, student_clap.train.comparison.table;"
        "assert not {'torch', 'zarr', 'numpy', 'filelock'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=DEADLINE_S)
