"""What training computes on: the GPUs that torch can use."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from student_clap.config.formats.json_text import parse_json
from student_clap.config.runtime.machine import available_cores, processor
from student_clap.config.runtime.text import one_line
from student_clap.export.doctor.check import Area, Check, Finding, Outcome, failure, passed, warning
from student_clap.export.doctor.subject import Subject
from student_clap.export.doctor.versions import installed

_PROBE = "student_clap.export.doctor.torch_probe"
_BEFORE_THE_END_S = 0.3  # the probe is ended by us, and does not outlive us


def has_nvidia_driver() -> bool:
    """Whether the machine has an NVIDIA driver, and so a GPU that programs may or may not be able to use."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _look(subject: Subject) -> Iterator[Finding]:
    if installed("torch") is None:
        yield passed("torch is not installed, and none is needed to use a model; the extra train brings it")
        return
    limit_s = max(0.0, subject.left_s() - _BEFORE_THE_END_S)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", _PROBE], capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        yield warning(f"torch was not loaded within {limit_s:.1f} s", "try again when the machine has less to do")
        return
    if done.returncode:
        why = one_line((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
        yield failure(f"torch cannot be used: {why}", "install it again, or mend the GPU's driver")
        return
    found = parse_json(done.stdout)
    torch = f"torch {found['version']}"
    if found["gpus"]:
        yield passed(f"{torch} uses {', '.join(found['gpus'])}")
    elif has_nvidia_driver():
        built = f"is built for CUDA {found['built_for']}" if found["built_for"] else "is built for the CPU alone"
        yield warning(
            f"there is an NVIDIA driver, but {torch}, which {built}, finds no GPU: train computes on the CPU",
            "update the driver, give the container the GPU, or install a torch for it",
        )
    else:
        yield passed(f"none; {torch} computes on the CPU, {available_cores()} cores of {processor()}")


CHECK = Check("gpu", Area.MACHINE, _look, late=Outcome.WARNING)
