"""`featurize --again-teacher`: what is heard again, when it is taken away, and how a stopped pass goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.featurize.light_run import HereClient, run

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.runtime.signals import Stopped
from student_clap.config.schema import Config
from student_clap.featurize.cluster.connection import ClusterError
from student_clap.featurize.cluster.preflight import Report, preflight
from student_clap.featurize.cluster.task import Outcome
from student_clap.featurize.plan import Selection
from student_clap.featurize.teacher_pass import open_pass
from student_clap.store import FeatureStore, State, Track
from student_clap.store.arrays.metadata import read_document
from student_clap.store.storage.errors import StoreError

pytestmark = pytest.mark.slow

AGAIN = Selection(again_teacher=True)


@pytest.fixture(autouse=True)
def _worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(address="here"))


@pytest.fixture
def folder(tmp_path: Path, write_audio: Callable[..., Path]) -> Path:
    """A folder with a store of four tracks, made and heard by teacher.onnx, which gave them their own vectors too."""
    folder = tmp_path / "run"
    folder.mkdir()
    files = [write_audio(f"{n}.wav", 11.0, 48_000, 1, seed=n) for n in range(4)]
    with FeatureStore.create(folder / "features.zarr", "test") as store:
        store.append_tracks([Track("d", str(n), audio=str(f), state=State.FETCHED) for n, f in enumerate(files)])
    write_mel_teacher(folder / "teacher.onnx", "clap")
    run(folder)
    return folder


def counts(folder: Path) -> list[int]:
    with FeatureStore.open(folder / "features.zarr") as store:
        return store.segment_vectors("test").counts().tolist()


def given(folder: Path) -> list[bool]:
    with FeatureStore.open(folder / "features.zarr") as store:
        assert store.given_vectors().tolist() == np.isfinite(store.teacher()).all(axis=1).tolist()
        return store.given_vectors().tolist()


def is_under_way(folder: Path) -> bool:
    document = read_document(folder / "features.zarr/segment_vectors/test")
    return document["attributes"].get("being_made_again", False)


def stop_after(n_tracks: int) -> Callable[[Outcome], None]:
    left = iter(range(n_tracks - 1))

    def report(_: Outcome) -> None:
        if next(left, None) is None:
            raise Stopped(signal.SIGTERM)

    return report


@pytest.mark.parametrize("other_model", [False, True])
def test_a_pass_that_was_stopped_goes_on_with_the_same_command(folder: Path, other_model: bool) -> None:
    if other_model:
        write_mel_teacher(folder / "teacher.onnx", "clap", seed=1)
    with pytest.raises(Stopped):
        run(folder, AGAIN, report=stop_after(2))
    made = counts(folder)
    assert sum(map(bool, made)) in (2, 3)  # one more may have come back by then
    assert is_under_way(folder)
    kept = [row for row, n in enumerate(made) if n]
    with FeatureStore.open(folder / "features.zarr") as store:
        model = store.segment_vectors("test").model

    found, totals = run(folder, AGAIN)
    assert [job.row for job in found.jobs] == [row for row in range(4) if row not in kept]
    assert (found.heard, totals.done) == (len(kept), len(found.jobs))
    assert (counts(folder), given(folder)) == ([2] * 4, [True] * 4)
    assert not is_under_way(folder)
    with FeatureStore.open(folder / "features.zarr") as store:
        assert store.segment_vectors("test").model == model

    found, _ = run(folder, AGAIN)  # that is asked for anew
    assert len(found.jobs) == 4


def test_so_does_one_that_began_with_nothing(folder: Path) -> None:
    with FeatureStore.open(folder / "features.zarr", "r+") as store:
        store.remove_segment_set("test")
    with pytest.raises(Stopped):
        run(folder, AGAIN, report=stop_after(2))
    kept = [row for row, n in enumerate(counts(folder)) if n]
    found, _ = run(folder, AGAIN)
    assert [job.row for job in found.jobs] == [row for row in range(4) if row not in kept]
    assert not is_under_way(folder)


def test_a_run_without_the_option_ends_the_pass_too(folder: Path) -> None:
    with pytest.raises(Stopped):
        run(folder, AGAIN, report=stop_after(2))
    run(folder)
    assert not is_under_way(folder)


class Unfit(HereClient):
    """Its worker does not pass the preflight check."""

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if function is preflight:
            return super().submit(lambda: Report("here", ("no mount",), ()))
        return super().submit(function, *arguments, **options)


@pytest.mark.parametrize("other_model", [False, True])
def test_nothing_is_taken_away_before_a_worker_can_hear(folder: Path, other_model: bool) -> None:
    before = {p: p.read_bytes() for p in (folder / "features.zarr").rglob("*") if p.is_file()}
    if other_model:
        write_mel_teacher(folder / "teacher.onnx", "clap", seed=1)
    with pytest.raises(ClusterError, match="no mount"):
        run(folder, AGAIN, Unfit())
    assert {p: p.read_bytes() for p in (folder / "features.zarr").rglob("*") if p.is_file()} == before


def test_what_cannot_be_heard_again_keeps_what_the_same_model_heard(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "1.wav").unlink()
    found, _ = run(folder, AGAIN)
    assert ([job.row for job in found.jobs], found.heard, found.unheard) == ([0, 2, 3], 1, 0)
    assert (counts(folder), given(folder)) == ([2] * 4, [True] * 4)


def test_what_another_model_cannot_hear_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "1.wav").unlink()
    write_mel_teacher(folder / "teacher.onnx", "clap", seed=1)
    found, _ = run(folder, AGAIN)
    assert (counts(folder), given(folder)) == ([2, 0, 2, 2], [True, False, True, True])
    assert found.unheard == 1
    write_mel_teacher(folder / "teacher.onnx", "clap", seed=2)
    config = Config.model_validate({"teacher": {"name": "test", "model": folder / "teacher.onnx", "provider": "cpu"}})
    with FeatureStore.open(folder / "features.zarr", "r+") as store:
        teacher = open_pass(config, store, again=True)
        (tmp_path / "2.wav").unlink()
        found.jobs = [job for job in found.jobs if job.row != 2]
        assert teacher.losing(found) == 1


def test_nothing_goes_where_there_is_no_audio_at_all(folder: Path, tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / f"{n}.wav").unlink()
    write_mel_teacher(folder / "teacher.onnx", "clap", seed=1)
    found, _ = run(folder, AGAIN)
    assert (found.jobs, found.unheard, counts(folder)) == ([], 4, [2] * 4)


def test_a_name_that_no_set_may_have_takes_none_away(tmp_path: Path) -> None:
    """A set that a source brought is called so where its teacher's name has no letter of its own."""
    model = write_mel_teacher(tmp_path / "teacher.onnx", "clap")
    vector = np.full(512, 512**-0.5, np.float32)
    config = Config.model_validate({"teacher": {"name": "default", "model": model, "provider": "cpu"}})
    with FeatureStore.create(tmp_path / "s.zarr", "default") as store:
        store.append_tracks([Track("d", "0", teacher=vector)])
        store.write_segment_teacher([0], [vector[None].astype(np.float16)])
        assert store.segment_sets() == ["default"]
        with pytest.raises(StoreError, match="choose another teacher"):
            open_pass(config, store, again=True)
        assert store.n_segment_teacher().tolist() == [1]
