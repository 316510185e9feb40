"""The table of damages: a store that the stages made, and every file of it lost, cut, emptied, flipped or exchanged.

Right is that `store verify --deep` finds the damage, or that nothing the store tells differs; and that, whether found
or not, reading gives an error or the right values, never others. What the format cannot tell (docs/store.md) is counted
by itself: two whole files of the same form that changed places.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import soundfile

from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.schema import AudioConfig
from student_clap.store import FeatureStore, Recipe
from student_clap.store.arrays.tracks import STRING_COLUMNS
from student_clap.store.verify import verify_path
from trials.music import Music
from trials.trial import KNOWN_LIMIT, Trial

TEACHER = Path(__file__).resolve().parents[1] / "corpus" / "teacher.onnx"
RECIPE = Recipe.from_config(AudioConfig())
EXCHANGED = ": exchanged"
_LENGTHS_S = (
    9.0,
    11.0,
    11.0,
    14.5,
)  # of the tracks; two are alike, so that their shards could be taken for one another


def damages_table(folder: Path, music: Music) -> Iterator[Trial]:
    """Try them all on a store below `folder`."""
    path = make_store(folder, music)
    faults, _ = verify_path(path, deep=True)
    if faults:
        raise RuntimeError(f"the store has faults before it is damaged: {faults}")
    before = everything(path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)
    for victim in files:
        whole = victim.read_bytes()
        for name, content in damages(whole, seed=len(whole)).items():
            yield _tried(path, before, {victim: content}, f"{victim.relative_to(path)}: {name}")
    for one, other in exchanges(path, files):
        name = f"{one.relative_to(path)} and {other.relative_to(path)}{EXCHANGED}"
        yield _tried(path, before, {one: other.read_bytes(), other: one.read_bytes()}, name)
    if verify_path(path, deep=True)[0] or everything(path) != before:
        raise RuntimeError("the store is not what it was")


def make_store(folder: Path, music: Music) -> Path:
    """A store made by `ingest` and `featurize`: tracks with the teacher's vectors, one that cannot be decoded."""
    songs = folder / "songs"
    songs.mkdir()
    for number, seconds in enumerate(_LENGTHS_S):
        soundfile.write(songs / f"{number}.flac", music.take(seconds, 44_100, 2), 44_100)
    (songs / "later.flac").write_bytes((songs / "3.flac").read_bytes())
    config = {
        "ingest": {"source": "folder", "vectors": "teacher", "cache_dir": "audio"},
        "folder": {"path": "songs"},
        "teacher": {"model": str(TEACHER), "name": "of the corpus"},
        "store": {"path": "store.zarr"},
        "featurize": {"workers": 1},
    }
    (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    _run(folder, "ingest")
    (songs / "later.flac").write_bytes(b"fLaC" + bytes(1000))
    _run(folder, "featurize")
    return folder / "store.zarr"


def everything(path: Path) -> list[object]:
    """All that the store tells. Raises click.ClickException where it cannot."""
    with FeatureStore.open(path) as store:
        features = store.features(RECIPE)
        told: list[object] = [store.uuid, store.teacher_name, store.n_tracks, store.recipes(), features.errors()]
        told += [store.strings(name) for name in STRING_COLUMNS]
        told += [store.states().tolist(), store.teacher().tobytes(), store.stored_fingerprint(RECIPE.name)]
        counts, lengths = store.n_segment_teacher().tolist(), features.n_samples().tolist()
        told += [counts, lengths, features.decoders().tolist()]
        told += [store.segment_teacher(row).tobytes() for row, n in enumerate(counts) if n]
        told += [features.strip(row, n).tobytes() for row, n in enumerate(lengths) if n > 0]
        return told


def damages(whole: bytes, seed: int) -> dict[str, bytes | None]:
    """What may become of a file: its content, None where it is lost."""
    size = len(whole)
    return {
        "lost": None,
        "empty": b"",
        "cut in half": whole[: size // 2],
        "without its last byte": whole[:-1],
        "without its first byte": whole[1:],
        "a byte longer": whole + b"\0",
        "zeros": bytes(size),
        "noise": np.random.default_rng(seed).bytes(size),
        "zeros in the middle": whole[: size // 3] + bytes(size // 3) + whole[size // 3 + size // 3 :],
        **{f"a bit flipped at {at} %": flipped(whole, size * at // 100, at) for at in (0, 20, 50, 80, 99)},
    }


def flipped(whole: bytes, at: int, seed: int) -> bytes:
    """One bit of the byte at `at` is another."""
    return whole[:at] + bytes([whole[at] ^ (1 << seed % 8)]) + whole[at + 1 :]


def exchanges(path: Path, files: list[Path]) -> Iterator[tuple[Path, Path]]:
    """Files of a kind that may be taken for one another: of two tracks, of two columns, of two members' metadata."""
    kinds: dict[str, list[Path]] = {"zarr.json": [], "chunks of columns": []}
    for file in files:
        array, _, chunk = str(file.relative_to(path)).partition("/c/")
        if file.name == "zarr.json":
            kinds["zarr.json"].append(file)
        elif chunk.count("/") == 2:
            kinds.setdefault(array, []).append(file)  # of tracks
        else:
            kinds["chunks of columns"].append(file)
    for alike in kinds.values():
        for one, other in itertools.pairwise(alike):
            if one.read_bytes() != other.read_bytes():
                yield one, other


def _tried(path: Path, before: list[object], contents: dict[Path, bytes | None], name: str) -> Trial:
    kept = {victim: victim.read_bytes() for victim in contents}
    if kept == contents:
        return Trial(name, "no damage: the same bytes")
    try:
        for victim, content in contents.items():
            victim.unlink()
            if content is not None:
                victim.write_bytes(content)
        return _looked_at(path, before, name)
    finally:
        for victim, content in kept.items():
            victim.write_bytes(content)


def _looked_at(path: Path, before: list[object], name: str) -> Trial:
    try:
        findings, _ = verify_path(path, deep=True)
        found = [f"{f.kind}: {f.detail}" for f in findings if f.is_fault]
    except click.ClickException as error:
        found = [error.message]
    except Exception as error:  # noqa: BLE001  a traceback is what the table is to show
        return Trial(name, "verify raised", f"verify: {type(error).__name__}: {error}")
    try:
        differs, said = everything(path) != before, ""
    except click.ClickException as error:
        differs, said = False, error.message
    except Exception as error:  # noqa: BLE001
        return Trial(name, "reading raised", f"reading: {type(error).__name__}: {error}")
    figures = {"found": found[:1], "reading says": said}
    if differs and name.endswith(EXCHANGED) and not found:
        return Trial(name, "not told: whole files of one form in each other's place", KNOWN_LIMIT, figures)
    if differs:
        return Trial(name, "other values", "reading gives other values without a word", figures)
    if not found:
        fault = f"reading says {said!r}, verify finds nothing" if said else ""
        return Trial(name, "harmless: all reads equal", fault, figures)
    return Trial(name, "found, and reading says so" if said else "found, and all reads equal", "", figures)


def _run(folder: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "student_clap.config", command], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"student-clap {command}: {done.stdout}{done.stderr}")
