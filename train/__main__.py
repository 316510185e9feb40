"""`student-clap train` as a module: what `launch` starts in each of several processes.

torch's agent starts them in sessions of their own, where nothing reaches them when it is killed with -9. They would go
on, and keep the run from the next one.
"""

from __future__ import annotations

import os
import sys

from student_clap.config.__main__ import run
from student_clap.config.runtime.signals import stop_with_parent

if __name__ == "__main__":
    if "TORCHELASTIC_RUN_ID" in os.environ:
        stop_with_parent()
    run(["train", *sys.argv[1:]])
