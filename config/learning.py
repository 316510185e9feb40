"""The sections of config.yaml about learning: model, split, loss, augmentation, training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from student_clap.config.choices import Choice
from student_clap.config.presets import MAX_VIEWS
from student_clap.config.quantities import LocalPath, MemorySize
from student_clap.config.section import (
    LARGEST,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Weight,
)

EMBEDDING_DIM = 512  # the width of CLAP's joint space; the text tower fixes it

_STUDENTS = Choice("student_clap.train.students.registry")
_TERM = "loss term"
TermWeight = Annotated[Weight | None, _TERM]  # of the loss; None leaves it to the preset
LOSS_PRESETS: dict[str, dict[str, float]] = {
    "default": {"cosine": 1.0, "bank": 1.0},  # what won on the corpus (docs/benchmarks.md)
    "cosine": {"cosine": 1.0},
    # The original README's. On unit vectors its mean square is (1 - cosine) / 256, so this is 0.402 (1 - cosine).
    "original": {"mse": 0.6, "cosine": 0.4},
}


class ModelConfig(Section):
    """The student. cnn_channels, transformer_layers, attention_heads and hidden_dim shape `tinyclap` alone."""

    architecture: Annotated[str, _STUDENTS] = "tinyclap"
    """The student's network; docs/students.md compares them."""
    pretrained: LocalPath | None = None
    """Weights that training begins with: an EfficientAT file for `mobile-*`, `timm/NAME` or `timm/NAME.TAG` for that
    network of timm; nothing reads it afterwards.
    """
    timm_pretrained: bool | None = None
    """The older way to write pretrained: true stands for the architecture's own name."""
    embedding_dim: int = EMBEDDING_DIM
    """Width of the student's vectors; 512, as the text tower fixes it."""
    cnn_channels: Annotated[tuple[PositiveInt, ...], Field(min_length=3, max_length=3)] = (32, 64, 128)
    """Channels of the three convolutions of `tinyclap`."""
    transformer_layers: PositiveInt = 2
    """Layers of the encoder of `tinyclap`."""
    attention_heads: PositiveInt = 4
    """Attention heads of the encoder of `tinyclap`; divides the last of cnn_channels."""
    hidden_dim: PositiveInt = 256
    """Width of the feed-forward layers of the encoder of `tinyclap`."""
    dropout: Fraction = 0.1
    """Share of activations that are dropped inside the encoder while training."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.embedding_dim != EMBEDDING_DIM:
            raise ValueError(
                f"embedding_dim is {self.embedding_dim}; the text tower needs {EMBEDDING_DIM}: remove the key"
            )
        if self.pretrained is not None and self.timm_pretrained:
            raise ValueError(
                "pretrained and timm_pretrained are both set; remove timm_pretrained, the older of the two"
            )
        _STUDENTS.module().check(self)
        return self

    @property
    def weights_key(self) -> str:
        """The key that asks for weights to begin with, or an empty text."""
        if self.pretrained is not None:
            return "pretrained"
        return "timm_pretrained" if self.timm_pretrained else ""


class SplitConfig(Section):
    """Validation and test tracks: whole artists, because tracks of one artist sound alike and a random split flatters.

    The validation tracks pick the best epoch and stop a run early; by the test tracks nothing is chosen.
    """

    method: Literal["hash", "sorted"] = "hash"
    """hash: an artist stays in its part when the library grows; sorted: every n-th name, for small libraries."""
    folds: Annotated[int, Field(ge=2, le=LARGEST)] = 10
    """Number of parts that the artists are dealt into."""
    fold: NonNegativeInt = 0
    """The part that is the validation set, counted from 0."""
    test_folds: tuple[NonNegativeInt, ...] = ()
    """Parts that are neither trained on nor validated on, so that `evaluate` can judge by tracks that chose nothing."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        last = self.folds - 1
        if self.fold > last:
            raise ValueError(f"fold {self.fold} is not one of 0..{last}")
        if outside := [fold for fold in self.test_folds if fold > last]:
            raise ValueError(f"test_folds has {outside[0]}, which is not one of 0..{last}")
        if self.fold in self.test_folds:
            raise ValueError(f"test_folds has {self.fold}, which is the validation set (split.fold); name others")
        if len(set(self.test_folds)) != len(self.test_folds):
            raise ValueError(f"test_folds {list(self.test_folds)} names a part twice")
        if len(self.test_folds) > self.folds - 2:
            raise ValueError(f"no part is left to train on: {self.folds} folds, one of them for validation; name fewer")
        return self


