"""The commands of batch systems: run with a time limit, their refusals passed on in their own words."""

from __future__ import annotations

import re
import subprocess

from student_clap.config.runtime.text import one_line
from student_clap.featurize.cluster.connection import ClusterError

_ANSWER_S = 120


def call(command: str, *arguments: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of a batch system; it ends with whatever exit code.

    Args:
        command: its name, looked for on PATH.
        arguments: of the command.
        script: what it reads from its standard input.

    Raises:
        ClusterError: it is not there, or hangs.
    """
    try:
        return subprocess.run(
            [command, *arguments],
            input=script or "",
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # users' comments and variables are of any bytes
            timeout=_ANSWER_S,
            check=False,
        )
    except FileNotFoundError:
        raise ClusterError(
            f"there is no {command} on PATH; featurize.cluster submits jobs where that is done by hand, on a login node"
        ) from None
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"{command} did not answer for {_ANSWER_S} s; the batch system's server seems to be down"
        ) from None


def job_number(done: subprocess.CompletedProcess[str], command: str, pattern: str) -> str:
    """The job that was submitted.

    Args:
        done: the answer of the command that submits.
        command: its name.
        pattern: a regular expression whose first group is the job, somewhere in what it printed.

    Raises:
        ClusterError: the job was refused, with the system's words.
    """
    if done.returncode:
        raise ClusterError(f"{command} refuses the job: {one_line(done.stderr) or one_line(done.stdout)}")
    found = re.search(pattern, done.stdout, re.MULTILINE)
    if found is None:
        raise ClusterError(f"{command} answers {one_line(done.stdout)!r}; expected a job number")
    return found[1]


def in_words(state: str, reason: str) -> str:
    """`PENDING (Resources)`; the state alone where there is no reason.

    >>> in_words("RUNNING", ""), in_words("PENDING", "Resources")
    ('RUNNING', 'PENDING (Resources)')
    """
    return f"{state} ({one_line(reason, 200)})" if reason else state


def reason_of(state: str) -> str:
    """The reason in what `in_words` returned.

    >>> reason_of("PENDING (held (by hand))"), reason_of("RUNNING")
    ('held (by hand)', '')
    """
    return state.partition(" (")[2][:-1]
