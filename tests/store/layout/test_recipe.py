"""Recipes: names, fingerprints, differences."""

from __future__ import annotations

from dataclasses import replace

import pytest

from student_clap.config.schema import AudioConfig
from student_clap.store.layout.recipe import Recipe


def test_the_original_readmes_keys_are_the_original_preset():
    spelled = AudioConfig(n_mels=128, n_fft=1024, hop_length_stft=480, fmin=0.0, fmax=14000.0)
    assert Recipe.from_config(spelled) == Recipe.from_config(AudioConfig(preset="original"))
    assert Recipe.from_config(spelled).name == "original"


def test_every_parameter_changes_the_fingerprint_and_the_name():
    base = Recipe.from_config(AudioConfig())
    seen = {base.fingerprint}
    for changes in (
        {"n_mels": 64}, {"n_fft": 1024}, {"fmin": 20.0}, {"fmax": 12_000.0}, {"hop_length": 480_000},
        {"segment_length": 960_000}, {"max_duration_s": 300.0}, {"hop_length_stft": 240},
    ):  # fmt: skip
        other = Recipe.from_config(AudioConfig(**changes))
        assert other.fingerprint not in seen
        assert other.name != base.name
        seen.add(other.fingerprint)


def test_attributes_go_there_and_back():
    recipe = Recipe.from_config(AudioConfig(preset="clap"))
    assert Recipe.from_attributes(recipe.as_attributes()) == recipe
    with pytest.raises(ValueError, match="does not know: colour"):
        Recipe.from_attributes({**recipe.as_attributes(), "colour": "red"})
    with pytest.raises(ValueError, match="lacks n_fft"):
        Recipe.from_attributes({k: v for k, v in recipe.as_attributes().items() if k != "n_fft"})


def test_differences_name_both_values():
    stored, wanted = Recipe.from_config(AudioConfig()), Recipe.from_config(AudioConfig(preset="clap"))
    assert stored.differences(wanted) == [
        "n_mels: stored 128, wanted 64", "n_fft: stored 2048, wanted 1024", "fmin_hz: stored 0.0, wanted 50.0",
    ]  # fmt: skip


def test_a_view_has_a_name_and_a_fingerprint_of_its_own():
    for preset in ("audiomuse", "original", "clap"):
        recipe = Recipe.from_config(AudioConfig(preset=preset))
        views = [replace(recipe, view=number) for number in (1, 2, 16)]
        assert [view.name for view in views] == [f"{preset}.view-1", f"{preset}.view-2", f"{preset}.view-16"]
        assert len({recipe.fingerprint, *(view.fingerprint for view in views)}) == 4
        for view in views:
            assert view.as_attributes() == {**recipe.as_attributes(), "view": view.view}
            assert Recipe.from_attributes(view.as_attributes()) == view
            assert view.mel == recipe.mel
    custom = Recipe.from_config(AudioConfig(fmin=20.0))
    assert replace(custom, view=3).name == f"{custom.name}.view-3" == f"custom-{custom.fingerprint[:8]}.view-3"


def test_a_track_s_recipe_is_written_as_it_was_before_there_were_views():
    recipe = Recipe.from_config(AudioConfig())
    assert recipe.fingerprint == "a6fe7a70e1034ba7"
    assert "view" not in recipe.as_attributes()
    assert Recipe.from_attributes({**recipe.as_attributes(), "view": 0}) == recipe


@pytest.mark.parametrize("view", [-1, 17, True, False, 1.0, "1", None])
def test_a_view_s_number_is_one_to_sixteen(view: object):
    recipe = Recipe.from_config(AudioConfig())
    with pytest.raises(ValueError, match="view is "):
        Recipe.from_attributes({**recipe.as_attributes(), "view": view})
    with pytest.raises(ValueError, match="view is "):
        replace(recipe, view=view).check()


def test_a_view_differs_from_its_track_s_recipe_in_that_alone():
    recipe = Recipe.from_config(AudioConfig())
    view = replace(recipe, view=2)
    assert recipe.differences(view) == ["view: stored 0, wanted 2"]
    assert view.differences(recipe) == ["view: stored 2, wanted 0"]
    assert view.differences(replace(view, view=1)) == ["view: stored 2, wanted 1"]
    assert view.differences(view) == []
