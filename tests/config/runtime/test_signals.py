"""A request to stop is never lost, wherever in the program it arrives."""

from __future__ import annotations

import os
import signal
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
