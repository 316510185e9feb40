"""What the corpus teacher hears in our tunes: writes export/demo/tune_vectors.npz, which the demo comes with.

To be run again when a tune or bench/corpus/teacher.onnx changes. Cost: under a minute of one core.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np

from student_clap.config.runtime.files import write_bytes_atomically
from student_clap.export.demo.library import own_tunes, with_vectors
from student_clap.export.demo.run import TUNE_VECTORS
from student_clap.featurize.teacher.model import Teacher

ROOT = Path(__file__).resolve().parent.parent
TEACHER = ROOT / "bench" / "corpus" / "teacher.onnx"


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        tracks, unreadable = with_vectors(own_tunes(Path(folder)), Teacher(TEACHER), Path(folder) / "heard")
    if unreadable:
        raise RuntimeError(f"{unreadable[0].path}: {unreadable[0].reason}")
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{t.track_id: t.vector for t in tracks if t.vector is not None})
    target = ROOT / "export" / "demo" / TUNE_VECTORS
    write_bytes_atomically(target, file.getvalue())
    print(f"{target}: {len(tracks)} vectors, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
