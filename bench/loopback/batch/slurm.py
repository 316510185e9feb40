"""SLURM: sbatch, srun, squeue, scancel, sinfo, and scontrol's requeue, requeuehold, release and show hostnames.

States and reasons are in SLURM's words. One node; a step's tasks are its processes.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from loopback.batch.base import Command, Queue


def _sbatch(queue: Queue, arguments: list[str]) -> None:
    queue.refuse_if_told()
    at = next((n for n, word in enumerate(arguments) if not word.startswith("--")), len(arguments))
    options, named = arguments[:at], arguments[at:]  # the script, and what is for it
    script = Path(named[0]).read_text(encoding="utf-8") if named else sys.stdin.read()
    job = queue.add(script)
    said = re.findall(r"^#SBATCH\s+(.*\S)", script, re.MULTILINE) + options
    values = dict(re.findall(r"(--[\w-]+|-o)[= ](\S+)", "\n".join(said)))
    output = values.get("-o", values.get("--output", "slurm-%j.out")).replace("%J", job).replace("%j", job)
    tasks = int(values.get("--nodes", "1")) * int(values.get("--ntasks-per-node", "1"))
    queue.submit(
        job, ["bash", str(queue.file(job, "script")), *named[1:]], output.strip("'"), SLURM_JOB_ID=job,
        SLURM_JOB_NODELIST="localhost", SLURM_NTASKS=values.get("--ntasks", str(tasks)),
    )  # fmt: skip
    print(job)


def _srun(queue: Queue, arguments: list[str]) -> None:
    """The tasks of a step, which ends with the largest of their exit codes."""
    command = arguments[next(n for n, word in enumerate(arguments) if not word.startswith("--")) :]
    number = int(os.environ["SLURM_NTASKS"])
    tasks = [subprocess.Popen(command, env={**os.environ, "SLURM_PROCID": str(rank)}) for rank in range(number)]
    steps = queue.file(os.environ["SLURM_JOB_ID"], "steps")
    steps.write_text(" ".join(str(task.pid) for task in tasks), encoding="ascii")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the tasks have it themselves, and are waited for
    sys.exit(max(code if code >= 0 else 128 - code for code in (task.wait() for task in tasks)))


def _squeue(queue: Queue, arguments: list[str]) -> None:
    asked = next(a.partition("=")[2].split(",") for a in arguments if a.startswith("--jobs="))
    reasons = {job: queue.reason(job) for job in asked}
    lines = [f"{job}|PENDING|{reason}" for job, reason in reasons.items() if reason is not None]
    lines += [f"{job}|RUNNING|None" for job, reason in reasons.items() if reason is None and queue.runs(job)]
    if not lines:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print("\n".join(lines))


def _scancel(queue: Queue, arguments: list[str]) -> None:
    """Cancel; or, with --signal, send a signal to the steps alone."""
    named = [word.partition("=")[2] for word in arguments if word.startswith("--signal=")]
    for job in (word for word in arguments if not word.startswith("--")):
        if not named:
            queue.cancel(job)
            continue
        for pid in queue.file(job, "steps").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.Signals[f"SIG{named[0]}"])


def _sinfo(queue: Queue, arguments: list[str]) -> None:  # noqa: ARG001
    print("debug*|1|2|8000|infinite\nlong|4|64|256000|7-00:00:00")


def _scontrol(queue: Queue, arguments: list[str]) -> None:
    does, *rest = arguments
    if does == "show":
        print(rest[1])
    elif does == "release":
        queue.start(rest[0])
    else:
        queue.wait(rest[0], "BeginTime" if does == "requeue" else "job requeued in held state")
        queue.signal(rest[0], signal.SIGTERM)


COMMANDS: dict[str, Command] = {
    "sbatch": _sbatch,
    "srun": _srun,
    "squeue": _squeue,
    "scancel": _scancel,
    "sinfo": _sinfo,
    "scontrol": _scontrol,
}
