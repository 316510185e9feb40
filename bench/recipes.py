"""Recipes raced on the corpus: the same tracks, steps and student; the loss, the targets and the augmentation differ.

On a GPU: --set training.device=cuda, one run at a time (--parallel 1).

Makes a store of the corpus with the teacher's vectors of segments by `student-clap ingest` and `featurize`, trains
every recipe by `student-clap train`, one thread each, and takes the figures of the last epoch, so that no epoch is
chosen by what it is judged by. Held out is the corpus' own yardstick: fold 0 of five by package, or what
`--folds` names. Runs that are complete are not made again.
Cost: four segments of the 147 training tracks take `tinyclap` eight to ten seconds of one core: three minutes for 20
epochs, half an hour for 160.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.yaml12 import dump_yaml
from student_clap.train.comparison.row import read_runs
from student_clap.train.students.registry import compared

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "recipes.json"
PROGRAM = Path(sys.executable).with_name("student-clap")
FIGURES = ("val_cosine", "val_centred", "val_overlap", "val_ndcg", "val_mixed_recall_at_1")
COMMON: dict[str, object] = {
    "training.learning_rate": 1e-3,
    "training.warmup_epochs": 1,
    "training.precision": "auto",
    "training.early_stopping_patience": 0,
    "training.save_every": 1000,
    "training.validate_every": 1000,
}
TRACK: dict[str, object] = {
    "loss.targets": "track",
    "training.epochs": 20,
    "training.batch_size": 16,
    "training.segments_per_track": 4,
}
SEGMENT: dict[str, object] = {
    "loss.targets": "segment",
    "training.epochs": 66,
    "training.batch_size": 8,
    "training.segments_per_track": 4,
}
MASKS: dict[str, object] = {"augmentation.band_mask": 0.15, "augmentation.time_mask": 0.15}
GAIN: dict[str, object] = {"augmentation.gain_db": 6}
SHIFT: dict[str, object] = {"augmentation.shift_s": 2.5}
RELATIONAL: dict[str, object] = {"loss.relational": 1.0}
BANK: dict[str, object] = {"loss.bank": 1.0}


@dataclass(frozen=True)
class Recipe:
    """Settings under a name."""

    name: str
    settings: dict[str, object] = field(default_factory=dict)


B4: dict[str, object] = {"training.batch_size": 4}
B16: dict[str, object] = {"training.batch_size": 16}
B32: dict[str, object] = {"training.batch_size": 32}
RECIPES = (
    Recipe("track-original", TRACK | {"loss.preset": "original"}),
    Recipe("track-cosine", TRACK),
    Recipe("track-squared", TRACK | {"loss.cosine": 0, "loss.squared": 1.0}),
    Recipe("track-gain", TRACK | GAIN),
    Recipe("track-masks", TRACK | MASKS),
    Recipe("track-shift", TRACK | SHIFT),
    Recipe("track-relational", TRACK | RELATIONAL),
    Recipe("track-bank", TRACK | BANK),
    Recipe("track-bank-shift", TRACK | BANK | SHIFT),
    Recipe("track-mixup", TRACK | {"augmentation.mixup": 0.5}),
    Recipe("track-consistency", TRACK | {"loss.consistency": 0.2}),
    Recipe("track-ema", TRACK | {"training.ema_decay": 0.99}),
    Recipe("track-k2", TRACK | {"training.epochs": 40, "training.segments_per_track": 2}),
    Recipe("track-k8", TRACK | {"training.epochs": 10, "training.segments_per_track": 8}),
    Recipe("track-k16", TRACK | {"training.epochs": 5, "training.segments_per_track": 16}),
    Recipe("track-pitch-stretch", TRACK | {"augmentation.pitch_semitones": 1, "augmentation.stretch": 0.05}),
    Recipe("track-cosine-b4", TRACK | B4),
    Recipe("track-bank-b4", TRACK | B4 | BANK),
    Recipe("track-gain-masks", TRACK | GAIN | MASKS),
    Recipe("track-bank-long", TRACK | BANK | {"training.epochs": 60}),
    Recipe("segment-cosine-b16", SEGMENT | B16 | {"training.epochs": 16, "training.segments_per_track": 16}),
    Recipe("segment-cosine", SEGMENT),
    Recipe("segment-gain-masks", SEGMENT | GAIN | MASKS),
    Recipe("segment-gain", SEGMENT | GAIN),
    Recipe("segment-shift", SEGMENT | SHIFT),
    Recipe("segment-bank-shift", SEGMENT | BANK | SHIFT),
    Recipe("segment-bank", SEGMENT | BANK),
    Recipe("segment-relational-bank", SEGMENT | RELATIONAL | BANK),
    Recipe("segment-mixup", SEGMENT | {"augmentation.mixup": 0.5}),
    Recipe("segment-both", SEGMENT | {"loss.targets": "both"}),
    Recipe("segment-bank-long", SEGMENT | BANK | {"training.epochs": 160}),
    Recipe("segment-bank-k2", SEGMENT | BANK | B16 | {"training.epochs": 132, "training.segments_per_track": 2}),
    Recipe("segment-bank-k2-long", SEGMENT | BANK | B16 | {"training.epochs": 320, "training.segments_per_track": 2}),
    Recipe("segment-bank-of-segments", SEGMENT | BANK | {"loss.bank_of": "segments"}),
    *(Recipe(f"segment-bank-{t}", SEGMENT | BANK | {"loss.bank_temperature": t}) for t in (0.05, 0.07, 0.2)),
    *(Recipe(f"segment-bank-relational-{w}", SEGMENT | BANK | {"loss.relational": w}) for w in (0.05, 0.1, 0.2)),
    Recipe("segment-bank-k2-b32", SEGMENT | BANK | B32 | {"training.epochs": 132, "training.segments_per_track": 2}),
    Recipe("track-original-long", TRACK | {"loss.preset": "original", "training.epochs": 60}),
    Recipe("track-rate-1e-4", TRACK | {"training.learning_rate": 1e-4}),
    # The students' race: the same steps over the same batches.
    *(
        Recipe(f"race-{name}", SEGMENT | BANK | {"training.epochs": 16, "model.architecture": name})
        for name in compared()
    ),
)


def main() -> int:
    """Race. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), metavar="DIR", help="[default: corpus]")
    parser.add_argument("--work", type=Path, default=Path("corpus/recipes"), metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, nargs="+", default=[0], help="of five, held out in turn  [default: 0]")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, one thread each  [default: 2]")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for all recipes")
    parser.add_argument("--tag", default="", help="added to the runs' names where --set makes them others")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(r.name for r in RECIPES)}; none: all")
    options = parser.parse_args()
    known = {recipe.name: recipe for recipe in RECIPES}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"unknown recipes: {', '.join(unknown)}")
    work = options.work.resolve()
    prepare(work, options.corpus.resolve())
    wanted = [known[name] for name in options.names or known]
    extra = dict(item.split("=", 1) for item in options.set)
    jobs = [(recipe, fold, seed) for seed in options.seeds for fold in options.folds for recipe in wanted]
    with ThreadPoolExecutor(options.parallel) as pool:
        for _ in pool.map(lambda job: train(work, *job, extra, options.tag), jobs):
            pass
    record = collect(work)
    write_text_atomically(RESULTS, json.dumps(record, indent=1) + "\n")
    print(as_markdown(record))
    return 0


