"""Tracks that are made again: what belongs to the audio before goes with it, and only then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.featurize.light_run import run

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.cluster.task import Job, Site, make_features
from student_clap.featurize.outdated import set_back
from student_clap.featurize.plan import Selection
from student_clap.featurize.teacher.model import Teacher
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.arrays.feature_arrays import FAILED, NOT_MADE
from student_clap.store.layout.strip import strip_frames
from student_clap.store.verify import verify_path

pytestmark = pytest.mark.slow

RECIPE = Recipe.from_config(AudioConfig())
CLAP = Recipe.from_config(AudioConfig(preset="clap"))
VECTOR = np.full(512, 512**-0.5, np.float32)
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(address="here"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    """Three rows with the features of two recipes; segment vectors of a source, and of a teacher of ours."""
    with FeatureStore.create(tmp_path / "features.zarr", "test") as opened:
        opened.append_tracks([Track("d", "0", teacher=VECTOR), Track("d", "1"), Track("d", "2")])
        opened.write_teacher([1, 2], np.stack([VECTOR] * 2))
        for recipe in (RECIPE, CLAP):
            features = opened.features(recipe)
            for row in range(3):
                shape = (recipe.n_mels, strip_frames(576_000, recipe))
                features.write_strip(row, np.full(shape, 7, np.uint8), 576_000)
            features.commit([0, 1, 2], [576_000] * 3, [""] * 3)
        two = np.stack([VECTOR] * 2).astype(np.float16)
        opened.write_segment_teacher([0, 1], [two, two])
        opened.add_segment_set("ours", hop_samples=240_000, model="m").write([0, 1, 2], [two] * 3)
        yield opened


def test_what_a_teacher_of_ours_heard_goes_and_what_a_source_brought_stays(store: FeatureStore) -> None:
    assert set_back(store, store.features(RECIPE), [0, 1]) == [1]
    assert store.segment_vectors("ours").counts().tolist() == [0, 0, 2]
    assert store.n_segment_teacher().tolist() == [2, 2, 0]
    assert np.isfinite(store.teacher()).all(axis=1).tolist() == [True, False, True]
    assert store.given_vectors().tolist() == [False, False, True]
    for recipe in (RECIPE, CLAP):
        assert store.features(recipe).n_samples().tolist() == [NOT_MADE, NOT_MADE, 576_000]


def test_the_set_that_a_run_makes_goes_wherever_it_lies(store: FeatureStore) -> None:
    root = next(vectors.name for vectors in store.stored_segment_sets() if not vectors.set.folder)
    set_back(store, store.features(RECIPE), [0], heard_now=root)
    assert store.n_segment_teacher().tolist() == [0, 2, 0]


class Made:
    """A row whose features are those of `file`, as a worker finds it."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.file = file
        with FeatureStore.create(folder / "features.zarr", "test") as store:
            store.append_tracks([Track("d", "0", audio=str(file), state=State.FETCHED)])
            self.features = store.features(RECIPE)
            self.site = Site(store.address, store.uuid, 1, RECIPE)
            (self.outcome,) = make_features(self.site, [Job(0, str(file))])
            self.features.commit([0], [self.outcome.n_samples], [""])

    def again(self) -> tuple[int, bool]:
        """(n_samples, outdated) of the outcome where the row is made again."""
        (found,) = make_features(self.site, [Job(0, str(self.file), n_samples=self.outcome.n_samples)])
        assert (found.error, found.worker) == ("", "")
        return found.n_samples, found.outdated


@pytest.mark.parametrize(
    ("seconds", "seed"), [(22.0, 0), (13.0, 0), (12.0, 5)], ids=["longer", "as many segments", "as long"]
)
def test_nothing_of_other_audio_is_written_over_what_counts(
    tmp_path: Path, write_audio: Write, seconds: float, seed: int
) -> None:
    made = Made(tmp_path, write_audio("a.wav", 12.0))
    strip = made.features.strip(0)
    assert made.again() == (576_000, False)
    write_audio("a.wav", seconds, seed=seed)
    assert made.again() == (NOT_MADE, True)
    np.testing.assert_array_equal(made.features.strip(0), strip)


def test_what_gives_no_audio_any_more_is_other_audio(tmp_path: Path, write_audio: Write) -> None:
    made = Made(tmp_path, write_audio("a.wav", 12.0))
    made.file.write_text("<html>Sign in</html>")
    assert made.again() == (NOT_MADE, True)


def test_a_damaged_strip_and_one_that_was_rounded_otherwise_are_of_the_same_audio(
    tmp_path: Path, write_audio: Write
) -> None:
    made = Made(tmp_path, write_audio("a.wav", 12.0))
    strip = made.features.strip(0)
    off = strip + np.where(strip < 255, 1, -1).astype(np.uint8)
    off[:5] = 40  # 5 bands of 128
    made.features.write_strip(0, off, 576_000)
    assert made.again() == (576_000, False)
    np.testing.assert_array_equal(made.features.strip(0), strip)
    shard = tmp_path / "features.zarr/features/audiomuse/mel/c/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-50])
    assert made.again() == (576_000, False)
    np.testing.assert_array_equal(made.features.strip(0), strip)


