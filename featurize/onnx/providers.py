"""Where onnxruntime computes: its execution providers under short names, `cpu`, `cuda`, `migraphx`, ...

Which there are depends on the package that is installed (onnxruntime, onnxruntime-gpu, ...) and so on the machine:
ask where the model will run. Cost: imports onnxruntime.
"""

from __future__ import annotations

from student_clap.featurize.onnx.graph import ModelError

AUTO = "auto"
CPU = "cpu"
_SUFFIX = "ExecutionProvider"
# Those that run any graph at once, the usual ones first. TensorRT is not among them: it compiles for minutes.
_GPUS = ("cuda", "migraphx", "rocm", "dml")
_REMOTE = "azure"  # sends the work away
# cuDNN's own default tries every algorithm for every shape, also for that of a track's last, smaller batch; and an
# arena that doubles takes the memory of the other workers on the same GPU.
_OPTIONS: dict[str, dict[str, str]] = {
    "cuda": {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
}
Provider = str | tuple[str, dict[str, str]]


def available() -> tuple[str, ...]:
    """The short names of what the installed onnxruntime offers on this machine."""
    import onnxruntime

    names = (name.removesuffix(_SUFFIX).lower() for name in onnxruntime.get_available_providers())
    return tuple(name for name in names if name != _REMOTE)


def chosen(name: str, setting: str = "teacher.provider", special: str = AUTO) -> tuple[str, ...]:
    """The providers to try, the best one first.

    Args:
        name: a short name; AUTO takes the best GPU that is offered, else the CPU.
        setting: what named it, for the error.
        special: the word that may stand there in the place of a name, for the error.

    Raises:
        ModelError: it is not offered here; those that are are listed.
    """
    there = available()
    if name == AUTO:
        return (*(gpu for gpu in _GPUS if gpu in there), CPU)
    if name not in there:
        raise ModelError(
            f"{setting} {name}: the onnxruntime of this machine offers {', '.join(sorted(there))}; choose one of"
            f" those or {special}, or install the package that has it (onnxruntime-gpu for cuda)"
        )
    return (name,)


def for_session(name: str) -> list[Provider]:
    """What onnxruntime is told: the provider, and the CPU for the nodes that it does not take."""
    import onnxruntime

    full = {full.removesuffix(_SUFFIX).lower(): full for full in onnxruntime.get_available_providers()}
    asked: Provider = (full[name], _OPTIONS[name]) if name in _OPTIONS else full[name]
    return [asked] if name == CPU else [asked, full[CPU]]
