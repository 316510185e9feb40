"""A model's evaluation is found by its bytes, and a model that is no use, or was not evaluated, goes nowhere."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.export.app.model_verdict import UnprovenModelError, check_worth, shared_index
from student_clap.export.evaluate.record import Evaluated, find_evaluation
from student_clap.export.model.metadata import get_metadata, set_metadata
from student_clap.export.model.trained_verdict import read_verdict, verdict_entry
from student_clap.featurize.onnx.recipe import METADATA_PREFIX

from ..conftest import Library


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """A model of the test's own in a folder of its own."""
    path = tmp_path / "run" / "student.onnx"
    path.parent.mkdir()
    return Path(shutil.copy(exported, path))


def record_of(model: Path, cosine: float = 0.8, centred: float = 0.5) -> dict[str, Any]:
    """metrics.json of a student next to a mean vector of cosine 0.511."""

    def predictor(cosine: float, centred: float, recall: float) -> dict[str, Any]:
        means = {"cosine": cosine, "centred_cosine": centred, "overlap@10": 0.5 * recall, "ndcg@10": recall}
        return {"neighbours": 10, "means": means | {"recall@1": recall, "reverse_recall@1": 0.8 * recall}}

    return {
        "evaluated_at": "2026-01-01 00:00 UTC",
        "n_tracks": 40,
        "intervals": {},
        "model": {"sha256": hashlib.sha256(model.read_bytes()).hexdigest()},
        "student": predictor(cosine, centred, 0.625),
        "mean_vector": predictor(0.511, 0.0, 0.025),
        "shuffled": predictor(0.3, -0.02, 0.0),
    }


def write(record: object, model: Path, folder: str = "evaluation") -> None:
    path = model.parent / folder / "metrics.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_student_that_beats_both_baselines_passes(model: Path) -> None:
    write(record_of(model), model)
    assert check_worth(model, find_evaluation(model), anyway=False) == ""


@pytest.mark.parametrize(("cosine", "centred"), [(0.242, 0.5), (0.8, -0.1), (0.511, 0.0)])
def test_a_student_worse_than_a_constant_is_refused_with_its_figures(
    model: Path, cosine: float, centred: float
) -> None:
    write(record_of(model, cosine, centred), model)
    evaluated = find_evaluation(model)
    with pytest.raises(UnprovenModelError) as refused:
        check_worth(model, evaluated, anyway=False)
    for part in (f"cosine {cosine:.3f} (mean vector 0.511, shuffled 0.300)", f"{centred:.3f}", "40", "--anyway"):
        assert part in refused.value.message
    assert "does not beat both baselines" in check_worth(model, evaluated, anyway=True)


def test_what_was_not_evaluated_is_refused_with_the_command_that_judges_it(model: Path) -> None:
    with pytest.raises(UnprovenModelError, match=r"was not evaluated.*--anyway") as refused:
        check_worth(model, find_evaluation(model), anyway=False)
    advice = re.search(r"`(student-clap evaluate [^`]+)`", refused.value.message)
    assert advice
    words = shlex.split(advice[1])
    assert words[words.index("--run") + 1] == "tinyclap-audiomuse"
    folder = Path(words[words.index("--out") + 1])
    write(record_of(model), model, folder.name)
    assert folder.parent == model.parent
    assert find_evaluation(model).record is not None


@pytest.mark.parametrize(
    ("cosine", "centred", "beats"), [(0.8, 0.5, True), (0.5, 0.5, False), (0.8, 0.05, False), (0.8, -0.1, False)]
)
def test_a_file_that_was_taken_elsewhere_carries_the_verdict_of_its_training(
    model: Path, cosine: float, centred: float, beats: bool
) -> None:
    epoch = {
        "epoch": 4,
        "val_cosine": cosine,
        "val_centred": centred,
        "val_mean_vector_cosine": 0.511,
        "val_shuffled_cosine": 0.3,
        "val_shuffled_centred": 0.1,
    }
    graph = onnx.load(model)
    stored = get_metadata(graph)
    validation = {key.removeprefix("val_"): value for key, value in epoch.items() if key.startswith("val_")}
    known = {"validation_metrics": json.dumps(validation), "beats_baselines": verdict_entry(validation)}
    set_metadata(graph, stored | {METADATA_PREFIX + key: value for key, value in known.items()})
    onnx.save(graph, model)
    assert known["beats_baselines"] == ("yes" if beats else "no")
    if beats:
        assert check_worth(model, find_evaluation(model), anyway=False) == ""
    else:
        with pytest.raises(UnprovenModelError) as refused:
            check_worth(model, find_evaluation(model), anyway=False)
        assert f"cosine {cosine:.3f} (mean vector 0.511, shuffled 0.300)" in refused.value.message
        assert "on the validation tracks of its training" in refused.value.message
    # An evaluation of the file itself goes before it.
    write(record_of(model, cosine=0.8 if not beats else 0.1), model)
    if beats:
        with pytest.raises(UnprovenModelError):
            check_worth(model, find_evaluation(model), anyway=False)
    else:
        assert check_worth(model, find_evaluation(model), anyway=False) == ""


