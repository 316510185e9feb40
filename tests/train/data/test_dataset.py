"""The public data sets: items are the store's, orders the trainer's, in any process and from any storage."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, default_collate

import student_clap.train
from student_clap.config.schema import SplitConfig
from student_clap.store import FeatureStore, State, Track
from student_clap.store.layout.segments import segment_starts
from student_clap.store.storage.errors import StoreError
from student_clap.train.data import dataset as module
from student_clap.train.data.batches import TrackReader, make_segments, requests_for
from student_clap.train.data.dataset import EpochSampler, SegmentDataset, TrackDataset, collate, split
from student_clap.train.data.order import choose_segments, epoch_order
from student_clap.train.data.selection import TrackTable, select
from student_clap.train.data.store_dataset import TEXTS

if TYPE_CHECKING:
    from tests.train.conftest import Library

RATE = 48_000


def teach(library: Library, rows: list[int], hop_samples: int = 24_000) -> dict[int, np.ndarray]:
    """Give `rows` the segment vectors of a teacher, on production's grid or a finer one. Returns them."""
    rng = np.random.default_rng(3)
    with FeatureStore.open(library.store_path, "r+") as store:
        taught = store.add_segment_set("teacher", hop_samples=hop_samples, model="")
        n_samples = store.features(library.recipe).n_samples()
        vectors = {}
        for row in rows:
            made = rng.normal(size=(len(taught.starts(int(n_samples[row]), library.recipe)), 512))
            vectors[row] = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)
        taught.write(rows, list(vectors.values()))
    return vectors


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Both have the same keys and values."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key], key


def passes(dataset: TrackDataset | SegmentDataset, epochs: int, **how: Any) -> list[list[dict[str, Any]]]:
    """The batches of some epochs, out of one loader."""
    order = EpochSampler(dataset)
    loader = DataLoader(dataset, sampler=order, collate_fn=collate, **{"batch_size": 5, **how})
    found = []
    for epoch in range(epochs):
        order.set_epoch(epoch)
        found.append(list(loader))
    return found


# --- what an item is


def test_an_item_is_a_track_as_the_store_has_it(library: Library) -> None:
    vectors = teach(library, [13])
    store = FeatureStore.open(library.store_path)
    features = store.features(library.recipe)
    dataset = TrackDataset(library.store_path)
    assert len(dataset) == store.n_tracks
    for row, item in enumerate(dataset[i] for i in range(len(dataset))):
        starts, first = np.unique(segment_starts(int(features.n_samples()[row]), library.recipe), return_index=True)
        stored = features.segments(row)
        assert np.array_equal(item["mel_db"][:, 0].numpy(), stored[first])
        np.testing.assert_allclose(item["start_s"].numpy(), starts / RATE, rtol=1e-6)
        mean = torch.einsum("s,smf->mf", item["weights"], item["mel_db"][:, 0])
        np.testing.assert_allclose(mean.numpy(), stored.mean(axis=0), rtol=1e-4)
        assert np.array_equal(item["teacher"].numpy(), store.teacher(row, row + 1)[0])
        assert int(item["row"]) == row
        assert {name: item[name] for name in TEXTS} == {name: store.strings(name)[row] for name in TEXTS}
        assert (item["track_id"], item["artist"]) == (f"t{row:03}", f"artist {row:03}")
        assert bool(item["taught"]) == (row == 13)
        expected = vectors[13][first].astype(np.float32) if row == 13 else np.zeros((len(starts), 512), np.float32)
        np.testing.assert_allclose(item["segment_teacher"].numpy(), expected, atol=1e-5)


def test_an_item_is_a_segment_as_the_store_has_it(library: Library) -> None:
    vectors = teach(library, [13])
    store = FeatureStore.open(library.store_path)
    features = store.features(library.recipe)
    dataset = SegmentDataset(library.store_path)
    expected = [
        (row, int(first), start / RATE)
        for row, n_samples in enumerate(features.n_samples().tolist())
        for start, first in zip(*np.unique(segment_starts(n_samples, library.recipe), return_index=True), strict=True)
    ]
    assert len(dataset) == len(expected)
    for (row, segment, start_s), item in zip(expected, (dataset[i] for i in range(len(dataset))), strict=True):
        assert item["mel_db"].shape == (1, library.recipe.n_mels, library.recipe.segment_frames)
        assert np.array_equal(item["mel_db"][0].numpy(), features.segments(row)[segment])
        assert float(item["start_s"]) == pytest.approx(start_s)
        assert int(item["row"]) == row
        assert item["track_id"] == f"t{row:03}"
        assert np.array_equal(item["teacher"].numpy(), store.teacher(row, row + 1)[0])
        known = vectors[13][segment].astype(np.float32) if row == 13 else np.zeros(512, np.float32)
        np.testing.assert_allclose(item["segment_teacher"].numpy(), known, atol=1e-5)
        assert bool(item["taught"]) == (row == 13)


