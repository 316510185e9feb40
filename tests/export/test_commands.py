"""`student-clap export` and `student-clap evaluate` as a user runs them, on real files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.recipe import METADATA_PREFIX
from student_clap.store import FeatureStore, Recipe
from student_clap.store.arrays.metadata import set_attributes
from student_clap.train.loop import metrics

from .conftest import HELD_OUT, Library, checkpoint_info, random_student
from .models import transposed_teacher, transposed_vector
from .test_production_path import production_vector

pytestmark = pytest.mark.slow  # a second and more each


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def evaluate(library: Library, *more: str) -> Result:
    return run("evaluate", *library.settings(), *more)


def record_of(library: Library) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((library.run.evaluation / "metrics.json").read_text(encoding="utf-8"))
    return record


@pytest.fixture
def ready(copied_library: Library, exported: Path) -> Library:
    """A library whose run has its ONNX file."""
    copied_library.run.student_onnx.write_bytes(exported.read_bytes())
    return copied_library


def test_export_then_evaluate(copied_library: Library) -> None:
    done = run("export", *copied_library.settings())
    assert done.exit_code == 0, done.output
    last = done.stdout.strip().splitlines()[-1]
    assert re.search(r"^export: wrote .*student\.onnx: tinyclap, epoch 7, 0\.28 M parameters, 1\.11 MB; parity", last)
    assert re.search(r"cosine >= (1\.0|0\.9999)", last)
    assert re.search(r"(?m)^in all +\d+ +1\d{3}\.\d$", done.stdout)  # kB of weights
    first = copied_library.run.student_onnx.read_bytes()
    said = {p.key: p.value for p in onnx.load(str(copied_library.run.student_onnx)).metadata_props}
    assert json.loads(said[METADATA_PREFIX + "validation_metrics"]) == {
        "cosine": pytest.approx(1 - 1.1 / 7, abs=1e-6),
        "loss": pytest.approx(1.1 / 7, abs=1e-6),
    }

    again = run("export", *copied_library.settings())
    assert again.exit_code == 0
    assert copied_library.run.student_onnx.read_bytes() == first

    judged = evaluate(copied_library)
    assert judged.exit_code == 0, judged.output
    assert judged.stdout.splitlines()[0] == record_of(copied_library)["verdict"]["headline"]
    assert re.search(
        r"(?m)^evaluate: 6 validation tracks \(0 from the store\), 0 left out: cosine 0\.\d+ \(mean vector 0\.\d+, "
        r"shuffled 0\.\d+\); overlap@2 .*report\.html$",
        judged.stdout.strip(),
    )
    record = record_of(copied_library)
    assert {t["artist"] for t in record["tracks"]} == set(HELD_OUT)
    assert record["student"]["neighbours"] == 2
    assert record["n_training_tracks"] == 6
    assert record["ms_per_segment"] > 0
    # The teacher is this very student with noise, so it is near, and nearer than what knows nothing.
    assert record["student"]["cosine"]["mean"] > record["mean_vector"]["cosine"]["mean"]
    assert record["student"]["cosine"]["mean"] > record["shuffled"]["cosine"]["mean"]
    assert (copied_library.run.evaluation / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_figures_are_those_of_an_independent_computation(ready: Library) -> None:
    assert evaluate(ready).exit_code == 0
    record = record_of(ready)
    with FeatureStore.open(ready.store) as store:
        teacher, artists = store.teacher(), store.strings("artist")
    held = [row for row, artist in enumerate(artists) if artist in HELD_OUT]
    student = np.stack(
        [production_vector(ready.cache_dir / f"t{row:02d}.flac", ready.run.student_onnx) for row in held]
    )
    assert [t["track_id"] for t in record["tracks"]] == [f"t{row:02d}" for row in held]
    cosines = np.sum(student * teacher[held], axis=1)
    np.testing.assert_allclose([t["cosine"] for t in record["tracks"]], cosines, atol=1e-4)
    centre = np.delete(teacher, held, axis=0).mean(axis=0)
    np.testing.assert_allclose(
        [t["centred_cosine"] for t in record["tracks"]],
        metrics.centred_cosines(student, teacher[held], centre),
        atol=1e-3,
    )
    assert record["student"]["cosine"]["mean"] == pytest.approx(cosines.mean(), abs=1e-4)
    assert record["mean_vector"]["cosine"]["mean"] == pytest.approx(
        np.mean(teacher[held] @ centre / np.linalg.norm(centre)), abs=1e-4
    )


def test_audio_that_is_gone_is_replaced_by_the_store(ready: Library) -> None:
    assert evaluate(ready).exit_code == 0
    before = record_of(ready)["student"]["cosine"]["mean"]
    (ready.cache_dir / "t01.flac").unlink()
    (ready.cache_dir / "t03.flac").unlink()
    done = evaluate(ready)
    assert "6 validation tracks (2 from the store), 0 left out" in done.stdout
    record = record_of(ready)
    assert [t["track_id"] for t in record["tracks"] if t["from_store"]] == ["t01", "t03"]
    assert record["student"]["cosine"]["mean"] == pytest.approx(before, abs=0.01)


def test_from_store_touches_no_audio(ready: Library) -> None:
    for path in ready.cache_dir.iterdir():
        path.write_bytes(b"not audio")
    done = evaluate(ready, "--from-store")
    assert done.exit_code == 0, done.output
    assert "6 validation tracks (6 from the store), 0 left out" in done.stdout


def test_a_track_that_cannot_be_decoded_is_listed_and_left_out(ready: Library) -> None:
    (ready.cache_dir / "t05.flac").write_bytes(b"<html>502 Bad Gateway</html>")
    done = evaluate(ready)
    assert done.exit_code == 0
    assert "5 validation tracks (0 from the store), 1 left out" in done.stdout
    assert done.stderr.count("warning: left out: Tune 5") == 1
    (left_out,) = record_of(ready)["left_out"]
    assert left_out["track_id"] == "t05"
    assert left_out["reason"].startswith("no audio")
    assert "Left out" in (ready.run.evaluation / "report.html").read_text(encoding="utf-8")


def test_a_damaged_shard_leaves_its_track_out(ready: Library) -> None:
    (shard,) = [p for p in (ready.store / "features/audiomuse/mel/c/1").rglob("*") if p.is_file()]
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 3] ^= 0x10
    shard.write_bytes(damaged)
    done = evaluate(ready, "--from-store")
    assert done.exit_code == 0
    (left_out,) = record_of(ready)["left_out"]
    assert left_out["track_id"] == "t01"
    assert "shard is damaged" in left_out["reason"]


def test_a_track_with_neither_audio_nor_features_is_left_out(ready: Library) -> None:
    with FeatureStore.open(ready.store, "r+") as store:
        store.features(ready.recipe).commit([1], [-1], ["made up"])
    (ready.cache_dir / "t01.flac").unlink()
    done = evaluate(ready)
    assert done.exit_code == 0
    (left_out,) = record_of(ready)["left_out"]
    assert left_out["reason"] == "its audio is not in the cache and the store has no features of it"


def test_no_usable_track_is_an_error_with_a_remedy(ready: Library) -> None:
    for path in ready.cache_dir.iterdir():
        path.write_bytes(b"not audio")
    done = evaluate(ready)
    assert done.exit_code == 1
    assert "none of the 6 validation tracks gives a vector" in done.stderr
    assert not ready.run.evaluation.exists()


def with_metadata(path: Path, **values: str | None) -> None:
    """Replace or remove metadata of a model file."""
    model = onnx.load(str(path))
    kept = {p.key: p.value for p in model.metadata_props}
    kept |= {METADATA_PREFIX + key: value for key, value in values.items() if value is not None}
    for key in [key for key, value in values.items() if value is None]:
        kept.pop(METADATA_PREFIX + key)
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, str(path))


def test_another_recipe_is_refused_with_every_difference(ready: Library) -> None:
    done = evaluate(ready, "--run", "tinyclap-audiomuse", "--set", "audio.preset=original", "--set", "audio.fmax=13000")
    assert done.exit_code == 1
    assert "n_fft: stored 2048, wanted 1024" in done.stderr
    assert "fmax_hz: stored 14000.0, wanted 13000.0" in done.stderr
    assert "n_mels" not in done.stderr


def test_another_store_is_a_warning(ready: Library) -> None:
    with_metadata(ready.run.student_onnx, store_uuid="f" * 32)
    done = evaluate(ready)
    assert done.exit_code == 0
    assert f"was trained from store {'f' * 32}" in done.stderr


def test_a_model_of_another_maker_is_judged_with_a_warning(ready: Library) -> None:
    model = onnx.load(str(ready.run.student_onnx))
    del model.metadata_props[:]
    other = ready.root / "other.onnx"
    onnx.save(model, str(other))
    done = evaluate(ready, "--model", str(other), "--output", str(ready.root / "elsewhere"))
    assert done.exit_code == 0, done.output
    assert "does not say which recipe it was made for" in done.stderr
    assert (ready.root / "elsewhere" / "report.html").exists()
    assert not ready.run.evaluation.exists()


def test_an_unreadable_recipe_is_an_error(ready: Library) -> None:
    with_metadata(ready.run.student_onnx, recipe='{"n_mels": 128}')
    done = evaluate(ready)
    assert done.exit_code == 1
    assert "its metadata student_clap.recipe cannot be read" in done.stderr


def test_a_model_that_gives_nan_is_refused(ready: Library) -> None:
    model = onnx.load(str(ready.run.student_onnx))
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == last else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(np.nan).reshape(1), "nan"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "nan"], [last]))
    onnx.save(model, str(ready.run.student_onnx))
    done = evaluate(ready)
    assert done.exit_code == 1
    assert "not finite for 6 of 6 tracks" in done.stderr


def test_export_of_a_kept_checkpoint(copied_library: Library) -> None:
    kept = copied_library.run.path / "checkpoints" / "epoch_0007.pt"
    kept.parent.mkdir()
    copied_library.run.best.rename(kept)
    output = copied_library.root / "out" / "model_epoch_36.onnx"
    done = run("export", *copied_library.settings(), "--checkpoint", str(kept), "--output", str(output))
    assert done.exit_code == 0, done.output
    assert output.exists()
    assert not copied_library.run.student_onnx.exists()


def test_a_checkpoint_of_another_store_is_a_warning(copied_library: Library) -> None:
    set_attributes(copied_library.store, {"uuid": "e" * 32})
    done = run("export", *copied_library.settings())
    assert done.exit_code == 0, done.output
    assert "the checkpoint was trained from store" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--run", "nothing"], "there is no checkpoint at"),
        (["evaluate", "--run", "nothing"], "there is no model at"),
        (["export", "--run", "../up"], "use letters, digits"),
        (["evaluate", "--set", "store.path=/nowhere"], "there is no feature store at /nowhere"),
    ],
)
def test_what_is_missing_is_named(arguments: list[str], message: str, ready: Library) -> None:
    done = run(arguments[0], *ready.settings(), *arguments[1:])
    assert done.exit_code == 1
    assert message in done.stderr


def test_a_run_without_split_is_an_error(ready: Library) -> None:
    (ready.run.path / "split.json").unlink()
    done = evaluate(ready)
    assert done.exit_code == 1
    assert "has no split.json; train first" in done.stderr


def keep_test_tracks(library: Library) -> None:
    """Let the run's split have one artist of each side."""
    split = {"validation_artists": [HELD_OUT[0]], "test_artists": [HELD_OUT[1]]}
    (library.run.path / "split.json").write_text(json.dumps(split), encoding="utf-8")


