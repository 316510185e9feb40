"""What was fuzzed once stays right: the valid inputs, what was a finding, and a few hundred changes of both."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from fuzz.registry import NAMES, target

CHANGES = 150


@pytest.mark.parametrize("name", NAMES)
def test_findings_stay_mended(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    subject, read = target(name), 0
    seeds = list(subject.seeds())
    for data in seeds:
        read += subject.test(data, tmp_path)
    assert read
    kept = [file.read_bytes() for file in subject.kept()]
    for data in kept:
        subject.test(data, tmp_path)
    chance = random.Random(0)
    for _ in range(CHANGES):
        subject.test(changed(chance.choice([*seeds, *kept]), chance, subject.mutate), tmp_path)


def changed(data: bytes, chance: random.Random, mutate: object) -> bytes:
    """The input with a few bytes changed, or cut off, or changed as its format allows."""
    if callable(mutate) and chance.random() < 0.7 and (own := mutate(data, chance)) is not None:
        return bytes(own)
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content[: chance.randint(1, len(content))] if chance.random() < 0.2 else content)
