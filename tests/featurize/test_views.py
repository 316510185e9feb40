"""`featurize --views` by the real command: each view's strip and vectors, killed, damaged, outdated and removed."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from tests.featurize.conftest import Gates, music

from loopback.mel_teachers import write_mel_teacher
from loopback.processes import kill_group, started
from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.decode import Samples, decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.audio.views import Change, view_of
from student_clap.featurize.teacher.model import Teacher
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.arrays.feature_arrays import FAILED, NOT_MADE
from student_clap.store.layout.views import beneath

pytestmark = pytest.mark.slow

COMMAND = str(Path(sys.executable).with_name("student-clap"))
RECIPE = Recipe.from_config(AudioConfig())
STORE = Path("data", "features.zarr")
SECONDS = (12.0, 80.0, 27.0, 0.0, 34.0)  # of the rows; one is longer than a view, one is no audio
NO_AUDIO = 3
# What is beneath: in view 1 of rows 1 and 2 row 0, of row 4 row 3, which makes that view impossible; in view 2 nothing.
MADE = {0: (0, 1, 2, 4), 1: (0, 1, 2), 2: (0, 1, 2, 4)}  # view, or 0 for the tracks -> rows
TAUGHT = ("--teacher", "teacher.onnx", "--workers", "2", "--set", "featurize.tracks_per_task=1")


def run(folder: Path, *arguments: str, stage: str = "featurize") -> subprocess.CompletedProcess[str]:
    """A stage in `folder`, which has to end well; "!" before its name: which must not."""
    done = subprocess.run(
        [COMMAND, *stage.lstrip("!").split(), *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode != 0) == stage.startswith("!"), done.stdout + done.stderr
    return done


def content(folder: Path) -> dict[str, bytes]:
    """Every file of the store, but those of workers that were still tried when their run had ended."""
    files = (p for p in (folder / STORE).rglob("*") if p.is_file() and not p.match("trial-*.partial"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def chunks(folder: Path, array: str) -> list[Path]:
    """The whole files of an array, one per track."""
    found = (folder / STORE / array / "c").rglob("*")
    return sorted(p for p in found if p.is_file() and p.suffix != ".partial")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tunes, a page that is no audio, a teacher, and a store at the default place that names them."""
    folder = tmp_path_factory.mktemp("views") / "fresh"
    (folder / "data").mkdir(parents=True)
    (folder / "config.yaml").touch()
    for row, seconds in enumerate(SECONDS):
        if seconds:
            soundfile.write(folder / f"{row}.wav", music(seconds, 48_000, seed=row), 48_000)
    (folder / f"{NO_AUDIO}.wav").write_text("<html>Sign in</html>")
    write_mel_teacher(folder / "teacher.onnx", "clap", seed=0)
    with FeatureStore.create(folder / STORE, "unknown") as store:
        store.append_tracks(
            [
                Track("default", f"t{n}", title=f"tune {n}", audio=str(folder / f"{n}.wav"), state=State.FETCHED)
                for n in range(len(SECONDS))
            ]
        )
    return folder


@pytest.fixture(scope="module")
def made(world: Path) -> Path:
    """That, with the features, the teacher's vectors and two views: what an undisturbed run of two workers makes."""
    folder = Path(shutil.copytree(world, world.with_name("made")))
    done = run(folder, *TAUGHT, "--views", "2", "--json")
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2  # what cannot be decoded has no view, and is not tried for one
    assert failed[0].startswith(f"failed: row {NO_AUDIO} 'tune {NO_AUDIO}': no audio")
    assert failed[1].startswith(f"failed: row 4 'tune 4': the track beneath, {world}/{NO_AUDIO}.wav: no audio")
    told = json.loads(done.stdout)
    assert told["complete"]
    assert (told["made"], told["failed"]) == (4, 1)
    assert [(view["made"], view["failed"], view["done"]) for view in told["views"]] == [(3, 1, 4), (4, 0, 4)]
    assert (told["heard"], told["not_heard"]) == (4, 0)
    assert [view["heard"] for view in told["views"]] == [3, 4]
    assert min(told["segments"], *(view["segments"] for view in told["views"])) >= 4
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A test's own copy of it; the audio lies in `world`'s folder."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def closing(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The closing lines of the tracks' pass and of each view's."""
    lines = (done.stdout + done.stderr).splitlines()
    return [line.removeprefix("featurize: ") for line in lines if " there already" in line]


