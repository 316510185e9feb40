"""The page: whole, self-contained, safe against what a library's titles may hold; and what it says in words."""

from __future__ import annotations

import copy
import functools
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from student_clap.config.pages.chart import Series, curves, ticks
from student_clap.export.evaluate.baselines import key_figures
from student_clap.export.evaluate.evaluation import Evaluation
from student_clap.export.evaluate.judgement import Library, judge
from student_clap.export.evaluate.queries import checked
from student_clap.export.report.page import project, render_report
from student_clap.export.report.verdict import criteria, verdict
from student_clap.train.loop import metrics

EVIL = '<script>alert("1")</script> & "quotes" \'more\''


def unit(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def evaluation(n: int = 40, noise: float = 0.05, n_queries: int = 4, other_noise: float | None = None) -> Evaluation:
    """A made-up evaluation of `n` tracks by five artists, with or without a second model; the caller's own copy."""
    return copy.deepcopy(_evaluation(n, noise, n_queries, other_noise))


@functools.cache
def _evaluation(n: int, noise: float, n_queries: int, other_noise: float | None) -> Evaluation:
    rng = np.random.default_rng(0)
    styles = rng.normal(size=(5, 512))
    teacher = unit(styles[np.arange(n) % 5] + 0.5 * rng.normal(size=(n, 512)))
    student = unit(teacher + noise * rng.normal(size=(n, 512)))
    n_samples = np.resize(np.array([9, 30, 75, 400, 600]) * 48_000, n)
    artists = [f"Artist {i % 5}" for i in range(n)]
    training = unit(styles[np.arange(60) % 5] + 0.5 * rng.normal(size=(60, 512)))
    texts = checked([f"query {i}" for i in range(n_queries)], styles[:n_queries], "q.npz") if n_queries else None
    other = None if other_noise is None else unit(teacher + other_noise * rng.normal(size=(n, 512)))
    library = Library(student, teacher, artists, n_samples, training, 48_000, 600 * 48_000, teacher, other)
    judged = judge(library, texts)
    scores, other_scores = judged.scores, judged.other_scores
    tracks = [
        {
            "server_id": "default",
            "track_id": f"t{i}",
            "title": f"Tune {i}",
            "artist": f"Artist {i % 5}",
            "album": "",
            "cosine": float(cosine),
            "centred_cosine": 0.5,
            "cross_model_rank": 1.0,
            "segments": 3,
            "duration_s": 75.2,
            "bucket": "1 to 5 min",
            "from_store": False,
        }
        for i, cosine in enumerate(metrics.cosines(student, teacher))
    ]
    against = judged.sections["against"]
    if other_scores is not None:
        for i, track in enumerate(tracks):
            track["against"] = {"cosine": float(other_scores["cosine"][i]), "centred_cosine": 0.25}
        model = {"file": "dclap.onnx", "bytes": 21_900_000, "sha256": "cd" * 32}
        against = {
            "model": model,
            "input": {"layout": "mel", "from": "made up", "n_mels": 128, "n_fft": 2048},
            **against,
        }
    record = {
        "format_version": 3,
        "evaluated_at": "2026-01-01 00:00 UTC",
        "on": "validation",
        "n_tracks": n,
        "n_artists": 5,
        "n_segments": 3 * n,
        "n_from_store": 0,
        "n_training_tracks": 160,
        **judged.sections,
        "against": against,
        "ms_per_segment": 3.2,
        "speed": None,
        "worst": [
            {"track": int(at), "reasons": ["a reason"] if number % 2 else []}
            for number, at in enumerate(np.argsort(scores["cosine"])[:20])
        ],
        "model": {"file": "student.onnx", "bytes": 2_760_592, "sha256": "ab" * 32, "epoch": "3", "parameters": "687808",
                  "architecture": "tinyclap", "teacher_name": "a-teacher"},
        "run": {"name": "tinyclap-audiomuse", "record": {}},
        "store": {"uuid": "0" * 32, "teacher_name": "a-teacher", "tracks": 200},
        "recipe": {"name": "audiomuse", "fingerprint": "f" * 16, "n_mels": 128, "n_fft": 2048, "hop_samples": 480,
                   "fmin_hz": 0.0, "fmax_hz": 14000.0, "sample_rate": 48000, "segment_samples": 480000},
        "machine": {"processor": "a processor", "cores": 2, "system": "a system"},
        "package_version": "0.1.0",
        "tracks": tracks,
        "left_out": [],
    }  # fmt: skip
    return Evaluation(record, student, teacher, other)


EPOCHS = [
    {"epoch": e, "train_loss": 1 / e, "val_loss": 1.2 / e, "train_cosine": 1 - 1 / e, "val_cosine": 1 - 1.2 / e}
    for e in range(1, 6)
]


class Page(HTMLParser):
    """Elements, attributes and texts of a page; refuses elements that are not closed in order."""

    VOID = frozenset({"meta", "wbr", "link", "br", "img", "input", "hr", "path", "circle", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))


def test_the_page_needs_nothing_from_outside() -> None:
    text = render_report(evaluation(), EPOCHS)
    page = Page(text)
    assert page.open == []
    assert page.elements.count("script") == 1
    assert not {"link", "iframe", "object", "img", "base"} & set(page.elements)
    assert not {"src", "href", "xlink:href", "onload", "onclick"} & {name for name, _ in page.attributes}
    assert "://" not in text
    assert not re.search(r"@import|url\(|@font-face", text)


def test_the_page_shows_what_was_measured() -> None:
    done = evaluation()
    text = render_report(done, EPOCHS)
    page = Page(text)
    # two learning curves, two histograms, the map
    assert text.count('class="chart"') == 5
    assert text.count('class="pair"') == 40
    headings = [data for tag, data in page.texts if tag == "h1"]
    assert headings == [verdict(done.record).headline]
    assert f"{done.record['student']['cosine']['mean']:.3f}" in text
    assert "student.onnx, 2.76 MB" in text
    assert "3.2 ms per segment of 10 s" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    worst = min(done.record["tracks"], key=lambda track: track["cosine"])
    assert text.index("The worst 20") < text.rindex(worst["title"])


@pytest.mark.parametrize("where", ["title", "artist", "track_id", "reason", "teacher", "run", "other"])
def test_titles_from_the_library_are_escaped(where: str) -> None:
    done = evaluation(other_noise=0.2)
    record = done.record
    record["against"]["model"]["file"] = EVIL if where == "other" else "dclap.onnx"
    if where in ("title", "artist", "track_id"):
        for track in record["tracks"]:
            track[where] = EVIL
            if where == "track_id":
                track["title"] = ""
    elif where == "reason":
        record["left_out"] = [{"title": "x", "track_id": "y", "artist": "z", "reason": EVIL}]
    elif where == "teacher":
        record["model"]["teacher_name"] = EVIL
    elif where == "run":
        record["run"]["name"] = EVIL
    text = render_report(done, EPOCHS)
    page = Page(text)
    assert text.count("<script") == 1
    assert page.open == []
    assert any(EVIL.split(" &", maxsplit=1)[0] in data for _, data in page.texts)


def test_no_learning_curves_no_empty_cards() -> None:
    text = render_report(evaluation(), [])
    assert text.count('class="chart"') == 3
    assert "while training" not in text


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_tracks(n: int) -> None:
    for done in (evaluation(n), evaluation(n, other_noise=0.2)):
        text = render_report(done, EPOCHS)
        assert Page(text).open == []
        assert "nan" not in text.lower().replace("nanosec", "")


def test_many_tracks_keep_the_page_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("student_clap.export.report.page.MAP_TRACKS", 25)
    text = render_report(evaluation(), EPOCHS)
    assert text.count('class="pair"') == 25
    assert "25 of 40 tracks" in text


def test_a_good_student_beats_all() -> None:
    done = evaluation(noise=0.02)
    said = verdict(done.record)
    assert said.level == "good"
    assert said.headline == "The student beats both baselines on all 5 key figures."
    assert "chance gives 2.6" in " ".join(said.sentences)  # 10 * 10 / 39


def test_a_student_of_noise_beats_nothing() -> None:
    done = evaluation(noise=200.0)
    record = copy.deepcopy(done.record)
    record["student"]["means"].update({"overlap@10": 0.0, "ndcg@10": 0.0, "recall@1": 0.0, "cosine": -0.1})
    record["student"]["means"]["centred_cosine"] = -0.1
    said = verdict(record)
    assert said.level == "poor"
    assert "does not beat the baselines" in said.headline
    assert "deploy" in said.sentences[-1]


def test_losses_are_named() -> None:
    record = evaluation().record
    means = record["student"]["means"]
    means["ndcg@10"] = 0.0
    said = verdict(record)
    assert said.level == "mixed"
    assert said.headline.endswith("on cosine and centred cosine, but not on nDCG@10.")
    assert "refuse" not in " ".join(said.sentences)
    means["cosine"] = -1.0
    said = verdict(record)
    assert said.headline.endswith("but not on cosine and nDCG@10.")
    assert said.sentences[-1].endswith("refuse it.")


def test_of_few_tracks_half_count_as_neighbours() -> None:
    record = evaluation(7, noise=0.01).record
    overlap = next(f for f in key_figures(record) if f.name == "Overlap@3")
    assert overlap.beats
    assert "the 3 nearest of each count instead of the usual 10, half of those there are" in " ".join(
        verdict(record).sentences
    )


def test_of_two_tracks_each_has_one_neighbour_and_overlap_does_not_count() -> None:
    record = evaluation(2, noise=0.01).record
    overlap = next(f for f in key_figures(record) if f.name == "Overlap@1")
    assert overlap.student == 1
    assert overlap.beats is None
    said = verdict(record)
    assert "which is all: that says nothing" in " ".join(said.sentences)
    assert "Overlap" not in said.headline
    record["student"]["means"]["ndcg@10"] = record["mean_vector"]["means"]["ndcg@10"] = 1.0
    assert "nDCG" not in verdict(record).headline
    assert criteria(record)[0].answer == "unknown"


def test_of_a_single_track_no_question_is_answered_that_every_predictor_meets() -> None:
    record = evaluation(1).record
    assert record["student"]["means"]["recall@1"] == 1
    assert "retrieval" not in verdict(record).headline
    assert [criterion.answer for criterion in criteria(record)[:3]] == ["unknown"] * 3
    assert "every vector finds" in criteria(record)[2].says


def test_it_is_said_that_the_best_epoch_was_chosen_by_these_tracks() -> None:
    record = evaluation(60).record
    assert "flatters" not in " ".join(verdict(record).sentences)
    record["model"]["checkpoint"] = "last.pt"
    assert "flatters" not in " ".join(verdict(record).sentences)
    record["model"]["checkpoint"] = "best.pt"
    assert "by the cosine of these same tracks, which flatters it a little" in " ".join(verdict(record).sentences)
    record["run"]["record"] = {"training": {"monitor": "overlap"}}
    assert "by the neighbour overlap of these same tracks" in " ".join(verdict(record).sentences)


def test_projection_keeps_the_teachers_plane() -> None:
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(512, 2)))[0]
    flat = (rng.normal(size=(30, 2)) * [3, 1]) @ plane.T
    teacher_xy, (student_xy,), shares = project(flat.astype(np.float32), flat.astype(np.float32))
    np.testing.assert_allclose(teacher_xy, student_xy)
    assert sum(shares) == pytest.approx(1)
    assert shares[0] > shares[1]
    distances = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(teacher_xy[:, None] - teacher_xy[None], axis=-1), distances, atol=1e-5)


