"""kill -9 of the real command, anywhere: the next run ends where an undisturbed one would have."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from loopback.processes import ENOUGH_S, killed_at_the_end
from student_clap.export.demo.schema import LoopbackTrack, unit_vector, vector_bytes
from student_clap.store import FeatureStore

pytestmark = pytest.mark.slow


def kill_when(process: Any, reached: Callable[[], bool]) -> bool:
    """Kill `process` as soon as `reached`; False if it ended before."""
    with killed_at_the_end(process):
        while process.poll() is None:
            if reached():
                os.kill(process.pid, signal.SIGKILL)
                return bool(process.wait() == -signal.SIGKILL)
            time.sleep(0.002)
    return False


@contextmanager
def without_an_end(world: Any) -> Iterator[None]:
    """In the block one track's bytes come so slowly that no run ends before it is killed."""
    last = world.tracks[-1].track_id
    world.media.fault(last, "slow_body")
    yield
    del world.media.faults[last]


def rows_in(home: Path) -> int:
    if not (home / "store.zarr/zarr.json").exists():
        return 0
    return FeatureStore.open(home / "store.zarr").n_tracks


def parts_in(home: Path) -> int:
    return sum(1 for _ in (home / "audio").rglob("*.part"))


def sizes_of_parts(home: Path) -> set[int]:
    sizes = set()
    for path in (home / "audio").rglob("*.part"):
        with suppress(FileNotFoundError):  # it got its name meanwhile
            sizes.add(path.stat().st_size)
    return sizes


@pytest.fixture
def world(make_world: Any) -> Any:
    world = make_world(24, generation="B")
    ids = [t.track_id for t in world.tracks]
    world.media.fault(ids[3], "html")
    world.media.fault(ids[7], "status", status=404)
    world.media.fault(ids[11], "status", status=500)
    world.put(LoopbackTrack("bad", "Bad", vector=b"bad"), LoopbackTrack("null"))
    world.put(LoopbackTrack("zz", "No file", vector=vector_bytes(unit_vector(77))))
    world.run(home=world.home / "undisturbed")
    # Slow enough to be met in the middle of files.
    world.media.block_bytes, world.media.block_delay_s = 4096, 0.01
    world.settings = {"ingest": {"concurrency": 2, "timeout_s": ENOUGH_S}}
    return world


def assert_ends_the_same(world: Any, home: Path) -> None:
    world.run(home=home)
    assert world.table(home) == world.table(world.home / "undisturbed")
    assert world.files(home) == world.files(world.home / "undisturbed")
    report, expected = (world.run("--verify", home=h).stdout for h in (home, world.home / "undisturbed"))
    assert report.replace(str(home), "") == expected.replace(str(world.home / "undisturbed"), "")


def test_killed_again_and_again_while_it_fetches(world: Any) -> None:
    home = world.home / "killed"
    kills, parts = 0, 0
    for _ in range(3):
        before = world.media.downloads()
        # In the middle of a file, some downloads after the start.
        kills += kill_when(
            world.start(home=home),
            lambda before=before: world.media.downloads() >= before + 5 and parts_in(home) > 0,
        )
        parts += parts_in(home)
    assert kills >= 2
    assert parts > 0
    assert_ends_the_same(world, home)


def test_killed_while_it_lists(world: Any) -> None:
    home = world.home / "killed"
    with without_an_end(world):
        assert kill_when(world.start(home=home), (home / "store.zarr/teacher/c/0/0").exists)
    assert_ends_the_same(world, home)


def test_killed_before_the_store_was_whole(world: Any) -> None:
    home = world.home / "killed"
    with without_an_end(world):
        assert kill_when(world.start(home=home), lambda: any(home.glob("*store.zarr*")))
    assert_ends_the_same(world, home)


def test_killed_after_a_batch_reached_the_store(world: Any) -> None:
    home = world.home / "killed"

    def some_are_fetched() -> bool:
        path = home / "store.zarr"
        return rows_in(home) > 0 and any(FeatureStore.open(path).strings("audio"))

    with without_an_end(world):
        assert kill_when(world.start(home=home), some_are_fetched)
    assert not world.table(home)["main", world.tracks[-1].track_id]["audio"]  # there was more to come
    assert_ends_the_same(world, home)


def test_killed_in_the_middle_of_files_it_goes_on_where_it_was(make_world: Any, tune_writer: Any) -> None:
    world = make_world(6, generation="B")
    for i, (track_id, path) in enumerate(list(world.media.files.items())):
        # Last-Modified must be older than the answer that carries it.
        world.media.files[track_id] = tune_writer(path.with_name(f"long-{i}.wav"), i, 30.0)
        os.utime(world.media.files[track_id], (1.7e9, 1.7e9))
    world.run(home=world.home / "undisturbed")
    world.media.block_bytes, world.media.block_delay_s = 16_384, 0.01
    world.settings = {"ingest": {"concurrency": 2}}
    home = world.home / "killed"
    left: set[int] = set()  # sizes of what the kills left behind
    for _ in range(3):
        seen = frozenset(left)
        assert kill_when(world.start(home=home), lambda seen=seen: max({0} | sizes_of_parts(home) - seen) > 200_000)
        left |= sizes_of_parts(home)
    world.media.block_delay_s = 0.0
    assert_ends_the_same(world, home)
    asked = [r.headers["range"] for r in world.media.log if "range" in r.headers]
    assert len(asked) >= 3
    assert set(asked) <= {f"bytes={size}-" for size in left}