def heard(audio: dict[int, Path], view: int, row: int) -> Samples:
    """What a teacher hears of a view of a row, or of the track (0)."""
    samples = decode(audio[row], RECIPE.max_samples)
    if not view:
        return samples
    other = beneath(view, row)
    return view_of(
        samples, Change.drawn(view, row), None if other is None else decode(audio[other], RECIPE.max_samples)
    )


def check(folder: Path, audio: dict[int, Path], wanted: Iterable[tuple[int, int]]) -> None:
    """These (view, row) have the strips and the vectors that `audio` gives."""
    teacher = Teacher(folder / "teacher.onnx", threads=1, provider="cpu")
    with FeatureStore.open(folder / STORE) as store:
        for view, row in wanted:
            samples, features = heard(audio, view, row), store.features(replace(RECIPE, view=view))
            assert features.n_samples()[row] == len(samples)
            off = np.abs(features.strip(row).astype(int) - LogMel(RECIPE).codes(samples))
            assert off.max() <= 1  # another process may round otherwise
            assert np.mean(off > 0) < 0.01
            _, segments = teacher.embed(samples, grid_samples=240_000)
            vectors = store.segment_vectors("unknown", view=view).read(row)
            np.testing.assert_allclose(vectors, segments.astype(np.float16), atol=1e-3)


def audio_of(world: Path) -> dict[int, Path]:
    return {row: world / f"{row}.wav" for row in range(len(SECONDS))}


def test_every_track_has_its_views_and_the_teacher_s_vectors_of_them(world: Path, made: Path) -> None:
    assert [(beneath(view, row)) for view in (1, 2) for row in (0, 1, 2, 4)] == [None, 0, 0, 3, None, None, None, None]
    check(made, audio_of(world), [(view, row) for view, rows in MADE.items() for row in rows])
    with FeatureStore.open(made / STORE) as store:
        assert set(store.recipes()) == {"audiomuse", "audiomuse.view-1", "audiomuse.view-2"}
        assert (store.segment_sets(), store.views("unknown")) == (["unknown"], [1, 2])
        for view, rows in MADE.items():
            features, vectors = store.features(replace(RECIPE, view=view)), store.segment_vectors(view=view)
            assert np.flatnonzero(features.made()).tolist() == list(rows)
            assert np.flatnonzero(vectors.counts()).tolist() == list(rows)
            assert features.n_samples()[1] == (60 if view else 80) * 48_000
            assert (features.n_samples()[NO_AUDIO], bool(features.errors()[NO_AUDIO])) == (
                (NOT_MADE, False) if view else (FAILED, True)
            )
            assert (vectors.model, vectors.hop_samples) == (store.segment_vectors().model, 240_000)
        assert "the track beneath" in store.features(replace(RECIPE, view=1)).errors()[4]
        # No two of them are the same, and the tracks' own vectors are those of the tracks, whatever else was heard.
        strips = [store.features(replace(RECIPE, view=view)).strip(2)[:, :1000] for view in MADE]
        assert all(np.mean(one == other) < 0.5 for one, other in itertools.combinations(strips, 2))
        track, _ = Teacher(made / "teacher.onnx", provider="cpu").embed(heard(audio_of(world), 0, 2))
        np.testing.assert_allclose(store.teacher()[2], track, atol=1e-6)
    assert "no faults" in run(made, "--deep", stage="store verify").stdout


