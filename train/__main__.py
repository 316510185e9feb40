"""`student-clap train` in several processes: ``torchrun --nproc-per-node 4 -m student_clap.train -- --run NAME``.

The two dashes keep torchrun from taking the options for its own.
"""

from __future__ import annotations

import sys

from student_clap.config.__main__ import run

if __name__ == "__main__":
    run(["train", *sys.argv[1:]])
