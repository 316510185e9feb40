"""Text queries: files of vectors, the text model with its tokenizer, and `evaluate` with either."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from student_clap.config.cli import main
from student_clap.export.evaluate.queries import QueryError, checked, read_queries, read_texts
from student_clap.export.evaluate.text_encoder import collect_queries, encode_texts
from student_clap.store import FeatureStore

from ..conftest import Library

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "sad", "piano", "happy", "techno", "party"]


def write_tokenizer(path: Path) -> Path:
    """RoBERTa's shape with nine words: <s> text </s>, padded with token 1."""
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.save(str(path))
    return path


def write_text_model(path: Path, width: int = 512) -> Path:
    """The mean of the tokens' rows of a fixed table, not normalised, over [1, 77] tokens and no other length."""
    table = np.random.default_rng(5).normal(size=(len(WORDS), width)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["rows", "weights"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["text_embedding"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info(name, TensorProto.INT64, [1, 77]) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("text_embedding", TensorProto.FLOAT, [1, width])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array([1]), "tokens"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def expected(*words: str) -> Any:
    table = np.random.default_rng(5).normal(size=(len(WORDS), 512)).astype(np.float32)
    vector = table[[0, *(WORDS.index(word) for word in words), 2]].sum(axis=0)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def text_model(tmp_path: Path) -> tuple[Path, Path]:
    return write_text_model(tmp_path / "clap_text_model.onnx"), write_tokenizer(tmp_path / "tokenizer.json")


def vectors(n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(n, 512)).astype(np.float32)


def test_both_layouts_of_npz_say_the_same(tmp_path: Path) -> None:
    given = vectors(3)
    names = ["msd:sad", "party", "a slow piano song"]
    np.savez(tmp_path / "a.npz", name=np.array(names), vector=given)
    np.savez(tmp_path / "b.npz", **dict(zip(names, given, strict=True)))
    np.savez(tmp_path / "c.npz", **{name: row[None] for name, row in zip(names, given, strict=True)})
    np.savez(tmp_path / "d.npz", labels=np.array(names), embeddings=given.astype(np.float64))
    for letter in "abcd":
        found = read_queries(tmp_path / f"{letter}.npz")
        assert found.names == tuple(names)
        np.testing.assert_allclose(found.vectors, given / np.linalg.norm(given, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "has no query|0 names"),
        ({"sad": np.zeros(512)}, "'sad' is zero or not finite"),
        ({"sad": np.full(512, np.nan)}, "'sad' is zero or not finite"),
        ({"sad": np.ones(128)}, r"'sad' has shape \[128\].*512"),
        ({"name": np.array(["a", "b"]), "vector": np.ones((3, 512))}, r"2 names with vectors of shape \[3, 512\]"),
        ({"name": np.array(["a"], object), "vector": np.ones((1, 512))}, "without pickles"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "q.npz", **arrays)
    with pytest.raises(QueryError, match=message):
        read_queries(tmp_path / "q.npz")


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="there is no"):
        read_queries(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(QueryError, match=r"cannot be read as \.npz"):
        read_queries(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.ones(512))
    with pytest.raises(QueryError, match="one array without a name"):
        read_queries(tmp_path / "one.npy")


def test_a_name_counts_once() -> None:
    given = vectors(3)
    assert checked(["a", "b", "a"], given, "here").names == ("a", "b")


def test_texts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "queries.txt"
    path.write_text("\ufeffsad piano\n\n# a remark\n  techno  \n", encoding="utf-8")
    assert read_texts(path) == ["sad piano", "techno"]
    path.write_text("\n# nothing\n")
    with pytest.raises(QueryError, match="has no query"):
        read_texts(path)


@pytest.mark.parametrize("folder", [False, True])
def test_texts_become_unit_vectors_of_77_tokens(text_model: tuple[Path, Path], *, folder: bool) -> None:
    model, tokenizer = text_model
    long = " ".join(["piano"] * 200)
    found = encode_texts(["sad piano", "techno", long], model, tokenizer.parent if folder else tokenizer)
    assert found.names == ("sad piano", "techno", long)
    np.testing.assert_allclose(found.vectors[0], expected("sad", "piano"), atol=1e-6)
    np.testing.assert_allclose(found.vectors[1], expected("techno"), atol=1e-6)
    # begin, 75 words, end
    np.testing.assert_allclose(found.vectors[2], expected(*["piano"] * 75), atol=1e-6)


def test_a_byte_level_vocabulary_with_merges(text_model: tuple[Path, Path], tmp_path: Path) -> None:
    home = tmp_path / "roberta"
    home.mkdir()
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "s", "a", "d", "sa", "sad"]
    (home / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(tokens)}))
    (home / "merges.txt").write_text("#version: 0.2\ns a\nsa d\n")
    found = encode_texts(["sad"], text_model[0], home)
    # "sad" is token 8 here, as "party" is in the table
    np.testing.assert_allclose(found.vectors[0], expected("party"), atol=1e-6)


def test_the_missing_package_is_named(text_model: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(QueryError, match=r"needs the package tokenizers: pip install 'student-clap\[text\]'"):
        encode_texts(["sad"], *text_model)


def test_files_that_are_something_else(text_model: tuple[Path, Path], exported: Path, tmp_path: Path) -> None:
    model, tokenizer = text_model
    with pytest.raises(QueryError, match="mel_spectrogram; a text model takes attention_mask, input_ids"):
        encode_texts(["sad"], exported, tokenizer)
    with pytest.raises(QueryError, match="there is no text model"):
        encode_texts(["sad"], tmp_path / "none.onnx", tokenizer)
    with pytest.raises(QueryError, match="is not a tokenizer"):
        encode_texts(["sad"], model, tmp_path / "nowhere")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(QueryError, match="cannot be read as a tokenizer"):
        encode_texts(["sad"], model, tmp_path / "broken.json")
    Tokenizer(models.WordLevel({"sad": 0}, unk_token="sad")).save(str(tmp_path / "bare.json"))
    with pytest.raises(QueryError, match="has no token <pad>"):
        encode_texts(["sad"], model, tmp_path / "bare.json")
    with pytest.raises(QueryError, match=r"expected \[1, 512\]"):
        encode_texts(["sad"], write_text_model(tmp_path / "narrow.onnx", 256), tokenizer)


def test_options_that_lack_one_another(text_model: tuple[Path, Path]) -> None:
    model, tokenizer = text_model
    assert collect_queries(None, (), None, None, None) is None
    for given in ((None, None), (model, None), (None, tokenizer)):
        with pytest.raises(QueryError, match="texts need a text model"):
            collect_queries(None, ("sad",), None, *given)
    with pytest.raises(QueryError, match="--query TEXT"):
        collect_queries(None, (), None, model, tokenizer)


def evaluate(library: Library, *more: str) -> Result:
    arguments = ["evaluate", *library.settings(), "--from-store", *more]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_evaluate_with_vectors_and_texts(copied_library: Library, exported: Path, tmp_path: Path) -> None:
    copied_library.run.student_onnx.write_bytes(exported.read_bytes())
    model, tokenizer = write_text_model(tmp_path / "t.onnx"), write_tokenizer(tmp_path / "tokenizer.json")
    with FeatureStore.open(copied_library.store) as store:
        teacher = store.teacher()
    np.savez(tmp_path / "q.npz", like_track_3=teacher[3], happy=teacher[1])
    (tmp_path / "texts.txt").write_text("sad piano\n")
    files = ["--queries", str(tmp_path / "q.npz"), "--query-file", str(tmp_path / "texts.txt"), "--query", "party"]
    done = evaluate(copied_library, *files, "--text-model", str(model), "--tokenizer", str(tokenizer))
    assert done.exit_code == 0, done.output
    assert "text search" in done.stdout
    record = json.loads((copied_library.run.evaluation / "metrics.json").read_text(encoding="utf-8"))
    text = record["text"]
    assert [query["name"] for query in text["queries"]] == ["like_track_3", "happy", "party", "sad piano"]
    assert [label["label"] for label in text["labels"]] == ["happy", "party"]
    # A track's own vector as query finds that track first.
    first = text["queries"][0]["teacher_first"][0]
    assert record["tracks"][first["track"]]["track_id"] == "t03"
    assert first["score"] == pytest.approx(1, abs=1e-4)
    page = (copied_library.run.evaluation / "report.html").read_text(encoding="utf-8")
    assert "“sad piano”" in page
    # Every third tune of the library lasts 7 seconds.
    short = {t["track_id"] for t in record["tracks"] if t["duration_s"] == pytest.approx(7, abs=0.01)}
    suspected = {
        record["tracks"][w["track"]]["track_id"] for w in record["worst"] if "short: 7.0 s" in str(w["reasons"])
    }
    assert short == suspected == {"t03", "t09"}
    assert [(bucket["name"], bucket["n_tracks"]) for bucket in record["buckets"]] == [
        ("up to 10 s", 2),
        ("10 to 60 s", 4),
    ]

    assert evaluate(copied_library).exit_code == 0
    assert json.loads((copied_library.run.evaluation / "metrics.json").read_text(encoding="utf-8"))["text"] is None


def test_evaluate_refuses_bad_queries_before_it_works(copied_library: Library, exported: Path) -> None:
    copied_library.run.student_onnx.write_bytes(exported.read_bytes())
    done = evaluate(copied_library, "--query", "sad")
    assert done.exit_code == 1
    assert "Error: texts need a text model" in done.stderr
    assert not copied_library.run.evaluation.exists()


@pytest.mark.slow
def test_evaluate_times_the_model_beside_it(
    copied_library: Library, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied_library.run.student_onnx.write_bytes(exported.read_bytes())
    monkeypatch.setattr("student_clap.export.bench.compare.LOADS", 1)
    monkeypatch.setattr("student_clap.export.bench.compare.THREADS", {"one": 1})
    monkeypatch.setattr("student_clap.export.evaluate_command.BENCH_ROUNDS", 3)
    done = evaluate(copied_library, "--against", str(exported))
    assert done.exit_code == 0, done.output
    record = json.loads((copied_library.run.evaluation / "metrics.json").read_text(encoding="utf-8"))
    assert [Path(model["model"]).name for model in record["speed"]] == ["student.onnx", exported.name]
    assert record["speed"][1]["threads"]["one"]["ms_per_segment"] > 0
    assert f"takes {exported.name} " in (copied_library.run.evaluation / "report.html").read_text(encoding="utf-8")
