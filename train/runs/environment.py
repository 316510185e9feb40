"""The environment of a run: versions, machine, git revision."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

_GIT_TIMEOUT_S = 10


def describe_environment() -> dict[str, str | int | None]:
    """Versions and machine, as plain JSON values."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "student_clap": version("student-clap"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "zarr": version("zarr"),
        "cuda": torch.version.cuda if cuda else None,
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }


def git_revision() -> str | None:
    """Commit of this package's checkout, with ``-dirty`` where files differ; None where it is installed otherwise."""
    git = shutil.which("git")
    if git is None:
        return None
    here = Path(__file__).resolve()

    def ask(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                [git, "-C", str(here.parent), *arguments],
                capture_output=True,
                text=True,
                timeout=_GIT_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # Inside somebody else's repository (a virtual environment in a checkout) this file is not tracked.
    if ask("ls-files", "--error-unmatch", here.name) is None:
        return None
    revision = ask("rev-parse", "HEAD")
    changed = ask("status", "--porcelain", "--untracked-files=no")
    return f"{revision}-dirty" if revision and changed else revision