def test_a_view_s_pass_that_is_killed_ends_as_if_it_had_not_been(
    world: Path, made: Path, tmp_path: Path, gates: Gates
) -> None:
    killed = Path(shutil.copytree(world, tmp_path / "killed"))
    run(killed, *TAUGHT)  # the tracks alone: a view's pass is then the first that opens their files
    assert content(killed) != content(made)
    gates.close(world / "2.wav", world / "4.wav")
    command, environment = [COMMAND, "featurize", *TAUGHT, "--views", "2"], {**os.environ, **gates.environment}
    pipe = subprocess.PIPE
    with started(command, cwd=killed, stdout=pipe, stderr=pipe, env=environment) as process:
        while len(chunks(killed, "segment_vectors/unknown.view-1/vectors")) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        kill_group(process)
    with FeatureStore.open(killed / STORE) as store:
        assert not store.features(replace(RECIPE, view=1)).made()[2:].any()
        assert store.views("unknown") == [1]
    again = run(killed, *TAUGHT, "--views", "2")
    assert closing(again)[2].startswith("view 2: 4 tracks made")
    assert content(killed) == content(made)
    third = run(killed, *TAUGHT, "--views", "2", "--json")
    assert " to make, recipe" not in third.stderr
    told = json.loads(third.stdout)
    assert [part["done"] for part in (told, *told["views"])] == [0, 0, 0]
    _, one, two = closing(third)
    assert one.startswith(
        "view 1: 0 tracks made, 3 there already, 1 failed before (--retry-failed tries again), 0 heard"
    )
    assert two.startswith("view 2: 0 tracks made, 4 there already, 0 heard by the teacher, 4 heard already")
    assert content(killed) == content(made)


def test_damage_of_a_view_is_found_and_made_again(folder: Path, made: Path) -> None:
    flip(folder / STORE / "features/audiomuse.view-1/mel/c/0/0/0")
    flip(folder / STORE / "segment_vectors/unknown.view-1/vectors/c/2/0/0")
    found = run(folder, "--deep", stage="!store verify")
    assert "damaged shard: audiomuse.view-1, row 0 (track t0)" in found.stdout
    assert "damaged segment vectors: segment vectors of unknown.view-1, row 2 (track t2)" in found.stdout
    assert "2 faults" in found.stderr
    repaired = run(folder, "--deep", stage="store repair")
    assert "1 track set back" in repaired.stdout
    assert "segment vectors of 1 track removed" in repaired.stdout
    own, one, two = closing(run(folder, *TAUGHT, "--views", "2"))
    assert own.startswith("0 tracks made")
    assert one.startswith("view 1: 1 track made")
    assert "1 heard by the teacher" in one
    assert two.startswith("view 2: 0 tracks made")
    assert "no faults" in run(folder, "--deep", stage="store verify").stdout
    assert content(folder) == content(made)


def test_a_track_that_is_made_again_is_made_again_in_its_views_too(folder: Path, made: Path) -> None:
    done = run(folder, "--again", "1", *TAUGHT, "--views", "1")
    assert [line.partition(" made")[0] for line in closing(done)] == ["1 track", "view 1: 1 track"]
    assert content(folder) == content(made)  # that is the same audio; and view 2 is as it was


