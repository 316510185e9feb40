"""`export --with-weights`: every form carries the float32 student that it was made of; without it nothing changed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.config.formats.onnx_metadata import CHECKPOINT_KEY
from student_clap.config.schema import AudioConfig, ModelConfig
from student_clap.export.graph import gate, writer
from student_clap.export.graph.gate import Speed
from student_clap.export.model.metadata import get_metadata, plain_metadata, set_metadata
from student_clap.export.model.session import StudentSession
from student_clap.store import FeatureStore, Recipe
from student_clap.train.origin.onnx_file import checkpoint_entry, load_carried
from student_clap.train.runs.checkpoint import CheckpointInfo, load_student
from student_clap.train.students.registry import build_student, shape
from student_clap.train.students.student import Student

from .conftest import Library

WITH = "--with-weights"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def export(library: Library, output: Path, *more: object) -> Path:
    done = run("export", *library.settings(), "--out", output, *more)
    assert done.exit_code == 0, done.output
    assert done.stdout.rstrip().endswith("it carries the checkpoint, for `train --from`") == (WITH in more)
    return output


def carried(model: Path) -> tuple[Student, CheckpointInfo]:
    found = load_carried(model)
    assert found is not None
    return found


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.slow
def test_the_file_carries_the_checkpoint_and_is_else_what_it_was(library: Library, tmp_path: Path) -> None:
    plain = export(library, tmp_path / "plain.onnx")
    model = export(library, tmp_path / "student.onnx", WITH)
    assert CHECKPOINT_KEY not in get_metadata(onnx.load(str(plain)))
    assert load_carried(plain) is None
    student, info = carried(model)
    expected, of = load_student(library.run.best)
    assert same(student, expected)
    assert info == of
    proto = onnx.load(str(model))
    entries = get_metadata(proto)
    text = entries.pop(CHECKPOINT_KEY)
    set_metadata(proto, entries)
    assert proto.SerializeToString(deterministic=True) == plain.read_bytes()
    assert model.stat().st_size == pytest.approx(plain.stat().st_size + len(text), abs=100)
    assert export(library, tmp_path / "again.onnx", WITH).read_bytes() == model.read_bytes()
    assert run("check", model).exit_code == 0
    card = "train --from student.onnx"
    assert card in model.with_name("student.card.md").read_text(encoding="utf-8")
    assert "train --from" not in plain.with_name("plain.card.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", ["--dynamic-batch", "--waveform", "--quantize fp16", "--quantize fp16-weights", "--quantize int8"]
)
def test_every_form_carries_the_float_student(
    options: str, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "alternate", lambda *_: Speed(8.0, 4.0, 2.0))
    model = export(library, tmp_path / "form.onnx", WITH, *options.split())
    student, info = carried(model)
    expected, of = load_student(library.run.best)
    assert same(student, expected)
    assert info == of
    assert StudentSession(model).metadata[CHECKPOINT_KEY]


@pytest.mark.slow
def test_what_is_made_with_the_file_does_not_have_the_entry(library: Library, tmp_path: Path) -> None:
    model = export(library, tmp_path / "student.onnx", WITH)
    audio = min(library.cache_dir.iterdir())
    assert run("embed", audio, "--model", model, "--out", tmp_path / "v.parquet").exit_code == 0
    said = pq.read_schema(tmp_path / "v.parquet").metadata
    assert b"student_clap.run_name" in said
    assert CHECKPOINT_KEY.encode() not in said
    plain = plain_metadata(StudentSession(model).metadata)
    assert "run_name" in plain
    assert CHECKPOINT_KEY.partition(".")[2] not in plain


@pytest.mark.slow
def test_without_facts_of_the_library_the_checkpoint_has_none_either(copied_library: Library, tmp_path: Path) -> None:
    secret = copied_library.runs_dir / "My-secret-music"
    copied_library.run.path.rename(secret)
    more = ("--run", secret.name, "--no-library-facts", WITH)
    model = export(copied_library, tmp_path / "student.onnx", *more)
    with FeatureStore.open(copied_library.store) as store:
        uuid = store.uuid
    content = base64.b64decode(get_metadata(onnx.load(str(model)))[CHECKPOINT_KEY])
    told = (uuid, secret.name, "tinyclap-audiomuse", "best.pt", str(copied_library.root))
    assert [word for word in told if word.encode() in content + model.read_bytes()] == []
    student, info = carried(model)
    expected, _ = load_student(secret / "best.pt")
    assert (info.run_name, info.store_uuid, info.epoch) == ("", "", 7)
    mel = torch.from_numpy(np.linspace(-80, 20, 128 * 1001, dtype=np.float32).reshape(1, 1, 128, 1001))
    with torch.inference_mode():
        assert torch.equal(student(mel), expected(mel))


def test_no_path_of_this_machine_and_no_count_of_batches_is_told(tmp_path: Path) -> None:
    own = ModelConfig(architecture="mobile-04", pretrained=tmp_path / "home" / "mine.pt")
    recipe = Recipe.from_config(AudioConfig())
    student = build_student(own, recipe.n_mels)
    counts = [name for name in student.state_dict() if name.endswith("num_batches_tracked")]
    for name in counts:
        student.state_dict()[name].fill_(17)
    info = CheckpointInfo(7, own, recipe, "a-teacher", "0123abcd", "mine", 0.5)
    for told in (True, False):
        content = base64.b64decode(checkpoint_entry(student, info, library_facts=told)[CHECKPOINT_KEY])
        (tmp_path / "found.pt").write_bytes(content)
        found, of = load_student(tmp_path / "found.pt")
        assert str(tmp_path).encode() not in content
        assert shape(of.model) == shape(own)
        assert (of.run_name, of.store_uuid) == (("mine", "0123abcd") if told else ("", ""))
        assert {int(found.state_dict()[name]) for name in counts} == {17 if told else 0}
    assert {int(student.state_dict()[name]) for name in counts} == {17}  # it is left as it is


@pytest.mark.slow
def test_a_file_that_onnx_cannot_hold_is_refused(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_BYTES", 100_000)
    done = run("export", *library.settings(), "--out", tmp_path / "large.onnx", WITH)
    assert done.exit_code == 1
    assert "would have more than 2 GB, which ONNX cannot hold; leave --with-weights out" in done.stderr
    assert list(tmp_path.iterdir()) == []
    export(library, tmp_path / "plain.onnx")


@pytest.mark.slow
def test_evaluate_does_not_copy_the_entry(copied_library: Library, tmp_path: Path) -> None:
    model = export(copied_library, tmp_path / "student.onnx", WITH)
    done = run(
        "evaluate", *copied_library.settings(), "--from-store", "--model", model, "--out", tmp_path / "evaluation"
    )
    assert done.exit_code == 0, done.output
    text = (tmp_path / "evaluation" / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text)["model"]["run_name"] == "tinyclap-audiomuse"
    assert len(text) < 100_000
