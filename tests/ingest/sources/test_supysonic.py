"""A real Subsonic server, supysonic, in a process of its own on 127.0.0.1.

It knows no hashed passwords, names files by their path within the music folder, and answers with HTTP's own status
beside the error document: a dialect that none of the loopback servers has.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutagen
import numpy as np
import pytest
import requests
import soundfile

from loopback.processes import ENOUGH_S
from student_clap.config.schema import Config
from student_clap.export.demo.schema import LoopbackTrack, Server, unit_vector, vector_bytes
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.open import open_source
from student_clap.store import FeatureStore, State

_USER, _PASSWORD = "listener", "pä ss&wörd=1#"


@dataclass(frozen=True)
class Supysonic:
    """A running server."""

    home: Path
    url: str
    music: Path

    def section(self, **changes: str) -> dict[str, str]:
        """Our settings for it."""
        return {"url": self.url, "user": _USER, "password": _PASSWORD} | changes

    @contextmanager
    def open(self, maps: tuple[str, ...] = (), **changes: str) -> Iterator[Any]:
        """The audio source."""
        tree = {
            "navidrome": self.section(**changes),
            "ingest": {"source": "navidrome", "retries": 1, "backoff_s": 0.0, "timeout_s": 60.0, "map": list(maps)},
        }
        with open_source(Config.model_validate(tree), {}, threading.Event()) as source:
            yield source

    def files(self) -> dict[str, Path]:
        """Path within the music folder -> file."""
        return {p.relative_to(self.music).as_posix(): p for p in sorted(self.music.rglob("*")) if p.is_file()}

    def command(self, *arguments: str) -> None:
        """`supysonic-cli`."""
        program = [sys.executable, "-m", "supysonic.cli", *arguments]
        subprocess.run(
            program, cwd=self.home, env=_environment(self.home), check=True, capture_output=True, timeout=ENOUGH_S
        )


def _environment(home: Path) -> dict[str, str]:
    # It looks into the home directory, too, for settings and for what makes them differ.
    return {**os.environ, "HOME": str(home), "PYTHONWARNINGS": "ignore", "NO_PROXY": "127.0.0.1"}


def _tagged(path: Path, tune: Path, title: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tune, path)
    file = mutagen.File(path, easy=True)
    if file.tags is None:
        file.add_tags()
    file["title"], file["artist"], file["album"] = title, "Björk", "Début"
    file.save()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Bound, but without a listener: no other program gets it, and the server may listen there."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(scope="module")
def supysonic(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Supysonic]:
    home = tmp_path_factory.mktemp("supysonic")
    music = home / "music"
    for i, name in enumerate(("Björk/Début/01 One.flac", "Björk/Début/02 Two.mp3", "Björk/03 Three.ogg", "04.flac")):
        tune = home / f"tune.{name.rpartition('.')[2]}"
        soundfile.write(tune, np.random.default_rng(i).standard_normal(8000) * 0.1, 16_000)
        _tagged(music / name, tune, f"Title {i}")
    (home / "supysonic.conf").write_text(
        f"[base]\ndatabase_uri = sqlite:///{home}/supysonic.db\n"
        f"[webapp]\ncache_dir = {home}/cache\nmount_webui = off\nlog_level = ERROR\n"
        f"[daemon]\nsocket = {home}/daemon.sock\n"
    )
    server = Supysonic(home, f"http://127.0.0.1:{port}", music)
    server.command("user", "add", _USER, "-p", _PASSWORD)
    server.command("folder", "add", "music", str(music))
    server.command("folder", "scan", "--foreground", "music")
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "supysonic.server",
                "--server",
                "waitress",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            cwd=home,
            env=_environment(home),
            stdout=log,
            stderr=log,
        )
        try:
            _wait(server, process)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(server: Supysonic, process: subprocess.Popen[bytes]) -> None:
    """Until it answers."""
    deadline = time.monotonic() + ENOUGH_S
    with requests.Session() as session:
        session.trust_env = False
        while process.poll() is None and time.monotonic() < deadline:
            try:
                session.get(f"{server.url}/rest/ping.view", timeout=5).close()
            except requests.RequestException:
                time.sleep(0.05)
            else:
                return
    pytest.fail(f"supysonic did not start: {(server.home / 'server.log').read_text()}")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ids(source: Any) -> dict[str, str]:
    """Path -> id."""
    source.check()
    return {t.path: t.track_id for page in source.list_tracks() for t in page}


def test_the_password_is_sent_where_its_hash_is_not_understood(
    supysonic: Supysonic, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "student_clap")
    with supysonic.open() as source:
        source.check()
    assert "another way to log in is tried" in caplog.text
    assert _PASSWORD not in caplog.text
    assert _PASSWORD.encode().hex() not in caplog.text


@pytest.mark.parametrize("changes", [{"password": "wrong-secret"}, {"user": "nobody"}])
def test_a_wrong_login_is_told(supysonic: Supysonic, changes: dict[str, str]) -> None:
    with supysonic.open(**changes) as source:
        with pytest.raises(SourceError, match="refuses the user and password") as caught:
            source.check()
        assert "wrong-secret" not in caught.value.message
        assert b"wrong-secret".hex() not in caught.value.message


def test_an_api_key_is_told_to_be_of_no_use_there(supysonic: Supysonic) -> None:
    with supysonic.open(api_key="key-secret") as source:
        with pytest.raises(SourceError, match="refuses the API key") as caught:
            source.check()
        assert "key-secret" not in caught.value.message


def test_tracks_are_listed_and_downloaded_byte_for_byte(supysonic: Supysonic, servers: Any) -> None:
    with supysonic.open() as source:
        listed = ids(source)
        assert set(listed) == set(supysonic.files())
        for path, track_id in listed.items():
            found = source.fetch(servers.wanted(track_id))
            assert found.suffix == Path(path).suffix
            assert found.read_bytes() == supysonic.files()[path].read_bytes()


def test_its_stream_is_the_file_too(supysonic: Supysonic, servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with supysonic.open() as source:
        source.check()
        path, track_id = next(iter(ids(source).items()))
        addresses = source.addresses(track_id)
        monkeypatch.setattr(source, "addresses", lambda _: addresses[1:])
        assert addresses[1].path == "/rest/stream.view"
        assert source.fetch(servers.wanted(track_id)).read_bytes() == supysonic.files()[path].read_bytes()


@pytest.mark.parametrize(
    ("track_id", "reason", "permanent"),
    [
        (str(uuid.UUID(int=7)), "it is gone from the media server", True),
        ("tr-7", r"the server reports error 0 \(Invalid ID\)", False),
    ],
)
def test_a_track_that_is_gone_is_told(
    supysonic: Supysonic, servers: Any, track_id: str, reason: str, permanent: bool
) -> None:
    with supysonic.open() as source:
        source.check()
        with pytest.raises(FetchError, match=reason) as caught:
            source.fetch(servers.wanted(track_id))
        assert caught.value.permanent is permanent


def test_its_paths_lead_to_files_on_disk(supysonic: Supysonic, servers: Any) -> None:
    with supysonic.open() as source:
        listed = ids(source)
    with supysonic.open(maps=(f".={supysonic.music}",)) as source:
        for path, track_id in listed.items():
            assert source.fetch(servers.wanted(track_id)) == supysonic.music / path


def test_ingest_from_a_database_that_names_it(supysonic: Supysonic, make_world: Any) -> None:
    with supysonic.open() as source:
        listed = ids(source)
    # A world whose media server stays unused, beside a server named navidrome that is the real one.
    world = make_world(0, generation="B", servers=(Server("nd", "Home", "navidrome", is_default=True),))
    tracks = [
        LoopbackTrack(t, f"Title {i}", "Björk", "Début", vector_bytes(unit_vector(i)), f"/music/{p}", server_id="nd")
        for i, (p, t) in enumerate(listed.items())
    ]
    gone = LoopbackTrack(
        str(uuid.UUID(int=9)), "Gone", "Björk", "Début", vector_bytes(unit_vector(9)), "/music/x.mp3", server_id="nd"
    )
    world.put(*tracks, gone)
    sections = {
        "navidrome": supysonic.section(),
        "ingest": {"source": "navidrome", "cache_dir": str(world.home / "audio"), "retries": 1, "backoff_s": 0.01},
    }
    out = world.run(**sections).output
    assert "5 tracks (5 new" in out
    assert "4 fetched" in out
    for path, track_id in listed.items():
        row = world.row(track_id)
        assert (row["server_id"], row["state"]) == ("nd", State.FETCHED)
        content = (world.home / "audio" / row["audio"]).read_bytes()
        assert hashlib.sha256(content).digest() == hashlib.sha256(supysonic.files()[path].read_bytes()).digest()
    row = world.row(gone.track_id)
    assert (row["state"], row["error"]) == (State.FAILED, "it is gone from the media server (404)")
    assert "4 already there" in world.run(**sections).output
    for secret in (_PASSWORD, _PASSWORD.encode().hex()):
        assert secret not in out
    assert FeatureStore.open(world.home / "store.zarr").n_tracks == 5
