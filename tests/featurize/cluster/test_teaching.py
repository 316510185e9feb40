"""The teacher in a worker: opened once, measured, and only if it is the run's own file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.schema import AudioConfig
from student_clap.featurize.cluster.task import Job
from student_clap.featurize.cluster.teaching import Teaching, teacher_of, try_teacher
from student_clap.featurize.plan import Heard, Selection, plan, segments_to_hear
from student_clap.featurize.teacher.model import Teacher, TeacherError
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.layout.segments import grid_starts

RECIPE = Recipe.from_config(AudioConfig())


@pytest.fixture
def teaching(tmp_path: Path) -> Teaching:
    path = write_mel_teacher(tmp_path / "teacher.onnx", "clap")
    return Teaching(str(path), Teacher(path, threads=1, provider="cpu").digest, "t", None, 240_000, "cpu", 1)


def test_a_worker_opens_the_teacher_once_and_measures_it(teaching: Teaching) -> None:
    trial = try_teacher(teaching)
    assert (trial.fault, trial.provider) == ("", "cpu")
    assert trial.seconds > 0
    assert teacher_of(teaching) is teacher_of(replace(teaching))


@pytest.mark.parametrize(("at_once", "fault"), [(1, ""), (20, ""), (32, "the teacher cannot be used: out of memory")])
def test_the_trial_hears_as_much_at_once_as_tracks_are(
    teaching: Teaching, monkeypatch: pytest.MonkeyPatch, at_once: int, fault: str
) -> None:
    class Small(Teacher):
        """Has memory for 20 segments."""

        def _run(self, batch: np.ndarray) -> np.ndarray:
            if len(batch) > 20:
                raise TeacherError("out of memory")
            batches.append(len(batch))
            return super()._run(batch)

    batches: list[int] = []
    teacher = Small(Path(teaching.model), threads=1, provider="cpu", at_once=at_once)
    monkeypatch.setattr("student_clap.featurize.cluster.teaching.teacher_of", lambda _: teacher)
    trial = try_teacher(teaching)
    assert trial.fault == fault
    assert batches == ([] if fault else [at_once] * 3)


def test_another_file_at_the_same_path_hears_nothing(teaching: Teaching) -> None:
    write_mel_teacher(Path(teaching.model), "clap", seed=1)
    trial = try_teacher(teaching)
    assert (
        f"is another file here (digest {Teacher(Path(teaching.model)).digest}, {teaching.digest} where" in trial.fault
    )
    with pytest.raises(TeacherError, match="is another file here"):
        teacher_of(teaching)
    Path(teaching.model).unlink()
    assert "the teacher cannot be used: " in try_teacher(teaching).fault
    assert "no such file" in try_teacher(teaching).fault


def test_a_provider_that_a_worker_lacks_is_its_fault(teaching: Teaching) -> None:
    fault = try_teacher(replace(teaching, provider="npu")).fault
    assert fault.startswith("the teacher cannot be used: teacher.provider npu: the onnxruntime of this machine offers")


def test_the_plan_asks_for_what_is_lacking_alone(tmp_path: Path) -> None:
    audio = tmp_path / "a.wav"
    audio.touch()
    states = [State.FETCHED] * 6 + [State.LISTED]
    with FeatureStore.create(tmp_path / "s.zarr", "t") as store:
        files = [str(audio)] * 5 + [str(tmp_path / "gone.wav"), ""]
        store.append_tracks(
            [Track("d", str(n), audio=f, state=s) for n, (f, s) in enumerate(zip(files, states, strict=True))]
        )
        features = store.features(RECIPE)
        #  row  features  heard
        #   0   no        no       5   yes, audio gone: no
        #   1   yes       no       6   no audio yet
        #   2   yes       yes
        #   3   failed    no
        #   4   yes       yes, but it has no vector of its own, which the teacher gives
        features.commit([1, 2, 3, 4, 5], [480_000, 960_000, -1, 480_000, 480_000], ["", "", "why", "", ""])
        heard = Heard(np.array([0, 0, 3, 0, 1, 0, 0], np.int32), frozenset({4}))
        found = plan(store, features, tmp_path, Selection(), heard)
        assert [(j.row, j.strip, j.vectors, j.n_samples) for j in found.jobs] == [
            (0, True, True, 0),
            (1, False, True, 480_000),
            (4, False, True, 480_000),
        ]
        assert (found.made, found.failed, found.heard, found.unheard, found.waiting) == (4, 1, 1, 1, 1)
        assert found.renewed == [4]
        again = plan(store, features, tmp_path, Selection(retry_failed=True, again=(2,)), heard)
        assert [(j.row, j.strip, j.vectors) for j in again.jobs][1:4] == [
            (1, False, True),
            (2, True, True),
            (3, True, True),
        ]
        assert again.renewed == [2, 4]
        without = plan(store, features, tmp_path, Selection())
        assert [(j.row, j.strip, j.vectors) for j in without.jobs] == [(0, True, False)]


@pytest.mark.parametrize("hop_samples", [240_000, 120_000])
def test_what_was_heard_of_another_length_is_heard_again(tmp_path: Path, hop_samples: int) -> None:
    audio = tmp_path / "a.wav"
    audio.touch()
    files = [str(audio)] * 4 + [str(tmp_path / "gone.wav")] * 2
    with FeatureStore.create(tmp_path / "s.zarr", "t") as store:
        store.append_tracks([Track("d", str(n), audio=f, state=State.FETCHED) for n, f in enumerate(files)])
        features = store.features(RECIPE)
        features.commit([0, 1, 2, 4, 5], [22 * 48_000] * 5, [""] * 5)  # row 3: not yet
        right = len(grid_starts(22 * 48_000, RECIPE, hop_samples))
        counts = np.array([right, 2, right + 1, 2, right, 2], np.int32)
        found = plan(store, features, tmp_path, Selection(), Heard(counts, hop_samples=hop_samples))
        assert [(j.row, j.strip, j.vectors) for j in found.jobs] == [
            (1, False, True),
            (2, False, True),
            (3, True, False),
        ]
        assert (found.renewed, found.heard, found.unheard) == ([1, 2], 3, 1)
        source = plan(store, features, tmp_path, Selection(), Heard(counts))  # it may have had other audio
        assert [(j.row, j.vectors) for j in source.jobs] == [(3, False)]
        everything = plan(
            store, features, tmp_path, Selection(), Heard(counts, hop_samples=hop_samples, all_again=True)
        )
        assert [j.row for j in everything.jobs if j.vectors] == [0, 1, 2, 3]
        assert (everything.renewed, everything.heard, everything.unheard) == ([0, 1, 2, 3], 1, 1)


def test_a_row_is_heard_again_where_it_was_asked_for_and_not_for_an_older_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = tmp_path / "a.wav"
    audio.touch()
    with FeatureStore.create(tmp_path / "s.zarr", "t") as store:
        store.append_tracks([Track("d", str(n), audio=str(audio), state=State.FETCHED) for n in range(2)])
        features = store.features(RECIPE)
        features.commit([0, 1], [22 * 48_000] * 2, [""] * 2)
        monkeypatch.setattr("student_clap.store.arrays.features.DECODER", 3)
        heard = Heard(np.array([4, 4], np.int32), hop_samples=240_000)
        found = plan(store, features, tmp_path, Selection(again=(1,), again_old_decoder=True), heard)
    assert [(j.row, j.strip, j.vectors, j.n_samples) for j in found.jobs] == [
        (0, True, False, 22 * 48_000),
        (1, True, True, 22 * 48_000),
    ]
    assert (found.renewed, found.heard) == ([1], 1)


def test_the_number_of_segments_is_known_from_features_and_headers(tmp_path: Path, write_audio) -> None:
    known = [Job(n, "", strip=False, vectors=True, n_samples=48_000 * s) for n, s in enumerate((3, 15, 180))]
    assert segments_to_hear(known, 240_000) == 1 + 3 + 36
    assert segments_to_hear(known, 120_000) == 1 + 4 + 70
    unknown = [Job(3, str(write_audio("a.wav", 31.0)), vectors=True), Job(4, "", strip=True)]
    assert segments_to_hear([*known, *unknown], 240_000) == 40 + 6
    (tmp_path / "b.wav").write_text("no audio")
    assert segments_to_hear([Job(0, str(tmp_path / "b.wav"), vectors=True)], 240_000) == 48  # four minutes
