"""`student-clap doctor` on a real PostgreSQL, a real media server, real files: all well, each failure, half missing."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner
from psycopg2 import sql

from loopback.audiomuse_api import running_audiomuse_api
from loopback.processes import ENOUGH_S
from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.export.demo.postgres import Database, PostgresServer
from student_clap.export.demo.schema import (
    LoopbackTrack,
    Server,
    create_schema,
    insert_tracks,
    set_app_config,
    unit_vector,
    vector_bytes,
)
from student_clap.export.doctor.check import Check, Outcome
from student_clap.export.doctor.examine import all_checks, examine
from student_clap.export.doctor.subject import PATIENCE_S, Subject, read_settings
from student_clap.store import FeatureStore, State, Track

from ..model.test_contract import model

PASS, WARNING, FAILURE = Outcome.PASS, Outcome.WARNING, Outcome.FAILURE
IDS = ("a1", "a2", "a3")
CREDENTIALS = "creds-token-must-not-show"
Found = dict[str, list[tuple[Outcome, str]]]


@dataclass
class World:
    """A home with a configuration that names a database, a media server, a folder and a store."""

    home: Path
    database: Database
    media: MediaServer
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def change(self, **sections: dict[str, Any]) -> None:
        for name, section in sections.items():
            self.sections[name] = self.sections[name] | section if name in self.sections else section

    @property
    def config(self) -> Path:
        path = self.home / "config.yaml"
        path.write_text(dump_yaml(self.sections), encoding="utf-8")
        return path

    def look(self, *names: str, limit_s: float = 60.0) -> Found:
        """What the checks of these names find."""
        return look(self.config, *names, limit_s=limit_s)


def look(path: Path | None, *names: str, limit_s: float = 60.0) -> Found:
    chosen = [check for check in all_checks() if check.name in names]
    assert len(chosen) == len(names)
    found = examine(Subject(read_settings(path, ()), limit_s), chosen)
    return {one.check.name: [(finding.outcome, finding.message) for finding in one.findings] for one in found}


def outcomes(found: Found) -> dict[str, set[Outcome]]:
    return {name: {outcome for outcome, _ in findings} for name, findings in found.items()}


@pytest.fixture(autouse=True)
def time_enough() -> Iterator[None]:
    """On a busy machine what answers may take longer than the command would wait."""
    with pytest.MonkeyPatch.context() as patch:  # a test's own goes before its database does
        patch.setattr("student_clap.export.doctor.subject.LIMIT_S", 120.0)
        patch.setattr("student_clap.export.doctor.subject.PATIENCE_S", 60)
        yield


@pytest.fixture
def world(tmp_path: Path, database: Database) -> Iterator[World]:
    music = tmp_path / "music"
    music.mkdir()
    for number, name in enumerate(IDS):
        noise = np.random.default_rng(number).standard_normal(8000) * 0.1
        soundfile.write(music / f"{name}.flac", noise, 16_000)
    files = {name: music / f"{name}.flac" for name in IDS}
    with running_media_server(files, paths={name: f"/srv/music/{name}.flac" for name in IDS}) as media:
        create_schema(database, "B", servers=[Server("main", "Main", is_default=True)])
        rows = [
            LoopbackTrack(name, name, vector=vector_bytes(unit_vector(n)), path=f"/srv/music/{name}.flac")
            for n, name in enumerate(IDS)
        ]
        insert_tracks(database, "B", rows)
        set_app_config(database, {"CLAP_AUDIO_N_FFT": "2048"})
        with FeatureStore.create(tmp_path / "store.zarr", "teacher") as store:
            store.append_tracks([Track("main", name, teacher=unit_vector(n)) for n, name in enumerate(IDS[:2])])
        sections = {
            "database": database.section(),
            "jellyfin": media.section(),
            "ingest": {"cache_dir": str(tmp_path / "audio"), "map": [f"/srv/music={music}"]},
            "store": {"path": str(tmp_path / "store.zarr")},
            "training": {"runs_dir": str(tmp_path / "runs")},
        }
        yield World(tmp_path, database, media, sections)


def everything_below(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_all_well(world: World) -> None:
    path = world.config
    before = everything_below(world.home)
    done = CliRunner().invoke(main, ["doctor", "--json", "--config", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    judged = {(finding["check"], finding["outcome"]) for finding in found["findings"]}
    quiet = {"packages", "gpu", "python", "onnxruntime"}  # whose outcome is this environment's
    assert {name for name, outcome in judged if outcome != "pass"} <= quiet
    assert {name for name, _ in judged} == {check.name for check in all_checks()}
    messages = " ".join(finding["message"] for finding in found["findings"])
    for words in ("generation B", "3 of Main", "takes the credentials", "all of 3 tracks", "store.zarr: 2 tracks"):
        assert words in messages, words
    assert everything_below(world.home) == before
    assert not (world.home / "audio").exists()


def wrong_password(world: World) -> None:
    world.change(database={"password": "not-the-password"})


def another_database(world: World) -> None:
    world.change(database={"database": "postgres"})


def wrong_token(world: World) -> None:
    world.change(jellyfin={"token": "not-the-token"})


def unset_token(world: World) -> None:
    world.change(jellyfin={"token": "${NO_SUCH_TOKEN}"})


def stopped_server(world: World) -> None:
    world.media.stop()


def unmounted(world: World) -> None:
    world.change(ingest={"map": [f"/srv/music={world.home / 'not-mounted'}"]})


def other_prefix(world: World) -> None:
    world.change(ingest={"map": [f"/data/songs={world.home / 'music'}"]})


def lost_files(world: World) -> None:
    for name in IDS[:2]:
        (world.home / "music" / f"{name}.flac").unlink()


def wrong_folder(world: World) -> None:
    (world.home / "other").mkdir()
    (world.home / "other" / "x.flac").write_bytes(b"x")
    world.change(ingest={"source": "folder", "map": []}, folder={"path": str(world.home / "other")})


def fetched_and_gone(world: World) -> None:
    with FeatureStore.open(world.home / "store.zarr", "r+") as store:
        store.update_tracks([0], audio=["gone.flac"], state=[State.FETCHED])


def fetched_and_not_to_be_looked_at(world: World) -> None:
    """A name that is too long is refused as a folder without rights is, for every user."""
    with FeatureStore.open(world.home / "store.zarr", "r+") as store:
        store.update_tracks([0], audio=["x" * 300], state=[State.FETCHED])


def other_server(world: World) -> None:
    world.change(ingest={"server": "no-such-server"})


def without_teacher(world: World) -> None:
    world.change(ingest={"vectors": "none"})


def other_mel(world: World) -> None:
    set_app_config(world.database, {"CLAP_AUDIO_N_FFT": "1024"})


def live_model_of_another_mel(world: World) -> None:
    folder = world.home / "model"
    folder.mkdir()
    onnx.save(model(), str(folder / "model_epoch_36.onnx"))
    world.change(audiomuse={"model_dir": str(folder)})


def no_model_folder(world: World) -> None:
    world.change(audiomuse={"model_dir": str(world.home / "not-mounted")})


def no_store(world: World) -> None:
    world.change(store={"path": str(world.home / "none.zarr")})


def damaged_store(world: World) -> None:
    path = world.home / "store.zarr" / "title" / "zarr.json"
    path.write_bytes(path.read_bytes().replace(b"zarr_format", b"zarr_formut"))


def killed_writer(world: World) -> None:
    note = {"pid": 2**22 + 1, "host": socket.gethostname(), "command": "student-clap featurize"}
    (world.home / "store.zarr.lock.json").write_text(json.dumps(note), encoding="utf-8")


def missing_provider(world: World) -> None:
    world.change(teacher={"provider": "qnn"})


CASES = [
    (wrong_password, "database", FAILURE, "check database.user and database.password"),
    (another_database, "database", FAILURE, "by default it is called `audiomusedb`"),
    (other_server, "vectors", FAILURE, "knows no server"),
    (without_teacher, "vectors", WARNING, "--teacher"),
    (wrong_token, "media server", FAILURE, "make an API key"),
    (unset_token, "media server", WARNING, "jellyfin.token not set"),
    (unset_token, "configuration", WARNING, "put them into .env"),
    (stopped_server, "media server", FAILURE, "check jellyfin.url"),
    (unmounted, "audio files", FAILURE, "is the disk mounted?"),
    (other_prefix, "audio files", FAILURE, "correct --map"),
    (lost_files, "audio files", FAILURE, "2 of 3 tracks"),
    (wrong_folder, "audio files", FAILURE, "set the folder that holds them"),
    (fetched_and_gone, "audio files", WARNING, "`student-clap ingest` fetches them again"),
    (fetched_and_not_to_be_looked_at, "audio files", WARNING, "1 of 1 files that the store counts as fetched"),
    (other_mel, "app settings", WARNING, "--write-settings"),
    (live_model_of_another_mel, "app settings", FAILURE, "--write-settings"),
    (live_model_of_another_mel, "app settings", WARNING, "clap_text_model.onnx"),
    (no_model_folder, "app settings", FAILURE, "mount it"),
    (no_store, "store", WARNING, "`student-clap ingest` makes one"),
    (damaged_store, "store", FAILURE, "`student-clap store repair`"),
    (killed_writer, "store", PASS, "did not end in order; the next stage clears up"),
    (missing_provider, "onnxruntime", FAILURE, "teacher.provider qnn"),
]


@pytest.mark.parametrize(("harm", "name", "outcome", "words"), CASES, ids=[f"{c[0].__name__}-{c[1]}" for c in CASES])
def test_each_failure_has_its_remedy(world: World, harm: Any, name: str, outcome: Outcome, words: str) -> None:
    harm(world)
    findings = world.look(name)[name]
    assert [message for found, message in findings if found is outcome and words in message], findings
    worst = FAILURE if any(found is FAILURE for found, _ in findings) else outcome
    assert worst is outcome or words == "clap_text_model.onnx", findings


def test_a_user_who_may_only_read_is_enough_to_train(world: World, postgres_server: PostgresServer) -> None:
    with closing(postgres_server.superuser()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE ROLE doctors_reader LOGIN PASSWORD 'only-reads-4d2a'")
    with closing(world.database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO doctors_reader"))
    world.change(database={"user": "doctors_reader", "password": "only-reads-4d2a"})
    found = world.look("database", "vectors", "app settings")
    assert outcomes(found) == {"database": {PASS, WARNING}, "vectors": {PASS}, "app settings": {PASS}}
    (text,) = [message for outcome, message in found["database"] if outcome is WARNING]
    assert "ON clap_embedding" in text
    assert "ON app_config" in text
    assert "only-reads" not in str(found)
    with closing(world.database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM doctors_reader")
    with closing(postgres_server.superuser()) as connection, connection.cursor() as cursor:
        cursor.execute("DROP ROLE doctors_reader")


def test_a_database_from_before_v1(world: World, postgres_server: PostgresServer) -> None:
    old = postgres_server.create_database()
    create_schema(old, "A", optional_columns=True)
    insert_tracks(old, "A", [LoopbackTrack(name, vector=vector_bytes(unit_vector(1))) for name in IDS])
    world.change(database=old.section())
    found = world.look("database", "vectors", "app settings", "audio files")
    assert outcomes(found) == {name: {PASS} for name in found}
    assert "generation A, one media server, without a name" in found["database"][0][1]
    assert "as before v1.0.0" in found["app settings"][0][1]
    # The media server's own list says where the tracks lie.
    assert "all of 3 tracks" in found["audio files"][0][1]
    postgres_server.drop_database(old)


def test_v08_takes_no_student(world: World, postgres_server: PostgresServer) -> None:
    old = postgres_server.create_database()
    create_schema(old, "A")
    insert_tracks(old, "A", [LoopbackTrack(name, vector=vector_bytes(unit_vector(1))) for name in IDS])
    world.change(database=old.section())
    found = world.look("database", "vectors", "app settings")
    assert outcomes(found) == {"database": {PASS}, "vectors": {PASS}, "app settings": {WARNING}}
    assert "AudioMuse-AI v0.8" in found["app settings"][0][1]
    assert "update it before `student-clap deploy`" in found["app settings"][0][1]
    postgres_server.drop_database(old)


def test_vectors_from_elsewhere(world: World) -> None:
    del world.sections["database"]
    rows = [LoopbackTrack(name, vector=vector_bytes(unit_vector(1))) for name in IDS]
    with running_audiomuse_api(rows) as api:
        world.change(ingest={"vectors": "api"}, audiomuse=api.section())
        found = world.look("database", "vectors", "app settings", "disk")
        assert outcomes(found) == {"database": set(), "vectors": {PASS}, "app settings": set(), "disk": {PASS}}
        assert "3 vectors" in found["vectors"][0][1]
        world.change(audiomuse={"token": "not-the-token"})
        ((outcome, message),) = world.look("vectors")["vectors"]
        assert outcome is FAILURE
        assert "audiomuse.token" in message
    world.change(ingest={"vectors": "table"}, table={"path": str(world.home / "none.parquet")})
    ((outcome, message),) = world.look("vectors")["vectors"]
    assert outcome is FAILURE
    assert "none.parquet" in message


def test_clocks_that_disagree(world: World) -> None:
    body = b'{"Version": "10.9.0"}'
    head = f"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2015 00:00:00 GMT\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for path in ("/System/Info", "/Items"):
        world.media.fault(path, "raw", content=head + body)
    (finding,) = world.look("clock")["clock"]
    assert finding[0] is WARNING
    assert "media server" in finding[1]
    assert "behind" in finding[1]


def test_a_disk_without_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 260_000_000))
    (finding,) = world.look("disk")["disk"]
    assert finding[0] is WARNING
    assert "3 tracks to fetch and 3 to featurize" in finding[1]
    assert "--max-cache" in finding[1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 1000))
    ((outcome, message),) = world.look("disk")["disk"]
    assert outcome is FAILURE
    assert "make room" in message


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that takes connections and never answers; the threads that ask there have ended after the block."""
    before = set(threading.enumerate())
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(16)
        yield hole.getsockname()[1]
    for thread in set(threading.enumerate()) - before:
        thread.join(30)


