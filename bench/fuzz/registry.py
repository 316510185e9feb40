"""The targets by name."""

from __future__ import annotations

from importlib import import_module

from fuzz.target import Target

NAMES = ("config_reader", "model_metadata", "server_json", "store_documents", "store_shards", "tables")


def target(name: str) -> Target:
    """The target of that name; its module is imported then."""
    found: Target = import_module(f"fuzz.{name}").TARGET
    return found