def test_curves_leave_out_what_is_not_finite() -> None:
    chart = curves([Series("a", "train", [1.0, 2.0, 3.0], [0.5, float("nan"), 0.25])], "Epoch", "Loss")
    assert chart.count("<circle") == 2
    assert "nan" not in chart
    assert curves([Series("a", "train", [1.0], [float("nan")])], "Epoch", "Loss") == ""


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.37, 0.92), (1e-6, 3e-6), (5.0, 5.0), (1.0, 250.0)])
def test_ticks_are_round_and_cover_the_range(low: float, high: float) -> None:
    at = ticks(low, high)
    assert at[0] <= low + 1e-12
    assert at[-1] >= high - 1e-12
    assert 2 <= len(at) <= 9
    steps = np.diff(at)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_the_record_is_plain_json() -> None:
    json.dumps(evaluation(1, other_noise=0.1).record, allow_nan=False)


@pytest.mark.parametrize(("n_queries", "answer"), [(0, "unknown"), (4, "yes")])
def test_text_search_is_judged_where_there_are_text_vectors(n_queries: int, answer: str) -> None:
    done = evaluation(noise=1e-4, n_queries=n_queries)
    text = criteria(done.record)[1]
    assert text.answer == answer
    assert ("--queries" in text.says) == (n_queries == 0)
    page = render_report(done, EPOCHS)
    assert page.count('class="query"') == n_queries
    assert text.question in page


