"""Versions: what student-clap asks for, what was tested together, and what is installed.

The tested ones are constraints.txt's, which the package carries; the Pythons are the classifiers of its metadata.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from importlib.resources import files

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

DISTRIBUTION = "student-clap"
_PYTHON = "Programming Language :: Python :: "
# Packages that do the work of one that is asked for, under another name.
_STAND_INS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-rocm", "onnxruntime-openvino", "onnxruntime-directml"),
    "psycopg2-binary": ("psycopg2",),
}


def tested_pythons() -> list[str]:
    """The Pythons that it was tested on, such as 3.11; none where its metadata do not say."""
    classifiers = importlib.metadata.metadata(DISTRIBUTION).get_all("Classifier") or []
    return [text.removeprefix(_PYTHON) for text in classifiers if text.startswith(f"{_PYTHON}3.")]


def asked_pythons() -> str:
    """The Pythons that it takes, such as >=3.11."""
    return importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"] or ""


def requirements(extra: str = "") -> list[Requirement]:
    """What it asks for on this machine; with `extra`, what that asks for besides."""
    asked = (Requirement(text) for text in importlib.metadata.requires(DISTRIBUTION) or [])
    if not extra:
        return [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [
        one
        for one in asked
        if one.marker is not None and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})
    ]


def extras() -> list[str]:
    """The names of the optional parts."""
    return importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []


def tested() -> dict[str, Version]:
    """Package -> the version that was tested on this Python and system; {} where the package does not carry them."""
    try:
        text = files("student_clap.config").joinpath("constraints.txt").read_text(encoding="utf-8")
    except OSError:
        return {}
    return {canonicalize_name(one.name): version for one, version in _pins(text)}


def installed(name: str) -> Version | None:
    """The version of a package, or of one that stands in for it; None where there is none, or it does not say."""
    for candidate in (name, *_STAND_INS.get(canonicalize_name(name), ())):
        try:
            return Version(importlib.metadata.version(candidate))
        except (importlib.metadata.PackageNotFoundError, InvalidVersion, TypeError):
            continue
    return None


def _pins(text: str) -> Iterator[tuple[Requirement, Version]]:
    for line in text.splitlines():
        try:
            one = Requirement(line.partition("#")[0])
            (pin,) = one.specifier
            if one.marker is None or one.marker.evaluate():
                yield one, Version(pin.version)
        except (InvalidRequirement, InvalidVersion, ValueError):
            continue  # an empty line; or, where the system knows no links, the name of the file
