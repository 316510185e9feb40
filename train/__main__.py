"""`student-clap train` in several processes: ``torchrun --nproc-per-node 4 -m student_clap.train -- --run NAME``.

The two dashes keep torchrun from taking the options for its own.
"""

from __future__ import annotations

from student_clap.train.command import train

if __name__ == "__main__":
    train()
