"""A file of the store that the system does not give is one error with the remedy; verify goes on to the others."""

from __future__ import annotations

import errno
import os
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
from student_clap.store.storage.errors import UnreadableError
from student_clap.store.verify import verify_path

pytestmark = pytest.mark.slow  # a second and more each

RECIPE = Recipe.from_config(AudioConfig())
N_SAMPLES = 11 * 48_000
VECTOR = np.full(512, 512**-0.5, np.float32)
MEL = "features/audiomuse/mel/c"
SHARD = f"{MEL}/1/0/0"
FILES = (SHARD, "segment_teacher/c/1/0/0", "title/c/0", "state/c/0", "features/audiomuse/n_samples/c/0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tracks with features and segment vectors."""
    path = tmp_path_factory.mktemp("made") / "features.zarr"
    with FeatureStore.create(path, "test") as store:
        store.append_tracks(
            [Track("d", f"t{n}", artist=f"a{n}", state=State.FETCHED, teacher=VECTOR) for n in range(4)]
        )
        features = store.features(RECIPE)
        for row in range(4):
            features.write_strip(row, np.full((128, strip_frames(N_SAMPLES, RECIPE)), 7, np.uint8), N_SAMPLES)
        features.commit([0, 1, 2, 3], [N_SAMPLES] * 4, [""] * 4)
        store.write_segment_teacher([0, 1, 2, 3], [np.tile(VECTOR, (2, 1)).astype(np.float16)] * 4)
    return path


@pytest.fixture
def filled(made: Path, tmp_path: Path) -> Path:
    """That store, for one test to damage."""
    return Path(shutil.copytree(made, tmp_path / "features.zarr"))


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch):
    """Let every attempt to read a path end in this error, as root too."""
    refused: dict[Path, int] = {}
    read_bytes, listdir, opened = Path.read_bytes, os.listdir, os.open

    def check(path: object) -> None:
        if code := refused.get(Path(str(path))):
            raise OSError(code, os.strerror(code), str(path))

    def read(path: Path) -> bytes:
        check(path)
        return read_bytes(path)

    def names(path: str) -> list[str]:
        check(path)
        return listdir(path)

    def opens(path: str, *rest: int, **more: int) -> int:
        check(path)
        return opened(path, *rest, **more)

    monkeypatch.setattr(Path, "read_bytes", read)
    monkeypatch.setattr(os, "open", opens)
    monkeypatch.setattr(os, "listdir", names)
    return refused.__setitem__


def command(path: Path, *words: str) -> Result:
    settings = (f"store.path={path}", f"training.runs_dir={path.parent / 'runs'}", "split.folds=2", "training.epochs=1")
    return CliRunner().invoke(main, [*words, *(word for each in settings for word in ("--set", each))])


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("file", FILES)
def test_verify_names_it_and_looks_at_all_else(file: str, code: int, filled: Path, refuse) -> None:
    shard = filled / MEL / "2/0/0"
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 3] ^= 4
    shard.write_bytes(damaged)
    refuse(filled / file, code)
    findings, n_tracks = verify_path(filled, deep=True)
    assert {f.kind for f in findings} == {"unreadable file", "damaged shard"}
    (unreadable,) = [f for f in findings if f.kind == "unreadable file"]
    assert f"{filled / file} cannot be read: {os.strerror(code)}; " in unreadable.detail
    assert n_tracks == 4
    done = command(filled, "store", "verify", "--deep")
    assert done.exit_code == 1
    assert "2 faults (every shard read)" in done.output


def test_a_folder_in_the_place_of_a_shard_is_named_with_the_remedy(filled: Path) -> None:
    (filled / SHARD).unlink()
    (filled / SHARD).mkdir()
    findings, _ = verify_path(filled, deep=True)
    assert [(f.kind, f.row) for f in findings] == [("unreadable file", 1)]
    assert "a folder lies in the place of that file: move it away" in findings[0].detail


def test_a_listing_that_is_refused_does_not_make_every_shard_a_lost_one(filled: Path, refuse) -> None:
    refuse(filled / MEL, errno.EACCES)
    findings, _ = verify_path(filled, deep=True)
    assert [(f.kind, f.recipe, f.row) for f in findings] == [("unreadable file", "audiomuse", -1)]
    assert "No shard of audiomuse was looked at" in findings[0].detail


@pytest.mark.parametrize("file", FILES[:3])
def test_repair_leaves_what_may_be_whole(file: str, filled: Path, refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (filled / file).read_bytes()
    refuse(filled / file, errno.EIO)
    done = repair_path(filled, deep=True)
    assert [f.kind for f in done.left] == ["unreadable file"]
    assert (done.tracks, done.chunks, done.segment_vectors, done.orphans) == (0, 0, 0, 0)
    monkeypatch.undo()
    assert (filled / file).read_bytes() == whole
    assert verify_path(filled, deep=True) == ([], 4)


def test_states_that_cannot_be_read_are_not_cut_off_by_repair(filled: Path, refuse) -> None:
    refuse(filled / "state/c/0", errno.ESTALE)
    with pytest.raises(UnreadableError, match=r"state/c/0 cannot be read: .*mount it again"):
        repair_path(filled, deep=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "file"),
    [
        (("store", "list"), "title/c/0"),
        (("store", "info"), "state/c/0"),
        (("store", "list"), "zarr.json"),
        (("train",), "n_segment_teacher/c/0"),
        (("train",), "teacher/c/0/0"),
    ],
)
def test_every_stage_ends_with_one_error(words: tuple[str, ...], file: str, filled: Path, refuse) -> None:
    refuse(filled / file, errno.EACCES)
    done = command(filled, *words)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert f"{filled / file} cannot be read: Permission denied; this user may not read it" in done.output


@pytest.mark.slow
@pytest.mark.parametrize("file", [SHARD, "segment_teacher/c/1/0/0"])
def test_train_leaves_out_a_track_and_says_so(file: str, filled: Path, refuse, caplog) -> None:
    refuse(filled / file, errno.EIO)
    done = command(filled, "train")
    assert done.exit_code == 0, done.output
    assert f"{filled / file} cannot be read: Input/output error; the disk fails there" in caplog.text + done.output


@pytest.mark.parametrize("name", ["metrics.json", "report.html"])
def test_evaluate_asks_whether_it_may_write_before_it_begins(name: str, filled: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / name).mkdir(parents=True)
    done = command(filled, "evaluate", "--model", str(tmp_path / "none.onnx"), "--output", str(output))
    assert done.exit_code == 1
    assert f"{output / name} is a folder; expected a file; name another folder with --out" in done.output
    (tmp_path / "file").write_bytes(b"")
    done = command(filled, "evaluate", "--model", str(tmp_path / "none.onnx"), "--output", str(tmp_path / "file/below"))
    assert f"{tmp_path / 'file'} is not a folder that can be written to" in done.output
