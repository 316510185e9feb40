"""Read a feature store: look at a track, and learn the teacher's vectors from mean mels with ridge regression.

    python docs/read_store.py data/features.zarr [--plot track.png]

A linear probe is the floor that a student has to beat. Needs numpy and this package; the plot needs matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.config.schema import AudioConfig
from student_clap.store import Features, FeatureStore, Recipe
from student_clap.store.layout.codes import dequantise

Array = npt.NDArray[np.float64]


def main() -> None:
    """Print what the store holds and how far a linear probe comes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", help="the store's directory or s3:// URL")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the first track's mel")
    options = parser.parse_args()
    store = FeatureStore.open(options.store)
    features = store.features(Recipe.from_config(AudioConfig()))
    n_samples, teacher, artists = features.n_samples(), store.teacher(), store.strings("artist")
    rows = np.flatnonzero((n_samples > 0) & np.isfinite(teacher).all(axis=1))
    print(f"{store.n_tracks} tracks, {len(rows)} with features and a vector, teacher {store.teacher_name}")

    first = int(rows[0])
    segments = features.segments(first)  # [segment, mel, frame] dB
    print(f"{store.strings('title')[first]!r}: {segments.shape[0]} segments, {segments.mean():.1f} dB on average")
    if options.plot:
        plot(segments[0], store.strings("title")[first], features.recipe, options.plot)

    inputs = np.stack([mean_mel(features, int(row), int(n_samples[row])) for row in rows])
    held_out = np.isin([artists[row] for row in rows], sorted({artists[row] for row in rows})[::5])
    found = ridge(inputs[~held_out], teacher[rows][~held_out], inputs[held_out], strength=30.0)
    cosine = cosines(found, teacher[rows][held_out])
    mean_vector = np.broadcast_to(teacher[rows][~held_out].mean(axis=0), found.shape)
    print(f"held out: {held_out.sum()} tracks of every fifth artist; cosine to the teacher")
    print(f"  linear probe {cosine.mean():.3f}, mean vector {cosines(mean_vector, teacher[rows][held_out]).mean():.3f}")


def mean_mel(features: Features, row: int, n_samples: int) -> Array:
    """Mean and deviation of every band over a track's frames, [2 * mel] dB."""
    mel = dequantise(features.strip(row, n_samples), features.recipe)  # [mel, frame]
    return np.concatenate([mel.mean(axis=1), mel.std(axis=1)]).astype(np.float64)


def ridge(inputs: Array, targets: npt.NDArray[np.float32], of: Array, *, strength: float) -> Array:
    """Predictions for `of`, inputs standardised, [track, 512]."""
    middle, width = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    x, mean = (inputs - middle) / width, targets.mean(axis=0)
    weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ (targets - mean))
    predictions: Array = (of - middle) / width @ weights + mean
    return predictions


def cosines(found: npt.NDArray[np.floating], teacher: npt.NDArray[np.float32]) -> Array:
    """[track] cosine of each prediction to its teacher's vector."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(teacher, axis=1)
    result: Array = np.einsum("td,td->t", found, teacher) / norms
    return result


def plot(mel: npt.NDArray[np.float32], title: str, recipe: Recipe, out: Path) -> None:
    """Draw one segment, [mel, frame] dB."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="s", ylabel="mel band", title=title)
    seconds = mel.shape[1] * recipe.hop_samples / recipe.sample_rate
    image = axes.imshow(mel, origin="lower", aspect="auto", extent=(0, seconds, 0, len(mel)), vmin=-80, vmax=30)
    figure.colorbar(image, label="dB")
    figure.savefig(out, dpi=120)
    print(f"drawn to {out}")


if __name__ == "__main__":
    main()
