"""sbatch, squeue and scancel that run jobs as processes of this machine. Everything of a SLURM run but SLURM."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

_SCRIPT = """#!{python}
import os, signal, subprocess, sys
from pathlib import Path

folder = Path({folder!r})
name, arguments = Path(sys.argv[0]).name, sys.argv[1:]

def alive(job):
    try:
        state = Path(f"/proc/{{(folder / job / 'pid').read_text()}}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"

if name == "sbatch":
    if (folder / "refuse").exists():
        sys.exit("sbatch: error: Batch job submission failed: Invalid account or account/partition combination")
    job = str(1 + sum(entry.name.isdecimal() for entry in folder.iterdir()))
    (folder / job).mkdir()
    script = folder / job / "script"
    script.write_text(sys.stdin.read())
    output = [l.split()[-1].replace("%J", job) for l in script.read_text().splitlines() if l.startswith("#SBATCH -o")]
    with open(output[0], "w") as log:
        process = subprocess.Popen(
            ["bash", str(script)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            env={{**os.environ, "SLURM_JOB_ID": job}},
        )
    (folder / job / "pid").write_text(str(process.pid))
    print(job)
elif name == "squeue":
    asked = [a.partition("=")[2].split(",") for a in arguments if a.startswith("--jobs=")][0]
    there = [job for job in asked if alive(job)]
    if not there:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print("\\n".join(f"{{job}}|RUNNING|None" for job in there))
elif name == "scancel":
    for job in arguments:
        (folder / job / "cancelled").touch()
        if alive(job):
            os.killpg(int((folder / job / "pid").read_text()), signal.SIGTERM)
"""


class FakeSlurm:
    """The three commands in `folder`/bin, and the jobs that they started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "jobs"
        self.bin = folder / "bin"
        self.folder.mkdir(parents=True)
        self.bin.mkdir()
        for name in ("sbatch", "squeue", "scancel"):
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

    def kill(self, job: str) -> None:
        """End `job` at once, as the failure of its node does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int((self.folder / job / "pid").read_text(encoding="ascii")), signal.SIGKILL)

    def close(self) -> None:
        """End all jobs."""
        for job in self.jobs:
            self.kill(job)