@pytest.mark.parametrize("kind", [TrackDataset, SegmentDataset])
def test_codes_are_the_same_segments_in_a_byte_per_cell(library: Library, kind: Callable[..., Any]) -> None:
    decibels, codes = kind(library.store_path), kind(library.store_path, form="codes")
    for number in (0, len(codes) // 2, len(codes) - 1):
        item = codes[number]
        assert "mel_db" not in item
        assert item["codes"].dtype == torch.uint8
        torch.testing.assert_close(codes.decibels(item["codes"]), decibels[number]["mel_db"], rtol=0, atol=1e-4)


def test_segments_may_come_in_any_order_and_twice(library: Library) -> None:
    dataset = SegmentDataset(library.store_path)
    wanted = [40, 3, 40, 0, len(dataset) - 1, -1, 41]
    together = dataset.__getitems__(wanted)
    for number, item in zip(wanted, together, strict=True):
        same(item, dataset[number])
    assert [int(i["row"]) for i in together[1:3]] == [int(dataset[n]["row"]) for n in wanted[1:3]]
    with pytest.raises(IndexError, match=f"item {len(dataset)} of {len(dataset)}"):
        dataset[len(dataset)]


# --- batches


def test_a_batch_of_tracks_is_the_trainer_s(library: Library) -> None:
    """Order, drawn segments, shifts and targets are those of a run with the same seed."""
    teach(library, list(range(10)), hop_samples=4800)
    settings = {"seed": 7, "segments_per_track": 3, "shift_s": 0.1}
    table_rows = split(library.store_path, SplitConfig(method="sorted", folds=4)).training_rows
    dataset = TrackDataset(library.store_path, rows=table_rows, **settings)
    reader = TrackReader(
        str(library.store_path), library.recipe, segment_targets=True, segment_teacher="teacher", **settings
    )
    n_samples = FeatureStore.open(library.store_path).features(library.recipe).n_samples()
    for epoch, batches in enumerate(passes(dataset, 2)):
        order = table_rows[epoch_order(len(table_rows), 7, epoch)]
        requests = requests_for(order, n_samples, 5, epoch)
        for request, batch in zip(requests, batches, strict=True):
            own = reader.read(request)
            assert torch.equal(batch["mel_db"], make_segments(own.codes, own.index, library.recipe))
            assert torch.equal(batch["row"], own.at)
            assert torch.equal(batch["weights"], own.weights)
            assert torch.equal(batch["segment_teacher"], own.segment_teacher)
            assert tuple(batch["taught"].tolist()) == own.taught
            assert torch.bincount(batch["track"]).tolist() == list(own.segments_of)


@pytest.mark.parametrize("kind", [TrackDataset, SegmentDataset])
def test_a_batch_that_was_read_at_once_is_its_items_joined(library: Library, kind: Callable[..., Any]) -> None:
    dataset = kind(library.store_path)
    together = dataset.__getitems__([13, 2, 9])
    same(collate(together), collate([dataset[13], dataset[2], dataset[9]]))
    same(collate(together), collate(list(together)))


def test_a_batch_of_segments_takes_torch_s_own_collate(library: Library) -> None:
    dataset = SegmentDataset(library.store_path)
    plain = list(DataLoader(dataset, batch_size=7))
    ours = list(DataLoader(dataset, batch_size=7, collate_fn=collate))
    for one, other in zip(plain, ours, strict=True):
        same(one, other)
    assert ours[0]["mel_db"].shape == (7, 1, library.recipe.n_mels, library.recipe.segment_frames)
    same(default_collate([dataset[1], dataset[0]]), collate([dataset[1], dataset[0]]))


def test_a_key_of_one_s_own_is_joined_too(library: Library) -> None:
    dataset = TrackDataset(library.store_path)
    batch = collate([{**dataset[row], "year": 1990 + row} for row in (3, 4)])
    assert batch["year"].tolist() == [1993, 1994]
    assert batch["track_id"] == ["t003", "t004"]
    assert batch["weights"].shape == (2, len(batch["mel_db"]))


def test_torch_s_subset_reads_a_batch_at_once(library: Library) -> None:
    dataset = TrackDataset(library.store_path)
    (batch,) = DataLoader(Subset(dataset, [5, 1]), batch_size=2, collate_fn=collate)
    same(batch, collate(dataset.__getitems__([5, 1])))


# --- order


@pytest.mark.parametrize("kind", [TrackDataset, SegmentDataset])
def test_an_epoch_s_order_is_its_own_and_the_same_every_time(library: Library, kind: Callable[..., Any]) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        dataset = kind(library.store_path, seed=seed)
        sampler = EpochSampler(dataset)
        sampler.set_epoch(epoch)
        assert len(sampler) == len(dataset)
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert sorted(order(1, 0)) == list(range(len(kind(library.store_path))))
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6


def test_an_epoch_draws_its_own_segments(library: Library) -> None:
    dataset = TrackDataset(library.store_path, seed=4, segments_per_track=2)
    starts = segment_starts(11 * RATE, library.recipe)
    found = []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        item = dataset[13]
        same(item, dataset[13])
        chosen = choose_segments(len(starts), 2, 4, epoch, 13)
        np.testing.assert_allclose(item["start_s"].numpy(), starts[chosen] / RATE, rtol=1e-6)
        found.append(tuple(item["start_s"].tolist()))
    assert len(set(found)) > 1


def test_segments_of_a_track_may_stay_together(library: Library) -> None:
    dataset = SegmentDataset(library.store_path, together=3, seed=2)
    rows = [int(dataset[i]["row"]) for i in range(len(dataset))]
    orders = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        order = dataset.order().tolist()
        assert sorted(order) == list(range(len(dataset)))
        orders.append(order)
        # Runs of one track are of three segments, but for the rest of a track.
        of = [rows[i] for i in order]
        cuts = [0, *(i for i in range(1, len(of)) if of[i] != of[i - 1]), len(of)]
        lengths: dict[int, list[int]] = {row: [] for row in set(rows)}
        for begin, end in itertools.pairwise(cuts):
            lengths[of[begin]].append(end - begin)
        for row, found in lengths.items():
            rest = [n % 3 for n in found if n % 3]
            assert rest in ([], [rows.count(row) % 3])
    assert orders[0] != orders[1]


# --- processes


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
def test_workers_give_what_the_process_itself_gives(library: Library, context: str) -> None:
    """In every epoch, also where they live on from one to the next."""
    teach(library, [2, 13])
    dataset = TrackDataset(library.store_path, segments_per_track=2, seed=3)
    alone = passes(dataset, 3)
    many = passes(dataset, 3, num_workers=2, multiprocessing_context=context, persistent_workers=True)
    for one, other in zip(alone, many, strict=True):
        for a, b in zip(one, other, strict=True):
            same(a, b)
    assert not torch.equal(alone[0][0]["row"], alone[1][0]["row"])


@pytest.mark.slow
def test_segments_come_from_workers_too(library: Library) -> None:
    dataset = SegmentDataset(library.store_path, together=2, form="codes")
    alone = passes(dataset, 2, batch_size=8)
    many = passes(dataset, 2, batch_size=8, num_workers=2, multiprocessing_context="spawn", persistent_workers=True)
    for one, other in zip(alone, many, strict=True):
        for a, b in zip(one, other, strict=True):
            same(a, b)


def test_a_data_set_can_be_pickled(library: Library) -> None:
    dataset = SegmentDataset(library.store_path)
    dataset.set_epoch(5)
    before = dataset[4]  # the store is open now
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301  our own
    same(again[4], before)
    assert again.epoch == 5
    again.set_epoch(6)
    assert dataset.epoch == 5
    assert np.array_equal(again.rows, dataset.rows)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_in_a_bucket_gives_the_same(library: Library, bucket: str, workers: int) -> None:
    where = f"s3://{bucket}/features.zarr"
    copy_store(library, where)
    settings = SplitConfig(method="sorted", folds=4)
    rows = split(where, settings).training_rows
    assert np.array_equal(rows, split(library.store_path, settings).training_rows)
    how = {"num_workers": workers, "multiprocessing_context": "forkserver"} if workers else {}
    for kind, own in ((TrackDataset, {"segments_per_track": 2}), (SegmentDataset, {"together": 2})):
        here = passes(kind(library.store_path, rows=rows, **own), 2)
        there = passes(kind(where, rows=rows, **own), 2, **how)
        for one, other in zip(here, there, strict=True):
            for a, b in zip(one, other, strict=True):
                same(a, b)


def test_a_bucket_is_not_read_by_a_forked_process(library: Library, bucket: str) -> None:
    where = f"s3://{bucket}/features.zarr"
    copy_store(library, where)
    with pytest.raises(StoreError, match='multiprocessing_context="forkserver"'):
        passes(SegmentDataset(where), 1, num_workers=1, multiprocessing_context="fork")


def copy_store(library: Library, where: str) -> None:
    """The library's tracks in a store at `where`."""
    source = FeatureStore.open(library.store_path)
    features, n = source.features(library.recipe), source.n_tracks
    names = ("server_id", "track_id", "artist", "title")
    texts = {name: source.strings(name) for name in names}
    with FeatureStore.create(where, "synthetic") as store:
        store.append_tracks(
            [
                Track(**{k: v[row] for k, v in texts.items()}, state=State.FETCHED, teacher=source.teacher()[row])
                for row in range(n)
            ]
        )
        copied = store.features(library.recipe)
        lengths = features.n_samples().tolist()
        for row, n_samples in enumerate(lengths):
            copied.write_strip(row, features.strip(row), n_samples)
        copied.commit(list(range(n)), lengths, [""] * n)


# --- which rows


def test_the_sides_are_those_of_train_and_share_no_artist(make: Callable[..., Library]) -> None:
    library = make([1.0 + n / 4 for n in range(24)], artists=[f"artist {n // 2}" for n in range(24)])
    settings = SplitConfig(method="sorted", folds=4, fold=1, test_folds=(0, 2))
    sides = split(library.store_path, settings)
    store = FeatureStore.open(library.store_path)
    own = select(TrackTable.read(store, store.features(library.recipe)), settings)
    artists = []
    for rows, expected in (
        (sides.training_rows, own.training_rows),
        (sides.validation_rows, own.validation_rows),
        (sides.test_rows, own.test_rows),
    ):
        assert np.array_equal(rows, expected)
        dataset = TrackDataset(library.store_path, rows=rows)
        assert [int(dataset[i]["row"]) for i in range(len(dataset))] == rows.tolist()
        artists.append({dataset[i]["artist"] for i in range(len(dataset))})
    assert all(artists)
    assert sum(len(side) for side in artists) == len(set.union(*artists)) == 12


def test_rows_that_cannot_be_learnt_are_left_out(library: Library) -> None:
    with FeatureStore.open(library.store_path, "r+") as store:
        store.update_tracks([2], state=[State.FAILED])
        store.update_tracks([3], teacher=np.full((1, 512), np.nan, np.float32))
        store.outdate_features([5])
    dataset = TrackDataset(library.store_path)
    assert dataset.rows.tolist() == [row for row in range(16) if row not in (2, 3, 5)]
    assert torch.isnan(TrackDataset(library.store_path, rows=[3])[0]["teacher"]).all()
    with pytest.raises(StoreError, match="row 5, default/t005, has no features; run `student-clap featurize`"):
        TrackDataset(library.store_path, rows=[4, 5])
    with pytest.raises(StoreError, match="has no row 16; it has 16 tracks"):
        SegmentDataset(library.store_path, rows=[16])


def test_a_track_that_cannot_be_read_is_named(library: Library) -> None:
    features = FeatureStore.open(library.store_path).features(library.recipe)
    dataset = TrackDataset(library.store_path)
    shard = Path(str(features.shards)) / "7/0/0"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(StoreError, match=r"row 7: .*`student-clap store repair --deep`"):
        dataset.__getitems__([6, 7])
    with pytest.raises(StoreError, match="row 7"):
        list(DataLoader(dataset, num_workers=1, collate_fn=collate))


def test_what_cannot_be_is_said(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="there is no feature store at"):
        TrackDataset(tmp_path / "nothing.zarr")
    with pytest.raises(ValueError, match="form is 'mel'"):
        TrackDataset(library.store_path, form="mel")
    with pytest.raises(ValueError, match="together is 0"):
        SegmentDataset(library.store_path, together=0)
    with pytest.raises(StoreError, match="no segment vectors of that name"):
        TrackDataset(library.store_path, segment_teacher="nobody")
    monkeypatch.setenv("HOME", str(library.store_path.parent))
    assert len(TrackDataset("~/features.zarr")) == 16


def test_of_several_recipes_one_has_to_be_named(library: Library, make: Callable[..., Library]) -> None:
    other = make([1.0], name="other", audio={"n_mels": 16})
    with FeatureStore.open(library.store_path, "r+") as store:
        store.features(other.recipe)
    with pytest.raises(StoreError, match="has features of several recipes"):
        TrackDataset(library.store_path)
    assert len(TrackDataset(library.store_path, recipe=library.recipe)) == 16


def test_texts_and_targets_may_be_left_out(library: Library) -> None:
    item = TrackDataset(library.store_path, texts=(), segment_targets=False)[0]
    assert set(item) == {"mel_db", "weights", "start_s", "teacher", "row"}


def test_train_itself_offers_them() -> None:
    assert student_clap.train.TrackDataset is TrackDataset
    assert all(getattr(student_clap.train, name) is getattr(module, name) for name in student_clap.train.__all__)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = student_clap.train.nothing_of_the_kind
