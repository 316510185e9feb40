"""bench/teachers.py without HTSAT-base, which needs transformers: the networks, and the table of what was measured."""

from __future__ import annotations

import pytest
import torch

from student_clap.config.schema import ModelConfig
from student_clap.train.students.registry import build_student
from teachers import FUSION, TEACHER, Subject, as_markdown, measure, student
from teachers_edgenext import X_SMALL, XX_SMALL, EdgeNeXtLike, FusionLike

pytestmark = pytest.mark.slow


def test_the_network_has_the_papers_size() -> None:
    # The paper's table has 1.3 and 2.3 M with a classifier of 1000 classes and three input channels.
    for shape, millions in ((XX_SMALL, 1.33), (X_SMALL, 2.34)):
        network = EdgeNeXtLike(shape)
        classifier = shape.channels[-1] * 1000 + 1000
        colours = 2 * 16 * shape.channels[0]
        n_parameters = sum(p.numel() for p in network.parameters()) + classifier + colours
        assert n_parameters / 1e6 == pytest.approx(millions, rel=0.03)
        with torch.no_grad():
            assert network(torch.zeros(2, 1, 256, 256)).shape == (2, shape.channels[-1])


def test_both_halves_of_the_fusion_count() -> None:
    torch.manual_seed(0)
    specialist = build_student(ModelConfig(architecture="mobile-04"), 128)
    model, mel_db = FusionLike(specialist, 512, XX_SMALL).eval(), torch.randn(1, 1, 128, 201) * 15 - 40
    with torch.no_grad():
        vector, alone = model(mel_db)[0], specialist(mel_db)[0]
        assert vector.norm().item() == pytest.approx(1, abs=1e-5)
        assert 0.9 < float(vector @ alone) < 0.9999
        model.beside.layers[0].weight.mul_(-1)  # type: ignore[operator]
        assert float(model(mel_db)[0] @ vector) < 1 - 1e-6


def test_the_table_holds_what_was_measured() -> None:
    ours = student("hybrid-s")
    subjects = {TEACHER: ours, FUSION: Subject(ours.data, ours.segment, 5_000_000), "hybrid-s": ours}
    figures = measure(subjects, rounds=2, loads=1)
    assert figures[TEACHER]["times_faster"] == 1
    assert figures["hybrid-s"]["onnx_mb"] == len(ours.data) / 1e6
    table = as_markdown({"models": figures}).splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == [TEACHER, FUSION, "`hybrid-s`"]
    assert "5.00 M" in table[3]
