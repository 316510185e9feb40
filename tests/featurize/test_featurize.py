"""The stage by its real command: files in, shards and marks out, whatever the files are like, killed or not."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.plan import Selection, plan
from student_clap.store import FeatureStore, Recipe, State, Track

pytestmark = pytest.mark.slow

COMMAND = str(Path(sys.executable).with_name("student-clap"))
RECIPE = Recipe.from_config(AudioConfig())


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`student-clap featurize` in `folder`."""
    return subprocess.run(
        [COMMAND, "featurize", *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def make_store(folder: Path, files: list[Path | str]) -> None:
    """A store at the default place whose rows name `files`."""
    vector = np.full(512, 512**-0.5, np.float32)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    with FeatureStore.create(folder / "data" / "features.zarr", "test") as store:
        store.append_tracks(
            [
                Track("default", f"t{n}", title=f"tune {n}", audio=str(f), state=State.FETCHED, teacher=vector)
                for n, f in enumerate(files)
            ]
        )


def has_shards(folder: Path) -> bool:
    """Whether a shard is there, whole."""
    mel = folder / "data" / "features.zarr" / "features" / "audiomuse" / "mel" / "c"
    return any(p.is_file() and p.suffix != ".partial" for p in mel.rglob("*"))


def shards(folder: Path) -> dict[str, str]:
    """Every shard and its digest."""
    mel = folder / "data" / "features.zarr" / "features" / "audiomuse" / "mel" / "c"
    return {
        str(p.relative_to(mel)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(mel.rglob("*"))
        if p.is_file()
    }


def test_good_files_are_made_and_bad_ones_are_one_line_each(tmp_path, write_audio):
    good = [write_audio("a.ogg", 12.0), write_audio("b.m4a", 3.0), write_audio("c.wav", 21.0, 48_000, 1)]
    html, empty = tmp_path / "page.mp3", tmp_path / "empty.flac"
    html.write_text("<html>Sign in</html>")
    empty.write_bytes(b"")
    make_store(tmp_path, [*good, html, empty, tmp_path / "lost.ogg"])

    first = run(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "featurize: 3 tracks made" in first.stdout
    assert "2 failed" in first.stdout
    assert "1 without their audio file (`student-clap ingest` fetches it again)" in first.stdout
    lines = [line for line in first.stderr.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 2
    assert any(line.startswith("failed: row 3 'tune 3': no audio; soundfile: ") for line in lines)

    features = FeatureStore.open(tmp_path / "data" / "features.zarr").features(RECIPE)
    samples = [decode(path, RECIPE.max_samples) for path in good]
    assert features.n_samples().tolist() == [*(len(s) for s in samples), -1, -1, 0]
    assert [bool(e) for e in features.errors()] == [False, False, False, True, True, False]
    for row, track in enumerate(samples):
        assert np.array_equal(features.strip(row), LogMel(RECIPE).codes(track))

    before = shards(tmp_path)
    second = run(tmp_path)
    assert "0 tracks made, 3 there already, 2 failed before (--retry-failed tries again)" in second.stdout
    assert shards(tmp_path) == before

    html.write_bytes(good[0].read_bytes())
    third = run(tmp_path, "--retry-failed", "--workers", "1")
    assert "featurize: 1 track made" in third.stdout
    assert "1 failed" in third.stdout

    (tmp_path / "data/features.zarr/features/audiomuse/mel/c/0/0/0").unlink()
    fourth = run(tmp_path, "--again", "0", "--workers", "1")
    assert "featurize: 1 track made" in fourth.stdout
    assert before.items() <= shards(tmp_path).items()


def test_a_second_recipe_lives_beside_the_first_as_far_as_the_audio_is_there(tmp_path, write_audio):
    files = [write_audio("a.wav", 3.0), write_audio("b.wav", 11.0)]
    make_store(tmp_path, files)
    assert run(tmp_path, "--workers", "1").returncode == 0
    before = shards(tmp_path)
    files[0].unlink()

    second = run(tmp_path, "--recipe", "clap", "--workers", "1")
    assert second.returncode == 0, second.stderr
    assert "featurize: 1 track to make, recipe clap (64 mels, n_fft 1024, " in second.stdout
    assert "featurize: 1 track made" in second.stdout
    assert "1 without their audio file (`student-clap ingest --recipe clap` fetches it again)" in second.stdout
    assert shards(tmp_path) == before

    store = FeatureStore.open(tmp_path / "data" / "features.zarr")
    clap = Recipe.from_config(AudioConfig(preset="clap"))
    assert sorted(store.recipes()) == ["audiomuse", "clap"]
    assert store.features(RECIPE).made().tolist() == [True, True]
    assert store.features(clap).made().tolist() == [False, True]
    expected = LogMel(clap).codes(decode(files[1], clap.max_samples))
    assert np.array_equal(store.features(clap).strip(1), expected)
    minutes = {}
    for recipe in ("audiomuse", "clap"):
        rows = subprocess.run(
            [COMMAND, "store", "list", "--recipe", recipe], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        minutes[recipe] = [line.split("\t")[4] for line in rows.stdout.splitlines()]
    assert minutes == {"audiomuse": ["0.05", "0.18"], "clap": ["-", "0.18"]}


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_marks_what_is_made_and_says_how_to_go_on(tmp_path, write_audio, gates, number, exit_code):
    files = [write_audio(f"{n}.wav", 40.0, 44_100, seed=n) for n in range(8)]
    make_store(tmp_path, files)
    gates.close(*files[4:])
    process = subprocess.Popen(
        [COMMAND, "featurize", "--workers", "1", "--set", "featurize.tracks_per_task=1"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, **gates.environment},
    )  # fmt: skip
    while not has_shards(tmp_path):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number)  # as a terminal does: to all of them
    out, err = process.communicate(timeout=120)
    assert process.returncode == exit_code, err
    assert f"stopped by {signal.Signals(number).name} with " in out
    assert "run it again" in out
    assert "Traceback" not in err
    FeatureStore.open(tmp_path / "data" / "features.zarr", "r+").close()  # the lock is free


def test_a_running_scheduler_is_used(tmp_path, write_audio):
    from distributed import LocalCluster

    make_store(tmp_path, [write_audio("a.wav", 3.0)])
    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=40
    ) as cluster:
        done = run(tmp_path, "--scheduler", cluster.scheduler_address)
        assert done.returncode == 0, done.stderr
        assert "featurize: 1 track made" in done.stdout
    gone = run(tmp_path, "--again", "0", "--scheduler", "tcp://127.0.0.1:9", "--set", "featurize.wait_s=1")
    assert gone.returncode == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in gone.stderr
    assert "Traceback" not in gone.stderr


def test_no_store_says_which_stage_makes_one(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 1
    assert "there is no feature store at data/features.zarr; `student-clap ingest` makes one" in done.stderr


def test_a_row_that_is_not_there_is_refused(tmp_path):
    make_store(tmp_path, ["x.ogg"])
    done = run(tmp_path, "--again", "5")
    assert done.returncode == 1
    assert "--again 5: the store has rows 0 to 0" in done.stderr


@pytest.mark.parametrize(
    ("state", "audio", "bucket"),
    [
        (State.LISTED, "", "waiting"),
        (State.FAILED, "", None),
        (State.GONE, "", None),
        (State.FETCHED, "no.ogg", "lost"),
    ],
)
def test_rows_without_audio_are_told_apart(tmp_path, state, audio, bucket):
    with FeatureStore.create(tmp_path / "s.zarr", "t") as store:
        store.append_tracks([Track("d", "1", state=state, audio=audio)])
        found = plan(store, store.features(RECIPE), tmp_path, Selection())
    counts = {"made": found.made, "waiting": found.waiting, "lost": found.lost, "failed": found.failed}
    assert counts == {name: int(name == bucket) for name in counts}
    assert found.jobs == []
