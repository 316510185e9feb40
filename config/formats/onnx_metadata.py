"""The metadata of an ONNX file (`metadata_props`), read by those who need nothing else of it: anybody may have made it.

Guarantee: nothing of the model is run, and data that it names outside of its file are not looked at. A pipe, a device,
a file too large for ONNX and one that is damaged are one OSError or ValueError.
Cost: the file is read into memory once.
"""

from __future__ import annotations

from pathlib import Path

from student_clap.config.runtime.files import read_regular_file
from student_clap.config.runtime.text import reason

PREFIX = "student_clap."  # of every entry that this package writes
CHECKPOINT_KEY = PREFIX + "checkpoint_base64"  # the student to train on from, where `export --with-weights` put it
MAX_BYTES = (1 << 31) - 1  # of an ONNX file; protobuf has no larger messages


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of `path`, keys with their prefix; values of another maker's file may be bytes that are no text.

    Raises:
        OSError: it cannot be read, is not a regular file, or is larger than `MAX_BYTES`.
        ValueError: it is damaged, or not an ONNX file.
    """
    import onnx

    content = read_regular_file(path, MAX_BYTES)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf raises types without a common base
        raise ValueError(reason(error)) from error
    if not model.graph.node:  # an empty file is a valid, empty protobuf message
        raise ValueError("it holds no graph")
    return {entry.key: entry.value for entry in model.metadata_props}