def test_an_interval_around_the_bound_leaves_the_question_open() -> None:
    record = evaluation().record
    answers = []
    for value, low, high in ((0.97, 0.96, 0.98), (0.97, 0.93, 0.99), (0.94, 0.93, 0.96), (0.9, 0.88, 0.92)):
        record["student"]["means"]["ndcg@10"], record["intervals"]["ndcg@10"] = value, (low, high)
        answers.append(criteria(record)[0].answer)
    assert answers == ["yes", "open", "open", "no"]


def test_a_shared_index_needs_both_ways() -> None:
    record = evaluation().record
    record["intervals"]["recall@1"] = record["intervals"]["reverse_recall@1"] = None
    answers = []
    for forth, back in ((1.0, 1.0), (1.0, 0.5), (0.5, 1.0)):
        record["student"]["means"].update({"recall@1": forth, "reverse_recall@1": back})
        answers.append(criteria(record)[2].answer)
    assert answers == ["yes", "no", "no"]


def test_the_readers_question_is_answered_by_the_side_of_the_split() -> None:
    record = evaluation(60).record
    record["model"]["checkpoint"] = "best.pt"
    assert "On 60 validation tracks by 5 artists it was never trained on" in " ".join(verdict(record).sentences)
    record["on"] = "test"
    said = " ".join(verdict(record).sentences)
    assert "On 60 test tracks by 5 artists" in said
    assert "By these tracks nothing was chosen, neither weights nor epoch." in said
    assert "flatters" not in said


