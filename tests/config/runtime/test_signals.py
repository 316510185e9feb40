"""A request to stop is never lost, wherever in the program it arrives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from student_clap.config.runtime.signals import Stopped, StopRequest, children_ignore_interrupts, stoppable


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


def be_interrupted(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(30)


def test_a_signal_in_a_finaliser_stops_the_block_after_it() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped) as stopped, stoppable():
        lose_something()
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_the_block_at_once(number: signal.Signals) -> None:
    with pytest.raises(Stopped) as stopped, stoppable():
        be_interrupted(number)
    assert stopped.value.exit_code == 128 + number


def test_the_first_request_to_stop_is_noted() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.signal_number == signal.SIGUSR1


def test_processes_that_are_started_ignore_what_reaches_a_whole_group() -> None:
    script = "import signal; print(*(signal.getsignal(n).name for n in (signal.SIGINT, signal.SIGUSR1)))"
    with children_ignore_interrupts():
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "SIG_IGN SIG_IGN\n"


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
        child.send_signal(signal.SIGUSR1)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 0
