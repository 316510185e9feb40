"""What is fuzzed: a reader, the errors that it may raise, and files to begin with."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

MOST_S = 5.0  # of CPU, for one input
SEEDS = Path(__file__).resolve().parent / "seeds"


class SlowError(Exception):
    """A reader took longer than MOST_S."""


@dataclass(frozen=True)
class Target:
    """A reader of foreign data.

    Args:
        name: of the target, of its module and of its folder of seeds.
        run: reads the bytes in a folder that is empty at first and may be written to.
        documented: the errors that `run` may raise: those that become one line.
        seeds: valid inputs.
        mutate: makes another input of one, in a way that suits the format; None where it cannot.
    """

    name: str
    run: Callable[[bytes, Path], object]
    documented: tuple[type[Exception], ...]
    seeds: Callable[[], Iterable[bytes]]
    mutate: Callable[[bytes, random.Random], bytes | None] | None = None

    def test(self, data: bytes, folder: Path) -> bool:
        """Run once. Whether the data were read; False where they were refused in a documented way.

        Raises:
            SlowError: it took too long.
            Exception: any other error is a finding.
        """
        begin = time.process_time()
        try:
            self.run(data, folder)
        except self.documented as error:
            if "\n" in str(getattr(error, "message", error)).split(":\n", 1)[-1].rstrip() and not _is_list(error):
                raise ValueError(f"a message of several lines: {error!r}") from error
            return False
        finally:
            if time.process_time() - begin > MOST_S:
                raise SlowError(f"{time.process_time() - begin:.1f} s for {len(data)} bytes")
        return True

    def kept(self) -> list[Path]:
        """Inputs that were findings once."""
        return sorted((SEEDS / self.name).glob("*.bin"))


def work_folder() -> Path:
    """The folder for files that are made and read thousands of times."""
    memory = Path("/dev/shm")  # noqa: S108  a folder of its own is made in it
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else Path.cwd()


def _is_list(error: Exception) -> bool:
    """A ConfigError lists its faults, each on its line."""
    return type(error).__name__ == "ConfigError"
