"""CPU time per minute of audio of each step of featurize, and of what a relative of this project does.

The rival path: librosa.load, librosa's mel of every segment for itself, cached as float32 with zlib (level 6). Both see
the same files in the same run, rounds interleaved; a track's figure is the median of its rounds. `make bench` runs it
with one thread; run `make corpus` first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np

from loopback.production import production_mel
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.audio.mel import LogMel
from student_clap.store import FeatureStore, Recipe, Track, frame_index
from student_clap.store.layout.segments import segment_starts

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), metavar="DIR")
    parser.add_argument("--tracks", type=int, default=14, help="how many, spread over the corpus  [default: 14]")
    parser.add_argument("--rounds", type=int, default=3, help="[default: 3]")
    options = parser.parse_args()
    files = sorted((options.corpus / "audio").glob("*"))
    if not files:
        print(f"error: no audio in {options.corpus / 'audio'}; run `make corpus` first", file=sys.stderr)
        return 1
    files = files[:: max(1, len(files) // options.tracks)][: options.tracks]
    record = measure(files, options.rounds)
    write_text_atomically(HERE / "results" / "featurize.json", json.dumps(record, indent=1) + "\n")
    print(as_markdown(record))
    return 0


def measure(files: list[Path], rounds: int) -> dict[str, Any]:
    """CPU seconds of every step for every track, as medians over the rounds."""
    recipe = Recipe.from_config(AudioConfig())
    log_mel = LogMel(recipe)
    cpu: dict[str, float] = defaultdict(float)
    sizes: dict[str, float] = defaultdict(float)
    minutes_in_all = 0.0
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.create(Path(folder) / "bench.zarr", "bench")
        store.append_tracks([Track("bench", f.name) for f in files])
        features = store.features(recipe)
        for row, file in enumerate(files):
            steps: dict[str, list[float]] = defaultdict(list)
            for _ in range(rounds):
                samples = timed(steps, "decode and resample", lambda: decode(file, recipe.max_samples))  # noqa: B023
                codes = timed(steps, "mel", lambda: log_mel.codes(samples))  # noqa: B023
                timed(steps, "write", lambda: features.write_strip(row, codes, len(samples)))  # noqa: B023
                features.commit([row], [len(samples)], [""])
                timed(steps, "read the strip", lambda: features.strip(row, len(samples)))  # noqa: B023
                timed(steps, "copy of the same bytes", codes.copy)
                timed(steps, "rival: librosa.load", lambda: load(file, recipe))  # noqa: B023
                mels = timed(steps, "rival: librosa per segment", lambda: per_segment(samples, recipe))  # noqa: B023
                packed = timed(steps, "rival: zlib float32", lambda: zlib.compress(whole(mels, recipe), 6))  # noqa: B023
            minutes_in_all += len(samples) / recipe.sample_rate / 60
            for name, values in steps.items():
                cpu[name] += statistics.median(values)
            sizes["rival"] += len(packed) / 1e6
        sizes["store"] = features.stored_bytes() / 1e6
        store.close()
    return {
        "tracks": len(files),
        "minutes": minutes_in_all,
        "cpu_ms_per_minute": {name: 1e3 * seconds / minutes_in_all for name, seconds in cpu.items()},
        "mb_per_minute": {name: size / minutes_in_all for name, size in sizes.items()},
        "index_ms": 1e3 * statistics.median(_index_seconds(recipe)),
    }


def timed(steps: dict[str, list[float]], name: str, step: Callable[[], Any]) -> Any:
    """Run `step` and note its CPU seconds."""
    begin = time.process_time()
    result = step()
    steps[name].append(time.process_time() - begin)
    return result


def load(file: Path, recipe: Recipe) -> np.ndarray:
    """[sample] as the rival decodes."""
    samples, _ = librosa.load(
        file, sr=recipe.sample_rate, mono=True, duration=recipe.max_samples / recipe.sample_rate, res_type="soxr_hq"
    )
    return samples


def per_segment(samples: np.ndarray, recipe: Recipe) -> np.ndarray:
    """[segment, mel, frame] dB, each segment by librosa for itself."""
    mels = []
    for start in segment_starts(len(samples), recipe):
        segment = samples[start : start + recipe.segment_samples]
        segment = np.pad(segment, (0, recipe.segment_samples - len(segment)))
        mels.append(production_mel(segment, recipe))
    return np.stack(mels)


def whole(mels: np.ndarray, recipe: Recipe) -> bytes:
    """A track's frames once, as float32: every second segment, so that none is packed twice."""
    step = -(-recipe.segment_samples // recipe.segment_hop_samples)
    return np.ascontiguousarray(np.concatenate(mels[::step], axis=1)).tobytes()


def _index_seconds(recipe: Recipe) -> list[float]:
    seconds = []
    for _ in range(20):
        begin = time.process_time()
        frame_index(240 * recipe.sample_rate, recipe)
        seconds.append(time.process_time() - begin)
    return seconds


def as_markdown(record: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md."""
    cpu, size = record["cpu_ms_per_minute"], record["mb_per_minute"]
    decoding = cpu["decode and resample"]
    ours = decoding + cpu["mel"] + cpu["write"]
    rival = cpu["rival: librosa.load"] + cpu["rival: librosa per segment"] + cpu["rival: zlib float32"]
    lines = [
        f"{record['tracks']} tracks, {record['minutes']:.1f} minutes of audio; CPU ms per minute of audio, one thread.",
        "",
        "| step | ms |",
        "|---|--:|",
        *(f"| {name} | {value:.1f} |" for name, value in cpu.items()),
        f"| **featurize in all** | **{ours:.0f}** |",
        f"| **rival in all** | **{rival:.0f}** |",
        "",
        f"featurize / (decode and resample) = {ours / decoding:.2f}, rival / featurize = {rival / ours:.2f}.",
        f"MB per minute: store {size['store']:.3f}, rival {size['rival']:.2f}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
