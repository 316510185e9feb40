"""Which run a file is of, and which of a store's rows that run trained on, whatever its artists are called today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from student_clap.config.schema import Config
from student_clap.export.model.origin import Origin, Split, heard_before
from student_clap.featurize.onnx.recipe import METADATA_PREFIX
from student_clap.store import FeatureStore, State, Track
from student_clap.train.runs.reader import HeldOutArtists, RunFolder

UUID = "a" * 32


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate({"training": {"runs_dir": str(tmp_path / "runs")}})


def run_of(folder: Path, name: str | None = None, uuid: str = UUID, **split: Any) -> RunFolder:
    """A run that was begun under `name`; None: an old one, which does not say."""
    folder.mkdir(parents=True)
    (folder / "split.json").write_text(json.dumps({"validation_artists": [], **split}), encoding="utf-8")
    named = {} if name is None else {"name": name}
    (folder / "run.json").write_text(json.dumps({"store": {"uuid": uuid}, **named}), encoding="utf-8")
    return RunFolder(folder)


def test_a_file_is_of_the_run_that_it_lies_in_else_of_the_one_of_its_name(tmp_path: Path, config: Config) -> None:
    runs = config.training.runs_dir
    one, two = run_of(runs / "one", "one"), run_of(runs / "two", "two")
    assert Origin(one.path / "student.onnx", "one", UUID).find(config) == one
    assert Origin(one.path / "checkpoints" / "epoch_0001.pt", "one", UUID).find(config) == one
    assert Origin(tmp_path / "student.onnx", "two", UUID).find(config) == two
    # The facts of the library were left out: the folder tells.
    assert Origin(two.path / "student.onnx").find(config) == two
    assert Origin(tmp_path / "student.onnx").find(config) is None
    # Another store's run of the same name, and names that no run has.
    for name, uuid in (("two", "b" * 32), ("three", UUID), ("../runs/two", UUID), ("x\0", UUID)):
        assert Origin(tmp_path / "student.onnx", name, uuid).find(config) is None


def test_a_run_that_was_renamed_is_known_by_the_name_it_was_begun_under(config: Config) -> None:
    runs = config.training.runs_dir
    renamed, old = run_of(runs / "renamed", "first"), run_of(runs / "old")
    for run, name in ((renamed, "first"), (renamed, "renamed"), (old, "anything")):
        assert Origin(run.path / "student.onnx", name, UUID).choose(config, None) == (run, True)
    assert Origin(renamed.path / "student.onnx", "gone", UUID).choose(config, None) == (renamed, False)


def test_a_parent_is_of_the_run_that_it_comes_from(config: Config) -> None:
    runs = config.training.runs_dir
    child, parent = run_of(runs / "child", "child"), run_of(runs / "parent", "parent")
    assert Origin(child.parent, "parent", UUID).find(config) == parent
    assert Origin(child.parent, "child", UUID).find(config) is None  # an earlier run of this name
    with pytest.raises(click.ClickException, match=r"lies in the run .*child and was trained in .*parent"):
        Origin(child.parent, "parent", UUID).choose(config, None)
    assert Origin(child.parent, "parent", UUID).choose(config, parent) == (parent, True)


def test_another_run_than_the_file_s_cannot_be_named(tmp_path: Path, config: Config) -> None:
    runs = config.training.runs_dir
    one, two = run_of(runs / "one", "one"), run_of(runs / "two", "two")
    for path in (one.path / "student.onnx", tmp_path / "student.onnx"):
        assert Origin(path, "one", UUID).choose(config, one) == (one, True)
        with pytest.raises(click.ClickException) as refused:
            Origin(path, "one", UUID).choose(config, two)
        assert str(one.path) in refused.value.message
        assert str(two.path) in refused.value.message
    with pytest.raises(click.ClickException, match="--run names"):
        Origin(one.path / "student.onnx").choose(config, two)
    # What is of no run that is there is judged by whichever is named.
    assert Origin(tmp_path / "student.onnx", "gone", UUID).choose(config, two) == (two, False)
    assert Origin(tmp_path / "student.onnx").choose(config, two) == (two, True)
    assert Origin(one.path / "dclap.onnx", ours=False).choose(config, two) == (two, False)
    assert Origin(one.path / "dclap.onnx", ours=False).choose(config, None) == (one, False)
    assert Origin(tmp_path / "dclap.onnx", ours=False).choose(config, None) == (None, False)


def test_a_model_says_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    said = {METADATA_PREFIX + "run_name": "one", METADATA_PREFIX + "store_uuid": UUID}
    assert Origin.of_model(path, said) == Origin(path, "one", UUID)
    assert Origin.of_model(path, {METADATA_PREFIX + "library_facts": "left out"}) == Origin(path)
    assert Origin.of_model(path, {METADATA_PREFIX + "recipe": "{}"}) == Origin(path, ours=False)


@pytest.mark.parametrize(
    ("run", "heard"),
    [
        ({"store": {}}, 0),
        ({"parent": {"heard": 0}}, 0),
        ({"parent": {"heard": 7}}, 7),
        ({"parent": {"heard": None}}, None),
        ({"parent": {}}, None),
        ({"parent": "x"}, None),
        ({}, None),
    ],
)
def test_what_the_parent_heard_is_told(run: dict[str, Any], heard: int | None) -> None:
    assert heard_before(run) == heard


# --- the sides: rows 0 to 7, of which a run knew the first six


@pytest.fixture
def store(tmp_path: Path) -> Any:
    artists = ("Ada", "Ada", "", "Bo", "Cy", "Dee", "Bo", "Ada")
    vector = np.eye(1, 512, dtype=np.float32)[0]
    with FeatureStore.create(tmp_path / "features.zarr", "a-teacher") as opened:
        opened.append_tracks(
            [
                Track("d", f"t{row}", artist=artist, state=State.FETCHED, teacher=vector)
                for row, artist in enumerate(artists)
            ]
        )
        yield opened


def begun(folder: Path, store: FeatureStore, **rows: list[int]) -> RunFolder:
    run = run_of(folder, folder.name, store.uuid, validation_artists=["Bo"], test_artists=["Dee"])
    np.savez(run.tracks, **{name: np.array(values, np.int64) for name, values in rows.items()})
    return run


def sides(run: RunFolder, store: FeatureStore) -> list[list[int]]:
    found = Split.of(run).sides(store)
    return [found.of(side).tolist() for side in ("training", "validation", "test")]


ROWS = {"training_rows": [0, 1, 2, 4], "validation_rows": [3], "test_rows": [5]}


def test_names_decide_on_rows_that_came_later_alone(tmp_path: Path, store: FeatureStore) -> None:
    run = begun(tmp_path / "run", store, **ROWS)
    assert sides(run, store) == [[0, 1, 2, 4, 7], [3, 6], [5]]
    # The owner mends the tags: a track that was trained on is by a validation artist, a validation track is not.
    store.update_tracks([2, 3, 5], artist=["Bo", "Bo & Dee", "Ada"])
    assert sides(run, store) == [[0, 1, 2, 4, 7], [3, 6], [5]]
    store.update_tracks([7], artist=["bo"])  # as train knows the name
    assert sides(run, store) == [[0, 1, 2, 4], [3, 6, 7], [5]]


def test_another_store_has_names_alone(tmp_path: Path, store: FeatureStore) -> None:
    run = begun(tmp_path / "run", store, **ROWS)
    store.update_tracks([2], artist=["Bo"])
    record = {"name": "run", "store": {"uuid": "f" * 32}}
    run.description.write_text(json.dumps(record), encoding="utf-8")
    assert sides(run, store) == [[0, 1, 4, 7], [2, 3, 6], [5]]


def test_an_older_run_s_rows_and_a_damaged_file(tmp_path: Path, store: FeatureStore) -> None:
    store.update_tracks([2], artist=["Bo"])
    run = begun(tmp_path / "old", store, training_rows=[0, 1, 2, 4, 5, 99, -50], held_out_rows=[3])
    assert sides(run, store) == [[0, 1, 2, 4, 5, 7], [3, 6], []]
    run.tracks.write_bytes(b"PK\x03\x04 no archive")
    assert sides(run, store) == [[0, 1, 4, 7], [2, 3, 6], [5]]
    run.tracks.unlink()
    assert sides(run, store) == [[0, 1, 4, 7], [2, 3, 6], [5]]
    assert Split(HeldOutArtists()).sides(store).training.tolist() == list(range(8))
