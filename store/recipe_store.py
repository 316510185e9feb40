"""The part of the store's door behind which the features lie: a group per recipe, made where there is none.

Guarantee: features are read and written under the recipe that they were made with, and no other.
Cost: the recipes are one document each.
"""

from __future__ import annotations

import zarr

from student_clap.store.arrays.feature_arrays import complete_features, create_features
from student_clap.store.arrays.features import Features
from student_clap.store.arrays.metadata import read_document, write_document
from student_clap.store.hierarchy import recipe_documents
from student_clap.store.layout.frame_order import from_recipe_attribute
from student_clap.store.layout.recipe import Recipe
from student_clap.store.storage.base import Lock, Storage
from student_clap.store.storage.errors import RecipeMismatchError, StoreError


class RecipeStore:
    """What `FeatureStore` knows of recipes; it sets the attributes below."""

    _storage: Storage
    _root: zarr.Group
    _lock: Lock | None  # of the writer
    n_tracks: int

    def recipes(self) -> dict[str, Recipe]:
        """The recipes that have a group, by name. Raises StoreError for one that this version cannot read."""
        folder = self._storage / "features"
        found = {}
        for name, document in recipe_documents(folder).items():
            attributes = document["attributes"]
            if "recipe" in attributes:
                try:
                    found[name], _ = from_recipe_attribute(attributes["recipe"])
                except (ValueError, TypeError) as error:
                    raise StoreError(f"{folder / name}: {error}") from error
        return found

    def stored_fingerprint(self, name: str) -> str:
        """The fingerprint that is stored with the recipe of that name. Raises CorruptMetadataError."""
        return str(read_document(self._storage / "features" / name)["attributes"].get("fingerprint", ""))

    def features(self, recipe: Recipe) -> Features:
        """The features of `recipe`; made if the store is open for writing and has none.

        Raises:
            RecipeMismatchError: the group of that name was made with other parameters; every one is listed.
            StoreError: the store has no such features and is open for reading.
        """
        stored = self.recipes().get(recipe.name)
        if stored is None:
            if self._lock is None:
                known = list(self.recipes())
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
