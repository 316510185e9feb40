"""`student-clap train` as a module: what `launch` starts in each of several processes."""

from __future__ import annotations

import sys

from student_clap.config.__main__ import run

if __name__ == "__main__":
    run(["train", *sys.argv[1:]])
