"""Sets of segment vectors are verified, repaired, shown, exported and removed; damage is named by set and row."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.store import FeatureStore
from student_clap.store.arrays import segment_sets
from student_clap.store.arrays.metadata import read_document, set_attributes
from student_clap.store.repair import remove_teacher
from student_clap.store.storage.directory import DirectoryStorage
from student_clap.store.storage.errors import CorruptShardError, StoreError, UnknownSetError
from student_clap.store.storage.open import open_storage
from student_clap.store.verify import verify_path

SECONDS = 48_000
FINE = "segment_vectors/fine"


def vectors(seed: int, n: int = 5) -> np.ndarray:
    """[n, 512] of unit length."""
    found = np.random.default_rng(seed).standard_normal((n, 512))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def filled(store, recipe, make_codes) -> Path:
    """Segment vectors of three teachers: test-teacher (of a source), coarse, and fine on a grid of 2.5 s; closed."""
    features = store.features(recipe)
    features.write_strip(0, make_codes(21 * SECONDS), 21 * SECONDS)
    features.commit([0], [21 * SECONDS], [""])
    store.write_segment_teacher([0, 1], [vectors(0, 4), vectors(1, 3)])
    store.add_segment_set("coarse", hop_samples=240_000, model="d1").write([1, 2], [vectors(2), vectors(3)])
    fine = store.add_segment_set("fine", hop_samples=120_000, model="d2")
    fine.write([0, 1, 3], [vectors(row, 6) for row in (0, 1, 3)])
    store.close()
    return store.path


def told(path: Path) -> list[object]:
    """All that the sets tell."""
    with FeatureStore.open(path) as store:
        sets = [store.segment_vectors(name) for name in store.segment_sets()]
        about = [(v.name, v.model, v.hop_samples, v.counts().tolist()) for v in sets]
        return [*about, *(v.read(row).tobytes() for v in sets for row in range(store.n_tracks))]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def command(path: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["store", *words, "--set", f"store.path={path}"])


def test_a_flipped_bit_in_a_vector_is_found_by_set_and_row_and_repaired(filled: Path) -> None:
    flip(filled / FINE / "vectors/c/1/0/0")
    (filled / "segment_vectors/coarse/vectors/c/2/0/0").unlink()
    with (
        FeatureStore.open(filled) as store,
        pytest.raises(CorruptShardError, match="row 1: the segment vectors of fine"),
    ):
        store.segment_vectors("fine").read(1)
    assert "1 fault (shards listed" in command(filled, "verify").output
    found = command(filled, "verify", "--deep")
    assert found.exit_code == 1
    assert "damaged segment vectors: segment vectors of fine, row 1 (track t1): row 1: the segment vec" in found.output
    assert "damaged segment vectors: segment vectors of coarse, row 2 (track t2)" in found.output
    done = command(filled, "repair", "--deep")
    assert "segment vectors of 2 tracks removed (`student-clap featurize --teacher MODEL` writes them" in done.output
    assert verify_path(filled, deep=True) == ([], 5)
    with FeatureStore.open(filled) as store:
        assert store.segment_vectors("fine").counts().tolist() == [6, 0, 0, 6, 0]
        assert store.segment_vectors("coarse").counts().tolist() == [0, 5, 0, 0, 0]
        assert store.n_segment_teacher().tolist() == [4, 3, 0, 0, 0]
        np.testing.assert_array_equal(store.segment_vectors("fine").read(3), vectors(3, 6))


@pytest.mark.slow
def test_every_lost_or_flipped_file_of_a_set_is_found(filled: Path) -> None:
    before = told(filled)
    assert verify_path(filled, deep=True) == ([], 5)
    for victim in sorted(p for p in (filled / "segment_vectors").rglob("*") if p.is_file()):
        whole = victim.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 16
        for content in (None, whole[: len(whole) // 2], bytes(flipped)):
            victim.unlink()
            if content is not None:
                victim.write_bytes(content)
            faults, _ = verify_path(filled, deep=True)
            assert faults, (victim, content is None)
            with contextlib.suppress(click.ClickException):
                assert told(filled) == before, victim
            victim.unlink(missing_ok=True)
            victim.write_bytes(whole)
    assert told(filled) == before


@pytest.mark.parametrize(
    ("victim", "what"),
    [
        (f"{FINE}/vectors/zarr.json", "1 zarr.json written again"),
        (f"{FINE}/n_segments/zarr.json", "1 zarr.json written again"),
        ("segment_vectors/zarr.json", "1 zarr.json written again"),
        (f"{FINE}/n_segments/c/0", "1 damaged chunk of columns"),
    ],
)
def test_repair_repairs_what_the_stages_can_make_again(filled: Path, victim: str, what: str) -> None:
    before = told(filled)
    flip(filled / victim)
    with pytest.raises(click.ClickException):
        told(filled)
    assert what in command(filled, "repair", "--deep").output
    assert verify_path(filled, deep=True) == ([], 5)
    if "zarr.json" in victim:
        assert told(filled) == before
    else:
        with FeatureStore.open(filled) as store:
            assert store.segment_vectors("fine").counts().tolist() == [0] * 5


def test_what_a_killed_task_or_driver_left_is_a_remark_and_removed(filled: Path) -> None:
    task = FeatureStore.segment_writer(str(filled), "fine")
    task.write_chunk(4, vectors(4))
    partials = [filled / f"{FINE}/vectors/c/{row}/0/.0.abc.partial" for row in (2, 4)]
    partials += [filled / f"{FINE}/n_segments/c/.0.abc.partial", filled / f"{FINE}/.zarr.json.abc.partial"]
    for partial in partials:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(b"half")
    half = filled / "segment_vectors/half/vectors"  # a removal that was killed in the middle
    half.mkdir(parents=True)
    (half / "zarr.json").write_bytes(b"{}")
    assert FeatureStore.open(filled).segment_sets() == ["coarse", "fine", "test-teacher"]
    found = command(filled, "verify", "--deep")
    assert found.exit_code == 0, found.output
    assert (
        "remark: segment vectors of 1 track are written, but not counted, for fine, as a stopped run leaves them; the "
        "next `student-clap featurize --teacher MODEL` writes them again"
    ) in found.output
    FeatureStore.open(filled, "r+").close()
    assert not any(partial.exists() for partial in partials)
    assert not half.exists()
    command(filled, "repair")
    assert not (filled / f"{FINE}/vectors/c/4/0/0").exists()
    assert verify_path(filled, deep=True) == ([], 5)


def test_info_shows_each_set(filled: Path) -> None:
    shown = [" ".join(line.split()) for line in command(filled, "info").output.splitlines()]
    lines = [line for line in shown if line.startswith("segment vectors")]
    assert [line.partition("; ")[0].rpartition(",")[0] for line in lines[:2]] == [
        "segment vectors coarse: 2 tracks, 10 vectors, every 5 s",
        "segment vectors fine: 3 tracks, 18 vectors, every 2.5 s",
    ]
    assert lines[1].endswith("; model d2")
    assert lines[2].startswith("segment vectors test-teacher: 2 tracks, 7 vectors, every 5 s, ")
    assert "model" not in lines[2]


def test_exports_have_every_set(filled: Path, tmp_path: Path) -> None:
    command(filled, "export", "--out", str(tmp_path / "rows.parquet"))
    rows = pq.read_table(tmp_path / "rows.parquet")
    assert rows["n_segment_teacher"].to_pylist() == [4, 3, 0, 0, 0]
    assert rows["n_segment_vectors_coarse"].to_pylist() == [0, 5, 5, 0, 0]
    assert rows["n_segment_vectors_fine"].to_pylist() == [6, 6, 0, 6, 0]
    done = command(filled, "export", "--track", "t0", "--out", str(tmp_path / "t0.npz"))
    assert done.exit_code == 0, done.output
    with np.load(tmp_path / "t0.npz") as track:
        np.testing.assert_array_equal(track["segment_vectors_fine"], vectors(0, 6))
        assert track["segment_starts_fine"].tolist() == [0, 120_000, 240_000, 360_000, 480_000, 528_000]
        assert track["segment_vectors_coarse"].shape == (0, 512)
        assert len(track["segment_starts_coarse"]) == 0


def test_a_teacher_is_removed_when_the_user_says_so(filled: Path) -> None:
    assert "there is no answer; nothing was removed. Scripts say" in command(filled, "remove-teacher", "fine").output
    done = command(filled, "remove-teacher", "fine", "--yes")
    assert (done.exit_code, done.output) == (0, "store remove-teacher: segment vectors of 3 tracks removed (fine)\n")
    assert not (filled / FINE).exists()
    again = command(filled, "remove-teacher", "fine", "--yes")
    assert again.exit_code == 1
    assert "no segment vectors of 'fine'; it has those of coarse, test-teacher" in again.output
    assert "of 2 tracks removed" in command(filled, "remove-teacher", "test-teacher", "--yes").output
    assert FeatureStore.open(filled).segment_sets() == ["coarse"]
    assert verify_path(filled, deep=True) == ([], 5)


@pytest.mark.parametrize("victim", ["zarr.json", "vectors/zarr.json", "n_segments/c/0"])
def test_a_damaged_set_can_be_removed(filled: Path, victim: str) -> None:
    (filled / FINE / victim).write_bytes(b"{")
    found = command(filled, "verify", "--deep")
    assert found.exit_code == 1
    if victim == "zarr.json":
        assert "`student-clap store remove-teacher fine` removes these" in " ".join(found.output.split())
    assert command(filled, "remove-teacher", "fine", "--yes").exit_code == 0
    assert FeatureStore.open(filled).segment_sets() == ["coarse", "test-teacher"]
    assert verify_path(filled, deep=True) == ([], 5)


def test_a_set_of_a_later_version_can_be_removed(filled: Path) -> None:
    set_attributes(filled / FINE, {"hop_samples": 7})
    with pytest.raises(StoreError, match="`student-clap store remove-teacher fine` removes it"):
        FeatureStore.open(filled, "r+")
    with contextlib.closing(_Held(filled)), pytest.raises(StoreError, match="is being written"):
        remove_teacher(filled, "fine")
    assert (filled / FINE).exists()
    assert remove_teacher(filled, "fine") == -1
    assert FeatureStore.open(filled).segment_sets() == ["coarse", "test-teacher"]
    assert verify_path(filled, deep=True) == ([], 5)


@pytest.mark.parametrize("view", [-1, 17, True, "1", 1.0, None])
def test_a_set_of_a_view_that_cannot_be_is_refused_and_can_be_removed(filled: Path, view: object) -> None:
    set_attributes(filled / FINE, {"view": view})
    with pytest.raises(UnknownSetError, match=r"segment_vectors/fine: the view is .*; expected 0 to 16"):
        FeatureStore.open(filled).segment_sets()
    with pytest.raises(StoreError, match="`student-clap store remove-teacher fine` removes it"):
        FeatureStore.open(filled, "r+")
    assert remove_teacher(filled, "fine") == -1
    assert FeatureStore.open(filled).segment_sets() == ["coarse", "test-teacher"]
    assert verify_path(filled, deep=True) == ([], 5)


@pytest.mark.parametrize("content", [b"{", None])
def test_the_views_of_a_damaged_set_go_with_it(filled: Path, content: bytes | None) -> None:
    with FeatureStore.open(filled, "r+") as store:
        for name in ("coarse", "fine"):
            grid = (
                {"hop_samples": 120_000, "model": "d2"} if name == "fine" else {"hop_samples": 240_000, "model": "d1"}
            )
            store.add_segment_set(name, **grid, view=1).write([1], [vectors(1)])
        store.add_segment_set("fine.view-2", hop_samples=120_000, model="d3").write([2], [vectors(2)])
    if content is None:
        set_attributes(filled / FINE, {"hop_samples": 7})  # as a later version may have it
    else:
        (filled / FINE / "zarr.json").write_bytes(content)
    assert remove_teacher(filled, "fine") == -1
    with FeatureStore.open(filled) as store:
        # A teacher whose name looks like a view's is another one.
        assert store.segment_sets() == ["coarse", "fine.view-2", "test-teacher"]
        assert (store.views("fine"), store.views("coarse")) == ([], [1])
    assert not (filled / f"{FINE}.view-1").exists()
    assert verify_path(filled, deep=True) == ([], 5)


def test_a_set_says_of_which_view_it_is_and_one_of_tracks_is_as_before(filled: Path) -> None:
    with FeatureStore.open(filled, "r+") as store:
        store.add_segment_set("fine", hop_samples=120_000, model="d2", view=3)
    track, view = (read_document(filled / f"{FINE}{name}")["attributes"] for name in ("", ".view-3"))
    for attributes in (track, view):
        del attributes["zarr_json_crc32c"]
    assert track == {"name": "fine", "model": "d2", "hop_samples": 120_000}
    assert view == {"name": "fine.view-3", "model": "d2", "hop_samples": 120_000, "view": 3}


def test_nothing_is_removed_from_a_store_of_another_format(filled: Path) -> None:
    set_attributes(filled / FINE, {"hop_samples": 7})
    set_attributes(filled, {"format_version": 2})
    with pytest.raises(StoreError, match="version 2, expected"):
        remove_teacher(filled, "fine")
    assert (filled / FINE / "vectors").exists()


class _Held:
    """The lock of the store at a path, held until `close`."""

    def __init__(self, path: Path) -> None:
        self._lock = open_storage(path).take_lock()

    def close(self) -> None:
        self._lock.release()


class Killed(BaseException):
    """What no `except` of the program catches."""


def die_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Die at that folder that is cleared, or file that is removed."""
    left = [step]

    def die(real: Callable[..., None]) -> Callable[..., None]:
        def wrapper(*args: object, **kwargs: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            real(*args, **kwargs)

        return wrapper

    patch.setattr(DirectoryStorage, "clear", die(DirectoryStorage.clear))
    patch.setattr(DirectoryStorage, "unlink", die(DirectoryStorage.unlink))


@pytest.mark.parametrize("name", ["fine", "test-teacher"])
def test_a_removal_that_is_killed_leaves_a_store_that_opens_and_goes_on(
    filled: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 3 if name == "fine" else 1  # folders cleared and files removed
    for step in range(steps):
        path = shutil.copytree(filled, tmp_path / f"killed{step}")
        with monkeypatch.context() as patch, FeatureStore.open(path, "r+") as store:
            die_at(step, patch)
            with pytest.raises(Killed):
                store.remove_segment_set(name)
        assert not [f for f in verify_path(path, deep=True)[0] if f.is_fault], step
        with FeatureStore.open(path, "r+") as store:
            if name in store.segment_sets():
                assert store.remove_segment_set(name) == 0
            assert store.add_segment_set(name, hop_samples=48_000, model="d3").counts().tolist() == [0] * 5
        assert not [f for f in verify_path(path, deep=True)[0] if f.is_fault], step


def test_a_removal_that_is_killed_among_the_views_can_be_made_again(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FeatureStore.open(filled, "r+") as store:
        for view in (1, 2):
            store.add_segment_set("fine", hop_samples=120_000, model="d2", view=view).write([view], [vectors(view)])
    for step in range(9):  # three for each set
        path = shutil.copytree(filled, tmp_path / f"killed{step}")
        with monkeypatch.context() as patch, FeatureStore.open(path, "r+") as store:
            die_at(step, patch)
            with pytest.raises(Killed):
                store.remove_segment_set("fine")
        assert not [f for f in verify_path(path, deep=True)[0] if f.is_fault], step
        with FeatureStore.open(path, "r+") as store:
            if "fine" in store.segment_sets():  # the views go first: none is left without its teacher
                store.remove_segment_set("fine")
            assert store.segment_sets() == ["coarse", "test-teacher"], step
        assert not list((path / "segment_vectors").glob("fine*")), step
        assert verify_path(path, deep=True) == ([], 5), step


def test_a_store_of_the_version_before_is_read_and_takes_sets(filled: Path) -> None:
    """It has the two arrays of the root, no group and no attribute about them."""
    shutil.rmtree(filled / "segment_vectors")
    before = [FeatureStore.open(filled).segment_teacher(row).tobytes() for row in range(5)]
    assert FeatureStore.open(filled).segment_sets() == ["test-teacher"]
    assert verify_path(filled, deep=True) == ([], 5)
    with FeatureStore.open(filled, "r+") as store:
        assert not (filled / segment_sets.GROUP).exists()
        store.add_segment_set("new", hop_samples=120_000, model="d").write([4], [vectors(4)])
        assert store.segment_sets() == ["new", "test-teacher"]
    with FeatureStore.open(filled) as store:
        assert [store.segment_teacher(row).tobytes() for row in range(5)] == before
    assert verify_path(filled, deep=True) == ([], 5)