def test_the_views_of_audio_that_was_replaced_are_of_the_new_audio(folder: Path, world: Path, tmp_path: Path) -> None:
    audio = tmp_path / "0.wav"
    soundfile.write(audio, music(SECONDS[0], 48_000, seed=77), 48_000)  # as long as before
    with FeatureStore.open(folder / STORE, "r+") as store:
        store.update_tracks([0], audio=[str(audio)])
    done = run(folder, "--again", "0", *TAUGHT, "--views", "1")
    assert "1 of another audio than before" in closing(done)[0]
    assert closing(done)[1].startswith("view 1: 3 tracks made")  # two have the track beneath
    check(folder, {**audio_of(world), 0: audio}, [(0, 0), (1, 0), (1, 1), (1, 2)])
    check(folder, audio_of(world), [(0, 1), (2, 1), (2, 2)])  # the others are as they were
    with FeatureStore.open(folder / STORE) as store:  # nothing counts any more of a view that this run did not make
        assert store.features(replace(RECIPE, view=2)).n_samples()[0] == NOT_MADE
        assert store.segment_vectors(view=2).counts()[0] == 0
    assert closing(run(folder, *TAUGHT, "--views", "2"))[2].startswith("view 2: 1 track made")
    check(folder, {0: audio}, [(0, 0), (1, 0), (2, 0)])
    assert "no faults" in run(folder, "--deep", stage="store verify").stdout


def test_a_file_that_is_no_audio_any_more_has_no_views(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "1.wav").write_text("<html>Sign in</html>")
    with FeatureStore.open(folder / STORE, "r+") as store:
        store.update_tracks([1], audio=[str(tmp_path / "1.wav")])
    done = run(folder, "--again", "1", *TAUGHT, "--views", "2")
    assert "failed: row 1 'tune 1': no audio" in done.stderr
    with FeatureStore.open(folder / STORE) as store:
        assert store.features(RECIPE).n_samples()[1] == FAILED
        for view, rows in MADE.items():
            left = [row for row in rows if row != 1]
            assert np.flatnonzero(store.features(replace(RECIPE, view=view)).made()).tolist() == left
            assert np.flatnonzero(store.segment_vectors(view=view).counts()).tolist() == left


def test_a_view_waits_for_the_audio_that_it_is_made_of(folder: Path, world: Path, made: Path, tmp_path: Path) -> None:
    with FeatureStore.open(folder / STORE, "r+") as store:
        store.update_tracks([0], audio=[str(tmp_path / "gone.wav")])
        for view, rows in ((1, [0, 1, 2]), (2, [0])):
            store.features(replace(RECIPE, view=view)).commit(rows, [NOT_MADE] * len(rows), [""] * len(rows))
    _, one, two = closing(run(folder, *TAUGHT, "--views", "2"))
    fetch = "`student-clap ingest --set teacher.views=2 --refetch teacher` fetches"
    assert one.startswith(
        "view 1: 0 tracks made, 0 there already, 1 failed before (--retry-failed tries again), 1 with"
    )
    assert f"1 without their audio file ({fetch} it again), 2 whose other track has no audio here ({fetch} what" in one
    assert f"view 2: 0 tracks made, 3 there already, 1 without their audio file ({fetch} it again)" in two
    with FeatureStore.open(folder / STORE, "r+") as store:
        store.update_tracks([0], audio=[str(world / "0.wav")])
    assert closing(run(folder, *TAUGHT, "--views", "2"))[1].startswith("view 1: 3 tracks made")
    assert content(folder).keys() == content(made).keys()
    check(folder, audio_of(world), [(1, 0), (1, 1), (1, 2), (2, 0)])


def test_a_view_that_failed_is_tried_again_when_it_is_asked_for(folder: Path, world: Path, tmp_path: Path) -> None:
    with FeatureStore.open(folder / STORE, "r+") as store:
        store.update_tracks([NO_AUDIO], audio=[str(world / "2.wav")])
    done = run(folder, *TAUGHT, "--views", "1", "--retry-failed")
    assert [line.partition(" made")[0] for line in closing(done)] == ["1 track", "view 1: 2 tracks"]
    check(folder, {**audio_of(world), NO_AUDIO: world / "2.wav"}, [(0, NO_AUDIO), (1, NO_AUDIO), (1, 4)])


