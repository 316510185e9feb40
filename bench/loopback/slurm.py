"""SLURM's commands over jobs that are processes of this machine. Everything of a SLURM run but SLURM.

sbatch, squeue, scancel, sinfo, and scontrol's requeue, requeuehold and release. States and reasons are in SLURM's
words.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol")
_SCRIPT = """#!{python}
import json, os, signal, subprocess, sys
from pathlib import Path

folder = Path({folder!r})
name, arguments = Path(sys.argv[0]).name, sys.argv[1:]

def alive(job):
    try:
        state = Path(f"/proc/{{(folder / job / 'pid').read_text()}}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"

def start(job):
    script = (folder / job / "script").read_text()
    output = [l.split()[-1].replace("%J", job) for l in script.splitlines() if l.startswith("#SBATCH -o")]
    with open(output[0], "a") as log:
        process = subprocess.Popen(
            ["bash", str(folder / job / "script")], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True, env=json.loads((folder / job / "environment").read_text()),
        )
    (folder / job / "pid").write_text(str(process.pid))
    (folder / job / "waits").unlink(missing_ok=True)

def stop(job):
    if alive(job):
        os.killpg(int((folder / job / "pid").read_text()), signal.SIGTERM)

if name == "sbatch":
    if (folder / "refuse").exists():
        sys.exit("sbatch: error: Batch job submission failed: Invalid account or account/partition combination")
    job = str(1 + sum(entry.name.isdecimal() for entry in folder.iterdir()))
    (folder / job).mkdir()
    (folder / job / "script").write_text(sys.stdin.read())
    (folder / job / "environment").write_text(json.dumps({{**os.environ, "SLURM_JOB_ID": job}}))
    if (folder / "reason").exists():
        (folder / job / "waits").write_text((folder / "reason").read_text())
    else:
        start(job)
    print(job)
elif name == "squeue":
    asked = [a.partition("=")[2].split(",") for a in arguments if a.startswith("--jobs=")][0]
    waits = {{job: folder / job / "waits" for job in asked}}
    lines = [f"{{job}}|PENDING|{{file.read_text()}}" for job, file in waits.items() if file.exists()]
    lines += [f"{{job}}|RUNNING|None" for job, file in waits.items() if not file.exists() and alive(job)]
    if not lines:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print("\\n".join(lines))
elif name == "scancel":
    for job in arguments:
        (folder / job / "cancelled").touch()
        (folder / job / "waits").unlink(missing_ok=True)
        stop(job)
elif name == "sinfo":
    print("debug*|1|2|8000|infinite\\nlong|4|64|256000|7-00:00:00")
elif name == "scontrol":
    does, job = arguments
    if does == "release":
        start(job)
    else:
        (folder / job / "waits").write_text("BeginTime" if does == "requeue" else "job requeued in held state")
        stop(job)
"""


class FakeSlurm:
    """The commands in `folder`/bin, and the jobs that they started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "jobs"
        self.bin = folder / "bin"
        self.folder.mkdir(parents=True)
        self.bin.mkdir()
        for name in COMMANDS:
            command = self.bin / name
            command.write_text(_SCRIPT.format(python=sys.executable, folder=str(self.folder)), encoding="utf-8")
            command.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment with the commands on PATH."""
        return {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}

    @property
    def jobs(self) -> list[str]:
        """Job numbers, oldest first."""
        return sorted((entry.name for entry in self.folder.iterdir() if entry.name.isdecimal()), key=int)

    def script(self, job: str) -> str:
        """What was submitted."""
        return (self.folder / job / "script").read_text(encoding="utf-8")

    def cancelled(self, job: str) -> bool:
        """Whether scancel was called for `job`."""
        return (self.folder / job / "cancelled").exists()

    def pend(self, reason: str) -> None:
        """Let the jobs that are submitted from now on wait, for `reason` in squeue's words."""
        (self.folder / "reason").write_text(reason, encoding="utf-8")

    def control(self, does: str, job: str) -> None:
        """`scontrol requeue JOB`, `requeuehold` or `release`; a job that waits starts when it is released."""
        subprocess.run([self.bin / "scontrol", does, job], check=True)

    def kill(self, job: str) -> None:
        """End `job` at once, as the failure of its node does."""
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has ended, or never began
            os.killpg(int((self.folder / job / "pid").read_text(encoding="ascii")), signal.SIGKILL)

    def close(self) -> None:
        """End all jobs."""
        for job in self.jobs:
            self.kill(job)
