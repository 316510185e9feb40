"""The teacher's pass by the real command: vectors of segments beside the strips, killed or not, and whose they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper, numpy_helper

from loopback.mel_teachers import write_mel_teacher
from loopback.processes import kill_group, started
from student_clap.config.schema import AudioConfig
from student_clap.export.demo.stages import configure
from student_clap.export.demo.world import LoopbackWorld, WorldTrack
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.cluster.task import Outcome, Taught
from student_clap.featurize.cluster.teaching import Teaching
from student_clap.featurize.teacher.model import Teacher
from student_clap.featurize.teacher_pass import TeacherPass
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.layout.segments import grid_starts

pytestmark = pytest.mark.slow

COMMAND = str(Path(sys.executable).with_name("student-clap"))
RECIPE = Recipe.from_config(AudioConfig())
STORE = Path("data", "features.zarr")


def run(folder: Path, *arguments: str, stage: str = "featurize") -> subprocess.CompletedProcess[str]:
    """A stage in `folder`."""
    return subprocess.run(
        [COMMAND, *stage.split(), *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def content(folder: Path) -> dict[str, bytes]:
    """Every file of the store, but those of workers that were still tried when their run had ended."""
    files = (p for p in (folder / STORE).rglob("*") if p.is_file() and not p.match("trial-*.partial"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def vector_files(folder: Path) -> list[Path]:
    """The files of vectors of segments, one per track."""
    vectors = folder / STORE / "segment_vectors" / "unknown" / "vectors" / "c"
    return sorted(p for p in vectors.rglob("*") if p.is_file() and p.suffix != ".partial")


def make_store(folder: Path, files: list[Path], vectors: list[np.ndarray | None] | None = None) -> None:
    """A store at the default place whose rows name `files`; without vectors where there are none."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").touch()
    with FeatureStore.create(folder / STORE, "unknown") as store:
        store.append_tracks(
            [
                Track("default", f"t{n}", title=f"tune {n}", audio=str(f), state=State.FETCHED, teacher=vector)
                for n, (f, vector) in enumerate(zip(files, vectors or [None] * len(files), strict=True))
            ]
        )


