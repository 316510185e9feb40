"""Features that this version cannot read: the rest of the store is read, and nothing is written past them."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydantic import ValidationError

from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe
from student_clap.store.arrays.metadata import set_attributes
from student_clap.store.repair import repair_path
from student_clap.store.storage.errors import StoreError
from student_clap.store.verify import verify_path

SECONDS = 48_000
CLAP = Recipe.from_config(AudioConfig(preset="clap"))
OF_ANOTHER_VERSION = {
    "a later one's key": ({"colour": "red"}, "does not know: colour"),
    "a later one's order": ({"frame_order": "spiral"}, "an order that this version does not know"),
    "more bands than there may be": ({"n_mels": 1280}, "n_mels is 1280; expected at most 1024"),
    "days of audio": ({"max_samples": 259_200 * SECONDS}, "max_duration_s 259200 makes"),
}


@pytest.fixture(params=OF_ANOTHER_VERSION)
def changed(request: pytest.FixtureRequest) -> tuple[dict[str, object], str]:
    """Parameters of a recipe that this version does not take, and what it says of them."""
    return OF_ANOTHER_VERSION[request.param]


@pytest.fixture
def filled(store, recipe, make_codes, changed) -> Path:
    """Row 0 made with the default recipe; the features `clap` have another version's recipe. Closed."""
    features = store.features(recipe)
    features.write_strip(0, make_codes(12 * SECONDS), 12 * SECONDS)
    features.commit([0], [12 * SECONDS], [""])
    store.features(CLAP)
    set_attributes(store.path / "features" / "clap", {"recipe": {**CLAP.as_attributes(), **changed[0]}})
    store.close()
    return store.path


def command(path: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["store", *words, "--set", f"store.path={path}"])


def test_the_rest_is_read_with_one_warning(filled, recipe, changed, caplog):
    with caplog.at_level(logging.WARNING):
        store = FeatureStore.open(filled)
        for _ in range(3):
            assert store.recipes() == {"audiomuse": recipe}
    assert caplog.text.count("features/clap cannot be read") == 1
    assert changed[1] in caplog.text
    assert store.features(recipe).n_samples().tolist() == [12 * SECONDS, 0, 0, 0, 0]
    for words in (("info",), ("list",)):
        assert command(filled, *words).exit_code == 0


def test_those_that_are_asked_for_are_an_error(filled, changed):
    before = sorted(filled.rglob("*"))
    for mode in ("r", "r+"):
        with FeatureStore.open(filled, mode) as store, pytest.raises(StoreError, match="clap cannot be read") as error:
            store.features(CLAP)
        assert changed[1] in error.value.message
    listed = command(filled, "list", "--recipe", "clap")
    assert listed.exit_code == 1
    assert "clap cannot be read" in listed.output
    assert sorted(filled.rglob("*")) == before


def test_other_features_are_written_and_rows_are_not(filled, recipe, make_codes, make_track):
    with FeatureStore.open(filled, "r+") as store:
        store.features(recipe).write_strip(1, make_codes(11 * SECONDS), 11 * SECONDS)
        store.features(recipe).commit([1], [11 * SECONDS], [""])
        with pytest.raises(StoreError, match="can be deleted, the folder as a whole"):
            store.append_tracks([make_track(9)])
        with pytest.raises(StoreError, match="clap cannot be read"):
            store.outdate_features([0])
        assert store.features(recipe).n_samples().tolist() == [12 * SECONDS, 11 * SECONDS, 0, 0, 0]
    assert FeatureStore.open(filled).n_tracks == 5


def test_verify_reports_them_and_repair_leaves_them(filled, changed):
    (fault,), n_tracks = verify_path(filled, deep=True)
    assert (fault.kind, fault.recipe, fault.is_fault, n_tracks) == ("unknown recipe", "clap", True, 5)
    assert changed[1] in fault.detail
    (filled / "features/audiomuse/mel/c/0/0/0").unlink()
    done = repair_path(filled, deep=True)
    assert (done.tracks, [left.kind for left in done.left]) == (1, ["unknown recipe"])
    assert (filled / "features/clap/mel/zarr.json").exists()


def test_a_recipe_that_no_command_could_read_is_not_written(store):
    before = sorted(store.path.rglob("*"))
    for changes in ({"max_samples": 259_200 * SECONDS}, {"n_mels": 1280}, {"segment_samples": 9_600_000}):
        with pytest.raises(StoreError, match="cannot be stored: "):
            store.features(dataclasses.replace(CLAP, **changes))
    assert sorted(store.path.rglob("*")) == before


@pytest.mark.parametrize(
    "settings",
    [{}, {"n_mels": 1024}, {"n_fft": 8192, "hop_length_stft": 160}, {"hop_length": 480}, {"segment_length": 7_863_840}],
)
def test_the_longest_tracks_that_settings_allow_can_be_stored(store, settings):
    def allowed(max_duration_s: float) -> bool:
        try:
            AudioConfig(**settings, max_duration_s=max_duration_s)
        except ValidationError:
            return False
        return True

    low, high = 200, 10_000_000  # seconds
    assert allowed(low)
    assert not allowed(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    recipe = Recipe.from_config(AudioConfig(**settings, max_duration_s=low))
    store.features(recipe)
    store.close()
    assert FeatureStore.open(store.path).recipes() == {recipe.name: recipe}
