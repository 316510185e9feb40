"""The program `student-clap`: the command group, with nothing imported before signals are taken care of.

The interpreter's own start is the one moment at which Ctrl-C is still Python's.
"""

from __future__ import annotations

from student_clap.config.runtime.leaving import leave, leave_at_once


def run(arguments: list[str] | None = None) -> None:
    """Run the command that `arguments`, or the command line, ask for. Does not return."""
    leave_at_once("student-clap: stopped")
    from student_clap.config.cli import main

    try:
        main(arguments, prog_name="student-clap")
    except SystemExit as end:
        leave_at_once()
        leave(end)
    finally:
        leave_at_once()


if __name__ == "__main__":
    run()
