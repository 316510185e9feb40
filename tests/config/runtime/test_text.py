"""Text for a screen: durations, sizes, foreign text."""

from __future__ import annotations

import math

import pytest

from student_clap.config.runtime.text import one_line, printable, readable_duration, reason


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (0.0, "less than 1 s"),
        (1.4, "1 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (3569.0, "59 min"),
        (3571.0, "1 h"),
        (4810.0, "1 h 20 min"),
        (172_000.0, "47 h 47 min"),
        (172_795.0, "2 d"),
        (200_000.0, "2 d 8 h"),
        (math.nan, "unknown"),
        (math.inf, "unknown"),
        (-1.0, "unknown"),
    ],
)
def test_durations_in_words(duration_s: float, text: str) -> None:
    assert readable_duration(duration_s) == text


@pytest.mark.parametrize("code", ["\x1b[2J", "\x07", "\r", "\x9b31m", "\u202e", "\x00"])
def test_control_codes_do_not_reach_the_screen(code: str) -> None:
    assert all(c.isprintable() for c in one_line(f"a {code} title"))
    assert printable(f"one{code}\n\ttwo").count("\n") == 1
    assert all(c.isprintable() or c in "\n\t" for c in printable(f"one{code}\n\ttwo"))


def test_a_reason_is_one_line_and_never_empty() -> None:
    assert reason(OSError("first\nsecond")) == "first second"
    assert reason(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(reason(ValueError("x" * 10_000))) == 300
