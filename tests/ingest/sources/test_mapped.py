"""Files that this machine has already: used in place, the rest downloaded."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from student_clap.export.demo.mediaserver import running_media_server
from student_clap.export.demo.schema import LoopbackTrack, unit_vector, vector_bytes
from student_clap.ingest.http.errors import FetchError, SourceError

_IDS = {"jellyfin": ("a1", "a2"), "lyrion": ("1", "2"), "plex": ("1000", "1001")}


@pytest.fixture
def nas(servers: Any) -> Path:
    """A mounted disk with one of the server's two files."""
    folder: Path = servers.home / "nas"
    (folder / "Artist").mkdir(parents=True)
    shutil.copy(servers.files["a1"], folder / "Artist/1.flac")
    return folder


def two_tracks(servers: Any, kind: str = "jellyfin", **options: Any) -> Any:
    ids = _IDS.get(kind, ("a1", "a2"))
    paths = {ids[0]: "/music/Artist/1.flac", ids[1]: "/music/Artist/2.flac"}
    return running_media_server(dict.fromkeys(ids, servers.files["a1"]), kind=kind, paths=paths, **options)


def test_a_file_that_is_here_is_used_and_the_server_not_asked(servers: Any, nas: Path) -> None:
    with two_tracks(servers) as media:
        media.stop()
        with servers.open(media, maps=(f"/music={nas}",), paths=media.paths) as source:
            source.check()
            assert source.fetch(servers.wanted("a1")) == nas / "Artist/1.flac"
            with pytest.raises(SourceError, match="no connection"):
                source.fetch(servers.wanted("a2"))


def test_a_file_that_is_not_here_is_downloaded(servers: Any, nas: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "student_clap")
    paths = {"a1": "/music/Artist/1.flac", "a2": "/music/Artist/2.flac", "a3": "/other/3.flac", "a4": "/music/4.mp3"}
    (nas / "4.mp3").write_text("no audio")
    running = running_media_server(dict.fromkeys(paths, servers.files["a1"]))
    with running as media, servers.open(media, maps=(f"/music={nas}",), paths=paths) as source:
        source.check()
        found = {t: source.fetch(servers.wanted(t)) for t in paths}
    assert found.pop("a1") == nas / "Artist/1.flac"
    for path in found.values():
        assert path.parent == servers.home / "cache"
        assert path.read_bytes() == servers.files["a1"].read_bytes()
    assert "ingest.map covers 3 of AudioMuse-AI's 4 paths" in caplog.text
    assert "4.mp3 cannot be used: it is text, not audio" in caplog.text
    assert "1 tracks used where they lie; asked of the server: 1 not in the mapped folder" in caplog.text
    assert "1 not readable as audio, 1 outside the mapped folders" in caplog.text


@pytest.mark.parametrize("kind", ["jellyfin", "emby", "navidrome", "lyrion", "plex"])
def test_paths_that_the_database_lacks_are_listed_once_by_the_server(servers: Any, nas: Path, kind: str) -> None:
    ids = _IDS.get(kind, ("a1", "a2"))
    with two_tracks(servers, kind) as media, servers.open(media, maps=(f"/music={nas}",)) as source:
        source.check()
        assert media.log == []
        assert source.fetch(servers.wanted(ids[0])) == nas / "Artist/1.flac"
        assert media.downloads() == 0
        n_requests = len(media.log)
        assert source.fetch(servers.wanted(ids[0])) == nas / "Artist/1.flac"
        assert len(media.log) == n_requests
        assert source.fetch(servers.wanted(ids[1])).parent == servers.home / "cache"


def test_a_few_paths_that_the_database_lacks_are_listed_too(servers: Any, nas: Path) -> None:
    known = {"a2": "/music/Artist/2.flac"}
    with two_tracks(servers) as media, servers.open(media, maps=(f"/music={nas}",), paths=known) as source:
        source.check()
        assert source.fetch(servers.wanted("a1")) == nas / "Artist/1.flac"
        assert media.downloads() == 0


