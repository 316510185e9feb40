"""What the report's first words, its provenance and the card claim of the tracks: no more than is known."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from student_clap.export.card.card import card_text
from student_clap.export.card.facts import gather
from student_clap.export.report.page import render_report
from student_clap.export.report.verdict import verdict

from ..app.test_model_verdict import record_of
from .test_page import evaluation

NEVER = "never trained on"


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        (0, ""),
        (1, "on the artists of 1 track that the run holds out"),
        (7, "of 7 tracks that"),
        (None, "Nothing tells"),
    ],
)
def test_tracks_that_may_have_been_trained_on_are_not_called_unheard(heard: int | None, said: str) -> None:
    record = evaluation(60).record | {"heard": heard}
    words = " ".join(verdict(record).sentences)
    assert (NEVER in words) == (heard == 0)
    assert said in words
    assert ("flatter" in words) == (heard != 0)


@pytest.mark.parametrize(
    ("heard", "said"), [(0, ""), (7, "of 7 tracks that the run held out"), (None, "Nothing tells")]
)
def test_the_card_says_the_same(heard: int | None, said: str, exported: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(exported, tmp_path / "student.onnx"))
    text = card_text(gather(model, None, record_of(model) | {"heard": heard}))
    assert ("none of which was trained on" in text) == (heard == 0)
    assert said in text


def test_the_tracks_that_were_learnt_are_those_of_the_run() -> None:
    done = evaluation()
    done.record["n_training_tracks"] = 4500
    done.record["run"]["training_tracks"] = 900
    page = render_report(done, [])
    assert "tinyclap-audiomuse, epoch 3, 900 training tracks" in page
    assert "of 4\u202f500 tracks of the store that are not held out" in page
    del done.record["run"]["training_tracks"]
    assert "tinyclap-audiomuse, epoch 3<" in render_report(done, [])
