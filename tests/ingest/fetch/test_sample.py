"""A few tracks' audio from all over the library, so that one can know whose vectors it has before it is fetched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig
from student_clap.export.demo.schema import vector_bytes
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.teacher.model import Teacher
from student_clap.store import FeatureStore, Recipe, State


def fetched_rows(world: Any) -> list[int]:
    return [row["row"] for row in world.table().values() if row["state"] == State.FETCHED]


def test_one_track_of_each_part_is_fetched_and_again_only_where_there_is_none(make_world: Any) -> None:
    world = make_world(12)
    assert "4 fetched" in world.run("--sample", "4").output
    assert fetched_rows(world) == [1, 4, 7, 10]
    assert len(world.table()) == 12
    assert "0 fetched" in world.run("--sample", "4").output
    next(p for p in (world.home / "audio").rglob("*.*") if p.suffix in (".flac", ".wav", ".mp3", ".ogg")).unlink()
    assert "1 fetched" in world.run("--sample", "4").output
    assert len(fetched_rows(world)) == 4
    assert "8 fetched" in world.run().output


def test_a_track_that_fails_gives_its_place_to_its_neighbour(make_world: Any) -> None:
    world = make_world(12)
    world.media.fault("00000004", "status", status=404)
    world.run("--sample", "4")
    assert fetched_rows(world) == [1, 7, 10]
    world.run("--sample", "4")
    assert len([row for row in fetched_rows(world) if row in (3, 5)]) == 1


def test_a_sample_of_a_library_whose_audio_made_room_is_fetched_again(make_world: Any) -> None:
    world = make_world(6)
    world.run()
    with FeatureStore.open(world.home / "store.zarr", "r+") as store:
        store.features(Recipe.from_config(AudioConfig())).commit(list(range(6)), [24_000] * 6, [""] * 6)
    for path in (world.home / "audio").rglob("*.*"):
        if path.name != "ingest.lock":
            path.unlink()
    assert "0 fetched" in world.run().output
    assert "2 fetched" in world.run("--sample", "2").output


def test_a_mixture_is_told_before_the_library_is_downloaded(make_world: Any, tmp_path: Path) -> None:
    world = make_world(12)
    models = [write_mel_teacher(tmp_path / f"{seed}.onnx", "dclap", seed=seed) for seed in (0, 1)]
    teachers = [Teacher(m, threads=1) for m in models]
    for number, track in enumerate(world.tracks):
        (path,) = (tmp_path / "music").glob(f"{track.track_id}.*")
        teacher = teachers[number % 2]
        vector, _ = teacher.embed(decode(path, teacher.max_samples))
        world.put(replace(track, vector=vector_bytes(vector)))
    world.run("--sample", "4")
    assert world.media.downloads() == 4
    result = CliRunner().invoke(
        main, ["featurize", "--config", str(world.config()), "--probe", "4", "--teacher", str(models[0])]
    )
    assert result.exit_code == 0, result.output
    assert "verdict: a mixture: 2 of 4 vectors are this model's, 2 are another's" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--sample", "3", "--vectors-only"), "--vectors-only fetches no audio; leave it or --sample out"),
        (("--sample", "3", "--refetch", "all"), "leave it or --refetch out"),
        (("--sample", "0"), "0 is not in the range"),
        (("--probe", "my teacher.onnx"), "student-clap featurize --probe 20 --teacher 'my teacher.onnx'`"),
        (("--probe", "t.onnx", "--probe-tracks", "5"), "`student-clap ingest --sample 20` goes before it"),
    ],
)
def test_what_does_not_go_together_or_has_moved_is_said(make_world: Any, arguments: tuple[str, ...], said: str) -> None:
    world = make_world(1)
    result = world.run(*arguments, ok=False)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
