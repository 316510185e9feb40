"""The audio cache's budget and its disk: what is granted, what makes room, and what a run does when there is none."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from student_clap.config.runtime.text import readable_bytes
from student_clap.config.schema import AudioConfig
from student_clap.ingest.cache import budget as budget_module
from student_clap.ingest.cache.budget import Budget, featurized_audio, of_no_row, reserve_room, spending
from student_clap.ingest.cache.files import AudioCache
from student_clap.ingest.http.errors import FetchError, NoRoomError, SourceError
from student_clap.store import FeatureStore, Recipe, State, Track

Usage = namedtuple("Usage", "total used free")


def fill(root: Path, *sizes: int) -> list[Path]:
    """Files of these sizes, each older than the next."""
    paths = []
    for i, size in enumerate(sizes):
        path = root / f"{i}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
        os.utime(path, (1.7e9 + i, 1.7e9 + i))
        paths.append(path)
    return paths


def set_free(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    """Let the disk have so much free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12 - n_bytes, n_bytes))


# --- reservations


def test_files_and_reservations_together_stay_within_the_budget(tmp_path: Path) -> None:
    fill(tmp_path, 300)
    budget = Budget(tmp_path, 1000)
    first, second = budget.reserve(0), budget.reserve(0)
    first.hold(400)
    with pytest.raises(NoRoomError):
        second.hold(301)
    assert budget.full
    second.hold(300)
    assert budget.used_bytes == 1000
    first.end(0)
    second.wrote(300)
    second.end(300)
    assert budget.used_bytes == 600


def test_a_part_that_is_continued_is_counted_once(tmp_path: Path) -> None:
    fill(tmp_path, 600)
    budget = Budget(tmp_path, 1000)
    reservation = budget.reserve(600)
    reservation.hold(1000)
    assert budget.used_bytes == 1000
    reservation.restart()
    assert budget.used_bytes == 0
    reservation.hold(900)
    reservation.end(900)
    assert budget.used_bytes == 900


def test_the_oldest_make_room_and_no_more_of_them_than_needed(tmp_path: Path) -> None:
    files = fill(tmp_path, 300, 300, 300)
    budget = Budget(tmp_path, 1000, files[:2])
    budget.reserve(0).hold(200)
    assert [p.exists() for p in files] == [False, True, True]
    assert (budget.evicted, budget.evicted_bytes, budget.used_bytes) == (1, 300, 800)
    with pytest.raises(NoRoomError):
        budget.reserve(0).hold(600)
    assert [p.exists() for p in files] == [False, False, True]


def test_a_cache_that_is_over_its_budget_shrinks_at_once(tmp_path: Path) -> None:
    files = fill(tmp_path, 300, 300, 300)
    Budget(tmp_path, 500, files[:2])
    assert [p.exists() for p in files] == [False, False, True]


def test_a_file_larger_than_the_budget_has_a_reason_of_its_own(tmp_path: Path) -> None:
    files = fill(tmp_path, 300)
    budget = Budget(tmp_path, 1000, files)
    with pytest.raises(FetchError, match=r"1\.1 kB, more than the whole of ingest\.max_cache \(1\.0 kB\)") as caught:
        budget.reserve(0).hold(1100)
    assert caught.value.kind == "larger than max_cache"
    assert not caught.value.permanent
    assert files[0].exists()
    assert not budget.full


def test_what_vanished_by_itself_makes_no_room(tmp_path: Path) -> None:
    files = fill(tmp_path, 300, 300)
    budget = Budget(tmp_path, 700, files)
    files[0].unlink()
    budget.reserve(0).hold(300)
    assert budget.evicted == 1
    assert not files[1].exists()


