"""A library with more to learn from: changed copies of the training tracks, with what the teacher says of the change.

    python bench/recipes_library.py --corpus corpus
    python bench/consistent_views.py --corpus corpus --fold 0
    student-clap sweep bench/recipes.yaml --config corpus/views-0/config.yaml --fold 0 POINTS

A view is a minute of a track of the training side, played faster or slower by up to SPEED, its bands raised and lowered
by up to BAND_DB, with another track of the training side beneath in every second one. Views have no artist, so they are
always trained on; they fit the fold alone that they were made for. The teacher hears them as it hears every track: the
targets are exact, unlike those of `augmentation.mixup`. Cost: 0.3 s of a core a segment, 11 of a view.
"""

from __future__ import annotations

import argparse
import csv
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.presets import SAMPLE_RATE
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.decode import decode
from student_clap.store import FeatureStore, Recipe

HERE = Path(__file__).resolve().parent
PROGRAM = Path(sys.executable).with_name("student-clap")
RECIPE = Recipe.from_config(AudioConfig())
SECONDS, SPEED, BAND_DB, BANDS, GAIN_DB = 60, 1.15, 8.0, 6, 6.0
Samples = npt.NDArray[np.float32]


def main() -> int:
    """Make it. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), metavar="DIR")
    parser.add_argument("--fold", type=int, required=True, help="held out: of five, by sorted artists")
    parser.add_argument("--views", type=int, default=1, help="of a track  [default: 1]")
    options = parser.parse_args()
    corpus = options.corpus.resolve()
    work = corpus / f"views-{options.fold}"
    library, audio = corpus / "recipes", work / "audio"
    shutil.rmtree(work, ignore_errors=True)
    audio.mkdir(parents=True)
    with (HERE / "corpus" / "tracks.csv").open(encoding="utf-8", newline="") as file:
        tracks = list(csv.DictReader(file))
    held_out = sorted({track["artist"] for track in tracks})[options.fold :: 5]
    training = [track for track in tracks if track["artist"] not in held_out]
    files = {path.stem: path for path in (corpus / "audio").iterdir()}
    make_views([files[track["track_id"]] for track in training], audio, options.views)
    heard = configured(work, "heard.zarr", {"vectors": "none"})
    run("ingest", heard)
    run("featurize", heard, "--teacher", str(HERE / "corpus" / "teacher.onnx"))
    join_tables(work, tracks)
    shutil.copytree(library / "features.zarr", work / "features.zarr")
    for path in files.values():
        (audio / path.name).symlink_to(path)
    config = configured(work, "features.zarr", {"vectors": "table"})
    for stage in ("ingest", "featurize"):
        run(stage, config)
    print(f"student-clap sweep {HERE.name}/recipes.yaml --config {config} --fold {options.fold}")
    return 0


def make_views(files: list[Path], folder: Path, n_views: int) -> None:
    """Write `n_views` of each file into `folder`."""
    rng = np.random.default_rng(0)
    whole = [decode(path, RECIPE.max_samples) for path in files]
    for n, (path, samples) in enumerate(zip(files, whole, strict=True)):
        for view in range(n_views):
            sound = excerpt(samples, rng)
            if rng.random() < 0.5:
                other = excerpt(whole[(n + int(rng.integers(1, len(whole)))) % len(whole)], rng)
                sound = with_beneath(sound, other, rng.uniform(-12, 0))
            sound = sound * 10 ** (rng.uniform(-GAIN_DB, GAIN_DB) / 20)
            soundfile.write(folder / f"view-{view}-{path.stem}.flac", np.clip(sound, -1, 1), SAMPLE_RATE)


def excerpt(samples: Samples, rng: np.random.Generator) -> Samples:
    """A minute from somewhere, at another speed and with other bands."""
    speed = SPEED ** rng.uniform(-1, 1)
    length = int(SECONDS * SAMPLE_RATE * speed)
    begin = int(rng.integers(0, max(1, len(samples) - length)))
    return equalised(soxr.resample(samples[begin : begin + length], SAMPLE_RATE * speed, SAMPLE_RATE), rng)


def equalised(samples: Samples, rng: np.random.Generator) -> Samples:
    """Each of some bands between 50 Hz and 16 kHz raised or lowered, with smooth passages between them."""
    n = -(-len(samples) // 10_000) * 10_000  # a length of small factors
    spectrum = np.fft.rfft(samples, n)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 1))
    gains_db = np.interp(
        octaves, np.linspace(np.log2(50), np.log2(16_000), BANDS), rng.uniform(-BAND_DB, BAND_DB, BANDS)
    )
    return np.fft.irfft(spectrum * 10 ** (gains_db / 20), n)[: len(samples)].astype(np.float32)


def with_beneath(sound: Samples, other: Samples, level_db: float) -> Samples:
    """`sound` and `other`, whose level is `level_db` above that of `sound`."""
    n = min(len(sound), len(other))
    powers = [float(np.mean(part[:n] ** 2)) for part in (sound, other)]
    ratio = math.sqrt(powers[0] / max(powers[1], 1e-9))
    return sound[:n] + other[:n] * ratio * 10 ** (level_db / 20)


def join_tables(work: Path, tracks: list[dict[str, str]]) -> None:
    """Write teacher.npz and tracks.csv of the corpus and the views."""
    of_corpus = dict(np.load(HERE / "corpus" / "teacher.npz"))
    store = FeatureStore.open(work / "heard.zarr")
    heard, n_samples = store.segment_vectors(), store.features(RECIPE).n_samples()
    names = store.strings("track_id")
    vectors = [heard.of_production(row, int(n_samples[row]), RECIPE) for row in range(len(names))]
    means = [np.mean(of_track, axis=0, dtype=np.float32) for of_track in vectors]
    np.savez(
        work / "teacher.npz",
        track_id=np.concatenate([of_corpus["track_id"], np.array([Path(name).stem for name in names])]),
        teacher=np.concatenate([of_corpus["teacher"], [mean / np.linalg.norm(mean) for mean in means]]),
        segment_teacher=np.concatenate([of_corpus["segment_teacher"], *vectors]),
        n_segments=np.concatenate([of_corpus["n_segments"], [len(of_track) for of_track in vectors]]),
    )
    with (work / "tracks.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["track_id", "title", "artist", "album"])
        writer.writerows([track[key] for key in ("track_id", "title", "artist", "album")] for track in tracks)
        writer.writerows([Path(name).stem, "view", "", ""] for name in names)


def configured(work: Path, store: str, ingest: dict[str, str]) -> Path:
    """The configuration of a store in `work`, written to a file."""
    tree = {
        "table": {"path": str(work / "teacher.npz"), "tracks": str(work / "tracks.csv")},
        "folder": {"path": str(work / "audio")},
        "ingest": {"source": "folder", "cache_dir": str(work / "cache"), **ingest},
        "store": {"path": str(work / store)},
        "featurize": {"workers": 1},
        "training": {"runs_dir": str(work / "runs")},
    }
    config = work / ("config.yaml" if store == "features.zarr" else "heard.yaml")
    write_text_atomically(config, dump_yaml(tree))
    return config


def run(stage: str, config: Path, *options: str) -> None:
    """Run a stage of the product."""
    subprocess.run([PROGRAM, stage, "--config", config, *options], check=True)


if __name__ == "__main__":
    sys.exit(main())
