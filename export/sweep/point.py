"""`student-clap train` in a process that ends in order when whoever started it is gone: ``python -m ...point OPTIONS``.

Standard input is a pipe of which the parent alone holds the other end. When that is closed, by the parent or by its
death, kill -9 included, the training is asked to stop as by SIGTERM: it saves itself and ends with 143. A batch system
that ends a job sends SIGTERM to parent and training, which is then asked twice and saves itself all the same.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from student_clap.config.__main__ import run
from student_clap.config.runtime.signals import RELAYED


def _stop_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    os.environ[RELAYED] = "1"
    threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()
    run(["train", *sys.argv[1:]])
