"""`student-clap check`, `embed`, `deploy` and `rollback` as a user runs them, on real files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from student_clap.config.cli import main
from student_clap.export.model import vector_file as vector_file_module
from student_clap.export.model.file_batch import Embedded, audio_files, embed_files
from student_clap.export.model.inputs import mel_of
from student_clap.export.model.session import ModelError, StudentSession
from student_clap.export.model.vector_file import vector_file

from .conftest import RATE, Library, tune
from .model.test_contract import NAMES, model
from .test_production_path import production_vector

NAME = "model_epoch_36.onnx"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def transposed_teacher(path: Path) -> Path:
    """A model with the LAION teacher's interface: [batch, 1, time, 64], everything but the last axis open."""
    rng = np.random.default_rng(3)
    weights = [numpy_helper.from_array(rng.normal(size=(64, 512)).astype(np.float32), "w")]
    nodes = [
        helper.make_node("ReduceMean", ["mel_spectrogram"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["raw"]),
        helper.make_node("LpNormalization", ["raw"], ["audio_embedding"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("mel_spectrogram", TensorProto.FLOAT, ("batch", 1, "time", 64))],
        [helper.make_tensor_value_info("audio_embedding", TensorProto.FLOAT, ("batch", 512))],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A tree like AudioMuse-AI's: a model with external data beside the text model."""
    folder = tmp_path / "app" / "model"
    folder.mkdir(parents=True)
    proto = model(dims=(1, 1, 8, 21))
    onnx.save(proto, str(folder / NAME), save_as_external_data=True, location=NAME + ".data", size_threshold=1024)
    (folder / "clap_text_model.onnx").write_bytes(b"text tower")
    return folder


def vectors_of(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"path", "vector"}
        assert file["vector"].dtype == np.float32
        assert file["vector"].shape == (len(file["path"]), 512)
        return dict(zip(file["path"].tolist(), file["vector"], strict=True))


# --- check


def test_check_prints_every_clause(exported: Path) -> None:
    done = run("check", exported)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["pass", name] for name in (*NAMES, "app-mel")]
    assert lines[-1] == f"check: {exported} meets all {len(NAMES) + 1} clauses of the drop-in contract"


def test_check_fails_with_the_clause_and_its_reason(tmp_path: Path) -> None:
    onnx.save(model(input_name="audio", normalise=False), str(tmp_path / "m.onnx"))
    done = run("check", tmp_path / "m.onnx")
    assert done.exit_code == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert [line.split()[1] for line in failed] == ["input-name", "unit-norm"]
    assert "the input is called audio" in failed[0]
    assert "expected:" in failed[0]
    assert re.search(r"fails 2 of 16 clauses of the drop-in contract: input-name, unit-norm", done.stderr)


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


def test_a_reference_is_fed_its_own_mel(exported: Path, library: Library, tmp_path: Path) -> None:
    teacher, audio = transposed_teacher(tmp_path / "clap_audio_model.onnx"), library.cache_dir / "t00.flac"
    done = run("check", exported, "--audio", audio, "--reference", teacher)
    assert done.exit_code == 0, done.output
    found = float(re.search(r"(?m)^reference: .*: cosine (-?[\d.]+),", done.stdout)[1])  # type: ignore[index]
    expected = production_vector(audio, exported) @ _transposed_vector(audio, teacher)
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_reference_may_hear_samples(exported: Path, library: Library, tmp_path: Path) -> None:
    from .bench.test_compare import waveform_teacher

    teacher, audio = waveform_teacher(tmp_path / "teacher.onnx", 512 * 4000), library.cache_dir / "t00.flac"
    done = run("check", exported, "--audio", audio, "--reference", teacher)
    assert done.exit_code == 0, done.output
    assert "its mel from the model, which hears samples" in done.stdout
    found = float(re.search(r"(?m)^reference: .*: cosine (-?[\d.]+),", done.stdout)[1])  # type: ignore[index]
    (vector,) = _session(teacher).run(None, {"waveform": _production_samples(audio)[None]})[0]
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


def _session(model: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])


def _production_samples(audio: Path) -> npt.NDArray[np.float32]:
    """[480000] at 48 kHz, for a file of at most ten seconds; librosa alone."""
    import librosa

    native, rate = soundfile.read(audio, dtype="float32", always_2d=True)
    samples = librosa.resample(librosa.to_mono(native.T), orig_sr=rate, target_sr=48_000, res_type="soxr_hq")
    samples = (np.clip(samples, -1, 1) * 32767.0).astype(np.int16).astype(np.float32) / 32767.0
    return np.pad(samples, (0, 480_000 - len(samples)))


def _transposed_vector(audio: Path, teacher: Path) -> npt.NDArray[np.float32]:
    """librosa and onnxruntime alone, for a file of at most ten seconds."""
    import librosa

    samples = _production_samples(audio)
    power = librosa.feature.melspectrogram(
        y=samples, sr=48_000, n_fft=1024, hop_length=480, n_mels=64, fmin=50, fmax=14_000, pad_mode="reflect"
    )
    mel = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None).astype(np.float32)
    # [mel, frame] -> [1, 1, frame, mel]
    vector: npt.NDArray[np.float32] = _session(teacher).run(None, {"mel_spectrogram": mel.T[None, None]})[0][0]
    return vector


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


