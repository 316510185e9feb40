"""report.html: an evaluation as one self-contained page, to look at rather than to read.

Light, dark, phone and print by CSS; whole without its script, which only picks what is shown. Titles of the library are
untrusted: `config.pages` escapes what is filled in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from student_clap.config.pages.chart import Mark, Series, curves
from student_clap.config.pages.page import render_page
from student_clap.export.evaluate.baselines import KeyFigure, key_figures
from student_clap.export.evaluate.evaluation import Evaluation
from student_clap.export.evaluate.query_scores import OVERLAP_K, gallery_k
from student_clap.export.evaluate.record import side_of
from student_clap.export.evaluate.targets import SAID, is_teacher, targets
from student_clap.export.report.charts import histogram, pair_map
from student_clap.export.report.tables import all_figures, searches
from student_clap.export.report.verdict import beside, criteria, figure_text, other_name, verdict

BEST = 10  # tracks in the list of the best
MOST_QUERIES = 200  # with both rankings; more would make a page that a phone cannot open
MAP_TRACKS = 1000  # more would hide one another


def render_report(evaluation: Evaluation, epochs: list[dict[str, Any]]) -> str:
    """The page.

    Args:
        evaluation: the record and the vectors.
        epochs: metrics.jsonl's entries; may be empty.
    """
    record = evaluation.record
    filters: dict[str, Callable[..., str]] = {
        "figure": figure_text,
        "grouped": _grouped,
        "share": _share,
        "duration": _duration,
        "plain": _plain,
    }
    by_cosine = sorted(record["tracks"], key=lambda track: -track["cosine"])
    plane, map_note = _map(evaluation)
    epoch = record["model"].get("epoch")
    speed_note, speed_columns, speed_rows = _speed(record)
    return render_page(
        "student_clap.export.report",
        "report",
        filters,
        record=record,
        on=side_of(record),
        said=SAID,
        teacher_name=record["model"].get("teacher_name") or record["store"]["teacher_name"],
        verdict=verdict(record),
        criteria=criteria(record),
        other=other_name(record),
        beside=beside(record),
        tiles=[(figure, _bars(figure, other_name(record))) for figure in key_figures(record)],
        targets=targets(record),
        rows=all_figures(record),
        loss_curves=_curves(epochs, "loss", "Loss", epoch),
        cosine_curves=_curves(epochs, "cosine", "Cosine", epoch),
        histograms=_histograms(record),
        map=plane,
        map_note=map_note,
        text=record["text"],
        ks=[gallery_k(k, record["n_tracks"]) for k in OVERLAP_K],
        searches=searches(record),
        search_note=_search_note(record),
        shown_queries=[] if record["text"] is None else record["text"]["queries"][:MOST_QUERIES],
        worst=[(record["tracks"][suspect["track"]], suspect["reasons"]) for suspect in record["worst"]],
        best=by_cosine[:BEST],
        speed_note=speed_note,
        speed_columns=speed_columns,
        speed_rows=speed_rows,
        provenance=_provenance(record),
    )


def _curves(epochs: list[dict[str, Any]], what: str, label: str, exported: str | None) -> Markup:
    def values(key: str) -> list[float]:
        return [float("nan") if e.get(key) is None else float(e[key]) for e in epochs]

    x = [float(e["epoch"]) for e in epochs]
    return curves(
        [
            Series("training", "train", x, values(f"train_{what}")),
            Series("validation", "validation", x, values(f"val_{what}")),
        ],
        "Epoch",
        label,
        Mark("this model", "exported", float(exported)) if exported and exported.isdecimal() else None,
    )


def _histograms(record: dict[str, Any]) -> list[tuple[str, str, Markup]]:
    """Title, note and drawing of each."""
    found = []
    against = other_name(record)
    outline = f" The outline counts them for {against}." if against else ""
    for key, title, note, label in (
        (
            "cosine",
            f"How near each {side_of(record)} track comes",
            f"Bars count tracks by cosine. Lines mark the means of the student and of both baselines.{outline}",
            "Cosine to the teacher",
        ),
        (
            "centred_cosine",
            "The same without what all tracks share",
            "The training tracks’ mean vector is taken from both sides, so the mean vector itself scores 0.",
            "Centred cosine to the teacher",
        ),
    ):
        values = np.array([track[key] for track in record["tracks"]])
        marks = [
            Mark(name, style, record[who][key]["mean"])
            for name, style, who in (
                ("student", "student", "student"),
                ("mean vector", "mean-vector", "mean_vector"),
                ("shuffled", "shuffled", "shuffled"),
                (against, "rival", "against"),
            )
            if record[who] is not None
        ]
        other = np.array([track["against"][key] for track in record["tracks"]]) if against else None
        found.append((title, note, histogram(values, marks, label, other=other, height=320)))
    return found


def _search_note(record: dict[str, Any]) -> str:
    """The overlap of the lists that a user would see, and the ceiling."""
    text = record["text"]
    if text is None:
        return ""
    seen = text["as_seen"]
    k = min(10, seen["longest_list"])
    said = (
        f"As a user sees it, int8 vectors and at most {seen['artist_cap']} tracks by one artist, the first {k} of both "
        f"lists share {figure_text(seen['capped_overlap']['@10'])}"
    )
    if seen["capped_overlap_shuffled"] is not None:
        said += f" (shuffled {figure_text(seen['capped_overlap_shuffled']['@10'])})"
    said += f". The teacher shares {figure_text(text['ceiling'])} of its first {text['k']['@100']} with itself in int8"
    if text["every_second_segment"] is not None:
        said += f", and {figure_text(text['every_second_segment'])} when it hears every second segment only"
    said += "."
    if len(text["queries"]) > MOST_QUERIES:
        said += f" The first {MOST_QUERIES} of {len(text['queries'])} queries are shown."
    return said


def _speed(record: dict[str, Any]) -> tuple[str, list[str], list[tuple[str, list[str]]]]:
    """Note, names of the models and rows of figures: the student first, then the model that it was timed beside."""
    timed = record["speed"]
    if timed is None:
        note = (
            f"One thread, mel not included; {record['machine']['processor']}. AudioMuse-AI’s own teacher is a file of "
            "about 268 MB; --against TEACHER.onnx times it next to the student."
        )
        rows = [("MB", record["model"]["bytes"] / 1e6), ("ms per segment", record["ms_per_segment"])]
        return note, ["Student"], [(name, [_three_digits(value)]) for name, value in rows]
    student, other, name = timed[0], timed[1], other_name(record)
    who = "the teacher" if not name or is_teacher(record) else name
    ratio, share = other["threads"]["one"]["segment_ratio"], other["bytes"] / student["bytes"]
    note = (
        f"A segment takes {who} {ratio:.1f} times as long as the student, and its file is {share:.1f} times as "
        f"large. Both in turn, medians; {record['machine']['processor']}. A minute of audio includes the mel."
    )
    measures = [("MB", [model["bytes"] / 1e6 for model in timed])] + [
        (f"{name}, {threads}", [model["threads"][key][measure] for model in timed])
        for name, measure in (
            ("ms per segment", "ms_per_segment"),
            ("ms per minute", "ms_per_minute"),
            ("load, ms", "load_ms"),
            ("peak MB", "peak_mb"),
        )
        for key, threads in (("one", "1 thread"), ("all", "all threads"))
        if key in student["threads"]
    ]
    return (
        note,
        ["Student", name or "Teacher"],
        [(name, [_three_digits(v) for v in values]) for name, values in measures],
    )


def _map(evaluation: Evaluation) -> tuple[Markup, str]:
    """The plane of the teacher's two widest directions, the student projected into it; and its caption."""
    n = len(evaluation.teacher)
    if n < 3:
        return Markup(""), ""
    teacher_xy, (student_xy, *others_xy), shares = project(
        evaluation.teacher, evaluation.student, *([] if evaluation.other is None else [evaluation.other])
    )
    shown = np.linspace(0, n - 1, min(n, MAP_TRACKS)).astype(int)
    against = other_name(evaluation.record)
    titles = [
        f"{t['title'] or t['track_id']} – {t['artist'] or 'unknown artist'}\ncosine {figure_text(t['cosine'])}"
        + (f", {against} {figure_text(t['against']['cosine'])}" if against else "")
        for t in (evaluation.record["tracks"][i] for i in shown)
    ]
    labels = tuple(f"Component {i + 1} ({100 * share:.0f} % of the variance)" for i, share in enumerate(shares))
    note = f"{len(shown)} of {n} tracks, evenly chosen." if len(shown) < n else f"All {n} tracks."
    third = others_xy[0][shown] if others_xy else None
    return pair_map(teacher_xy[shown], student_xy[shown], titles, (labels[0], labels[1]), other=third), note


