"""`export --quantize`: what is built, which nodes are left out, and above all what is refused.

Nothing here depends on how fast this machine is: where speed decides, the measurement is replaced.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.export.graph import gate as quantise_gate
from student_clap.export.graph import int8_search
from student_clap.export.graph.gate import Judge, Quality, Speed, Verdict, alternate
from student_clap.export.graph.int8_graph import PLANS, Int8Graph, tail
from student_clap.export.graph.int8_search import find_candidates
from student_clap.export.graph.int8_target import TARGETS
from student_clap.export.graph.parity import real_segments
from student_clap.export.graph.sampling import draw_samples
from student_clap.export.graph.writer import Built, build_student, serialise
from student_clap.export.model.contract import check_contract, failures
from student_clap.export.model.metadata import plain_metadata
from student_clap.export.model.origin import Split
from student_clap.export.model.session import StudentSession
from student_clap.store import FeatureStore
from student_clap.store.storage.errors import StoreError
from student_clap.train.runs.reader import HeldOutArtists

from ..conftest import HELD_OUT, Library, checkpoint_info, random_student

pytestmark = pytest.mark.slow

Array = npt.NDArray[np.float32]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def segments(library: Library) -> Array:
    with FeatureStore.open(library.store) as store:
        return real_segments(store.features(library.recipe), [])[0]


@pytest.fixture(scope="module")
def built(segments: Array) -> Built:
    return build_student(random_student(), checkpoint_info(), segments[:2], 2)


@pytest.fixture(scope="module")
def graph(built: Built, segments: Array) -> Int8Graph:
    return Int8Graph(built.model, segments)


@pytest.fixture
def judge(built: Built, segments: Array) -> Judge:
    student = StudentSession(serialise(built.model))
    return Judge(student, segments[::2], student.embed_segments(segments).mean(axis=0))


def speedup(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Pretend that the candidate runs `value` times as fast."""
    monkeypatch.setattr(quantise_gate, "alternate", lambda *_: Speed(8.0, 8.0 / value, value))


