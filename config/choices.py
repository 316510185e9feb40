"""Settings whose value is a name that an upper floor knows: a student, a batch system.

The names stand in one place, the floor's own registry; it is asked by its module's name, and only when a value is
checked, so that config imports nothing from above and a new entry needs no second list.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class Choice:
    """``Annotated[str, Choice("student_clap.some.registry")]``: one of the names of that registry.

    Args:
        registry: a module with ``names() -> tuple[str, ...]``; it must be light, since every command checks settings.
    """

    registry: str

    def names(self) -> tuple[str, ...]:
        """All names, in the registry's order."""
        return tuple(importlib.import_module(self.registry).names())

    def check(self, value: str) -> str:
        """`value`. Raises ValueError, with the names that there are, where it is none of them."""
        names = self.names()
        if value not in names:
            raise ValueError(f"expected one of {', '.join(names)}, got {value!r}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "enum": list(self.names())}