def heard(model: Path, file: Path, grid_samples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(the track's vector, those of its segments) as one process makes them."""
    teacher = Teacher(model, threads=1, provider="cpu")
    return teacher.embed(decode(file, RECIPE.max_samples), grid_samples=grid_samples)


def check(folder: Path, model: Path, files: list[Path], *, name: str = "unknown", grid: int = 240_000) -> None:
    """Every row has the strip and the vectors of its file."""
    with FeatureStore.open(folder / STORE) as store:
        vectors = store.segment_vectors(name)
        assert store.features(RECIPE).made().all()
        for row, file in enumerate(files):
            _, segments = heard(model, file, grid)
            np.testing.assert_allclose(vectors.read(row), segments.astype(np.float16), atol=1e-3)
            starts = grid_starts(int(store.features(RECIPE).n_samples()[row]), RECIPE, grid)
            assert vectors.counts()[row] == len(starts)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_mel_teacher(tmp_path / "teacher.onnx", "clap", seed=0)


def test_a_library_of_track_vectors_is_taught_killed_and_taught_again(tmp_path, tunes, gates, model):
    other = write_mel_teacher(tmp_path / "other.onnx", "clap", seed=1)
    own = [heard(model if n % 2 else other, path)[0] for n, path in enumerate(tunes)]  # two models analysed it
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    tracks = [WorldTrack(f"{n:032x}", f"tune {n}", "a", "b", path, own[n]) for n, path in enumerate(tunes)]
    with LoopbackWorld(tracks) as world:
        configure(calm, world, {"database.port": world.database.port})
        fetched = run(calm, stage="ingest")
        assert fetched.returncode == 0, fetched.stderr
    # From here on there is no server any more: the pass needs the cache alone.
    shutil.copytree(calm, killed)
    options = ("--teacher", str(model), "--workers", "2", "--set", "featurize.tracks_per_task=1")

    undisturbed = run(calm, *options)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert "10 tracks for the teacher 'unknown'" in undisturbed.stdout
    assert "the teacher: 55 segments at " in undisturbed.stderr
    assert "on these 2 workers" in undisturbed.stderr
    assert "verdict: a mixture: 5 of 10 vectors are this model's, 5 are another's" in undisturbed.stdout
    assert "10 tracks made" in undisturbed.stdout
    assert "10 heard by the teacher (" in undisturbed.stdout

    with FeatureStore.open(killed / STORE) as store:
        audio = [killed / "data" / "audio" / name for name in store.strings("audio")]
        stored = store.teacher()
    gates.close(audio[6], audio[8])  # the preflight check reads the others: one file of some of the cache's folders
    pipe, environment = subprocess.PIPE, {**os.environ, **gates.environment}
    with started([COMMAND, "featurize", *options], cwd=killed, stdout=pipe, stderr=pipe, env=environment) as process:
        while len(vector_files(killed)) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        kill_group(process)
    assert content(killed) != content(calm)
    again = run(killed, *options)
    assert again.returncode == 0, again.stderr
    assert "verdict: a mixture: 5 of 10 vectors are this model's" in again.stdout  # those of before the kill count too
    assert content(killed) == content(calm)
    check(killed, model, audio)
    with FeatureStore.open(killed / STORE) as store:
        np.testing.assert_array_equal(store.teacher(), stored)

    assert run(killed, "--deep", stage="store verify").returncode == 0
    file = vector_files(killed)[4]
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(bytes(damaged))
    found = run(killed, "--deep", stage="store verify")
    assert found.returncode == 1
    row = int(file.relative_to(killed / STORE / "segment_vectors/unknown/vectors/c").parts[0])
    assert f"row {row}" in found.stdout + found.stderr
    repaired = run(killed, "--deep", stage="store repair")
    assert repaired.returncode == 0, repaired.stderr
    mended = run(killed, *options)
    assert "0 tracks made" in mended.stdout
    assert "1 heard by the teacher" in mended.stdout
    assert run(killed, "--deep", stage="store verify").returncode == 0
    check(killed, model, audio)


def test_rows_without_a_vector_get_it_and_what_is_there_stays(tmp_path, write_audio, model):
    files = [write_audio(f"{n}.wav", seconds, seed=n) for n, seconds in enumerate((3.0, 15.0, 22.0, 31.0))]
    known = np.full(512, 512**-0.5, np.float32)
    make_store(tmp_path, files, [None, known, None, known])
    assert run(tmp_path, "--workers", "1").returncode == 0
    strips = {name: data for name, data in content(tmp_path).items() if "/mel/c/" in name}
    files[3].unlink()

    first = run(tmp_path, "--workers", "1", "--teacher", str(model))
    assert first.returncode == 0, first.stderr
    assert "featurize: 0 tracks to make" in first.stdout
    assert "3 heard by the teacher (8 segments at " in first.stdout
    assert "1 without audio for the teacher (`student-clap ingest --refetch teacher` fetches it again)" in first.stdout
    assert "1 tracks" in next(line for line in first.stdout.splitlines() if line.startswith("whose vectors"))
    assert "verdict: another model made the vectors" in first.stdout
    assert {name: data for name, data in content(tmp_path).items() if "/mel/c/" in name} == strips
    with FeatureStore.open(tmp_path / STORE) as store:
        assert store.segment_vectors().counts().tolist() == [1, 3, 4, 0]
        for row in (0, 2):
            np.testing.assert_allclose(store.teacher()[row], heard(model, files[row])[0], atol=1e-6)
        assert store.given_vectors().tolist() == [True, False, True, False]
        for row in (1, 3):
            np.testing.assert_array_equal(store.teacher()[row], known)

    before = content(tmp_path)
    second = run(tmp_path, "--set", f"teacher.model={model}")  # the key does what the option does
    assert "0 heard by the teacher, 3 heard already" in second.stdout
    assert "verdict" not in second.stdout
    third = run(tmp_path, "--set", f"teacher.model={model}", "--no-teacher")
    assert "heard" not in third.stdout
    assert content(tmp_path) == before


def test_another_model_has_a_set_of_its_own_or_replaces_the_first(tmp_path, write_audio, model):
    files = [write_audio("a.wav", 12.0), write_audio("b.wav", 27.0, seed=1)]
    make_store(tmp_path, files)
    assert run(tmp_path, "--workers", "1", "--teacher", str(model)).returncode == 0
    other = write_mel_teacher(tmp_path / "other.onnx", "dclap", seed=1)
    before = content(tmp_path)

    refused = run(tmp_path, "--teacher", str(other))
    assert refused.returncode == 1
    assert "another model" in refused.stderr
    assert "--set teacher.name=" in refused.stderr
    assert "--again-teacher" in refused.stderr
    assert content(tmp_path) == before

    beside = run(
        tmp_path, "--workers", "1", "--teacher", str(other), "--set", "teacher.name=Other", "--teacher-hop", "2.5"
    )
    assert beside.returncode == 0, beside.stderr
    check(tmp_path, model, files)
    check(tmp_path, other, files, name="other", grid=120_000)
    with FeatureStore.open(tmp_path / STORE) as store:
        assert store.segment_sets() == ["other", "unknown"]
        np.testing.assert_allclose(store.teacher()[1], heard(model, files[1])[0], atol=1e-6)

    replaced = run(tmp_path, "--workers", "1", "--teacher", str(other), "--again-teacher")
    assert replaced.returncode == 0, replaced.stderr
    assert "2 heard by the teacher" in replaced.stdout
    check(tmp_path, other, files)
    check(tmp_path, other, files, name="other", grid=120_000)
    with FeatureStore.open(tmp_path / STORE) as store:  # the first model takes what it gave with it
        np.testing.assert_allclose(store.teacher()[1], heard(other, files[1])[0], atol=1e-6)
        assert store.given_vectors().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--teacher", "none.onnx"), "none.onnx: no such file; expected the teacher's ONNX"),
        (("--teacher", "text.onnx"), "text.onnx cannot be loaded by onnxruntime"),
        (("--teacher", "ends.onnx"), "ends.onnx: the model takes mel FLOAT"),
        (("--teacher", "teacher.onnx", "--provider", "npu"), "teacher.provider npu: the onnxruntime of this machine"),
        (("--teacher", "teacher.onnx", "--teacher-hop", "3"), "teacher.hop_s 3: segments cannot start on that grid"),
        (("--teacher", "teacher.onnx", "--set", "teacher.name=...", ), "teacher.name"),
        (("--teacher", "teacher.onnx", "--set", "audio.hop_length=480000"), "segments of 10 s every 5 s"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_used_is_one_error_before_any_work(tmp_path, write_audio, model, arguments, message):
    (tmp_path / "text.onnx").write_text("no model")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 512]) for name in ("mel", "out")]
    graph = helper.make_graph([helper.make_node("Identity", ["mel"], ["out"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "ends.onnx")
    make_store(tmp_path, [write_audio("a.wav", 3.0)])
    before = {name for name in content(tmp_path) if "/c/" in name and "segment" in name}
    done = run(tmp_path, *arguments)
    assert done.returncode == 1, done.stdout
    assert done.stderr.count("Error: ") == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "Dask" not in done.stdout
    assert {name for name in content(tmp_path) if "/c/" in name and "segment" in name} == before


def shy_teacher(path: Path) -> Path:
    """A waveform teacher that answers NaN for quiet segments."""
    nodes = [
        helper.make_node("Abs", ["waveform"], ["loud"]),
        helper.make_node("ReduceMean", ["loud"], ["level"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["level", "least"], ["above"]),
        helper.make_node("Sqrt", ["above"], ["root"]),
        helper.make_node("MatMul", ["root", "weights"], ["embedding"]),
    ]
    weights = {
        "least": np.full(1, 0.01, np.float32),
        "weights": np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32),
    }
    graph = helper.make_graph(
        nodes, "shy",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["b", 480_000])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["b", 512])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_track_that_the_teacher_gives_nothing_for_is_its_own_failure(tmp_path, write_audio):
    model = shy_teacher(tmp_path / "shy.onnx")
    quiet, html = tmp_path / "quiet.wav", tmp_path / "page.wav"
    soundfile.write(quiet, np.full(480_000, 1e-3), 48_000)
    html.write_text("<html>Sign in</html>")
    make_store(tmp_path, [write_audio("a.wav", 12.0), quiet, html])
    done = run(tmp_path, "--workers", "1", "--teacher", str(model))
    assert done.returncode == 0, done.stderr
    assert "not heard: row 1 'tune 1': shy.onnx answers zeros, NaN or infinity" in done.stderr
    assert "failed: row 2 'tune 2': no audio" in done.stderr
    assert "2 tracks made" in done.stdout
    assert "1 heard by the teacher" in done.stdout
    assert "1 not heard, for the reasons above (the next run tries again)" in done.stdout
    with FeatureStore.open(tmp_path / STORE) as store:
        assert store.segment_vectors().counts().tolist() == [2, 0, 0]
        assert store.features(RECIPE).made().tolist() == [True, True, False]

    # What was decoded otherwise when its features were made is not taught beside them.
    soundfile.write(quiet, np.full(490_000, 0.1), 48_000)
    other = run(tmp_path, "--workers", "1", "--teacher", str(model))
    assert "not heard: row 1 'tune 1': its features are of 480000 samples, its audio gives 490000 now: --again 1" in (
        other.stderr
    )
    both = run(tmp_path, "--workers", "1", "--teacher", str(model), "--again", "1")
    assert both.returncode == 0, both.stderr
    with FeatureStore.open(tmp_path / STORE) as store:
        assert store.segment_vectors().counts().tolist() == [2, 2, 0]
        assert store.features(RECIPE).n_samples()[1] == 490_000


# In a process that has this on its PYTHONPATH: the third file of vectors, and all that follow, meet a full disk.
FULL_DISK = """
import errno, os, sys

rows = set()

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and arguments[2] & os.O_CREAT:
        path = os.fspath(arguments[0])
        if "/vectors/c/" in path:
            rows.add(path.split("/vectors/c/")[1].split("/")[0])
            if len(rows) > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

sys.addaudithook(hook)
"""


def test_a_full_disk_ends_the_run_and_fails_no_track(tmp_path, write_audio, model):
    files = [write_audio(f"{n}.wav", 11.0, seed=n) for n in range(5)]
    make_store(tmp_path / "run", files)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(FULL_DISK)
    python_path = os.pathsep.join([str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = ("--workers", "1", "--teacher", str(model), "--set", "featurize.tracks_per_task=1")
    refused = subprocess.run(
        [COMMAND, "featurize", *options], cwd=tmp_path / "run", capture_output=True, text=True, timeout=300,
        check=False, env={**os.environ, "PYTHONPATH": python_path},
    )  # fmt: skip
    assert refused.returncode == 1, refused.stdout
    assert refused.stderr.count("Error: ") == 1
    assert "cannot be written: No space left on device" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "failed: " not in refused.stderr
    assert "2 heard by the teacher" in refused.stdout
    again = run(tmp_path / "run", *options)
    assert again.returncode == 0, again.stderr
    assert "3 heard by the teacher" in again.stdout
    check(tmp_path / "run", model, files)


@pytest.mark.parametrize("arguments", [("--provider", "cpu"), ("--teacher-hop", "2.5"), ("--again-teacher",)])
def test_options_of_a_teacher_that_is_not_there_are_refused(tmp_path, arguments):
    make_store(tmp_path, [])
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert f"{arguments[0]} is about the teacher; name its model with --teacher ONNX" in done.stderr


@pytest.mark.parametrize("same", [True, False])
def test_vectors_of_another_model_are_told_after_the_first_tracks(tmp_path, same):
    rng = np.random.default_rng(0)
    units = rng.standard_normal((2, 30, 512))
    stored, other = (units / np.linalg.norm(units, axis=2, keepdims=True)).astype(np.float32)
    with FeatureStore.create(tmp_path / "s.zarr", "t") as store:
        store.append_tracks([Track("d", str(n), teacher=vector) for n, vector in enumerate(stored)])
        vectors = store.add_segment_set("t", hop_samples=240_000, model="0")
        teaching = Teaching("t.onnx", "0", "t", None, 240_000, "cpu", 1)
        teacher = TeacherPass(store, vectors, teaching, 480, lacking=set())
        told = []
        for row in range(30):
            heard_now = stored[row] if same else other[row]
            vectors.write_chunk(row, heard_now[None].astype(np.float16))
            taught = Taught(n_segments=1, track=heard_now, wall_s=0.5)
            told.append(teacher.record([Outcome(row, 0, "", 0.0, taught=taught)]))
        assert told[:19] == [""] * 19
        assert told[20:] == [""] * 10
        assert told[19] == "" if same else "by the first 20 tracks: another model made the vectors" in told[19]
        assert vectors.counts().tolist() == [1] * 30
        np.testing.assert_array_equal(store.teacher(), stored)
        closing = "\n".join(teacher.lines())
        assert ("the same model made the vectors" if same else "another model made the vectors") in closing
        # A later run, which hears nothing, says the same from what is stored.
        again = TeacherPass(store, vectors, teaching, 480, lacking=set())
        assert "\n".join(again.lines()).partition("verdict")[2] == closing.partition("verdict")[2]