def test_many_threads_never_exceed_it(tmp_path: Path) -> None:
    budget = Budget(tmp_path, 10_000)
    together = threading.Barrier(8)
    seen: list[int] = []
    refusals: list[int] = []

    def one(seed: int) -> None:
        random = np.random.default_rng(seed)
        reservation = budget.reserve(0)
        reservation.hold(1000)
        together.wait()
        for size in (1000 + np.cumsum(random.integers(1, 50, 200))).tolist():
            try:
                reservation.hold(size)
            except NoRoomError:
                refusals.append(size)
            seen.append(budget.used_bytes)
        together.wait()
        reservation.end(0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    assert min(seen) >= 8000
    assert 9900 < max(seen) <= 10_000
    assert refusals
    assert budget.used_bytes == 0


def test_reservations_belong_to_the_thread_of_a_run(tmp_path: Path) -> None:
    budget = Budget(tmp_path, 100)
    reserve_room(0).hold(10**9)  # no budget: everything is granted
    with spending(budget):
        reserve_room(0).hold(60)
        with pytest.raises(NoRoomError):
            reserve_room(0).hold(60)
        with pytest.raises(NoRoomError):
            reserve_room(0)  # no request is made any more
    reserve_room(0).hold(10**9)


# --- which files may go


def test_only_featurized_files_of_the_cache_may_go(tmp_path: Path) -> None:
    recipe = Recipe.from_config(AudioConfig())
    other = Recipe.from_config(AudioConfig(preset="original"))
    with AudioCache(tmp_path / "cache", "s") as cache:
        stems = [cache.stem(f"t{i}") for i in range(8)]
    for i, stem in enumerate(stems):
        fill(stem.parent, 1)
        path = stem.with_suffix(".flac")
        path.write_bytes(b"x")
        os.utime(path, (1.7e9 - i, 1.7e9 - i))
    mine = fill(tmp_path / "music", 10)[0]
    names = [s.with_suffix(".flac").relative_to(tmp_path / "cache").as_posix() for s in stems]
    audio = [*names[:6], str(mine), "../music/0.flac"]
    with FeatureStore.create(tmp_path / "s.zarr", "t") as store:
        store.append_tracks([Track("s", f"t{i}", audio=a, state=State.FETCHED) for i, a in enumerate(audio)])
        assert featurized_audio(store, recipe, tmp_path / "cache") == []
        assert not store.recipes()
        store.features(other).commit([4], [480_000], [""])
        store.features(recipe).commit([0, 1, 3, 5, 6, 7], [480_000, 480_000, -1, 480_000, 480_000, 480_000], [""] * 6)
        stems[5].with_suffix(".flac").unlink()
        found = featurized_audio(store, recipe, tmp_path / "cache")
    assert found == [stems[1].with_suffix(".flac"), stems[0].with_suffix(".flac")]  # oldest first


# --- the disk


def test_a_full_disk_is_told_before_the_first_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, 200_000_000)
    with pytest.raises(SourceError, match=r"200\.0 MB free, and 256\.0 MB must stay free; nothing is lost"):
        Budget(tmp_path).check_disk(5)


@pytest.mark.parametrize(
    ("n_files", "limit", "free", "said"),
    [
        (0, None, 3_000_000_000, r"up to 500 tracks of about 10\.0 MB \(a guess\) make 5\.0 GB, .* 3\.0 GB free"),
        (25, None, 300_000_000, r"about 100\.0 kB \(the mean of 25 files so far\) make 50\.0 MB"),
        (25, None, 310_000_000, None),
        (0, 1_000_000_000, 3_000_000_000, None),
        (0, None, 6_000_000_000, None),
    ],
)
def test_the_estimate_warns_and_names_max_cache(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_files: int,
    limit: int | None,
    free: int,
    said: str | None,
) -> None:
    fill(tmp_path, *[100_000] * n_files)
    set_free(monkeypatch, free)
    messages: list[str] = []
    monkeypatch.setattr(budget_module.logger, "warning", lambda text, *values: messages.append(text % values))
    Budget(tmp_path, limit).check_disk(500)
    if said is None:
        assert not messages
    else:
        (message,) = messages
        assert "--max-cache" in message
        assert re.search(said, message)


