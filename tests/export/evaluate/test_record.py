"""Which evaluations count for a model, and what they know of the tracks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from student_clap.export.evaluate.record import find_evaluation, heard_of

from ..app.test_model_verdict import record_of


@pytest.mark.parametrize(
    ("run", "counts"),
    [
        ({"name": "fold-0", "record": {"name": "fold-0"}}, False),
        ({"name": "fold-1", "record": {}}, True),
        ({"name": "renamed", "record": {"name": "fold-1"}}, True),
        ({}, True),
    ],
)
def test_an_older_evaluation_by_another_run_s_tracks_does_not_count(
    run: dict[str, Any], counts: bool, exported: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copy(exported, tmp_path / "student.onnx"))
    record = record_of(model) | {"run": run}
    record["model"]["run_name"] = "fold-1"
    path = tmp_path / "evaluation" / "metrics.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record), encoding="utf-8")
    found = find_evaluation(model)
    assert (found.record is not None) == counts
    assert ("another run, fold-0, holds out" in found.why_not) != counts
    # One that says what is known was made knowingly.
    path.write_text(json.dumps(record | {"heard": None}), encoding="utf-8")
    assert find_evaluation(model).record is not None


@pytest.mark.parametrize(
    ("record", "heard"),
    [
        ({}, 0),
        ({"heard": None}, None),
        ({"heard": 4}, 4),
        ({"heard": "4"}, None),
        ({"run": {"record": {"parent": {"heard": 2}}}}, 2),
        ({"run": {"record": {"parent": {"heard": None}}}}, None),
    ],
)
def test_an_evaluation_says_what_the_model_may_have_heard(record: dict[str, Any], heard: int | None) -> None:
    assert heard_of(record) == heard
