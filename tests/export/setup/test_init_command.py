"""`student-clap init` as a dialogue: real servers are tried, wrong answers asked again, and nothing is half written."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from loopback.audiomuse_api import running_audiomuse_api
from loopback.processes import ENOUGH_S, started
from student_clap.config.cli import main
from student_clap.config.load import load_config
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.export.demo.postgres import Database
from student_clap.export.demo.schema import (
    LoopbackTrack,
    Server,
    create_schema,
    insert_tracks,
    unit_vector,
    vector_bytes,
)
from student_clap.export.setup import write

TRACK = "0123456789abcdef"


@pytest.fixture
def media(tmp_path: Path) -> Iterator[MediaServer]:
    """A Jellyfin with one track."""
    soundfile.write(tmp_path / "track.flac", np.zeros(48_000), 48_000)
    with running_media_server({TRACK: tmp_path / "track.flac"}, titles={TRACK: ("A title", "An artist", "")}) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and somebody at the terminal."""
    for name in [name for name in os.environ if name.startswith(("DB_", "JELLYFIN_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("student_clap.export.init_command.is_dialogue", lambda: True)
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def init(folder: Path, *answers: str) -> Result:
    return CliRunner().invoke(main, ["init", str(folder)], input="".join(f"{answer}\n" for answer in answers))


def test_database_and_server_are_tried_and_both_files_written(
    folder: Path, media: MediaServer, database: Database
) -> None:
    create_schema(database, "B", servers=[Server("main", "Main", is_default=True)])
    tracks = [LoopbackTrack(f"t{n}", vector=vector_bytes(unit_vector(n))) for n in range(3)]
    insert_tracks(database, "B", tracks)
    of_database = (database.host, str(database.port), database.database, database.user)
    of_media = (media.url, media.user_id)
    done = init(
        folder,
        *("database", *of_database, "wrong-password", "y"),
        *("", "", "", "", "", database.password),  # an empty answer keeps the last one
        "dclap-epoch-36",
        *("", *of_media, "wrong-token", "y", "", "", "", media.token),  # the database says that it is a Jellyfin
    )
    assert done.exit_code == 0, done.output
    assert "warning: cannot open the database" in done.stderr
    assert "works: 3 tracks, AudioMuse-AI's tables of generation B" in done.stderr
    assert "[jellyfin]" in done.stderr
    assert "'A title'" in done.stderr
    config = load_config(folder / "config.yaml", needs=frozenset({"database", "jellyfin"}))
    assert (config.ingest.vectors, config.ingest.source, config.database.port) == (
        "database",
        "jellyfin",
        database.port,
    )
    assert config.teacher.name == "dclap-epoch-36"
    assert config.jellyfin.token is not None
    assert config.jellyfin.token.get_secret_value() == media.token
    for secret in (database.password, media.token, "wrong-password", "wrong-token"):
        assert secret not in done.output
        assert secret not in (folder / "config.yaml").read_text(encoding="utf-8")


def test_folder_and_table_and_going_on_with_what_is_not_there_yet(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "a.wav", np.zeros(48_000), 48_000)
    table = tmp_path / "vectors.npz"
    done = init(folder, "9", "3", "vectors.npz", "n", "", "folder", ".")
    assert done.exit_code == 0, done.output
    assert "answer with a number from 1 to" in done.stderr
    assert f"works: {tmp_path / 'a.wav'} is audio" in done.stderr
    config = load_config(folder / "config.yaml")
    assert (config.ingest.vectors, config.table.path) == ("table", table)
    assert (config.ingest.source, config.folder.path) == ("folder", tmp_path)


@pytest.mark.parametrize("servers", [(Server("main", "Navi", "navidrome", is_default=True),), ()])
def test_the_interface_says_which_kind_of_server_it_has(folder: Path, servers: tuple[Server, ...]) -> None:
    """Before v3 by its first page; the audio is asked for after the vectors, so nothing else can have said it."""
    tracks = [LoopbackTrack(f"t{n}", vector=vector_bytes(unit_vector(n))) for n in range(3)]
    with running_audiomuse_api(tracks, servers=servers, provider_type="navidrome") as api:
        done = init(folder, "api", api.url, str(api.token), "", "", "", "", "", "", "n")
    assert "is not a jellyfin server" not in done.output
    assert "works: 3 tracks" in done.stderr
    assert "[navidrome]" in done.stderr
    config = load_config(folder / "config.yaml")
    assert (config.ingest.vectors, config.ingest.source) == ("api", "navidrome")


@pytest.mark.parametrize("answers", [(), ("database",), ("table", "x.npz", "n", "", "folder")])
def test_answers_that_end_early_leave_nothing(folder: Path, answers: tuple[str, ...]) -> None:
    done = init(folder, *answers)
    assert done.exit_code == 1
    assert "Error: the answers ended early, and nothing was written\n" in done.stderr
    assert list(folder.iterdir()) == []


def test_what_is_there_is_asked_for(folder: Path) -> None:
    (folder / "config.yaml").write_text("mine", encoding="utf-8")
    done = init(folder, "n")
    assert done.exit_code == 1
    assert "was left as it is, and nothing was written" in done.stderr
    assert (folder / "config.yaml").read_text(encoding="utf-8") == "mine"
    assert len(list(folder.iterdir())) == 1


def test_defaults_asks_nothing(folder: Path) -> None:
    done = CliRunner().invoke(main, ["init", "--defaults", str(folder)], input="")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in folder.iterdir()) == [".env.example", "config.yaml"]


def test_ctrl_c_while_writing_waits_for_both_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = write.write_bytes_atomically

    def stopped(target: Path, data: bytes, **more: int) -> None:
        real(target, data, **more)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(write, "write_bytes_atomically", stopped)
    init(folder, "table", "x.npz", "n", "", "folder", "/nowhere", "n")
    assert sorted(path.name for path in folder.iterdir()) == [".env", "config.yaml"]


@pytest.mark.slow
def test_ctrl_c_at_a_hidden_answer_ends_with_130_and_gives_the_terminal_back(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "student_clap.config", "init", str(tmp_path / "new")]
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "rb"):
        with started(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            heard = _until(ours, "Number or name")
            assert _echoes(theirs)
            os.write(ours, b"api\nhttp://127.0.0.1:9\n")
            heard += _until(ours, "audiomuse.token")
            deadline = time.monotonic() + ENOUGH_S
            while _echoes(theirs):  # the question is there before the answer is hidden
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert process.wait(ENOUGH_S) == 130, heard
            rest = _until(ours, "stopped by SIGINT; nothing was written")
        assert _echoes(theirs)
    assert "Traceback" not in heard + rest
    assert not (tmp_path / "new").exists()


def _echoes(terminal: int) -> bool:
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


def _until(terminal: int, text: str) -> str:
    heard = ""
    while text not in heard and select.select([terminal], [], [], ENOUGH_S)[0]:
        heard += os.read(terminal, 4096).decode(errors="replace")
    assert text in heard
    return heard
