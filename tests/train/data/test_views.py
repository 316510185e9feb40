"""Views are learnt by turns in their tracks' stead: which there are, how often, and what a batch has of them."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.train.viewed import HOP, ROWS, SECONDS, add_view, config_of, expected_pairs, pairs, unit, viewed_library

from student_clap.store import FeatureStore
from student_clap.store.arrays.feature_arrays import NOT_MADE
from student_clap.store.layout.views import beneath
from student_clap.train.data.batches import TrackReader, make_segments
from student_clap.train.data.dataset import TrackDataset
from student_clap.train.data.kept.keep import keep
from student_clap.train.data.order import choose_segments
from student_clap.train.data.parts import BatchRequest
from student_clap.train.data.store_dataset import only_recipe
from student_clap.train.data.views import NO_VIEWS, Strips, Views, find_views, lost_views

if TYPE_CHECKING:
    from tests.train.conftest import Library


@pytest.fixture
def library(make: Callable[..., Library]) -> Library:
    return viewed_library(make)


def found_in(library: Library, rows: tuple[int, ...] = ROWS, teacher: str | None = "ours", **sections: Any) -> Any:
    """What `find_views` finds where `rows` are trained on."""
    with FeatureStore.open(library.store_path) as store:
        config = config_of(library, **sections)
        return find_views(store, config, library.recipe, teacher, np.array(rows, np.int64))


# --- which of them it is


def test_a_track_is_itself_or_one_of_its_views_each_as_often() -> None:
    found = np.array([(1, 0, 480), (1, 1, 481), (2, 0, 482), (2, 3, 483), (7, 3, 484), (7, 1, 485), (7, 0, 486)])
    views = Views.of(found, 5)
    assert views.numbers == (1, 2, 7)
    epochs = range(4000)
    for row, places in ((0, [0, 5, 10, 15]), (1, [1, 6, 16]), (2, [2]), (3, [3, 13, 18]), (4, [4])):
        counts = Counter(views.drawn(row, 0, epoch) for epoch in epochs)
        assert sorted(counts) == places
        expected = len(epochs) / len(places)
        assert all(abs(n - expected) < 0.15 * expected for n in counts.values())
    assert views.places.tolist() == [5, 6, 10, 13, 15, 16, 18]
    assert views.rows.tolist() == [0, 1, 3]
    assert [views.length(place) for place in views.places.tolist()] == [480, 481, 482, 483, 486, 485, 484]


def test_the_turn_is_a_function_of_seed_epoch_and_row() -> None:
    views = Views.of(np.array([(view, row, 480) for view in (1, 2) for row in range(50)]), 50)

    def turns(seed: int, epoch: int) -> list[int]:
        return [views.drawn(row, seed, epoch) // 50 for row in range(50)]

    again = Views.of(np.array([(view, row, 480) for view in (2, 1) for row in reversed(range(50))]), 50)
    assert turns(3, 8) == [again.drawn(row, 3, 8) // 50 for row in range(50)]
    seen = {tuple(turns(seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(seen) == 25
    # Neither do the rows of an epoch go together, nor the epochs of a row.
    assert all(set(of) == {0, 1, 2} for of in seen)


def test_without_views_a_track_is_itself() -> None:
    views = Views.of(NO_VIEWS, 4)
    assert [views.drawn(row, 0, epoch) for epoch in range(3) for row in range(4)] == [0, 1, 2, 3] * 3
    for none in (views, Views(4)):
        assert none.numbers == ()
        assert none.places.tolist() == none.rows.tolist() == []


# --- which there are


def test_views_of_training_tracks_alone_are_found(library: Library) -> None:
    with FeatureStore.open(library.store_path) as store:
        lengths = {view: store.features(replace(library.recipe, view=view)).n_samples() for view in (1, 2)}
    for rows in (ROWS, (0, 2, 3, 5, 8), (3,), ()):
        found = found_in(library, rows)
        assert found.dtype == np.int64
        assert found.shape[1] == 3
        assert pairs(found) == expected_pairs(rows)
        assert all(lengths[view][row] == n_samples for view, row, n_samples in found.tolist())


def test_no_music_of_a_track_that_is_held_out_is_learnt(library: Library) -> None:
    """Half of the views have another track beneath, and that may be a validation artist's."""
    among = (1, 2, 4, 5, 7, 8, 10, 11)
    mixed = {(view, row) for view, row in expected_pairs() if beneath(view, row) not in (None, *among)}
    assert {row for _, row in mixed} & set(among)
    found = pairs(found_in(library, among))
    assert not found & mixed
    assert {beneath(view, row) for view, row in found} > {None}  # there are some with a training track beneath
    assert found == expected_pairs(among)


def test_a_view_that_is_not_whole_is_not_learnt(library: Library) -> None:
    there = {(view, row) for view, row in expected_pairs() if view == 1}
    lost = sorted(row for _, row in there)[:3]
    with FeatureStore.open(library.store_path, "r+") as store:
        features, vectors = store.features(replace(library.recipe, view=1)), store.segment_vectors("ours", view=1)
        features.commit([lost[0]], [NOT_MADE], [""])
        vectors.commit([lost[1]], [0])
        vectors.write([lost[2]], [unit(60, 9)])  # of audio of another length
    assert pairs(found_in(library)) == expected_pairs() - {(1, row) for row in lost}


