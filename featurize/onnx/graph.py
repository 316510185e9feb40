"""An ONNX graph as it lies in its file: inputs, nodes, tensors, external data. Reads; runs nothing.

Guarantee: a file that cannot be read is one ModelError with its reason.
Cost: `read_graph` leaves external data where it lies, so a model whose weights are outside costs kilobytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Self

import click

from student_clap.config.runtime.text import reason

if TYPE_CHECKING:
    import onnx

STANDARD_DOMAINS = ("", "ai.onnx")


class ModelError(click.ClickException):
    """The model cannot be used. The message names the file and the reason, on one line."""


@dataclass(frozen=True)
class GraphValue:
    """An input or output of a graph."""

    name: str
    kind: str  # the element's type as ONNX spells it, such as "FLOAT"; "" where the file does not say
    dims: tuple[int | str | None, ...]  # a number, a symbol's name, or None where there is neither

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.dims)
        return f"{self.name} {self.kind or 'of no type'} [{dims}]"


@dataclass(frozen=True)
class Declaration:
    """The ends and the metadata that a model file declares."""

    inputs: tuple[GraphValue, ...]  # those that must be fed
    outputs: tuple[GraphValue, ...]
    metadata: dict[str, str]

    @classmethod
    def of_model(cls, model: onnx.ModelProto) -> Self:
        """As the protobuf message has it."""
        return cls(
            tuple(_value(value) for value in fed_inputs(model.graph)),
            tuple(_value(value) for value in model.graph.output),
            {entry.key: entry.value for entry in model.metadata_props},
        )

    @classmethod
    def of_session(cls, session: Any) -> Self:
        """As an onnxruntime session has it."""

        def values(ends: Any) -> tuple[GraphValue, ...]:
            return tuple(GraphValue(end.name, _KINDS.get(end.type, end.type), tuple(end.shape)) for end in ends)

        metadata = dict(session.get_modelmeta().custom_metadata_map)
        return cls(values(session.get_inputs()), values(session.get_outputs()), metadata)


# onnxruntime's spelling of the types that audio models have at their ends.
_KINDS = {
    f"tensor({theirs})": ours
    for theirs, ours in {
        "float": "FLOAT",
        "double": "DOUBLE",
        "float16": "FLOAT16",
        "bfloat16": "BFLOAT16",
        "bool": "BOOL",
        **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    }.items()
}


def read_graph(path: Path) -> onnx.ModelProto:
    """The file's model without its external data.

    Raises:
        ModelError: there is no such file, or it is not an ONNX file.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf and the operating system raise types without a common base
        raise ModelError(f"{path} is not an ONNX file: {reason(error)}") from error
    if not model.graph.node:  # an empty file is a valid, empty protobuf message
        raise ModelError(f"{path} is not an ONNX file: it holds no graph")
    if not all(isinstance(text, str) for text in _texts(model)):  # protobuf gives bytes for what is not UTF-8
        raise ModelError(f"{path} is not an ONNX file: it holds names that are not UTF-8")
    return model


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Every text that is read of a model."""
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for value in (*model.graph.input, *model.graph.output):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    yield from (opset.domain for opset in model.opset_import)
    for tensor in tensors(model.graph):
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    for node in nodes(model.graph):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def fed_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that must be fed: those without a default among the initializers."""
    given = {initializer.name for initializer in graph.initializer}
    return [value for value in graph.input if value.name not in given]


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of subgraphs included."""
    for node in graph.node:
        yield node
        for inner in _subgraphs(node):
            yield from nodes(inner)


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and constants, those of subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for inner in _subgraphs(node):
            yield from tensors(inner)


def external_data_names(model: onnx.ModelProto) -> list[str]:
    """Where the file says that weights lie outside of it: paths relative to its folder, each once, in name order."""
    from onnx.external_data_helper import uses_external_data

    outside = (tensor for tensor in tensors(model.graph) if uses_external_data(tensor))
    return sorted({entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"})


def data_outside(path: Path) -> list[str]:
    """Names of external data that lead out of the model's folder; links in it are the user's. Raises ModelError."""
    return [name for name in external_data_names(read_graph(path)) if _leads_out(name)]


def _leads_out(name: str) -> bool:
    return any(".." in kind(name).parts or kind(name).anchor for kind in (PurePosixPath, PureWindowsPath))


def model_files(path: Path) -> list[Path]:
    """The model and the files of its external data that are there. Raises ModelError."""
    return [path, *(file for name in external_data_names(read_graph(path)) if (file := path.parent / name).is_file())]


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _value(value: onnx.ValueInfoProto) -> GraphValue:
    import onnx

    tensor = value.type.tensor_type
    known = tensor.elem_type in onnx.TensorProto.DataType.values()
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type) if known else f"type {tensor.elem_type}"
    kind = kind if tensor.elem_type else ""
    dims = tuple(d.dim_param or (d.dim_value if d.HasField("dim_value") else None) for d in tensor.shape.dim)
    return GraphValue(value.name, kind, dims)
