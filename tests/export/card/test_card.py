"""The card of a model whose names mean no good: read by Hugging Face's own reader, no name is more than text."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from huggingface_hub import ModelCard

from student_clap.export.card.card import card_text, code
from student_clap.export.card.facts import gather
from student_clap.export.card.space import another_space, space_of, space_text
from student_clap.export.model.metadata import get_metadata, set_metadata
from student_clap.featurize.onnx.recipe import METADATA_PREFIX
from student_clap.store import Recipe
from student_clap.train.runs.reader import RunFolder

from ..app.test_model_verdict import record_of

HOSTILE = (
    "---\n# Heading\n---",
    "<script>alert(1)</script>",
    "`` ` ```sh\nrm -rf ~\n```",
    "[click](javascript:alert(1)) ![x](http://x.example/a.png) @all https://x.example",
    "| a | b |\n|---|---|",
    '", "license": "mit"}: &anchor !!python/object/apply:os.system ["id"]',
    "\x1b[31m\u202egnp.exe\x00\x85",
    "yes",
    "2026-01-01",
)


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """A model of the test's own."""
    return Path(shutil.copy(exported, tmp_path / "student.onnx"))


def with_metadata(path: Path, **entries: str) -> None:
    proto = onnx.load(str(path))
    set_metadata(proto, {**get_metadata(proto), **{METADATA_PREFIX + k: v for k, v in entries.items()}})
    onnx.save(proto, str(path))


def run_of(folder: Path, **split: Any) -> RunFolder:
    folder.mkdir()
    (folder / "split.json").write_text(json.dumps({"validation_artists": [], "test_artists": [], **split}))
    return RunFolder(folder)


def head_of(text: str) -> dict[str, Any]:
    """The head as PyYAML (YAML 1.1) reads it, which Hugging Face's reader agrees with."""
    head: dict[str, Any] = yaml.safe_load(text.split("\n---\n", maxsplit=1)[0].removeprefix("---\n"))
    assert ModelCard(text).data.to_dict().keys() == head.keys()
    return head


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_and_nothing_else(name: str, model: Path, tmp_path: Path) -> None:
    with_metadata(model, teacher_name=name, architecture=name, licence=name)
    run = run_of(tmp_path / "run", validation_artists=[name], test_artists=[name, "Ada"], training_tracks=7)
    text = card_text(gather(model, run, record_of(model) | {"on": name}))
    shown = code(name)
    said = " ".join(name.split())
    head = head_of(text)
    assert set(head) == {"license", "base_model", "library_name", "pipeline_tag", "tags", "model-index"}
    assert isinstance(head["base_model"], str)
    assert head["base_model"] == "".join(c if c.isprintable() else "?" for c in said)
    assert shown in text
    body = text.split("\n---\n", 1)[1]
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert len(headings) == 8
    outside = re.sub(r"`[^`\n]*`", "", re.sub(r"```\n.*?```", "", body, flags=re.DOTALL))
    assert not re.search(r"(?<!\w)@", outside)
    for mark in ("<", "](", "http", "\x1b", "\u202e", "`"):
        assert mark not in outside
    assert "\x00" not in text


def test_figures_stand_with_intervals_and_counts(model: Path, tmp_path: Path) -> None:
    record = record_of(model) | {"on": "test", "n_artists": 9, "intervals": {"cosine": [0.75, 0.85]}}
    text = card_text(gather(model, run_of(tmp_path / "run"), record))
    results = {found.metric_type: found for found in ModelCard(text).data.eval_results}
    assert results["cosine"].metric_value == pytest.approx(0.8)
    assert results["cosine"].metric_args == {"confidence_interval_95": [0.75, 0.85], "tracks": 40, "artists": 9}
    assert results["cosine"].dataset_split == "test"
    assert "| Cosine | 0.800 (0.750 to 0.850) | 0.511 | 0.300 |" in text
    assert "on 40 test tracks by 9 artists" in text


@pytest.mark.parametrize("broken", [{}, {"n_tracks": "many"}, {"student": {"neighbours": 1, "means": {"cosine": "x"}}}])
def test_an_evaluation_of_another_program_is_none(broken: dict[str, Any], model: Path) -> None:
    record = {**record_of(model), **broken} if broken else {}
    with_metadata(model, validation_metrics=json.dumps({"cosine": 0.625, "centred": 0.5}))
    text = card_text(gather(model, None, record))
    assert "Those tracks chose the epoch" in text
    assert [found.metric_value for found in ModelCard(text).data.eval_results] == [0.625, 0.5]


def test_without_facts_of_the_library_the_run_is_not_told(model: Path, tmp_path: Path) -> None:
    with_metadata(model, library_facts="left out")
    run = run_of(tmp_path / "run", validation_artists=["Ada Lovelace"], training_tracks=12345)
    text = card_text(gather(model, run, record_of(model) | {"n_artists": 9}))
    assert "Ada" not in text
    assert "12345" not in text
    assert "on the held-out tracks, none" in text
    assert all(
        set(found.metric_args or {}) <= {"confidence_interval_95"} for found in ModelCard(text).data.eval_results
    )


def test_a_space_is_known_by_what_its_vectors_depend_on(tmp_path: Path, library: Any) -> None:
    recipe: Recipe = library.recipe
    space = space_of("CLAP", "0a1b2c3d", recipe)
    path = tmp_path / "space.json"
    path.write_text(space_text(space), encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == space
    assert space["space"]["dimensions"] == 512
    assert not another_space(path, space_of("CLAP", "0a1b2c3d", recipe))
    others = [space_of("CLAP", "", recipe), space_of("DCLAP", "0a1b2c3d", recipe)]
    assert len({space["id"], *(other["id"] for other in others)}) == 3
    assert all(another_space(path, other) for other in others)
    # Two teachers that nobody has declared may be two.
    assert space_of("", "", recipe)["id"] is None
    path.write_text("[" * 100_000)
    assert not another_space(path, space)