def project(
    teacher: npt.NDArray[np.float32], *others: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.float64]], tuple[float, float]]:
    """Principal components of the teacher's vectors, and all sets in their plane.

    Args:
        teacher: [track, 512], at least 3 tracks.
        others: [track, 512] each.

    Returns:
        Teacher [track, 2], the others [track, 2], and the share of the teacher's variance on each axis.
    """
    mean = teacher.mean(axis=0, dtype=np.float64)
    _, singular, directions = np.linalg.svd(teacher - mean, full_matrices=False)
    # plane: [512, 2]; the sign of a direction is arbitrary and is fixed, so that a map can be compared with the last
    plane = directions[:2].T
    plane = plane * np.where(plane[np.abs(plane).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    total = float(np.sum(singular**2)) or 1.0
    shares = (float(singular[0] ** 2) / total, float(singular[1] ** 2) / total)
    return (teacher - mean) @ plane, [(other - mean) @ plane for other in others], shares


def _provenance(record: dict[str, Any]) -> list[tuple[str, str]]:
    model, recipe, run = record["model"], record["recipe"], record["run"]["name"]
    learnt = record["run"].get("training_tracks")
    mel = (
        f"{recipe['n_mels']} mels, FFT {recipe['n_fft']}, hop {recipe['hop_samples']}, {recipe['fmin_hz']:g} to "
        f"{recipe['fmax_hz']:g} Hz at {recipe['sample_rate']} Hz"
    )
    speed = (
        f"{record['ms_per_segment']:.1f} ms per segment of {recipe['segment_samples'] / recipe['sample_rate']:g} s "
        f"on one thread, mel not included; {record['machine']['processor']}"
    )
    parameters = _grouped(model.get("parameters", "unknown"))
    chosen = "by which nothing was chosen" if side_of(record) == "test" else "which pick the epoch"
    return [
        ("Model", f"{model['file']}, {model['bytes'] / 1e6:.2f} MB, SHA-256 {model['sha256'][:16]}…"),
        ("Student", f"{model.get('architecture', 'unknown')}, {parameters} parameters"),
        (
            "Run",
            f"{run}, epoch {model.get('epoch', 'unknown')}{'' if learnt is None else f', {learnt} training tracks'}",
        ),
        ("Judged by", f"{record['n_tracks']} {side_of(record)} tracks, {chosen}"),
        ("Mean vector", f"of {_grouped(record['n_training_tracks'])} tracks of the store that are not held out"),
        *([("Beside it", _other_model(record["against"]))] if record["against"] else []),
        ("Teacher", model.get("teacher_name") or record["store"]["teacher_name"]),
        ("Store", f"{record['store']['uuid']}, {_grouped(record['store']['tracks'])} tracks"),
        ("Recipe", f"{recipe['name']} ({recipe['fingerprint']}): {mel}"),
        ("Audio", _audio(record)),
        ("Speed", speed),
        ("Evaluated", f"{record['evaluated_at']} with student-clap {record['package_version']}"),
    ]


def _other_model(against: dict[str, Any]) -> str:
    model, given = against["model"], against["input"]
    takes = "samples" if given["layout"] == "waveform" else f"{given['n_mels']} mels, FFT {given['n_fft']}"
    return f"{model['file']}, {model['bytes'] / 1e6:.2f} MB, SHA-256 {model['sha256'][:16]}…; {takes} ({given['from']})"


def _audio(record: dict[str, Any]) -> str:
    n, stored = record["n_tracks"], record["n_from_store"]
    if not stored:
        return f"all {n} tracks decoded from their files, {_grouped(record['n_segments'])} segments"
    return (
        f"{n - stored} tracks decoded from their files, {stored} from the store’s strips, "
        f"{_grouped(record['n_segments'])} segments"
    )


def _bars(figure: KeyFigure, other: str) -> list[tuple[str, str, float | None, float]]:
    """The bars of a tile: name, class, value, and width in per cent; negative values have none."""
    bars = [
        ("Student", "student", figure.student),
        *([(other, "rival", figure.other)] if other else []),
        ("Mean vector", "mean-vector", figure.mean_vector),
        ("Shuffled", "shuffled", figure.shuffled),
    ]
    return [(*bar, 0.0 if bar[2] is None else round(100 * min(1.0, max(0.0, bar[2])), 1)) for bar in bars]


def _grouped(value: object) -> str:
    """Thousands apart by a narrow space; other text stays as it is."""
    text = str(value)
    return f"{int(text):,}".replace(",", "\u202f") if text.isdigit() else text


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _duration(seconds: float) -> str:
    """`_duration(75.2)` is "1:15"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _plain(value: float) -> str:
    """A rank; ties may make it a half."""
    return f"{value:g}"


def _three_digits(value: float) -> str:
    """`_three_digits(3.14159)` is "3.14", of 349.4 "349"."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
