"""A request to stop is never lost, wherever in the program it arrives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from student_clap.config.runtime.signals import Stopped, stoppable


class Dying:
    """Gets a signal in its finaliser, where Python drops exceptions."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # the handler runs here
            pass


def lose_something() -> None:
    dying = Dying()
    del dying
    time.sleep(30)


def be_interrupted() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)


def test_a_signal_in_a_finaliser_stops_the_block_after_it() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped) as stopped, stoppable():
        lose_something()
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_stops_the_block_at_once() -> None:
    with pytest.raises(Stopped) as stopped, stoppable():
        be_interrupted()
    assert stopped.value.exit_code == 128 + signal.SIGINT


PATIENT = """
import os, signal, threading, time
from student_clap.config.runtime.signals import leave_signals_to_parent
leave_signals_to_parent(grace_s=0.2)
print("ready", flush=True)
time.sleep(100)
"""


@pytest.mark.slow
def test_a_process_leaves_signals_to_its_parent_and_ends_after_a_sigterm_all_the_same() -> None:
    with subprocess.Popen([sys.executable, "-c", PATIENT], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 0
