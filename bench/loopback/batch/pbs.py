"""PBS: qsub, qstat -f, qdel and qrls, in the words of OpenPBS's manual pages."""

from __future__ import annotations

import re
import sys

from loopback.batch.base import Command, Queue

SERVER = "pbs01"


def _qsub(queue: Queue, arguments: list[str]) -> None:  # noqa: ARG001
    queue.refuse_if_told()
    script = sys.stdin.read()
    job = queue.add(script)
    folder = re.findall(r"^#PBS -o (.*)/$", script, re.MULTILINE)[0].strip("'")
    name = f"{job}.{SERVER}"
    queue.submit(job, ["bash", str(queue.file(job, "script"))], f"{folder}/{name}.OU", PBS_JOBID=name)
    print(name)


def _qstat(queue: Queue, arguments: list[str]) -> None:
    code = 0
    for name in arguments[1:]:
        job = name.partition(".")[0]
        if job not in queue.jobs:
            print(f"qstat: Unknown Job Id {name}", file=sys.stderr)
            code = 153
        elif not queue.there(job):
            words = f"{name} Job has finished, use -x or -H to obtain historical job information"
            print(f"qstat: {words}", file=sys.stderr)
            code = 35
        else:
            reason = queue.reason(job)
            print(f"Job Id: {name}\n    Job_Name = student-clap\n    Job_Owner = someone@login.example")
            letter = "R" if reason is None else "H" if "held" in reason else "Q"
            print(f"    job_state = {letter}\n    queue = workq\n    Resource_List.ncpus = 1")
            if reason is not None:
                comment = f"    comment = {reason}"  # lines end at 80 characters, and go on behind a tab
                print("\n\t".join(comment[n : n + 79] for n in range(0, len(comment), 79)))
            print("    etime = Thu Nov 26 12:00:00 2026\n")
    sys.exit(code)


def _qdel(queue: Queue, arguments: list[str]) -> None:
    for name in arguments:
        queue.cancel(name.partition(".")[0])


def _qrls(queue: Queue, arguments: list[str]) -> None:
    queue.start(arguments[0].partition(".")[0])


COMMANDS: dict[str, Command] = {"qsub": _qsub, "qstat": _qstat, "qdel": _qdel, "qrls": _qrls}
