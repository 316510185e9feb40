"""A library's vectors as a file: what they are, what is listed instead, and what a kill leaves."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.export.app.library import why_not_a_vector
from student_clap.export.model.session import StudentSession
from student_clap.featurize.onnx.segments import pool
from student_clap.store import FeatureStore, State

from ..conftest import Library, embedder_of, file_vector


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def reembed(library: Library, model: Path, out: Path, *arguments: object) -> Result:
    return run("reembed", "--model", model, "--out", out, *library.settings(), *arguments)


def vectors_of(out: Path) -> dict[str, npt.NDArray[np.float32]]:
    table = pq.read_table(out)
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    return dict(zip(table["track_id"].to_pylist(), vectors, strict=True))


def listed(out: Path) -> dict[str, str]:
    with out.with_suffix(".missing.csv").open(encoding="utf-8") as file:
        return {row["track_id"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "library.parquet"


def test_vectors_come_from_the_stores_mel_without_audio(copied_library: Library, exported: Path, out: Path) -> None:
    shutil.rmtree(copied_library.cache_dir)
    done = reembed(copied_library, exported, out)
    assert done.exit_code == 0, done.output
    assert f"12 vectors in {out}, 12 of them new (12 from the store's mel); none without a vector" in done.stdout
    found = vectors_of(out)
    session = StudentSession(exported)
    with FeatureStore.open(copied_library.store) as store:
        features = store.features(copied_library.recipe)
        for row in (0, 5):
            expected = pool(session.embed_segments(features.segments(row)))
            np.testing.assert_allclose(found[f"t{row:02d}"], expected, atol=1e-6)
    norms = [np.linalg.norm(v.astype(np.float64)) for v in found.values()]
    np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_vectors_from_audio_are_productions(library: Library, exported: Path, out: Path) -> None:
    done = reembed(library, exported, out, "--from-audio")
    assert done.exit_code == 0, done.output
    assert "(0 from the store's mel)" in done.stdout
    found = vectors_of(out)
    for name in ("t01", "t02"):
        expected = file_vector(library.cache_dir / f"{name}.flac", embedder_of(exported, library.recipe))
        assert float(found[name] @ expected) >= 0.99999
    rows = {
        row["track_id"]: row for row in pq.read_table(out, columns=["track_id", "source", "n_segments"]).to_pylist()
    }
    assert rows["t02"] == {"track_id": "t02", "source": "audio", "n_segments": 4}


def test_a_store_with_another_recipe_is_no_source_of_the_mel(
    copied_library: Library, exported: Path, out: Path
) -> None:
    proto = onnx.load(str(exported))
    (entry,) = [p for p in proto.metadata_props if p.key == "student_clap.recipe"]
    entry.value = json.dumps({**json.loads(entry.value), "fmax_hz": 13_000.0})
    other = out.with_name("other.onnx")
    onnx.save(proto, str(other))
    done = reembed(copied_library, other, out)
    assert done.exit_code == 0, done.output
    assert "(0 from the store's mel)" in done.stdout


def test_a_second_run_makes_only_what_is_new(copied_library: Library, exported: Path, out: Path) -> None:
    with FeatureStore.open(copied_library.store, "r+") as store:
        store.update_tracks([3, 4], state=[State.GONE, State.GONE])
    assert "10 vectors" in reembed(copied_library, exported, out).stdout
    before = vectors_of(out)
    with FeatureStore.open(copied_library.store, "r+") as store:
        store.update_tracks([3, 5], state=[State.FETCHED, State.GONE])
    again = reembed(copied_library, exported, out)
    assert "10 vectors" in again.stdout
    assert "1 of them new" in again.stdout
    after = vectors_of(out)
    assert set(after) == (set(before) | {"t03"}) - {"t05"}
    for name in set(before) & set(after):
        np.testing.assert_array_equal(before[name], after[name])
    third = out.read_bytes()
    assert "0 of them new" in reembed(copied_library, exported, out).stdout
    assert out.read_bytes() == third
    assert not out.with_name(out.name + ".parts").exists()


def give_longer_strip(library: Library) -> None:
    """Make the features of row 0 those of row 2, which is longer."""
    with FeatureStore.open(library.store, "r+") as store:
        features = store.features(library.recipe)
        longer = int(features.n_samples()[2])
        features.write_strip(0, features.strip(2), longer)
        features.commit([0], [longer], [""])


def test_a_track_whose_audio_changed_is_made_again(copied_library: Library, exported: Path, out: Path) -> None:
    reembed(copied_library, exported, out)
    before = vectors_of(out)
    give_longer_strip(copied_library)
    assert "1 of them new" in reembed(copied_library, exported, out).stdout
    after = vectors_of(out)
    np.testing.assert_allclose(after["t00"], before["t02"], atol=1e-6)
    assert float(after["t00"] @ before["t00"]) < 0.99999


def replace_strip(library: Library, row: int, by: int) -> None:
    """Let the store have other audio of one length for `row`, as after a file was replaced and featurized."""
    with FeatureStore.open(library.store, "r+") as store:
        features = store.features(library.recipe)
        n_samples = int(features.n_samples()[row])
        assert n_samples == features.n_samples()[by]
        features.write_strip(row, features.strip(by), n_samples)
        features.commit([row], [n_samples], [""])


def test_other_audio_of_the_same_length_is_made_again(copied_library: Library, exported: Path, out: Path) -> None:
    """Every track of ten minutes or more has the length of the cap."""
    reembed(copied_library, exported, out)
    before = vectors_of(out)
    replace_strip(copied_library, 0, 3)
    assert "1 of them new" in reembed(copied_library, exported, out).stdout
    after = vectors_of(out)
    np.testing.assert_allclose(after["t00"], before["t03"], atol=1e-6)
    assert float(after["t00"] @ before["t00"]) < 0.99999
    assert "0 of them new" in reembed(copied_library, exported, out).stdout


def test_a_strip_that_went_or_came_is_other_audio(copied_library: Library, exported: Path, out: Path) -> None:
    reembed(copied_library, exported, out)
    before = vectors_of(out)
    with FeatureStore.open(copied_library.store, "r+") as store:
        features = store.features(copied_library.recipe)
        n_samples = int(features.n_samples()[0])
        features.commit([0], [0], [""])  # as ingest leaves a track whose file is another one
    shutil.copy(copied_library.cache_dir / "t03.flac", copied_library.cache_dir / "t00.flac")
    assert "1 of them new (0 from the store's mel)" in reembed(copied_library, exported, out).stdout
    assert float(vectors_of(out)["t00"] @ before["t03"]) > 0.999
    assert "0 of them new" in reembed(copied_library, exported, out).stdout
    with FeatureStore.open(copied_library.store, "r+") as store:
        store.features(copied_library.recipe).commit([0], [n_samples], [""])
    assert "1 of them new (1 from the store's mel)" in reembed(copied_library, exported, out).stdout
    np.testing.assert_allclose(vectors_of(out)["t00"], before["t00"], atol=1e-6)


def test_a_file_of_before_there_were_marks_is_read(copied_library: Library, exported: Path, out: Path) -> None:
    reembed(copied_library, exported, out)
    before = vectors_of(out)
    pq.write_table(pq.read_table(out).drop_columns(["strip"]), out)
    done = reembed(copied_library, exported, out)
    assert "0 of them new" in done.stdout
    assert "12 vectors of" in done.stderr
    assert "--fresh makes them again" in done.stderr
    give_longer_strip(copied_library)
    assert "1 of them new" in reembed(copied_library, exported, out).stdout
    after = vectors_of(out)
    np.testing.assert_allclose(after.pop("t00"), before["t02"], atol=1e-6)
    for name, vector in after.items():
        np.testing.assert_array_equal(vector, before[name])
    replace_strip(copied_library, 0, 5)  # of this one there is a mark now
    assert "1 of them new" in reembed(copied_library, exported, out).stdout
    fresh = reembed(copied_library, exported, out, "--fresh")
    assert "--fresh" not in fresh.stderr
    assert "12 of them new" in fresh.stdout


def test_audio_that_cannot_be_looked_at_is_that_tracks_reason(
    copied_library: Library, exported: Path, out: Path
) -> None:
    """A name that is too long is refused as a folder without rights is, for every user."""
    with FeatureStore.open(copied_library.store, "r+") as store:
        store.features(copied_library.recipe).commit([0], [0], [""])
        store.update_tracks([0], audio=["x" * 300 + ".flac"])
    done = reembed(copied_library, exported, out)
    assert done.exit_code == 0, done.output
    assert "11 vectors" in done.stdout
    assert "File name too long" in listed(out)["t00"]


def test_what_has_no_vector_is_listed(copied_library: Library, exported: Path, out: Path) -> None:
    with FeatureStore.open(copied_library.store, "r+") as store:
        features = store.features(copied_library.recipe)
        features.commit([0, 1, 2], [0, -1, 0], ["", "it was silent", ""])
        store.update_tracks([1, 7], audio=["", ""], error=["the server has no such item", ""])
    (copied_library.cache_dir / "t00.flac").write_text("<html>502</html>")
    (copied_library.cache_dir / "t07.flac").unlink()  # its strip is there
    done = reembed(copied_library, exported, out)
    assert done.exit_code == 0, done.output
    assert "10 vectors" in done.stdout
    assert f"2 without a vector, listed in {out.with_suffix('.missing.csv')}" in done.stdout
    reasons = listed(out)
    assert set(reasons) == {"t00", "t01"}
    assert "no audio" in reasons["t00"]
    assert "the server has no such item" in reasons["t01"]
    assert "no vector: t01" in done.stderr
    # Once everything has a vector the list goes.
    with FeatureStore.open(copied_library.store, "r+") as store:
        store.update_tracks([0, 1], audio=["t02.flac", "t02.flac"])
    assert "none without" in reembed(copied_library, exported, out).stdout
    assert not out.with_suffix(".missing.csv").exists()


def test_another_models_file_is_left_alone(copied_library: Library, exported: Path, out: Path) -> None:
    reembed(copied_library, exported, out)
    before = out.read_bytes()
    proto = onnx.load(str(exported))
    proto.doc_string = "another"
    other = out.with_name("other.onnx")
    onnx.save(proto, str(other))
    refused = reembed(copied_library, other, out)
    assert refused.exit_code == 1
    assert "was made with another model" in refused.stderr
    assert "--out" in refused.stderr
    assert "--from-audio" in reembed(copied_library, exported, out, "--from-audio").stderr
    assert out.read_bytes() == before
    assert "12 of them new" in reembed(copied_library, other, out, "--fresh").stdout


def test_a_model_that_gives_no_vectors(copied_library: Library, exported: Path, out: Path) -> None:
    model, proto = out.with_name("m.onnx"), onnx.load(str(exported))
    largest = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.raw_data = np.full(tuple(largest.dims), np.nan, np.float32).tobytes()
    onnx.save(proto, str(model))
    done = reembed(copied_library, model, out)
    assert done.exit_code == 1
    assert "none of 12 tracks gives a vector" in done.stderr
    assert "not finite" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(("scale", "fault"), [(1.0, ""), (1 + 3e-6, "length"), (0.0, "length"), (np.nan, "finite")])
def test_what_is_a_vector(scale: float, fault: str) -> None:
    vector = np.zeros(512, np.float32)
    vector[3] = scale
    assert fault in why_not_a_vector(vector)
    assert bool(why_not_a_vector(vector)) == bool(fault)


_KILLED = """
import os, signal, sys
from student_clap.config.cli import main
from student_clap.export.app import library_file as module
module.PART_TRACKS = 2
real, flushes = module.LibraryFile.flush, []
def flush(self):
    real(self)
    flushes.append(1)
    if len(flushes) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
