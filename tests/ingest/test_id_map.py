"""The map of track ids: like a dict whose values stay, at any size."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_clap.ingest.id_map import IdMap

# Everything that UTF-8 can hold: empty ids, NUL, letters that differ by case or accent alone.
IDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=6) | st.sampled_from(["", "a", "A", "\0", "á", "á"])
BATCHES = st.lists(st.lists(st.tuples(IDS, st.integers(0, 2**40)), max_size=30), max_size=6)


@given(BATCHES, st.lists(IDS, max_size=10))
def test_it_is_a_dict_in_which_the_first_value_stays(batches: list[list[tuple[str, int]]], asked: list[str]) -> None:
    expected: dict[str, int] = {}
    with IdMap[int]() as found:
        for batch in batches:
            new = []
            for track_id, value in batch:
                new.append(track_id not in expected)
                expected.setdefault(track_id, value)
            assert found.add(batch) == new
            assert len(found) == len(expected)
        assert dict(found.items()) == expected
        assert list(found) == sorted(expected, key=str.encode)
        wanted = [*asked, *expected]
        assert found.find(wanted) == {i: expected[i] for i in wanted if i in expected}
        assert [found.get(i) for i in asked] == [expected.get(i) for i in asked]
        assert bool(found) == bool(expected)


@given(st.lists(st.lists(IDS, max_size=30), max_size=6))
def test_without_values_it_is_a_set(batches: list[list[str]]) -> None:
    expected: set[str] = set()
    with IdMap[None]() as found:
        for batch in batches:
            new = found.add((track_id, None) for track_id in batch)
            assert sum(new) == len(set(batch) - expected)
            expected |= set(batch)
            assert len(found) == len(expected)
            assert set(found) == expected
            assert all(track_id in found for track_id in batch)


def test_values_may_be_texts() -> None:
    with IdMap[str]() as paths:
        assert not paths
        paths.add((f"{i:04}", f"/music/{i}.flac") for i in range(2500))
        paths.add([("0007", "/music/other.flac"), ("Ünïcode", "/music/Ü.flac"), ("digits", "007")])
        assert len(paths) == 2502
        assert (paths["0007"], paths.get("Ünïcode"), paths.get("none", "")) == ("/music/7.flac", "/music/Ü.flac", "")
        assert paths["digits"] == "007"
        assert list(paths) == sorted(paths)
        assert dict(paths.items())["2499"] == "/music/2499.flac"
        with pytest.raises(KeyError, match="none"):
            paths["none"]


def test_an_id_takes_no_memory_of_python() -> None:
    n_ids = 50_000
    with IdMap[int]() as ids:
        tracemalloc.start()
        try:
            for begin in range(0, n_ids, 1000):
                ids.add((f"{i:032}", i) for i in range(begin, begin + 1000))
            assert ids[f"{n_ids - 1:032}"] == n_ids - 1
            n_bytes, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert n_bytes < n_ids
    assert peak < 4 * n_ids


def test_several_threads_may_ask() -> None:
    with IdMap[int]() as ids, ThreadPoolExecutor(4) as pool:
        ids.add((str(i), i) for i in range(2000))
        assert list(pool.map(lambda i: ids[str(i)], range(2000))) == list(range(2000))


def test_it_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    ids = IdMap[int]()
    ids.add((f"{i:064}", i) for i in range(100_000))
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource
from student_clap.ingest.id_map import IdMap, IdMapError
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    IdMap().add((f"{i:064}", i) for i in range(100_000))
except IdMapError as error:
    print(error.message)
"""


def test_a_full_disk_is_one_line_with_a_remedy() -> None:
    said = subprocess.run([sys.executable, "-c", FULL_DISK], check=True, capture_output=True, text=True).stdout
    assert "the temporary directory cannot hold the track ids" in said
    assert "TMPDIR" in said


def test_what_it_cannot_hold_leaves_it_usable() -> None:
    def broken() -> Iterator[tuple[str, int]]:
        yield "c", 3
        raise ValueError("broken")

    with IdMap[int]() as ids:
        with pytest.raises(UnicodeEncodeError):
            ids.add([("a", 1), ("\ud83c", 2)])
        assert ids.add([("a", 5), ("b", 2)]) == [False, True]
        with pytest.raises(ValueError, match="broken"):
            ids.add(broken())
        assert ids.add([("d", 4)]) == [True]
        assert dict(ids) == {"a": 1, "b": 2, "c": 3, "d": 4}
        assert len(ids) == 4