def test_test_tracks_judge_where_the_run_keeps_any(ready: Library) -> None:
    keep_test_tracks(ready)
    done = evaluate(ready)
    assert done.exit_code == 0, done.output
    assert "evaluate: 3 test tracks (0 from the store)" in done.stdout
    record = record_of(ready)
    assert record["on"] == "test"
    assert {t["artist"] for t in record["tracks"]} == {HELD_OUT[1]}
    assert record["n_training_tracks"] == 6  # neither side's
    chosen = {target["key"]: target["answer"] for target in record["targets"]}
    assert chosen["megabytes"] == "yes"
    before = ready.run.evaluation_record.read_bytes()

    # The lesser judgement does not take the place of the other.
    lesser = evaluate(ready, "--on", "validation")
    assert "evaluate: 3 validation tracks (0 from the store)" in lesser.stdout
    assert ready.run.evaluation_record.read_bytes() == before
    folder = ready.run.path / "evaluation-validation"
    assert {t["artist"] for t in json.loads((folder / "metrics.json").read_text())["tracks"]} == {HELD_OUT[0]}
    assert "which pick the epoch" in (folder / "report.html").read_text(encoding="utf-8")


def test_test_tracks_that_the_run_does_not_keep_are_an_error(ready: Library) -> None:
    done = evaluate(ready, "--on", "test")
    assert done.exit_code == 1
    assert "keeps no test tracks; leave --on away" in done.stderr
    assert evaluate(ready, "--on", "validation").exit_code == 0
    assert record_of(ready)["on"] == "validation"  # in its usual folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time little."""
    monkeypatch.setattr("student_clap.export.bench.compare.LOADS", 1)
    monkeypatch.setattr("student_clap.export.bench.compare.THREADS", {"one": 1})
    monkeypatch.setattr("student_clap.export.evaluate_command.BENCH_ROUNDS", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_another_model_of_the_same_mel_is_judged_on_the_same_tracks(ready: Library, tmp_path: Path) -> None:
    from student_clap.export.graph.parity import real_segments
    from student_clap.export.graph.writer import write_student

    with FeatureStore.open(ready.store) as store:
        segments, n_tracks = real_segments(store.features(ready.recipe), [1, 3])
        other = tmp_path / "other.onnx"
        write_student(random_student(seed=5), checkpoint_info(store.uuid), other, segments, n_tracks)
    done = evaluate(ready, "--against", str(other))
    assert done.exit_code == 0, done.output
    assert "other.onnx on the same tracks: cosine " in done.stdout
    beside = record_of(ready)["against"]
    assert beside["model"]["file"] == "other.onnx"
    assert evaluate(ready, "--model", str(other)).exit_code == 0
    alone = record_of(ready)
    assert beside["means"] == pytest.approx(alone["student"]["means"], nan_ok=True)
    assert beside["model"] == alone["model"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_another_model_of_another_mel_hears_the_audio(ready: Library, tmp_path: Path) -> None:
    teacher = transposed_teacher(tmp_path / "clap_audio_model.onnx")
    done = evaluate(ready, "--against", str(teacher))
    assert done.exit_code == 0, done.output
    assert "does not say which mel it was made for; it is given 64 bands, FFT 1024, 50 to 14000 Hz" in done.stderr
    record = record_of(ready)
    with FeatureStore.open(ready.store) as store:
        vectors = store.teacher()
    short = {f"t{row:02d}": vectors[row] for row in range(0, 12, 3)}  # of one segment, computed by librosa alone
    checked = 0
    for track in record["tracks"]:
        if track["track_id"] in short:
            vector = transposed_vector(ready.cache_dir / f"{track['track_id']}.flac", teacher)
            assert track["against"]["cosine"] == pytest.approx(float(vector @ short[track["track_id"]]), abs=1e-4)
            checked += 1
    assert checked == 2
    # From the store alone it can be given nothing.
    (ready.cache_dir / "t01.flac").unlink()
    done = evaluate(ready, "--against", str(teacher))
    assert done.exit_code == 0, done.output
    (left_out,) = record_of(ready)["left_out"]
    assert left_out["track_id"] == "t01"
    assert left_out["reason"] == "clap_audio_model.onnx takes another mel, for which the track's audio is needed"
    refused = evaluate(ready, "--against", str(teacher), "--from-store")
    assert refused.exit_code == 1
    assert "none of the 6 validation tracks gives a vector" in refused.stderr
    # Where the store has strips of its mel, these do.
    before = {track["track_id"]: track["against"]["cosine"] for track in record["tracks"]}
    recipe = Recipe.from_config(AudioConfig.model_validate({"preset": "clap"}))
    judged = [row for row in range(12) if f"t{row:02d}" in before and row != 1]
    with FeatureStore.open(ready.store, "r+") as store:
        features, log_mel = store.features(recipe), LogMel(recipe)
        lengths = []
        for row in judged:
            samples = decode(ready.cache_dir / f"t{row:02d}.flac", recipe.max_samples)
            features.write_strip(row, log_mel.codes(samples), len(samples))
            lengths.append(len(samples))
        features.commit(judged, lengths, [""] * len(judged))
    assert evaluate(ready, "--against", str(teacher), "--from-store").exit_code == 0
    after = {track["track_id"]: track["against"]["cosine"] for track in record_of(ready)["tracks"]}
    assert after.keys() == before.keys() - {"t01"}
    assert all(after[track] == pytest.approx(before[track], abs=0.01) for track in after)


def test_another_model_that_is_not_there_is_an_error_before_the_work(ready: Library) -> None:
    done = evaluate(ready, "--against", str(ready.root / "nothing.onnx"))
    assert done.exit_code == 1
    assert "there is no model at" in done.stderr
    assert not ready.run.evaluation.exists()


def test_a_split_of_strangers_is_an_error(ready: Library) -> None:
    (ready.run.path / "split.json").write_text(json.dumps({"held_out_artists": ["Nobody"]}), encoding="utf-8")
    done = evaluate(ready)
    assert done.exit_code == 1
    assert "is store.path the store it was trained from?" in done.stderr
