"""A student's session: what it refuses, and its time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from student_clap.export.model.session import ModelError, StudentSession


def test_a_missing_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="student-clap export"):
        StudentSession(tmp_path / "absent.onnx")


def test_a_damaged_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot be loaded by onnxruntime") as error:
        StudentSession(tmp_path / "m.onnx")
    assert "\n" not in error.value.message


def test_segments_of_another_recipe_are_refused(exported: Path) -> None:
    with pytest.raises(ModelError, match=r"fails on input \[1, 1, 64, 1001\]"):
        StudentSession(exported).embed_segments(np.zeros((1, 64, 1001), np.float32))


def test_the_time_of_a_segment_is_measured(exported: Path) -> None:
    assert StudentSession(exported).time_segment_ms(np.zeros((128, 1001), np.float32), runs=3) > 0