# --- embed


def test_embed_gives_production_vectors(exported: Path, library: Library, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npz"
    single = library.cache_dir / "t02.flac"
    done = run("embed", single, library.cache_dir, single, "--model", exported, "--out", out)
    assert done.exit_code == 0, done.output
    found = vectors_of(out)
    assert list(found) == [str(single), *(str(p) for p in sorted(library.cache_dir.iterdir()) if p != single)]
    for name in ("t00.flac", "t02.flac"):
        expected = production_vector(library.cache_dir / name, exported)
        assert float(found[str(library.cache_dir / name)] @ expected) >= 0.9999
    assert re.search(r"(?m)^embed: wrote 12 vectors of 28 segments to .*; files without a vector: none$", done.stdout)


def test_embed_to_parquet(exported: Path, library: Library, tmp_path: Path) -> None:
    out, single = tmp_path / "vectors.parquet", library.cache_dir / "t02.flac"
    done = run("embed", single, library.cache_dir, "--model", exported, "--out", out)
    assert done.exit_code == 0, done.output
    table = pq.read_table(out)
    assert [(f.name, str(f.type)) for f in table.schema] == [
        ("path", "string"),
        ("vector", "fixed_size_list<element: float>[512]"),
        ("n_samples", "int64"),
        ("duration_s", "double"),
        ("n_segments", "int32"),
    ]
    rows = {row["path"]: row for row in table.to_pylist()}
    assert list(rows) == [str(single), *(str(p) for p in sorted(library.cache_dir.iterdir()) if p != single)]
    for name, samples, segments in (("t00.flac", 336_000, 1), ("t02.flac", 1_118_400, 4)):
        row = rows[str(library.cache_dir / name)]
        assert float(np.float32(row["vector"]) @ production_vector(library.cache_dir / name, exported)) >= 0.9999
        assert row["n_segments"] == segments
        assert row["n_samples"] == pytest.approx(samples, abs=1)  # the resampler rounds
        assert row["duration_s"] == row["n_samples"] / 48_000
    said = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert {p.key: p.value for p in onnx.load(str(exported)).metadata_props}.items() <= said.items()
    assert said["student_clap.model_file"] == exported.name
    assert said["student_clap.model_sha256"] == hashlib.sha256(exported.read_bytes()).hexdigest()


def test_a_parquet_file_grows_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_file_module, "ROW_GROUP", 2)
    vectors = np.eye(5, 512, dtype=np.float32)
    odd = Path(os.fsdecode(b"caf\xe9.ogg"))
    with vector_file(tmp_path / "v.parquet", {}) as file:
        for number, vector in enumerate(vectors):
            file.add(Embedded(odd if number == 4 else Path(f"{number}.ogg"), vector, 1, 48_000, 1.0))
            file.add(Embedded(Path("silent.ogg"), None, error="no audio"))
    found = pq.ParquetFile(tmp_path / "v.parquet")
    assert found.num_row_groups == 3
    table = found.read()
    assert table["path"].to_pylist() == ["0.ogg", "1.ogg", "2.ogg", "3.ogg", "caf\\xe9.ogg"]
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)


