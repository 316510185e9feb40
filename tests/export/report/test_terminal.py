"""The lines that end an evaluation on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from student_clap.export.report.terminal import closing_lines, figures_table

from .test_page import evaluation


def test_the_table_has_a_column_for_the_model_beside_the_student() -> None:
    record = evaluation(other_noise=0.2).record
    lines = figures_table(record).splitlines()
    assert lines[0].split("  ")[0] == "validation tracks"
    assert " ".join(lines[0].split()) == "validation tracks student 95 % dclap.onnx mean vector shuffled"
    by_name = {line.split("  ")[0]: line.split() for line in lines[1:]}
    means, theirs = record["student"]["means"], record["against"]["means"]
    cosine = by_name["Cosine, mean"]
    assert cosine[2] == f"{means['cosine']:.3f}"
    assert cosine[6] == f"{theirs['cosine']:.3f}"
    assert by_name["Cosine, median"][6] == f"{record['against']['median_cosine']:.3f}"
    assert by_name["Neighbour overlap@5"][2] == f"{means['overlap@5']:.3f}"
    assert f"{record['against']['text']['means']['ndcg@100']:.3f}" in by_name["Text search, nDCG@20"]
    assert "dclap" not in figures_table(evaluation().record)


@pytest.mark.parametrize("n", [1, 2, 40])
def test_the_conclusion_comes_first_and_the_report_last(n: int) -> None:
    record = evaluation(n, other_noise=0.2).record
    lines = closing_lines(record, Path("there/report.html"))
    assert lines[0].startswith(record["verdict"]["headline"])
    assert lines[1].startswith("dclap.onnx on the same tracks: cosine 0.")
    original, soundspan = lines[-3:-1]
    assert original.startswith("Targets of the original README: mean cosine 0.")
    assert "median cosine 0." in original
    assert soundspan.startswith("Bars of soundspan for one space with the teacher's: median cosine 0.")
    assert "For DCLAP soundspan published a median cosine of 0.854 and a top-5 overlap of 0.668" in soundspan
    assert lines[-1].startswith(f"evaluate: {n} validation tracks (0 from the store), 0 left out: cosine ")
    assert lines[-1].endswith("report: there/report.html")
    assert "\n".join(lines).isascii()