module.LibraryFile.flush = flush
main(sys.argv[2:])
"""


def killed(at: int, *arguments: Any) -> None:
    command = [sys.executable, "-c", _KILLED, str(at), *(str(a) for a in arguments)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_and_run_again(library: Library, exported: Path, out: Path) -> None:
    arguments = ("reembed", "--model", exported, *library.settings(), "--threads", 1, "--out", out)
    killed(3, *arguments)
    assert not out.exists()
    assert len(list(out.with_name(out.name + ".parts").glob("*.parquet"))) == 3
    done = reembed(library, exported, out)
    assert done.exit_code == 0, done.output
    assert "12 vectors" in done.stdout
    assert "6 of them new" in done.stdout
    undisturbed = out.with_name("undisturbed.parquet")
    reembed(library, exported, undisturbed)
    found, expected = vectors_of(out), vectors_of(undisturbed)
    assert set(found) == set(expected)
    for name, vector in expected.items():
        np.testing.assert_allclose(found[name], vector, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "v.npz"], ".parquet"),
        (["--yes"], "--write-database"),
        (["--overwrite"], "--restore"),
        (["--anyway"], "--write-database"),
        (["--restore", "d", "--write-database"], "--restore only"),
    ],
)
def test_options_that_make_no_sense(arguments: list[str], message: str, library: Library, exported: Path) -> None:
    model = [] if "--restore" in arguments else ["--model", exported]
    done = run("reembed", *model, *library.settings(), *arguments)
    assert done.exit_code != 0
    assert message in done.stderr


def test_a_damaged_file_is_no_start(library: Library, exported: Path, out: Path) -> None:
    out.write_bytes(os.urandom(100))
    done = reembed(library, exported, out)
    assert done.exit_code == 1
    assert "is not a Parquet file" in done.stderr
    assert "12 of them new" in reembed(library, exported, out, "--fresh").stdout