class LossConfig(Section):
    """The loss, a weighted sum of terms. A key next to a preset replaces the preset's weight."""

    preset: Literal["default", "cosine", "original"] = "default"
    """Weights of the terms by name: default (cosine and bank), cosine, or original (0.6 mse, 0.4 cosine)."""
    targets: Literal["auto", "track", "segment", "both"] = "auto"
    """Which vectors are learnt. auto: a segment's own where the store has it, else the track's; segment: the same,
    where a store without any is an error; both: segments and tracks.
    """
    segment_teacher: str | None = None
    """Whose segment vectors are learnt, as `student-clap store info` names them; null: the only ones, else those of
    teacher.name.
    """
    mse: TermWeight = None
    """Weight of the mean square over the 512 dimensions; null: the preset's, as for every weight."""
    squared: TermWeight = None
    """Weight of the squared distance, the sum over the dimensions."""
    cosine: TermWeight = None
    """Weight of 1 - cosine."""
    relational: TermWeight = None
    """Weight of the squared difference between the batch's similarities, the student's and the teacher's."""
    bank: TermWeight = None
    """Weight of the divergence of the similarities to a bank of teacher vectors."""
    text: TermWeight = None
    """Weight of the divergence of the similarities to the vectors of texts."""
    consistency: TermWeight = None
    """Weight of 1 - cosine of a segment to its track's mean."""
    bank_temperature: PositiveFloat = 0.1
    """Temperature of the similarities to the bank."""
    bank_size: PositiveInt = 4096
    """Largest number of vectors in the bank."""
    bank_of: Literal["tracks", "segments"] = "segments"
    """Which of the teacher's vectors make the bank: those of training tracks, or of their segments where known."""
    text_temperature: PositiveFloat = 0.1
    """Temperature of the similarities to the vectors of texts."""
    text_vectors: LocalPath | None = None
    """An .npz file with `vector` [text, 512]."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not any(self.weights.values()):
            raise ValueError("all weights are 0; nothing would be learnt")
        if self.text and self.text_vectors is None:
            raise ValueError("text has a weight, but text_vectors names no file; name one or remove text")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every term: the key's, or the preset's where the key is not set."""
        preset = LOSS_PRESETS[self.preset]
        given = {name: getattr(self, name) for name in LOSS_TERMS}
        return {name: preset.get(name, 0.0) if value is None else value for name, value in given.items()}


LOSS_TERMS = tuple(name for name, field in LossConfig.model_fields.items() if _TERM in field.metadata)


