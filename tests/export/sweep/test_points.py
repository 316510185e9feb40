"""A sweep's file: grids, lists, folds, seeds, names; and what is wrong with one, said before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from student_clap.config.load import ConfigError
from student_clap.export.sweep import here
from student_clap.export.sweep.driver import as_task
from student_clap.export.sweep.here import environments, gpus
from student_clap.export.sweep.points import read_sweep
from student_clap.export.sweep.process import Ended, Task
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


def test_seeds_alone_are_a_sweep_and_null_unsets(tmp_path: Path) -> None:
    runs = planned(tmp_path, "seeds: [0, 1]\nsettings: {training.segments_per_track: null, training.cache: none}")
    assert [(run.name, run.point) for run in runs] == [("rates-s0", "rates"), ("rates-s1", "rates")]
    assert runs[0].config.training.segments_per_track is None


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("settings: {training.epochs: 3}\nseeds: [0]", "training.epochs=1"),
        ("settings: {training.lr: 1e-3}\ngrid: {training.epochs: [1]}", "training.learning_rate=1e-4"),
        ("points: {a: {training.epochs: 1}, b: {training.lr: 1e-4}}", "training.epochs=1"),
    ],
)
def test_what_no_name_tells_may_be_set_on_the_command_line(tmp_path: Path, text: str, given: str) -> None:
    (run,) = planned(tmp_path, text, *(["b"] if "points" in text else []), given=(given,))
    assert (run.config.training.epochs, run.config.training.learning_rate) in ((1, 1e-3), (1, 1e-4))


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("grid: {training.lr: [3e-3, 1e-3]}", "training.lr=1e-4", "--set training.learning_rate: the point lr-0.003"),
        ("grid: {training.lr: [3e-3]}", " training.learning_rate =1e-4", "--set training.learning_rate: the point"),
        ("points: [{training.epochs: 4}]", "training.epochs=1", "--set training.epochs: the point epochs-4 sets it"),
        ("parts: {p: {training.epochs: 4}}\npoints: [p]", "training.epochs=1", "--set training.epochs: the point p"),
        ("seeds: [0, 1]", "training.seed=7", "--set training.seed: the seeds set it"),
        ("folds: [0]", "split.fold=1", "--set split.fold: the folds set it"),
    ],
)
def test_what_the_names_tell_is_not_set_otherwise(tmp_path: Path, text: str, given: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        planned(tmp_path, text, given=(given,))
    assert expected in refused.value.message


def test_the_later_one_of_two_names_of_a_setting_counts(tmp_path: Path) -> None:
    text = """
settings: {training.learning_rate: 0.5}
parts: {fast: {training.lr: 0.1}, slow: {training.learning_rate: 0.01}}
points: {a: [fast, slow, {training.lr: 0.2}], b: [fast, slow]}
"""
    assert [run.config.training.learning_rate for run in planned(tmp_path, text)] == [0.2, 0.01]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("points: {a: {training.lr: 1}}\ngrid: {training.learning_rate: [2]}", "is set by points; keep one of them"),
        (
            "grid: {training.lr: [1], training.learning_rate: [2]}",
            "training.learning_rate stands there under two names",
        ),
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


def test_a_run_that_names_its_gpu_sees_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str | None] = {}

    def carry_out(task: Task, _: object, environment: Mapping[str, str]) -> Ended:
        seen[task.run] = environment.get("CUDA_VISIBLE_DEVICES")
        return Ended(task.run, 0, "")

    monkeypatch.setattr(here, "carry_out", carry_out)
    monkeypatch.setattr(here, "gpus", lambda: ["0", "1"])
    devices = "points: {own: {training.device: 'cuda:1'}, any: {training.device: cuda}, auto: {}}"
    tasks = [as_task(run, None) for run in planned(tmp_path, devices)]
    assert not any(ended.failed for ended in here.carry_out_here(tasks, 1))
    assert seen == {"rates-own": None, "rates-any": "0", "rates-auto": "0"}