def prepare(work: Path, corpus: Path) -> None:
    """Make the store, unless it is there."""
    work.mkdir(parents=True, exist_ok=True)
    tree = {
        "table": {"path": str(HERE / "corpus" / "teacher.npz"), "tracks": str(HERE / "corpus" / "tracks.csv")},
        "folder": {"path": str(corpus / "audio")},
        "ingest": {"vectors": "table", "source": "folder", "cache_dir": str(work / "audio")},
        "store": {"path": str(work / "features.zarr")},
        "split": {"method": "sorted", "folds": 5, "fold": 0},
        "training": {"runs_dir": str(work / "runs")},
    }
    write_text_atomically(work / "config.yaml", dump_yaml(tree))
    if not (work / "made").exists():
        for stage in ("ingest", "featurize"):
            subprocess.run([PROGRAM, stage, "--config", work / "config.yaml"], check=True)
        (work / "made").touch()


def train(work: Path, recipe: Recipe, fold: int, seed: int, extra: dict[str, str], tag: str) -> None:
    """Train one run to its end."""
    name = f"{recipe.name}{tag}{f'-f{fold}' if fold else ''}-s{seed}"
    settings = COMMON | recipe.settings | {"training.seed": seed, "split.fold": fold} | extra
    # A file, not a pipe: a run outlives a race that is broken off.
    log = work / f"{name}.log"
    with log.open("w", encoding="utf-8") as output:
        code = subprocess.run(
            [
                *(PROGRAM, "train", "--config", work / "config.yaml", "--run", name),
                *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
    print(f"{name}: {last[0] if last and not code else f'exit code {code}, see {log}'}", flush=True)


def collect(work: Path) -> dict[str, Any]:
    """The last epoch's figures of every complete run, by recipe; its runs differ in seed, or in fold and seed."""
    found: dict[str, Any] = {}
    for row in read_runs(work / "runs"):
        if "-s" not in row.name or row.state != "finished":
            continue
        lines, training = row.history.epochs, row.section("training")
        name, _, seed = row.name.rpartition("-s")
        if fold := re.fullmatch(r"(.*)-f(\d)", name):
            name, seed = fold[1], f"{seed} of fold {fold[2]}"
        entry = found.setdefault(
            name, {"architecture": row.section("model")["architecture"], "epochs": lines[-1]["epoch"], "seeds": {}}
        )
        entry["segments_per_track"] = training["segments_per_track"]
        entry["seeds"][seed] = {k: lines[-1].get(k) for k in (*FIGURES, "train_cosine")} | {
            "seconds": row.history.seconds
        }
    return found


def as_markdown(record: dict[str, Any]) -> str:
    """The table of docs/log.md, the best centred cosine first; after a mean the deviation over its runs, if several."""
    lines = [
        "| recipe | student | runs | epochs x K | cos | centred | overlap@10 | nDCG@10 | cross R@1 | train cos |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    rows = []
    for name, entry in record.items():
        seeds = list(entry["seeds"].values())
        shown = " | ".join(_mean(seeds, figure) for figure in (*FIGURES, "train_cosine"))
        amount = f"{entry['epochs']} x {entry['segments_per_track']}"
        centred = statistics.mean(seed["val_centred"] for seed in seeds)
        rows.append((centred, f"| {name} | {entry['architecture']} | {len(seeds)} | {amount} | {shown} |"))
    return "\n".join(lines + [row for _, row in sorted(rows, reverse=True)])


def _mean(seeds: list[dict[str, float]], figure: str) -> str:
    """`.688 ± .004`; nothing where a run of an earlier version lacks the figure."""
    values = [seed[figure] for seed in seeds if seed.get(figure) is not None]
    if len(values) < len(seeds):
        return ""
    shown = f"{statistics.mean(values):.3f}"
    return shown if len(values) < 2 else f"{shown} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    sys.exit(main())
