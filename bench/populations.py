"""How often `ingest/populations.py` warns where it should, and where it should not, on real vectors.

From the corpus (bench/corpus/README.md): the teacher's segment vectors, those of the student that `make corpus`
trained, and random projections of the segments' log-mel statistics, as an unrelated model. Runs of SEGMENTS
neighbouring segments are pooled into tracks; their artist is the package, their album the piece. One population: each
model by itself, on random choices of packages. Two: the teacher with a part of its tracks replaced, by lot, by album or
by artist.
Students of other quality are points on the way from the teacher's vector to the student's. `mean 1` adds a common
direction to all vectors before normalising, as CLAP's vectors of music have one.
Writes bench/results/populations.json. Cost: 3 minutes on 2 cores, the student's vectors included.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.files import write_text_atomically
from student_clap.export.model.session import StudentSession
from student_clap.ingest.reports.populations import LEAST_ROWS, splits
from student_clap.store import FeatureStore
from student_clap.train.runs.reader import RunFolder

HERE = Path(__file__).resolve().parent
SEGMENTS = 6
DRAWS_ONE, DRAWS_TWO = 30, 3
HELD_OUT = ("colobot-common-sounds", "hyperrogue-music", "planetblupi-music-ogg")
Floats = npt.NDArray[np.float32]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), metavar="DIR", help="made by `make corpus`")
    parser.add_argument("--cache", type=Path, metavar="FILE.npz", help="of vectors  [DIR/populations.npz]")
    options = parser.parse_args()
    cache = options.cache or options.corpus / "populations.npz"
    if not cache.exists():
        np.savez(cache, **segment_vectors(options.corpus / "generation-b"))  # type: ignore[arg-type]
    with np.load(cache) as found:
        data = dict(found)
    record = measure(data)
    write_text_atomically(HERE / "results" / "populations.json", json.dumps(record, indent=1) + "\n")
    print(as_markdown(record))


def segment_vectors(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """`track` [segment], `artist` [track], per segment the vectors `T` and `S` and the mel's statistics `stats`."""
    store = FeatureStore.open(folder / "data" / "features.zarr")
    (recipe,) = store.recipes().values()
    features = store.features(recipe)
    student = StudentSession(RunFolder(folder / "runs" / "yardstick-fold-0").student_onnx)
    with np.load(HERE / "corpus" / "teacher.npz") as teacher:
        parts = np.split(teacher["segment_teacher"].astype(np.float32), np.cumsum(teacher["n_segments"])[:-1])
        teacher_of = dict(zip(teacher["track_id"].tolist(), parts, strict=True))
    columns: dict[str, list[npt.NDArray[Any]]] = {"track": [], "T": [], "S": [], "stats": []}
    for row, track_id in enumerate(store.strings("track_id")):
        # segments: [segment, mel, frame]
        segments = features.segments(row)
        steps = np.abs(np.diff(segments, axis=2))
        columns["track"].append(np.full(len(segments), row))
        columns["T"].append(teacher_of[track_id])
        columns["S"].append(student.embed_segments(segments))
        columns["stats"].append(np.concatenate([segments.mean(2), segments.std(axis=2), steps.mean(2)], axis=1))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return joined | {"artist": np.array(store.strings("artist"))}


