"""docs/licences.md has a row for each constraint, and no licence that nobody has looked at."""

from __future__ import annotations

from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# Those that the page itself explains.
EXPLAINED = {"compatible", "not free; see below", "not compatible on its own; see below"}


def rows() -> dict[str, list[str]]:
    """Package -> version, licence, brought by, verdict."""
    lines = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {name: rest for name, *rest in cells if name != "package"}


def test_every_constraint_has_a_row_of_its_version() -> None:
    wanted = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    table = rows()
    missing = [
        str(one)
        for one in wanted
        if str(one.specifier).removeprefix("==") not in table.get(canonicalize_name(one.name), [""])[0].split(", ")
    ]
    assert missing == []  # `python docs/make_licences.py` writes the page
    assert len(table) == len({canonicalize_name(one.name) for one in wanted})


def test_no_licence_is_unknown_or_unexplained() -> None:
    assert {name: row for name, row in rows().items() if row[3] not in EXPLAINED or row[1] == "unknown"} == {}


def test_what_everybody_gets_is_compatible_but_for_nvidia_s_libraries() -> None:
    runtime = {name: row for name, row in rows().items() if row[2] in ("base", "train")}
    assert {"torch", "numpy", "zarr", "click"} <= set(runtime)
    wrong = {name for name, row in runtime.items() if row[3] != "compatible"}
    assert {name for name in wrong if not name.startswith(("nvidia-", "cuda-"))} == set()
