"""`student-clap ingest --vectors-only`, and what a run says of vectors that changed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from student_clap.config.schema import AudioConfig
from student_clap.export.demo.schema import LoopbackTrack, delete_tracks, unit_vector, vector_bytes
from student_clap.ingest.vectors.database import ServerVectors
from student_clap.store import FeatureStore, Recipe, State


def test_the_vectors_come_and_the_audio_is_left_alone(make_world: Any) -> None:
    world = make_world(4, generation="B")
    world.put(LoopbackTrack("bad", "Bad", vector=b"bad"), LoopbackTrack("null"))
    # What only the media server would need may be missing.
    unset = {"url": "${UNSET_URL_3S}", "token": "${UNSET_TOKEN_3S}"}
    result = world.run("--vectors-only", jellyfin=unset)
    assert result.stdout.startswith("ingest: 5 tracks (5 new, 0 updated, 0 gone), audio left alone")
    assert "1 without a vector" in result.stdout
    assert world.media.log == []
    assert not (world.home / "audio").exists()
    assert [row["state"] for row in world.table().values()] == [State.LISTED] * 4 + [State.FAILED]
    assert "UNSET_URL_3S is not set" in world.run(ok=False, jellyfin=unset).stderr
    assert "5 tracks (0 new, 0 updated, 0 gone), 4 fetched" in world.run().stdout
    delete_tracks(world.database, "B", world.tracks[:1])
    assert "4 tracks (0 new, 0 updated, 1 gone), audio left alone" in world.run("--vectors-only").stdout
    assert [row["state"] for row in world.table().values()][:2] == [State.GONE, State.FETCHED]


def test_changed_vectors_are_said_and_their_features_stay(make_world: Any) -> None:
    world = make_world(4, generation="B")
    world.run()
    with FeatureStore.open(world.home / "store.zarr", "r+") as store:
        store.features(Recipe.from_config(AudioConfig())).commit([0, 1], [480_000] * 2, [""] * 2)
    downloads = world.media.downloads()
    world.put(
        dataclasses.replace(world.tracks[0], vector=vector_bytes(unit_vector(90))),
        dataclasses.replace(world.tracks[1], vector=vector_bytes(unit_vector(91)), title="Renamed"),
        dataclasses.replace(world.tracks[2], title="Renamed"),
    )
    result = world.run()
    assert "4 tracks (0 new, 3 updated, 2 with another vector, 0 gone), 0 fetched, 4 already there" in result.stdout
    assert "2 vectors changed; their features stay valid" in result.stderr
    assert world.media.downloads() == downloads
    opened = FeatureStore.open(world.home / "store.zarr")
    assert opened.features(Recipe.from_config(AudioConfig())).made().tolist() == [True, True, False, False]
    result = world.run()
    assert "(0 new, 0 updated, 0 gone)" in result.stdout
    assert "vectors changed" not in result.stderr


def test_nothing_is_gone_where_the_list_was_not_complete(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(3)
    world.run("--vectors-only")
    delete_tracks(world.database, "A", world.tracks[:1])
    with monkeypatch.context() as patch:
        patch.setattr(ServerVectors, "complete", lambda _: False)
        result = world.run("--vectors-only")
    assert "2 tracks (0 new, 0 updated, 0 gone)" in result.stdout
    assert "the list of tracks was not complete; nothing is marked as gone" in result.stderr
    assert "1 gone" in world.run("--vectors-only").stdout
