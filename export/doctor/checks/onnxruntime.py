"""What models run on: the execution providers that onnxruntime offers, and whether the one that is asked for starts."""

from __future__ import annotations

from collections.abc import Iterator

from student_clap.export.doctor.check import Area, Check, Finding, Outcome, passed, warning
from student_clap.export.doctor.checks.gpu import has_nvidia_driver
from student_clap.export.doctor.subject import Subject
from student_clap.featurize.onnx.graph import ModelError
from student_clap.featurize.onnx.providers import CPU, available, chosen
from student_clap.featurize.onnx.session import OnnxSession


def _look(subject: Subject) -> Iterator[Finding]:
    there = available()
    wanted = chosen(subject.config.teacher.provider)  # raises ModelError, with what there is
    for provider in wanted:
        try:
            OnnxSession(_smallest_model(), provider=provider)
        except ModelError as error:
            if provider == wanted[-1]:
                raise
            yield warning(error.message, f"until then {wanted[-1]} is used")
        else:
            yield passed(f"offers {', '.join(there)}; models run on {provider}")
            break
    if has_nvidia_driver() and not {"cuda", "tensorrt"} & set(there):
        yield warning(
            f"there is an NVIDIA driver, but onnxruntime offers {', '.join(there)}: the teacher, embed and reembed"
            f" compute on the {CPU}",
            "install onnxruntime-gpu in the place of onnxruntime",
        )


def _smallest_model() -> bytes:
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "smallest", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = onnx.ModelProto.SerializeToString(model)
    return content


CHECK = Check("onnxruntime", Area.MACHINE, _look, late=Outcome.WARNING)