def test_dead_servers_do_not_add_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    left_s = Subject.left_s

    def left_after_the_store(subject: Subject) -> float:
        """The one check that asks no server has its time, however busy the machine is."""
        for thread in threading.enumerate():
            if thread.name == "doctor store":
                thread.join(60)
        return left_s(subject)

    monkeypatch.setattr(Subject, "left_s", left_after_the_store)
    with black_hole() as port:
        world.change(database={"host": "127.0.0.1", "port": port}, jellyfin={"url": f"http://127.0.0.1:{port}"})
        found = world.look("database", "media server", "app settings", "clock", "store", limit_s=1.0)
    for name in ("database", "media server", "app settings", "clock"):
        assert "was not done within 1.0 s" in found[name][-1][1], found
    assert outcomes(found)["database"] == {FAILURE}
    assert outcomes(found)["clock"] == {WARNING}
    assert outcomes(found)["store"] == {PASS}


def test_a_dead_server_is_told_apart_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a few seconds, however long the configuration would wait."""
    monkeypatch.setattr("student_clap.export.doctor.subject.PATIENCE_S", PATIENCE_S)
    with black_hole() as port:
        world.change(database={"host": "127.0.0.1", "port": port, "connect_timeout_s": 600})
        found = world.look("database", "app settings", "disk")
    ((outcome, message),) = found["database"]
    assert outcome is FAILURE
    assert "timeout expired" in message
    assert outcomes(found) == {"database": {FAILURE}, "app settings": {WARNING}, "disk": {PASS}}


def test_half_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [check.name for check in all_checks() if check.name != "gpu"]
    found = look(None, *names)
    assert FAILURE not in set.union(*outcomes(found).values()), found
    assert "student-clap init" in found["configuration"][0][1]
    assert found["app settings"] == []
    assert list(tmp_path.iterdir()) == []


def test_packages_that_are_not_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = world.look("database", "media server", "onnxruntime", "app settings")
    assert outcomes(found)["media server"] == {PASS}
    for name, package in (("database", "psycopg2"), ("onnxruntime", "onnxruntime")):
        ((outcome, message),) = found[name]
        assert outcome is FAILURE
        assert f"the package {package} is not installed" in message


@pytest.mark.parametrize("text", ["database: [", "databas:\n  host: x\n", "training:\n  epochs: many\n"])
def test_a_configuration_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    subject = Subject(read_settings(tmp_path / "config.yaml", ()), 60)
    found = list(examine(subject, [check for check in all_checks() if check.name != "gpu"]))
    failed = {one.check.name for one in found for finding in one.findings if finding.outcome is FAILURE}
    assert failed == {"configuration"}
    assert "store" not in {one.check.name for one in found}


def test_what_nobody_foresaw_is_a_finding() -> None:
    def look_and_fall(_: Subject) -> Iterator[Any]:
        raise ZeroDivisionError("by zero")

    check = Check("odd", all_checks()[0].area, look_and_fall)
    (one,) = examine(Subject(read_settings(None, ("store.path=/nowhere",))), [check])
    ((finding),) = one.findings
    assert finding.outcome is FAILURE
    assert "please report it" in finding.message


def test_no_secret_shows(world: World) -> None:
    """Neither of what works nor of what is refused; and the exit code and the lines of the real command."""
    secrets = {world.database.password, world.media.token, CREDENTIALS, "not-the-password", "not-the-token"}
    names = [check.name for check in all_checks() if check.name != "gpu"]
    text = str(world.look(*names))
    wrong_password(world)
    wrong_token(world)
    world.media.fault("/System/Info", "echo", status=500)
    done = CliRunner().invoke(main, ["doctor", "--config", str(world.config)], catch_exceptions=False)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert all(line.split()[0] in {"pass", "warning", "failure"} for line in lines[:-1])
    assert lines[-1].startswith("doctor: ")
    assert "\x1b" not in done.stdout
    text += done.output
    assert [secret for secret in secrets if secret in text] == []


def test_a_pool_that_hangs_keeps_no_process(tmp_path: Path) -> None:
    program = (
        "import time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from student_clap.export.doctor import examine, subject\n"
        "from student_clap.export.doctor.check import Area, Check\n"
        "def look(_):\n"
        "    ThreadPoolExecutor(1).submit(time.sleep, 600).result()\n"
        "    yield\n"
        "examine.all_checks = lambda: [Check('hangs', Area.MACHINE, look)]\n"
        "subject.LIMIT_S = 1.0\n"
        "from student_clap.config.__main__ import run\n"
        "run(['doctor'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=ENOUGH_S, check=False
    )
    assert "was not done within" in done.stdout
    assert done.returncode in (0, 1)
    assert done.stderr == ""