def test_a_view_that_the_teacher_has_not_heard_is_none_of_its(library: Library) -> None:
    add_view(library, 5, ROWS)
    with FeatureStore.open(library.store_path, "r+") as store:
        store.add_segment_set("other", hop_samples=HOP, model="e").write([0], [unit(1, 0)])
    assert found_in(library, teacher="other").tolist() == []
    assert {view for view, _ in pairs(found_in(library))} == {1, 2, 5}


def test_the_setting_says_how_many(library: Library) -> None:
    assert pairs(found_in(library, augmentation={"views": None})) == expected_pairs()
    assert pairs(found_in(library, augmentation={"views": 2})) == expected_pairs()
    assert pairs(found_in(library, augmentation={"views": 1})) == expected_pairs(views=(1,))
    assert found_in(library, augmentation={"views": 0}).tolist() == []
    with pytest.raises(click.ClickException) as told:
        found_in(library, augmentation={"views": 3})
    assert "augmentation.views is 3" in told.value.message
    assert "has 2 views of what 'ours' heard" in told.value.message
    assert "`student-clap featurize --teacher MODEL --views 3` makes them" in told.value.message


@pytest.mark.parametrize(
    ("teacher", "targets", "why"),
    [("ours", "both", "loss.targets is both"), (None, "track", "the run learns no segment vectors")],
)
def test_views_are_learnt_by_their_segments_alone(
    library: Library, teacher: str | None, targets: str, why: str
) -> None:
    assert found_in(library, teacher=teacher, loss={"targets": targets}).tolist() == []
    assert found_in(library, teacher=teacher, loss={"targets": targets}, augmentation={"views": 0}).tolist() == []
    with pytest.raises(click.ClickException, match=f"augmentation.views is 1, and {why}"):
        found_in(library, teacher=teacher, loss={"targets": targets}, augmentation={"views": 1})


def test_views_that_are_gone_or_changed_are_counted(library: Library) -> None:
    found = found_in(library)

    def lost(among: npt.NDArray[np.int64] = found) -> int:
        with FeatureStore.open(library.store_path) as store:
            return lost_views(store, library.recipe, "ours", among)

    add_view(library, 3, ROWS)
    assert (lost(), lost(NO_VIEWS)) == (0, 0)
    first, second = sorted(row for view, row in pairs(found) if view == 1)[:2]
    with FeatureStore.open(library.store_path, "r+") as store:
        store.features(replace(library.recipe, view=1)).commit([first], [NOT_MADE], [""])
        store.segment_vectors("ours", view=1).commit([second], [0])
    assert lost() == 2
    add_view(library, 1, (first,), seconds=50.0)
    assert lost() == 2
    with FeatureStore.open(library.store_path, "r+") as store:
        store.remove_segment_set("ours")
    assert lost() == len(found)


# --- what a batch has of them


def reader_of(library: Library, views: Views | None, segments_per_track: int | None = 2, **more: Any) -> TrackReader:
    return TrackReader(
        str(library.store_path), library.recipe, seed=5, segments_per_track=segments_per_track,
        segment_targets=True, segment_teacher="ours", views=views, **more,
    )  # fmt: skip


def views_of(library: Library) -> Views:
    return Views.of(found_in(library), len(SECONDS))


def request(library: Library, epoch: int | None) -> BatchRequest:
    lengths = FeatureStore.open(library.store_path).features(library.recipe).n_samples()
    return BatchRequest(ROWS, tuple(lengths.tolist()), epoch)


@pytest.mark.parametrize("wanted", [None, 2])
def test_a_training_batch_has_the_segments_and_targets_of_the_drawn_view(library: Library, wanted: int | None) -> None:
    store, views = FeatureStore.open(library.store_path), views_of(library)
    reader, seen = reader_of(library, views, wanted), set()
    for epoch in range(6):
        batch = pickle.loads(pickle.dumps(reader)).read(request(library, epoch))  # noqa: S301  our own
        assert (batch.rows, batch.failures) == (ROWS, ())
        assert all(batch.taught)
        decibels, begin = make_segments(batch.codes, batch.index, library.recipe)[:, 0], 0
        for row, n_segments in zip(batch.rows, batch.segments_of, strict=True):
            at, row_of = divmod(views.drawn(row, 5, epoch), len(SECONDS))
            assert row_of == row
            view = (0, *views.numbers)[at]
            seen.add((view, row))
            stored = store.features(replace(library.recipe, view=view)).segments(row)
            vectors = store.segment_vectors("ours", view=view).read(row)
            starts = store.segment_vectors("ours", view=view).starts(
                int(store.features(replace(library.recipe, view=view)).n_samples()[row]), library.recipe
            )
            chosen = choose_segments(len(stored), wanted, 5, epoch, row)
            chosen = chosen[np.unique(starts[chosen], return_index=True)[1]]
            assert len(chosen) == n_segments
            here = slice(begin, begin + n_segments)
            assert batch.starts[here].tolist() == starts[chosen].tolist()
            np.testing.assert_array_equal(decibels[here].numpy(), stored[chosen])
            # A tail that repeats the segment before it has that one's vector.
            first = [int(np.flatnonzero(starts == starts[number])[0]) for number in chosen]
            np.testing.assert_allclose(batch.segment_teacher[here].numpy(), vectors[first], atol=1e-3)
            begin += n_segments
    assert {pair for pair in seen if pair[0]} == pairs(found_in(library))
    assert {row for view, row in seen if view == 0} == set(ROWS)


