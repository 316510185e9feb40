"""The lines that end an evaluation on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from student_clap.export.report.terminal import closing_lines, figures_table, targets_lines

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


def test_each_target_of_others_is_a_line_with_its_answer() -> None:
    record = evaluation(other_noise=0.2).record
    lines = targets_lines(record)[0].splitlines()
    assert lines[0].split() == ["target", "of", "asked", "student", "95", "%", "dclap.onnx", "answer"]
    by_name = {line.split("  ")[0]: [cell for cell in line.split("  ") if cell] for line in lines[1:]}
    mean, low, high = record["student"]["means"]["cosine"], *record["intervals"]["cosine"]
    theirs = record["against"]["means"]["cosine"]
    told = [cell.strip() for cell in by_name["Mean cosine"]]
    assert told[1:6] == [
        "the original README",
        ">= 0.85",
        f"{mean:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{theirs:.3f}",
    ]
    assert [cell.strip() for cell in by_name["File size"]][2:4] == [
        "<= 40 MB",
        f"{record['model']['bytes'] / 1e6:.1f}",
    ]
    assert max(map(len, lines)) < 130


def test_what_open_means_is_said_where_it_stands() -> None:
    record = evaluation().record
    answers = " ".join(targets_lines(record))
    assert "open:" not in answers
    mean = record["student"]["means"]["cosine"]
    record["student"]["means"]["cosine"], record["intervals"]["cosine"] = 0.85, [0.84, 0.86]
    answers = targets_lines(record)
    assert answers[0].splitlines()[1].endswith("open")
    assert answers[1].startswith("open: with so few tracks")
    assert mean != 0.85


def test_fewer_neighbours_than_are_asked_for_are_told() -> None:
    lines = targets_lines(evaluation(3).record)[0].splitlines()
    assert any(line.startswith("Overlap@5 (1 of the 5)") and line.endswith("not measured") for line in lines)


@pytest.mark.parametrize("n", [1, 2, 40])
def test_the_conclusion_comes_first_and_the_report_last(n: int) -> None:
    record = evaluation(n, other_noise=0.2).record
    lines = closing_lines(record, Path("there/report.html"))
    assert lines[0].startswith(record["verdict"]["headline"])
    assert lines[1].startswith("dclap.onnx on the same tracks: cosine 0.")
    assert lines[-2].startswith("For DCLAP soundspan published a median cosine of 0.854 and a top-5 overlap of 0.668")
    assert lines[-1].startswith(f"evaluate: {n} validation tracks (0 from the store), 0 left out: cosine ")
    assert lines[-1].endswith("report: there/report.html")
    assert ("text search" in lines[-1]) == (n > 1)
    assert "\n".join(lines).isascii()