class AugmentationConfig(Section):
    """How training segments are changed, on the device. 0 leaves a kind out."""

    gain_db: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Segments get louder or softer by at most this."""
    band_mask: Fraction = 0.0
    """Widest band mask, as a share of all bands; masked bands are silent."""
    time_mask: Fraction = 0.0
    """Longest time mask, as a share of a segment."""
    masks: Annotated[int, Field(gt=0, le=4)] = 2
    """Number of masks of each kind."""
    shift_s: NonNegativeFloat = 0.0
    """Segments begin earlier or later by at most this."""
    mixup: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of batches in which tracks are mixed in pairs."""
    pitch_semitones: Annotated[float, Field(ge=0, le=12)] = 0.0
    """Segments are pitched up or down by at most this."""
    stretch: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Segments get faster or slower by at most this share."""
    views: Annotated[int, Field(ge=0, le=MAX_VIEWS)] | None = None
    """Views of each track (`teacher.views`) that are learnt in its stead by turns, with targets of segments; null: all
    that the store has of the teacher. They are never validated on.
    """


class TrainingConfig(Section):
    """The loop. Every random choice follows from `seed`."""

    batch_size: PositiveInt = 16
    """Tracks per optimiser step, over all processes."""
    learning_rate: Annotated[PositiveFloat, Field(alias="lr")] = 1e-3
    """Largest learning rate, reached after the warm-up."""
    epochs: PositiveInt = 100
    """Passes over the training tracks."""
    warmup_epochs: NonNegativeFloat = 5.0
    """Epochs in which the rate rises linearly, step by step; no longer than the run."""
    warmup_steps: NonNegativeInt | None = None
    """Optimiser steps of the warm-up, in place of warmup_epochs."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """The learning rate after the warm-up: half a cosine down to 1e-6, lower at every plateau, or constant."""
    plateau_patience: PositiveInt = 5
    """Epochs without a better validation figure before the rate falls."""
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor by which the rate falls at a plateau."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """The optimiser."""
    weight_decay: NonNegativeFloat = 1e-5
    """Weight decay of the optimiser."""
    grad_clip: NonNegativeFloat = 1.0
    """Largest 2-norm of the gradient; 0: no limit."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the averaged weights that are judged and kept; 0: no average."""
    mse_weight: Weight | None = None
    """The original README's name of loss.mse."""
    cosine_weight: Weight | None = None
    """The original README's name of loss.cosine."""
    save_every: PositiveInt = 5
    """Epochs between kept checkpoints."""
    monitor: Literal["cosine", "overlap"] = "cosine"
    """The validation figure that picks the best epoch."""
    validate_every: PositiveInt = 1
    """Epochs from one validation to the next; the last epoch is always validated."""
    early_stopping_patience: NonNegativeInt = 10
    """Epochs without a better validation figure before the run stops; 0: never."""
    segments_per_track: PositiveInt | None = 4
    """Random segments of a track in an epoch; null: all."""
    micro_batch: Annotated[PositiveInt, Field(alias="segments_per_pass")] = 128
    """Largest number of segments on the device at once; larger batches accumulate gradients."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the student's forward pass; auto: bfloat16 where it is fast."""
    compile: bool = False
    """Whether to use torch.compile, which needs a C++ compiler."""
    cuda_graph: bool = False
    """Whether a GPU runs the student as CUDA graphs where a batch fits one micro_batch; needs a C++ compiler."""
    gradient_checkpointing: bool = False
    """Whether to save memory for a third more time."""
    projection_epochs: NonNegativeInt = 0
    """Epochs after `epochs` that train the head's last layer alone."""
    projection_learning_rate: PositiveFloat = 1e-4
    """Learning rate of the projection epochs."""
    loader_workers: NonNegativeInt = 0
    """Processes that read the store; 0: a thread of the trainer."""
    cache: Literal["auto", "none", "memory", "device"] = "auto"
    """Where codes stay that were read once: none, memory, or device; auto: on a GPU device, on a CPU none."""
    cache_size: MemorySize | None = None
    """Most that the cached codes take, such as 4GB; null: half of the free memory, or 60 % of a GPU's."""
    log_every: PositiveInt = 20
    """Steps of a GPU after which it is asked for loss and gradient; a CPU is asked after every step."""
    device: str = "auto"
    """auto, cpu, cuda, one GPU such as cuda:1, or mps (a GPU of Apple's); auto: cuda where there is one, else cpu."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Every random choice follows from it."""
    runs_dir: LocalPath = Path("runs")
    """Folder of the run directories."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.segments_per_track and self.segments_per_track > self.micro_batch:
            raise ValueError(
                f"segments_per_track {self.segments_per_track} is larger than micro_batch {self.micro_batch}; "
                "lower the one or raise the other"
            )
        if self.cuda_graph and self.gradient_checkpointing:
            raise ValueError("cuda_graph and gradient_checkpointing exclude each other; choose one")
        if self.compile and self.gradient_checkpointing:
            raise ValueError("compile and gradient_checkpointing exclude each other; choose one")
        return self

    def warmup(self, steps_per_epoch: int) -> int:
        """Optimiser steps of the warm-up. One that is given in epochs lasts no longer than the run."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(min(self.warmup_epochs, self.epochs) * steps_per_epoch)
