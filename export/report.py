"""report.html: an evaluation as one self-contained page, to look at rather than to read.

No network, no scripts, no fonts of its own; light, dark, phone and print by CSS. Titles of the library are untrusted:
everything that is filled in is escaped (jinja2's autoescape, markupsafe in the charts).
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from student_clap.export.charts import Mark, Series, curves, histogram, pair_map
from student_clap.export.evaluation import Evaluation
from student_clap.export.verdict import key_figures, verdict

EXTREMES = 10  # tracks in each of the lists of best and worst
MAP_TRACKS = 1000  # more would hide one another


def render_report(evaluation: Evaluation, epochs: list[dict[str, Any]]) -> str:
    """The page.

    Args:
        evaluation: what was measured.
        epochs: metrics.jsonl's entries; may be empty.
    """
    record = evaluation.record
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(figure=_figure, grouped=_grouped)
    template = files("student_clap.export").joinpath("templates", "report.html").read_text(encoding="utf-8")
    by_cosine = sorted(record["tracks"], key=lambda track: track["cosine"])
    plane, map_note = _map(evaluation)
    return environment.from_string(template).render(
        record=record,
        teacher_name=record["model"].get("teacher_name") or record["store"]["teacher_name"],
        verdict=verdict(record),
        tiles=[(figure, _scale(figure.student, figure.mean_vector, figure.shuffled)) for figure in key_figures(record)],
        rows=_table(record),
        loss_curves=_curves(epochs, "loss", "Loss", record["model"].get("epoch")),
        cosine_curves=_curves(epochs, "cosine", "Cosine", record["model"].get("epoch")),
        histogram=_histogram(record),
        map=plane,
        map_note=map_note,
        best=by_cosine[::-1][:EXTREMES],
        worst=by_cosine[:EXTREMES],
        provenance=_provenance(record),
    )


def _curves(epochs: list[dict[str, Any]], what: str, label: str, exported: str | None) -> Markup:
    def values(key: str) -> list[float]:
        return [float("nan") if e.get(key) is None else float(e[key]) for e in epochs]

    x = [float(e["epoch"]) for e in epochs]
    return curves(
        [
            Series("training", "train", x, values(f"train_{what}")),
            Series("held out", "held-out", x, values(f"val_{what}")),
        ],
        "Epoch",
        label,
        Mark("this model", "exported", float(exported)) if exported and exported.isdecimal() else None,
    )


def _histogram(record: dict[str, Any]) -> Markup:
    cosines = np.array([track["cosine"] for track in record["tracks"]])
    marks = [
        Mark(name, style, record[key]["cosine"]["mean"])
        for name, style, key in (
            ("student", "student", "student"),
            ("mean vector", "mean-vector", "mean_vector"),
            ("shuffled", "shuffled", "shuffled"),
        )
        if record[key] is not None
    ]
    return histogram(cosines, marks, "Cosine to the teacher")


def _map(evaluation: Evaluation) -> tuple[Markup, str]:
    """The plane of the teacher's two widest directions, the student projected into it; and what to say of it."""
    n = len(evaluation.teacher)
    if n < 3:
        return Markup(""), ""
    teacher_xy, student_xy, shares = project(evaluation.teacher, evaluation.student)
    shown = np.linspace(0, n - 1, min(n, MAP_TRACKS)).astype(int)
    titles = [
        f"{t['title'] or t['track_id']} – {t['artist'] or 'unknown artist'}\ncosine {_figure(t['cosine'])}"
        for t in (evaluation.record["tracks"][i] for i in shown)
    ]
    labels = tuple(f"Component {i + 1} ({100 * share:.0f} % of the variance)" for i, share in enumerate(shares))
    note = f"{len(shown)} of {n} tracks, evenly chosen." if len(shown) < n else f"All {n} tracks."
    return pair_map(teacher_xy[shown], student_xy[shown], titles, (labels[0], labels[1])), note


