"""The stages by their real commands, as a user types them, in a folder configured for a `LoopbackWorld`.

Guarantee: a stage's output is on our screen, its failure is a StageError, and it does not outlive us.
"""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from student_clap.config.formats.fill_in import filled
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.leaving import exit_code
from student_clap.config.runtime.screen import echo
from student_clap.config.runtime.signals import Stopped
from student_clap.export.demo.world import LoopbackWorld


class StageError(click.ClickException):
    """A stage failed, or cannot be begun; the message is for the user."""


@dataclass(frozen=True)
class StageCost:
    """What a stage took."""

    wall_s: float
    cpu_s: float  # of all its processes


def configure(folder: Path, world: LoopbackWorld, chosen: Mapping[str, object]) -> None:
    """Write config.yaml and .env as a user would: `student-clap init`, then fill in."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.yaml").exists():
        run_stage("init --defaults", folder)
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    write_text_atomically(folder / "config.yaml", filled(text, chosen))
    environment = "".join(f"{name}={value}\n" for name, value in world.environment().items())
    write_text_atomically(folder / ".env", f"# A database and a server of its own; gone when it ends.\n{environment}")
    echo(f"\nFilled in, in {folder}:")
    echo("  .env         " + " ".join(world.environment()))
    for section in dict.fromkeys(path.partition(".")[0] for path in chosen):
        own = [(k.partition(".")[2], v) for k, v in chosen.items() if k.startswith(f"{section}.")]
        echo(f"  config.yaml  {section}: " + ", ".join(f"{key} {value}" for key, value in own))


def run_stage(stage: str, folder: Path) -> StageCost:
    """Run `student-clap STAGE` in `folder`, its output on our screen. Raises StageError when it fails."""
    command = [*student_clap_command(), *shlex.split(stage)]
    # The stages read .env; a variable of the same name in the user's environment would win over it.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("DB_", "JELLYFIN_"))}
    echo(f"\n$ student-clap {stage}")
    began, used = time.monotonic(), _children_cpu_s()
    with subprocess.Popen(command, cwd=folder, env=clean) as process:
        try:
            status = process.wait()
        except BaseException:
            _stop(process)
            raise
    if status:
        raise StageError(f"`student-clap {stage}` failed with exit status {status}; its own message stands above")
    cost = StageCost(time.monotonic() - began, _children_cpu_s() - used)
    echo(f"({cost.wall_s:.0f} s)")
    return cost


def student_clap_command() -> list[str]:
    """The command, by the Python that runs this."""
    return [sys.executable, "-P", "-m", "student_clap.config"]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a stage that is interrupted. Ctrl-C has reached it already, so it may finish what it must."""
    try:
        if _by_ctrl_c(sys.exception()):
            process.wait(10)
            return
        process.terminate()
        process.wait(10)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()


def _by_ctrl_c(error: BaseException | None) -> bool:
    stopped = isinstance(error, Stopped) and error.exit_code == exit_code(signal.SIGINT)
    return stopped or isinstance(error, KeyboardInterrupt)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
