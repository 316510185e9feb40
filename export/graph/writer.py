"""A checkpoint as a drop-in ONNX file: traced, folded, described, proved, validated, written.

Guarantee: the file appears whole, and only after it met every clause of the contract and answered as torch does on real
segments; otherwise nothing is written and what stood there stays. The same checkpoint gives the same bytes.
Cost: seconds; memory is a few times the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import torch

from student_clap.config.formats.onnx_metadata import MAX_BYTES
from student_clap.config.presets import MEL_PRESETS
from student_clap.config.runtime.files import temporary_folder, write_bytes_atomically
from student_clap.config.runtime.text import reason
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.export.graph.folding import fold
from student_clap.export.graph.parity import Parity, compare
from student_clap.export.model.contract import check_contract, failures
from student_clap.export.model.metadata import (
    ANY_TERMS,
    CLAP_LAYOUT,
    LAYOUT_KEY,
    Terms,
    get_metadata,
    metadata_of,
    set_metadata,
)
from student_clap.export.model.session import StudentSession
from student_clap.featurize.onnx.input_spec import INPUT_NAME, Shape
from student_clap.train.origin.onnx_file import checkpoint_entry

if TYPE_CHECKING:
    from torch import nn

    from student_clap.store import Recipe
    from student_clap.train.runs.checkpoint import CheckpointInfo

OPSET = 17
IR_VERSION = 8
OUTPUT_NAME = "embedding"
CLAP_OUTPUT_NAME = "audio_embedding"  # of the teacher's file in AudioMuse-AI
_SAME = 1e-6
_TRIED_SEGMENTS = 2  # in the contract's clauses; parity tries all


class ExportError(click.ClickException):
    """The model was not written. The message says why."""


@dataclass(frozen=True)
class Exported:
    """The file that was written."""

    path: Path
    n_bytes: int
    n_parameters: int
    model: onnx.ModelProto
    parity: Parity


def write_student(
    student: nn.Module,
    info: CheckpointInfo,
    output: Path,
    segments_db: npt.NDArray[np.float32],
    n_tracks: int,
    *,
    checkpoint: str = "",
    epoch: Mapping[str, Any] | None = None,
    refit: Mapping[str, Any] | None = None,
    terms: Terms = ANY_TERMS,
    transposed: bool = False,
) -> Exported:
    """Export `student` as `output`.

    Args:
        student: the torch student; it is put in eval mode.
        info: what the checkpoint says of itself; goes into the file's metadata.
        output: the file to write.
        segments_db: [segment, mel, frame] dB, real segments for parity and contract.
        n_tracks: from how many tracks they are.
        checkpoint: the checkpoint's file name, for the metadata: `best.pt` was chosen by the validation tracks.
        epoch: the run's record of the checkpoint's epoch, for the metadata.
        refit: how the head was fitted again, for the metadata; None: it was not.
        terms: what the metadata may tell, and whether it carries the checkpoint.
        transposed: the file takes [1, 1, frame, mel], as LAION's exported teacher does.

    Raises:
        ParityError: the file answers otherwise than torch.
        ExportError: a clause of the contract is not met, or the model cannot be traced.
    """
    built = build_student(
        student, info, segments_db, n_tracks, checkpoint=checkpoint, epoch=epoch, refit=refit, terms=terms
    )
    shape = replace(Shape.of(info.recipe), transposed=transposed)
    model = transpose_input(built.model, shape) if transposed else built.model
    if transposed:
        _check_transposed(built.model, model, shape, segments_db)
    data = validate_and_write(model, output, shape, segments_db, carried=built.carried)
    return Exported(output, len(data), built.n_parameters, model, built.parity)


@dataclass(frozen=True)
class Built:
    """A student's graph that answers as torch does."""

    model: onnx.ModelProto
    n_parameters: int
    parity: Parity
    # Entries of the metadata that every form's file gets when it is written, since trials need not carry them.
    carried: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def carried_bytes(self) -> int:
        """What these entries take in the file, to a few bytes."""
        return sum(len(key) + len(value) for key, value in self.carried.items())


def build_student(
    student: nn.Module,
    info: CheckpointInfo,
    segments_db: npt.NDArray[np.float32],
    n_tracks: int,
    *,
    checkpoint: str = "",
    epoch: Mapping[str, Any] | None = None,
    refit: Mapping[str, Any] | None = None,
    terms: Terms = ANY_TERMS,
) -> Built:
    """`student` traced, described and compared with torch; see `write_student`."""
    student = student.eval()
    n_parameters = sum(p.numel() for p in student.parameters())
    model = trace(student, info.recipe)
    set_metadata(model, metadata_of(info, n_parameters, checkpoint, epoch, refit, terms))
    parity = compare(student, StudentSession(serialise(model)), segments_db, n_tracks)
    carried = checkpoint_entry(student, info, library_facts=terms.library_facts) if terms.weights else {}
    return Built(model, n_parameters, parity, carried)


def check_clap_recipe(recipe: Recipe) -> None:
    """Refuse a student that the teacher's input does not fit.

    Raises:
        ExportError: it takes another number of bands than the teacher.
    """
    wanted = MEL_PRESETS["clap"]
    if recipe.n_mels != wanted.n_mels:
        raise ExportError(
            f"--layout clap is the teacher's input, [1, 1, {recipe.segment_frames}, {wanted.n_mels}], and this "
            f"student was trained on {recipe.n_mels} bands (recipe {recipe.name!r}); train one with audio.preset clap, "
            "or leave --layout out"
        )


