"""Which teacher's segment vectors are learnt, and from which starts: production's to the bit, or a finer grid's."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch

from student_clap.store import FeatureStore, Recipe, frame_index
from student_clap.store.layout.codes import dequantise
from student_clap.store.layout.segments import grid_starts, segment_starts
from student_clap.store.layout.strip import index_of, segment_pieces
from student_clap.store.storage.errors import StoreError
from student_clap.train.data.batches import Batch, TrackReader, make_segments
from student_clap.train.data.dataset import TrackDataset
from student_clap.train.data.order import choose_segments
from student_clap.train.data.parts import BatchRequest
from student_clap.train.data.segment_targets import choose_teacher, own_teacher, remark_on_teacher, still_called
from student_clap.train.data.shift import drawable_starts, interpolate, pieces_at, shift_segments
from student_clap.train.loop.session import describe, open_stream, open_trainer, remarks

if TYPE_CHECKING:
    from tests.train.conftest import Library

pytestmark = pytest.mark.slow  # trains

FINE = 4_800  # samples; production's hop of this library is 24000, a segment 48000, an STFT hop 480
ROWS = tuple(range(16))


def unit(seed: int, n: int) -> npt.NDArray[np.float16]:
    vectors = np.random.default_rng(seed).normal(size=(n, 512))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def teach(library: Library, name: str, hop: int | None, rows: tuple[int, ...] = ROWS) -> None:
    """Vectors for `rows` in the set of that name on that grid; None: in the root, where a source brings them."""
    with FeatureStore.open(library.store_path, "r+") as store:
        lengths = store.features(library.recipe).n_samples()
        vectors = [
            unit(row, len(grid_starts(int(lengths[row]), library.recipe, hop or library.recipe.segment_hop_samples)))
            for row in rows
        ]
        if hop is None:
            store.write_segment_teacher(list(rows), vectors)
        else:
            store.add_segment_set(name, hop_samples=hop, model="d").write(list(rows), vectors)


def read(library: Library, whose: str | None, k: int | None, epoch: int | None, shift_s: float = 0.0) -> Batch:
    reader = TrackReader(
        str(library.store_path), library.recipe, seed=3, segments_per_track=k, shift_s=shift_s,
        segment_targets=True, segment_teacher=whose,
    )  # fmt: skip
    lengths = FeatureStore.open(library.store_path).features(library.recipe).n_samples()
    batch = reader.read(BatchRequest(ROWS, tuple(int(lengths[row]) for row in ROWS), epoch))
    assert not batch.failures
    return batch


def same(left: Batch, right: Batch) -> bool:
    pairs = [
        (getattr(left, name), getattr(right, name))
        for name in ("codes", "index", "weights", "segment_teacher", "random_numbers")
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def test_production_s_grid_gives_the_same_batches_wherever_it_lies(library: Library) -> None:
    teach(library, "", None)
    teach(library, "same", library.recipe.segment_hop_samples)
    for k, epoch, shift_s in itertools.product((None, 1, 4, 30), (None, 0, 5), (0.0, 0.2)):
        assert same(read(library, "synthetic", k, epoch, shift_s), read(library, "same", k, epoch, shift_s))


def test_production_s_grid_gives_what_it_always_gave(library: Library) -> None:
    """Segments by `choose_segments`, columns by `frame_index`, a target per distinct segment."""
    teach(library, "", None)
    features = FeatureStore.open(library.store_path).features(library.recipe)
    for row, n_samples in enumerate(features.n_samples().tolist()):
        batch = read(library, None, 4, 2)
        begin = sum(batch.segments_of[:row])
        starts = segment_starts(n_samples, library.recipe)
        chosen = choose_segments(len(starts), 4, 3, 2, row)
        _, first, counts = np.unique(starts[chosen], return_index=True, return_counts=True)
        strip, index = features.strip(row), frame_index(n_samples, library.recipe)[chosen[first]]
        at_once, distinct = np.unique(starts, return_index=True)
        vectors = interpolate(unit(row, len(starts)).astype(np.float32)[distinct], at_once, starts[chosen[first]])
        for number, at in enumerate(range(begin, begin + len(first))):
            assert np.array_equal(batch.codes[:, batch.index[at]].numpy(), strip[:, index[number]])
            np.testing.assert_array_equal(batch.segment_teacher[at].numpy(), vectors[number])
        assert batch.weights[row, begin : begin + len(first)].tolist() == pytest.approx(
            (counts / counts.sum()).tolist()
        )


def test_a_finer_grid_is_drawn_from_with_exact_targets(library: Library) -> None:
    teach(library, "fine", FINE)
    recipe = library.recipe
    features = FeatureStore.open(library.store_path).features(recipe)
    between = 0
    for epoch in range(4):
        batch = read(library, "fine", 4, epoch)
        assert same(batch, read(library, "fine", 4, epoch))  # a pure function of seed, epoch and row
        begin = 0
        for row, number in enumerate(batch.segments_of):
            n_samples = int(features.n_samples()[row])
            grid = grid_starts(n_samples, recipe, FINE)
            own, all_own = segment_starts(n_samples, recipe), features.segments(row)
            whole = unit(row, len(grid)).astype(np.float32)
            assert number == min(4, len(np.unique(drawable_starts(n_samples, recipe, grid)))) or len(own) > 1
            for at in range(begin, begin + number):
                target = batch.segment_teacher[at].numpy()
                (place,) = np.flatnonzero((whole @ target) > 0.999)[:1]  # whose vector it is
                np.testing.assert_allclose(target, whole[place], atol=2e-4)
                frames = make_segments(batch.codes, batch.index[at][None], recipe)[0, 0].numpy()
                if grid[place] in own:
                    assert np.array_equal(frames, all_own[np.searchsorted(own, grid[place])])
                else:
                    between += 1
                    shifted = shift_segments(n_samples, recipe, grid[place][None], np.zeros(1, np.int64))
                    assert shifted is not None
                    assert shifted.starts[0] == grid[place]
                    strip = features.strip(row)[:, index_of(shifted.pieces, recipe)[0]]
                    assert np.array_equal(frames, dequantise(strip, recipe))
            begin += number
    assert between > 50


def test_the_tail_and_production_s_starts_are_always_drawable(library: Library) -> None:
    recipe = library.recipe
    for n_samples in (1, 48_000, 48_001, 60_000, 96_000, 100_000, 111_360, 120_077, 480_000):
        own, grid = segment_starts(n_samples, recipe), grid_starts(n_samples, recipe, FINE)
        drawable = drawable_starts(n_samples, recipe, grid)
        assert set(own.tolist()) <= set(drawable.tolist()) <= set(grid.tolist())
        assert drawable[-1] == own[-1]
        assert pieces_at(n_samples, recipe, drawable).shape == (len(drawable), 3)
        assert np.array_equal(pieces_at(n_samples, recipe, own), segment_pieces(n_samples, recipe))
        # Up to the last regular segment every start of the grid can be seen.
        assert set(grid[grid < own[own % recipe.segment_hop_samples == 0].max()].tolist()) <= set(drawable.tolist())
    assert np.array_equal(drawable_starts(120_077, recipe, None), segment_starts(120_077, recipe))
    with pytest.raises(ValueError, match="does not show all segments"):
        pieces_at(120_077, recipe, np.array([240]))


def test_validation_stays_on_production_s_starts(library: Library) -> None:
    teach(library, "", None)
    teach(library, "fine", FINE)
    features = FeatureStore.open(library.store_path).features(library.recipe)
    coarse, fine = read(library, "synthetic", 4, None), read(library, "fine", 4, None)
    for name in ("codes", "index", "weights", "random_numbers"):
        assert torch.equal(getattr(coarse, name), getattr(fine, name))
    begin = 0
    for row, number in enumerate(fine.segments_of):
        n_samples = int(features.n_samples()[row])
        grid = grid_starts(n_samples, library.recipe, FINE)
        at = np.unique(segment_starts(n_samples, library.recipe))
        expected = unit(row, len(grid)).astype(np.float32)[np.searchsorted(grid, at)]
        np.testing.assert_allclose(fine.segment_teacher[begin : begin + number].numpy(), expected, atol=2e-4)
        begin += number
    # All segments of a track are production's, in training too.
    assert torch.equal(read(library, "fine", None, 0).index, coarse.index)


def test_a_shift_moves_segments_of_a_finer_grid_too(library: Library) -> None:
    teach(library, "fine", FINE)
    plain, moved = read(library, "fine", 4, 1), read(library, "fine", 4, 1, shift_s=0.02)
    assert torch.equal(moved.weights, plain.weights)
    assert not torch.equal(moved.segment_teacher, plain.segment_teacher)
    assert torch.linalg.norm(moved.segment_teacher, dim=1).numpy() == pytest.approx(1, abs=1e-3)


def test_a_track_that_the_teacher_did_not_hear_has_production_s_segments(library: Library) -> None:
    teach(library, "fine", FINE, rows=(13,))
    batch = read(library, "fine", 2, 0)
    at = sum(batch.segments_of[:13])
    assert batch.segment_teacher[at : at + 2].any(dim=1).all()
    assert not batch.segment_teacher[:at].any()


@pytest.mark.parametrize(
    ("sets", "wanted", "declared", "expected"),
    [
        ((), None, "x", None),
        (("a",), None, "x", "a"),
        (("a", "b"), None, "B", "b"),
        (("a", "b"), "a", "B", "a"),
        (("a", "b"), "A", "b", "a"),
        (("a", "synthetic"), None, "unknown", "synthetic"),  # the teacher that the store declares
        (("a", "b", "empty"), "empty", "a", "has no segment vectors of that name (it has: a, b)"),
        (("a", "b"), None, "c", "of several teachers (a, b), none of them called 'c'"),
        ((), "a", "a", "has no segment vectors of that name (it has: none)"),
    ],
)
def test_the_choice_of_a_teacher(
    library: Library, sets: tuple[str, ...], wanted: str | None, declared: str, expected: str | None
) -> None:
    for name in sets:
        teach(library, name, FINE, rows=() if name == "empty" else (0,))
    with FeatureStore.open(library.store_path) as store:
        if expected is None or " " not in expected:
            assert choose_teacher(store, wanted, declared) == expected
            return
        with pytest.raises(StoreError) as told:
            choose_teacher(store, wanted, declared)
        assert expected in told.value.message
        assert own_teacher(store) is None


@pytest.mark.parametrize(
    ("store_s", "name", "own"),
    [
        ("dclap", "dclap", "dclap"),
        ("D CLAP", "d-clap", "d-clap"),
        ("dclap", "other", None),
        ("dclap", "unknown", "unknown"),  # no name was declared for the pass
        ("unknown", "other", "other"),  # nor for the tracks' vectors
        ("教師", "other", None),
    ],
)
def test_the_only_set_is_the_tracks_teacher_s_unless_it_is_declared_to_be_another_s(
    library: Library, store_s: str, name: str, own: str | None
) -> None:
    teach(library, name, FINE, rows=(0,))
    with FeatureStore.open(library.store_path, "r+") as store:
        store.teacher_name = store_s
        assert own_teacher(store) == own
        assert bool(remark_on_teacher(name, store_s)) == (own is None)


def test_vectors_that_came_with_a_table_are_the_tracks_teacher_s(library: Library) -> None:
    with FeatureStore.open(library.store_path, "r+") as store:
        store.teacher_name = "教師"
    teach(library, "", None, rows=(0,))
    with FeatureStore.open(library.store_path, "r+") as store:
        assert store.segment_sets() == ["default"]
        assert own_teacher(store) == "default"
        assert remark_on_teacher("default", store.teacher_name) == ""


def test_a_run_that_learns_another_teacher_s_segments_says_so(
    library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    teach(library, "other", FINE)

    def said(name: str, **sections: dict[str, str]) -> str:
        config = library.config(training={"epochs": 1}, **sections)
        with open_trainer(config, name) as trainer:
            return "\n".join(remarks(trainer, config))

    whose = "the segment vectors are those of 'other', the tracks' are declared to be those of 'synthetic'"
    assert said("plain").startswith(whose)
    assert "`--set loss.targets=track`" in said("another")
    assert said("plain") == ""  # it goes on
    assert said("asked for", loss={"segment_teacher": "other"}) == ""
    assert said("of tracks", loss={"targets": "track"}) == ""
    TrackDataset(library.store_path, segment_teacher="other")
    assert whose not in caplog.text
    TrackDataset(library.store_path)
    assert whose in caplog.text
    with FeatureStore.open(library.store_path, "r+") as store:
        store.teacher_name = "unknown"
    assert said("undeclared") == ""
    assert "declared to be those of 'dclap'" in said("declared", teacher={"name": "dclap"})


def test_segment_targets_that_are_asked_for_and_not_there_are_an_error(library: Library) -> None:
    for targets in ("segment", "both"):
        config = library.config(training={"epochs": 1}, loss={"targets": targets})
        said = f"loss.targets is {targets}, and .* has no segment vectors; .*--teacher"
        with pytest.raises(StoreError, match=said), open_trainer(config, "refused"):
            pass
    assert not (library.root / "runs" / "refused" / "run.json").exists()
    with open_trainer(library.config(training={"epochs": 1}), "of tracks") as trainer:
        assert trainer.run.taught is None


def test_it_is_said_how_many_tracks_are_learnt_by_their_own_vector(library: Library) -> None:
    teach(library, "fine", FINE, ROWS[6:])
    with open_trainer(library.config(training={"epochs": 1}), "partly") as trainer:
        without = sum(row in ROWS[:6] for row in trainer.run.selection.training_rows)
        assert without > 1
        targets = "segment vectors of fine, starts every 0.1 s"
        assert f"targets     {targets}; for {without} training tracks without any, the track's vector" in describe(
            trainer
        )


def test_a_run_keeps_the_teacher_that_it_was_begun_with(library: Library) -> None:
    teach(library, "fine", FINE)
    config = library.config(training={"epochs": 1})
    with open_trainer(config) as trainer, open_stream(config, trainer):
        assert "targets     segment vectors of fine, starts every 0.1 s" in describe(trainer)
    stored = json.loads((trainer.run.path / "run.json").read_text(encoding="utf-8"))
    assert stored["segment_vectors"] == {"name": "fine", "model": "d", "hop_samples": FINE}
    teach(library, "synthetic", FINE)  # whose name the store declares; a new run would learn these
    with open_trainer(config) as again:
        assert again.run.taught == stored["segment_vectors"]
    with open_trainer(config, "other") as other:
        assert other.run.taught is not None
        assert other.run.taught["name"] == "synthetic"
    with FeatureStore.open(library.store_path, "r+") as store:
        store.remove_segment_set("fine")
    with pytest.raises(
        Exception, match="the run learns those of fine, every 4800 samples, model d, the store has none"
    ):
        open_trainer(config).__enter__()
    teach(library, "fine", 12_000)
    with pytest.raises(Exception, match="the store has those of fine, every 12000 samples, model d"):
        open_trainer(config).__enter__()


def test_a_choice_that_cannot_be_leaves_no_run_behind(library: Library) -> None:
    config = library.config(loss={"segment_teacher": "nobody"})
    with pytest.raises(StoreError, match=r"loss\.segment_teacher is 'nobody'"):
        open_trainer(config).__enter__()
    assert not (library.root / "runs").exists()


def test_a_run_of_before_goes_on_with_what_a_source_brought_in(library: Library) -> None:
    teach(library, "", None)
    config = library.config(training={"epochs": 1})
    with open_trainer(config) as trainer:
        path = trainer.run.path / "run.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    del before["segment_vectors"], before["loss"]["segment_teacher"]
    path.write_text(json.dumps(before), encoding="utf-8")
    teach(library, "fine", FINE)
    with open_trainer(config) as again:
        assert again.run.taught is not None
        assert again.run.taught["name"] == "synthetic"


def test_a_teacher_that_is_declared_later_is_the_one_of_before(library: Library) -> None:
    with FeatureStore.open(library.store_path, "r+") as store:
        store.teacher_name = "unknown"
    teach(library, "", None)
    with FeatureStore.open(library.store_path, "r+") as store:
        assert store.segment_sets() == ["unknown"]
        store.teacher_name = "Now Known"
        assert still_called(store, "unknown") == "now-known"
        assert still_called(store, "another") is None


def test_a_grid_that_the_recipe_s_segments_do_not_lie_on_is_not_learnt(library: Library) -> None:
    with FeatureStore.open(library.store_path, "r+") as store:
        store.add_segment_set("coarse", hop_samples=240_000, model="").write([13], [unit(0, 3)])
    batch = read(library, "coarse", 2, 0)
    assert not batch.segment_teacher.any()


def test_of_production_picks_its_segments_out_of_a_finer_grid(library: Library) -> None:
    teach(library, "fine", FINE)
    recipe: Recipe = library.recipe
    with FeatureStore.open(library.store_path) as store:
        taught, n_samples = store.segment_vectors("fine"), int(store.features(recipe).n_samples()[12])
        grid, own = grid_starts(n_samples, recipe, FINE), segment_starts(n_samples, recipe)
        expected = unit(12, len(grid))[np.searchsorted(grid, own)]
        np.testing.assert_array_equal(taught.of_production(12, n_samples, recipe), expected)
        assert taught.of_production(12, n_samples + 24_000, recipe).shape == (0, 512)
