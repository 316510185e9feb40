"""`train --from`: a run begins with another one's student, keeps it, and says whose it was."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.config.formats.onnx_metadata import CHECKPOINT_KEY
from student_clap.config.schema import Config
from student_clap.train.loop.loop import Trainer
from student_clap.train.loop.session import describe, open_display, open_stream, open_trainer, remarks
from student_clap.train.origin.parent import Parent, ParentError
from student_clap.train.runs.checkpoint import load_student, write_checkpoint
from student_clap.train.runs_command import runs
from student_clap.train.students.registry import build_student

if TYPE_CHECKING:
    from tests.train.conftest import Library

pytestmark = pytest.mark.slow

SHORT = {"epochs": 1, "warmup_epochs": 0.0}
DURATIONS_S = [0.5, 1.0, 1.5, 2.0, 2.3, 3.0, 3.7, 4.0]


def train(config: Config, name: str, parent: str | Path | None = None) -> Trainer:
    """What the command does."""
    given = None if parent is None else Path(parent)
    with (
        open_trainer(config, name, parent=given) as trainer,
        open_stream(config, trainer) as stream,
        open_display(trainer) as display,
    ):
        trainer.train(stream, display)
        return trainer


@pytest.fixture
def parent(library: Library) -> Trainer:
    """A run of one epoch."""
    return train(library.config(training=SHORT), "old")


def begun(config: Config, name: str, parent: str | Path) -> dict[str, torch.Tensor]:
    """The weights that a run begins with."""
    with open_trainer(config, name, parent=Path(parent)) as trainer:
        return {key: value.clone() for key, value in trainer.student.state_dict().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_grown_library_another_rate_and_another_loss_go_on_from_the_weights(
    parent: Trainer, make: Callable[..., Library], library: Library
) -> None:
    grown = make([*DURATIONS_S, 1.0, 1.0, 2.0, 2.5], name="grown")
    settings: dict[str, dict[str, Any]] = {
        "loss": {"preset": "cosine"},
        "model": {"dropout": 0.3},  # which changes no weight
        "training": {**SHORT, "learning_rate": 1e-5, "optimizer": "adamw", "runs_dir": library.root / "runs"},
    }
    config = grown.config(**settings)
    old = load_student(parent.run.best)[0].state_dict()
    with open_trainer(config, "new", parent=Path("old")) as trainer:
        assert same(dict(trainer.student.state_dict()), old)  # the bands' statistics too
        assert trainer.progress.step == 0
        assert trainer.learner.optimizer.state_dict()["state"] == {}
        assert f"parent      {parent.run.best.resolve()}, epoch 1 of old" in describe(trainer)
    new = train(config, "new", "old")
    assert torch.equal(new.student.mel_mean, parent.student.mel_mean)
    assert not same(dict(new.student.state_dict()), old)
    record = json.loads(new.run.description.read_text(encoding="utf-8"))["parent"]
    assert (record["run"], record["epoch"], record["given"]) == ("old", 1, "old")
    assert (record["path"], record["sha256"]) == (str(parent.run.best.resolve()), sha256(parent.run.best))


def test_the_average_is_what_goes_on_and_a_new_one_begins_with_it(library: Library) -> None:
    config = library.config(training={**SHORT, "ema_decay": 0.9})
    old = train(config, "old")
    with open_trainer(config, "new", parent=old.run.last) as trainer:
        average = dict(old.judged.state_dict())
        assert not same(average, dict(old.student.state_dict()))
        assert same(dict(trainer.student.state_dict()), average)
        assert same(dict(trainer.judged.state_dict()), average)


@pytest.mark.parametrize("given", ["old", "runs/old", "runs/old/last.pt", "runs/old/best.pt", "moved.pt"])
def test_a_parent_is_a_name_a_folder_or_a_file(
    given: str, parent: Trainer, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library.root)
    shutil.copy(parent.run.last, library.root / "moved.pt")
    wanted = load_student(parent.run.best)[0].state_dict()  # one epoch: the last one is the best
    assert same(begun(library.config(training=SHORT), "new", given), dict(wanted))


def test_a_run_goes_on_when_its_parent_is_gone_or_another_one(
    parent: Trainer, library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    config = library.config(training=SHORT)
    first = begun(config, "new", "old")
    content = parent.run.best.read_bytes()
    shutil.rmtree(parent.run.path)
    assert same(begun(config, "new", "old"), first)  # killed before its first checkpoint
    assert capsys.readouterr().err == ""
    other = train(library.config(training={**SHORT, "seed": 5}), "old")  # another run of that name
    assert other.run.best.read_bytes() != content
    capsys.readouterr()
    assert same(begun(config, "new", "old"), first)
    assert "has changed since this run began with it (epoch 1 of old)" in capsys.readouterr().err
    with open_trainer(config, "new") as trainer:  # --from need not be said again
        assert same(dict(trainer.student.state_dict()), first)
    kept = library.root / "kept.pt"
    kept.write_bytes(content)
    assert same(begun(config, "new", kept), first)  # the same file elsewhere


def test_another_parent_or_one_where_there_was_none_is_refused(parent: Trainer, library: Library) -> None:
    config = library.config(training=SHORT)
    train(library.config(training={**SHORT, "seed": 5}), "other")
    begun(config, "new", "old")
    with pytest.raises(ParentError, match=r"was begun with .*best\.pt, epoch 1 of old; .*--run NAME"):
        begun(config, "new", "other")
    with pytest.raises(ParentError, match=r"was begun without --from; .*--run NAME"):
        begun(library.config(training={**SHORT, "seed": 5}), "other", "old")
    assert not (library.root / "runs" / "other" / "parent.pt").exists()
    for itself in ("old", parent.run.last):
        with pytest.raises(ParentError, match=r"is of the run that would begin with it, .*--run NAME.*--resume"):
            begun(config, "old", itself)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"architecture": "hybrid-s"}, r"model\.architecture is 'tinyclap' there and 'hybrid-s' here\. Set"),
        (
            {"attention_heads": 8, "hidden_dim": 16},  # heads change no tensor's shape
            r"model\.attention_heads is 4 there and 8 here; model\.hidden_dim is 32 there and 16 here\. Set",
        ),
    ],
)
def test_another_shape_is_one_error_that_names_both(
    keys: dict[str, Any], message: str, parent: Trainer, library: Library
) -> None:
    with pytest.raises(ParentError, match=f"--from old: the student of old does not fit: {message}"):
        begun(library.config(model=keys, training=SHORT), "new", parent.run.name)
    assert not (library.root / "runs" / "new").exists()


def test_a_mel_of_other_bands_is_named_and_one_of_as_many_goes_on(
    parent: Trainer, make: Callable[..., Library]
) -> None:
    for name, audio, fits in (("bands", {"n_mels": 24}, False), ("window", {"n_fft": 1024}, True)):
        library = make(DURATIONS_S, name=name, audio=audio)
        config = library.config(audio=audio, training={**SHORT, "runs_dir": parent.run.path.parent})
        if fits:
            assert same(begun(config, name, "old"), dict(load_student(parent.run.best)[0].state_dict()))
        else:
            with pytest.raises(ParentError, match=r"its mels .* have 32 bands, those of this run .* 24"):
                begun(config, name, "old")


def test_the_input_of_efficientat_s_weights_is_part_of_the_shape_and_its_file_is_not_read_again(
    library: Library,
) -> None:
    plain = library.config(model={"architecture": "mobile-04"}, training=SHORT)
    asked = library.config(model={"architecture": "mobile-04", "pretrained": "gone.pt"}, training=SHORT)
    for config, other in ((plain, asked), (asked, plain)):
        path = library.root / f"{config.model.pretrained}.pt"
        with open_trainer(plain, "untrained") as trainer:
            info = replace(trainer.origin, model=config.model)
        student = build_student(config.model, library.recipe.n_mels)
        write_checkpoint(path, info, student)
        assert same(begun(config, f"from {path.stem}", path), dict(student.state_dict()))
        with pytest.raises(ParentError, match=r"model\.pretrained is (None|'set') there and (None|'set') here"):
            begun(other, "new", path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nobody", r"there is no such run in .*runs \(it has: old\), no run's folder and no checkpoint of that name"),
        ("runs", r"there is no such run"),
        ("text.pt", r"text\.pt is damaged or is not a checkpoint"),
        ("alone.onnx", r"--from alone\.onnx: alone\.onnx is damaged or is not an ONNX file"),
    ],
)
def test_what_is_no_student_is_named_with_what_to_give(
    given: str, message: str, parent: Trainer, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library.root)
    for name in ("text.pt", "alone.onnx"):
        Path(name).write_text("text")
    with pytest.raises(click.ClickException) as caught:
        begun(library.config(training=SHORT), "new", given)
    assert re.search(message, caught.value.message)
    assert not (library.root / "runs" / "new").exists()


def export(library: Library, config: Config, output: Path, *more: str) -> Path:
    """The run `old` as the command writes it."""
    file, name = library.config_file(config), ("--run", "old", "--out", str(output))
    done = CliRunner().invoke(main, ["export", "--config", str(file), *name, *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return output


def test_an_onnx_file_with_weights_is_a_parent_like_its_checkpoint(
    parent: Trainer, library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    config = library.config(training=SHORT)
    model = export(library, config, library.root / "student.onnx", "--with-weights")
    first = begun(config, "from the checkpoint", parent.run.best)
    with open_trainer(config, "new", parent=model) as trainer:
        assert same(dict(trainer.student.state_dict()), first)
        assert trainer.student.fixed_input_norm
        assert f"parent      {model.resolve()}, epoch 1 of old" in describe(trainer)
        record = json.loads(trainer.run.description.read_text(encoding="utf-8"))["parent"]
        assert record == {
            "given": str(model),
            "path": str(model.resolve()),
            "sha256": sha256(model),
            "run": "old",
            "epoch": 1,
            "teacher": "synthetic",
            "heard": None,  # it lies in no run's folder
        }
        assert same(dict(load_student(trainer.run.parent)[0].state_dict()), first)
    capsys.readouterr()
    assert same(begun(config, "new", model), first)  # killed before its first checkpoint
    assert capsys.readouterr().err == ""
    model.write_bytes(model.read_bytes() + b"\x08\x08")  # the IR version once more
    assert same(begun(config, "new", model), first)
    assert "has changed since this run began with it (epoch 1 of old)" in capsys.readouterr().err
    model.unlink()
    assert same(begun(config, "new", model), first)
    whole = train(config, "new", model)
    assert not same(dict(whole.student.state_dict()), first)
    inside = export(library, config, parent.run.student_onnx, "--with-weights")
    with open_trainer(config, "from its folder", parent=inside) as trainer:
        found = Parent.of(trainer.run)
        assert found is not None
        assert found.heard == 0
    with pytest.raises(ParentError, match=r"is of the run that would begin with it"):
        begun(config, "old", inside)


def test_an_onnx_file_that_tells_nothing_of_the_library_is_a_parent_too(parent: Trainer, library: Library) -> None:
    config = library.config(training=SHORT)
    model = export(library, config, library.root / "quiet.onnx", "--with-weights", "--no-library-facts")
    old = dict(load_student(parent.run.best)[0].state_dict())
    with open_trainer(config, "new", parent=model) as trainer:
        new = dict(trainer.student.state_dict())
        counts = {name for name in old if name.endswith("num_batches_tracked")}
        assert same({k: old[k] for k in old.keys() - counts}, {k: new[k] for k in new.keys() - counts})
        assert {int(new[name]) for name in counts} == {0}
        assert f"parent      {model.resolve()}, epoch 1 of quiet" in describe(trainer)
        info = load_student(trainer.run.parent)[1]
        assert (info.run_name, info.store_uuid) == ("", "")


def test_an_onnx_file_without_weights_or_with_damaged_ones_is_one_error(parent: Trainer, library: Library) -> None:
    config = library.config(training=SHORT)
    inside = export(library, config, parent.run.student_onnx)
    outside = Path(shutil.copy(inside, library.root / "plain.onnx"))
    again = r"or export it again with `student-clap export --with-weights`"
    for path, instead in (
        (inside, r"give \S*runs/old or one of its \.pt files"),
        (outside, r"give the run or its \.pt"),
    ):
        with pytest.raises(ParentError, match=rf"holds folded weights alone, .* {instead}, {again}"):
            begun(config, "new", path)
    proto = onnx.load(str(export(library, config, library.root / "whole.onnx", "--with-weights")))
    (entry,) = [entry for entry in proto.metadata_props if entry.key == CHECKPOINT_KEY]
    text, damaged = entry.value, library.root / "damaged.onnx"
    for value in (text[:-5], text[: len(text) // 2 // 4 * 4], f"{text[:400]}!{text[401:]}", "QUJD"):
        entry.value = value
        damaged.write_bytes(proto.SerializeToString())
        with pytest.raises(ParentError, match=r"--from .*damaged\.onnx: .*damaged\.onnx(: its metadata| is damaged)"):
            begun(config, "new", damaged)
    whole = (library.root / "whole.onnx").read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 0):
        damaged.write_bytes(whole[:length])
        with pytest.raises(ParentError, match=r"damaged\.onnx is damaged or is not an ONNX file"):
            begun(config, "new", damaged)
    assert not (library.root / "runs" / "new").exists()


def test_a_run_without_a_best_epoch_says_which_file_to_name(library: Library) -> None:
    config = library.config(training=SHORT)
    with open_trainer(config, "old"):
        pass
    with pytest.raises(ParentError, match=r"has no best\.pt yet; name one of its checkpoints, such as .*last\.pt"):
        begun(config, "new", "old")


def test_held_out_artists_that_the_parent_was_trained_on_are_counted(
    parent: Trainer, library: Library, make: Callable[..., Library]
) -> None:
    def heard(config: Config, name: str, given: str | Path = "old") -> tuple[int | None, str]:
        with open_trainer(config, name, parent=Path(given)) as trainer:
            found = Parent.of(trainer.run)
            assert found is not None
            return found.heard, "\n".join(remarks(trainer, config))

    assert heard(library.config(training=SHORT), "same split") == (0, "")
    count, remark = heard(library.config(training=SHORT, split={"fold": 1}), "other fold")
    assert count == 4
    assert "trained on the artists of 4 of the 4 held-out tracks" in remark
    with_test = library.config(training=SHORT, split={"fold": 1, "test_folds": [2]})
    count, remark = heard(with_test, "test tracks too")
    n_held_out = 8  # of two parts
    assert count == n_held_out
    assert f"the artists of {count} of the {n_held_out} held-out tracks" in remark
    # Another library: names alone tell, and by hash they tell all.
    other = make([1.0] * 40, name="other")
    runs_dir = {"runs_dir": library.root / "runs"}
    count, _ = heard(other.config(training={**SHORT, **runs_dir}), "other library")
    assert count == 40 // 4 - 4  # the names of four are held out in both
    hashed = {"method": "hash", "folds": 3}
    train(library.config(training=SHORT, split=hashed), "hashed")
    assert heard(other.config(training={**SHORT, **runs_dir}, split=hashed), "grown", "hashed") == (0, "")
    # What the parent's own parent was trained on counts too.
    train(library.config(training=SHORT, split={"fold": 1}), "other fold")
    assert heard(library.config(training=SHORT, split={"fold": 1}), "grandchild", "other fold")[0] == 4
    moved = shutil.copy(parent.run.best, library.root / "moved.pt")
    count, remark = heard(library.config(training=SHORT), "of a moved file", moved)
    assert count is None
    assert "nothing tells which artists" in remark


def test_another_spelling_of_an_artist_that_the_parent_was_trained_on_is_counted(make: Callable[..., Library]) -> None:
    library = make([1.0] * 6, artists=["ABBA", "Air", "Abba", "Blur", "Can", "Devo"])
    config = library.config(training=SHORT, split={"folds": 2})
    parent = train(config, "old")
    # Another version dealt the two spellings into different parts.
    with np.load(parent.run.tracks) as rows:
        np.savez(parent.run.tracks, **{**rows, "training_rows": np.array([0, 3])})
    with open_trainer(config, "new", parent=Path("old")) as trainer:
        assert trainer.run.selection.validation_artists == ("ABBA", "Abba", "Blur", "Devo")
        found = Parent.of(trainer.run)
        assert found is not None
        assert found.heard == 3


def test_runs_shows_the_parent(parent: Trainer, library: Library) -> None:
    train(library.config(training=SHORT), "new", parent.run.name)
    runs_dir = ["--runs-dir", str(library.root / "runs")]
    lines = CliRunner().invoke(runs, runs_dir).stdout.splitlines()
    heading = lines[0].index("from")
    assert [line[heading:].split("  ")[0] for line in lines] == ["from", "old @1", ""]
    found = json.loads(CliRunner().invoke(runs, [*runs_dir, "--json"]).stdout)["runs"]
    assert [run["parent"] and run["parent"]["run"] for run in found] == ["old", None]
    assert "parent.*" in CliRunner().invoke(runs, [*runs_dir, "new", "old"]).stdout
