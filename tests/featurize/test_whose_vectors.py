"""Which vectors speak about the teacher that made them, and what is counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from student_clap.featurize.cluster.task import Outcome, Taught
from student_clap.featurize.cluster.teaching import Teaching
from student_clap.featurize.teacher_pass import TeacherPass
from student_clap.store import FeatureStore, Track

N_OWN, N_NONE, N_GIVEN = 20, 10, 10


def units(seed: int, n: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((n, 512))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    """Rows with vectors of a source, without any, and with those of a teacher of ours, in this order."""
    with FeatureStore.create(tmp_path / "s.zarr", "t") as opened:
        own = [Track("d", str(n), teacher=vector) for n, vector in enumerate(units(0, N_OWN))]
        opened.append_tracks([*own, *(Track("d", f"bare{n}") for n in range(N_NONE + N_GIVEN))])
        opened.write_teacher(list(range(N_OWN + N_NONE, N_OWN + N_NONE + N_GIVEN)), units(1, N_GIVEN))
        yield opened


def second_teacher(store: FeatureStore) -> TeacherPass:
    vectors = store.add_segment_set("second", hop_samples=240_000, model="0")
    teaching = Teaching("t.onnx", "0", "second", None, 240_000, "cpu", 1)
    return TeacherPass(store, vectors, teaching, 480, lacking=set(), foreign=N_NONE)


def outcome(row: int, vector: np.ndarray) -> Outcome:
    return Outcome(row, 0, "", 0.0, taught=Taught(n_segments=2, track=vector, wall_s=0.5))


def test_only_vectors_of_a_source_are_compared(store: FeatureStore) -> None:
    teacher = second_teacher(store)
    heard = [*units(0, N_OWN), *units(2, N_NONE + N_GIVEN)]  # the model that made the source's
    rows = [*range(N_OWN, len(heard)), *range(N_OWN)]
    assert [teacher.record([outcome(row, heard[row])]) for row in rows] == [""] * len(rows)
    assert sorted(teacher.cosines) == list(range(N_OWN))
    assert min(teacher.cosines.values()) > 0.999


def test_an_outcome_that_is_recorded_twice_is_counted_once(store: FeatureStore) -> None:
    teacher = second_teacher(store)
    outcomes = [outcome(row, vector) for row, vector in enumerate(units(0, 3))]
    outcomes.append(Outcome(3, 0, "", 0.0, taught=Taught(error="quiet")))
    teacher.record(outcomes)
    teacher.record(outcomes[1:])
    for each in outcomes:
        teacher.count(each)
    assert (teacher.taught, teacher.segments, teacher.failed, teacher.wall_s) == (3, 6, 1, 1.5)
    assert teacher.vectors.counts().tolist() == [2, 2, 2] + [0] * (N_OWN + N_NONE + N_GIVEN - 3)
