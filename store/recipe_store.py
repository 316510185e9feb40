"""The part of the store's door behind which the features lie: a group per recipe, made where there is none.

Guarantee: features are read and written under the recipe that they were made with, and no other.
Cost: the recipes are one document each.
"""

from __future__ import annotations

import logging

import zarr

from student_clap.store.arrays.feature_arrays import complete_features, create_features
from student_clap.store.arrays.features import Features
from student_clap.store.arrays.metadata import read_document, write_document
from student_clap.store.hierarchy import recipe_documents, recipe_of
from student_clap.store.layout.recipe import Recipe
from student_clap.store.storage.base import Lock, Storage
from student_clap.store.storage.errors import RecipeMismatchError, StoreError

logger = logging.getLogger(__name__)


class RecipeStore:
    """What `FeatureStore` knows of recipes; it sets the attributes below."""

    _storage: Storage
    _root: zarr.Group
    _lock: Lock | None  # of the writer
    _left_out: set[str]  # groups of features that a warning was given of
    n_tracks: int

    def recipes(self) -> dict[str, Recipe]:
        """The recipes that have a group, by name.

        One that this version cannot read is left out, with a warning. Raises CorruptMetadataError.
        """
        found, unknown = self._stored_recipes()
        for name in sorted(set(unknown) - self._left_out):
            logger.warning("%s; they are left out", self._cannot_be_read(name, unknown[name]).message)
        self._left_out |= set(unknown)
        return found

    def unknown_recipes(self) -> dict[str, str]:
        """Why this version cannot read the recipe of a group of features, by name. Raises CorruptMetadataError."""
        return self._stored_recipes()[1]

    def _stored_recipes(self) -> tuple[dict[str, Recipe], dict[str, str]]:
        """The recipes by the names of their groups, and why the other groups cannot be read."""
        documents = recipe_documents(self._storage / "features")
        read = {name: recipe_of(document) for name, document in documents.items()}
        unknown = {name: why for name, why in read.items() if isinstance(why, str) and why}
        return {name: recipe for name, recipe in read.items() if isinstance(recipe, Recipe)}, unknown

    def _all_recipes(self) -> dict[str, Recipe]:
        """As `recipes`, for what must reach all features. Raises StoreError where some cannot be read."""
        found, unknown = self._stored_recipes()
        for name, why in unknown.items():
            raise self._cannot_be_read(name, why)
        return found

    def _cannot_be_read(self, name: str, why: str) -> StoreError:
        folder = self._storage / "features" / name
        return StoreError(
            f"the features in {folder} cannot be read: {why}. Update student-clap if a later version made them; what "
            "is not needed any more can be deleted, the folder as a whole"
        )

    def stored_fingerprint(self, name: str) -> str:
        """The fingerprint that is stored with the recipe of that name. Raises CorruptMetadataError."""
        return str(read_document(self._storage / "features" / name)["attributes"].get("fingerprint", ""))

    def features(self, recipe: Recipe) -> Features:
        """The features of `recipe`; made if the store is open for writing and has none.

        Raises:
            RecipeMismatchError: the group of that name was made with other parameters; every one is listed.
            StoreError: the store has no such features and is open for reading, has some that this version cannot read,
                or cannot hold what the recipe makes.
        """
        found, unknown = self._stored_recipes()
        if recipe.name in unknown:
            raise self._cannot_be_read(recipe.name, unknown[recipe.name])
        stored = found.get(recipe.name)
        if stored is None:
            if self._lock is None:
                known = list(found)
                has = f" (it has: {', '.join(known)})" if known else " yet"
                other = ", or set audio.preset to one that it has" if known else ""
                raise StoreError(
                    f"{self._storage.path} has no {recipe.name!r} features{has}; "
                    f"run `student-clap featurize` with this configuration{other}"
                )
            self._create_features(recipe)
        elif stored != recipe:
            lines = "\n".join(f"  - {line}" for line in stored.differences(recipe))
            raise RecipeMismatchError(
                f"the {recipe.name!r} features of {self._storage.path} were made with another recipe:\n{lines}\n"
                "Use the configuration they were made with, or another store.path."
            )
        elif self._lock is not None:
            group = _group(self._root, f"features/{recipe.name}", self._storage)
            complete_features(self._storage, group, recipe, self.n_tracks)
        return features_of(self._storage, self._root, recipe, self.n_tracks)

    def _create_features(self, recipe: Recipe) -> None:
        try:
            recipe.check()  # what is written must be what every command reads
        except ValueError as error:
            raise StoreError(f"features of the recipe {recipe.name!r} cannot be stored: {error}") from error
        group = self._storage / "features"
        if not (group / "zarr.json").exists():
            write_document(group, {"zarr_format": 3, "node_type": "group"})
        # A group without a recipe was never finished: no shard can be in it.
        (group / recipe.name).clear()
        create_features(self._storage, recipe, self.n_tracks)


def features_of(storage: Storage, root: zarr.Group, recipe: Recipe, n_tracks: int) -> Features:
    """The features of a recipe whose group is there, for `n_tracks` rows. Raises StoreError where it is not."""
    name = f"features/{recipe.name}"
    return Features(_group(root, name, storage), recipe, n_tracks, storage / name)


def _group(root: zarr.Group, name: str, storage: Storage) -> zarr.Group:
    group = root.get(name)
    if not isinstance(group, zarr.Group):
        raise StoreError(f"{storage} has no group {name}; the store is damaged or was made by another program")
    return group
