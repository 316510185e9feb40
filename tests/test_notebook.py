"""docs/experiments.ipynb runs from its first cell to its last, and what is committed of it names no machine."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from student_clap.config.schema import AudioConfig
from student_clap.export.demo.tunes import TUNES, encode, render
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.store import FeatureStore, Recipe, State, Track

DOCS = Path(__file__).resolve().parent.parent / "docs"
SHORT = [tune for tune in TUNES if tune.duration_s <= 20][:9]  # by six artists


def notebook_maker() -> Any:
    """docs/make_notebook.py as a module."""
    spec = importlib.util.spec_from_file_location("make_notebook", DOCS / "make_notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed(notebook: Any) -> str:
    """What all cells print."""
    return "".join(o.text for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "stream")


def kinds(notebook: Any) -> set[str]:
    """The MIME types of what is shown."""
    return {kind for cell in notebook.cells for o in cell.get("outputs", []) if "data" in o for kind in o.data}


@pytest.fixture
def tunes_store(tmp_path: Path) -> Path:
    """Short tunes from their files; the teacher is a projection of their mean mel, so there is something to learn."""
    recipe = Recipe.from_config(AudioConfig())
    log_mel, found = LogMel(recipe), []
    for tune in SHORT:
        path = tmp_path / tune.file_name
        path.write_bytes(encode(tune, render(tune)))
        samples = decode(path, recipe.max_samples)
        found.append((log_mel.codes(samples), len(samples)))
    means = np.stack([codes.mean(axis=1) for codes, _ in found])
    vectors = (means - means.mean(axis=0)) @ np.random.default_rng(0).normal(size=(recipe.n_mels, 512))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    with FeatureStore.create(tmp_path / "features.zarr", "made up") as store:
        rows = store.append_tracks(
            [
                Track("main", t.track_id, title=t.title, artist=t.artist.name, state=State.FETCHED, teacher=vector)
                for t, vector in zip(SHORT, vectors, strict=True)
            ]
        )
        features = store.features(recipe)
        for row, (codes, n_samples) in zip(rows, found, strict=True):
            features.write_strip(row, codes, n_samples)
        features.commit(list(rows), [n for _, n in found], [""] * len(rows))
    return tmp_path / "features.zarr"


@pytest.mark.slow
def test_it_runs_on_another_store(tunes_store: Path, tmp_path: Path) -> None:
    parameters = {"STORE": tunes_store.name, "MODEL": "small.onnx", "EPOCHS": 2}
    ran = notebook_maker().executed(tmp_path, parameters)
    text = printed(ran)
    assert "9 tracks, teacher made up" in text
    assert "6 to train on, 3 to choose by" in text
    assert re.search(r"epoch 2: loss [01]\.\d{3}", text)
    assert re.search(r"^validation tracks +student +95 % +mean vector +shuffled$", text, re.MULTILINE)
    assert re.search(r"^check: small\.onnx meets all \d+ clauses", text, re.MULTILINE)
    assert {"image/png", "text/html"} <= kinds(ran)  # the picture and the sound
    assert (tmp_path / "small.onnx").exists()


def test_what_is_committed_is_a_whole_run_and_small() -> None:
    maker = notebook_maker()
    text = maker.PAGE.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert maker.text_of(notebook) == text, "run: make notebook"
    assert len(text) < 300_000
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert "meets all" in printed(notebook)
    assert {"image/png", "text/html"} <= kinds(notebook)
    assert not re.search(r"/(home|Users|root|tmp|work|usr|opt|var)/|\b20\d\d-\d\d-\d\d", printed(notebook))
