"""The families of media servers that `demo.mediaserver` speaks: every module here with its `DIALECTS`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from student_clap.export.demo.dialects.base import Dialect

_MODULES = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
_DIALECTS: dict[str, Callable[..., Dialect]] = {d.kind: d for m in _MODULES for d in getattr(m, "DIALECTS", ())}
KINDS = tuple(_DIALECTS)


def make_dialect(kind: str, **options: Any) -> Dialect:
    """The dialect of that name. The options are those of its class."""
    return _DIALECTS[kind](**options)
