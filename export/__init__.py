"""ONNX out: export, the drop-in contract, evaluation and report, deploy and rollback, reembed.

For models that `train` did not make there are `judge_vectors`, `figures_table` and `write_module`; what they need is
loaded when one of them is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from student_clap.export.evaluate.judgement import judge_vectors
    from student_clap.export.graph.own_model import write_module
    from student_clap.export.report.terminal import figures_table

__all__ = ["figures_table", "judge_vectors", "write_module"]
_HOMES = {
    "figures_table": "report.terminal",
    "judge_vectors": "evaluate.judgement",
    "write_module": "graph.own_model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
