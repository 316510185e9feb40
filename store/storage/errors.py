"""Errors of the store. All are click exceptions, so that a stage ends with the message and exit code 1."""

from __future__ import annotations

import click


class StoreError(click.ClickException):
    """The store cannot be used as asked. The message names the item and the remedy."""


class RecipeMismatchError(StoreError):
    """The store holds features made with other parameters."""


class MissingFeaturesError(StoreError):
    """A track has no features, or its shard is gone or incomplete."""


class CorruptShardError(StoreError):
    """A shard fails its checksum."""


class CorruptColumnError(StoreError):
    """A chunk of a column fails its checksum or is gone."""


class UnreadableError(StoreError):
    """A file or an object is there, but cannot be read: no permission, a fault of the disk, a folder in its place."""


class UnknownSetError(StoreError):
    """This version cannot read a set of segment vectors."""


class CorruptMetadataError(StoreError):
    """A zarr.json is gone or fails its checksum."""
