"""Each reason to suspect a track, on a track made for it."""

from __future__ import annotations

import numpy as np

from student_clap.export.evaluate.figures import Compared, track_scores
from student_clap.export.evaluate.held_out import HeldOutTrack
from student_clap.export.evaluate.judgement import Library
from student_clap.export.evaluate.suspects import suspects

from .made_up import RATE, tracks, unit


def test_reasons_to_suspect() -> None:
    student, teacher, _ = tracks(40, 0.01)
    training = teacher[10:]
    bad = {
        0: HeldOutTrack(0, student[0], n_segments=1, n_samples=4 * RATE, clipped_share=0.0),
        1: HeldOutTrack(1, student[1], n_segments=120, n_samples=600 * RATE, agreement=0.9),
        2: HeldOutTrack(2, student[2], n_segments=9, n_samples=45 * RATE, agreement=0.9, quiet_share=0.6),
        3: HeldOutTrack(3, student[3], n_segments=9, n_samples=45 * RATE, agreement=0.9, clipped_share=0.02),
        4: HeldOutTrack(4, student[4], n_segments=9, n_samples=45 * RATE, agreement=0.1),
    }
    usual = HeldOutTrack(9, student[9], n_segments=9, n_samples=45 * RATE, agreement=0.9)
    for at in range(7):
        student[at] = unit((teacher[at] + 0.08 * np.random.default_rng(at).normal(size=512))[None])[0]
    student[5] = teacher[12]
    teacher[6] = unit(np.random.default_rng(9).normal(size=(1, 512)))[0]
    scores = track_scores(Compared(student, teacher, training.mean(axis=0), ["a"] * 40))
    found = suspects(
        [bad.get(at, usual) for at in range(40)],
        [f"tune {at}" for at in range(40)],
        Library(student, teacher, ["a"] * 40, np.full(40, 45 * RATE), training, RATE, 600 * RATE),
        scores,
    )
    assert len(found) == 20
    assert [s.track for s in found] == np.argsort(scores["cosine"])[:20].tolist()
    said = {s.track: " | ".join(s.reasons) for s in found}
    for track, word in enumerate(
        ["short: 4.0 s", "cut off at 10 minutes", "silent", "clipped: 2 %", "segments disagree"]
    ):
        assert word in said[track]
        assert sum(word in reasons for reasons in said.values()) == 1
    assert "sounds to the student like 'tune 12'" in said[5]
    assert "far from the training data" in said[6]
    assert "" in said.values()
