"""`train --resume`: a run goes back to a checkpoint that it kept, and is from there on what it was then."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import torch
from click.testing import CliRunner

from student_clap.config.schema import Config
from student_clap.train.command import train as command
from student_clap.train.loop.loop import Trainer
from student_clap.train.loop.session import open_display, open_stream, open_trainer
from student_clap.train.loop.validation import Validation
from student_clap.train.origin import rewind
from student_clap.train.origin.rewind import RewindError
from student_clap.train.runs.checkpoint import read_checkpoint
from student_clap.train.runs.reader import RunFolder

if TYPE_CHECKING:
    from tests.train.conftest import Library

pytestmark = pytest.mark.slow

MEASURED = {"seconds", "tracks_per_s", "segments_per_s", "data_wait_s"}
# Held-out cosines by epoch: at epoch 3, which is kept, epoch 2 is the best one; later another one is.
COSINES = (0.1, 0.5, 0.3, 0.2, 0.6, 0.4)


@pytest.fixture(autouse=True)
def cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The held-out figures are given, so that it is known which epoch is the best one."""

    def validate(trainer: Trainer, *_: object) -> Validation:
        cosine = COSINES[trainer.progress.epoch] + trainer.training.seed / 1000
        return Validation(loss=1.0, cosine=cosine, centred=cosine, overlap=1 - cosine, mixed_recall_at_1=0.0)

    monkeypatch.setattr(Trainer, "validate", validate)


def config_of(library: Library, epochs: int = 6, **training: Any) -> Config:
    # With a constant rate the first epochs are those of a longer run.
    settings = {"epochs": epochs, "save_every": 3, "schedule": "constant", "early_stopping_patience": 0, **training}
    return library.config(training=settings)


def train(config: Config, name: str = "run", resume: Path | None = None) -> RunFolder:
    """What the command does."""
    with (
        open_trainer(config, name, resume=resume) as trainer,
        open_stream(config, trainer) as stream,
        open_display(trainer) as display,
    ):
        trainer.train(stream, display)
        return trainer.run


def lines(folder: RunFolder) -> list[dict[str, float]]:
    text = folder.metrics.read_text(encoding="utf-8")
    return [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in text.splitlines()]


