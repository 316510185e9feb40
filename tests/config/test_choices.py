"""Settings whose names stand in a registry of an upper floor."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Annotated

import pytest
from pydantic import BaseModel, ValidationError

from student_clap.config.choices import Choice


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A registry of two names."""
    module = ModuleType("registry_of_a_test")
    module.names = lambda: ("red", "blue")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


class Painted(BaseModel):
    colour: Annotated[str, Choice("registry_of_a_test")]


def test_one_of_the_names_is_taken_and_another_is_refused_with_the_list(registry: ModuleType) -> None:
    assert Painted(colour="blue").colour == "blue"
    with pytest.raises(ValidationError, match="expected one of red, blue, got 'green'"):
        Painted(colour="green")
    assert Painted.model_json_schema()["properties"]["colour"]["enum"] == ["red", "blue"]


def test_a_registry_may_accept_names_by_their_pattern(registry: ModuleType) -> None:
    registry.patterns = lambda: {"rgb/HEX": "rgb/[0-9a-f]{6}"}  # type: ignore[attr-defined]
    assert Painted(colour="rgb/00ff00").colour == "rgb/00ff00"
    for wrong in ("rgb/", "rgb/00ff00 ", "RGB/00ff00"):
        with pytest.raises(ValidationError, match="expected one of red, blue, rgb/HEX"):
            Painted(colour=wrong)
    found = Painted.model_json_schema()["properties"]["colour"]["anyOf"]
    assert found == [{"enum": ["red", "blue"]}, {"title": "rgb/HEX", "pattern": "^(rgb/[0-9a-f]{6})$"}]
