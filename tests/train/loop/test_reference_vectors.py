"""The fixed vectors of the loss: what is read is right, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import pytest
import torch

from student_clap.config.schema import LossConfig
from student_clap.store import FeatureStore
from student_clap.store.arrays.segment_vectors import SegmentVectors
from student_clap.store.layout.segments import segment_count
from student_clap.store.storage.errors import StoreError
from student_clap.train.loop.loop import Trainer
from student_clap.train.loop.loss import Targets
from student_clap.train.loop.reference_vectors import build_loss, read_text_vectors, sample_segments
from student_clap.train.loop.session import open_display, open_stream, open_trainer

if TYPE_CHECKING:
    from tests.train.conftest import Library


def test_text_vectors_are_brought_to_unit_length(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 512))
    np.savez(tmp_path / "texts.npz", name=np.array(["a", "b", "c"]), vector=vectors)
    found = read_text_vectors(tmp_path / "texts.npz")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"vectors": np.ones((2, 512))}, "array `vector`"),
        ({"vector": np.ones((2, 511))}, r"\[2, 511\]"),
        ({"vector": np.ones((0, 512))}, r"\[0, 512\]"),
        ({"vector": np.zeros((2, 512))}, "zero, NaN or infinite"),
        ({"vector": np.full((2, 512), np.nan)}, "zero, NaN or infinite"),
    ],
)
def test_text_vectors_that_cannot_be_used_are_refused(
    tmp_path: Path, content: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "texts.npz", **content)
    with pytest.raises(click.ClickException, match=message):
        read_text_vectors(tmp_path / "texts.npz")


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    for name in ("broken.npz", "missing.npz"):
        with pytest.raises(click.ClickException, match=name):
            read_text_vectors(tmp_path / name)


def test_the_bank_is_of_training_rows_alone_and_no_larger_than_asked() -> None:
    teacher = np.eye(20, 512, dtype=np.float32)
    settings = LossConfig.model_validate({"cosine": 0.0, "bank": 1.0, "bank_size": 4})
    rows = np.arange(0, 20, 2)
    loss_function = build_loss(settings, teacher, rows, 0, torch.device("cpu"))
    bank = loss_function.references["bank"]
    assert bank.shape == (4, 512)
    assert set(bank.argmax(dim=1).tolist()) <= set(rows.tolist())
    again = build_loss(settings, teacher, rows, 0, torch.device("cpu")).references["bank"]
    assert torch.equal(bank, again)
    student = torch.from_numpy(teacher[:2])
    losses, _ = loss_function(student, Targets(student, torch.zeros(2, 512), torch.eye(2)))
    torch.testing.assert_close(losses, torch.zeros(2))


def test_a_bank_of_segments_has_as_many_of_each_training_track(library: Library) -> None:
    rng = np.random.default_rng(0)
    with FeatureStore.open(library.store_path, "r+") as store:
        lengths = store.features(library.recipe).n_samples().tolist()
        counts = {row: segment_count(n, library.recipe) for row, n in enumerate(lengths)}
        vectors = {row: rng.normal(size=(n, 512)) for row, n in counts.items()}
        unit = {row: (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float16) for row, v in vectors.items()}
        store.write_segment_teacher(list(unit), list(unit.values()))
        segments = store.segment_vectors()
        rows = np.array([3, 8, 12, 13])
        bank = sample_segments(segments, rows, 8, seed=0)
        assert bank is not None
        of_each = {row: min(2, counts[row]) for row in rows.tolist()}
        assert len(bank) == sum(of_each.values())
        begin = 0
        for row, n in of_each.items():
            cosines = bank[begin : begin + n] @ unit[row].astype(np.float32).T
            np.testing.assert_allclose(cosines.max(axis=1), 1, atol=1e-3)
            assert len(set(cosines.argmax(axis=1).tolist())) == n  # none twice
            begin += n
        again = sample_segments(segments, rows, 8, seed=0)
        assert again is not None
        np.testing.assert_array_equal(bank, again)
        store.write_segment_teacher([3, 8, 12, 13], [np.empty((0, 512), np.float16)] * 4)
    assert sample_segments(FeatureStore.open(library.store_path).segment_vectors(), rows, 8, seed=0) is None


def test_a_bank_leaves_out_a_track_whose_segment_vectors_are_damaged(
    library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    with FeatureStore.open(library.store_path, "r+") as store:
        store.write_segment_teacher([3, 8], [np.eye(2, 512, row, dtype=np.float16) for row in (3, 8)])
    rows = np.array([3, 8])
    chunks = {row: library.store_path / f"segment_teacher/c/{row}/0/0" for row in (3, 8)}
    chunks[3].write_bytes(chunks[3].read_bytes()[:-1])
    bank = sample_segments(FeatureStore.open(library.store_path).segment_vectors(), rows, 4, seed=0)
    assert bank is not None
    assert sorted(bank.argmax(axis=1).tolist()) == [8, 9]
    (warning,) = caplog.messages
    assert warning.startswith("row 3 left out of the bank: row 3: the segment vectors are damaged")
    chunks[8].unlink()
    with pytest.raises(click.ClickException, match=r"segment vectors can be read; the last error: row 8: "):
        sample_segments(FeatureStore.open(library.store_path).segment_vectors(), rows, 4, seed=0)


def test_a_bank_is_not_smaller_because_the_store_is_out_of_reach(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FeatureStore.open(library.store_path, "r+") as store:
        store.write_segment_teacher([3, 8], [np.eye(2, 512, row, dtype=np.float16) for row in (3, 8)])
    segments = FeatureStore.open(library.store_path).segment_vectors()
    read = SegmentVectors.read

    def break_off(self: SegmentVectors, row: int, n: int | None = None) -> np.ndarray:
        if row == 3:
            raise StoreError("s3://b cannot be read") from ConnectionError("timeout")
        return read(self, row, n)

    monkeypatch.setattr(SegmentVectors, "read", break_off)
    with pytest.raises(StoreError, match="cannot be read"):
        sample_segments(segments, np.array([3, 8]), 4, seed=0)


@pytest.mark.slow
def test_a_run_goes_on_without_a_track_whose_segment_vectors_are_damaged(
    library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    with FeatureStore.open(library.store_path, "r+") as store:
        lengths = store.features(library.recipe).n_samples().tolist()
        counts = [segment_count(n, library.recipe) for n in lengths]
        vectors = [np.eye(1, 512, row, dtype=np.float16).repeat(n, 0) for row, n in enumerate(counts)]
        store.write_segment_teacher(list(range(len(lengths))), vectors)

    def train(epochs: int) -> Trainer:
        config = library.config(training={"epochs": epochs, "warmup_epochs": 0})
        with (
            open_trainer(config) as trainer,
            open_stream(config, trainer) as stream,
            open_display(trainer) as display,
        ):
            trainer.train(stream, display)
            return trainer

    train(1)
    assert caplog.messages == []
    (library.store_path / "segment_teacher/c/5/0/0").unlink()
    trainer = train(2)
    assert trainer.progress.epoch == 2
    assert trainer.progress.unreadable == [5]
    assert any(message.startswith("row 5 left out of the bank: row 5: ") for message in caplog.messages)


@pytest.mark.parametrize("targets", ["segment", "track"])
def test_a_run_takes_a_bank_of_segments(library: Library, targets: str) -> None:
    """Where segments are not read the bank is of tracks."""
    with FeatureStore.open(library.store_path, "r+") as store:
        lengths = store.features(library.recipe).n_samples().tolist()
        counts = [segment_count(n, library.recipe) for n in lengths]
        vectors = [np.eye(1, 512, row, dtype=np.float16).repeat(n, 0) for row, n in enumerate(counts)]
        store.write_segment_teacher(list(range(len(lengths))), vectors)
    config = library.config(
        loss={"targets": targets, "bank_of": "segments"}, training={"epochs": 1, "warmup_epochs": 0}
    )
    with (
        open_trainer(config) as trainer,
        open_stream(config, trainer) as stream,
        open_display(trainer) as display,
    ):
        trainer.train(stream, display)
    assert trainer.progress.epoch == 1


def test_a_run_learns_from_texts(library: Library, tmp_path: Path) -> None:
    np.savez(tmp_path / "texts.npz", vector=np.random.default_rng(0).normal(size=(5, 512)))
    config = library.config(
        loss={"cosine": 0.5, "text": 1.0, "text_vectors": tmp_path / "texts.npz"},
        training={"epochs": 1, "warmup_epochs": 0},
    )
    with (
        open_trainer(config) as trainer,
        open_stream(config, trainer) as stream,
        open_display(trainer) as display,
    ):
        trainer.train(stream, display)
    assert trainer.progress.epoch == 1
