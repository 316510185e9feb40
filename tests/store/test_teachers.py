"""The names of sets: a set keeps its teacher's name, and what a source brought in is never taken for another's."""

from __future__ import annotations

import numpy as np
import pytest

from student_clap.store import FeatureStore, Track
from student_clap.store.storage.errors import StoreError
from student_clap.store.teachers import slug

HOP = 240_000
VECTORS = np.full((2, 512), 512**-0.5, np.float16)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test-teacher", "test-teacher"),
        ("dclap_epoch.36", "dclap_epoch.36"),
        ("Müsik CLAP / 2", "musik-clap-2"),
        ("../../etc", "etc"),
        ("x" * 99, "x" * 64),
    ],
)
def test_a_name_is_that_of_a_folder_on_every_system(name, expected):
    assert slug(name) == expected


def test_a_name_without_letters_is_refused():
    with pytest.raises(StoreError, match=r"teacher\.name '音' gives no name"):
        slug("音")


def test_what_a_source_brought_in_has_the_declared_name(store):
    assert store.segment_sets() == []
    store.write_segment_teacher([1], [VECTORS])
    assert store.segment_sets() == ["test-teacher"]
    np.testing.assert_array_equal(store.segment_vectors("test-teacher").read(1), VECTORS)
    store.add_segment_set("b", hop_samples=HOP, model="").write([0], [VECTORS])
    assert store.segment_sets() == ["b", "test-teacher"]
    assert store.n_segment_teacher().tolist() == [0, 2, 0, 0, 0]


def test_a_pass_of_the_declared_teacher_goes_on_with_what_is_there(store):
    store.write_segment_teacher([1], [VECTORS])
    FeatureStore.open(store.path).close()
    taught = store.add_segment_set("test-teacher", hop_samples=HOP, model="d1")
    taught.write([2], [VECTORS])
    assert store.n_segment_teacher().tolist() == [0, 2, 2, 0, 0]
    with FeatureStore.open(store.path) as reader:
        assert reader.segment_vectors().model == "d1"
    with pytest.raises(StoreError, match="another model"):
        store.add_segment_set("test-teacher", hop_samples=HOP, model="d2")
    with pytest.raises(StoreError, match="have a hop of 240000"):
        store.add_segment_set("test-teacher", hop_samples=120_000, model="d1")


def test_a_teacher_that_is_declared_anew_does_not_take_over_the_vectors(store):
    store.write_segment_teacher([1], [VECTORS])
    store.teacher_name = "Second"
    assert store.segment_sets() == ["test-teacher"]
    store.add_segment_set("second", hop_samples=HOP, model="d2")
    assert store.segment_sets() == ["second", "test-teacher"]
    with FeatureStore.open(store.path) as reader:
        assert (reader.teacher_name, reader.segment_sets()) == ("Second", ["second", "test-teacher"])
    # A source that brings vectors in brings those of the declared teacher, beside the group of that name.
    store.write_segment_teacher([3], [VECTORS])
    assert store.segment_sets() == ["default", "second"]


def test_a_name_that_is_declared_late_is_that_of_the_vectors(tmp_path, make_track):
    with FeatureStore.create(tmp_path / "store.zarr", "unknown") as store:
        store.append_tracks([make_track(0)])
        store.write_segment_teacher([0], [VECTORS])
        assert store.segment_sets() == ["unknown"]
        store.teacher_name = "A"
        assert store.segment_sets() == ["a"]


