"""What the store costs: reading and writing tracks, the codecs to choose from, and a table of a million rows.

CPU time of one thread; every figure is a median of rounds that are interleaved, over tracks spread over the corpus.
`--store` names a store of the corpus (`make corpus` makes one); nothing is written to it. Writes results/store.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc, Zstd, blosc

from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.schema import AudioConfig
from student_clap.store import Features, FeatureStore, Recipe, State, Track, frame_index
from student_clap.store.arrays.shard import ShardFormat

HERE = Path(__file__).resolve().parent
MILLION = 1_000_000
Codes = np.ndarray[Any, np.dtype[np.uint8]]


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="a store of the corpus")
    parser.add_argument("--tracks", type=int, default=14, help="how many, spread over the store  [default: 14]")
    parser.add_argument("--rounds", type=int, default=5, help="[default: 5]")
    parser.add_argument("--rows", type=int, default=MILLION, help="of the large table  [default: 1000000]")
    options = parser.parse_args()
    blosc.set_nthreads(1)
    recipe = Recipe.from_config(AudioConfig())
    features = FeatureStore.open(options.store).features(recipe)
    n_samples = features.n_samples()
    made = np.flatnonzero(n_samples > 0)
    rows = made[:: max(1, len(made) // options.tracks)][: options.tracks].tolist()
    strips = {row: (features.strip(row), int(n_samples[row])) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        record = {
            "tracks": track_figures(Path(folder), recipe, list(strips.values()), options.rounds),
            "codecs": codec_figures(list(strips.values()), recipe, options.rounds),
            "rows": row_figures(Path(folder), recipe, options.rows),
        }
    write_text_atomically(HERE / "results" / "store.json", json.dumps(record, indent=1) + "\n")
    print(as_markdown(record))
    return 0


def track_figures(folder: Path, recipe: Recipe, strips: list[tuple[Codes, int]], rounds: int) -> dict[str, Any]:
    """CPU ms per four minutes of audio of each way to read or write a track."""
    with FeatureStore.create(folder / "tracks.zarr", "bench") as store:
        store.append_tracks([Track("bench", str(row)) for row in range(len(strips))])
        features = store.features(recipe)
        plain = zarr.open_group(str(store.path), mode="r+")[f"features/{recipe.name}/mel"]
        steps: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in strips])
        for _ in range(rounds):
            for row, (codes, n_samples) in enumerate(strips):
                for name, step in _steps(features, plain, row, codes, n_samples).items():
                    begin = time.process_time()
                    step()
                    steps[name][row].append(time.process_time() - begin)
                features.commit([row], [n_samples], [""])
        minutes = sum(n for _, n in strips) / recipe.sample_rate / 60
        megabytes = features.stored_bytes() / 1e6
    cpu = {name: 4e3 * sum(map(statistics.median, tracks)) / minutes for name, tracks in steps.items()}
    return {"n": len(strips), "minutes": minutes, "mb_per_minute": megabytes / minutes, "cpu_ms_per_4_minutes": cpu}


def _steps(features: Features, plain: Any, row: int, codes: Codes, n_samples: int) -> dict[str, Callable[[], object]]:
    index = frame_index(n_samples, features.recipe)
    like_segments = np.empty((len(index), len(codes), index.shape[1]), np.float32)
    return {
        "write the shard": lambda: features.write_strip(row, codes, n_samples),
        "read the strip": lambda: features.strip(row, n_samples),
        "read the strip through zarr": lambda: plain[row, :, : codes.shape[1]],
        "memcpy of the strip": codes.copy,
        "strip and columns of its segments": lambda: (
            features.strip(row, n_samples),
            frame_index(n_samples, features.recipe),
        ),
        "strip to segments in dB, float32": lambda: features.decibels(codes, n_samples),
        "memcpy of the segments": like_segments.copy,
    }


def codec_figures(strips: list[tuple[Codes, int]], recipe: Recipe, rounds: int) -> list[dict[str, Any]]:
    """Size and CPU of ways to pack the strips, in chunks of 4096 frames, without the shard around them."""
    minutes = sum(n for _, n in strips) / recipe.sample_rate / 60
    chunks = [chunk for codes, _ in strips for chunk in _chunks(codes, 4096)]
    table = []
    for name, pack, unpack in _codecs(recipe):
        packed = [pack(chunk) for chunk in chunks]
        if not all(np.array_equal(unpack(p).reshape(c.shape), c) for p, c in zip(packed, chunks, strict=True)):
            raise ValueError(f"{name} does not give back what it was given")
        encode, decode = [], []
        for _ in range(rounds):
            begin = time.process_time()
            for chunk in chunks:
                pack(chunk)
            middle = time.process_time()
            for data in packed:
                unpack(data)
            encode.append(middle - begin)
            decode.append(time.process_time() - middle)
        table.append(
            {
                "codec": name,
                "mb_per_minute": sum(map(len, packed)) / 1e6 / minutes,
                "encode_ms_per_4_minutes": 4e3 * statistics.median(encode) / minutes,
                "decode_ms_per_4_minutes": 4e3 * statistics.median(decode) / minutes,
            }
        )
    return table


def _chunks(codes: Codes, frames: int) -> list[Codes]:
    wide = np.zeros((len(codes), -(-codes.shape[1] // frames) * frames), np.uint8)
    wide[:, : codes.shape[1]] = codes
    return [np.ascontiguousarray(wide[:, begin : begin + frames]) for begin in range(0, wide.shape[1], frames)]


def _codecs(recipe: Recipe) -> list[tuple[str, Callable[[Codes], bytes], Callable[[bytes], Codes]]]:
    def plain(data: bytes) -> Codes:
        return np.frombuffer(data, np.uint8)

    def time_steps(chunk: Codes) -> Codes:
        return np.diff(chunk, axis=1, prepend=np.uint8(0)).astype(np.uint8)

    def both_steps(chunk: Codes) -> Codes:
        return np.diff(time_steps(chunk), axis=0, prepend=np.zeros((1, chunk.shape[1]), np.uint8)).astype(np.uint8)

    def sums(data: bytes, axes: tuple[int, ...]) -> Codes:
        values = plain(data).reshape(recipe.n_mels, -1)
        for axis in axes:
            values = np.cumsum(values, axis=axis, dtype=np.uint8)
        return values

    ours = ShardFormat(recipe.n_mels, 4096, 16, "delta-zstd")
    found: list[tuple[str, Callable[[Codes], bytes], Callable[[bytes], Codes]]] = [
        ("none", lambda c: c.tobytes(), plain)
    ]
    for level in (1, 5):
        bits = Blosc("zstd", clevel=level, shuffle=Blosc.BITSHUFFLE, typesize=1)
        found.append((f"Blosc, zstd {level}, bitshuffle", bits.encode, lambda d, b=bits: plain(b.decode(d))))
    for level in (1, 5):
        zstd = Zstd(level=level)
        found.append((f"zstd {level}", zstd.encode, lambda d, z=zstd: plain(z.decode(d))))
    one, five = Zstd(level=1), Zstd(level=5)
    found += [
        ("time differences, zstd 5", lambda c: five.encode(time_steps(c)), lambda d: sums(five.decode(d), (1,))),
        ("time differences, zstd 1, cumsum", lambda c: one.encode(time_steps(c)), lambda d: sums(one.decode(d), (1,))),
        ("time differences, zstd 1, by doubling (chosen)", ours.pack, lambda d: ours.unpack(memoryview(d))),
        ("time and mel, zstd 1", lambda c: one.encode(both_steps(c)), lambda d: sums(one.decode(d), (0, 1))),
    ]  # fmt: skip
    return found


def row_figures(folder: Path, recipe: Recipe, n_rows: int) -> dict[str, Any]:
    """Wall seconds of what is done to a table of `n_rows` rows, one of a thousand having features."""
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = step()
        seconds[name] = time.perf_counter() - begin
        return result

    path = folder / "rows.zarr"
    store = timed("create the store", lambda: FeatureStore.create(path, "bench"))
    vector = np.full(512, 512**-0.5, np.float32)

    def tracks(begin: int, end: int, *, vectors: bool) -> list[Track]:
        known = vector if vectors else None
        return [
            Track("server-1", f"{n:032x}", f"fp_{n}", f"Title {n}", f"Artist {n % 9000}", f"Album {n % 70_000}",
                  f"audio/{n:032x}.mp3", state=State.FETCHED, teacher=known)
            for n in range(begin, end)
        ]  # fmt: skip

    begin = time.perf_counter()
    for first in range(0, n_rows, 65_536):
        store.append_tracks(tracks(first, min(first + 65_536, n_rows), vectors=False))
    seconds[f"fill it with {n_rows} rows, 65536 at a time"] = time.perf_counter() - begin
    features = timed(f"create features for {n_rows} rows", lambda: store.features(recipe))
    more = tracks(n_rows, n_rows + 2048, vectors=True)
    timed("append 2048 rows with vectors", lambda: store.append_tracks(more))
    features = store.features(recipe)
    some = list(range(0, n_rows, max(1, n_rows // 1000)))
    codes = np.ones((recipe.n_mels, 1001), np.uint8)
    for row in some:
        features.write_strip(row, codes, recipe.segment_samples)
    timed("commit 1000 tracks", lambda: features.commit(some, [recipe.segment_samples] * len(some), [""] * len(some)))
    timed("update 1000 states", lambda: store.update_tracks(some, state=[State.GONE] * len(some)))
    store.close()
    timed("open for reading", lambda: FeatureStore.open(path))
    store = timed("open for writing", lambda: FeatureStore.open(path, "r+"))
    timed("states and n_samples", lambda: (store.states(), store.features(recipe).n_samples()))
    timed("one text column", lambda: store.strings("title"))
    timed("list the shards", lambda: store.features(recipe).shard_rows())
    store.close()
    files = [p for p in path.rglob("*") if p.is_file()]
    return {
        "rows": n_rows + 2048,
        "wall_s": seconds,
        "files": len(files),
        "mb": sum(p.stat().st_size for p in files) / 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def as_markdown(record: dict[str, Any]) -> str:
    """The tables of docs/benchmarks.md."""
    tracks, rows = record["tracks"], record["rows"]
    lines = [
        f"{tracks['n']} tracks, {tracks['minutes']:.1f} minutes, {tracks['mb_per_minute']:.3f} MB per minute.",
        "CPU ms per four minutes of audio (48 segments), one thread.",
        "",
        "| a track | ms |",
        "|---|--:|",
        *(f"| {name} | {ms:.1f} |" for name, ms in tracks["cpu_ms_per_4_minutes"].items()),
        "",
        "| codec | MB per minute | encode, ms per 4 minutes | decode |",
        "|---|--:|--:|--:|",
        *(
            f"| {c['codec']} | {c['mb_per_minute']:.3f} | {c['encode_ms_per_4_minutes']:.1f} "
            f"| {c['decode_ms_per_4_minutes']:.1f} |"
            for c in record["codecs"]
        ),
        "",
        f"{rows['rows']} rows, 1000 of them with features: {rows['files']} files, {rows['mb']:.0f} MB.",
        "",
        "| table | wall s |",
        "|---|--:|",
        *(f"| {name} | {s:.2f} |" for name, s in rows["wall_s"].items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
