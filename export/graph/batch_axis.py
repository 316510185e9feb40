"""The student for batch users: the drop-in's graph with its batch axis left open.

The weights and operators are the drop-in's. Its graph is tied to one segment by the first numbers of reshapes alone,
and those become "as many as come in".
Guarantee: nothing is written unless 1, 3 and 16 segments in one run give what the drop-in gives one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from student_clap.export.graph.writer import Built, ExportError, serialise, validate_and_write
from student_clap.export.model.metadata import ANY_BATCH, BATCH_KEY, get_metadata, set_metadata
from student_clap.export.model.session import ModelError, StudentSession
from student_clap.featurize.onnx.input_spec import Shape

if TYPE_CHECKING:
    from student_clap.store import Recipe

AXIS = "batch"
BATCHES = (1, 3, 16)
# A batched matrix product may sum in another order.
MAX_DIFFERENCE = 1e-5
_COPY_DIMENSION = 0  # in a reshape's target


@dataclass(frozen=True)
class BatchExported:
    """The file that was written."""

    path: Path
    n_bytes: int
    max_difference: float  # to the drop-in, of any of the 512 values


def write_batch_student(
    built: Built, recipe: Recipe, output: Path, segments_db: npt.NDArray[np.float32]
) -> BatchExported:
    """Write `built` with an open batch axis as `output`.

    Args:
        built: the drop-in, proved.
        recipe: what it is fed.
        output: the file to write.
        segments_db: [segment, mel, frame] dB, real segments.

    Raises:
        ExportError: the file answers otherwise than the drop-in, or misses a clause other than `static-batch`.
    """
    model = open_batch_axis(built.model)
    set_metadata(model, {**get_metadata(model), BATCH_KEY: ANY_BATCH})
    difference = compare_batches(StudentSession(serialise(built.model)), serialise(model), segments_db)
    excused = frozenset({"static-batch"})
    data = validate_and_write(model, output, Shape.of(recipe), segments_db, excused, built.carried)
    return BatchExported(output, len(data), difference)


def open_batch_axis(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a folded batch-1 model that takes any number of segments; `compare_batches` shows whether it does."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    graph = opened.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = AXIS
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    for node in graph.node:
        target = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if target is None or not len(target) or target[0] != 1:
            continue
        name = f"{node.input[1]}_any_batch"
        if name not in constants:
            constants[name] = np.concatenate([[_COPY_DIMENSION], target[1:]]).astype(np.int64)
            graph.initializer.append(numpy_helper.from_array(constants[name], name))
        node.input[1] = name
    read = {name for node in graph.node for name in node.input}
    kept = [i for i in graph.initializer if i.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return opened


def compare_batches(single: StudentSession, batch: bytes, segments_db: npt.NDArray[np.float32]) -> float:
    """The largest difference of `batch`, run on 1, 3 and 16 segments at once, to `single`, run on each of them.

    Raises:
        ExportError: it is more than rounding, or the batch file cannot be run.
    """
    largest = 0.0
    # inputs: [16, mel, frame], the segments again from the first where there are fewer
    inputs = segments_db[np.arange(max(BATCHES)) % len(segments_db)]
    expected = single.embed_segments(inputs)
    try:
        session = StudentSession(batch)
        for rows in BATCHES:
            # The last ones, so that row 0 of a batch is not always the same segment.
            found = session.run(np.ascontiguousarray(inputs[-rows:, None]))
            if found.shape != expected[-rows:].shape:
                raise ExportError(
                    f"with an open batch axis the student gives {list(found.shape)} for {rows} segments; nothing was "
                    "written: its graph is tied to one segment at a time"
                )
            largest = max(largest, float(np.abs(found - expected[-rows:]).max()))
    except ModelError as error:
        raise ExportError(
            f"with an open batch axis the student cannot be run, so nothing was written: {error.message}"
        ) from error
    if not largest <= MAX_DIFFERENCE:
        raise ExportError(
            f"with an open batch axis the student answers otherwise: largest difference {largest:.1e} (expected at "
            f"most {MAX_DIFFERENCE:.0e}); nothing was written"
        )
    return largest
