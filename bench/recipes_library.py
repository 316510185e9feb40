"""The store on which bench/recipes.yaml is raced: the corpus, with the teacher's vectors of its segments.

Made once by `student-clap ingest` and `featurize` from bench/corpus/teacher.npz and the corpus' audio; DIR gets the
store and the config.yaml that `student-clap sweep` is to be given. Cost: that of `featurize` on 12 hours of music; with
views, a third of a second of one core for each of their segments, 13 minutes for a view of every track.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.runtime.files import write_text_atomically

HERE = Path(__file__).resolve().parent
PROGRAM = Path(sys.executable).with_name("student-clap")


def main() -> int:
    """Make it. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), metavar="DIR", help="[default: corpus]")
    parser.add_argument("--work", type=Path, metavar="DIR", help="[default: recipes in the corpus]")
    parser.add_argument("--views", type=int, default=0, metavar="NUMBER", help="of every track  [default: none]")
    options = parser.parse_args()
    work, corpus = (options.work or options.corpus / "recipes").resolve(), options.corpus.resolve()
    work.mkdir(parents=True, exist_ok=True)
    tree: dict[str, dict[str, str | int]] = {
        "table": {"path": str(HERE / "corpus" / "teacher.npz"), "tracks": str(HERE / "corpus" / "tracks.csv")},
        "folder": {"path": str(corpus / "audio")},
        "ingest": {"vectors": "table", "source": "folder", "cache_dir": str(work / "audio")},
        "store": {"path": str(work / "features.zarr")},
        "training": {"runs_dir": str(work / "runs")},
    }
    if options.views:
        tree["teacher"] = {"model": str(HERE / "corpus" / "teacher.onnx"), "views": options.views}
    config = work / "config.yaml"
    write_text_atomically(config, dump_yaml(tree))
    for stage in ("ingest", "featurize"):
        subprocess.run([PROGRAM, stage, "--config", config], check=True)
    print(f"student-clap sweep {HERE.name}/recipes.yaml --config {config} --jobs 2")
    return 0


if __name__ == "__main__":
    sys.exit(main())
