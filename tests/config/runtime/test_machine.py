"""Memory that the trainer frees stays with it; a container's quota of cores counts."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from student_clap.config.runtime.machine import available_cores, free_memory_bytes

PROGRAM = """
import resource, sys
import numpy as np
from student_clap.config.runtime.machine import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
np.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(8_000_000)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_blocks_are_not_asked_of_the_kernel_again() -> None:
    faults = {
        how: int(
            subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout
        )
        for how in ("keep", "leave")
    }
    assert faults["keep"] < faults["leave"] / 10


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", None), ("100000 100000", 1), ("20000 100000", 1), ("99999999 100000", None), ("junk", None)],
)
def test_a_container_s_quota_limits_its_cores(tmp_path: Path, quota: str, cores: int | None) -> None:
    everything = available_cores(tmp_path)  # there is no such group
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert available_cores(tmp_path) == (cores or everything)


@pytest.mark.parametrize(("limit", "free"), [("1000000", 900_000), ("max", None), ("10", 0)])
def test_what_was_read_from_files_is_free_memory(tmp_path: Path, limit: str, free: int | None) -> None:
    everything = free_memory_bytes(tmp_path)  # there is no such group
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("950000\n")
    (tmp_path / "memory.stat").write_text("anon 100000\nfile 850000\ninactive_file 850000\nactive_file 0\n")
    found = free_memory_bytes(tmp_path)
    assert found == free if free is not None else found > everything / 2
