"""docs/security.md: every claim names a test, and every test that it names is there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
CLAIMS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| claim |")]


@functools.cache
def functions(file: Path) -> frozenset[str]:
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim[2:50])
def test_a_claim_names_tests_that_are_there(claim: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", claim.rpartition(" | ")[2])
    assert named
    assert [(file, name) for file, name in named if name not in functions(ROOT / file)] == []


def test_every_test_of_this_folder_is_named() -> None:
    """A test of an attack that no claim stands for is a claim that is missing."""
    folder = Path(__file__).parent
    there = {
        f"tests/security/{file.name}::{name}" for file in folder.glob("test_hostile_*.py") for name in functions(file)
    }
    tests = {name for name in there if "::test_" in name}
    assert sorted(name for name in tests if f"`{name}`" not in PAGE) == []
