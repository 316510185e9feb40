"""`export --refit-head` as a user runs it: the layer is what scikit-learn finds, and it is taken only where it pays."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from sklearn.linear_model import Ridge

from student_clap.config.cli import main
from student_clap.export.evaluate.baselines import conclude
from student_clap.export.model.metadata import plain_metadata
from student_clap.store import FeatureStore, State, Track
from student_clap.train.origin.onnx_file import load_carried
from student_clap.train.runs.checkpoint import load_student, write_checkpoint
from student_clap.train.students.student import Student

from ..conftest import HELD_OUT, Library, checkpoint_info, embedder_of, random_student

pytestmark = pytest.mark.slow

Array = npt.NDArray[np.float64]


def export(library: Library, *more: object) -> Result:
    arguments = ["export", *library.settings(), "--set", "training.device=cpu", *map(str, more)]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def refit(library: Library, *more: object) -> dict[str, Any]:
    """What the file says of its head."""
    done = export(library, "--refit-head", *more)
    assert done.exit_code == 0, done.output
    said: dict[str, Any] = json.loads(metadata(library.run.student_onnx)["refit_head"])
    return said


def metadata(model: Path) -> dict[str, str]:
    return plain_metadata({p.key: p.value for p in onnx.load(str(model)).metadata_props})


@pytest.fixture
def untrained(copied_library: Library) -> Library:
    """A run whose student sees what the teacher sees and whose last layer hears one thing alone.

    The teacher is linear in the features before that layer, as far from its mean as music is not.
    """
    student, library = random_student(), copied_library
    features = np.stack([track.features.mean(axis=0) for track in tracks(library, student)])
    centred = (features - features.mean(axis=0)) / features.std(axis=0).clip(1e-3)
    teacher = centred @ np.random.default_rng(7).normal(size=(512, 512))
    teacher /= np.linalg.norm(teacher, axis=1, keepdims=True)
    rng = torch.Generator().manual_seed(99)
    with torch.no_grad():
        one, other = torch.randn(2, 512, generator=rng)
        student.head.project.weight.copy_(torch.outer(one, other) / 512)
    old = library.root / "old.zarr"
    library.store.rename(old)
    with FeatureStore.open(old) as before, FeatureStore.create(library.store, "a-teacher") as store:
        names, artists = before.strings("track_id"), before.strings("artist")
        rows = store.append_tracks(
            [
                Track("default", name, artist=artist, state=State.FETCHED, teacher=vector.astype(np.float32))
                for name, artist, vector in zip(names, artists, teacher, strict=True)
            ]
        )
        strips, lengths = before.features(library.recipe), before.features(library.recipe).n_samples()
        copy = store.features(library.recipe)
        for row in rows:
            copy.write_strip(row, strips.strip(row, int(lengths[row])), int(lengths[row]))
        copy.commit(list(rows), [int(n) for n in lengths], [""] * len(rows))
        write_checkpoint(library.run.best, checkpoint_info(store.uuid), student)
        library.run.description.write_text(json.dumps({"store": {"uuid": store.uuid}}), encoding="utf-8")
    return library


@dataclass(frozen=True)
class Heard:
    """A track of the library, through torch alone."""

    features: Array  # [segment, 512] before the last layer
    teacher: Array  # [512]


def tracks(library: Library, student: Student) -> list[Heard]:
    found = []
    with FeatureStore.open(library.store) as store:
        features, teacher = store.features(library.recipe), store.teacher()
        for row in range(len(teacher)):
            pooled: list[torch.Tensor] = []
            hook = student.head.register_forward_pre_hook(lambda _, given, kept=pooled: kept.append(given[0]))
            with torch.inference_mode():
                student(torch.from_numpy(features.segments(row))[:, None])
                x = torch.nn.functional.gelu(student.head.norm(student.head.dense(pooled[0])))
            hook.remove()
            found.append(Heard(x.double().numpy(), teacher[row].astype(np.float64)))
    return found


def test_a_file_with_weights_carries_the_new_head(untrained: Library) -> None:
    assert refit(untrained, "--with-weights")
    found = load_carried(untrained.run.student_onnx)
    assert found is not None
    student, info = found
    assert f"{info.val_cosine:.6f}" == metadata(untrained.run.student_onnx)["validation_cosine"]
    old, new = load_student(untrained.run.best)[0].state_dict(), student.state_dict()
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"head.project.weight", "head.project.bias"}
    layer = [new[f"head.project.{name}"].double().numpy() for name in ("weight", "bias")]
    check_answers(untrained, tracks(untrained, student), *layer)


def damage(library: Library, row: int) -> None:
    (shard,) = [p for p in (library.store / f"features/audiomuse/mel/c/{row}").rglob("*") if p.is_file()]
    shard.write_bytes(b"\xff" * shard.stat().st_size)


def held(row: int) -> bool:
    return row % 4 in (1, 3)  # of HELD_OUT


def layer_by_scikit_learn(
    x: Array, y: Array, segments: Array, student: Student, said: dict[str, Any]
) -> tuple[Array, Array]:
    """The mixed layer that the file says it has, from the rows that it was fitted to."""
    alpha = said["strength"] * np.square(x - x.mean(axis=0)).sum() / x.shape[1]
    new = Ridge(alpha=alpha).fit(x, y)
    old = [p.detach().double().numpy() for p in (student.head.project.weight, student.head.project.bias)]
    mixed: list[Array] = [np.zeros_like(old[0]), np.zeros_like(old[1])]
    for share, (weight, bias) in ((said["share"], (new.coef_, new.intercept_)), (1 - said["share"], old)):
        scale = share / np.sqrt(np.square(segments @ weight.T + bias).sum(axis=1).mean())
        mixed[0] += scale * weight
        mixed[1] += scale * bias
    return mixed[0], mixed[1]


def check_answers(library: Library, found: list[Heard], weight: Array, bias: Array) -> None:
    """The file answers with that layer."""
    embedder = embedder_of(library.run.student_onnx, library.recipe)
    with FeatureStore.open(library.store) as store:
        for row in (1, 2, 8):
            answers = embedder.embed_decibels(store.features(library.recipe).segments(row)).segments
            outputs = found[row].features @ weight.T + bias
            np.testing.assert_allclose(answers, outputs / np.linalg.norm(outputs, axis=1, keepdims=True), atol=2e-5)


def test_the_layer_is_what_scikit_learn_finds_from_track_vectors(untrained: Library) -> None:
    checkpoint = untrained.run.best.read_bytes()
    done = export(untrained, "--refit-head")
    assert done.exit_code == 0, done.output
    assert re.search(
        r"(?m)^refit: the head was fitted again to the teacher's track vectors of 6 training tracks \(strength 0\.\d+, "
        r"\d+% new\); on 6 validation tracks centred -?0\.\d+ -> 0\.\d+, overlap@10 ",
        done.stdout,
    )
    assert untrained.run.best.read_bytes() == checkpoint
    said = json.loads(metadata(untrained.run.student_onnx)["refit_head"])
    assert said["targets"] == "track"
    assert (said["training_tracks"], said["validation_tracks"]) == (6, 6)
    assert said["after"]["centred"] > said["before"]["centred"] + 0.1
    student, _ = load_student(untrained.run.best)
    found = tracks(untrained, student)
    inside = [track for row, track in enumerate(found) if not held(row)]
    # A tail that repeats the last segment counts twice in a track's mean and once as a segment.
    x = np.stack([track.features.mean(axis=0) for track in inside])
    segments = np.concatenate([np.unique(track.features, axis=0) for track in inside])
    weight, bias = layer_by_scikit_learn(x, np.stack([t.teacher for t in inside]), segments, student, said)
    check_answers(untrained, found, weight, bias)


def test_segment_vectors_are_fitted_segment_by_segment_where_the_run_learnt_them(untrained: Library) -> None:
    student, _ = load_student(untrained.run.best)
    found = tracks(untrained, student)
    taught = [np.repeat(track.teacher[None], len(track.features), axis=0).astype(np.float16) for track in found]
    untaught = 4
    with FeatureStore.open(untrained.store, "r+") as store:
        vectors = store.add_segment_set("the-teacher", hop_samples=240_000, model="d")
        rows = [row for row in range(12) if row != untaught]
        vectors.write(rows, [taught[row] for row in rows])
        run = {"store": {"uuid": store.uuid}, "segment_vectors": {"name": "the-teacher", "hop_samples": 240_000}}
    untrained.run.description.write_text(json.dumps(run), encoding="utf-8")
    said = refit(untrained)
    assert said["targets"] == "segment"
    inside = [row for row in range(12) if not held(row)]
    x, y, segments = [], [], []
    for row in inside:
        once = np.unique(found[row].features, axis=0, return_index=True)[1]
        segments.append(found[row].features[once])
        # Of a track whose segment vectors are not known, its own vector is all there is.
        x.append(found[row].features.mean(axis=0, keepdims=True) if row == untaught else segments[-1])
        y.append(found[row].teacher[None] if row == untaught else taught[row][once].astype(np.float64))
    weight, bias = layer_by_scikit_learn(np.concatenate(x), np.concatenate(y), np.concatenate(segments), student, said)
    check_answers(untrained, found, weight, bias)


def test_a_head_that_is_right_stays_and_the_file_is_the_same(copied_library: Library) -> None:
    assert export(copied_library).exit_code == 0
    plain = copied_library.run.student_onnx.read_bytes()
    assert "refit_head" not in metadata(copied_library.run.student_onnx)
    done = export(copied_library, "--refit-head")
    assert done.exit_code == 0, done.output
    assert "refit: the head stays: of 12 layers fitted to the teacher's track vectors none raises" in done.stdout
    assert copied_library.run.student_onnx.read_bytes() == plain


def test_the_figures_are_those_that_evaluate_finds_and_the_same_command_gives_the_same_bytes(
    untrained: Library,
) -> None:
    said = refit(untrained)
    first = untrained.run.student_onnx.read_bytes()
    assert refit(untrained) == said
    assert untrained.run.student_onnx.read_bytes() == first
    known = json.loads(metadata(untrained.run.student_onnx)["validation_metrics"])
    assert known == {name: pytest.approx(value, abs=1e-6) for name, value in said["after"].items()}
    assert float(metadata(untrained.run.student_onnx)["validation_cosine"]) == pytest.approx(known["cosine"], abs=1e-6)
    judged = CliRunner().invoke(main, ["evaluate", *untrained.settings(), "--from-store"], catch_exceptions=False)
    assert judged.exit_code == 0, judged.output
    record = json.loads((untrained.run.evaluation / "metrics.json").read_text(encoding="utf-8"))
    assert record["student"]["cosine"]["mean"] == pytest.approx(known["cosine"], abs=1e-4)
    assert record["student"]["means"]["recall@1"] == pytest.approx(known["mixed_recall_at_1"], abs=1e-4)
    for baseline, name in (("mean_vector", "mean_vector_cosine"), ("shuffled", "shuffled_cosine")):
        assert record[baseline]["cosine"]["mean"] == pytest.approx(known[name], abs=1e-4)
    beats = conclude(record).beats_baselines
    assert metadata(untrained.run.student_onnx)["beats_baselines"] == ("yes" if beats else "no")


def test_test_tracks_are_not_touched(untrained: Library) -> None:
    split = {"validation_artists": [HELD_OUT[0]], "test_artists": [HELD_OUT[1]]}
    untrained.run.split.write_text(json.dumps(split), encoding="utf-8")
    said = refit(untrained)
    assert (said["training_tracks"], said["validation_tracks"]) == (6, 3)
    first = untrained.run.student_onnx.read_bytes()
    with FeatureStore.open(untrained.store, "r+") as store:
        features, lengths = store.features(untrained.recipe), store.features(untrained.recipe).n_samples()
        for row in (3, 7, 11):
            features.write_strip(row, features.strip(row, int(lengths[row]))[::-1].copy(), int(lengths[row]))
    refit(untrained)
    assert untrained.run.student_onnx.read_bytes() == first


def test_a_track_that_cannot_be_read_is_left_out(untrained: Library) -> None:
    for row in (0, 1):
        damage(untrained, row)
    # Parity is shown on every track that is there.
    done = export(untrained, "--refit-head")
    assert "5 training tracks" in done.stdout, done.output
    assert "5 validation tracks" in done.stdout
    assert done.exit_code == 1
    assert "row 1: the audiomuse shard is damaged" in done.output


def test_fewer_bits_are_made_of_the_new_head(untrained: Library) -> None:
    done = export(untrained, "--refit-head", "--quantize", "fp16-weights")
    if done.exit_code:  # what is no slower here may be slower when other work comes between
        assert "times as fast" in done.output
        return
    said = metadata(untrained.run.variant("fp16-weights"))
    assert json.loads(said["refit_head"])["after"]
    assert json.loads(said["quantization"])["quality"]["mean"] > 0.99


def test_a_store_that_is_not_the_run_s_is_refused(untrained: Library) -> None:
    student, _ = load_student(untrained.run.best)
    write_checkpoint(untrained.run.best, checkpoint_info("f" * 32), student)
    done = export(untrained, "--refit-head")
    assert done.exit_code == 1
    assert re.search(
        r"--refit-head needs the store that the student was trained from \(f{32}\), and .*store\.path", done.output
    )
    assert not untrained.run.student_onnx.exists()


def test_a_checkpoint_outside_its_run_is_refused(untrained: Library, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "deep" / "best.pt"
    alone.parent.mkdir(parents=True)
    alone.write_bytes(untrained.run.best.read_bytes())
    done = export(untrained, "--refit-head", "--checkpoint", alone, "--output", tmp_path / "s.onnx")
    assert done.exit_code == 1
    assert "goes by the validation tracks of the checkpoint's run" in done.output
    assert not (tmp_path / "s.onnx").exists()
