"""Audio that made room comes back for those who still have to hear it, and for nobody else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig, Config
from student_clap.ingest.fetch.refetch import wanted_again
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.layout.views import beneath

RECIPE = Recipe.from_config(AudioConfig())


def make_features(world: Any, rows: list[int], *, old: bool = False) -> None:
    with FeatureStore.open(world.home / "store.zarr", "r+") as store:
        store.features(RECIPE).commit(rows, [24_000] * len(rows), [""] * len(rows))
    if old:
        import zarr

        column: Any = zarr.open_group(world.home / "store.zarr", mode="r+")[f"features/{RECIPE.name}/decoder"]
        for row in rows:
            column[row] = 0


def teach(world: Any, rows: list[int]) -> None:
    vectors = np.full((1, 512), 512**-0.5, np.float16)
    with FeatureStore.open(world.home / "store.zarr", "r+") as store:
        store.write_segment_teacher(rows, [vectors] * len(rows))


def test_another_teacher_has_heard_nothing(make_world: Any) -> None:
    world = make_world(2)
    world.run()
    make_features(world, [0, 1])
    with FeatureStore.open(world.home / "store.zarr", "r+") as store:
        for name, rows in (("test-teacher", [0, 1]), ("second", [1])):
            there = store.add_segment_set(name, hop_samples=240_000, model="aa")
            there.write(rows, [np.full((1, 512), 512**-0.5, np.float16)] * len(rows))
    remove_audio(world)
    assert "0 fetched" in world.run("--refetch", "teacher").stdout
    assert "1 fetched" in world.run("--refetch", "teacher", teacher={"name": "Second"}).stdout
    assert there_rows(world) == [0]
    assert "1 fetched" in world.run("--refetch", "teacher", teacher={"name": "third"}).stdout


def remove_audio(world: Any) -> None:
    for path in (world.home / "audio").rglob("*.*"):
        if path.name != "ingest.lock":
            path.unlink()


def there_rows(world: Any) -> list[int]:
    return [row["row"] for row in world.table().values() if (world.home / "audio" / row["audio"]).is_file()]


def test_who_asks_gets_what_it_has_to_hear(make_world: Any) -> None:
    world = make_world(6)
    world.run()
    make_features(world, [0, 1, 2, 3])
    make_features(world, [4, 5], old=True)
    teach(world, [0, 1, 4])
    remove_audio(world)
    before = world.table()
    assert "0 fetched, 6 already there" in world.run().stdout
    assert "2 fetched" in world.run("--refetch", "old-decoder").stdout
    assert there_rows(world) == [4, 5]
    assert "2 fetched" in world.run("--refetch", "teacher").stdout
    assert there_rows(world) == [2, 3, 4, 5]
    assert "0 fetched" in world.run("--refetch", "teacher", "--refetch", "old-decoder").stdout
    assert "1 fetched" in world.run("--refetch", "1").stdout
    assert "1 fetched" in world.run("--refetch", "all").stdout
    assert there_rows(world) == list(range(6))
    assert world.table() == before
    assert FeatureStore.open(world.home / "store.zarr").features(RECIPE).n_samples().tolist() == [24_000] * 6


def test_what_cannot_be_had_again_keeps_its_features_and_its_state(make_world: Any) -> None:
    world = make_world(3)
    world.run()
    make_features(world, [0, 1, 2])
    remove_audio(world)
    world.media.fault("00000001", "status", status=404)
    before = world.table()
    result = world.run("--refetch", "teacher")
    assert "2 fetched" in result.stdout
    assert "1 failed" in result.stdout
    assert "track 00000001 (Title 00000001): it is gone from the media server" in result.stderr
    assert world.table() == before
    # The next run asks for it again, for it was not marked.
    assert "1 failed" in world.run("--refetch", "teacher").stdout


@pytest.mark.parametrize("asked", ["setting", "option"])
def test_audio_that_the_teacher_is_still_to_hear_makes_no_room(make_world: Any, asked: str) -> None:
    world = make_world(4)
    world.run()
    make_features(world, [0, 1, 2, 3])
    teach(world, [1])
    if asked == "setting":
        result = world.run("--max-cache", "1B", teacher={"model": "/models/clap.onnx"})
    else:
        result = world.run("--max-cache", "1B", "--refetch", "teacher")
    assert there_rows(world) == [0, 2, 3]
    assert "removed to make room" in result.stderr
    world.run("--max-cache", "1B")
    assert there_rows(world) == []


def test_a_library_larger_than_the_cache_is_taught_in_turns(make_world: Any) -> None:
    world = make_world(5)
    world.run()
    sizes = {row["row"]: (world.home / "audio" / row["audio"]).stat().st_size for row in world.table().values()}
    make_features(world, list(range(5)))
    remove_audio(world)
    limit = f"{max(sizes.values()) * 2}B"
    turns = 0
    while "0 fetched" not in world.run("--max-cache", limit, "--refetch", "teacher").stdout:
        turns += 1
        teach(world, there_rows(world))
    assert 2 <= turns <= 5
    assert (FeatureStore.open(world.home / "store.zarr").n_segment_teacher() == 1).all()


def test_a_row_without_audio_is_told_with_the_command_that_brings_it_back(make_world: Any) -> None:
    world = make_world(3)
    world.run()
    make_features(world, [2])
    make_features(world, [0, 1], old=True)
    remove_audio(world)
    for option, fetch in (
        (("--again-old-decoder",), "student-clap ingest --refetch old-decoder"),
        (("--again", "2"), "student-clap ingest --refetch 2"),
    ):
        said = CliRunner().invoke(main, ["featurize", "--config", str(world.config()), *option])
        assert said.exit_code == 0, said.output
        assert f"without their audio file (`{fetch}` fetches it again)" in said.output
        assert "0 fetched" not in world.run(*fetch.split()[2:]).stdout


def viewed_store(path: Path) -> Path:
    """Six rows: all heard, and in view 1 all but rows 2, 4 and 5: no vectors, no strip, vectors of another length."""
    vectors = np.full((4, 512), 512**-0.5, np.float16)
    with FeatureStore.create(path, "t") as store:
        store.append_tracks([Track("s", str(n), state=State.FETCHED) for n in range(6)])
        for view, n_samples in ((0, 24_000), (1, 22 * 48_000)):
            store.features(replace(RECIPE, view=view)).commit(list(range(6)), [n_samples] * 6, [""] * 6)
        own = store.add_segment_set("t", hop_samples=240_000, model="aa")
        own.write(list(range(6)), [vectors[:1]] * 6)
        view = store.add_segment_set("t", hop_samples=240_000, model="aa", view=1)
        view.write([0, 1, 3, 4, 5], [vectors] * 4 + [vectors[:3]])
        store.features(replace(RECIPE, view=1)).commit([4], [0], [""])
        view.commit([4], [0])
    return path


def asking(n_views: int) -> Config:
    return Config.model_validate({"teacher": {"name": "t", "views": n_views}})


def test_tracks_that_lack_a_view_are_asked_for_with_what_is_beneath(tmp_path: Path) -> None:
    with FeatureStore.open(viewed_store(tmp_path / "s.zarr")) as store:
        assert [beneath(1, row) for row in (2, 4, 5)] == [0, 3, 4]
        assert wanted_again(asking(0), store, {"teacher"}).tolist() == [False] * 6
        wanted = wanted_again(asking(1), store, {"teacher"})
        assert np.flatnonzero(wanted).tolist() == [0, 2, 3, 4, 5]
        assert wanted_again(asking(2), store, {"teacher"}).all()  # nobody has heard a second one
        assert wanted_again(asking(1), store, {"old-decoder"}).tolist() == [False] * 6


def test_a_track_that_was_not_heard_is_asked_for_whatever_its_views_are(tmp_path: Path) -> None:
    with FeatureStore.open(viewed_store(tmp_path / "s.zarr"), "r+") as store:
        store.segment_vectors("t").commit([1], [0])
        assert np.flatnonzero(wanted_again(asking(0), store, {"teacher"})).tolist() == [1]
        assert wanted_again(asking(1), store, {"teacher"}).all()


def test_audio_that_is_lacking_for_views_alone_makes_room_unless_it_was_asked_for(make_world: Any) -> None:
    """It may wait for ever for the audio of the track beneath."""
    world = make_world(4)
    world.run()
    make_features(world, [0, 1, 2, 3])
    teach(world, [0, 1, 2, 3])
    heard = {"model": "/models/clap.onnx", "views": 1}
    world.run("--refetch", "teacher", "--max-cache", "1B", teacher=heard)
    assert there_rows(world) == [0, 1, 2, 3]
    world.run("--max-cache", "1B", teacher=heard)
    assert there_rows(world) == []


def test_what_is_no_reason_is_refused(make_world: Any, tmp_path: Path) -> None:
    world = make_world(1)
    said = world.run("--refetch", "me", ok=False).output
    assert "'me' is none of teacher, old-decoder, all, and not the number of a row" in " ".join(said.split())
    assert "--refetch 7: the store has rows 0 to 0" in world.run("--refetch", "7", ok=False).output
    with FeatureStore.create(tmp_path / "s.zarr", "t") as store:
        store.append_tracks([Track("s", "a", state=State.FETCHED)])
        assert wanted_again(Config(), store, {"old-decoder"}).tolist() == [False]
        assert wanted_again(Config(), store, {"teacher"}).tolist() == [True]