def test_a_disk_that_is_not_mounted_ends_the_run(servers: Any, nas: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with two_tracks(servers) as media:
        for folder, reason in (
            ("nowhere", r"cannot be read \(No such file"),
            ("empty", "is empty; is the disk mounted"),
        ):
            opened = servers.open(media, maps=(f"/music={tmp_path / folder}",), paths=media.paths)
            with opened as source, pytest.raises(SourceError, match=reason):
                source.check()
        with servers.open(media, maps=(f"/music={nas}",), paths=media.paths) as source:
            source.check()
            source.fetch(servers.wanted("a1"))
            shutil.rmtree(nas)
            with pytest.raises(SourceError, match="is the disk mounted"):
                source.fetch(servers.wanted("a1"))
        assert media.downloads() == 0


def test_a_map_that_fits_no_path_is_told_before_anything_is_downloaded(servers: Any, nas: Path) -> None:
    with two_tracks(servers) as media:
        with (
            servers.open(media, maps=(f"/data={nas}",), paths=media.paths) as source,
            pytest.raises(SourceError, match=r"none of AudioMuse-AI's 2 paths .* look like '/music/Artist/1.flac'"),
        ):
            source.check()
        with servers.open(media, maps=(f"/data={nas}",)) as source:
            source.check()
            with pytest.raises(SourceError, match=r"none of the media server's 2 paths begins as ingest.map says"):
                source.fetch(servers.wanted("a1"))
        assert media.downloads() == 0


def test_navidromes_made_up_paths_are_explained(servers: Any, nas: Path) -> None:
    paths = {"a1": "Artist/1.flac", "a2": "Artist/2.flac"}
    running = running_media_server(dict.fromkeys(paths, servers.files["a1"]), kind="navidrome", paths=paths)
    with running as media:
        opened = servers.open(media, maps=(f"/music={nas}",))
        with opened as source, pytest.raises(SourceError, match="Report Real Path"):
            source.fetch(servers.wanted("a1"))
        with servers.open(media, maps=(f".={nas}",)) as source:
            assert source.fetch(servers.wanted("a1")) == nas / "Artist/1.flac"


def test_a_server_that_names_no_paths_is_told(servers: Any, nas: Path) -> None:
    running = running_media_server({"1": servers.files["a1"]}, kind="lyrion", paths={"1": "qobuz://1.flac"})
    with running as media, servers.open(media, maps=(f"/music={nas}",)) as source:
        source.check()
        with pytest.raises(SourceError, match="says where the tracks lie"):
            source.fetch(servers.wanted("1"))


def test_a_list_that_breaks_off_ends_the_run(servers: Any, nas: Path) -> None:
    with two_tracks(servers) as media, servers.open(media, maps=(f"/music={nas}",)) as source:
        media.fault("/Items", "status", status=500)
        with pytest.raises(SourceError, match="broke off after 0 tracks"):
            source.fetch(servers.wanted("a1"))
        assert media.downloads() == 0


def test_the_servers_own_faults_come_through(servers: Any, nas: Path) -> None:
    with two_tracks(servers) as media, servers.open(media, maps=(f"/music={nas}",), paths=media.paths) as source:
        media.fault("a2", "status", status=404)
        with pytest.raises(FetchError, match="gone from the media server"):
            source.fetch(servers.wanted("a2"))
        media.token = "another"
        with pytest.raises(SourceError, match="refuses the token"):
            source.check()


# --- the whole stage


def tracks_on_a_nas(world: Any, folder: Path, here: int) -> list[LoopbackTrack]:
    """Give the tracks of `world` paths below /music, of which the first so many lie below `folder`."""
    tracks = []
    for i, track in enumerate(world.tracks):
        file = world.media.files[track.track_id]
        tracks.append(
            LoopbackTrack(
                track.track_id,
                track.title,
                track.artist,
                track.album,
                vector_bytes(unit_vector(i)),
                f"/music/{file.name}",
            )
        )
        if i < here:
            folder.mkdir(exist_ok=True)
            shutil.copy(file, folder / file.name)
    world.media.paths.update({t.track_id: t.path for t in tracks})
    return tracks


@pytest.mark.parametrize("generation", ["A", "B"])
def test_ingest_uses_what_is_on_disk(make_world: Any, tmp_path: Path, generation: Any) -> None:
    world = make_world(6, generation=generation)
    nas = tmp_path / "nas"
    tracks = tracks_on_a_nas(world, nas, here=4)
    world.put(*tracks)
    before = {p.name: p.read_bytes() for p in nas.iterdir()}
    out = world.run("--map", f"/music={nas}").output
    assert "6 tracks (6 new" in out
    assert world.media.downloads() == 2
    assert len(world.files()) == 2
    for i, track in enumerate(tracks):
        audio = world.row(track.track_id)["audio"]
        assert (audio == str(nas / Path(track.path).name)) == (i < 4)
        assert (world.home / "audio" / audio).read_bytes() == world.media.files[track.track_id].read_bytes()
    assert "6 already there" in world.run("--map", f"/music={nas}").output
    assert {p.name: p.read_bytes() for p in nas.iterdir()} == before
    assert world.media.downloads() == 2
    # The file has moved away: it is fetched after all.
    (nas / Path(tracks[0].path).name).unlink()
    assert "1 fetched" in world.run("--map", f"/music={nas}").output
    assert not Path(world.row(tracks[0].track_id)["audio"]).is_absolute()


def test_a_malformed_map_is_told_before_the_database_is_read(make_world: Any) -> None:
    world = make_world(1)
    out = world.run("--map", "/music", ok=False, database={"host": "127.0.0.1", "port": 1}).output
    assert "expected SERVER=LOCAL" in out