def only(monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    """Search one plan."""
    monkeypatch.setattr(int8_search, "PLANS", {plan: PLANS[plan]})


# --- the graph


def test_int8_is_standard_and_per_channel(graph: Int8Graph, built: Built, tmp_path: Path) -> None:
    model = graph.build(graph.nodes("layers"))
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert {node.domain for node in model.graph.node} == {""}
    assert list(model.metadata_props) == list(built.model.metadata_props)
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in convolutions:
        dequantised = producers[node.input[1]]
        assert dequantised.op_type == "DequantizeLinear"
        weight, scale = weights[dequantised.input[0]], weights[dequantised.input[1]]
        assert weight.dtype == np.int8
        assert np.abs(weight.astype(int)).max() <= 64  # 7 bits
        assert scale.shape == (weight.shape[0],)
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert failures(check_contract(tmp_path / "m.onnx")) == []


def test_only_the_named_nodes_are_quantised(graph: Int8Graph, built: Built) -> None:
    first = graph.nodes("convolutions")[0]
    model = graph.build([first])
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    touched = [n.name for n in model.graph.node if n.op_type == "Conv" and producers.get(n.input[1])]
    assert touched == [first]
    # The calibrated graph is as it was.
    assert serialise(graph.build([first])) == serialise(model)
    assert not any(n.op_type == "DequantizeLinear" for n in built.model.graph.node)


def test_plans_and_the_normalisation(graph: Int8Graph, built: Built) -> None:
    kinds = {n.name: n.op_type for n in built.model.graph.node}
    assert {kinds[name] for name in graph.nodes("convolutions")} == {"Conv"}
    assert {kinds[name] for name in graph.nodes("matrices")} == {"MatMul", "Gemm"}
    assert set(graph.nodes("layers")) == {*graph.nodes("convolutions"), *graph.nodes("matrices")}
    # The products of attention have no weights: 5 matrix products have, per encoder layer, and 2 in the head.
    attention = [n for n in kinds if kinds[n] == "MatMul" and n not in graph.nodes("matrices")]
    assert len(attention) == 2
    behind = tail(built.model)
    assert {"ReduceL2", "Clip"} <= {kinds[name] for name in behind}
    assert not set(behind) & set(graph.nodes("all"))


# --- the gate


def test_quality_is_the_centred_cosine(built: Built, segments: Array) -> None:
    class Constant:
        """A broken quantiser: every segment gets the mean vector, nearly."""

        def __init__(self, vectors: Array) -> None:
            self.vectors = vectors

        def embed_segments(self, _: Array) -> Array:
            return self.vectors

    student = StudentSession(serialise(built.model))
    vectors = student.embed_segments(segments)
    centre = vectors.mean(axis=0)
    judge = Judge(student, segments, centre)
    assert judge.quality(student).mean == pytest.approx(1)
    noise = np.random.default_rng(0).normal(0, 1e-6, vectors.shape).astype(np.float32)
    collapsed = Constant(centre + noise)
    raw = (vectors @ centre / np.linalg.norm(centre)).mean()
    found = judge.quality(collapsed)  # type: ignore[arg-type]
    assert raw > 0.8
    assert abs(found.mean) < 0.3
    halfway = judge.quality(Constant(vectors + (vectors[::-1] - vectors) / 2))  # type: ignore[arg-type]
    centred, mixed = vectors - centre, (vectors + vectors[::-1]) / 2 - centre
    expected = np.sum(centred * mixed, 1) / np.linalg.norm(centred, axis=1) / np.linalg.norm(mixed, axis=1)
    assert halfway.mean == pytest.approx(expected.mean(), abs=1e-5)
    assert halfway.lowest == pytest.approx(expected.min(), abs=1e-5)


def test_what_is_not_finite_has_no_quality(built: Built, segments: Array) -> None:
    class Broken:
        def embed_segments(self, given: Array) -> Array:
            return np.full((len(given), 512), np.nan, np.float32)

    student = StudentSession(serialise(built.model))
    quality = Judge(student, segments, np.zeros(512, np.float32)).quality(Broken())  # type: ignore[arg-type]
    assert Verdict(quality, Speed(8, 2, 4.0)).faults() == ["centred cosine nan, expected at least 0.99"]


@pytest.mark.parametrize(
    ("cosine", "speedup", "faults"),
    [(0.99, 1.05, 0), (0.9899, 3.0, 1), (1.0, 1.04, 1), (0.5, 0.5, 2), (0.999, float("nan"), 1)],
)
def test_the_verdict(cosine: float, speedup: float, faults: int) -> None:
    assert len(Verdict(Quality(cosine, 0.9, 0.8, 5), Speed(8.0, 4.0, speedup)).faults()) == faults


def test_runs_alternate(built: Built, segments: Array) -> None:
    calls: list[str] = []

    class Noted(StudentSession):
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, mel_db: Array) -> Array:
            calls.append(self.name)
            return mel_db

    speed = alternate(Noted("float"), Noted("int8"), segments[0], pairs=4)
    assert len(calls) == 14  # three pairs warm up
    assert all({calls[i], calls[i + 1]} == {"float", "int8"} for i in range(0, 14, 2))
    assert calls[::2].count("float") in (3, 4)
    assert speed.float_ms > 0
    assert speed.quantised_ms > 0


# --- the search


