"""The table of formats: every file is made, heard and compared with production, in a process that may end of it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from trials.damaged import damaged_cases, given_cases
from trials.healthy import Case, healthy_cases
from trials.heard import judge
from trials.music import Music, by_libsndfile
from trials.trial import Trial

_PATIENCE_S = 300.0  # for one file


def formats_table(folder: Path, music: Music, given: Path | None, only: str = "") -> Iterator[Trial]:
    """Try them all.

    Args:
        folder: for the files, one at a time.
        music: what they are made of.
        given: a folder with more of them.
        only: those alone whose name holds this text.
    """
    loud = folder / "loud.wav"
    loud.write_bytes(by_libsndfile(np.full((600_000, 2), 0.9, np.float32), 44_100, "WAV", "PCM_16"))
    pool = _new_pool()
    for case in _cases(music, given):
        if only not in case.name:
            continue
        # The names of formats and damages are no names of files.
        path = folder / f"case{Path(case.name).suffix}"
        path.write_bytes(case.make())
        try:
            work = pool.submit(judge, case.name, path, loud, healthy=case.healthy, whole_s=case.whole_s)
            yield work.result(_PATIENCE_S)
        except (BrokenProcessPool, TimeoutError) as error:
            yield Trial(case.name, "ended the process", f"{type(error).__name__}")
            pool = _new_pool()
        except Exception as error:  # noqa: BLE001  whatever was raised is what the table is to show
            yield Trial(case.name, "raised", f"{type(error).__name__}: {error}")
        path.unlink()
    pool.shutdown()


def _cases(music: Music, given: Path | None) -> Iterator[Case]:
    yield from healthy_cases(music)
    yield from damaged_cases(music)
    if given is not None:
        yield from given_cases(given)


def _new_pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
