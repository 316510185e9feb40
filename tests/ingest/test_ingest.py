"""`student-clap ingest` as a user runs it: real database, real HTTP, real store."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import student_clap.ingest.stage as stage
from student_clap.config.schema import AudioConfig
from student_clap.export.demo.schema import LoopbackTrack, Server, delete_tracks, unit_vector, vector_bytes
from student_clap.store import FeatureStore, Recipe, State


def vector(seed: int) -> bytes:
    return vector_bytes(unit_vector(seed))


@pytest.mark.parametrize("generation", ["A", "B"])
@pytest.mark.parametrize("kind", ["jellyfin", "emby"])
def test_everything_arrives_and_a_second_run_fetches_nothing(make_world: Any, generation: Any, kind: str) -> None:
    world = make_world(6, generation=generation, kind=kind)
    result = world.run()
    size = sum(p.stat().st_size for p in world.media.files.values()) / 1000
    assert (
        result.stdout
        == f"ingest: 6 tracks (6 new, 0 updated, 0 gone), 6 fetched ({size:.1f} kB), 0 already there, 0 failed\n"
    )
    table = world.table()
    server_id = "main" if generation == "B" else "default"
    assert list(table) == [(server_id, t.track_id) for t in world.tracks]
    for track in world.tracks:
        row = table[server_id, track.track_id]
        assert (row["title"], row["artist"], row["state"]) == (track.title, track.artist, State.FETCHED)
        assert row["album"] == (track.album if generation == "B" else "")
        assert row["item_id"] == (track.item_id_b if generation == "B" else track.track_id)
        np.testing.assert_allclose(
            np.frombuffer(row["teacher"], np.float32), np.frombuffer(track.vector, "<f4"), atol=1e-7
        )
        original = world.media.files[track.track_id]
        audio = world.home / "audio" / row["audio"]
        assert audio.read_bytes() == original.read_bytes()
        assert audio.suffix == original.suffix
        assert track.track_id not in row["audio"]
    assert FeatureStore.open(world.home / "store.zarr").teacher_name == "test-teacher"

    requests = world.media.requests()
    result = world.run()
    assert result.stdout == "ingest: 6 tracks (0 new, 0 updated, 0 gone), 0 fetched, 6 already there, 0 failed\n"
    assert world.media.requests() == requests
    assert world.table() == table


def test_every_fault_is_one_line_and_one_failed_row_and_the_rest_goes_on(make_world: Any) -> None:
    world = make_world(8, generation="B")
    ids = [t.track_id for t in world.tracks]
    nan = unit_vector(50).copy()
    nan[3] = np.nan
    world.put(
        LoopbackTrack("gone", "Gone", vector=vector(40)),
        LoopbackTrack("short", "Short", vector=vector(41)[:800]),
        LoopbackTrack("odd", "Odd", vector=vector(41)[:-1]),
        LoopbackTrack("nan", "NaN", vector=vector_bytes(nan)),
        LoopbackTrack("zero", "Zero", vector=bytes(2048)),
        LoopbackTrack("null", "Null"),
    )
    media = world.media
    media.fault(ids[0], "garbage")
    media.fault(ids[1], "empty")
    media.fault(ids[2], "truncated")
    media.fault(ids[3], "html")
    media.fault(ids[4], "reset")
    media.fault(ids[5], "status", status=500)
    expected = {
        ids[0]: "the server sent no audio: it is of no known audio format",
        ids[1]: "the server sent no audio: the file is empty",
        ids[3]: "the server sent no audio: it is an HTML page, not audio",
        "gone": "it is gone from the media server (404)",
        "short": "teacher vector has 800 bytes, expected 2048 (512 float32)",
        "odd": "teacher vector has 2047 bytes, expected 2048 (512 float32)",
        "nan": "teacher vector has 1 values that are NaN or infinite, expected none",
        "zero": "teacher vector is all zeros, expected unit length",
    }
    passing = {
        ids[2]: "the file broke off after",
        ids[4]: "the connection was reset in the middle of the file",
        ids[5]: "the server answers 500 Internal Server Error (tried 3 times)",
    }
    result = world.run()
    assert "13 tracks (13 new, 0 updated, 0 gone), 2 fetched" in result.stdout
    assert result.stdout.endswith(
        "0 already there, 3 to be tried again, 8 failed, 1 without a vector; see student-clap ingest --verify\n"
    )
    table = {track_id: row for (_, track_id), row in world.table().items()}
    assert set(table) == {*ids, "gone", "short", "odd", "nan", "zero"}
    for states, reasons in ((State.FAILED, expected), (State.LISTED, passing)):
        assert {t for t, row in table.items() if row["state"] == states} == set(reasons)
        for track_id, reason in reasons.items():
            assert table[track_id]["error"].startswith(reason)
            (line,) = [line for line in result.stderr.splitlines() if f"track {track_id} " in line]
            assert reason in line
    assert {t for t, row in table.items() if row["state"] == State.FETCHED} == set(ids[6:])
    assert len(world.files()) == 2

    report = world.run("--verify").stdout
    for track_id, reason in (expected | passing).items():
        (line,) = [line for line in report.splitlines() if line.startswith(f"  {track_id}  ")]
        assert reason in line
    assert "8 failed; " in report
    assert "3 not fetched yet; " in report

    # The next run tries again what may have passed, and only that.
    media.faults.clear()
    before = media.requests()
    result = world.run()
    assert "3 fetched" in result.stdout
    assert "8 failed" in result.stdout
    assert {path for path, n in media.requests().items() if n > before[path]} == {
        "/System/Info", *(f"/Items/{t}/Download" for t in passing),
    }  # fmt: skip

    # --retry-failed tries every failed download; a row without a usable vector is never fetched.
    before = media.requests()
    result = world.run("--retry-failed")
    assert "3 fetched" in result.stdout
    assert "5 already there, 5 failed" in result.stdout
    assert {path for path, n in media.requests().items() if n > before[path]} == {
        "/System/Info", *(f"/Items/{t}/Download" for t in (ids[0], ids[1], ids[3], "gone")),
    }  # fmt: skip


def test_a_wrong_token_is_one_error_and_asks_for_no_track(make_world: Any) -> None:
    world = make_world(6)
    result = world.run(ok=False, jellyfin={"token": "wrong-token-8d1e"})
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if not line.startswith("INFO: ")]
    assert len(errors) == 1
    assert "refuses the token (401 Unauthorized)" in errors[0]
    assert set(world.media.requests()) == {"/System/Info"}
    assert {row["state"] for row in world.table().values()} == {State.LISTED}
    assert "6 fetched" in world.run().stdout


def test_a_token_that_is_withdrawn_in_the_middle_is_one_error(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(24)
    world.settings = {"ingest": {"concurrency": 2}}
    tenth = sorted(world.media.files)[10]
    answer = world.media.next_fault

    def withdraw(key: str, path: str) -> Any:
        if key == tenth:
            world.media.token = "withdrawn"
        return answer(key, path)

    monkeypatch.setattr(world.media, "next_fault", withdraw)
    result = world.run(ok=False)
    assert sum("Error: " in line for line in result.stderr.splitlines()) == 1
    assert "WARNING" not in result.stderr
    states = [row["state"] for row in world.table().values()]
    assert states.count(State.FETCHED) == len(world.files()) >= 9
    assert set(states) == {State.FETCHED, State.LISTED}


def test_a_server_that_goes_away_is_one_error_and_not_one_per_track(
    make_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(40)
    world.settings = {"ingest": {"concurrency": 1, "retries": 0}}
    for track in world.tracks[4:]:
        world.media.fault(track.track_id, "reset")
    answer = world.media.next_fault
    seen: list[str] = []

    def die(key: str, path: str) -> Any:
        seen.append(path)
        if path == "/System/Info" and len(seen) > 1:
            world.media.fault(path, "reset")
        return answer(key, path)

    monkeypatch.setattr(world.media, "next_fault", die)
    result = world.run(ok=False)
    assert "cannot be used" in result.stderr
    assert result.stderr.count("WARNING") < 20
    states = [row["state"] for row in world.table().values()]
    assert states == [State.FETCHED] * 4 + [State.LISTED] * 36


def test_no_secret_is_shown_even_at_debug_level(make_world: Any) -> None:
    servers = (Server("main", "Main", is_default=True),)
    world = make_world(3, generation="B", servers=servers)
    world.settings = {"logging": {"level": "DEBUG"}}
    world.media.fault(world.tracks[0].track_id, "status", status=500)
    secrets = [world.media.token, world.database.password, "wrong-token", "wrong-password", "creds-token"]
    outputs = [
        world.run(),
        world.run("--verify"),
        world.run("--retry-failed", ok=False, jellyfin={"token": "wrong-token"}),
        world.run(ok=False, database={"password": "wrong-password"}),
        world.run("--server", "nowhere", ok=False),
        world.run(ok=False, jellyfin={"url": "http://127.0.0.1:9"}, ingest={"retries": 0}),
    ]
    assert "DEBUG: GET " in outputs[0].stderr
    for result in outputs:
        for secret in secrets:
            assert secret not in result.output
    store = b"".join(p.read_bytes() for p in (world.home / "store.zarr").rglob("*") if p.is_file())
    assert not [s for s in secrets if s.encode() in store]


def test_an_old_server_is_asked_with_x_emby_token(make_world: Any) -> None:
    world = make_world(5, headers=frozenset({"x-emby-token"}))
    assert "5 fetched" in world.run().stdout
    assert sum("authorization" in r.headers for r in world.media.log) == 1


def test_updated_vanished_and_returned_tracks(make_world: Any) -> None:
    world = make_world(5, generation="B")
    world.run()
    files = world.files()
    changed = dataclasses.replace(world.tracks[0], vector=vector(90))
    renamed = dataclasses.replace(world.tracks[1], title="Renamed", artist="Someone else")
    world.put(changed, renamed)
    delete_tracks(world.database, "B", [world.tracks[2]])
    result = world.run()
    assert (
        "ingest: 4 tracks (0 new, 2 updated, 1 with another vector, 1 gone), 0 fetched, 4 already there, 0 failed"
        in result.stdout
    )
    np.testing.assert_allclose(
        np.frombuffer(world.row(changed.track_id)["teacher"], np.float32), unit_vector(90), atol=1e-7
    )
    assert world.row(renamed.track_id)["artist"] == "Someone else"
    vanished = world.row(world.tracks[2].track_id)
    assert (vanished["state"], vanished["title"]) == (State.GONE, world.tracks[2].title)
    assert world.files() == files
    world.put(world.tracks[2])
    assert "5 tracks (0 new, 0 updated, 0 gone, 1 back), 0 fetched, 5 already there" in world.run().stdout
    assert world.row(world.tracks[2].track_id)["state"] == State.FETCHED
    assert world.media.downloads() == 5


def test_a_file_that_vanished_is_fetched_again_unless_its_features_are_made(make_world: Any) -> None:
    world = make_world(4)
    world.run()
    files = world.files()
    rows = world.table()
    for name in files:
        (world.home / "audio" / name).unlink()
    with FeatureStore.open(world.home / "store.zarr", "r+") as store:
        features = store.features(Recipe.from_config(AudioConfig()))
        features.commit([1, 2], [480_000, -1], ["", "cannot be decoded"])
    assert "3 fetched" in (result := world.run()).stdout
    assert "1 already there" in result.stdout
    made = rows["default", world.tracks[1].track_id]["audio"]
    assert world.files() == {name: data for name, data in files.items() if name != made}
    assert world.table() == rows


def test_a_file_that_vanished_here_and_there_is_told(make_world: Any) -> None:
    world = make_world(2)
    world.run()
    track_id = world.tracks[0].track_id
    (world.home / "audio" / world.row(track_id)["audio"]).unlink()
    world.media.fault(track_id, "status", status=404)
    assert "1 failed" in world.run().stdout
    row = world.row(track_id)
    assert (row["state"], row["audio"], row["error"]) == (State.FAILED, "", "it is gone from the media server (404)")


def test_left_over_parts_are_removed_and_whole_files_are_adopted(make_world: Any) -> None:
    world = make_world(3)
    world.run()
    files = world.files()
    part = world.home / "audio" / (next(iter(files)) + ".x1.part")
    part.write_bytes(b"half")
    (part.parent / ".hidden.flac.abc.part").write_bytes(b"half")
    with FeatureStore.open(world.home / "store.zarr", "r+") as store:
        store.update_tracks([0, 1, 2], audio=[""] * 3, state=[State.LISTED] * 3)
    before = world.media.requests()
    assert "0 fetched, 3 already there" in world.run().stdout
    assert world.media.requests() == before
    assert world.files() == files
    assert {row["state"] for row in world.table().values()} == {State.FETCHED}


def test_a_folder_is_used_where_it_lies(make_world: Any) -> None:
    world = make_world(4, generation="B")
    music = next(iter(world.media.files.values())).parent
    world.put(LoopbackTrack("elsewhere", "By path", vector=vector(60), path="/srv/music/By path.flac"))
    (music / f"{world.tracks[0].track_id}.flac").rename(music / "By path.flac")
    result = world.run(ingest={"source": "folder"}, folder={"path": str(music)})
    assert "5 tracks (5 new, 0 updated, 0 gone), 0 fetched, 4 used in place" in result.stdout
    assert world.row("elsewhere")["audio"] == str(music / "By path.flac")
    assert world.row(world.tracks[1].track_id)["audio"] == str(music / f"{world.tracks[1].track_id}.wav")
    assert world.row(world.tracks[0].track_id)["state"] == State.FAILED
    assert not (world.home / "audio").exists()
    assert world.media.log == []
    assert (
        "0 fetched, 4 already there, 1 failed"
        in world.run(ingest={"source": "folder"}, folder={"path": str(music)}).stdout
    )


def test_two_servers_have_rows_of_their_own(make_world: Any) -> None:
    servers = (Server("s1", "Attic", is_default=True), Server("s2", "Cellar"))
    world = make_world(0, generation="B", servers=servers)
    source = next(iter(make_files(world, ["x1", "x2"]).values()))
    world.put(
        LoopbackTrack("x1", vector=vector(1), server_id="s1"), LoopbackTrack("x2", vector=vector(2), server_id="s2")
    )
    assert "1 new" in world.run().stdout
    assert "1 new, 0 updated, 0 gone" in world.run("--server", "cellar").stdout
    assert "0 new, 0 updated, 0 gone" in world.run(ingest={"server": "s1"}).stdout
    assert list(world.table()) == [("s1", "x1"), ("s2", "x2")]
    assert len({Path(name).parts[0] for name in world.files()}) == 2
    assert source.exists()


def make_files(world: Any, ids: list[str]) -> dict[str, Path]:
    import soundfile

    for seed, track_id in enumerate(ids):
        path = world.home.parent / f"{track_id}.flac"
        soundfile.write(path, np.random.default_rng(seed).standard_normal(4000) * 0.1, 16_000)
        world.media.files[track_id] = path
    files: dict[str, Path] = world.media.files
    return files


def test_a_teacher_that_is_declared_anew_is_told(make_world: Any) -> None:
    world = make_world(1)
    world.run()
    assert "teacher" not in world.run().stderr
    result = world.run(teacher={"name": "another"})
    assert "the teacher is now declared as 'another'; the store said 'test-teacher'" in result.stderr
    world.run(teacher={"name": "unknown"})
    assert FeatureStore.open(world.home / "store.zarr").teacher_name == "another"


def test_a_database_without_vectors_marks_nothing_gone(make_world: Any) -> None:
    world = make_world(3)
    world.run()
    table = world.table()
    delete_tracks(world.database, "A", world.tracks)
    assert "clap_embedding is empty" in world.run(ok=False).stderr
    world.put(*(dataclasses.replace(t, vector=None) for t in world.tracks))
    assert "none of the 3 rows" in world.run(ok=False).stderr
    assert world.table() == table


def test_a_wrong_password_leaves_no_store_behind(make_world: Any) -> None:
    world = make_world(1)
    assert "password authentication failed" in world.run(ok=False, database={"password": "x"}).stderr
    assert not (world.home / "store.zarr").exists()


def test_many_batches_are_as_good_as_one(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(11, generation="B")
    world.run(home=world.home / "one")
    monkeypatch.setattr(stage, "BATCH_ROWS", 4)
    world.run(home=world.home / "many")
    assert world.table(world.home / "many") == world.table(world.home / "one")
    assert world.files(world.home / "many") == world.files(world.home / "one")


def test_two_runs_at_once_do_not_mix(make_world: Any) -> None:
    world = make_world(1)
    world.run()
    with FeatureStore.open(world.home / "store.zarr", "r+"):
        assert "is being written by process" in world.run(ok=False).stderr
    from filelock import FileLock

    world.put(LoopbackTrack("new", vector=vector(5)))
    with FileLock(world.home / "audio" / "ingest.lock"):
        assert "another ingest is using the audio cache" in world.run(ok=False).stderr


def test_a_missing_setting_of_the_source_is_told_before_anything_is_fetched(make_world: Any) -> None:
    world = make_world(1)
    result = world.run(ok=False, ingest={"source": "emby"})
    assert "emby.url is not set" in result.stderr