def test_sensitive_nodes_are_left_out_one_by_one(
    graph: Int8Graph, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    speedup(monkeypatch, 2.0)
    only(monkeypatch, "layers")
    lines: list[str] = []
    (layers,) = find_candidates(graph, judge, lines.append, target=-1.0)
    assert layers.left_out == ()
    assert len(lines) == 1
    # A target that the whole plan misses by a hair.
    target = layers.centred_cosine + 1e-4
    (reduced,) = find_candidates(graph, judge, target=target)
    assert reduced.left_out
    assert reduced.centred_cosine >= target
    assert {*reduced.left_out, *reduced.quantised} == set(layers.quantised)
    # The first to go is the one that costs most alone.
    alone = {n: judge.quality(StudentSession(serialise(graph.build([n])))).mean for n in layers.quantised}
    assert reduced.left_out[0] == min(alone, key=alone.__getitem__)


def test_the_fastest_plan_is_taken(graph: Int8Graph, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([0.7, 1.3, 2.0, 0.9])
    monkeypatch.setattr(quantise_gate, "alternate", lambda *_: Speed(8.0, 4.0, next(speeds)))
    assert [c.plan for c in find_candidates(graph, judge, target=-1.0)] == ["convolutions", "layers", "matrices", "all"]


def test_no_choice_is_good_enough(graph: Int8Graph, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    speedup(monkeypatch, 2.0)
    only(monkeypatch, "convolutions")
    lines: list[str] = []
    assert find_candidates(graph, judge, lines.append, target=1.1) == []
    assert lines == ["plan 'convolutions': no choice of its 3 nodes reaches a centred cosine of 1.1000"]


# --- the samples


def test_training_and_validation_segments_are_apart(library: Library) -> None:
    with FeatureStore.open(library.store) as store:
        features = store.features(library.recipe)
        samples = draw_samples(store, features, Split(HeldOutArtists(frozenset(HELD_OUT))))
        held_out = [row for row, artist in enumerate(store.strings("artist")) if artist in HELD_OUT]
        whole = {row: features.segments(row) for row in range(12)}
    assert samples.n_validation_tracks == len(held_out) == 6

    def rows_of(segments_db: Array) -> set[int]:
        return {row for row, own in whole.items() for s in segments_db if any(np.array_equal(s, o) for o in own)}

    assert rows_of(samples.validation_db) == set(held_out)
    assert rows_of(samples.training_db) == set(range(12)) - set(held_out)


def test_test_tracks_have_no_say_in_a_form_of_fewer_bits(library: Library) -> None:
    with FeatureStore.open(library.store) as store:
        features, artists = store.features(library.recipe), store.strings("artist")
        samples = draw_samples(store, features, Split(HeldOutArtists(frozenset({"Ada"}), frozenset({"Bo"}))))
        own = {row: features.segments(row) for row in range(12) if artists[row] == "Bo"}
    assert samples.n_validation_tracks == 3
    for segment in (*samples.training_db, *samples.validation_db):
        assert not any(np.array_equal(segment, other) for segments in own.values() for other in segments)


@pytest.mark.parametrize(("artists", "which"), [((), "validation"), (("Ada", "Bo", "Cy", HELD_OUT[1]), "training")])
def test_both_sides_are_needed(artists: tuple[str, ...], which: str, library: Library) -> None:
    with FeatureStore.open(library.store) as store, pytest.raises(StoreError, match=f"has no {which} track"):
        draw_samples(store, store.features(library.recipe), Split(HeldOutArtists(frozenset(artists))))


# --- the command


def said_of(path: Path) -> Any:
    model = onnx.load(str(path))
    return json.loads(plain_metadata({p.key: p.value for p in model.metadata_props})["quantization"])


def test_int8_that_passes_is_written(copied_library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    speedup(monkeypatch, 1.5)
    only(monkeypatch, "convolutions")
    done = run("export", "--quantize", "int8", *copied_library.settings())
    assert done.exit_code == 0, done.output
    path = copied_library.run.path / "student-int8.onnx"
    assert f"export: wrote {path}: plan 'convolutions', " in done.stdout.splitlines()[-1]
    assert "1.50 times as fast" in done.stdout.splitlines()[-1]
    record = said_of(path)
    assert record["kind"] == "int8"
    assert record["quality"]["mean"] >= 0.99
    assert record["speed"]["speedup"] == 1.5
    assert record["calibration_segments"] == 10
    # The figure is that of the file, on validation segments it never saw.
    with FeatureStore.open(copied_library.store) as store:
        split = Split(HeldOutArtists(frozenset(HELD_OUT)))
        samples = draw_samples(store, store.features(copied_library.recipe), split)
    assert run("export", *copied_library.settings()).exit_code == 0
    student = StudentSession(copied_library.run.student_onnx)
    centre = student.embed_segments(samples.training_db).mean(axis=0)
    a = student.embed_segments(samples.validation_db) - centre
    b = StudentSession(path).embed_segments(samples.validation_db) - centre
    cosines = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert record["quality"]["mean"] == pytest.approx(cosines.mean(), abs=1e-4)
    assert run("check", path).exit_code == 0


@pytest.mark.parametrize("kind", ["int8", "fp16"])
def test_what_is_slower_is_refused_with_the_figures(
    kind: str, copied_library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    speedup(monkeypatch, 0.8)
    only(monkeypatch, "convolutions")
    path = copied_library.run.path / f"student-{kind}.onnx"
    path.write_bytes(b"the old one")
    before = sorted(copied_library.run.path.iterdir())
    done = run("export", "--quantize", kind, *copied_library.settings())
    assert done.exit_code == 1
    assert f"{kind} is refused, and {path} was not written: 0.80 times as fast, expected at least 1.05" in done.stderr
    assert "centred cosine 0.99" in done.stderr or "centred cosine 1.0" in done.stderr
    assert "validation segments of 6 tracks; 10.00 ms per segment against 8.00" in done.stderr
    assert path.read_bytes() == b"the old one"
    assert sorted(copied_library.run.path.iterdir()) == before


def test_what_is_worse_is_refused_with_the_figures(copied_library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    speedup(monkeypatch, 3.0)
    monkeypatch.setattr(quantise_gate, "MIN_CENTRED_COSINE", 1.01)
    done = run("export", "--quantize", "fp16", *copied_library.settings())
    assert done.exit_code == 1
    assert "fp16 is refused" in done.stderr
    assert "expected at least 1.01" in done.stderr
    assert not (copied_library.run.path / "student-fp16.onnx").exists()


def test_fp16_is_no_drop_in(copied_library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    speedup(monkeypatch, 1.5)
    done = run("export", "--quantize", "fp16", *copied_library.settings())
    assert done.exit_code == 0, done.output
    path = copied_library.run.path / "student-fp16.onnx"
    assert said_of(path)["kind"] == "fp16"
    assert path.stat().st_size < 0.6 * said_of(path)["float_bytes"]
    checked = run("check", path)
    assert [line.split()[1] for line in checked.stdout.splitlines() if line.startswith("FAIL")] == ["weights"]


def test_weights_in_half_precision_are_a_drop_in_of_half_the_size(
    copied_library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    speedup(monkeypatch, 0.95)  # noise: it runs as the float student does
    done = run("export", "--quantize", "fp16-weights", *copied_library.settings())
    assert done.exit_code == 0, done.output
    path = copied_library.run.path / "student-fp16-weights.onnx"
    record = said_of(path)
    assert path.stat().st_size < 0.6 * record["float_bytes"]
    assert record["quality"]["mean"] > 0.9999
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    kinds = {i.name: i.data_type for i in model.graph.initializer}
    readers = {n.op_type for n in model.graph.node for name in n.input if kinds.get(name) == onnx.TensorProto.FLOAT16}
    assert readers == {"Cast"}
    checked = run("check", path, "--audio", copied_library.cache_dir / "t01.flac")
    assert checked.exit_code == 0, checked.output
    assert "float16 is float32 again when the file is loaded" in checked.stdout

    speedup(monkeypatch, 0.8)
    path.write_bytes(b"the old one")
    refused = run("export", "--quantize", "fp16-weights", *copied_library.settings())
    assert refused.exit_code == 1
    assert "fp16-weights is refused" in refused.stderr
    assert "0.80 times as fast, expected at least 0.9" in refused.stderr
    assert path.read_bytes() == b"the old one"


def test_a_checkpoint_without_a_split_cannot_be_judged(copied_library: Library, tmp_path: Path) -> None:
    moved = tmp_path / "best.pt"
    copied_library.run.best.rename(moved)
    done = run("export", "--quantize", "int8", "--checkpoint", moved, *copied_library.settings())
    assert done.exit_code == 1
    assert "has no validation track" in done.stderr


def test_a_graph_without_layers_has_no_candidates(segments: Array, judge: Judge) -> None:
    from ..model.test_contract import model

    proto = model(dims=(1, 1, 128, 1001))
    for node in list(proto.graph.node):
        if node.op_type == "MatMul":
            node.op_type = "Einsum"
    assert find_candidates(Int8Graph(proto, segments[:1]), judge) == []


# --- for another machine


def test_each_processor_has_its_own_eight_bits(built: Built, segments: Array, tmp_path: Path) -> None:
    found = {}
    for name, target in TARGETS.items():
        graph = Int8Graph(built.model, segments[:4], target)
        model = graph.build(graph.nodes("convolutions"))
        weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
        zeros = {weights[n.input[2]].dtype for n in model.graph.node if n.op_type == "QuantizeLinear"}
        widest = max(np.abs(w.astype(int)).max() for w in weights.values() if w.dtype == np.int8 and w.ndim == 4)
        found[name] = (zeros, "8 bits" if widest > 64 else "7 bits")
        onnx.save(model, str(tmp_path / f"{name}.onnx"))
        assert failures(check_contract(tmp_path / f"{name}.onnx")) == []
    signed, unsigned = {np.dtype(np.int8)}, {np.dtype(np.uint8)}
    assert found == {
        "here": (unsigned, "7 bits"),
        "arm64": (signed, "8 bits"),
        "avx2": (unsigned, "7 bits"),
        "avx512_vnni": (unsigned, "8 bits"),
    }


def test_for_another_machine_nothing_is_timed_and_the_card_says_so(
    copied_library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "convolutions")
    monkeypatch.setattr(quantise_gate, "alternate", lambda *_: pytest.fail("it was timed here"))
    done = run("export", *copied_library.settings(), "--quantize", "int8", "--for", "arm64")
    assert done.exit_code == 0, done.output
    model = copied_library.run.variant("int8-arm64")
    record = json.loads(plain_metadata(StudentSession(model).metadata)["quantization"])
    assert record["for"] == "arm64"
    assert record["speed"] is None
    assert record["quality"]["mean"] >= 0.99
    card = model.with_name("student-int8-arm64.card.md").read_text(encoding="utf-8")
    assert "nobody has timed it" in card
    assert "student-clap bench student-int8-arm64.onnx --against student.onnx" in card
