"""A chunk of a column that was lost is an error, in every column: it never reads as its fill value."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.arrays import feature_arrays, segment_sets
from student_clap.store.arrays.metadata import WHOLE, read_document, write_document
from student_clap.store.arrays.tracks import STRING_COLUMNS
from student_clap.store.layout.strip import strip_frames
from student_clap.store.storage.errors import CorruptColumnError
from student_clap.store.storage.open import open_storage
from student_clap.store.verify import verify_path

pytestmark = pytest.mark.slow  # a second and more each

RECIPE = Recipe.from_config(AudioConfig())
N_SAMPLES = 11 * 48_000
VECTOR = np.full(512, 512**-0.5, np.float32)
N_TRACKS = 5
LATER = ("n_segment_teacher", *(f"features/audiomuse/{name}" for name in ("n_samples", "error", "decoder")))
COLUMNS = (*STRING_COLUMNS, "state", "teacher", *LATER)


def tracks(begin: int, end: int) -> list[Track]:
    return [
        Track("d", f"t{n}", artist=f"a{n}", audio=f"{n}.wav", state=State.FETCHED, teacher=VECTOR)
        for n in range(begin, end)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows 0 and 1 of five are made and have segment vectors, row 2 failed."""
    path = tmp_path_factory.mktemp("made") / "features.zarr"
    with FeatureStore.create(path, "test") as store:
        store.append_tracks(tracks(0, N_TRACKS))
        features = store.features(RECIPE)
        for row in (0, 1):
            features.write_strip(row, np.full((128, strip_frames(N_SAMPLES, RECIPE)), 7, np.uint8), N_SAMPLES)
        features.commit([0, 1, 2], [N_SAMPLES, N_SAMPLES, -1], ["", "", "no audio"])
        vectors = np.tile(VECTOR, (2, 1)).astype(np.float16)
        store.write_segment_teacher([0, 1], [vectors, vectors])
    return path


@pytest.fixture
def filled(made: Path, tmp_path: Path) -> Path:
    """That store, for one test to damage."""
    return Path(shutil.copytree(made, tmp_path / "features.zarr"))


def chunk_of(path: Path, column: str) -> Path:
    return path / column / "c" / ("0/0" if column == "teacher" else "0")


def read_all(path: Path) -> None:
    with FeatureStore.open(path) as store:
        features = store.features(RECIPE)
        for name in STRING_COLUMNS:
            store.strings(name)
        _ = store.teacher(), store.n_segment_teacher()
        _ = features.n_samples(), features.errors(), features.decoders()


@pytest.mark.parametrize("a_folder_lies_there", [False, True])
@pytest.mark.parametrize("column", COLUMNS)
def test_no_lost_chunk_reads_as_its_fill_value(column: str, filled: Path, *, a_folder_lies_there: bool) -> None:
    chunk = chunk_of(filled, column)
    chunk.unlink()
    if a_folder_lies_there:
        chunk.mkdir()
    with pytest.raises(CorruptColumnError, match=f"the column {column} .*`student-clap store repair"):
        read_all(filled)
    for deep in (False, True):
        found, _ = verify_path(filled, deep=deep)
        assert ("damaged column", True) in {(f.kind, column in f.detail) for f in found}


@pytest.mark.slow
@pytest.mark.parametrize("column", ["n_segment_teacher", "features/audiomuse/n_samples", "teacher"])
def test_train_does_not_begin_with_a_column_that_lost_a_chunk(column: str, filled: Path, tmp_path: Path) -> None:
    chunk_of(filled, column).unlink()
    settings = (f"store.path={filled}", f"training.runs_dir={tmp_path / 'runs'}")
    done = CliRunner().invoke(main, ["train", *(word for each in settings for word in ("--set", each))])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert f"the column {column} is damaged" in done.output
    assert "`student-clap store repair --deep`" in done.output


def test_columns_that_nothing_was_written_to_have_their_chunks_as_rows_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_arrays, "COLUMN_CHUNK_ROWS", 4)
    monkeypatch.setattr(segment_sets, "COUNT_CHUNK_ROWS", 4)
    path = tmp_path / "features.zarr"
    with FeatureStore.create(path, "test") as store:
        store.append_tracks(tracks(0, 3))
        store.features(RECIPE)
        store.write_segment_teacher([0], [np.tile(VECTOR, (2, 1)).astype(np.float16)])
        for begin, end in ((3, 4), (4, 5), (5, 14)):
            store.append_tracks(tracks(begin, end))
            read_all(path)
    for column in LATER:
        assert sorted(p.name for p in (path / column / "c").iterdir()) == ["0", "1", "2", "3"]
    assert verify_path(path, deep=True) == ([], 14)
    (path / "n_segment_teacher/c/2").unlink()
    with pytest.raises(CorruptColumnError, match=r"rows 8 to 11: .*n_segment_teacher/c/2 is not there"):
        read_all(path)


def test_a_store_that_was_made_before_is_read_and_its_next_writer_completes_it(tmp_path: Path) -> None:
    path = tmp_path / "features.zarr"
    with FeatureStore.create(path, "test") as store:
        store.append_tracks(tracks(0, 3))
        store.features(RECIPE)
        segment_sets.create_segment_vectors(open_storage(path), 3)
    for column in LATER:
        document = read_document(path / column)
        del document["attributes"][WHOLE]
        write_document(path / column, document)
        chunk_of(path, column).unlink()
    read_all(path)
    assert verify_path(path, deep=True) == ([], 3)
    FeatureStore.open(path, "r+").close()
    for column in LATER:
        assert chunk_of(path, column).is_file()
        assert json.loads((path / column / "zarr.json").read_text())["attributes"][WHOLE] is True
    read_all(path)
    assert verify_path(path, deep=True) == ([], 3)