def test_targets_of_others_are_answered_in_words() -> None:
    record = evaluation().record
    answers = []
    for median, low, high in ((0.9, 0.86, 0.95), (0.86, 0.84, 0.88), (0.8, 0.78, 0.84)):
        for where in ("mean_cosine", "median_cosine"):
            record["student"][where] = median
        record["student"]["means"]["cosine"] = median
        record["intervals"]["cosine"] = record["intervals"]["cosine_median"] = (low, high)
        answers.append(criteria(record)[3].answer)
    assert answers == ["yes", "open", "no"]
    original, soundspan = criteria(record)[3:]
    assert "median cosine 0.800 (0.780 to 0.840), at least 0.85 asked: not met" in original.says
    assert "file size 2.8 MB, at most 40 MB asked: met" in original.says
    assert "not measured. --against" in original.says
    assert soundspan.answer == "no"
    assert "published a median cosine of 0.854 and a top-5 overlap of 0.668, on 50 tracks of another library" in (
        soundspan.says
    )
    assert "not comparable one to one" in soundspan.says
    text = render_report(evaluation(), EPOCHS)
    assert original.question in text
    assert "Targets of others" in text


def test_a_second_model_is_a_column_everywhere() -> None:
    done = evaluation(other_noise=0.2)
    text = render_report(done, EPOCHS)
    page = Page(text)
    assert page.open == []
    against = done.record["against"]
    assert text.count('class="outline"') == 2
    assert text.count('class="link rival"') == 40
    for section, times in (("All figures", 1), ("Targets of others", 1), ("The worst 20", 1), ("Text search", 1)):
        assert text.split(f"<h2>{section}</h2>")[1].split("</section>")[0].count("dclap.onnx") >= times
    heads = [data for tag, data in page.texts if tag == "th"]
    assert heads.count("dclap.onnx") == 7  # all figures, targets, the worst, the best, three of the lengths
    rows = [data for tag, data in page.texts if tag == "dt"]
    assert rows.count("dclap.onnx") == 5  # the tiles
    assert f"{against['cosine']['mean']:.4f}" in text
    assert f"{against['text']['means']['ndcg@100']:.3f}" in text
    assert f"{against['buckets'][0]['means']['cosine']:.3f}" in text
    assert "The student is ahead of it on cosine, centred cosine" in text
    assert "21.90 MB" in text
    # without it there is none of that
    alone = render_report(evaluation(), EPOCHS)
    assert "outline" not in alone.split("</style>")[1]
    assert "rival" not in alone.split("</style>")[1]


def test_a_second_model_that_is_the_teacher_is_known_by_its_vectors() -> None:
    done = evaluation(other_noise=1e-4)
    figures = {"ms_per_segment": 10.0, "ms_per_minute": 140.0, "load_ms": 50.0, "peak_mb": 90.0, "segment_ratio": 1.0}
    done.record["speed"] = [
        {"model": "student.onnx", "bytes": 1, "threads": {"one": figures}},
        {"model": "dclap.onnx", "bytes": 1, "threads": {"one": {**figures, "segment_ratio": 34.9}}},
    ]
    text = render_report(done, [])
    assert "gives the teacher’s own vectors" in text
    assert "takes the teacher 34.9 times as long" in text
    assert "speed 34.9 times the teacher’s, at least 2 times the teacher’s asked: met" in text
    other = evaluation(other_noise=0.2)
    other.record["speed"] = done.record["speed"]
    text = render_report(other, [])
    assert "takes dclap.onnx 34.9 times as long" in text
    assert "speed, at least 2 times the teacher’s asked: not measured" in text


def test_the_teacher_stands_beside_the_student_where_it_was_timed() -> None:
    done = evaluation()
    assert "268 MB" in render_report(done, [])
    figures = {"ms_per_segment": 10.0, "ms_per_minute": 140.0, "load_ms": 50.0, "peak_mb": 90.0, "segment_ratio": 1.0}
    slow = {**figures, "ms_per_segment": 349.4, "segment_ratio": 34.94}
    done.record["speed"] = [
        {"model": "/m/student.onnx", "bytes": 2_000_000, "threads": {"one": figures, "all": figures}},
        {"model": "/m/teacher.onnx", "bytes": 268_000_000, "threads": {"one": slow, "all": slow}},
    ]
    text = render_report(done, [])
    assert "takes the teacher 34.9 times as long" in text
    assert "134.0 times as large" in text
    assert '<td class="n">349</td>' in text
