"""What one byte per value costs: a trained student's answer to stored segments beside its answer to the exact mels.

Decodes held-out tracks of the corpus, makes their mels, and embeds every segment twice with the ONNX in onnxruntime:
from the exact decibels, and from the codes that the store keeps. Run `make corpus` first.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.schema import AudioConfig
from student_clap.export.model.embedding import read_audio
from student_clap.export.model.session import StudentSession
from student_clap.featurize.audio.mel import LogMel
from student_clap.featurize.onnx.segments import decibel_segments, pool
from student_clap.store import Recipe
from student_clap.store.layout.codes import dequantise, quantise

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), metavar="DIR")
    parser.add_argument("--model", type=Path, required=True, help="a student.onnx that was trained on the corpus")
    parser.add_argument("--tracks", type=int, default=14, help="how many, spread over the corpus  [default: 14]")
    options = parser.parse_args()
    files = sorted((options.corpus / "audio").glob("*"))
    if not files:
        print(f"error: no audio in {options.corpus / 'audio'}; run `make corpus` first", file=sys.stderr)
        return 1
    record = measure(files[:: max(1, len(files) // options.tracks)][: options.tracks], options.model)
    write_text_atomically(HERE / "results" / "quantisation.json", json.dumps(record, indent=1) + "\n")
    print(
        f"{record['tracks']} tracks, {record['segments']} segments. Cosine between exact and stored mel: segments min "
        f"{record['segment_min']:.6f}, median {record['segment_median']:.6f}; tracks min {record['track_min']:.6f}. "
        f"Largest error of a value: {record['largest_error_db']:.3f} dB."
    )
    return 0


def measure(files: list[Path], model: Path) -> dict[str, Any]:
    """Cosines between the two answers."""
    recipe = Recipe.from_config(AudioConfig())
    log_mel, session = LogMel(recipe), StudentSession(model)
    segments, tracks, error_db = [], [], 0.0
    for file in files:
        exact_db = decibel_segments(read_audio(file, recipe), log_mel)
        stored_db = dequantise(quantise(exact_db, recipe), recipe)
        inside = (exact_db > recipe.offset_db + recipe.scale_db) & (exact_db < recipe.offset_db + 255 * recipe.scale_db)
        error_db = max(error_db, float(np.abs(exact_db - stored_db)[inside].max(initial=0.0)))
        # exact, stored: [segment, 512] unit
        exact, stored = session.embed_segments(exact_db), session.embed_segments(stored_db)
        segments.extend(np.sum(exact * stored, axis=1, dtype=np.float64).tolist())
        tracks.append(float(pool(exact).astype(np.float64) @ pool(stored)))
    return {
        "tracks": len(files),
        "segments": len(segments),
        "segment_min": min(segments),
        "segment_median": float(np.median(segments)),
        "track_min": min(tracks),
        "largest_error_db": error_db,
    }


if __name__ == "__main__":
    sys.exit(main())
