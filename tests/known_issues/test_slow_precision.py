"""bfloat16 on a processor without instructions for it is several times slower: the trainer says so, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.train.conftest import make_library

from student_clap.config.runtime.machine import multiplies_bfloat16
from student_clap.train.command import train

WARNING = "warning: training.precision is bfloat16, for which this processor has no instructions"


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("flags\t\t: fpu sse2 avx2 avx512f", False),
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16", True),
        ("processor\t: 0", True),
    ],
)
def test_the_processor_tells(flags: str, has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"processor\t: 0\n{flags}\n")
    assert multiplies_bfloat16() is has


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "has", "times"), [("bfloat16", False, 1), ("bfloat16", True, 0), ("auto", False, 0)]
)
def test_a_slow_precision_is_said_once(
    tmp_path: Path, precision: str, has: bool, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("student_clap.train.loop.session.multiplies_bfloat16", lambda: has)
    monkeypatch.setattr("student_clap.train.loop.session.keep_freed_memory", lambda: True)
    library = make_library(tmp_path, [0.5, 1.0, 1.5, 2.0, 2.3, 3.0, 0.8, 1.2])
    config = library.config(training={"precision": precision, "epochs": 1, "warmup_epochs": 0})
    done = CliRunner().invoke(train, ["--config", str(library.config_file(config)), "--run", "a"])
    assert done.exit_code == 0, done.output
    assert done.output.count(WARNING) == times
    assert times == 0 or "auto or float32 is faster here" in done.output
