"""The built wheel, in an empty directory: one import name, everything in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FOLDERS = ("config", "store", "ingest", "featurize", "train", "export")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that the checkout stays clean."""
    copy, dist = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip(["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(dist), str(copy)])
    (built,) = dist.glob("*.whl")
    return built


def pip(arguments: list[str]) -> None:
    """pip of this environment, offline."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)


def test_the_wheel_holds_one_import_name_and_all_of_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"student_clap"}
    for folder in FOLDERS:
        ours = {path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        assert {f"student_clap/{path.relative_to(ROOT)}" for path in ours} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_container_gets_what_the_wheel_is_made_of() -> None:
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()
    copied = {word for line in lines if re.match(r"COPY (?!--from)", line) for word in line.split()[1:-1]}
    assert copied == {*FOLDERS, "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    let_in = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in let_in if line.startswith("!")} == copied


def test_it_works_from_an_empty_directory(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip(["install", "--no-deps", "--no-index", "--target", str(site), str(wheel)])
    assert {p.name for p in site.iterdir() if ".dist-info" not in p.name} == {"student_clap", "bin"}
    code = (
        "import student_clap.store as s; print(s.__file__)\n"
        "from student_clap.config.cli import main\n"
        "main(['init', '--defaults'], standalone_mode=False)\n"
        "main(['config'], standalone_mode=False)\n"
        "from student_clap.export.demo import run, stages\n"
        "assert run.files('student_clap.export.demo').joinpath(run.TUNE_VECTORS).is_file()\n"
        "import pathlib; stages.run_stage('completion bash', pathlib.Path())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site / "student_clap" / "store"))
    assert "_STUDENT_CLAP_COMPLETE" in done.stdout
    assert {p.name for p in empty.iterdir()} == {"config.yaml", ".env.example"}