def test_what_is_not_trained_on_is_always_the_track(library: Library) -> None:
    plain, viewed = reader_of(library, None), reader_of(library, views_of(library))
    one, other = plain.read(request(library, None)), viewed.read(request(library, None))
    for name in ("codes", "index", "weights", "segment_teacher", "random_numbers"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert not all(
        torch.equal(
            plain.read(request(library, epoch)).segment_teacher, viewed.read(request(library, epoch)).segment_teacher
        )
        for epoch in range(3)
    )


def test_a_view_is_learnt_also_where_the_track_itself_has_no_vectors(library: Library) -> None:
    views, nobody = views_of(library), np.empty(0, np.int64)
    batch = reader_of(library, views, taught_rows=nobody).read(request(library, 1))
    drawn = [views.drawn(row, 5, 1) >= len(SECONDS) for row in ROWS]
    assert list(batch.taught) == drawn
    assert len(set(drawn)) == 2


def test_a_view_that_cannot_be_read_leaves_its_track_out_of_the_batch(library: Library) -> None:
    views = views_of(library)
    row = next(row for row in ROWS if views.drawn(row, 5, 0) >= len(SECONDS))
    at = views.drawn(row, 5, 0) // len(SECONDS) - 1
    name = replace(library.recipe, view=views.numbers[at]).name
    (library.store_path / f"features/{name}/mel/c/{row}/0/0").unlink()
    batch = reader_of(library, views).read(request(library, 0))
    ((failed, why),) = batch.failures
    assert failed == row
    assert name in why
    assert batch.rows == tuple(other for other in ROWS if other != row)


@pytest.mark.parametrize("mode", ["memory", "device"])
@pytest.mark.parametrize("size_bytes", [10**9, 150_000])
def test_views_are_kept_as_tracks_are(library: Library, mode: str, size_bytes: int) -> None:
    store, views = FeatureStore.open(library.store_path), views_of(library)
    lengths = np.concatenate([store.features(library.recipe).n_samples(), *views.n_samples])
    counts = [store.segment_vectors("ours").counts()]
    counts += [store.segment_vectors("ours", view=number).counts() for number in views.numbers]
    places, device = np.concatenate([np.array(ROWS), views.places]), torch.device("cpu")
    strips = Strips(store, library.recipe, views)
    with keep(mode, size_bytes, strips, places, lengths, np.concatenate(counts), device) as keeping:
        assert (keeping.share == 1) == (size_bytes == 10**9)
        assert keeping.share > 0.2
        kept, plain = reader_of(library, views, kept=keeping.kept), reader_of(library, views)
        for epoch in (0, 1, 2, 0, None):
            one, other = plain.read(request(library, epoch)), kept.read(request(library, epoch))
            for name in ("weights", "segment_teacher", "random_numbers"):
                assert torch.equal(getattr(one, name), getattr(other, name)), name
            assert torch.equal(
                make_segments(one.codes, one.index, library.recipe),
                make_segments(other.codes, other.index, library.recipe, keeping.resident),
            )


def test_data_sets_have_the_tracks_alone(library: Library) -> None:
    with FeatureStore.open(library.store_path) as store:
        assert len(store.recipes()) == 3
        assert only_recipe(store) == library.recipe
        stored = {row: store.features(library.recipe).segments(row) for row in (2, 5)}
        vectors = {row: store.segment_vectors("ours").read(row) for row in (2, 5)}
    dataset = TrackDataset(library.store_path)
    assert (len(dataset), dataset.recipe) == (12, library.recipe)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for row in (2, 5):
            np.testing.assert_array_equal(
                dataset[row]["mel_db"][:, 0].numpy(), stored[row][: len(dataset[row]["mel_db"])]
            )
            np.testing.assert_allclose(
                dataset[row]["segment_teacher"].numpy(), vectors[row][: len(dataset[row]["mel_db"])], atol=1e-3
            )


def test_a_view_that_was_asked_for_and_is_of_no_training_track_is_an_error(library: Library) -> None:
    add_view(library, 3, ())
    assert pairs(found_in(library)) == expected_pairs()
    with pytest.raises(
        click.ClickException, match=r"augmentation.views is 3, and view 3 of no training track is whole"
    ):
        found_in(library, augmentation={"views": 3})
