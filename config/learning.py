"""The sections of config.yaml about learning: model, split, loss, augmentation, training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from student_clap.config.choices import Choice
from student_clap.config.section import Fraction, PositiveFloat, PositiveInt, Section, Weight

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
    # A checkpoint that training begins with, for students that can (docs/students.md); nothing reads it afterwards.
    pretrained: Path | None = None
    timm_pretrained: bool | None = None  # whether timm/NAME begins with the weights that timm publishes; None: no
    embedding_dim: int = EMBEDDING_DIM
    cnn_channels: Annotated[tuple[int, ...], Field(min_length=3, max_length=3)] = (32, 64, 128)
    transformer_layers: PositiveInt = 2
    attention_heads: PositiveInt = 4
    hidden_dim: PositiveInt = 256  # width of the encoder's feed-forward layer
    dropout: Fraction = 0.1  # inside the encoder, while training

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.embedding_dim != EMBEDDING_DIM:
            raise ValueError(
                f"embedding_dim is {self.embedding_dim}; the text tower needs {EMBEDDING_DIM}: remove the key"
            )
        if min(self.cnn_channels) < 1:
            raise ValueError(f"cnn_channels {list(self.cnn_channels)} must be positive")
        _STUDENTS.module().check(self)
        return self


class SplitConfig(Section):
    """The held-out part: whole artists, because tracks of one artist sound alike and a random split flatters."""

    # hash: an artist stays on its side when the library grows; sorted: every n-th name, for small libraries.
    method: Literal["hash", "sorted"] = "hash"
    folds: Annotated[int, Field(ge=2)] = 10  # one of so many parts is held out
    fold: Annotated[int, Field(ge=0)] = 0  # which

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} is not one of 0..{self.folds - 1}")
        return self


class LossConfig(Section):
    """The loss, a weighted sum of terms. A key next to a preset replaces the preset's weight."""

    preset: Literal["default", "cosine", "original"] = "default"
    # auto: a segment's own vector where the store has it, else the track's; both: segments and tracks
    targets: Literal["auto", "track", "segment", "both"] = "auto"
    mse: TermWeight = None  # mean square over the 512 dimensions
    squared: TermWeight = None  # squared distance, the sum over the dimensions
    cosine: TermWeight = None  # 1 - cosine
    relational: TermWeight = None  # squared difference of the batch's similarities, student's and teacher's
    bank: TermWeight = None  # divergence of the similarities to a bank of teacher vectors
    text: TermWeight = None  # the same to the vectors of texts
    consistency: TermWeight = None  # 1 - cosine of a segment to its track's mean
    bank_temperature: PositiveFloat = 0.1
    bank_size: PositiveInt = 4096  # most training tracks in the bank
    text_temperature: PositiveFloat = 0.1
    text_vectors: Path | None = None  # .npz with `vector` [text, 512]

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

    gain_db: Annotated[float, Field(ge=0, le=60)] = 0.0  # louder or softer by at most this
    band_mask: Fraction = 0.0  # widest band mask, of all bands; masked is silent
    time_mask: Fraction = 0.0  # longest time mask, of a segment
    masks: Annotated[int, Field(gt=0, le=4)] = 2  # of each kind
    shift_s: Annotated[float, Field(ge=0)] = 0.0  # segments begin earlier or later by at most this
    mixup: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of batches in which tracks are mixed in pairs
    pitch_semitones: Annotated[float, Field(ge=0, le=12)] = 0.0  # up or down by at most this
    stretch: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # faster or slower by at most this share


class TrainingConfig(Section):
    """The loop. Every random choice follows from `seed`."""

    batch_size: PositiveInt = 16  # tracks per optimiser step, over all processes
    learning_rate: Annotated[PositiveFloat, Field(alias="lr")] = 1e-3
    epochs: PositiveInt = 100
    warmup_epochs: Annotated[float, Field(ge=0)] = 5.0  # linear, in steps
    warmup_steps: Annotated[int | None, Field(ge=0)] = None  # replaces warmup_epochs
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    plateau_patience: PositiveInt = 5  # epochs without a better held-out figure before the rate falls
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5  # by so much
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    grad_clip: Annotated[float, Field(ge=0)] = 1.0  # 2-norm; 0: off
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the averaged weights that are judged and kept; 0: off
    mse_weight: Weight | None = None  # the original README's name of loss.mse
    cosine_weight: Weight | None = None  # the original README's name of loss.cosine
    save_every: PositiveInt = 5  # epochs between kept checkpoints
    monitor: Literal["cosine", "overlap"] = "cosine"  # held-out figure that picks the best epoch
    validate_every: PositiveInt = 1  # epochs; the last one always is
    early_stopping_patience: Annotated[int, Field(ge=0)] = 10  # epochs without a better held-out figure; 0: never stop
    segments_per_track: Annotated[int | None, Field(gt=0)] = 4  # random ones per epoch; None: all
    # Most segments on the device at once; larger batches accumulate gradients. `segments_per_pass` is its old name.
    micro_batch: Annotated[PositiveInt, Field(alias="segments_per_pass")] = 128
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the student's forward; auto: bfloat16 where fast
    compile: bool = False  # torch.compile; needs a C++ compiler
    gradient_checkpointing: bool = False  # less memory for a third more time
    projection_epochs: Annotated[int, Field(ge=0)] = 0  # after `epochs`: the head's last layer alone
    projection_learning_rate: PositiveFloat = 1e-4
    loader_workers: Annotated[int, Field(ge=0)] = 0  # processes that read the store; 0: a thread of the trainer
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    seed: int = 0
    runs_dir: Path = Path("runs")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.warmup_steps is None and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be fewer than epochs {self.epochs}")
        if self.segments_per_track and self.segments_per_track > self.micro_batch:
            raise ValueError(
                f"segments_per_track {self.segments_per_track} is larger than micro_batch {self.micro_batch}; "
                "lower the one or raise the other"
            )
        return self
