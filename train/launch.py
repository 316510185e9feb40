"""Several processes that train together: ``python -m student_clap.train.launch --nproc-per-node 4 -- --run NAME``.

Takes torchrun's options, and those of `student-clap train` behind the two dashes. torchrun itself ends with 1 and its
own traceback after Ctrl-C, SIGTERM, or a process that ended with an exit code: its agent, the parent process, raises
what it is sent, and nothing in a child can change that. This ends with the code, 130 or 143 after a stop and 138 after
SIGUSR1, as a script that asks the batch system for another turn expects it.
"""

from __future__ import annotations

import os
import sys

from student_clap.config.runtime.leaving import exit_code, leave_at_once

# What torchrun hands on to the processes: its own choice, and SIGUSR1, at which they save and end.
_HANDED_ON = ("--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")


def launch(arguments: list[str]) -> int:
    """Run the processes. Returns the exit code.

    Args:
        arguments: torchrun's options; ``--``; those of `student-clap train`.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    from student_clap.config.runtime.screen import echo
    from student_clap.train.loop.distributed import LAUNCHED

    os.environ[LAUNCHED] = "1"
    at = arguments.index("--") if "--" in arguments else len(arguments)
    try:
        main([*_HANDED_ON, *arguments[:at], "-m", "student_clap.train", "--", *arguments[at + 1 :]])
    except SignalException as stop:
        echo(f"train: all processes are stopped by {stop.sigval.name}", err=True)
        return exit_code(stop.sigval)
    except ChildFailedError as failure:
        rank, first = failure.get_first_failure()
        code = exit_code(-first.exitcode) if first.exitcode < 0 else first.exitcode
        echo(f"train: process {rank} ended with exit code {code}; what it says of it stands above", err=True)
        return code
    return 0


if __name__ == "__main__":
    leave_at_once("train: stopped")
    try:
        code = launch(sys.argv[1:])
    finally:
        leave_at_once()
    sys.exit(code)
