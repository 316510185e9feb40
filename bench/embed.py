"""`student-clap embed` next to production's loop, on the corpus' audio with one model: CPU seconds per minute of audio.

Production's loop: soundfile, channel mean, soxr HQ to 48 kHz, 16-bit steps, and for every segment librosa's mel and a
run of the model. AudioMuse-AI loads the model again for every song by default; that is timed apart. Both ways see the
same files in turn, one thread each; a track's figure is the median of its rounds. Their vectors are compared too.
Then wall time over all files, the loop's libraries using the cores as they like: it takes one song after another,
`embed` a file per core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import soundfile
from threadpoolctl import threadpool_limits

from loopback.production import production_mel
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.machine import processor
from student_clap.config.schema import AudioConfig
from student_clap.export.model.embedding import Embedder, default_threads
from student_clap.export.model.file_batch import embed_files
from student_clap.export.model.session import StudentSession
from student_clap.featurize.audio.decode import decode
from student_clap.featurize.onnx.input_spec import input_spec_of
from student_clap.featurize.onnx.segments import pool
from student_clap.store import Recipe
from student_clap.store.layout.segments import segment_starts

HERE = Path(__file__).resolve().parent
Vector = npt.NDArray[np.float32]


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), metavar="DIR")
    parser.add_argument("--model", type=Path, required=True, help="a student.onnx")
    parser.add_argument("--tracks", type=int, default=10, help="how many, spread over the corpus  [default: 10]")
    parser.add_argument("--rounds", type=int, default=3, help="[default: 3]")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "embed.json", help="[default: %(default)s]")
    options = parser.parse_args()
    files = sorted((options.corpus / "audio").glob("*"))
    if not files:
        print(f"error: no audio in {options.corpus / 'audio'}; run `make corpus` first", file=sys.stderr)
        return 1
    files = files[:: max(1, len(files) // options.tracks)][: options.tracks]
    record = measure(files, options.model, options.rounds)
    write_text_atomically(options.out, json.dumps(record, indent=1) + "\n")
    print(as_markdown(record))
    return 0


def measure(files: list[Path], model: Path, rounds: int) -> dict[str, Any]:
    """Both ways over all files."""
    embedder = Embedder(StudentSession(model), input_spec_of(model, Recipe.from_config(AudioConfig())))
    recipe = embedder.spec.recipe
    ways: dict[str, Callable[[Path], Vector]] = {
        "embed": lambda path: embedder.embed_samples(embedder.read_audio(path)).vector,
        "production": lambda path: _production(path, embedder),
    }
    seconds = dict.fromkeys(ways, 0.0)
    minutes, cosines = 0.0, []
    for path in files:
        taken: dict[str, list[float]] = {name: [] for name in ways}
        vectors = {}
        for number in range(rounds):
            for name in list(ways) if number % 2 else list(reversed(ways)):
                with threadpool_limits(1):
                    began = time.process_time()
                    vectors[name] = ways[name](path)
                    taken[name].append(time.process_time() - began)
        for name in ways:
            seconds[name] += statistics.median(taken[name])
        cosines.append(float(vectors["embed"].astype(np.float64) @ vectors["production"]))
        minutes += len(decode(path, recipe.max_samples)) / recipe.sample_rate / 60
    began = time.process_time()
    for _ in range(rounds):
        StudentSession(model)
    load_ms = round((time.process_time() - began) / rounds * 1000, 1)
    walls: dict[str, list[float]] = {"production": [], "embed": []}
    for _ in range(rounds):
        began = time.perf_counter()
        for path in files:
            ways["production"](path)
        walls["production"].append(time.perf_counter() - began)
        began = time.perf_counter()
        for _ in embed_files(files, embedder, threads=default_threads()):
            pass
        walls["embed"].append(time.perf_counter() - began)
    return {
        "machine": {"processor": processor(), "cores": len(os.sched_getaffinity(0))},
        "model": model.name,
        "tracks": len(files),
        "minutes": round(minutes, 2),
        "ms_per_minute": {name: round(total / minutes * 1000, 1) for name, total in seconds.items()},
        "load_ms": load_ms,
        "times_as_fast": round(seconds["production"] / seconds["embed"], 2),
        "wall_ms_per_minute": {
            name: round(statistics.median(taken) / minutes * 1000, 1) for name, taken in walls.items()
        },
        "wall_times_as_fast": round(statistics.median(p / e for p, e in zip(*walls.values(), strict=True)), 2),
        "lowest_cosine": round(min(cosines), 7),
    }


def _production(path: Path, embedder: Embedder) -> Vector:
    recipe = embedder.spec.recipe
    native, rate = soundfile.read(path, dtype="float32", always_2d=True, frames=-1)
    samples = librosa.to_mono(native[: rate * 600].T)
    samples = librosa.resample(samples, orig_sr=rate, target_sr=recipe.sample_rate, res_type="soxr_hq")
    samples = (np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16).astype(np.float32) / 32767.0
    length, vectors = recipe.segment_samples, []
    for start in segment_starts(min(len(samples), recipe.max_samples), recipe):
        piece = samples[start : start + length]
        segment_db = production_mel(np.pad(piece, (0, length - len(piece))), recipe)
        vectors.append(embedder.session.run(embedder.spec.shape.lay_out(segment_db[None])[None].copy()))
    return pool(np.concatenate(vectors))


def as_markdown(record: dict[str, Any]) -> str:
    """The record as a table."""
    ours, theirs = record["ms_per_minute"]["embed"], record["ms_per_minute"]["production"]
    wall, cores = record["wall_ms_per_minute"], record["machine"]["cores"]
    return "\n".join(
        [
            f"{record['tracks']} tracks, {record['minutes']} minutes, {record['model']}, one thread,",
            f"{record['machine']['processor']}; lowest cosine of the two vectors {record['lowest_cosine']}.",
            "",
            f"| way | ms of CPU per minute of audio, one thread | ms of wall time, {cores} cores |",
            "|---|--:|--:|",
            f"| production's loop, model loaded once | {theirs} | {wall['production']} |",
            f"| model loaded again, per song | + {record['load_ms']} | |",
            f"| `student-clap embed` | {ours} | {wall['embed']} |",
            f"| times as fast | {record['times_as_fast']} | {record['wall_times_as_fast']} |",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
