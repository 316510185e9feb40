"""Segment targets out of a student that knows track vectors alone, for a second student to learn.

    student-clap train --run first && student-clap export --run first
    python bench/pseudo_targets.py --store STORE --model runs/first/student.onnx --name pseudo
    student-clap train --run second --set loss.targets=segment --set loss.segment_teacher=pseudo

A pseudo target is the first student's vector s_i of a segment, moved so that the mean over the track points where the
track's vector t does: s_i + |m| t - m with m the mean of the s_i, at unit length. Writes a set of segment vectors into
STORE; figures of such second students are in docs/log.md.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np

from student_clap.config.runtime.screen import echo, progress
from student_clap.export.model.session import StudentSession
from student_clap.store import FeatureStore
from student_clap.store.layout.segments import PRODUCTION
from student_clap.train import TrackDataset


def main() -> None:
    """Write the set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the first student's ONNX")
    parser.add_argument("--name", required=True, help="of the set")
    options = parser.parse_args()
    dataset = TrackDataset(options.store, segment_targets=False, texts=())
    session = StudentSession(options.model)
    model = hashlib.sha256(options.model.read_bytes()).hexdigest()
    with FeatureStore.open(options.store, "r+") as store:
        pseudo = store.add_segment_set(options.name, hop_samples=PRODUCTION.segment_hop_samples, model=model)
        n_samples = store.features(dataset.recipe).n_samples()
        with progress("track", len(dataset), label=options.name) as bar:
            for item in dataset:
                # As production has them: the tail of some tracks counts twice.
                starts = pseudo.starts(int(n_samples[int(item["row"])]), dataset.recipe)
                _, place = np.unique(starts, return_inverse=True)
                # own, moved: [segment, 512]
                own = session.embed_segments(item["mel_db"].numpy()[:, 0])[place]
                mean = own.mean(axis=0)
                moved = own + (np.linalg.norm(mean) * item["teacher"].numpy() - mean)
                moved /= np.linalg.norm(moved, axis=1, keepdims=True)
                pseudo.write([int(item["row"])], [moved.astype(np.float16)])
                bar.advance()
    echo(f"{options.name}: of {len(dataset)} tracks")


if __name__ == "__main__":
    main()
