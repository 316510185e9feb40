"""Small synthetic stores: a track's mel has a spectrum of its own, and its teacher vector is a function of that."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.load import load_config, masked
from student_clap.config.schema import Config
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.layout.strip import strip_frames

# Segments of one second every half second, 32 bands: 101 frames, three tokens.
AUDIO = {
    "n_mels": 32,
    "n_fft": 512,
    "hop_length_stft": 480,
    "segment_length": 48_000,
    "hop_length": 24_000,
    "max_duration_s": 12.0,
}
RATE = 48_000


@dataclass(frozen=True)
class Library:
    """A store and the configuration that trains from it."""

    root: Path
    recipe: Recipe

    @property
    def store_path(self) -> Path:
        return self.root / "features.zarr"

    def config(self, **sections: dict[str, Any]) -> Config:
        """The configuration, with the keys of `sections` set."""
        settings: dict[str, dict[str, Any]] = {
            "audio": dict(AUDIO),
            "store": {"path": str(self.store_path)},
            "model": {"cnn_channels": (8, 16, 32), "hidden_dim": 32},
            "split": {"method": "sorted", "folds": 4},
            "training": {
                "runs_dir": self.root / "runs",
                "batch_size": 4,
                "epochs": 3,
                "warmup_epochs": 0.5,
                "learning_rate": 1e-3,
                "device": "cpu",
            },
        }
        for name, keys in sections.items():
            settings.setdefault(name, {}).update(keys)
        return Config.model_validate(settings)

    def config_file(self, config: Config) -> Path:
        """`config` as a file that the command reads."""
        path = self.root / "config.yaml"
        sections = ("audio", "store", "model", "split", "loss", "augmentation", "training")
        tree = {name: values for name, values in masked(config).items() if name in sections}
        path.write_text(dump_yaml(tree), encoding="utf-8")
        load_config(path, environment={})
        return path


def make_library(
    root: Path,
    durations_s: list[float],
    artists: list[str] | None = None,
    seed: int = 0,
    audio: Mapping[str, Any] = MappingProxyType({}),
) -> Library:
    """A store of tracks of these durations, by these artists (one each unless given), with these keys of `audio`."""
    root.mkdir(parents=True, exist_ok=True)
    library = Library(root, Recipe.from_config(Config.model_validate({"audio": {**AUDIO, **audio}}).audio))
    rng = np.random.default_rng(seed)
    n_mels = library.recipe.n_mels
    projection = rng.normal(size=(n_mels, 512))
    profiles = rng.normal(size=(len(durations_s), n_mels))
    teacher = profiles @ projection
    teacher /= np.linalg.norm(teacher, axis=1, keepdims=True)
    tracks = [
        Track(
            server_id="default",
            track_id=f"t{row:03}",
            artist=artists[row] if artists is not None else f"artist {row:03}",
            state=State.FETCHED,
            teacher=teacher[row].astype(np.float32),
        )
        for row in range(len(durations_s))
    ]
    with FeatureStore.create(library.store_path, "synthetic") as store:
        store.append_tracks(tracks)
        features = store.features(library.recipe)
        lengths = [int(duration * RATE) for duration in durations_s]
        for row, n_samples in enumerate(lengths):
            shape = (n_mels, strip_frames(n_samples, library.recipe))
            codes = 128 + 24 * profiles[row][:, None] + rng.normal(scale=12, size=shape)
            features.write_strip(row, np.clip(codes, 1, 255).astype(np.uint8), n_samples)
        features.commit(list(range(len(lengths))), lengths, [""] * len(lengths))
    return library


@pytest.fixture(autouse=True)
def plain_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own processes go on after a training and give its memory back."""
    monkeypatch.setattr("student_clap.train.loop.session.keep_freed_memory", lambda: True)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Library]:
    """Makes libraries in the test's own directory."""

    def build(
        durations_s: list[float], artists: list[str] | None = None, name: str = "library", **options: Any
    ) -> Library:
        return make_library(tmp_path / name, durations_s, artists, **options)

    return build


@pytest.fixture(scope="session")
def made_library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Sixteen tracks from half a second to eleven, by sixteen artists; `library` is a test's own copy."""
    durations_s = [0.5, 1.0, 1.5, 2.0, 2.3, 3.0, 3.7, 4.0, 5.0, 0.8, 1.2, 2.5, 6.1, 11.0, 2.0, 3.3]
    return make_library(tmp_path_factory.mktemp("made") / "library", durations_s)


@pytest.fixture
def library(made_library: Library, tmp_path: Path) -> Library:
    """Sixteen tracks from half a second to eleven, by sixteen artists."""
    return Library(Path(shutil.copytree(made_library.root, tmp_path / "library")), made_library.recipe)
