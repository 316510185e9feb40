"""Every reporting command with --json, on a real library: one object on stdout, and nothing else there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from student_clap.config.cli import main

from .conftest import Library

pytestmark = pytest.mark.slow


def reported(library: Library, command: str, *more: str, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*command.split(), *library.settings(), "--json", *more])
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_store_is_reported(library: Library) -> None:
    info = reported(library, "store info")
    tracks = reported(library, "store list")["tracks"]
    assert info["tracks"] == len(tracks) == sum(info["states"].values())
    (features,) = info["features"].values()
    assert features["made"] == sum(track["minutes"] > 0 for track in tracks)
    assert {"row", "track_id", "server_id", "artist", "title", "state", "error"} <= set(tracks[0])
    verified = reported(library, "store verify")
    assert (verified["tracks"], verified["faults"]) == (info["tracks"], 0)
    inventory = reported(library, "ingest --verify")
    assert (inventory["tracks"], inventory["states"]) == (info["tracks"], info["states"])


def test_a_faulty_store_is_reported_before_the_error(copied_library: Library) -> None:
    shard = next(
        path for path in (copied_library.store / "features").rglob("c/**/*") if "mel" in str(path) and path.is_file()
    )
    shard.unlink()
    found = reported(copied_library, "store verify", code=1)
    assert found["faults"] == 1
    assert [finding["fault"] for finding in found["findings"]] == [True]


def test_models_are_reported(copied_library: Library, exported: Path, tmp_path: Path) -> None:
    audio = next(path for path in copied_library.cache_dir.rglob("*") if path.is_file())
    model = str(exported)
    checked = reported(copied_library, "check", model, "--audio", str(audio))
    assert checked["passed"]
    assert all(clause["passed"] for clause in checked["clauses"])
    assert any(str(audio) in line for line in checked["remarks"])
    embedded = reported(copied_library, "embed", str(audio), "--model", model, "--out", str(tmp_path / "v.npz"))
    assert (embedded["vectors"], embedded["left_out"]) == (1, [])
    judged = reported(copied_library, "evaluate", "--model", model, "--out", str(tmp_path / "judged"))
    assert judged == json.loads((tmp_path / "judged" / "metrics.json").read_text(encoding="utf-8"))


def test_a_model_that_fails_is_reported_before_the_error(library: Library, tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    done = CliRunner().invoke(main, ["check", str(tmp_path / "no.onnx"), "--json"])
    assert done.exit_code == 1
    assert done.stdout == "" or not json.loads(done.stdout)["passed"]
    assert "Error: " in done.stderr
