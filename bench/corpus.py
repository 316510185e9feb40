"""`make corpus`: the whole pipeline on real music, out of a real database of each schema generation.

Builds the corpus (197 tracks of freely licensed game music, bench/corpus/README.md), loads its teacher vectors into a
PostgreSQL with AudioMuse-AI's tables, serves the files as Jellyfin would, and runs every stage by its own command. The
two schema generations are ingested apart and must give the same rows. Held out is the corpus' own yardstick: fold 0 of
five by package. Prints a table, writes it to bench/results/corpus.json and DIR/corpus.md.
Cost: about half an hour on 2 cores, most of it training; 3.5 GB of disk.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from student_clap.config.load import load_config
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.machine import available_cores
from student_clap.export.demo.run import CORPUS_TEACHER
from student_clap.export.demo.stages import StageCost, StageError, configure, run_stage
from student_clap.export.demo.world import LoopbackWorld, WorldTrack
from student_clap.store import FeatureStore, Recipe
from student_clap.train.runs.reader import RunFolder

HERE = Path(__file__).resolve().parent
SETTINGS: dict[str, object] = {
    "teacher.name": CORPUS_TEACHER,
    "split.method": "sorted",
    "split.folds": 5,
    "split.fold": 0,
    "training.learning_rate": 1e-3,
    "training.epochs": 20,
    "training.warmup_epochs": 1,
    "training.segments_per_track": 4,
    "training.early_stopping_patience": 0,  # the last epoch is judged: none is chosen by what it is judged by
}
EVALUATION_KEYS = ("n_tracks", "n_artists", "n_segments", "ms_per_segment", "student", "mean_vector", "shuffled")
GENERATIONS = {"A": "generation-a", "B": "generation-b"}


def main() -> int:
    """Run it. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Every stage on the real corpus, timed.")
    parser.add_argument("--work", type=Path, default=Path("corpus"), metavar="DIR", help="[default: corpus]")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="a setting of the stages, may be repeated",
    )
    options = parser.parse_args()
    work = options.work.resolve()
    settings = SETTINGS | dict(item.split("=", 1) for item in options.set)
    try:
        run(work, settings)
    except (StageError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(work: Path, settings: dict[str, object]) -> None:
    """Build, ingest both generations, then every other stage on the second."""
    print("== The corpus", flush=True)
    subprocess.run([HERE / "corpus" / "build.sh", work], check=True)
    tracks = corpus_tracks(work / "audio")
    costs: dict[str, StageCost] = {}
    for generation, name in GENERATIONS.items():
        print(f"\n== Schema generation {generation}", flush=True)
        folder = work / name
        with LoopbackWorld(tracks, generation=generation) as world:  # type: ignore[arg-type]
            configure(folder, world, settings | {"database.port": world.database.port})
            costs[f"ingest, generation {generation}"] = run_stage("ingest", folder)
            run_stage("ingest --verify", folder)
    compare(work / GENERATIONS["A"], work / GENERATIONS["B"], tracks)

    print("\n== Features, student, ONNX, judgement", flush=True)
    run_name = "yardstick-fold-0"
    costs["featurize"] = run_stage("featurize", folder)
    costs["train"] = run_stage(f"train --run {run_name}", folder)
    run = RunFolder(folder / "runs" / run_name)
    costs["export"] = run_stage(f"export --run {run_name} --checkpoint {run.last}", folder)
    costs["evaluate"] = run_stage(f"evaluate --run {run_name}", folder)

    record = results(folder, run, costs, settings)
    text = as_markdown(record)
    write_text_atomically(HERE / "results" / "corpus.json", json.dumps(record, indent=1) + "\n")
    write_text_atomically(work / "corpus.md", text)
    print(f"\n{text}\nReport: {run.report}")


def corpus_tracks(audio: Path) -> list[WorldTrack]:
    """tracks.csv with teacher.npz's vectors; the package stands for the artist."""
    with np.load(HERE / "corpus" / "teacher.npz") as teacher:
        vectors = dict(zip(teacher["track_id"].tolist(), teacher["teacher"], strict=True))
    with (HERE / "corpus" / "tracks.csv").open(encoding="utf-8", newline="") as file:
        return [
            WorldTrack(
                track_id=row["track_id"],
                title=row["title"],
                artist=row["artist"],
                album=row["album"],
                path=audio / f"{row['track_id']}.{row['container']}",
                vector=vectors[row["track_id"]],
            )
            for row in csv.DictReader(file)
        ]


def compare(folder_a: Path, folder_b: Path, tracks: list[WorldTrack]) -> None:
    """Both generations must have given the same tracks, vectors and files. Raises StageError."""
    found = []
    for folder in (folder_a, folder_b):
        store = FeatureStore.open(folder / "data" / "features.zarr")
        files = [(folder / "data" / "audio" / audio).stat().st_size for audio in store.strings("audio")]
        rows = zip(store.strings("track_id"), store.strings("title"), store.strings("artist"), files, strict=True)
        found.append({r[0]: (*r, store.teacher()[i].tobytes()) for i, r in enumerate(rows)})
    if found[0] != found[1] or len(found[0]) != len(tracks):
        raise StageError(f"the generations differ: {len(found[0])} and {len(found[1])} rows of {len(tracks)} tracks")
    print(f"\nBoth generations gave the same {len(tracks)} tracks, vectors and files.")


def results(folder: Path, run: RunFolder, costs: dict[str, StageCost], settings: dict[str, object]) -> dict[str, Any]:
    """Everything the table shows, from what the stages left."""
    config = load_config(folder / "config.yaml")
    evaluation = json.loads(run.evaluation_record.read_text(encoding="utf-8"))
    store = FeatureStore.open(folder / "data" / "features.zarr")
    recipe = Recipe.from_config(config.audio)
    features = store.features(recipe)
    minutes = float(features.n_samples().clip(0).sum()) / recipe.sample_rate / 60
    return {
        "machine": f"{available_cores()} cores, {platform.machine()}, Python {platform.python_version()}",
        "settings": {k: v for k, v in settings.items() if k != "database.port"},
        "tracks": store.n_tracks,
        "minutes": minutes,
        "store_mb": features.stored_bytes() / 1e6,
        "onnx_mb": run.student_onnx.stat().st_size / 1e6,
        "stages": {name: {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s} for name, cost in costs.items()},
        "evaluation": {name: evaluation[name] for name in EVALUATION_KEYS},
    }


def as_markdown(record: dict[str, Any]) -> str:
    """The tables of docs/benchmarks.md."""
    minutes = record["minutes"]
    lines = [
        f"{record['tracks']} tracks, {minutes:.1f} minutes of audio; {record['machine']}.",
        "",
        "| stage | wall s | CPU s | CPU ms per minute of audio |",
        "|---|--:|--:|--:|",
        *(
            f"| {name} | {cost['wall_s']:.0f} | {cost['cpu_s']:.0f} | {1e3 * cost['cpu_s'] / minutes:.0f} |"
            for name, cost in record["stages"].items()
        ),
        "",
        f"Store: {record['store_mb']:.1f} MB, {record['store_mb'] / minutes:.3f} MB per minute of audio.",
        f"Student: {record['onnx_mb']:.1f} MB.",
        "",
        "| held out | cos | centred | overlap@10 | nDCG@10 | cross-model R@1 |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    evaluation = record["evaluation"]
    for name in ("student", "mean_vector", "shuffled"):
        figures = evaluation[name]
        shown = " | ".join(
            f"{value:.3f}"
            for value in (
                figures["cosine"]["mean"],
                figures["centred_cosine"]["mean"],
                figures["overlap"],
                figures["ndcg"],
                figures["cross_model_recall_at_1"],
            )
        )
        lines.append(f"| {name.replace('_', ' ')} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