def flat(value: Any) -> Any:
    """A checkpoint's content without what is measured, tensors as bytes."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items() if key not in {"seconds", "wait_s", "run_name"}}
    return [flat(item) for item in value] if isinstance(value, list | tuple) else repr(value)


def checkpoints(folder: RunFolder) -> dict[str, Any]:
    paths = [*folder.path.glob("*.pt"), *folder.path.glob("checkpoints/*.pt")]
    return {str(path.relative_to(folder.path)): flat(read_checkpoint(path)[1]) for path in paths}


def assert_alike(one: RunFolder, other: RunFolder, *, but: str = "") -> None:
    assert lines(one) == lines(other)
    found, expected = checkpoints(one), checkpoints(other)
    for of_run in (found, expected):
        of_run.pop(but, None)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.fixture
def then(library: Library) -> RunFolder:
    """The run as it was after three epochs."""
    run = train(config_of(library, 3))
    return RunFolder(Path(shutil.copytree(run.path, run.path.parent / "then")))


@pytest.fixture
def run(library: Library, then: RunFolder) -> RunFolder:
    """The run, trained to the end."""
    folder = train(config_of(library))
    assert read_checkpoint(folder.best)[0].epoch == 5
    assert then.kept(3).exists()
    return folder


def test_it_is_what_it_was_and_goes_on_as_if_nothing_had_come_after(
    run: RunFolder, then: RunFolder, library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    later = checkpoints(run)
    metrics = run.metrics.read_bytes()
    with open_trainer(config_of(library), "run", resume=run.kept(3)) as trainer:
        assert trainer.progress.epoch == 3
        assert (trainer.progress.best_epoch, trainer.progress.best_cosine) == (2, 0.5)
        assert_alike(run, then, but="previous.pt")
        assert "epoch_0006" not in str(list(run.path.glob("checkpoints/*")))
    (said,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("went back"))
    aside = RunFolder(run.path / "set_aside" / "1")
    assert said == f"went back to epoch 3; what was there up to epoch 6 is set aside in {aside.path}"
    assert aside.metrics.read_bytes() == metrics
    kept = {name: later[name] for name in later if not name.endswith("_0003.pt")}
    assert checkpoints(aside) == kept

    train(config_of(library))
    train(config_of(library), "then")
    assert_alike(run, then)
    assert read_checkpoint(run.best)[0].epoch == 5
    assert run.epochs()[-1]["epoch"] == 6


def test_the_same_command_again_goes_on_and_another_checkpoint_goes_back_again(
    library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(library, save_every=1)
    run = train(config)
    with open_trainer(config, "run", resume=run.kept(4)) as trainer:
        assert trainer.progress.epoch == 4
    train(config_of(library, 6, save_every=1), resume=run.kept(4))
    assert run.history().done == 6
    capsys.readouterr()
    with open_trainer(config, "run", resume=run.kept(4)) as trainer:  # a batch job that is started again
        assert trainer.finished
    assert re.search(r"went back to epoch 4 at \S+ already; going on", capsys.readouterr().out)
    with open_trainer(config, "run", resume=run.kept(2)) as trainer:
        assert trainer.progress.epoch == 2
    with open_trainer(config, "run", resume=run.last) as trainer:
        assert trainer.progress.epoch == 2
    assert {path.name for path in (run.path / "set_aside").iterdir()} == {"1", "2"}


STEPS = ("link_atomically", "write_bytes_atomically", "cut_metrics", "draw_run", "write_text_atomically")


def test_a_kill_at_any_step_is_made_good_when_the_run_is_opened_next(
    run: RunFolder, then: RunFolder, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(library)
    whole = shutil.copytree(run.path, run.path.parent / "whole")
    killed = 0
    for moment in range(40):
        shutil.rmtree(run.path)
        shutil.copytree(whole, run.path)
        count = iter(range(moment, -1, -1))
        with monkeypatch.context() as patch:
            for name in STEPS:
                patch.setattr(rewind, name, _dying(getattr(rewind, name), count))
            try:
                with open_trainer(config, "run", resume=run.kept(3)):
                    break
            except KeyboardInterrupt:
                killed += 1
        with open_trainer(config, "run") as trainer:
            assert trainer.progress.epoch == (3 if moment else 6)  # the first step says what is to be done
            if moment:
                assert_alike(run, then, but="previous.pt")
                assert (run.path / "set_aside" / "1" / "checkpoints" / "epoch_0006.pt").exists()
                assert run.record()["rewinds"][0]["finished"]
    assert killed > 5


def _dying(function: Callable[..., Any], count: Any) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        if next(count, 0) == 0:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return call


def test_a_checkpoint_of_another_run_or_none_is_refused_and_nothing_is_moved(
    run: RunFolder, then: RunFolder, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(library)
    other = train(config_of(library, seed=5), "other")
    namesake = train(config_of(library, seed=5, runs_dir=library.root / "others"))
    before = checkpoints(run)
    shutil.copy(namesake.kept(3), run.path / "checkpoints" / "epoch_0005.pt")
    shutil.copy(other.kept(3), run.path / "checkpoints" / "epoch_0004.pt")
    moved = Path(shutil.copy(run.kept(3), library.root / "moved.pt"))
    (renamed := run.path / "renamed.pt").write_bytes(run.kept(3).read_bytes())
    run.student_onnx.write_bytes(b"an exported student")
    cases = (
        (run.student_onnx, r"an ONNX file holds a student alone, a checkpoint is a \.pt; .*has kept .*epoch_0003\.pt"),
        (other.kept(3), r"is of the run .*other, and --run names .*run; name one of them"),
        (run.kept(4), r"is of another run than .*run \(another name, validation cosine\); .*has kept"),
        (run.kept(5), r"is of another run than .*run \(another validation cosine\); "),
        (moved, r"lies in no run's folder; .*has kept .*epoch_0003\.pt, .*`--from .*moved\.pt` begins a new run"),
        (renamed, r"is not one of the kept checkpoints; .*has kept .*epoch_0003\.pt"),
        (run.previous, r"is not one of the kept checkpoints"),
        (run.best, r"holds a student alone, .*`--from .*best\.pt` begins a new run with it"),
        (run.kept(9), r"there is no such checkpoint; .*has kept .*epoch_0003\.pt"),
    )
    for path, message in cases:
        with pytest.raises(RewindError, match=message):
            train(config, "run", path)
    with pytest.raises(click.ClickException, match=r"was begun with something else:\n.*learning_rate"):
        train(config_of(library, learning_rate=1e-4), "run", run.kept(3))
    run.kept(4).unlink()
    run.kept(5).unlink()
    renamed.unlink()
    assert checkpoints(run) == before
    assert not (run.path / "set_aside").exists()
    assert "rewinds" not in run.record()


def test_a_run_that_kept_no_best_student_goes_back_only_where_it_is_known(run: RunFolder, library: Library) -> None:
    run.kept_best(3).unlink()  # as older versions left it
    with pytest.raises(RewindError, match=r"the student of epoch 2, .* was not kept, .*`--from .*epoch_0003\.pt`"):
        train(config_of(library), "run", run.kept(3))
    run.kept_best(6).unlink()
    config = config_of(library, 6)
    with open_trainer(config, "run", resume=run.kept(6)) as trainer:  # best.pt is that of then
        assert trainer.progress.epoch == 6


@pytest.mark.parametrize("arguments", [(), ("--run", "run")])
def test_the_command_finds_the_run_by_its_checkpoint(
    arguments: tuple[str, ...], run: RunFolder, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library.root)
    file = str(library.config_file(config_of(library)))
    given = "checkpoints/epoch_0003.pt" if arguments else str(run.kept(3))  # in the run that --run names, or by itself
    done = CliRunner().invoke(command, ["--config", file, "--resume", given, *arguments])
    assert done.exit_code == 0, done.output
    assert "went back to epoch 3; " in done.output
    assert "resuming    after epoch 3, batch 0" in done.output
    assert "went back to epoch 3; " in run.log.read_text(encoding="utf-8")
    both = CliRunner().invoke(command, ["--config", file, "--resume", given, "--from", "run"])
    assert both.exit_code == 2
    assert "name one of them" in both.output