@pytest.mark.parametrize("damaged", ["", "[]", '{"cosine": "x"}', '{"cosine": 0.9}', "{" * 10_000])
def test_a_verdict_without_its_figures_is_none(damaged: str) -> None:
    assert read_verdict({"beats_baselines": "yes", "validation_metrics": damaged}) is None
    assert verdict_entry({"cosine": 0.9}) == ""


def test_an_evaluation_of_other_bytes_or_a_damaged_one_is_none(model: Path) -> None:
    write(record_of(model) | {"model": {"sha256": "0" * 64}}, model)
    assert "about another file" in find_evaluation(model).why_not
    for damaged in ({"model": {}}, [], {"model": record_of(model)["model"]}):
        write(damaged, model)
        assert "cannot be read" in find_evaluation(model).why_not


def test_several_forms_of_a_student_have_their_own_evaluations(model: Path) -> None:
    small = Path(shutil.copy(model, model.parent / "student-int8.onnx"))
    small.write_bytes(model.read_bytes() + b"\n")
    write(record_of(model), model)
    write(record_of(small, cosine=0.1), small, "evaluation-student-int8")
    assert check_worth(model, find_evaluation(model), anyway=False) == ""
    with pytest.raises(UnprovenModelError):
        check_worth(small, find_evaluation(small), anyway=False)
    write(record_of(small) | {"evaluated_at": "2026-01-02 00:00 UTC"}, small, "evaluation-again")
    assert check_worth(small, find_evaluation(small), anyway=False) == ""


def test_figures_of_test_tracks_come_before_newer_ones_of_validation_tracks(model: Path) -> None:
    write(record_of(model) | {"on": "test", "n_tracks": 30}, model)
    later = {"on": "validation", "evaluated_at": "2026-01-02 00:00 UTC"}
    write(record_of(model, cosine=0.1) | later, model, "evaluation-validation")
    evaluated = find_evaluation(model)
    assert check_worth(model, evaluated, anyway=False) == ""
    assert "Measured on 30 test tracks" in shared_index(model, evaluated)
    write(record_of(model, cosine=0.1) | {"on": "test", "n_tracks": 30}, model)
    with pytest.raises(UnprovenModelError, match="on 30 test tracks"):
        check_worth(model, find_evaluation(model), anyway=False)


def test_the_figure_of_an_index_of_old_and_new_vectors(model: Path) -> None:
    assert "is not known" in shared_index(model, find_evaluation(model))
    proto = onnx.load(str(model))
    older, now = "held_out_metrics", "validation_metrics"
    for name, key in ((older, "mixed_recall_at_1"), (older, "cross_model_recall_at_1"), (now, "mixed_recall_at_1")):
        del proto.metadata_props[:]
        entry = proto.metadata_props.add()
        entry.key, entry.value = METADATA_PREFIX + name, json.dumps({key: 0.25})
        onnx.save(proto, str(model))
        # What training left in the file serves until the file itself was judged.
        assert re.search(r"In training.* 25\.0%.*R@1 0\.250", shared_index(model, Evaluated(None, "")))
    write(record_of(model), model)
    found = shared_index(model, find_evaluation(model))
    assert "Measured on 40 held-out tracks" in found
    write({**record_of(model), "n_tracks": 1}, model)
    assert "is not known: it was evaluated on one track" in shared_index(model, find_evaluation(model))
    assert (
        "62.5% of cases (cross-model retrieval R@1 0.625), an old vector its own new one in 50.0% (R@1 0.500)" in found
    )


def test_deploy_refuses_and_changes_nothing(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    refused = run("deploy", model, "--to", folder)
    assert refused.exit_code == 1
    assert "was not evaluated" in refused.stderr
    write(record_of(model, cosine=0.242), model)
    refused = run("deploy", model, "--to", folder)
    assert refused.exit_code == 1
    assert "cosine 0.242 (mean vector 0.511" in refused.stderr
    assert list(folder.iterdir()) == []
    done = run("deploy", model, "--to", folder, "--anyway")
    assert done.exit_code == 0
    assert "warning: " in done.stderr
    assert "cosine 0.242 (mean vector 0.511" in done.stderr
    write(record_of(model), model)
    done = run("deploy", model, "--to", folder)
    assert done.exit_code == 0, done.output
    assert "62.5% of cases" in done.stderr


def test_evaluate_then_deploy(copied_library: Library, exported: Path, tmp_path: Path) -> None:
    student = Path(shutil.copy(exported, copied_library.run.student_onnx))
    judged = run("evaluate", *copied_library.settings())
    assert judged.exit_code == 0, judged.output
    assert judged.stdout.startswith("The student beats both baselines on ")
    (tmp_path / "models").mkdir()
    done = run("deploy", student, "--to", tmp_path / "models")
    assert done.exit_code == 0, done.output
    assert "Measured on 6 validation tracks" in done.stderr