def test_the_views_go_with_the_teacher_that_heard_them(folder: Path) -> None:
    done = run(folder, "unknown", "--yes", stage="store remove-teacher")
    assert done.stdout == "store remove-teacher: segment vectors of 4 tracks removed (unknown)\n"
    assert not [p for p in (folder / STORE / "segment_vectors").iterdir() if p.is_dir()]
    with FeatureStore.open(folder / STORE) as store:
        assert (store.segment_sets(), store.views("unknown")) == ([], [])
        assert store.features(replace(RECIPE, view=1)).made().sum() == 3  # what was decoded stays
    assert "no faults" in run(folder, "--deep", stage="store verify").stdout
    again = closing(run(folder, *TAUGHT, "--views", "1"))
    assert again[1].startswith(
        "view 1: 0 tracks made, 3 there already, 1 failed before (--retry-failed tries again), 3 h"
    )


def test_another_model_takes_the_place_of_the_first_in_the_views_too(folder: Path, world: Path) -> None:
    write_mel_teacher(folder / "teacher.onnx", "clap", seed=1)
    refused = run(folder, *TAUGHT, "--views", "2", stage="!featurize")
    assert "another model" in refused.stderr
    assert "--again-teacher" in refused.stderr
    run(folder, *TAUGHT, "--views", "2", "--again-teacher")
    check(folder, audio_of(world), [(0, 0), (1, 0), (1, 2), (2, 4)])
    before = content(folder)
    again = closing(run(folder, *TAUGHT, "--views", "2"))
    assert again[2].startswith("view 2: 0 tracks made, 4 there already, 0 heard by the teacher, 4 heard already")
    assert content(folder) == before


def test_the_store_s_commands_show_views(folder: Path) -> None:
    told = json.loads(run(folder, "--json", stage="store info").stdout)
    assert set(told["features"]) == {"audiomuse", "audiomuse.view-1", "audiomuse.view-2"}
    assert (told["features"]["audiomuse.view-1"]["made"], told["features"]["audiomuse.view-1"]["failed"]) == (3, 1)
    assert told["features"]["audiomuse.view-1"]["recipe"]["view"] == 1
    assert list(told["segment_vectors"]) == ["unknown", "unknown.view-1", "unknown.view-2"]
    assert told["segment_vectors"]["unknown.view-2"]["tracks"] == 4
    shown = run(folder, stage="store info").stdout
    assert "audiomuse.view-1: 3 tracks, 1 failed" in shown
    assert "unknown.view-2: 4 tracks, " in shown

    run(folder, "--out", "rows.parquet", stage="store export")
    rows = pq.read_table(folder / "rows.parquet")
    with FeatureStore.open(folder / STORE) as store:
        for view in (1, 2):
            lengths = store.features(replace(RECIPE, view=view)).n_samples().tolist()
            assert rows[f"n_samples_audiomuse.view-{view}"].to_pylist() == lengths
            counts = store.segment_vectors(view=view).counts().tolist()
            assert rows[f"n_segment_vectors_unknown.view-{view}"].to_pylist() == counts
    run(folder, "--failures", "failures.csv", stage="store export")
    failures = (folder / "failures.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [line.split(",")[0] + line.split(",")[6] for line in failures] == [
        f"{NO_AUDIO}featurize audiomuse", "4featurize audiomuse.view-1",
    ]  # fmt: skip

    lines = run(folder, stage="store list").stdout.splitlines()
    assert len(lines) == 5
    assert lines[1].split("\t")[:5] == ["1", "default", "t1", "fetched", "1.33"]  # the track's minutes, not a view's
    (failed,) = run(folder, "--failed", stage="store list").stdout.splitlines()
    assert failed.startswith(f"{NO_AUDIO}\t")


def test_a_track_s_export_has_what_was_heard_of_the_track_alone(folder: Path) -> None:
    """A view's segments are none of those that are written, and begin elsewhere."""
    run(folder, "--track", "t2", "--out", "t2.npz", stage="store export")
    with np.load(folder / "t2.npz") as track:
        assert len(track["segments"]) == len(track["segment_vectors_unknown"]) == len(track["segment_starts_unknown"])
        assert [name for name in track if "view" in name] == []
