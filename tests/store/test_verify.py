"""verify and repair: every fault is found, a repair makes exactly the damaged tracks due again."""

from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.store import FeatureStore
from student_clap.store.arrays.metadata import set_attributes
from student_clap.store.repair import repair
from student_clap.store.verify import verify

SECONDS = 48_000


@pytest.fixture
def filled(store, recipe, make_codes):
    """Rows 0 to 3 made, row 4 not."""
    features = store.features(recipe)
    for row in range(4):
        features.write_strip(row, make_codes((12 + row) * SECONDS, row), (12 + row) * SECONDS)
    features.commit([0, 1, 2, 3], [(12 + row) * SECONDS for row in range(4)], [""] * 4)
    return store


def kinds(store: FeatureStore, *, deep: bool) -> list[tuple[str, int]]:
    """What verify finds, as (kind, row)."""
    return [(f.kind, f.row) for f in verify(store, deep=deep)]


def shard_file(features, row: int):
    """The file of the strip of `row`."""
    return (features.shards / f"{row}/0/0").path


def flip_a_bit(features, row: int) -> None:
    """Damage the first inner chunk of a shard."""
    shard = shard_file(features, row)
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 4
    shard.write_bytes(data)


def test_a_whole_store_has_no_faults(filled):
    assert kinds(filled, deep=True) == []


def test_every_fault_is_found_and_repaired(filled, recipe, make_codes):
    features = filled.features(recipe)
    shard_file(features, 0).unlink()
    flip_a_bit(features, 2)
    features.write_strip(4, make_codes(11 * SECONDS), 11 * SECONDS)  # never committed: its run was killed
    (shard_file(features, 4).parent / "0.abc.partial").write_bytes(b"half")
    assert kinds(filled, deep=False) == [("missing shard", 0), ("orphan shard", 4)]
    assert kinds(filled, deep=True) == [("missing shard", 0), ("damaged shard", 2), ("orphan shard", 4)]

    done = repair(filled, verify(filled, deep=True))
    assert (done.tracks, done.orphans, done.left) == (2, 1, ())
    assert kinds(filled, deep=True) == []
    features = filled.features(recipe)
    assert features.n_samples().tolist() == [0, 13 * SECONDS, 0, 15 * SECONDS, 0]
    assert features.shard_rows() == {1, 3}
    assert not list(filled.path.rglob("*.partial"))
    assert np.array_equal(features.strip(1), make_codes(13 * SECONDS, 1))


def test_impossible_marks_stale_recipes_and_lost_vectors_are_found(filled, recipe):
    features = filled.features(recipe)
    features.commit([3], [10**9], [""])
    assert ("impossible entry", 3) in kinds(filled, deep=False)
    set_attributes(filled.path / "features" / "audiomuse", {"fingerprint": "0" * 16})
    assert ("stale recipe", -1) in kinds(filled, deep=False)
    broken = np.full((2, 512), np.nan, np.float32)
    broken[1, 0] = 0.5
    filled.update_tracks([1, 2], teacher=broken)
    assert {("no vector", 1), ("wrong vector", 2)} <= set(kinds(filled, deep=False))


def test_rows_whose_vector_is_still_to_come_are_no_fault(filled, make_track):
    filled.append_tracks([make_track(n, teacher=None) for n in (7, 8)])
    filled.close()
    done = CliRunner().invoke(main, ["store", "verify", "--deep", "--set", f"store.path={filled.path}"])
    assert done.exit_code == 0, done.output
    assert (
        "remark: 2 tracks have no teacher's vector; `student-clap ingest` or `student-clap featurize --teacher MODEL` "
        "brings it\n"
    ) in done.output
    assert "no faults in 7 tracks" in done.output


def test_the_next_writer_removes_what_a_killed_one_left(filled, recipe, make_codes):
    features = filled.features(recipe)
    left = [filled.path / "title" / "c" / "0.abc.partial", filled.path / "teacher" / "c" / "0" / "0.def.partial"]
    left += [filled.path / "zarr.0.partial", filled.path / "features" / "audiomuse" / "n_samples" / "c" / "0.1.partial"]
    in_a_shard = shard_file(features, 1).parent / "0.2.partial"
    for partial in (*left, in_a_shard):
        partial.write_bytes(b"half")
    filled.close()
    with FeatureStore.open(filled.path, "r+") as again:
        assert not any(partial.exists() for partial in left)
        again.features(recipe).write_strip(1, make_codes(13 * SECONDS), 13 * SECONDS)
        assert not in_a_shard.exists()


def test_the_commands_say_what_is_wrong_and_repair_it(filled, recipe, tmp_path):
    shard_file(filled.features(recipe), 1).unlink()
    filled.features(recipe).commit([4], [-1], ["no audio; soundfile: x"])
    filled.close()

    def run(*arguments: str):
        return CliRunner().invoke(main, ["store", *arguments, "--set", f"store.path={filled.path}"])

    info = run("info")
    assert info.exit_code == 0, info.output
    printed = " ".join(info.output.split())
    assert "tracks 5, 5 fetched" in printed
    assert "features audiomuse: 4 tracks, 1 failed" in printed
    failures = run("list", "--failed")
    assert failures.output.splitlines() == ["4\tdefault\tt4\tfetched\t-\ta1\tTäst 4\tno audio; soundfile: x"]
    assert len(run("list").output.splitlines()) == 5
    found = run("verify", "--deep")
    assert found.exit_code == 1
    assert (
        "missing shard: audiomuse, row 1 (track t1): made according to the table, but there is no file" in found.output
    )
    assert "1 fault (every shard read)" in found.output
    done = run("repair")
    assert done.exit_code == 0
    assert "1 track set back (`student-clap featurize` makes them again), 0 uncounted shards removed" in done.output
    assert run("verify").exit_code == 0


def test_what_verify_advises_repairs_a_damaged_shard(filled, recipe):
    """A fault that only reading finds is one that only `repair --deep` repairs, and both say so."""
    path = next(p for p in sorted((filled.path / "features/audiomuse/mel/c").rglob("*")) if p.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    filled.close()

    def run(*arguments: str):
        return CliRunner().invoke(main, ["store", *arguments, "--set", f"store.path={filled.path}"])

    assert run("verify").exit_code == 0
    found = run("verify", "--deep")
    assert found.exit_code == 1
    shallow = run("repair")
    assert "0 tracks set back" in shallow.output
    assert "shards listed, not read (--deep reads them)" in shallow.output
    (advice,) = re.findall(r"`student-clap store (repair.*?)`", found.output)
    assert "1 track set back" in run(*advice.split()).output
    assert run("verify", "--deep").exit_code == 0


@pytest.mark.parametrize("words", [("verify",), ("verify", "--deep"), ("repair",), ("repair", "--deep")])
def test_where_there_is_no_store_nothing_is_damaged_and_nothing_is_made(words, tmp_path):
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "nowhere" / "x.zarr", tmp_path / "other"):
        done = CliRunner().invoke(main, ["store", *words, "--set", f"store.path={path}"])
        assert done.exit_code == 1
        assert f"Error: there is no feature store at {path}; `student-clap ingest` makes one" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("words", [("verify",), ("repair",)])
def test_a_store_that_lost_its_root_is_damaged(words, filled):
    filled.close()
    (filled.path / "zarr.json").unlink()
    done = CliRunner().invoke(main, ["store", *words, "--set", f"store.path={filled.path}"])
    assert done.exit_code == 1
    assert f"{filled.path}/zarr.json is damaged: it is not there" in done.output