def transpose_input(model: onnx.ModelProto, shape: Shape) -> onnx.ModelProto:
    """A copy of `model` that takes [1, 1, frame, mel] and names its output as LAION's exported teacher does."""
    turned = onnx.ModelProto()
    turned.CopyFrom(model)
    graph = turned.graph
    inner = f"{INPUT_NAME}_by_mel"
    for node in graph.node:
        node.input[:] = [inner if name == INPUT_NAME else name for name in node.input]
        node.output[:] = [CLAP_OUTPUT_NAME if name == OUTPUT_NAME else name for name in node.output]
    graph.node.insert(0, onnx.helper.make_node("Transpose", [INPUT_NAME], [inner], perm=[0, 1, 3, 2]))
    del graph.input[:], graph.output[:], graph.value_info[:]
    kind = onnx.TensorProto.FLOAT
    graph.input.append(onnx.helper.make_tensor_value_info(INPUT_NAME, kind, shape.full))
    graph.output.append(onnx.helper.make_tensor_value_info(CLAP_OUTPUT_NAME, kind, (1, EMBEDDING_DIM)))
    set_metadata(turned, {**get_metadata(model), LAYOUT_KEY: CLAP_LAYOUT})
    return turned


def _check_transposed(
    model: onnx.ModelProto, turned: onnx.ModelProto, shape: Shape, segments_db: npt.NDArray[np.float32]
) -> None:
    """Raises ExportError where the two, each fed its own layout, do not answer alike."""
    expected = StudentSession(serialise(model)).embed_segments(segments_db)
    found = StudentSession(serialise(turned)).embed_segments(shape.lay_out(segments_db))
    difference = float(np.abs(found - expected).max())
    if not difference <= _SAME:
        raise ExportError(
            f"with its input transposed the student answers otherwise: largest difference {difference:.1e} (expected "
            f"at most {_SAME:.0e}); nothing was written"
        )


def serialise(model: onnx.ModelProto) -> bytes:
    """The model's file; equal models give equal bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def validate_and_write(
    model: onnx.ModelProto,
    output: Path,
    shape: Shape,
    segments_db: npt.NDArray[np.float32],
    excused: frozenset[str] = frozenset(),
    carried: Mapping[str, str] | None = None,
) -> bytes:
    """Write `model` as `output` if it meets every clause of the contract but the `excused` ones; returns its bytes.

    Args:
        model: what is to be written; it gets the `carried` entries.
        output: the file to write.
        shape: of its input.
        segments_db: [segment, mel, frame] dB, real segments for the clauses.
        excused: names of clauses that need not be met.
        carried: further metadata, keys with their prefix.

    Raises:
        ExportError: a clause is not met, the file would be too large for ONNX, or the system refuses.
    """
    if carried:
        _carry(model, carried, output)
    data = serialise(model)
    # The clauses look at a file, so they get one that no other process sees.
    with temporary_folder() as directory:
        trial = directory / output.name
        trial.write_bytes(data)
        clauses = check_contract(trial, shape, segments_db[:_TRIED_SEGMENTS])
    faults = failures([clause for clause in clauses if clause.name not in excused])
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in faults)
        raise ExportError(f"{output} was not written; the model does not meet the drop-in contract:\n{listed}")
    try:
        write_bytes_atomically(output, data)
    except OSError as error:
        raise ExportError(f"{output} cannot be written: {error.strerror or reason(error)}") from error
    return data


def _carry(model: onnx.ModelProto, carried: Mapping[str, str], output: Path) -> None:
    """Add entries to the metadata of `model`. Raises ExportError where protobuf could not write it."""
    if model.ByteSize() + sum(map(len, carried.values())) > MAX_BYTES - 1024:
        raise ExportError(
            f"{output} was not written: with the weights to train on from it would have more than 2 GB, which ONNX "
            "cannot hold; leave --with-weights out, and give the .pt along"
        )
    set_metadata(model, {**get_metadata(model), **carried})


def trace(student: nn.Module, recipe: Recipe) -> onnx.ModelProto:
    """`student` as an ONNX graph: one static input, one output, opset 17, IR 8, constants folded.

    BatchNorm behind a convolution is folded into it by the exporter, because the student is in eval mode; one behind a
    linear layer by `fold`.

    Raises:
        ExportError: the exporter does not know an operation of the student.
    """
    shape = Shape.of(recipe).full
    # Inside the range of music, so that nothing is traced at an extreme.
    example = torch.linspace(-80.0, 20.0, shape[2] * shape[3]).reshape(shape)
    with temporary_folder() as directory:
        traced = directory / "traced.onnx"
        _export(student, example, traced)
        model = fold(onnx.load(str(traced)))
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "student-clap", version("student-clap")
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, (1, EMBEDDING_DIM))
    )
    return model


def _export(student: nn.Module, example: torch.Tensor, path: Path) -> None:
    try:
        with _quiet_exporter(), torch.no_grad():
            torch.onnx.export(
                student,
                (example,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                do_constant_folding=True,
                training=torch.onnx.TrainingMode.EVAL,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ExportError(f"the student cannot be exported to ONNX: {reason(error)}") from error


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the legacy exporter says of itself, and tracing's remarks on shapes, which are static here.

    The fused attention of torch's encoder layers has no ONNX form; the composed one has.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*legacy TorchScript-based ONNX export", DeprecationWarning)
            warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
            warnings.filterwarnings("ignore", "Converting a tensor to a Python")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
