"""Settings whose value is a name that an upper floor knows: a student, a batch system.

The names stand in one place, the floor's own registry; it is asked by its module's name, and only when a value is
checked, so that config imports nothing from above and a new entry needs no second list.
"""

from __future__ import annotations

import importlib
import re
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
            It may have ``patterns() -> dict[str, str]`` too: further names, as they are shown (``timm/NAME``), and the
            regular expression that such a name matches as a whole.
    """

    registry: str

    def module(self) -> Any:
        """The registry, imported now."""
        return importlib.import_module(self.registry)

    def names(self) -> tuple[str, ...]:
        """All names, in the registry's order."""
        return tuple(self.module().names())

    def patterns(self) -> dict[str, str]:
        """How further names are shown, and the regular expression of each."""
        registry = self.module()
        return dict(registry.patterns()) if hasattr(registry, "patterns") else {}

    def check(self, value: str) -> str:
        """Return `value`.

        Raises:
            ValueError: it is not one of the names; the message lists them.
        """
        names, patterns = self.names(), self.patterns()
        if value not in names and not any(re.fullmatch(pattern, value) for pattern in patterns.values()):
            raise ValueError(f"expected one of {', '.join((*names, *patterns))}, got {value!r}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        text, named = handler(schema), {"enum": list(self.names())}
        patterns = [{"title": shown, "pattern": f"^({pattern})$"} for shown, pattern in self.patterns().items()]
        return {**text, "anyOf": [named, *patterns]} if patterns else {**text, **named}