def test_the_reserve_holds_during_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fill(tmp_path, 100)
    set_free(monkeypatch, 257_000_000)
    budget = Budget(tmp_path)
    budget.reserve(0).hold(900_000)
    with pytest.raises(SourceError, match="must stay free"):
        budget.reserve(0).hold(900_000)  # would fit but for what the first has yet to write
    # Audio makes room only where a budget was set.
    assert files[0].exists()
    with pytest.raises(SourceError, match="must stay free"):
        Budget(tmp_path, 10**9, files).reserve(0).hold(2_000_000)
    assert not files[0].exists()


# --- whole runs


def mark_made(world: Any) -> int:
    """As featurize would, for every row with audio."""
    with FeatureStore.open(world.home / "store.zarr", "r+") as store:
        features = store.features(Recipe.from_config(AudioConfig()))
        rows = [r for r in np.flatnonzero(store.states() == State.FETCHED).tolist() if not features.made()[r]]
        features.commit(rows, [480_000] * len(rows), [""] * len(rows))
    return len(rows)


def cached_bytes(world: Any) -> int:
    return sum(len(data) for data in world.files().values())


def long_tunes(world: Any, tune_writer: Any) -> int:
    """Let every track have a file of one size; returns it."""
    for i, (track_id, path) in enumerate(list(world.media.files.items())):
        world.media.files[track_id] = tune_writer(path.with_name(f"long-{i}.wav"), i, 5.0)
    return int(path.with_name("long-0.wav").stat().st_size)


@pytest.mark.parametrize("fault", ["", "chunked", "gzip"])
def test_a_library_goes_through_a_cache_that_is_smaller(make_world: Any, tune_writer: Any, fault: str) -> None:
    world = make_world(9)
    size = long_tunes(world, tune_writer)
    for track_id in world.media.files if fault else ():
        world.media.fault(track_id, fault, share=1.0)
    limit = int(4.5 * size)
    # Where lengths are not known before: one at a time, or it is chance who finds room.
    settings = {"concurrency": 1 if fault else 4, "max_cache": f"{limit}B"}
    world.settings = {"ingest": {"concurrency": settings["concurrency"]}}
    result = world.run("--max-cache", f"{limit}B")
    assert "4 fetched" in result.stdout
    assert "5 left for want of room" in result.stdout
    assert "run student-clap featurize, then ingest again" in result.stdout
    assert "left for want of room" in result.stderr
    assert cached_bytes(world) == 4 * size
    first = set(world.files())
    # Without featurize nothing may go.
    assert "0 fetched, 4 already there, 5 left for want of room" in world.run("--max-cache", f"{limit}B").stdout
    assert set(world.files()) == first
    assert mark_made(world) == 4
    result = world.run(ingest=settings)
    assert "4 fetched" in result.stdout
    assert "4 already there, 1 left for want of room" in result.stdout
    assert "removed to make room" in result.stderr
    assert cached_bytes(world) == 4 * size
    assert not first & set(world.files())
    assert mark_made(world) == 4
    result = world.run("--max-cache", f"{limit}B")
    assert "1 fetched" in result.stdout
    assert "room" not in result.stdout
    assert cached_bytes(world) <= limit
    rows = world.table()
    assert {row["state"] for row in rows.values()} == {State.FETCHED}
    assert all(row["audio"] for row in rows.values())


def test_files_of_another_store_use_the_budget_up_and_are_named(make_world: Any, tune_writer: Any) -> None:
    """As after AudioMuse-AI was updated from generation A to B, and a new store begun as docs/ingest.md says."""
    world = make_world(3, generation="B")
    size = long_tunes(world, tune_writer)
    limit = ("--max-cache", f"{3 * size}B")
    with AudioCache(world.home / "audio", "default") as former:
        for name in ("t0", "t1", "t2"):
            stem = former.stem(name)
            stem.parent.mkdir(parents=True, exist_ok=True)
            stem.with_suffix(".wav").write_bytes(bytes(size))
    folder = stem.parent.parent
    for _ in range(2):
        result = world.run(*limit)
        assert "0 fetched, 0 already there, 3 left for want of room" in result.stdout
        assert f"{readable_bytes(3 * size)} of the cache belong to no track of the store" in result.stdout
        assert f"delete what nothing else needs of {folder};" in result.stdout
    shutil.rmtree(folder)
    result = world.run(*limit)
    assert "3 fetched" in result.stdout
    assert "room" not in result.stdout


