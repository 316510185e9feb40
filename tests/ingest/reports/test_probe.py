"""Whose vectors are these: the command over a store, a database and a folder."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from loopback.mel_teachers import write_mel_teacher
from loopback.schema import Server, vector_bytes
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.teacher.model import Teacher


def with_vectors_of(world: Any, tmp_path: Path, models: list[Teacher]) -> None:
    """Give the world's tracks the vectors that these models hear in them, in turns."""
    for number, track in enumerate(world.tracks):
        (path,) = (tmp_path / "music").glob(f"{track.track_id}.*")
        teacher = models[number % len(models)]
        vector, _ = teacher.embed(decode(path, teacher.max_samples))
        world.put(replace(track, vector=vector_bytes(vector)))


def test_the_command_tells_the_model_from_another(make_world: Any, tmp_path: Path) -> None:
    world = make_world(12)
    mine = write_mel_teacher(tmp_path / "mine.onnx", "clap")
    other = write_mel_teacher(tmp_path / "other.onnx", "clap", seed=1)
    with_vectors_of(world, tmp_path, [Teacher(mine, hop_samples=320, threads=1)])
    world.run()
    store_before = world.table()
    files_before = world.files()
    result = world.run("--probe", str(mine), "--probe-tracks", "5")
    assert "verdict: the same model made the vectors, with STFT hop 320" in result.output
    assert "5 tracks" in result.output
    assert "of different tracks" in result.output
    result = world.run("--probe", str(mine), "--probe-tracks", "5", teacher={"hop_length_stft": 320})
    assert "verdict: the same model made the vectors.\n" in result.output
    result = world.run("--probe", str(other))
    assert "12 of 20 wanted tracks" in result.output
    assert "verdict: another model made the vectors" in result.output
    assert (world.table(), world.files()) == (store_before, files_before)


def test_a_mixture_is_told_before_there_is_a_store(make_world: Any, tmp_path: Path) -> None:
    world = make_world(12)
    models = [write_mel_teacher(tmp_path / f"{seed}.onnx", "dclap", seed=seed) for seed in (0, 1)]
    with_vectors_of(world, tmp_path, [Teacher(m, threads=1) for m in models])
    result = world.run("--probe", str(models[0]))
    assert "verdict: a mixture: 6 of 12 vectors are this model's, 6 are another's" in result.output
    assert not (world.home / "store.zarr").exists()
    # What was fetched is in the cache for the run that follows.
    assert len(world.files()) == 12


def test_audio_that_cannot_be_had_is_named(make_world: Any, tmp_path: Path) -> None:
    world = make_world(4)
    model = write_mel_teacher(tmp_path / "model.onnx", "clap")
    with_vectors_of(world, tmp_path, [Teacher(model, threads=1)])
    world.run("--vectors-only")
    world.media.fault("00000001", "status", status=404)
    result = world.run("--probe", str(model))
    assert "no audio: 00000001 (Title 00000001): it is gone" in result.output
    assert "3 of 20 wanted tracks" in result.output
    assert "verdict (of 3 tracks only): the same model made the vectors" in result.output
    away = world.settings | {"jellyfin": {"url": "http://127.0.0.1:9"}}
    for file in (world.home / "audio").rglob("*.*"):
        if file.name != "ingest.lock":
            file.unlink()
    result = world.run("--probe", str(model), jellyfin=away["jellyfin"])
    assert "audio of 4 tracks is not here and cannot be fetched" in result.output
    assert "verdict: none; no track's audio could be found" in result.output


def test_the_server_is_named_as_for_every_run(make_world: Any, tmp_path: Path) -> None:
    servers = (Server("main", "Living room", is_default=True), Server("old", "Attic"))
    world = make_world(3, generation="B", servers=servers)
    model = write_mel_teacher(tmp_path / "model.onnx", "dclap")
    with_vectors_of(world, tmp_path, [Teacher(model, threads=1)])
    world.run()
    for name in ("main", "living ROOM"):
        result = world.run("--probe", str(model), "--server", name)
        assert "verdict (of 3 tracks only): the same model" in result.output
    assert "the same model" in world.run("--probe", str(model), ingest={"server": "Living room"}).output
    assert "has no vectors of server 'old'" in world.run("--probe", str(model), "--server", "Attic", ok=False).stderr


def test_audio_for_the_probe_may_come_from_the_stored_server_or_a_mapped_folder(
    make_world: Any, tmp_path: Path
) -> None:
    world = make_world(3, generation="B")
    model = write_mel_teacher(tmp_path / "model.onnx", "dclap")
    names = {track_id: f"/m/{path.name}" for track_id, path in world.media.files.items()}
    world.tracks = [replace(t, path=names[t.track_id]) for t in world.tracks]
    with_vectors_of(world, tmp_path, [Teacher(model, threads=1)])
    section = world.media.section()
    with closing(world.database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE music_servers SET creds = %s", (json.dumps(section),))
    nowhere = {"url": "http://127.0.0.1:9"}
    assert "cannot be fetched" in world.run("--probe", str(model), jellyfin=nowhere).output
    before = world.media.downloads()
    mapped = ("--map", f"/m={tmp_path / 'music'}")
    assert "the same model" in world.run("--probe", str(model), *mapped).output
    assert world.media.downloads() == before
    result = world.run("--probe", str(model), "--from-database", jellyfin=nowhere)
    assert "the same model" in result.output
    assert world.media.downloads() == before + 3


def test_without_a_store_the_settings_of_the_source_are_needed(make_world: Any, tmp_path: Path) -> None:
    world = make_world(1)
    model = write_mel_teacher(tmp_path / "model.onnx", "dclap")
    result = world.run("--probe", str(model), ok=False, database={"host": "${UNSET_HOST_3C}"})
    assert "database.host: the variable UNSET_HOST_3C is not set" in result.stderr


def test_what_is_no_model_is_an_error(make_world: Any, tmp_path: Path) -> None:
    world = make_world(1)
    assert "absent.onnx: no such file" in world.run("--probe", str(tmp_path / "absent.onnx"), ok=False).output
