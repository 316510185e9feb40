"""`student-clap check` as a user runs it, on real files."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.export.model.app_settings import APP_CHECKS

from .conftest import Library
from .model.test_contract import NAMES, model
from .models import onnx_session, production_samples, transposed_teacher, transposed_vector
from .test_production_path import production_vector

pytestmark = pytest.mark.slow

APP_NAMES = tuple(check.name for check in APP_CHECKS)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def test_check_prints_every_clause(exported: Path) -> None:
    done = run("check", exported)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["pass", name] for name in (*NAMES, *APP_NAMES)]
    assert lines[-1] == f"check: {exported} meets all {len(NAMES) + len(APP_NAMES)} clauses of the drop-in contract"


def test_check_fails_with_the_clause_and_its_reason(tmp_path: Path) -> None:
    onnx.save(model(input_name="audio", normalise=False), str(tmp_path / "m.onnx"))
    done = run("check", tmp_path / "m.onnx")
    assert done.exit_code == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert [line.split()[1] for line in failed] == ["input-name", "unit-norm"]
    assert "the input is called audio" in failed[0]
    assert "expected:" in failed[0]
    expected = f"fails 2 of {len(NAMES) + len(APP_NAMES)} clauses of the drop-in contract: input-name, unit-norm"
    assert expected in done.stderr


def test_check_of_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"<html>not found</html>")
    done = run("check", tmp_path / "m.onnx")
    assert done.exit_code == 1
    assert done.stdout.count("FAIL") == len(NAMES)
    absent = run("check", tmp_path / "absent.onnx")
    assert absent.exit_code == 1
    assert "there is no model" in absent.stderr


def test_check_with_audio_and_a_reference(exported: Path, library: Library, tmp_path: Path) -> None:
    audio = library.cache_dir / "t01.flac"
    done = run("check", exported, "--audio", audio, "--reference", exported)
    assert done.exit_code == 0, done.output
    assert re.search(
        r"(?m)^audio: .*t01\.flac: 2 segments, vector of norm (1\.00000|0\.99999)\d, \d+\.\d\d ms per segment",
        done.stdout,
    )
    assert "segment 2" in done.stdout  # the music was tried by the contract too
    assert re.search(r"(?m)^reference: .*: cosine (1\.0000|0\.99999)\d+", done.stdout)


@pytest.mark.slow
def test_a_reference_is_fed_its_own_mel(exported: Path, library: Library, tmp_path: Path) -> None:
    teacher, audio = transposed_teacher(tmp_path / "clap_audio_model.onnx"), library.cache_dir / "t00.flac"
    done = run("check", exported, "--audio", audio, "--reference", teacher)
    assert done.exit_code == 0, done.output
    found = float(re.search(r"(?m)^reference: .*: cosine (-?[\d.]+),", done.stdout)[1])  # type: ignore[index]
    expected = production_vector(audio, exported) @ transposed_vector(audio, teacher)
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_reference_may_take_samples(exported: Path, library: Library, tmp_path: Path) -> None:
    from .bench.test_compare import waveform_teacher

    teacher, audio = waveform_teacher(tmp_path / "teacher.onnx", 512 * 4000), library.cache_dir / "t00.flac"
    done = run("check", exported, "--audio", audio, "--reference", teacher)
    assert done.exit_code == 0, done.output
    assert "its mel from the model, which takes samples" in done.stdout
    found = float(re.search(r"(?m)^reference: .*: cosine (-?[\d.]+),", done.stdout)[1])  # type: ignore[index]
    (vector,) = onnx_session(teacher).run(None, {"waveform": production_samples(audio)[None]})[0]
    assert found == pytest.approx(production_vector(audio, exported) @ vector, abs=1e-5)


def test_a_reference_may_be_the_checkpoint(copied_library: Library) -> None:
    assert run("export", *copied_library.settings()).exit_code == 0
    audio = copied_library.cache_dir / "t02.flac"
    model, checkpoint = copied_library.run.student_onnx, copied_library.run.best
    done = run("check", model, "--audio", audio, "--reference", checkpoint)
    assert done.exit_code == 0, done.output
    line = r"(?m)^reference: .*best\.pt: cosine ([\d.]+), of single segments ([\d.]+) or more; its mel from the check"
    assert all(float(cosine) > 0.99999 for cosine in re.search(line, done.stdout).groups())  # type: ignore[union-attr]
    checkpoint.write_bytes(b"PK")
    damaged = run("check", model, "--audio", audio, "--reference", checkpoint)
    assert damaged.exit_code == 1
    assert "best.pt" in damaged.stderr


def test_check_of_a_transposed_model(library: Library, tmp_path: Path) -> None:
    teacher = transposed_teacher(tmp_path / "clap_audio_model.onnx")
    done = run("check", teacher, "--audio", library.cache_dir / "t01.flac")
    assert done.exit_code == 1
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert failed == ["static-batch"]
    assert "CLAP_AUDIO_MEL_TRANSPOSE=true" in done.stdout
    assert "audio: " in done.stdout


def test_check_asks_for_audio(exported: Path, tmp_path: Path) -> None:
    assert "--audio" in run("check", exported, "--reference", exported).stderr
    (tmp_path / "page.mp3").write_text("<html>502</html>")
    done = run("check", exported, "--audio", tmp_path / "page.mp3")
    assert done.exit_code == 1
    assert "page.mp3: no audio" in done.stderr