@pytest.mark.parametrize("where", ["directory", "s3"], indirect=True)
def test_a_set_is_removed_and_may_be_made_again(store):
    store.write_segment_teacher([1, 2], [VECTORS, VECTORS])
    store.add_segment_set("b", hop_samples=HOP, model="d1").write([0], [VECTORS])
    assert store.remove_segment_set("b") == 1
    assert store.segment_sets() == ["test-teacher"]
    again = store.add_segment_set("b", hop_samples=HOP // 2, model="d2")
    assert (again.model, again.counts().tolist()) == ("d2", [0] * 5)
    assert store.remove_segment_set("test-teacher") == 2
    assert store.segment_sets() == ["b"]
    assert not store.n_segment_teacher().any()
    with pytest.raises(StoreError, match="no segment vectors of 'c'; it has those of b"):
        store.remove_segment_set("c")


def test_what_a_teacher_heard_of_views_is_no_teacher_of_its_own(store):
    store.add_segment_set("a", hop_samples=HOP, model="d1").write([0], [VECTORS])
    for view in (2, 10, 1):
        heard = store.add_segment_set("a", hop_samples=HOP, model="d1", view=view)
        heard.write([view % 5], [VECTORS])
        assert (heard.name, heard.set.view, heard.model) == (f"a.view-{view}", view, "d1")
    for opened in (store, FeatureStore.open(store.path)):
        assert opened.segment_sets() == ["a"]
        assert opened.views("a") == [1, 2, 10]
        assert opened.views("b") == opened.views("a.view-1") == []
        # With one teacher none has to be named, whatever it has heard.
        assert opened.segment_vectors().name == opened.segment_vectors("a").name == "a"
        assert opened.segment_vectors(view=2).name == opened.segment_vectors("a", view=2).name == "a.view-2"
        assert opened.segment_vectors("a", view=2).counts().tolist() == [0, 0, 2, 0, 0]
        assert {vectors.name for vectors in opened.stored_segment_sets()} == {"a", "a.view-1", "a.view-2", "a.view-10"}
        assert FeatureStore.segment_writer(opened.address, "a.view-10").set.view == 10
        with pytest.raises(StoreError, match=r"no view 3 of what the teacher .a. heard"):
            opened.segment_vectors("a", view=3)
        with pytest.raises(StoreError, match=r"no segment vectors of 'a\.view-1'; it has those of a$"):
            opened.segment_vectors("a.view-1")


def test_views_are_those_of_their_teacher(store):
    for name in ("a", "b"):
        for view in (0, 1):
            store.add_segment_set(name, hop_samples=HOP, model="d1", view=view).write([view], [VECTORS])
    assert store.segment_sets() == ["a", "b"]
    with pytest.raises(StoreError, match=r"several teachers \(a, b\)"):
        store.segment_vectors()
    assert store.segment_vectors("b", view=1).counts().tolist() == [0, 2, 0, 0, 0]
    with pytest.raises(StoreError, match="another model"):
        store.add_segment_set("a", hop_samples=HOP, model="d2", view=1)
    with pytest.raises(StoreError, match="have a hop of 240000"):
        store.add_segment_set("a", hop_samples=HOP // 2, model="d1", view=1)
    assert store.remove_segment_set("a") == 1
    assert (store.segment_sets(), store.views("a"), store.views("b")) == (["b"], [], [1])
    assert sorted(p.name for p in (store.path / "segment_vectors").iterdir() if p.is_dir()) == ["b", "b.view-1"]


def test_the_views_of_what_a_source_brought_in_lie_beside_it(store):
    store.write_segment_teacher([1], [VECTORS])
    store.add_segment_set("test-teacher", hop_samples=HOP, model="d1", view=1).write([2], [VECTORS])
    assert (store.segment_sets(), store.views("test-teacher")) == (["test-teacher"], [1])
    assert store.segment_vectors().counts().tolist() == [0, 2, 0, 0, 0]
    assert store.remove_segment_set("test-teacher") == 1
    assert store.stored_segment_sets()[0].counts().tolist() == [0] * 5
    assert store.views("test-teacher") == []


def test_a_teacher_of_a_view_s_name_is_refused(store):
    store.add_segment_set("a", hop_samples=HOP, model="d1", view=1)
    with pytest.raises(StoreError, match=r"'a\.view-1' are those of view 1; choose another teacher\.name"):
        store.add_segment_set("a.view-1", hop_samples=HOP, model="d1")
    store.add_segment_set("b.view-1", hop_samples=HOP, model="d1")
    assert store.segment_sets() == ["b.view-1"]
    with pytest.raises(StoreError, match=r"'b\.view-1' are those of the tracks; choose another teacher\.name"):
        store.add_segment_set("b", hop_samples=HOP, model="d1", view=1)
    assert store.views("b") == []


def test_views_stay_with_the_vectors_of_a_source_whose_teacher_is_declared_later(tmp_path):
    with FeatureStore.create(tmp_path / "late.zarr", "unknown") as store:
        store.append_tracks([Track("s", str(n)) for n in range(3)])
        store.write_segment_teacher([1], [VECTORS])
        store.add_segment_set("unknown", hop_samples=HOP, model="d1", view=1).write([1], [VECTORS])
        store.teacher_name = "DCLAP"
        assert store.segment_sets() == ["dclap"]
        assert store.views("dclap") == [1]
        assert store.segment_vectors("dclap", view=1).counts().tolist() == [0, 2, 0]