@pytest.fixture
def taught(tmp_path: Path, write_audio: Write) -> Path:
    """A folder with a store of two tracks of 12 s, made and heard by teacher.onnx."""
    files = [write_audio(f"{n}.wav", 12.0, seed=n) for n in range(2)]
    folder = tmp_path / "run"
    folder.mkdir()
    with FeatureStore.create(folder / "features.zarr", "test") as store:
        store.append_tracks([Track("d", str(n), audio=str(f), state=State.FETCHED) for n, f in enumerate(files)])
    write_mel_teacher(folder / "teacher.onnx", "clap")
    _, totals = run(folder)
    assert totals.made == 2
    return folder


@pytest.mark.parametrize(("seconds", "n_segments"), [(22.0, 4), (13.0, 2)])
def test_a_file_that_was_replaced_is_heard_anew(
    taught: Path, write_audio: Write, seconds: float, n_segments: int
) -> None:
    file = write_audio("0.wav", seconds, seed=5)
    with FeatureStore.open(taught / "features.zarr") as store:
        kept = store.segment_vectors().read(1)
    teacher = (taught / "teacher.onnx").rename(taught / "later.onnx")
    _, totals = run(taught, Selection(again=(0,)))
    assert (totals.made, totals.outdated, totals.done) == (1, 1, 1)
    with FeatureStore.open(taught / "features.zarr") as store:
        assert store.segment_vectors().counts().tolist() == [0, 2]
        assert store.features(RECIPE).n_samples()[0] == 48_000 * seconds
        assert np.isfinite(store.teacher()).all(axis=1).tolist() == [False, True]
        samples = decode(file, RECIPE.max_samples)
        np.testing.assert_array_equal(store.features(RECIPE).strip(0), LogMel(RECIPE).codes(samples))

    teacher.rename(taught / "teacher.onnx")
    found, _ = run(taught)
    assert [job.row for job in found.jobs] == [0]
    with FeatureStore.open(taught / "features.zarr") as store:
        track, segments = Teacher(taught / "teacher.onnx", provider="cpu").embed(samples)
        assert store.segment_vectors().counts().tolist() == [n_segments, 2]
        np.testing.assert_allclose(store.segment_vectors().read(0), segments.astype(np.float16), atol=1e-3)
        np.testing.assert_array_equal(store.segment_vectors().read(1), kept)
        np.testing.assert_allclose(store.teacher()[0], track, atol=1e-6)
    assert verify_path(taught / "features.zarr", deep=True) == ([], 2)


@pytest.mark.parametrize("with_teacher", [True, False])
def test_an_older_decoder_alone_costs_no_vectors(
    taught: Path, write_audio: Write, monkeypatch: pytest.MonkeyPatch, with_teacher: bool
) -> None:
    monkeypatch.setattr("student_clap.store.arrays.features.DECODER", 3)
    write_audio("1.wav", 22.0, seed=5)
    if not with_teacher:
        (taught / "teacher.onnx").unlink()
    heard: list[tuple[int, bool]] = []
    found, totals = run(
        taught, Selection(again_old_decoder=True), report=lambda o: heard.append((o.row, o.taught is not None))
    )
    assert [(job.row, job.strip, job.vectors) for job in found.jobs] == [(0, True, False), (1, True, False)]
    assert sorted(heard) == [(0, False), (1, with_teacher)]
    assert (totals.made, totals.outdated) == (2, 1)
    with FeatureStore.open(taught / "features.zarr") as store:
        assert store.segment_vectors().counts().tolist() == [2, 4 if with_teacher else 0]
        assert store.features(RECIPE).decoders().tolist() == [3, 3]
        assert np.isfinite(store.teacher()).all(axis=1).tolist() == [True, with_teacher]


def test_a_replaced_file_that_gives_no_audio_fails_and_keeps_no_vectors(taught: Path, tmp_path: Path) -> None:
    (tmp_path / "0.wav").write_text("<html>Sign in</html>")
    _, totals = run(taught, Selection(again=(0,)))
    assert (totals.made, totals.failed, totals.done) == (0, 1, 1)
    with FeatureStore.open(taught / "features.zarr") as store:
        assert store.features(RECIPE).n_samples()[0] == FAILED
        assert store.segment_vectors().counts().tolist() == [0, 2]


def test_vectors_of_another_length_are_found_and_heard_again(taught: Path, write_audio: Write) -> None:
    """As `featurize --again` of earlier versions left them."""
    file = write_audio("0.wav", 22.0, seed=5)
    with FeatureStore.open(taught / "features.zarr", "r+") as store:
        codes = LogMel(RECIPE).codes(decode(file, RECIPE.max_samples))
        store.features(RECIPE).write_strip(0, codes, 22 * 48_000)
        store.features(RECIPE).commit([0], [22 * 48_000], [""])
    for deep in (False, True):
        findings, _ = verify_path(taught / "features.zarr", deep=deep)
        assert [(f.kind, f.row, f.is_fault, f.detail) for f in findings] == [
            ("damaged segment vectors", 0, True, "2 segments, expected 4: they are of audio of another length")
        ]
    found, _ = run(taught)
    assert ([job.row for job in found.jobs], found.renewed, found.heard) == ([0], [0], 1)
    with FeatureStore.open(taught / "features.zarr") as store:
        assert store.segment_vectors().counts().tolist() == [4, 2]
        track = Teacher(taught / "teacher.onnx", provider="cpu").embed(decode(file, RECIPE.max_samples))[0]
        np.testing.assert_allclose(store.teacher()[0], track, atol=1e-6)
    assert verify_path(taught / "features.zarr", deep=True) == ([], 2)
