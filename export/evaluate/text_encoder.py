"""AudioMuse-AI's text model in onnxruntime: texts to vectors in the teacher's space.

RoBERTa's byte-level BPE, 77 tokens, padded and cut, int64 `input_ids` and `attention_mask`; the first output,
normalised.
Source: AudioMuse-AI, tasks/clap_analyzer.py. Cost: the model's load (478 MB for LAION's) and a run per text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from student_clap.export.evaluate.queries import QueryError, checked, joined, read_queries, read_texts
from student_clap.export.evaluate.text_figures import Queries
from student_clap.featurize.onnx.graph import ModelError
from student_clap.featurize.onnx.session import OnnxSession

MAX_TOKENS = 77
_PAD, _BEGIN, _END = "<pad>", "<s>", "</s>"
_INPUTS = {"input_ids", "attention_mask"}


def encode_texts(texts: Sequence[str], model: Path, tokenizer: Path) -> Queries:
    """Vectors of `texts`.

    Args:
        texts: as a user would type them.
        model: clap_text_model.onnx.
        tokenizer: tokenizer.json, or the folder with it or with vocab.json and merges.txt.

    Raises:
        QueryError: the package `tokenizers` is missing, or a file cannot be used.
    """
    encode, session = _tokenizer(tokenizer), _session(model)
    vectors = []
    for text in texts:
        encoding = encode(text)
        given = {
            "input_ids": np.array([encoding.ids], np.int64),
            "attention_mask": np.array([encoding.attention_mask], np.int64),
        }
        try:
            output = np.asarray(session.first_output(given))
        except ModelError as error:
            raise QueryError(f"{error.message} (text {text!r})") from error
        vectors.append(output.reshape(-1))
    if len({len(vector) for vector in vectors}) > 1:
        raise QueryError(f"{model} gives vectors of several lengths; it is not a text model of CLAP")
    return checked(texts, np.stack(vectors), model.name)


def collect_queries(
    vectors: Path | None, texts: Sequence[str], text_file: Path | None, model: Path | None, tokenizer: Path | None
) -> Queries | None:
    """The queries that the options of `student-clap evaluate` ask for; None for none.

    Raises:
        QueryError: they contradict or lack one another, or a file cannot be used.
    """
    asked = [*texts, *(read_texts(text_file) if text_file else [])]
    parts = [read_queries(vectors)] if vectors else []
    if asked and (model is None or tokenizer is None):
        raise QueryError("texts need a text model: --text-model clap_text_model.onnx and --tokenizer tokenizer.json")
    if model is not None and not asked:
        raise QueryError("--text-model has nothing to say: give texts with --query TEXT or --query-file FILE")
    if asked and model is not None and tokenizer is not None:
        parts.append(encode_texts(asked, model, tokenizer))
    return joined(parts)


def _tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
        from tokenizers.implementations.byte_level_bpe import ByteLevelBPETokenizer
        from tokenizers.processors import RobertaProcessing
    except ImportError:
        raise QueryError(
            "--text-model needs the package tokenizers: pip install 'student-clap[text]', or give vectors: --queries"
        ) from None
    file = path / "tokenizer.json" if path.is_dir() else path
    vocabulary, merges = path / "vocab.json", path / "merges.txt"
    if not file.is_file() and not (vocabulary.is_file() and merges.is_file()):
        raise QueryError(
            f"{path} is not a tokenizer: expected tokenizer.json, or a folder with it or with vocab.json and merges.txt"
        )
    try:
        if file.is_file():
            made: Any = Tokenizer.from_file(str(file))
        else:
            made = ByteLevelBPETokenizer.from_file(str(vocabulary), str(merges))
            end, begin = ((token, made.token_to_id(token)) for token in (_END, _BEGIN))
            made.post_processor = RobertaProcessing(end, begin)
    except Exception as error:  # tokenizers raises bare Exception
        raise QueryError(f"{path} cannot be read as a tokenizer: {error}") from error
    pad = made.token_to_id(_PAD)
    if pad is None:
        raise QueryError(f"{path} has no token {_PAD}; CLAP's text model wants RoBERTa's tokenizer")
    made.enable_truncation(MAX_TOKENS)
    made.enable_padding(length=MAX_TOKENS, pad_id=pad, pad_token=_PAD)
    return made.encode


def _session(model: Path) -> OnnxSession:
    try:
        session = OnnxSession(model, threads=0, missing=f"there is no text model at {model}: --text-model")
    except ModelError as error:
        raise QueryError(error.message) from error
    inputs = {value.name for value in session.declaration.inputs}
    if inputs != _INPUTS:
        raise QueryError(f"{model} takes {', '.join(sorted(inputs))}; a text model takes {', '.join(sorted(_INPUTS))}")
    return session
