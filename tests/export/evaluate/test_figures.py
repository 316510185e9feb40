"""The list of figures: by hand, and everywhere that follows from it."""

from __future__ import annotations

import numpy as np

from student_clap.export.evaluate.baselines import key_figures
from student_clap.export.evaluate.figures import FIGURES, KEY_FIGURES, Compared, track_scores
from student_clap.export.evaluate.judgement import Library, judge
from student_clap.export.report.tables import all_figures, terminal_figures

from .made_up import RATE, tracks, unit


def test_ranks_among_another_models_vectors_by_hand() -> None:
    teacher = np.eye(512, dtype=np.float32)[:3]
    student = unit(np.array([[1.0, 0.5, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, 1.0]]) @ teacher)
    scores = track_scores(Compared(student, teacher, np.zeros(512), ["a", "b", "c"]))
    assert scores["rank"].tolist() == [1, 2, 1]
    assert scores["recall@1"].tolist() == [1, 0, 1]
    # the teacher's second track ties two student vectors
    assert scores["reverse_rank"].tolist() == [1.5, 1.5, 1]
    assert scores["reverse_recall@1"].tolist() == [0.5, 0.5, 1]


def test_every_figure_is_recorded_given_an_interval_and_shown() -> None:
    student, teacher, _ = tracks(60, 0.02)
    library = Library(student, teacher, ["a", "b", "c"] * 20, np.full(60, 30 * RATE), teacher[:50], RATE, 600 * RATE)
    record = judge(library).sections
    rows = all_figures(record)
    assert len(rows) == sum(len(figure.rows) for figure in FIGURES)
    assert len({row.name for row in rows}) == len(rows)
    for figure in FIGURES:
        assert (figure.scores is None) != (figure.whole is None)
        for predictor in ("student", "mean_vector", "shuffled"):
            own = record[predictor]
            assert figure.key in (own if figure.whole is not None or figure.spread else own["means"])
        for row in figure.rows:
            assert not row.interval or record["intervals"][row.interval] is not None
    means = {row.name: row.student for row in rows}
    assert means["Neighbour overlap@29"] == record["student"]["means"]["overlap@50"]
    assert means["Squared error, mean"] == 1000 * record["student"]["mse"]
    assert [figure.key for figure in key_figures(record)] == [figure.key for figure in KEY_FIGURES]
    assert not any("{" in row.name + row.meaning for row in rows)


def test_a_figure_of_more_neighbours_than_there_are_is_shown_once() -> None:
    student, teacher, _ = tracks(6, 0.02)
    library = Library(student, teacher, ["a", "b", "c"] * 2, np.full(6, 30 * RATE), teacher[:3], RATE, 600 * RATE)
    for shown in (all_figures, terminal_figures):
        names = [row.name for row in shown(judge(library).sections)]
        assert names.count("Neighbour overlap@2") == 1
        assert len(set(names)) == len(names)