def project(
    teacher: npt.NDArray[np.float32], student: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], tuple[float, float]]:
    """Principal components of the teacher's vectors, and both sets in their plane.

    Args:
        teacher: [track, 512], at least 3 tracks.
        student: [track, 512].

    Returns:
        Teacher [track, 2], student [track, 2], and the share of the teacher's variance on each axis.
    """
    mean = teacher.mean(axis=0, dtype=np.float64)
    _, singular, directions = np.linalg.svd(teacher - mean, full_matrices=False)
    # plane: [512, 2]; the sign of a direction is arbitrary and is fixed, so that a map can be compared with the last
    plane = directions[:2].T
    plane = plane * np.where(plane[np.abs(plane).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    total = float(np.sum(singular**2)) or 1.0
    shares = (float(singular[0] ** 2) / total, float(singular[1] ** 2) / total)
    return (teacher - mean) @ plane, (student - mean) @ plane, shares


def _table(record: dict[str, Any]) -> list[tuple[str, list[float | None], str]]:
    """Every figure: name, [student, mean vector, shuffled], remark."""
    k = record["student"]["neighbours"]
    wanted: list[tuple[str, tuple[str, ...], str]] = [
        ("Cosine, mean", ("cosine", "mean"), "1 is best"),
        ("Cosine, median", ("cosine", "median"), "half of the tracks are above"),
        ("Cosine, 5th percentile", ("cosine", "p5"), "one track in twenty is below"),
        ("Cosine, smallest", ("cosine", "min"), "the worst track"),
        ("Centred cosine, mean", ("centred_cosine", "mean"), "without the training tracks’ mean vector"),
        ("Centred cosine, 5th percentile", ("centred_cosine", "p5"), "one track in twenty is below"),
        ("Squared error, mean", ("mse",), "over the 512 dimensions, times 1000; 0 is best"),
        ("Distance, mean", ("l2", "mean"), "Euclidean, between unit vectors; 0 is best"),
        (f"Neighbour overlap@{k}", ("overlap",), "self excluded; ties by chance"),
        (f"nDCG@{k}", ("ndcg",), "gain: the teacher’s cosine, negative ones 0"),
        ("Mixed library R@1", ("mixed_recall_at_1",), "student query, teacher gallery"),
        ("Mixed library MRR", ("mixed_mrr",), "mean of 1 / rank"),
        ("Spread of the vectors", ("distribution", "student_std"),
         f"standard deviation per dimension; the teacher’s is {record['student']['distribution']['teacher_std']:.4f}"),
        ("Shift of the mean", ("distribution", "mean_difference"), "per dimension, against the teacher’s; 0 is best"),
    ]  # fmt: skip
    rows = []
    for name, path, remark in wanted:
        values: list[float | None] = []
        for who in ("student", "mean_vector", "shuffled"):
            value: Any = record[who]
            for key in path:
                value = None if value is None else value[key]
            values.append(None if value is None else float(value) * (1000 if path == ("mse",) else 1))
        rows.append((name, values, remark))
    return rows


def _provenance(record: dict[str, Any]) -> list[tuple[str, str]]:
    model, recipe, run = record["model"], record["recipe"], record["run"]["name"]
    mel = (
        f"{recipe['n_mels']} mels, FFT {recipe['n_fft']}, hop {recipe['hop_samples']}, {recipe['fmin_hz']:g} to "
        f"{recipe['fmax_hz']:g} Hz at {recipe['sample_rate']} Hz"
    )
    speed = (
        f"{record['ms_per_segment']:.1f} ms per segment of {recipe['segment_samples'] / recipe['sample_rate']:g} s "
        f"on one thread, mel not included; {record['machine']['processor']}"
    )
    parameters = _grouped(model.get("parameters", "unknown"))
    return [
        ("Model", f"{model['file']}, {model['bytes'] / 1e6:.2f} MB, SHA-256 {model['sha256'][:16]}…"),
        ("Student", f"{model.get('architecture', 'unknown')}, {parameters} parameters"),
        ("Run", f"{run}, epoch {model.get('epoch', 'unknown')}, {record['n_training_tracks']} training tracks"),
        ("Teacher", model.get("teacher_name") or record["store"]["teacher_name"]),
        ("Store", f"{record['store']['uuid']}, {_grouped(record['store']['tracks'])} tracks"),
        ("Recipe", f"{recipe['name']} ({recipe['fingerprint']}): {mel}"),
        ("Audio", _audio(record)),
        ("Speed", speed),
        ("Evaluated", f"{record['evaluated_at']} with student-clap {record['package_version']}"),
    ]


def _audio(record: dict[str, Any]) -> str:
    n, stored = record["n_tracks"], record["n_from_store"]
    if not stored:
        return f"all {n} tracks decoded from their files, {_grouped(record['n_segments'])} segments"
    return (
        f"{n - stored} tracks decoded from their files, {stored} from the store’s strips, "
        f"{_grouped(record['n_segments'])} segments"
    )


def _scale(*values: float | None) -> list[float]:
    """Widths of the bars of a tile, per cent; negative values have none."""
    return [0.0 if value is None else round(100 * min(1.0, max(0.0, value)), 1) for value in values]


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _grouped(value: object) -> str:
    """Thousands apart by a narrow space; what is no whole number stays as it is."""
    text = str(value)
    return f"{int(text):,}".replace(",", "\u202f") if text.isdigit() else text