def test_only_files_of_no_row_are_of_no_row(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    with AudioCache(root, "s") as cache:
        stems = [cache.stem(f"t{i}") for i in range(3)]
        for stem in stems:
            stem.parent.mkdir(parents=True, exist_ok=True)
            stem.with_suffix(".flac").write_bytes(b"12345")
        stems[0].with_suffix(".part.json").write_bytes(b"x")
        stems[0].with_name(f".{stems[0].name}.mp3.abc.partial").write_bytes(b"x")
        (root / "mine.txt").write_bytes(b"123")
        with FeatureStore.create(tmp_path / "s.zarr", "t") as store:
            store.append_tracks([Track("s", "t0"), Track("s", "t1"), Track("other", "t2")])
            found = of_no_row(store, root)
    assert found == {stems[2].parent.parent: (1, 5), root: (1, 3)}


def test_a_track_larger_than_the_budget_does_not_end_the_run(make_world: Any, tune_writer: Any) -> None:
    world = make_world(5)
    track_id, path = next(iter(world.media.files.items()))
    world.media.files[track_id] = tune_writer(path.with_name("long.wav"), 1, 60.0)
    result = world.run("--max-cache", "1MB")
    assert "4 fetched" in result.stdout
    assert "1 to be tried again" in result.stdout
    assert "larger than max_cache" in result.stderr
    assert "more than the whole of ingest.max_cache" in world.row(track_id)["error"]


def test_no_size_is_refused_by_name(make_world: Any) -> None:
    result = make_world(1).run("--max-cache", "plenty", ok=False)
    assert "'plenty' is not a size" in result.stderr
    assert "50GB" in result.stderr


def test_a_disk_that_fills_up_loses_nothing(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(12)
    world.settings = {"ingest": {"concurrency": 1}}  # of several at once, none may be whole when the disk is full
    real, calls = shutil.disk_usage, 0

    def usage(path: Any) -> Any:
        nonlocal calls
        calls += 1
        return real(path) if calls < 5 else Usage(10**12, 10**12, 1000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    result = world.run(ok=False)
    assert "256.0 MB must stay free; nothing is lost" in result.stderr
    states = [row["state"] for row in world.table().values()]
    assert 0 < states.count(State.FETCHED) < 12
    assert not [name for name in world.files() if ".part" in name]
    monkeypatch.setattr(shutil, "disk_usage", real)
    world.run()
    assert {row["state"] for row in world.table().values()} == {State.FETCHED}


def test_audio_that_went_comes_back_for_another_recipe(make_world: Any, tune_writer: Any) -> None:
    world = make_world(2)
    size = long_tunes(world, tune_writer)
    world.run("--max-cache", f"{size}B")
    mark_made(world)
    assert "1 fetched" in world.run("--max-cache", f"{size}B").stdout
    mark_made(world)
    # The first track's file made room for the second's; another recipe needs it again.
    assert "2 already there" in world.run().stdout
    assert "1 fetched" in world.run(audio={"preset": "original"}).stdout
    assert len(world.files()) == 2


def test_files_that_lie_here_are_used_when_the_cache_is_full(make_world: Any, tune_writer: Any) -> None:
    world = make_world(8, generation="B")
    size = long_tunes(world, tune_writer)
    for track in world.tracks[4:]:
        tune_writer(world.home / f"mount/{track.track_id}.flac", 1)
    (world.home / "mount/other").mkdir(parents=True)
    result = world.run(
        "--max-cache", f"{int(1.5 * size)}B", "--map", f"/m={world.home / 'mount'}", ingest={"concurrency": 1}
    )
    assert "1 fetched" in result.stdout
    assert "4 used in place, 0 already there, 3 left for want of room" in result.stdout
    assert world.media.downloads() == 2  # no more is asked for once there is no room
