"""Model files that mean no good: commands refuse them on one line, within seconds, without running them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from loopback.hostile_models import write_endless_model
from loopback.mel_teachers import write_mel_teacher
from loopback.processes import ENOUGH_S
from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig
from student_clap.export.model.run_checks import mel_inputs, run_clauses
from student_clap.featurize.onnx.input_spec import Shape
from student_clap.featurize.teacher.model import Teacher, TeacherError
from student_clap.store import Recipe

pytestmark = pytest.mark.slow

RECIPE = Recipe.from_config(AudioConfig()).as_attributes()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def test_an_endless_loop_fails_the_operators_clause_and_is_not_run(tmp_path: Path) -> None:
    path, began = write_endless_model(tmp_path / "endless.onnx"), time.monotonic()
    done = run("check", path)
    assert done.exit_code == 1
    assert time.monotonic() - began < ENOUGH_S
    failed = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("FAIL")}
    assert set(failed) == {"operators", "loads", "output", "finite", "unit-norm", "deterministic"}
    assert "Loop" in failed["operators"]
    assert "not run" in failed["loads"]
    assert "operators" in done.stderr


def test_an_endless_loop_is_neither_deployed_nor_a_reference(tmp_path: Path) -> None:
    path, app = write_endless_model(tmp_path / "endless.onnx"), tmp_path / "app"
    app.mkdir()
    refused = run("deploy", path, "--to", app)
    assert refused.exit_code == 1
    assert "Loop" in refused.stderr
    assert list(app.iterdir()) == []
    audio, good = tmp_path / "a.wav", write_mel_teacher(tmp_path / "good.onnx", "dclap")
    soundfile.write(audio, np.random.default_rng(0).uniform(-0.1, 0.1, 96_000), 48_000)
    compared = run("check", good, "--audio", audio, "--reference", path)
    assert compared.exit_code == 1
    assert "endless.onnx is not run: operators" in compared.stderr


def test_a_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    inputs = dict(mel_inputs(Shape(), None))
    clauses = run_clauses(write_endless_model(tmp_path / "endless.onnx"), inputs, limit_s=1)
    assert [clause.name for clause in clauses if clause.passed] == ["loads"]
    assert all("took longer than 1 s" in clause.reason for clause in clauses if not clause.passed)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param("[" * 100_000 + "]" * 100_000, id="nested"),
        pytest.param(json.dumps({**RECIPE, "hop_samples": 0}), id="hop 0"),
        pytest.param(json.dumps({**RECIPE, "n_mels": 10**9}), id="1e9 bands"),
        pytest.param(json.dumps({**RECIPE, "n_fft": 10**9}), id="1e9 samples"),
        pytest.param(json.dumps({**RECIPE, "n_mels": {"a": 1}}), id="an object"),
    ],
)
def test_hostile_metadata_is_one_line(recipe: str, tmp_path: Path) -> None:
    path = write_mel_teacher(tmp_path / "m.onnx", "dclap", metadata={"student_clap.recipe": recipe})
    audio = tmp_path / "a.wav"
    soundfile.write(audio, np.zeros(4800), 48_000)
    for command in (("check", path), ("embed", audio, "--model", path, "--out", tmp_path / "v.npz"), ("bench", path)):
        done = run(*command)
        assert done.exit_code == 1
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1
        assert "m.onnx: its metadata student_clap.recipe cannot be read" in lines[0]
        assert len(lines[0]) < 600
    with pytest.raises(TeacherError, match=r"metadata student_clap\.recipe cannot be read"):
        Teacher(path)


@pytest.mark.parametrize(
    ("dims", "found"),
    [
        ((1, 1, 10**9, "time"), "takes a mel of 1000000000 bands; expected at most 1024"),
        ((1, 1, 128, 480_001), "does not take"),
    ],
)
def test_a_mel_that_no_memory_holds_is_refused(dims: tuple[Any, ...], found: str, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["mel_spectrogram"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Mul", ["mean", "ones"], ["embedding"]),
        ],
        "large",
        [helper.make_tensor_value_info("mel_spectrogram", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, (1, 512))],
        [numpy_helper.from_array(np.ones((1, 512), np.float32), "ones")],
    )
    path = tmp_path / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    done = run("check", path)
    assert done.exit_code == 1
    assert found in done.output


def test_names_with_control_codes_do_not_reach_the_terminal(tmp_path: Path) -> None:
    model = onnx.load(str(write_mel_teacher(tmp_path / "m.onnx", "dclap")))
    evil = "\x1b[2J\x1b[31mmel"
    model.graph.input[0].name = evil
    for node in model.graph.node:
        node.input[:] = [evil if name == "mel_spectrogram" else name for name in node.input]
    onnx.save(model, str(tmp_path / "m.onnx"))
    done = run("check", tmp_path / "m.onnx")
    assert done.exit_code == 1
    assert "\x1b" not in done.output
    assert "input-name" in done.stderr
