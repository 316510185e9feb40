"""What is asked for, tested and installed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

from student_clap.export.doctor import versions
from student_clap.export.doctor.check import Outcome
from student_clap.export.doctor.checks.packages import CHECK
from student_clap.export.doctor.subject import Subject, read_settings

ROOT = Path(__file__).parents[3]


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    plain = dict(line.replace("ruamel.", "ruamel-").split("==") for line in lines if "==" in line and ";" not in line)
    assert {name: str(version) for name, version in versions.tested().items() if name in plain} == plain
    # Where a version depends on the Python there is this one's.
    assert set(versions.tested()) - set(plain) >= {"av", "zarr"}


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Package -> a version to pretend; None: not installed."""
    pretended: dict[str, str | None] = {}
    real = importlib.metadata.version

    def version(name: str) -> Any:
        if name not in pretended:
            return real(name)
        if pretended[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return pretended[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return pretended


def look() -> list[tuple[Outcome, str]]:
    return [(found.outcome, found.message) for found in CHECK.look(Subject(read_settings(None, ())))]


def test_packages(others: dict[str, str | None]) -> None:
    others.update({str(name): str(version) for name, version in versions.tested().items()})
    ((outcome, message),) = look()
    assert outcome is Outcome.PASS
    others["torch"] = "2.11.0+cu130"  # the build is no other version
    assert look() == [(outcome, message)]
    others.update(zarr="3.0.0", click=None, onnxruntime=None, obstore="0.1.0")
    others["onnxruntime-gpu"] = str(versions.tested()["onnxruntime"])
    failures = [message for outcome, message in look() if outcome is Outcome.FAILURE]
    assert [message.partition(",")[0].partition(";")[0] for message in failures] == [
        "click is not installed",
        "zarr is 3.0.0",
    ]
    assert all("pip install -c constraints.txt student-clap" in message for message in failures)
    warnings = [message for outcome, message in look() if outcome is Outcome.WARNING]
    assert "obstore is 0.1.0" in warnings[0]
    assert "extra s3" in warnings[0]
    assert "zarr 3.0.0 (tested" in warnings[1]
