"""The feature store: it opens, its metadata are whole, its features are those of the recipe, and who writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from student_clap.export.doctor.check import Area, Check, Finding, failure, passed, refused, warning
from student_clap.export.doctor.places import why_not_writable
from student_clap.export.doctor.subject import Subject
from student_clap.store import FeatureStore, Recipe
from student_clap.store.storage.open import open_storage
from student_clap.store.verify import verify_metadata

_SHOWN = 3


def _look(subject: Subject) -> Iterator[Finding]:
    path = subject.config.store.path
    storage = open_storage(path)
    local = storage.path if isinstance(storage.path, Path) else None
    why = why_not_writable(local) if local is not None else ""
    if not FeatureStore.is_at(path):
        if why:
            yield failure(f"there is none at {path} yet, and none can be made: {why}", "change that, or store.path")
        else:
            yield warning(f"there is none at {path} yet", "`student-clap ingest` makes one (store.path names it)")
        return
    faults = verify_metadata(path)
    for fault in faults[:_SHOWN]:
        yield refused(fault.detail)
    if faults:
        return
    store = subject.store()
    if store is None:  # removed meanwhile
        return
    yield from _content(store, Recipe.from_config(subject.config.audio))
    if (owner := storage.writer()) is not None:
        if owner.is_here and not owner.is_alive:
            yield passed(f"{owner} wrote it last and did not end in order; the next stage clears up")
        else:
            yield passed(f"is being written by {owner}, or was when that ended")
    if why:
        yield warning(f"{why}: it can be trained from, not written", "change the permissions for the other stages")


def _content(store: FeatureStore, recipe: Recipe) -> Iterator[Finding]:
    recipes = store.recipes()
    if recipes.get(recipe.name, recipe) != recipe:
        store.features(recipe)  # raises RecipeMismatchError, with every difference
    made = {name: int(np.count_nonzero(store.features(of).made())) for name, of in recipes.items()}
    features = ", ".join(f"{name} of {n}" for name, n in made.items()) or "none"
    yield passed(f"{store.path}: {store.n_tracks} tracks, features {features}, teacher {store.teacher_name}")


CHECK = Check("store", Area.STORE, _look)
