"""`student-clap bench`: real models in real processes. No figure is held against a clock."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from student_clap.config.cli import main
from student_clap.export.bench import compare as model_bench
from student_clap.export.bench.compare import Ask, comparison_table, ratio, spec_to_measure, subject_process, take_turns
from student_clap.export.bench.subject import MINUTE_SAMPLES, Subject, peak_bytes
from student_clap.export.model.embedding import Embedder
from student_clap.export.model.session import StudentSession
from student_clap.featurize.onnx.input_spec import input_spec_of

from ..conftest import Library
from ..model.test_contract import model
from ..models import transposed_teacher

pytestmark = pytest.mark.slow


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def waveform_teacher(path: Path, n_weights: int = 512) -> Path:
    """A model with the corpus teacher's interface, and `n_weights` numbers that it carries along."""
    nodes = [
        helper.make_node("Slice", ["waveform", "begin", "end", "axis"], ["start"]),
        helper.make_node("MatMul", ["start", "w"], ["raw"]),
        helper.make_node("LpNormalization", ["raw"], ["embedding"], axis=1, p=2),
    ]
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=(n_weights // 512, 512)).astype(np.float32), "w"),
        numpy_helper.from_array(np.array([0]), "begin"),
        numpy_helper.from_array(np.array([n_weights // 512]), "end"),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ("batch", 480_000))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ("batch", 512))],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_bench, "LOADS", 1)


def test_three_kinds_side_by_side(quick: None, exported: Path, tmp_path: Path) -> None:
    waveform = waveform_teacher(tmp_path / "teacher.onnx")
    clap = transposed_teacher(tmp_path / "clap.onnx")
    out = tmp_path / "bench.json"
    done = run("bench", exported, "--against", waveform, "--against", clap, "--rounds", 3, "--out", out)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["student.onnx", "teacher.onnx", "clap.onnx"]
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert lines[-1].startswith("bench: 3 models, 3 rounds in turn")
    record = json.loads(out.read_text())
    assert [(m["input"], m["n_mels"]) for m in record["models"]] == [("mel", 128), ("waveform", 0), ("transposed", 64)]
    assert [m["bytes"] for m in record["models"]] == [p.stat().st_size for p in (exported, waveform, clap)]
    for measured in record["models"]:
        for threads in measured["threads"].values():
            assert all(value > 0 for value in threads.values())
            assert threads["peak_mb"] >= threads["before_mb"]
    first = record["models"][0]["threads"]["one"]
    assert (first["segment_ratio"], first["minute_ratio"]) == (1.0, 1.0)


def test_a_minute_is_productions_minute(exported: Path, library: Library, tmp_path: Path) -> None:
    runs: list[tuple[int, ...]] = []

    class Noted(StudentSession):
        def run(self, mel_db: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            runs.append(mel_db.shape)
            return super().run(mel_db)

    subject = Subject(exported, 1, library.recipe, "mel")
    subject.embedder.session = Noted(exported)
    assert subject.segment_s() > 0
    assert runs == [(1, 1, 128, 1001)]
    assert subject.minute_s() > 0
    assert runs[1:] == [(1, 1, 128, 1001)] * 12
    # Its segments are those that embed makes of the same samples.
    assert len(subject.minute) == MINUTE_SAMPLES
    import soundfile

    soundfile.write(tmp_path / "m.wav", subject.minute, 48_000, subtype="FLOAT")
    embedder = Embedder(StudentSession(exported), input_spec_of(exported, library.recipe))
    expected = embedder.embed_samples(embedder.read_audio(tmp_path / "m.wav")).vector
    assert float(subject.embedder.embed_samples(subject.minute).vector @ expected) > 0.9999


def test_memory_is_the_models_own(library: Library, tmp_path: Path) -> None:
    ballast = np.ones(30_000_000, np.float32)  # the parent's memory does not count as the child's
    sizes = []
    for name, n_weights in (("small.onnx", 512), ("large.onnx", 10_000 * 512)):
        path = waveform_teacher(tmp_path / name, n_weights)
        with subject_process(path, 1, spec_to_measure(path, library.recipe)) as (ask, _):
            ask("segment")
            sizes.append(ask("peak")["peak_bytes"])
    assert 18e6 < sizes[1] - sizes[0] < 100e6  # its weights are 20 MB
    assert sizes[0] < peak_bytes()
    assert ballast.sum() > 0


def test_models_take_turns() -> None:
    order: list[int] = []

    def ask(index: int) -> Ask:
        def answer(task: str) -> dict[str, float]:
            assert task == "segment"
            order.append(index)
            return {"s": float(index + 1)}

        return answer

    seconds = take_turns([ask(0), ask(1), ask(2)], "segment", 3)
    assert [set(order[i : i + 3]) for i in range(0, 12, 3)] == [{0, 1, 2}] * 4
    assert len({order[i] for i in range(3, 12, 3)}) == 3  # each begins once
    assert seconds == [[1.0] * 3, [2.0] * 3, [3.0] * 3]
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == 3.0


def test_the_table_has_a_line_per_model() -> None:
    threads = {
        "ms_per_segment": 4.0,
        "ms_per_minute": 90.0,
        "load_ms": 12.0,
        "peak_mb": 80.0,
        "segment_ratio": 1.0,
    }
    record = {"model": "/a/student.onnx", "bytes": 2_770_000, "threads": {"one": threads, "all": threads}}
    cells = [cell.strip() for cell in comparison_table([record]).splitlines()[-1].strip("|").split("|")]
    assert cells == ["student.onnx", "2.77", "4.00", "4.00", "90.00", "90.00", "12.0", "80", "1.00"]


def test_what_cannot_be_measured_is_named(quick: None, exported: Path, tmp_path: Path) -> None:
    assert "there is no model at" in run("bench", tmp_path / "absent.onnx").stderr
    (tmp_path / "page.onnx").write_bytes(b"<html>")
    assert "page.onnx is not an ONNX file" in run("bench", exported, "--against", tmp_path / "page.onnx").stderr
    # It says 128 bands and takes 8.
    proto = model(dims=(1, 1, "mels", "time"))
    onnx.save(proto, str(tmp_path / "odd.onnx"))
    odd = run("bench", tmp_path / "odd.onnx", "--rounds", 3)
    assert odd.exit_code == 1
    assert "odd.onnx fails on input [1, 1, 128, 1001]" in odd.stderr


def test_a_process_that_dies_is_one_error(exported: Path, library: Library) -> None:
    with subject_process(exported, 1, spec_to_measure(exported, library.recipe)) as (ask, _):
        os.kill(int(ask("pid")["pid"]), 9)
        with pytest.raises(model_bench.BenchError, match="the process that measures it died"):
            ask("segment")


def test_figures_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = run("bench", tmp_path / "absent.onnx", "--out", tmp_path / "file" / "b.json")
    assert done.exit_code == 1
    assert "is not a folder that can be written to" in done.stderr
