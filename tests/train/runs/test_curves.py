"""The curves of a run as one SVG."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from student_clap.config.pages.chart import ticks
from student_clap.train.runs.curves import draw_curves, draw_run, write_curves
from student_clap.train.runs.history import Metrics

SVG = "{http://www.w3.org/2000/svg}"


def metrics(epoch: int, **others: float) -> Metrics:
    return {
        "epoch": epoch,
        "train_loss": 1 / epoch,
        "val_loss": 2 / epoch,
        "train_cosine": 1 - 0.5 / epoch,
        "val_cosine": 0.7 - 0.5 / epoch,
        "lr": 1e-3,
        "segments_per_s": 100.0 + epoch,
        **others,
    }


def parse(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314  our own


def lines(text: str) -> list[int]:
    """Points of each curve."""
    paths = [path for path in parse(text).iter(f"{SVG}path") if "line" in path.attrib["class"]]
    return [path.attrib["d"].count("L") + 1 for path in paths]


def words(text: str) -> str:
    return " ".join("".join(parse(text).itertext()).split())


def coordinates(text: str) -> list[tuple[float, float]]:
    circles = list(parse(text).iter(f"{SVG}circle"))
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in circles]


def test_all_curves_with_all_epochs(tmp_path: Path) -> None:
    write_curves([metrics(epoch) for epoch in range(1, 8)], tmp_path / "curves.svg", title="try-2")
    text = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert lines(text) == [7] * 6
    assert all(0 <= x <= 500 and 0 <= y <= 250 for x, y in coordinates(text))
    shown = words(text)
    for expected in ("try-2", "Loss", "Cosine", "Learning rate", "Segments per second", "train 0.1429"):
        assert expected in shown
    assert "best 0.6286 in epoch 7" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["curves.svg"]


def test_higher_is_drawn_higher() -> None:
    text = draw_curves([metrics(1, segments_per_s=10.0), metrics(2, segments_per_s=20.0)])
    (x1, y1), (x2, y2) = coordinates(text)[-2:]
    assert x1 < x2
    assert y1 > y2


def test_the_file_needs_nothing_else() -> None:
    text = draw_curves([metrics(1), metrics(2)], '<script>alert(1)</script> & "more"')
    assert "<script" not in text
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert "url(" not in text
    assert "prefers-color-scheme:dark" in text
    assert '<script>alert(1)</script> & "more"' in words(text)


def test_epochs_without_a_validation_and_what_is_not_finite_are_left_out() -> None:
    some = [metrics(epoch) for epoch in range(1, 7)]
    for epoch in (1, 2, 4, 5):
        del some[epoch - 1]["val_cosine"], some[epoch - 1]["val_loss"]
    some[3]["train_loss"] = math.nan
    assert lines(draw_curves(some)) == [5, 2, 6, 2, 6, 6]


@pytest.mark.parametrize("some", [[], [metrics(1)], [{"epoch": 3}], [metrics(1, lr=0.0), metrics(2, lr=0.0)]])
def test_little_to_draw(some: list[Metrics]) -> None:
    text = draw_curves(some, "run")
    assert parse(text).tag == f"{SVG}svg"
    assert ("no epoch is done yet" in words(text)) == (not some)
    assert "nan" not in text


def test_a_run_is_drawn_from_its_metrics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(metrics(e)) + "\n" for e in (1, 2, 3)) + '{"epo')
    draw_run(tmp_path)
    text = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert lines(text) == [3] * 6
    assert tmp_path.name in words(text)

    (tmp_path / "curves.svg").unlink()
    (tmp_path / "curves.svg").mkdir()
    with caplog.at_level(logging.WARNING):
        draw_run(tmp_path)
    assert "curves.svg cannot be written" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "curves.svg"}


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
@example(0.0, 5e-324)
@example(0.25, 0.0)
def test_ticks_enclose_the_values(low: float, span: float) -> None:
    at = ticks(low, low + span)
    slack = 1e-6 * max(1e-9, at[-1] - at[0])
    assert at[0] <= low + slack
    assert at[-1] >= low + span - slack
    assert 2 <= len(at) <= 8
    assert at == sorted(set(at))
