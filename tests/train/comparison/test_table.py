"""`student-clap runs`: whatever lies in the runs' folder, it gives a table."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from student_clap.train.command import train
from student_clap.train.comparison.row import RunRow, read_run
from student_clap.train.runs.directory import lock_run
from student_clap.train.runs_command import runs

if TYPE_CHECKING:
    from tests.train.conftest import Library

DEADLINE_S = 60
TRAINING = {"learning_rate": 0.001, "epochs": 4, "seed": 1, "early_stopping_patience": 0, "projection_epochs": 0}
LOSS = {"targets": "track", "mse": 0.0, "squared": 0.0, "cosine": 1.0, "bank": 0.0}
COSINES = (0.1, 0.5, 0.3, 0.4)


def describe(**sections: Any) -> dict[str, Any]:
    """A run.json."""
    description: dict[str, Any] = {
        "format": "student-clap-run",
        "format_version": 2,
        "begun": "2026-01-02T03:04:05+00:00",
        "store": {"path": "/somewhere", "uuid": "abc"},
        "recipe_name": "audiomuse",
        "recipe": {"n_mels": 128},
        "teacher": "a teacher",
        "model": {"architecture": "tinyclap", "cnn_channels": [32, 64, 128]},
        "split": {"method": "hash", "folds": 10, "fold": 0},
        "loss": dict(LOSS),
        "augmentation": {"gain_db": 0.0, "masks": 2},
        "training": dict(TRAINING),
        "git_revision": None,
    }
    for name, value in sections.items():
        description[name] = description.get(name, {}) | value if isinstance(value, dict) else value
    return description


def make_run(runs_dir: Path, name: str, cosines: tuple[float, ...] = COSINES, **sections: Any) -> Path:
    directory = runs_dir / name
    directory.mkdir(parents=True)
    (directory / ".lock").touch()
    (directory / "run.json").write_text(json.dumps(describe(**sections)), encoding="utf-8")
    lines = [{"epoch": n, "step": n, "val_cosine": cosine, "seconds": 60.0} for n, cosine in enumerate(cosines, 1)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return directory


def ask(runs_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(runs, ["--runs-dir", str(runs_dir), *arguments])


def row(directory: Path) -> RunRow:
    found = read_run(directory)
    assert found is not None
    return found


# --- the table


def test_a_row_says_what_was_trained_and_how_well(tmp_path: Path) -> None:
    make_run(tmp_path, "first")
    make_run(
        tmp_path,
        "second",
        (0.2, 0.25),
        model={"architecture": "hybrid-s"},
        loss={"targets": "segment", "cosine": 0.5, "bank": 2.0},
        augmentation={"gain_db": 6.0, "time_mask": 0.1, "views": None},
        views={"1": 40, "2": 38},
        training={"seed": 7, "epochs": 30, "projection_epochs": 2},
    )
    lines = ask(tmp_path).stdout.splitlines()
    assert lines[0].split() == [
        *("run", "student", "recipe", "targets", "loss", "augmentation", "seed", "epochs", "cosine", "at", "last"),
        *("time", "state"),
    ]
    assert lines[1].split() == [
        *("first", "tinyclap", "audiomuse", "track", "cosine", "1", "4/4", "0.5000", "2", "0.4000", "4", "min"),
        "finished",
    ]
    assert lines[2].split("  ")[0] == "second"
    for expected in (
        "hybrid-s",
        "segment",
        "0.5 cosine + 2 bank",
        "gain, time mask, 2 views",
        " 7 ",
        "2/32",
        "0.2500",
        "stopped",
    ):
        assert expected in lines[2]


@pytest.mark.slow
def test_the_figures_of_a_real_run(library: Library) -> None:
    config = library.config()
    result = CliRunner().invoke(train, ["--config", str(library.config_file(config)), "--run", "real"])
    assert result.exit_code == 0, result.output
    directory = library.root / "runs" / "real"
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    shown = CliRunner().invoke(runs, ["--config", str(library.root / "config.yaml"), "--json"])
    assert shown.exit_code == 0, shown.output
    (found,) = json.loads(shown.stdout)["runs"]
    best = max(lines, key=lambda line: line["val_cosine"])
    assert found["state"] == "finished"
    assert (found["name"], found["architecture"], found["seed"]) == ("real", "tinyclap", 0)
    assert found["loss"] == {name: weight for name, weight in config.objective.weights.items() if weight}
    assert (found["epochs"], found["epochs_asked"]) == (3, 3)
    assert (found["best_cosine"], found["best_cosine_epoch"]) == (best["val_cosine"], best["epoch"])
    assert found["last_cosine"] == lines[-1]["val_cosine"]
    assert found["last"] == lines[-1]
    assert found["seconds"] == pytest.approx(sum(line["seconds"] for line in lines))
    assert found["begun"] == json.loads((directory / "run.json").read_text())["begun"]

    lock = lock_run(directory)
    try:
        assert row(directory).state == "running"
    finally:
        lock.release()
    assert row(directory).state == "finished"


def test_figures_that_only_some_runs_have(tmp_path: Path) -> None:
    make_run(tmp_path, "old")
    path = make_run(tmp_path, "new") / "metrics.jsonl"
    with path.open("a") as file:
        file.write(json.dumps({"epoch": 5, "val_cosine": 0.55, "val_overlap": 0.6, "val_centred": 0.45}) + "\n")
        # Another student's: a row tells of the best one alone.
        file.write(json.dumps({"epoch": 6, "val_cosine": 0.3, "val_overlap": 0.9, "val_centred": 0.7}) + "\n")
    lines = {line.split()[0]: line.split() for line in ask(tmp_path).stdout.splitlines()}
    assert lines["run"][-4:] == ["centred", "overlap", "time", "state"]
    assert lines["new"][-5:-3] == ["0.4500", "0.6000"]
    assert "0.6000" not in lines["old"]
    assert "0.9000" not in lines["new"]


def test_runs_of_the_first_format(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "old", format_version=1, training={"mse_weight": 0.6, "cosine_weight": 0.4})
    description = json.loads((directory / "run.json").read_text())
    del description["loss"], description["augmentation"]
    (directory / "run.json").write_text(json.dumps(description))
    make_run(tmp_path, "new")
    lines = ask(tmp_path, "old", "new").stdout.splitlines()
    assert "0.6 mse + 0.4 cosine" in lines[1]
    assert " track " in lines[1]
    settings = [line.split() for line in lines[lines.index("") + 1 :]]
    assert ["setting", "old", "new"] in settings
    assert ["loss.mse", "0.6", "0"] in settings
    assert ["loss.cosine", "0.4", "1"] in settings
    assert ["augmentation.*", "-", "set"] in settings
    assert not any("weight" in line[0] for line in settings)


@pytest.mark.parametrize(
    ("cosines", "training", "state"),
    [
        ((), {}, "stopped"),
        (COSINES[:3], {}, "stopped"),
        (COSINES, {}, "finished"),
        (COSINES, {"epochs": 9}, "stopped"),
        (COSINES, {"epochs": 9, "early_stopping_patience": 3}, "stopped"),
        (COSINES, {"epochs": 9, "early_stopping_patience": 2}, "finished"),
        (COSINES, {"projection_epochs": 1}, "stopped"),
        (COSINES, {"epochs": 3, "projection_epochs": 1}, "finished"),
        (COSINES, {"epochs": 9, "early_stopping_patience": 1, "projection_epochs": 1}, "finished"),
        (COSINES, {"epochs": 9, "early_stopping_patience": 1, "projection_epochs": 2}, "stopped"),
    ],
)
def test_finished_is_what_the_trainer_calls_finished(
    tmp_path: Path, cosines: tuple[float, ...], training: dict[str, int], state: str
) -> None:
    assert row(make_run(tmp_path, "run", cosines, training=training)).state == state


def test_a_run_that_watches_the_overlap_ends_by_it(tmp_path: Path) -> None:
    settings = {"epochs": 9, "early_stopping_patience": 2, "monitor": "overlap"}
    directory = make_run(tmp_path, "run", training=settings)
    lines = [{"epoch": n, "val_cosine": c, "val_overlap": n / 10} for n, c in enumerate(COSINES, 1)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert row(directory).state == "stopped"


# --- order and choice


def test_order(tmp_path: Path) -> None:
    make_run(tmp_path, "b", (0.2,), begun="2026-01-03T00:00:00+00:00")
    make_run(tmp_path, "a", (0.9, 0.1), training={"seed": 10})
    make_run(tmp_path, "c", (), training={"seed": 9})
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run.json").write_text("{")

    def names(*arguments: str) -> str:
        result = ask(tmp_path, *arguments)
        assert result.exit_code == 0, result.output
        return "".join(line[0] for line in result.stdout.splitlines()[1:])

    assert names() == "abcd"
    assert names("--sort", "cosine") == "abcd"
    assert names("--sort", "last") == "bacd"
    assert names("--sort", "seed") == "bcad"
    assert names("--sort", "epochs") == "abcd"
    assert names("--sort", "begun") == "acbd"
    assert names("--sort", "state")[0] == "d"
    result = ask(tmp_path, "--sort", "colour")
    assert result.exit_code == 1
    assert "--sort 'colour': expected one of run, student" in result.output


def test_named_runs_and_what_differs_between_them(tmp_path: Path) -> None:
    make_run(tmp_path, "a")
    make_run(tmp_path, "b", training={"learning_rate": 0.01, "runs_dir": "x"}, model={"cnn_channels": [8, 16, 32]})
    make_run(tmp_path, "c", store={"path": "/elsewhere", "uuid": "abc"})
    result = ask(tmp_path, "b", "a", "b")
    first, second = result.stdout.split("\n\n")
    assert [line.split()[0] for line in first.splitlines()] == ["run", "b", "a"]
    assert second.splitlines() == [
        "setting                 b            a",
        "model.cnn_channels      [8, 16, 32]  [32, 64, 128]",
        "training.learning_rate  0.01         0.001",
    ]
    assert json.loads(ask(tmp_path, "a", "b", "--json").stdout)["differences"] == {
        "model.cnn_channels": {"a": [32, 64, 128], "b": [8, 16, 32]},
        "training.learning_rate": {"a": 0.001, "b": 0.01},
    }
    assert ask(tmp_path, "a", "c").stdout.endswith("\n\nno setting differs\n")
    assert "setting" not in ask(tmp_path, "a").stdout
    assert "setting" not in ask(tmp_path).stdout


def test_a_name_that_is_no_run(tmp_path: Path) -> None:
    make_run(tmp_path, "a")
    result = ask(tmp_path, "a", "z")
    assert result.exit_code == 1
    assert f"{tmp_path} has no run 'z'; it has: a" in result.output


def test_no_runs_at_all(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        result = ask(folder)
        assert result.exit_code == 0
        assert result.stdout == f"no runs in {folder}; `student-clap train` begins one\n"
        assert json.loads(ask(folder, "--json").stdout)["runs"] == []
    (tmp_path / "file").touch()
    assert ask(tmp_path / "file").exit_code == 2


# --- damage


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "run.json is not JSON"),
        (b'{"format": "student-clap-run"', "run.json is not JSON"),
        (b"\xff\xfe\x00", "run.json is not JSON"),
        (b"[" * 100_000, "run.json is not JSON"),
        (b"[1, 2]", "run.json does not describe a run"),
        (b'{"format": "another"}', "run.json does not describe a run"),
        (None, "there is no run.json"),
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    make_run(tmp_path, "whole")
    path = make_run(tmp_path, "broken") / "run.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    for arguments in ((), ("broken", "whole")):
        result = ask(tmp_path, *arguments)
        assert result.exit_code == 0, result.output
        (line,) = [line for line in result.stdout.splitlines() if line.startswith("broken")]
        assert line.endswith(f"damaged: {problem}")
        assert "0.5000" in line  # its metrics are whole
        assert "finished" in result.stdout
    assert "setting" not in ask(tmp_path, "broken", "whole").stdout


def test_metrics_that_are_cut_off_and_metrics_that_are_damaged(tmp_path: Path) -> None:
    path = make_run(tmp_path, "run") / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"epoch": 5, "val_cos')
    assert (row(path.parent).state, row(path.parent).history.done) == ("finished", 4)
    path.write_bytes(whole.replace(b'"epoch": 2', b'"epoch" 2'))
    assert (row(path.parent).state, row(path.parent).problem) == ("damaged", "metrics.jsonl is damaged in line 2")
    assert row(path.parent).history.best("val_cosine") == {"epoch": 4, "step": 4, "val_cosine": 0.4, "seconds": 60.0}
    path.unlink()
    path.mkdir()
    assert row(path.parent).problem.startswith("metrics.jsonl cannot be read: ")


def test_odd_values_of_the_right_form(tmp_path: Path) -> None:
    path = make_run(
        tmp_path,
        "odd\x1b[31m",
        begun=5,
        recipe_name=["x"],
        model=[1],
        loss="cosine",
        augmentation=None,
        training={"epochs": "many", "seed": {"a": 1}, "early_stopping_patience": "no", "monitor": 4},
    )
    lines = [
        '{"epoch": 1, "val_cosine": NaN, "seconds": Infinity}',
        '{"epoch": 2, "val_cosine": "high", "seconds": null}',
        '{"epoch": 2, "val_cosine": 0.25, "val_overlap": true, "seconds": 1}',
        '{"epoch": 3, "val_cosine": -1e999, "seconds": 1e308}',
        '{"epoch": 4, "seconds": 1' + "0" * 400 + "}",
    ]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    result = ask(tmp_path)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "4/?" in result.stdout
    assert "0.2500" in result.stdout
    for arguments in (["--json"], ["--sort", "seed"], ["--sort", "time"], ["--json", "--sort", "begun"]):
        result = ask(tmp_path, *arguments)
        assert result.exit_code == 0, result.output
    json.loads(ask(tmp_path, "--json").stdout, parse_constant=pytest.fail)


def test_folders_that_are_no_runs_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path, "run")
    make_run(tmp_path, ".hidden")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").touch()
    (tmp_path / "file.txt").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    shown = [line.split()[0] for line in ask(tmp_path).stdout.splitlines()[1:]]
    assert [name for name in shown if name not in ("nowhere", "circle")] == ["run"]


def test_a_run_that_is_being_begun_and_one_that_never_was(tmp_path: Path) -> None:
    directory = tmp_path / "young"
    lock = lock_run(directory)
    try:
        assert (row(directory).state, row(directory).problem) == ("running", "")
    finally:
        lock.release()
    (directory / ".lock").touch()
    assert (row(directory).state, row(directory).problem) == ("damaged", "there is no run.json")


def test_looking_changes_nothing(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "run")
    (directory / ".lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in [directory, *directory.iterdir()]}
    assert ask(tmp_path).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in [directory, *directory.iterdir()]} == before


def test_random_damage_never_ends_in_an_error(tmp_path: Path) -> None:
    source = make_run(tmp_path / "source", "run", loss={"bank": 1.0}, augmentation={"gain_db": 6.0})
    chance = random.Random(0)
    for number in range(150):
        directory = tmp_path / "runs" / f"run-{number}"
        directory.mkdir(parents=True)
        for name in ("run.json", "metrics.jsonl"):
            content = bytearray((source / name).read_bytes())
            for _ in range(chance.randrange(4)):
                at = chance.randrange(len(content))
                match chance.randrange(3):
                    case 0:
                        content[at] = chance.randrange(256)
                    case 1:
                        del content[at : at + chance.randrange(20)]
                    case _:
                        content[at:at] = chance.choice([b"null", b"[]", b"{}", b'""', b"-1", b"1e999", b",", b"\n"])
            (directory / name).write_bytes(content)
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    for arguments in ((), ("--json",), ("--sort", "cosine"), ("--sort", "seed"), tuple(names), (*names, "--json")):
        result = ask(tmp_path / "runs", *arguments)
        assert result.exit_code == 0, (arguments, result.exception)
        assert all(name in result.stdout for name in names)


def test_the_table_needs_no_torch(tmp_path: Path) -> None:
    make_run(tmp_path, "a")
    make_run(tmp_path, "b", training={"seed": 2})
    code = (
        "import sys; from click.testing import CliRunner; from student_clap.config.cli import main;"
        f"r = CliRunner().invoke(main, ['runs', '--runs-dir', {str(tmp_path)!r}, 'a', 'b']);"
        "assert r.exit_code == 0, r.output; assert 'training.seed' in r.output;"
        "assert not {'torch', 'zarr', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=DEADLINE_S, env={**os.environ})


def test_the_epoch_of_best_pt_is_that_of_the_figure_that_the_run_monitors(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "neighbours", training={"epochs": 3, "monitor": "overlap"})
    lines = [
        {"epoch": 1, "val_cosine": 0.4, "val_overlap": 0.9, "val_centred": 0.1},
        {"epoch": 2, "val_cosine": 0.5, "val_overlap": 0.7, "val_centred": 0.2},
        {"epoch": 3, "val_cosine": 0.6, "val_overlap": 0.8, "val_centred": 0.3},
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = row(directory).as_json()
    assert (found["best_cosine_epoch"], found["best_cosine"], found["best"]["val_centred"]) == (1, 0.4, 0.1)
    assert " 1 " in ask(tmp_path).stdout.splitlines()[1]
