"""A small library, its store and a run directory with a student of random weights: real files in every place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch

from student_clap.config.schema import AudioConfig, ModelConfig
from student_clap.export.model.embedding import Embedder
from student_clap.export.model.session import StudentSession
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.input_spec import input_spec_of
from student_clap.featurize.onnx.segments import decibel_segments, pool
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.train.runs.checkpoint import CheckpointInfo, write_checkpoint
from student_clap.train.runs.reader import RunFolder
from student_clap.train.students.registry import build_student

RATE = 44_100
DURATIONS_S = (7.0, 12.5, 23.3)
ARTISTS = ("Ada", "Bo", "Cy", "Dee <script>alert(1)</script>")
HELD_OUT = (ARTISTS[1], ARTISTS[3])
NARROW = ModelConfig(cnn_channels=(8, 8, 16), transformer_layers=1, attention_heads=2, hidden_dim=16)


@dataclass(frozen=True)
class Library:
    """Where everything lies."""

    root: Path
    recipe: Recipe
    store: Path
    cache_dir: Path
    runs_dir: Path

    @property
    def run(self) -> RunFolder:
        """The run, under its default name."""
        return RunFolder(self.runs_dir / "tinyclap-audiomuse")

    def settings(self) -> list[str]:
        """Command line options that name these places."""
        values = {
            "store.path": self.store,
            "ingest.cache_dir": self.cache_dir,
            "training.runs_dir": self.runs_dir,
        }
        return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def tune(seed: int, duration_s: float) -> npt.NDArray[np.float32]:
    """[sample, channel] a few decaying partials in rhythm, with noise; stereo at 44.1 kHz."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(duration_s * RATE)) / RATE
    beat = np.exp(-(t * rng.uniform(1, 4) % 1.0) * rng.uniform(2, 9))
    partials = [rng.uniform(0.05, 0.2) * np.sin(2 * np.pi * f * t + p) for f, p in rng.uniform(80, 6000, (5, 2))]
    left = beat * np.sum(partials, axis=0) + rng.normal(0, rng.uniform(0.001, 0.05), len(t))
    right = np.roll(left, 40) * 0.8
    return np.stack([left, right], axis=1).astype(np.float32)


def random_student(seed: int = 0, model: ModelConfig = NARROW) -> torch.nn.Module:
    """A student in eval mode whose input normalisation and batch statistics are not neutral."""
    torch.manual_seed(seed)
    student = build_student(model, 128)
    for name, buffer in student.named_buffers():
        if name.endswith("mel_mean"):
            buffer.copy_(torch.linspace(-35.0, -75.0, buffer.numel()).reshape(buffer.shape))
        elif name.endswith("mel_std"):
            buffer.fill_(17.0)
        elif name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return student.eval()


def checkpoint_info(store_uuid: str = "0" * 32, val_cosine: float = 0.625) -> CheckpointInfo:
    """What the checkpoint of these tests says of itself."""
    recipe = Recipe.from_config(AudioConfig())
    return CheckpointInfo(7, NARROW, recipe, "a-teacher", store_uuid, "tinyclap-audiomuse", val_cosine)


def build_library(root: Path) -> Library:
    """Twelve tracks by four artists; the teacher is the student itself with noise, so there is something to find."""
    recipe, log_mel = Recipe.from_config(AudioConfig()), LogMel(Recipe.from_config(AudioConfig()))
    library = Library(root, recipe, root / "features.zarr", root / "audio", root / "runs")
    library.cache_dir.mkdir(parents=True)
    student, rng = random_student(), np.random.default_rng(1)
    with FeatureStore.create(library.store, "a-teacher") as store:
        tracks, strips = [], []
        for number in range(12):
            name = f"t{number:02d}.flac"
            soundfile.write(library.cache_dir / name, tune(number, DURATIONS_S[number % 3]), RATE)
            samples = decode(library.cache_dir / name, recipe.max_samples)
            strips.append((log_mel.codes(samples), len(samples)))
            with torch.inference_mode():
                segments = torch.from_numpy(np.ascontiguousarray(decibel_segments(samples, log_mel)))
                vector = pool(student(segments[:, None]).numpy())
            noisy = vector + rng.normal(0, 0.02, 512)
            tracks.append(
                Track(
                    "default",
                    f"t{number:02d}",
                    title=f"Tune {number} & <b>more</b>",
                    artist=ARTISTS[number % 4],
                    audio=name,
                    state=State.FETCHED,
                    teacher=(noisy / np.linalg.norm(noisy)).astype(np.float32),
                )
            )
        rows = store.append_tracks(tracks)
        features = store.features(recipe)
        for row, (codes, n_samples) in zip(rows, strips, strict=True):
            features.write_strip(row, codes, n_samples)
        features.commit(list(rows), [n for _, n in strips], [""] * len(rows))
        uuid = store.uuid
    write_checkpoint(library.run.best, checkpoint_info(uuid), student)
    split = {"method": "hash", "folds": 2, "fold": 0, "held_out_artists": list(HELD_OUT)}
    (library.run.path / "split.json").write_text(json.dumps(split), encoding="utf-8")
    (library.run.path / "run.json").write_text(json.dumps({"store": {"uuid": uuid}}), encoding="utf-8")
    epochs = [
        {"epoch": e, "train_loss": 1 / e, "val_loss": 1.1 / e, "train_cosine": 1 - 1 / e, "val_cosine": 1 - 1.1 / e}
        for e in range(1, 8)
    ]
    (library.run.path / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in epochs), encoding="utf-8")
    return library


def embedder_of(model: Path, recipe: Recipe) -> Embedder:
    """The model in `model` and the input that it takes."""
    return Embedder(StudentSession(model), input_spec_of(model, recipe))


def file_vector(path: Path, embedder: Embedder) -> npt.NDArray[np.float32]:
    """[512] of an audio file."""
    return embedder.embed_samples(embedder.read_audio(path)).vector


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """One library for all tests, which must leave it as it is; `copied_library` may be changed."""
    return build_library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def copied_library(library: Library, tmp_path: Path) -> Library:
    """A library of the test's own."""
    import shutil

    root = tmp_path / "library"
    shutil.copytree(library.root, root)
    return Library(root, library.recipe, root / "features.zarr", root / "audio", root / "runs")


@pytest.fixture(scope="session")
def exported(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library's student as an ONNX file, made by the real writer."""
    from student_clap.export.graph.parity import real_segments
    from student_clap.export.graph.writer import write_student

    with FeatureStore.open(library.store) as store:
        segments, n_tracks = real_segments(store.features(library.recipe), [1, 3])
        info = checkpoint_info(store.uuid)
    return write_student(
        random_student(), info, tmp_path_factory.mktemp("model") / "student.onnx", segments, n_tracks
    ).path
