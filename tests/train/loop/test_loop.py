"""The loop: it learns, accumulates, stops, resumes exactly, and says what is wrong."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest
import torch
from tests.train.loop.whole_run import lines_in, train

from student_clap.store import FeatureStore, State
from student_clap.store.layout.segments import segment_count
from student_clap.train.data.parts import BatchRequest
from student_clap.train.loop import step
from student_clap.train.loop.checkpoints import Checkpoints
from student_clap.train.loop.display import Display
from student_clap.train.loop.distributed import Distributed
from student_clap.train.loop.loop import Interrupted, Trainer
from student_clap.train.loop.session import describe, open_display, open_stream, open_trainer, resolve_device, summarise
from student_clap.train.loop.validation import Validation
from student_clap.train.runs.checkpoint import Progress

if TYPE_CHECKING:
    from tests.train.conftest import Library


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.student.state_dict()


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []


@pytest.mark.slow
def test_it_overfits_eight_tracks(make: Callable[..., Library]) -> None:
    library = make([1.0, 1.5, 2.0, 2.2, 3.0, 1.7, 2.5, 4.0, 1.0], ["held"] + [f"other {n}" for n in range(8)])
    config = library.config(
        split={"folds": 10},
        model={"cnn_channels": (32, 64, 128), "hidden_dim": 256, "dropout": 0.0},
        training={"epochs": 40, "batch_size": 8, "learning_rate": 3e-3, "early_stopping_patience": 0},
    )
    trainer = train(config)
    assert lines_in(trainer.run.path)[-1]["train_cosine"] > 0.98


@pytest.mark.slow
def test_a_student_learns_what_carries_over_to_held_out_artists(make: Callable[..., Library]) -> None:
    library = make([1.0] * 80)
    config = library.config(split={"folds": 5}, training={"epochs": 8, "batch_size": 8, "learning_rate": 3e-3})
    metrics = lines_in(train(config).run.path)
    assert metrics[-1]["val_cosine"] > 0.2 > metrics[0]["val_cosine"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_resumed_anywhere_is_the_run_that_was_not_interrupted(
    library: Library, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = library.config(training={"segments_per_track": 3, "loader_workers": workers})
    whole = train(library.config(training={"segments_per_track": 3}), "whole")

    # Every step may be the last one: a signal comes after each.
    with monkeypatch.context() as patch:
        patch.setattr(Display, "step", lambda *_: signal.raise_signal(signal.SIGTERM))
        for _ in range(7 if workers == 0 else 1):
            with pytest.raises(Interrupted):
                train(config, "stopped")
    stopped = train(config, "stopped")
    assert lines_in(stopped.run.path) == lines_in(whole.run.path)
    assert_same_weights(weights(stopped), weights(whole))


@pytest.mark.slow
def test_a_compiled_student_trains(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the backend that makes no code of its own; a GPU's is in test_gpu.py."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda student, **options: compiled(student, backend="eager", **options))
    plain, whole = (
        train(library.config(model={"dropout": 0.0}, training={"epochs": 1, "compile": c}), f"compiled-{c}")
        for c in (False, True)
    )
    (one,), (other,) = lines_in(plain.run.path), lines_in(whole.run.path)
    for name in ("train_loss", "train_cosine", "val_loss", "val_cosine"):
        assert other[name] == pytest.approx(one[name], abs=5e-3)


@pytest.mark.slow
def test_a_stop_in_the_middle_of_validation_repeats_only_the_validation(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(library.config(), "whole")
    validate = Trainer.validate

    def interrupted(self: Trainer, stream: Any, stop: Any = None, display: Any = None) -> Any:
        stop.signal_number = signal.SIGINT
        return validate(self, stream, stop, display)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", interrupted)
        with pytest.raises(Interrupted) as caught:
            train(library.config(), "stopped")
        assert caught.value.progress.position == 3
        assert caught.value.progress.epoch == 0
    stopped = train(library.config(), "stopped")
    assert lines_in(stopped.run.path) == lines_in(whole.run.path)
    assert_same_weights(weights(stopped), weights(whole))


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    library: Library, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    whole = train(library.config(), "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finished", property(lambda self: "enough" if self.progress.epoch == 2 else ""))
        run = train(library.config(), "damaged").run
    content = run.last.read_bytes()
    run.last.write_bytes(content[: len(content) // 2])
    with open_trainer(library.config(), "damaged") as trainer:
        assert trainer.progress.epoch == 1
        assert len(lines_in(run.path)) == 1  # the second epoch's line belongs to the lost checkpoint
    assert "last.pt is damaged" in caplog.text
    assert "going on from" in caplog.text
    assert "previous.pt" in caplog.text
    resumed = train(library.config(), "damaged")
    assert lines_in(run.path) == lines_in(whole.run.path)
    assert_same_weights(weights(resumed), weights(whole))


def test_when_every_checkpoint_is_damaged_nothing_begins_from_the_start(library: Library) -> None:
    run = train(library.config(training={"save_every": 2})).run
    assert run.kept(2).exists()
    for path in run.resumable():
        path.write_bytes(b"")
    with pytest.raises(click.ClickException, match=r"all checkpoints in .* are damaged"):
        train(library.config(training={"save_every": 2}))


def test_a_checkpoint_is_written_within_an_epoch_when_time_has_passed(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = []
    save = Checkpoints.save

    def recorded(self: Checkpoints, progress: Progress) -> None:
        positions.append(progress.position)
        save(self, progress)

    monkeypatch.setattr(Checkpoints, "save", recorded)
    train(library.config(training={"epochs": 1, "warmup_epochs": 0}), checkpoint_interval_s=0.0)
    assert positions == [1, 2, 3, 0]


def test_micro_batches_add_up_to_the_batch(library: Library) -> None:
    """With BatchNorm on running statistics, the micro-batches of a batch give the gradient of the batch at once."""
    gradients = []
    for limit in (1000, 12, 1):
        config = library.config(
            model={"dropout": 0.0},
            training={"batch_size": 6, "micro_batch": limit, "segments_per_track": None, "grad_clip": 0.0},
        )
        with open_trainer(config, f"limit-{limit}") as trainer, open_stream(config, trainer) as stream:
            trainer.student.eval()
            rows = (0, 3, 5, 8, 12, 13)
            request = BatchRequest(rows, tuple(int(n) for n in trainer.table.n_samples[list(rows)]), 0)
            (batch,) = stream.read([request])
            trainer.train_batch(batch)
            gradients.append([p.grad.clone() for p in trainer.student.parameters() if p.grad is not None])
            assert trainer.progress.tracks == 6
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


def test_the_learning_rate_warms_up_in_steps(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    step = torch.optim.Adam.step

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        rates.extend({group["lr"] for group in self.param_groups})
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    train(library.config(training={"epochs": 4, "warmup_epochs": 2}))
    assert rates[:6] == pytest.approx([1e-3 * n / 6 for n in range(1, 7)])
    assert rates[-1] == pytest.approx(1e-6)


def test_the_gradient_is_clipped(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    step = torch.optim.Adam.step

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.cat([g.flatten() for g in grads]).norm()))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    train(library.config(training={"epochs": 1, "warmup_epochs": 0, "grad_clip": 0.01}))
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


def judged(cosine: float) -> Validation:
    return Validation(loss=1.0, cosine=cosine, centred=cosine, overlap=1 - cosine, mixed_recall_at_1=0.0)


@pytest.mark.slow
def test_early_stopping_stops(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    cosines = iter([0.1, 0.3, 0.2, 0.3, 0.29])
    monkeypatch.setattr(Trainer, "validate", lambda *_: judged(next(cosines)))
    config = library.config(training={"epochs": 50, "early_stopping_patience": 3})
    trainer = train(config)
    assert trainer.progress.epoch == 5
    assert trainer.progress.best_epoch == 2
    assert "stopped early after epoch 5" in summarise(trainer)
    assert len(lines_in(trainer.run.path)) == 5
    # Running it again does nothing; more patience goes on.
    assert train(config).progress.epoch == 5
    cosines = iter([0.4] + [0.0] * 5)
    monkeypatch.setattr(Trainer, "validate", lambda *_: judged(next(cosines)))
    patient = train(library.config(training={"epochs": 50, "early_stopping_patience": 4}))
    assert patient.progress.epoch == 10
    assert patient.progress.best_epoch == 6


def test_nothing_is_stopped_early_that_was_not_judged(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    cosines = iter([0.3, 0.1, 0.2])
    monkeypatch.setattr(Trainer, "validate", lambda *_: judged(next(cosines)))
    config = library.config(training={"epochs": 50, "early_stopping_patience": 3, "validate_every": 4})
    trainer = train(config)
    # After three epochs for want of a figure, after four as it is their turn, after six for want of a better one.
    assert [line["epoch"] for line in lines_in(trainer.run.path) if "val_cosine" in line] == [3, 4, 6]
    assert (trainer.progress.epoch, trainer.progress.best_epoch) == (6, 3)
    assert trainer.run.best.is_file()
    assert "best validation cosine 0.3000 after epoch 3" in summarise(trainer)


def test_a_run_learns_the_segment_vectors_that_it_began_with(library: Library) -> None:
    rng = np.random.default_rng(3)

    def teach(rows: list[int]) -> None:
        with FeatureStore.open(library.store_path, "r+") as store:
            lengths = store.features(library.recipe).n_samples()
            counts = [segment_count(int(lengths[row]), library.recipe) for row in rows]
            store.write_segment_teacher(rows, [rng.normal(size=(n, 512)).astype(np.float16) for n in counts])

    teach([0, 2, 4, 6])
    config = library.config(loss={"bank_of": "segments"}, training={"epochs": 2})
    for name in ("whole", "stopped"):
        one = library.config(loss={"bank_of": "segments"}, training={"epochs": 2 if name == "whole" else 1})
        train(one, name)
    teach([1, 3, 5, 7, 8, 9])  # the pass goes on
    assert_same_weights(
        weights(train(library.config(loss={"bank_of": "segments"}, training={"epochs": 2}), "stopped")),
        weights(train(config, "whole")),
    )


def test_a_loss_that_is_not_finite_stops_with_the_tracks_and_spares_the_checkpoint(library: Library) -> None:
    config = library.config(training={"epochs": 2, "warmup_epochs": 0})
    with (
        open_trainer(config) as trainer,
        open_stream(config, trainer) as stream,
        open_display(trainer) as display,
    ):
        trainer.table.teacher[5] = np.nan
        with pytest.raises(click.ClickException) as caught:
            trainer.train(stream, display)
    assert "loss is not finite at step" in caught.value.message
    assert "default/t005." in caught.value.message
    assert "for 1 of 4 tracks" in caught.value.message
    assert "training.learning_rate" in caught.value.message
    assert all(torch.isfinite(p).all() for p in trainer.student.parameters())


def test_rows_without_vector_or_features_are_left_out_and_counted(library: Library) -> None:
    nan = np.full((1, 512), np.nan, np.float32)
    with FeatureStore.open(library.store_path, "r+") as store:
        features = store.features(library.recipe)
        store.update_tracks([1], teacher=nan)
        features.commit([2, 3], [0, -1], ["", "no audio in it"])
        store.update_tracks([5], state=[State.FAILED], error=["wrong length"])
        store.update_tracks([6], state=[State.GONE])
    with open_trainer(library.config()) as trainer:
        chosen = {*trainer.run.selection.training_rows.tolist(), *trainer.run.selection.validation_rows.tolist()}
        assert chosen == set(range(16)) - {1, 2, 3, 5}
        text = "\n".join(describe(trainer))
    assert "left out    1 failed, 2 without features, 1 without a teacher vector" in text
    split = json.loads((trainer.run.path / "split.json").read_text())
    assert split["training_tracks"] + split["validation_tracks"] == 12
    assert split["validation_artists"] == [f"artist {n:03}" for n in (0, 8, 12)]


def test_a_shard_that_is_gone_is_left_out_named_and_counted(library: Library, caplog: pytest.LogCaptureFixture) -> None:
    (shard,) = (library.store_path / "features").rglob("c/6/0/0")
    shard.unlink()
    trainer = train(library.config())
    assert caplog.text.count("track default/t006 is left out") == 1
    assert trainer.progress.unreadable == [6]
    assert summarise(trainer).endswith("1 track could not be read and was left out")


@pytest.mark.parametrize(
    ("durations", "artists", "split", "message"),
    [
        ([], [], {}, r"no track to train on \(it has no tracks\); run `student-clap ingest`"),
        ([1.0], ["a"], {}, r"training side .* is empty .* at least two artists"),
        ([1.0] * 3, ["", " ", ""], {}, r"validation side .* 3 of the tracks without an artist's name"),
        ([1.0] * 3, ["a", "b", "c"], {"fold": 3}, r"validation side .* fewer split.folds, at most 3"),
        ([1.0] * 2, ["a", "b"], {"test_folds": [2]}, r"test side .*fold 0 of 4, test folds 2; .* at least three"),
        ([1.0] * 3, ["a", "b", "c"], {"test_folds": [3]}, r"test side .* or another split.fold and split.test_folds"),
        ([1.0] * 2, ["a", "b"], {"method": "hash", "folds": 1000}, r"validation side .*`--set split.method=sorted"),
    ],
)
def test_a_split_with_an_empty_side_is_refused_with_the_remedy(
    make: Callable[..., Library], durations: list[float], artists: list[str], split: dict[str, Any], message: str
) -> None:
    library = make(durations, artists)
    with pytest.raises(click.ClickException) as caught:
        train(library.config(split=split))
    assert re.search(message, caught.value.message)
    assert not (library.root / "runs").exists()


def test_a_store_of_short_tracks_alone(make: Callable[..., Library]) -> None:
    trainer = train(make([0.3, 0.5, 1.0, 0.2, 0.9]).config(training={"batch_size": 1}))
    assert trainer.progress.epoch == 3
    assert all(np.isfinite(line["train_loss"]) for line in lines_in(trainer.run.path))


def test_out_of_memory_names_the_knob(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(step, "make_segments", exhausted)
    with pytest.raises(click.ClickException) as caught:
        train(library.config())
    assert "training.micro_batch" in caught.value.message
    assert "batch_size" in caught.value.message


def test_devices() -> None:
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "meta", "gpu"):
        with pytest.raises(click.ClickException, match=name):
            resolve_device(name)


def test_processes_do_not_share_a_gpu() -> None:
    with pytest.raises(click.ClickException, match="2 processes cannot share a GPU; set it to cuda"):
        resolve_device("cuda:1", Distributed(0, 2))


@pytest.mark.parametrize("architecture", ["hybrid-s", "hybrid-m"])
def test_the_hybrids_train(make: Callable[..., Library], architecture: str) -> None:
    library = make([1.0, 1.5, 1.0])
    config = library.config(
        model={"architecture": architecture}, split={"folds": 3}, training={"epochs": 1, "warmup_epochs": 0}
    )
    assert train(config).progress.epoch == 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_cpu_s_losses(library: Library) -> None:
    runs = {
        device: lines_in(train(library.config(model={"dropout": 0.0}, training={"device": device}), device).run.path)
        for device in ("cpu", "cuda")
    }
    for one, other in zip(runs["cpu"], runs["cuda"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=2e-3)


def test_progress_is_plain_data() -> None:
    # weights_only reads nothing else
    assert {type(value) for value in vars(Progress()).values()} <= {int, float, list}


def test_signals_outside_the_main_thread_are_left_alone(library: Library) -> None:
    done = []
    thread = threading.Thread(
        target=lambda: done.append(train(library.config(training={"epochs": 1, "warmup_epochs": 0})))
    )
    thread.start()
    thread.join()
    assert done[0].progress.epoch == 1