@pytest.mark.parametrize("name", ["v.parquet", "v.npz"])
def test_a_vector_file_appears_whole_or_not_at_all(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"vectors of yesterday")

    def killed() -> None:
        with vector_file(tmp_path / name, {}) as file:
            file.add(Embedded(Path("a.ogg"), np.ones(512, np.float32), 1, 1, 1.0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert (tmp_path / name).read_bytes() == b"vectors of yesterday"
    assert len(list(tmp_path.iterdir())) == 1


def test_vectors_are_handed_on_before_all_files_are_done(exported: Path, library: Library) -> None:
    done: list[int] = []
    files = [library.cache_dir / "t00.flac"] * 30
    mel = mel_of(exported, library.recipe)
    stream = embed_files(files, StudentSession(exported), mel, threads=1, advance=lambda: done.append(1))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(done) < len(files)


def test_embed_takes_the_runs_model(copied_library: Library, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npz"
    audio = copied_library.cache_dir / "t00.flac"
    missing = run("embed", audio, "--out", out, *copied_library.settings())
    assert missing.exit_code == 1
    assert "there is no model at" in missing.stderr
    shutil.copy(exported, copied_library.run.student_onnx)
    assert run("embed", audio, "--out", out, *copied_library.settings()).exit_code == 0
    assert list(vectors_of(out)) == [str(audio)]


def test_embed_goes_on_after_files_without_audio(exported: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", tune(1, 3.0), RATE)
    (tmp_path / "page.mp3").write_text("<html>502</html>")
    (tmp_path / "empty.flac").write_bytes(b"")
    out = tmp_path / "v.npz"
    done = run("embed", tmp_path, tmp_path / "absent.ogg", "--model", exported, "--out", out)
    assert done.exit_code == 0, done.output
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    assert len(warnings) == 3
    assert any("page.mp3: no audio" in line for line in warnings)
    assert any("empty.flac: no audio; the file is empty" in line for line in warnings)
    assert any("absent.ogg: no audio; there is no such file" in line for line in warnings)
    assert list(vectors_of(out)) == [str(tmp_path / "good.wav")]
    assert "wrote 1 vectors of 1 segments" in done.stdout
    assert "files without a vector: 3" in done.stdout


def test_embed_of_nothing_writes_nothing(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npz"
    out.write_bytes(b"vectors of yesterday")
    (tmp_path / "page.mp3").write_text("<html>502</html>")
    done = run("embed", tmp_path / "page.mp3", "--model", exported, "--out", out)
    assert done.exit_code == 1
    assert "none of 1 files gives a vector" in done.stderr
    (tmp_path / "folder").mkdir()
    assert "no audio files in" in run("embed", tmp_path / "folder", "--model", exported, "--out", out).stderr
    assert out.read_bytes() == b"vectors of yesterday"


@pytest.mark.parametrize(
    ("name", "message"),
    [("v.csv", r"\.parquet or \.npz"), ("v", r"\.parquet or \.npz"), ("file/v.npz", "is no folder")],
)
def test_embed_refuses_other_formats_before_the_work(name: str, message: str, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = run("embed", tmp_path / "absent.wav", "--model", exported, "--out", tmp_path / name)
    assert done.exit_code == 1
    assert re.search(message, done.stderr)
    assert "absent.wav" not in done.stderr
    assert not (tmp_path / name).exists()


def test_embed_with_a_model_that_does_not_take_the_mel(exported: Path, library: Library, tmp_path: Path) -> None:
    # A file with the teacher's interface fixes the mel; the student takes another.
    mel = mel_of(transposed_teacher(tmp_path / "teacher.onnx"), library.recipe)
    with pytest.raises(ModelError, match=r"fails on input \[1, 1, 1001, 64\]"):
        list(embed_files([library.cache_dir / "t00.flac"] * 3, StudentSession(exported), mel, threads=2))


def test_which_files_of_a_folder_are_taken(tmp_path: Path) -> None:
    for name in ("b/2.FLAC", "b/1.mp3", "a/cover.jpg", "a/song.opus", ".hidden/x.mp3", "b/.y.mp3", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = audio_files([tmp_path, tmp_path / "c.txt", tmp_path / "b" / "1.mp3"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/song.opus", "b/1.mp3", "b/2.FLAC", "c.txt"]


# --- deploy and rollback


def test_deploy_and_rollback_in_a_tree_like_the_apps(models: Path, exported: Path) -> None:
    before = {path.name: path.read_bytes() for path in models.iterdir()}
    done = run("deploy", exported, "--to", models)
    assert done.exit_code == 0, done.output
    assert (models / NAME).read_bytes() == exported.read_bytes()
    assert "defaults fit this model" in done.stdout
    assert "CLAP_AUDIO_MODEL_PATH" not in done.stdout
    assert "should not share an index" in done.stderr
    assert re.search(
        rf"(?m)^deploy: .* is now .*{NAME}; what stood there is kept as {NAME}\.\d+T\d+Z, {NAME}\.data\.\d+T\d+Z$",
        done.stdout,
    )
    after = {path.name: path.read_bytes() for path in models.iterdir()}

    again = run("deploy", exported, "--to", models)
    assert again.exit_code == 0
    assert "nothing was changed" in again.stdout
    assert {path.name: path.read_bytes() for path in models.iterdir()} == after

    back = run("rollback", "--to", models)
    assert back.exit_code == 0, back.output
    assert re.search(rf"(?m)^rollback: .*{NAME} is again what was kept as {NAME}\.\d+T\d+Z, ", back.stdout)
    restored = {path.name: path.read_bytes() for path in models.iterdir()}
    assert {name: restored[name] for name in before} == before
    assert StudentSession(models / NAME).run(np.zeros((1, 1, 8, 21), np.float32)).shape == (1, 512)


def test_deploy_refuses_what_fails_the_contract(models: Path, tmp_path: Path) -> None:
    onnx.save(model(normalise=False), str(tmp_path / "m.onnx"))
    before = {path.name: path.read_bytes() for path in models.iterdir()}
    done = run("deploy", tmp_path / "m.onnx", "--to", models)
    assert done.exit_code == 1
    assert "unit-norm" in done.stderr
    assert {path.name: path.read_bytes() for path in models.iterdir()} == before


def test_deploy_says_what_to_set(models: Path, tmp_path: Path) -> None:
    onnx.save(model(), str(tmp_path / "m.onnx"))
    done = run("deploy", tmp_path / "m.onnx", "--to", models, "--as", "clap_audio_model.onnx")
    assert done.exit_code == 0, done.output
    assert "does not say which mel" in done.stdout
    settings = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert settings == [
        "CLAP_AUDIO_N_MELS=8",
        "CLAP_AUDIO_HOP_LENGTH=24000",
        "CLAP_AUDIO_MODEL_PATH=/app/model/clap_audio_model.onnx",
    ]
    assert "nothing stood there before" in done.stdout


def test_deploy_quotes_the_mixed_library_figure_of_these_bytes(models: Path, exported: Path, tmp_path: Path) -> None:
    student = tmp_path / "run" / "student.onnx"
    record = tmp_path / "run" / "evaluation" / "metrics.json"
    record.parent.mkdir(parents=True)
    shutil.copy(exported, student)
    assert "is not known: `student-clap evaluate`" in run("deploy", student, "--to", models).stderr

    figures = {"n_tracks": 40, "student": {"mixed_recall_at_1": 0.625}, "model": {"sha256": "0" * 64}}
    record.write_text(json.dumps(figures))
    assert "is about another file" in run("deploy", student, "--to", models).stderr

    figures["model"] = {"sha256": hashlib.sha256(student.read_bytes()).hexdigest()}
    record.write_text(json.dumps(figures))
    found = run("deploy", student, "--to", models).stderr
    assert "Measured on 40 held-out tracks" in found
    assert "62.5%" in found
    assert "R@1 0.625" in found

    record.write_text("{")
    assert "cannot be read" in run("deploy", student, "--to", models).stderr


def test_rollback_of_nothing(models: Path) -> None:
    done = run("rollback", "--to", models)
    assert done.exit_code == 1
    assert "there is nothing to restore" in done.stderr
    absent = run("rollback", "--to", models / "absent")
    assert absent.exit_code == 1
    assert "there is no folder" in absent.stderr
    named = run("rollback", "--to", models, "--as", NAME)
    assert named.exit_code == 1
    assert "there is nothing to restore" in named.stderr
