"""Grid Engine: qsub, qstat, qalter -w v, qconf, qdel and qrls; they print what Son of Grid Engine 8.1.9 printed."""

from __future__ import annotations

import re
import sys

from loopback.batch.base import Command, Queue

_ENTRY = """    <job_list state="{list}">
      <JB_job_number>{job}</JB_job_number>
      <JAT_prio>0.50000</JAT_prio>
      <JB_name>student-clap</JB_name>
      <state>{letters}</state>
      <queue_name></queue_name>
      <slots>1</slots>
    </job_list>"""
_ENVIRONMENTS = {"mpi": "$round_robin", "smp": "$pe_slots"}


def _qsub(queue: Queue, arguments: list[str]) -> None:
    queue.refuse_if_told()
    if arguments != ["-terse"]:
        sys.exit(f"qsub: Unknown option {arguments}")
    script = sys.stdin.read()
    job = queue.add(script)
    folder = re.findall(r"^#\$ -o (.*)/$", script, re.MULTILINE)[0].strip("'")
    queue.submit(job, ["bash", str(queue.file(job, "script"))], f"{folder}/student-clap.o{job}", JOB_ID=job)
    print(job)


def _letters(reason: str | None) -> str:
    if reason is None:
        return "r"
    return "hqw" if "hold state" in reason else "Eqw" if reason.startswith("error") else "qw"


def _qstat(queue: Queue, arguments: list[str]) -> None:
    if arguments[0] == "-j":
        print(f"job_number:                 {arguments[1]}")
        if (reason := queue.reason(arguments[1])) is not None:
            print(f"error reason          1:      11/26/2026 12:20:11 [0:27553]: {reason}")
        return
    there = [(job, _letters(queue.reason(job))) for job in queue.jobs if queue.there(job)]
    print("<?xml version='1.0'?>\n<job_info>\n  <queue_info>")
    print("\n".join(_ENTRY.format(list="running", job=job, letters=state) for job, state in there if state == "r"))
    print("  </queue_info>\n  <job_info>")
    print("\n".join(_ENTRY.format(list="pending", job=job, letters=state) for job, state in there if state != "r"))
    print("  </job_info>\n</job_info>")


def _qalter(queue: Queue, arguments: list[str]) -> None:
    reason = queue.reason(arguments[2]) or ""
    if reason.startswith("cannot run"):
        sys.stdout.write(f"Job {arguments[2]} {reason}\nverification: no suitable queues\n")
        sys.exit(1)
    print("verification: found suitable queue(s)")


def _qconf(queue: Queue, arguments: list[str]) -> None:  # noqa: ARG001
    if arguments == ["-spl"]:
        print("\n".join(_ENVIRONMENTS))
    else:
        print(
            f"pe_name            {arguments[1]}\nslots              8\nallocation_rule    {_ENVIRONMENTS[arguments[1]]}"
        )


def _qdel(queue: Queue, arguments: list[str]) -> None:
    for job in arguments:
        queue.cancel(job)
        print(f"someone has registered the job {job} for deletion")


def _qrls(queue: Queue, arguments: list[str]) -> None:
    queue.start(arguments[0])


COMMANDS: dict[str, Command] = {
    "qsub": _qsub,
    "qstat": _qstat,
    "qalter": _qalter,
    "qconf": _qconf,
    "qdel": _qdel,
    "qrls": _qrls,
}
