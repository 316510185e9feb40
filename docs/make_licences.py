"""Write docs/licences.md: the licence of each package in constraints.txt, as the package itself declares it.

Run it where everything is installed (`make quick` makes that .venv): `python docs/make_licences.py`. Only what is
installed can be asked; for what this Python does not need the page takes ELSEWHERE.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS, PAGE = ROOT / "constraints.txt", ROOT / "docs" / "licences.md"
# What is in constraints.txt for other Pythons: read from the wheels' metadata.
ELSEWHERE = {"msgspec": "BSD-3-Clause", "tzdata": "Apache-2.0", "uv": "MIT OR Apache-2.0"}
# Of packages whose metadata say nothing: read from the licence file in the wheel, or known by what it is part of.
UNDECLARED = {
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "nvidia-cusparselt-cu13": "LicenseRef-NVIDIA-Proprietary",
    "peewee": "MIT",
}
# Pattern, over the whole of what is declared -> SPDX identifier. The first that fits.
_NAMES = {
    r"nvidia|proprietary": "LicenseRef-NVIDIA-Proprietary",
    r"affero|agpl": "AGPL-3.0",
    r"lesser general public|lgpl": "LGPL-3.0",
    r"gplv3|gpl-3\.0": "GPL-3.0",
    r"gplv2\+|gpl-2\.0-or-later": "GPL-2.0-or-later",
    r"mozilla|mpl": "MPL-2.0",
    r"dual license": "Apache-2.0 OR BSD-3-Clause",
    r"apache": "Apache-2.0",
    r"2-clause": "BSD-2-Clause",
    r"bsd": "BSD-3-Clause",
    r"isc": "ISC",
    r"zope|zpl": "ZPL-2.1",
    r"python software foundation": "PSF-2.0",
    r"mit\b": "MIT",
}
# Licences whose code may be used by a program under AGPL-3.0-only, as the FSF's list of licences and section 13 of the
# GPL 3 have it.
COMPATIBLE = frozenset(
    {
        "0BSD", "AGPL-3.0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "GPL-2.0-or-later", "GPL-3.0",
        "ISC", "LGPL-2.1-or-later", "LGPL-3.0", "LGPL-3.0-only", "LLVM-exception", "MIT", "MIT-0", "MIT-CMU",
        "MPL-2.0", "PSF-2.0", "ZPL-2.1", "Zlib",
    }
)  # fmt: skip
REMARKS = {
    "LicenseRef-NVIDIA-Proprietary": "not free; see below",
    "CNRI-Python": "not compatible on its own; see below",
}
_WORDS = re.compile(r"\(|\)|\bAND\b|\bOR\b|\bWITH\b|\s+")


def constraints() -> dict[str, list[str]]:
    """Each package of constraints.txt -> its versions."""
    found: dict[str, list[str]] = {}
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            wanted = Requirement(line)
            found.setdefault(canonicalize_name(wanted.name), []).append(str(wanted.specifier).removeprefix("=="))
    return found


def licence(name: str) -> str:
    """The licence that the installed package declares, as an SPDX expression; "" where it is not known."""
    if name in UNDECLARED:
        return UNDECLARED[name]
    try:
        metadata = distribution(name).metadata
    except PackageNotFoundError:
        return ELSEWHERE.get(name, "")
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or [] if c.startswith("License")]
    declared = " ".join([*classifiers, (metadata.get("License") or "").strip()[:120]])
    return next((spdx for pattern, spdx in _NAMES.items() if re.search(pattern, declared, re.IGNORECASE)), "")


def problems(expression: str) -> list[str]:
    """The licences of an expression that are not COMPATIBLE; of an `OR` one that is will do."""
    choices = [[part for part in _WORDS.split(choice) if part] for choice in expression.split(" OR ")]
    found = [[part for part in choice if part not in COMPATIBLE] for choice in choices]
    return min(found, key=len) if expression else ["unknown"]


def users() -> dict[str, list[str]]:
    """Each package -> the extras of ours that bring it, "base" for what everybody gets."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"base": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for group, wanted in groups.items():
        for name in _closure(wanted):
            found.setdefault(name, []).append(group)
    return found


def _closure(wanted: list[str]) -> set[str]:
    left, seen = [(Requirement(text), "") for text in wanted], set[tuple[str, str]]()
    while left:
        requirement, _ = left.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen and name != "student-clap":
                seen.add((name, extra))
                left += [(inner, extra) for inner in _requirements(name, extra)]
    return {name for name, _ in seen}


def _requirements(name: str, extra: str) -> Iterator[Requirement]:
    try:
        found: Distribution = distribution(name)
    except PackageNotFoundError:
        return
    for text in found.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def page(versions: Mapping[str, list[str]]) -> str:
    """The page as text."""
    brought, lines = users(), []
    for name, numbers in sorted(versions.items()):
        declared = licence(name)
        groups = brought.get(name, [])
        by = (
            next((most for most in ("base", "train") if most in groups), "")
            or ", ".join(g for g in groups if g != "dev")
            or "dev"
        )
        wrong = problems(declared)
        verdict = "; ".join(REMARKS.get(part, f"{part}: look it up") for part in wrong) or "compatible"
        lines.append(f"| {name} | {', '.join(numbers)} | {declared or 'unknown'} | {by} | {verdict} |")
    return _HEAD + "\n".join(lines) + "\n"


_HEAD = """# Licences of what is installed

student-clap is under AGPL-3.0-only. This page is made by `python docs/make_licences.py` from constraints.txt and from
what the installed packages declare (`License-Expression`, else their classifiers and `License`); nobody has read
their sources for it, and "BSD" alone is taken for BSD-3-Clause.
"Brought by" is what asks for a package, by way of others too: `base` for every
installation, else the extra of pyproject.toml.

A compatible licence is one whose code a program under AGPL-3.0-only may use, as the FSF's list of licences says.
student-clap's wheel holds none of these packages: pip fetches them, and their licences hold for them.

Two kinds are not in that list:

* NVIDIA's libraries are proprietary. They come with PyTorch's wheels for CUDA on Linux, which pip takes by default; a
  CPU needs none of them (PyTorch's own index has wheels without). They may not be passed on together with a program
  under the AGPL unless their terms and it both allow that: whoever publishes an image with them has to look.
* `CNRI-Python`, of a part of `regex`, which `transformers` (extra `bench`) brings: the FSF counts the licence of
  Python 1.6 as incompatible because of its choice of law. Nothing but `make bench` loads it.

| package | version | licence | brought by | with AGPL-3.0 |
|---|---|---|---|---|
"""

if __name__ == "__main__":
    PAGE.write_text(page(constraints()), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
