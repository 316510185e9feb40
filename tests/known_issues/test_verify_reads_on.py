"""verify looks at everything, whatever else is damaged, and takes nothing for a fault that a stopped run leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.layout.strip import strip_frames
from student_clap.store.repair import repair_path
from student_clap.store.verify import verify_path

pytestmark = pytest.mark.slow  # a second and more each

RECIPE = Recipe.from_config(AudioConfig())
N_SAMPLES = 11 * 48_000
VECTOR = np.full(512, 512**-0.5, np.float32)
VECTORS = np.tile(VECTOR, (2, 1)).astype(np.float16)


def write_strips(store: FeatureStore, rows: list[int]) -> None:
    features = store.features(RECIPE)
    for row in rows:
        features.write_strip(row, np.full((128, strip_frames(N_SAMPLES, RECIPE)), 7, np.uint8), N_SAMPLES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tracks; 0 to 3 have features and segment vectors."""
    path = tmp_path_factory.mktemp("made") / "features.zarr"
    with FeatureStore.create(path, "test") as store:
        store.append_tracks([Track("d", f"t{n}", state=State.FETCHED, teacher=VECTOR) for n in range(6)])
        write_strips(store, [0, 1, 2, 3])
        store.features(RECIPE).commit([0, 1, 2, 3], [N_SAMPLES] * 4, [""] * 4)
        store.write_segment_teacher([0, 1, 2, 3], [VECTORS] * 4)
    return path


@pytest.fixture
def filled(made: Path, tmp_path: Path) -> Path:
    """That store, for one test to damage."""
    return Path(shutil.copytree(made, tmp_path / "features.zarr"))


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def command(path: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["store", *words, "--set", f"store.path={path}"])


@pytest.mark.parametrize(
    "column",
    [
        "state/c/0",
        "teacher/c/0/0",
        "title/c/0",
        "n_segment_teacher/c/0",
        "features/audiomuse/n_samples/c/0",
        "features/audiomuse/error/c/0",
    ],
)
def test_damaged_shards_are_listed_beside_a_damaged_column(column: str, filled: Path) -> None:
    for row in (0, 2, 3):
        damage(filled / f"features/audiomuse/mel/c/{row}/0/0")
    damage(filled / "segment_teacher/c/1/0/0")
    damage(filled / column)
    findings, n_tracks = verify_path(filled, deep=True)
    assert {(f.kind, f.row) for f in findings} == {
        ("damaged column", -1), *(("damaged shard", row) for row in (0, 2, 3)), ("damaged segment vectors", 1)
    }  # fmt: skip
    assert n_tracks == 6
    done = command(filled, "verify", "--deep")
    assert done.exit_code == 1
    assert "5 faults (every shard read)" in done.output
    done = repair_path(filled, deep=True)
    assert {f.kind for f in verify_path(filled, deep=True)[0]} <= {"no vector"}


def test_damaged_metadata_are_said_to_have_kept_it_from_reading(filled: Path) -> None:
    damage(filled / "title/zarr.json")
    damage(filled / "features/audiomuse/mel/c/1/0/0")
    done = command(filled, "verify", "--deep")
    assert done.exit_code == 1
    assert "only metadata were read: repair these first, then verify again" in done.output
    assert "every shard read" not in done.output


def test_what_a_stopped_run_leaves_is_no_fault(filled: Path) -> None:
    with FeatureStore.open(filled, "r+") as store:
        write_strips(store, [4, 5])
    chunk = filled / "segment_teacher/c/4/0/0"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes((filled / "segment_teacher/c/0/0/0").read_bytes())
    for words in (("verify",), ("verify", "--deep")):
        done = command(filled, *words)
        assert done.exit_code == 0, done.output
        assert "remark: audiomuse: 2 shards are written, but not counted, as a stopped run leaves them" in done.output
        assert "remark: segment vectors of 1 track are written, but not counted" in done.output
        assert "no faults in 6 tracks" in done.output
    done = command(filled, "repair")
    assert "2 uncounted shards removed" in done.output
    assert "segment vectors of 1 track removed" in done.output
    assert verify_path(filled, deep=True) == ([], 6)


def test_the_next_writer_removes_what_a_killed_one_left_beside_a_file_of_a_track(filled: Path) -> None:
    left = [filled / f"segment_teacher/c/{row}/0/.0.abc.partial" for row in (4, 5)]
    left += [filled / f"features/audiomuse/mel/c/{row}/0/.0.abc.partial" for row in (4, 5)]
    rewritten = filled / "segment_teacher/c/1/0/.0.def.partial"  # killed while a counted track's were replaced
    for partial in (*left, rewritten):
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(b"half")
    with FeatureStore.open(filled, "r+") as store:
        assert not any(partial.exists() for partial in left)
        store.write_segment_teacher([1], [VECTORS])
        assert not rewritten.exists()
    assert verify_path(filled, deep=True) == ([], 6)