def measure(data: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """The shares of warnings."""
    rng = np.random.default_rng(0)
    stats = (data["stats"] - data["stats"].mean(axis=0)) / data["stats"].std(axis=0)
    models = {
        "teacher": data["T"],
        "student": data["S"],
        "unrelated": unit(stats @ rng.standard_normal((stats.shape[1], 512))),
    }
    pieces = list(runs(data["track"], SEGMENTS))
    album = np.array([data["track"][run[0]] for run in pieces])
    artist = data["artist"][album]
    pooled = {name: unit(np.stack([vectors[run].mean(axis=0) for run in pieces])) for name, vectors in models.items()}
    common = unit(rng.standard_normal((1, 512)))[0]
    turned = np.linalg.qr(rng.standard_normal((512, 512)))[0]
    one, two = [], []
    for mean in (0, 1):
        made = {name: unit(vectors + mean * common) for name, vectors in pooled.items()}
        for name, vectors in made.items():
            one.append(one_population(name, mean, vectors, artist))
        teacher = made["teacher"]
        students = [unit(teacher + step * (made["student"] - teacher)) for step in (1.0, 0.8, 0.6, 0.4, 0.2)]
        others = {f"student at {cosine(teacher, other):.2f}": other for other in students}
        noise = unit(teacher + 0.2 * unit(rng.standard_normal(teacher.shape)))
        others |= {f"noise at {cosine(teacher, noise):.2f}": noise}
        others |= {"unrelated model": made["unrelated"], "unrelated, other mean": teacher @ turned}
        for name, other in others.items():
            two.append(two_populations(name, mean, teacher, other, artist, album))
        held_out = np.isin(artist, HELD_OUT)
        name = f"student at {cosine(teacher[held_out], made['student'][held_out]):.2f}, on tracks held out"
        two.append(two_held_out(name, mean, models, data, common))
    return {"tracks": len(pieces), "least_rows": LEAST_ROWS, "one": one, "two": two}


def one_population(name: str, mean: int, vectors: Floats, artist: npt.NDArray[Any]) -> dict[str, Any]:
    """One model on random choices of packages."""
    packages = np.unique(artist)
    warned, strongest = [], {}
    for draw in range(10 * DRAWS_ONE):
        rng = np.random.default_rng(draw)
        some = np.isin(artist, rng.choice(packages, rng.integers(2, len(packages) + 1), replace=False))
        if np.count_nonzero(some) < LEAST_ROWS:
            continue
        found = splits(vectors[some], artist[some].tolist())
        warned.append(any(split.convinces for split in found))
        for split in found:
            kind = split.number.partition(" ")[0]
            if split.share >= 0.05:
                for least in (0.0, 0.5, 0.85):
                    if split.straddle >= least:
                        key = f"{kind}, straddle from {least}"
                        strongest[key] = round(max(strongest.get(key, -1.0), split.gain), 3)
        if len(warned) == DRAWS_ONE:
            break
    return {"vectors": name, "mean": mean, "draws": len(warned), "warned": sum(warned), "strongest_gain": strongest}


def two_populations(
    name: str, mean: int, teacher: Floats, other: Floats, artist: npt.NDArray[Any], album: npt.NDArray[Any]
) -> dict[str, Any]:
    """The teacher's vectors with a part replaced."""
    record: dict[str, Any] = {"other": name, "mean": mean}
    for by, key in (("lot", np.arange(len(teacher))), ("album", album), ("artist", artist)):
        for part in (0.5, 0.2, 0.1) if by == "lot" else (0.5,):
            warned, gains = 0, []
            for draw in range(DRAWS_TWO):
                groups, of = np.unique(key, return_inverse=True)
                replaced = (np.random.default_rng(draw).random(len(groups)) < part)[of]
                found = splits(np.where(replaced[:, None], other, teacher), artist.tolist())
                warned += any(split.convinces for split in found)
                gains.append(found[0].gain)
            record[f"{part:.0%} by {by}"] = warned / DRAWS_TWO
            record[f"{part:.0%} by {by}, residual gain"] = round(float(np.median(gains)), 3)
    return record


def two_held_out(
    name: str, mean: int, models: dict[str, Floats], data: dict[str, npt.NDArray[Any]], common: Floats
) -> dict[str, Any]:
    """Only music that the student has not learnt from; shorter tracks, so that there are enough."""
    pieces = [run for run in runs(data["track"], 3) if data["artist"][data["track"][run[0]]] in HELD_OUT]
    album = np.array([data["track"][run[0]] for run in pieces])
    made = {
        model: unit(unit(np.stack([models[model][run].mean(axis=0) for run in pieces])) + mean * common)
        for model in ("teacher", "student")
    }
    return two_populations(name, mean, made["teacher"], made["student"], data["artist"][album], album)


def runs(track: npt.NDArray[Any], length: int) -> Iterator[npt.NDArray[np.intp]]:
    """Neighbouring segments of one piece, about `length` at a time."""
    for number in np.unique(track):
        own = np.flatnonzero(track == number)
        yield from np.array_split(own, max(1, len(own) // length))


def unit(vectors: npt.NDArray[Any]) -> Floats:
    """Rows at length 1."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def cosine(one: Floats, other: Floats) -> float:
    """Mean cosine of rows."""
    return float((one * other).sum(axis=1).mean())


def as_markdown(record: dict[str, Any]) -> str:
    """The tables of docs/log.md."""
    ways = ["50% by lot", "20% by lot", "10% by lot", "50% by album", "50% by artist"]
    lines = ["| one population | mean | choices of packages | warned |", "|---|--:|--:|--:|"]
    lines += [f"| {r['vectors']} | {r['mean']} | {r['draws']} | {r['warned']} |" for r in record["one"]]
    lines += ["", f"| teacher and | mean | {' | '.join(ways)} |", f"|---|--:|{'--:|' * len(ways)}"]
    lines += [f"| {r['other']} | {r['mean']} | {' | '.join(f'{r[w]:.1f}' for w in ways)} |" for r in record["two"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
