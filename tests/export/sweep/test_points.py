"""A sweep's file: grids, lists, folds, seeds, names; and what is wrong with one, said before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from student_clap.config.load import ConfigError
from student_clap.export.sweep.here import environments, gpus
from student_clap.export.sweep.points import read_sweep
from student_clap.export.sweep.runs import PlannedRun, SweepError, choose_points, plan_runs
from student_clap.train.students.registry import compared

RECIPES = Path(__file__).resolve().parents[3] / "bench" / "recipes.yaml"


def planned(tmp_path: Path, text: str, *points: str, given: tuple[str, ...] = ()) -> list[PlannedRun]:
    path = tmp_path / "rates.yaml"
    path.write_text(text, encoding="utf-8")
    config = tmp_path / "config.yaml"
    config.write_text("training: {epochs: 7}\n", encoding="utf-8")
    sweep = read_sweep(path)
    return plan_runs(sweep, choose_points(sweep, points), config, given)


def test_a_grid_has_every_combination_with_every_fold_and_seed(tmp_path: Path) -> None:
    runs = planned(
        tmp_path,
        "grid: {training.lr: [1e-3, 3e-4], model.cnn_channels: [[8, 16, 32]]}\nfolds: [0, 2]\nseeds: [5, 1]\n"
        "settings: {training.epochs: 9}\n",
    )
    assert [run.name for run in runs] == [
        f"rates-lr-{lr}_cnn_channels-8-16-32-f{fold}-s{seed}"
        for seed in (5, 1)
        for fold in (0, 2)
        for lr in ("0.001", "0.0003")
    ]
    config = runs[3].config
    assert (config.training.learning_rate, config.split.fold, config.training.seed) == (3e-4, 2, 5)
    assert (config.model.cnn_channels, config.training.epochs) == ((8, 16, 32), 9)
    assert len({run.point for run in runs}) == 2


def test_a_list_of_points_their_parts_and_a_grid(tmp_path: Path) -> None:
    text = """
name: try
parts:
  loud: {augmentation.gain_db: 6, training.epochs: 3}
points:
  - {}
  - loud
  - [loud, {training.epochs: 4}]
grid: {training.batch_size: [4]}
"""
    runs = planned(tmp_path, text)
    assert [run.name for run in runs] == [
        "try-batch_size-4",
        "try-loud_batch_size-4",
        "try-loud_epochs-4_batch_size-4",
    ]
    assert [(run.config.training.epochs, run.config.augmentation.gain_db) for run in runs] == [(7, 0), (3, 6), (4, 6)]
    assert [run.name for run in planned(tmp_path, text, "loud_batch_size-4")] == ["try-loud_batch_size-4"]
    # What the command line says wins, as everywhere.
    assert {run.config.training.epochs for run in planned(tmp_path, text, given=("training.epochs=1",))} == {1}


def test_seeds_alone_are_a_sweep_and_null_unsets(tmp_path: Path) -> None:
    runs = planned(tmp_path, "seeds: [0, 1]\nsettings: {training.segments_per_track: null, training.cache: none}")
    assert [(run.name, run.point) for run in runs] == [("rates-s0", "rates"), ("rates-s1", "rates")]
    assert runs[0].config.training.segments_per_track is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grid: {training.rate: [1]}", "training.rate: unknown key"),
        ("grid: {training.lr: [fast]}", "training.lr"),
        ("grid: {training.lr: 1e-3}", "grid.training.lr: expected a list of values"),
        ("grid: {lr: [1e-3]}", "grid: lr is no setting of a run"),
        ("settings: {database.password: x}", "settings: database.password is no setting of a run"),
        ("settings: {training.runs_dir: x}", "training.runs_dir belongs into config.yaml"),
        ("seeds: [0]\nsettings: {training.seed: 1}", "settings: training.seed is set by seeds"),
        ("seeds: [0, 0]", "seeds: a number stands twice"),
        ("folds: 3", "folds: 3; expected a list of whole numbers"),
        ("folds: [12]", "split"),
        ("points: [loud]", "there is no part 'loud'"),
        ("points: {a b: {}}", "points.a b: use letters"),
        ("points: [{training.epochs: 1}, {training.epochs: 1}]", "2 of them would be called 'epochs-1'"),
        ("points: {a: {loss: {bank: 1}}}", "points.a: loss is no setting of a run"),
        ("points: {a: {model.x: {bank: 1}}}", "model.x holds a section"),
        ("points: {a: }", "points.a: holds nothing"),
        (f"points: {{{'a' * 99}: {{}}}}", "is too long for a run's name"),
        ("judged: first", "judged: 'first'; expected one of best, last"),
        ("seed: [0]", "seed: unknown key"),
        ("name: ../x", "name: '../x'"),
        ("- 1", "holds a list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(tmp_path, text)
    assert expected in caught.value.message
    assert len(caught.value.message) < 1000


def test_an_unknown_point_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="no point 'c'; points: a, b"):
        planned(tmp_path, "points: {a: {}, b: {}}", "c")
    with pytest.raises(ConfigError, match="no such file"):
        read_sweep(tmp_path / "none.yaml")


def test_the_recipes_of_the_corpus(tmp_path: Path) -> None:
    """All can be run, the last epoch is judged, and all compared students are raced."""
    sweep = read_sweep(RECIPES)
    runs = plan_runs(sweep, sweep.points, None, (f"training.runs_dir={tmp_path}",))
    assert sweep.judged == "last"
    assert {run.name for run in runs} >= {"recipes-track-cosine-f0-s0", "recipes-segment-bank-k2-long-f0-s0"}
    race = {run.config.model.architecture for run in runs if run.point.startswith("race-")}
    assert race == set(compared())
    assert all(run.config.training.early_stopping_patience == 0 for run in runs)


def test_runs_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert environments(3, 4, gpus()) == [
        {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("3", "5", "3")
    ]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environments(1, 4, ["0"]) == [{}]
