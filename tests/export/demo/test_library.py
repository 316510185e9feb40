"""A folder of music as tracks, and the teacher's vectors that are kept."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from student_clap.export.demo.library import folder_tracks, with_vectors
from student_clap.export.demo.tunes import TUNES, encode, render
from student_clap.export.demo.world import WorldTrack
from student_clap.featurize.teacher.model import Teacher


class _Ears(Teacher):
    """Counts what it hears; its vector is the track's length."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    @property
    def max_samples(self) -> int:
        return 48_000

    def embed(self, samples: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        self.heard.append(len(samples))
        vector = np.full(512, len(samples), np.float32)
        return vector, vector[None]


def _wav(path: Path, n: int = 4800, **tags: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", samplerate=48_000, channels=1) as file:
        for name, value in tags.items():
            setattr(file, name, value)
        file.write(np.zeros(n))
    return path


def test_names_come_from_tags_and_else_from_the_path(tmp_path: Path) -> None:
    music = tmp_path / "Music"
    _wav(music / "Someone" / "First Album" / "01 song.wav")
    _wav(music / "loose.WAV")
    _wav(music / "x" / "tagged.flac", title="Titel", artist="Künstler", album="Platte")
    found = {t.path.name: (t.title, t.artist, t.album) for t in folder_tracks(music)}
    assert found == {
        "01 song.wav": ("01 song", "Someone", "First Album"),
        "loose.WAV": ("loose", "Music", "Music"),
        "tagged.flac": ("Titel", "Künstler", "Platte"),
    }


@pytest.mark.parametrize("subtype", ["AAC", "OPUS", "VORBIS", "MPEG_LAYER_III"])
def test_tags_are_read_from_every_kind_of_file(subtype: str, tmp_path: Path) -> None:
    tune = replace(next(t for t in TUNES if t.subtype == subtype), duration_s=1.0)
    (tmp_path / f"x.{tune.container}").write_bytes(encode(tune, render(tune)))
    (track,) = folder_tracks(tmp_path)
    assert (track.title, track.artist, track.album) == (tune.title, tune.artist.name, tune.artist.album)


def test_other_files_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    _wav(tmp_path / "a" / "song.wav")
    _wav(tmp_path / ".trash" / "song.wav")
    (tmp_path / "a" / "cover.jpg").write_bytes(b"jpeg")
    (tmp_path / "a" / "folder.mp3").mkdir()
    assert [t.path.name for t in folder_tracks(tmp_path)] == ["song.wav"]
    assert len(folder_tracks(tmp_path / "a")) == 1


def test_ids_follow_the_path_and_not_the_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        _wav(tmp_path / place / "a" / "song.wav")
        _wav(tmp_path / place / "b" / "song.wav")
    first, second = ([t.track_id for t in folder_tracks(tmp_path / place)] for place in ("one", "two"))
    assert first == second
    assert len(set(first)) == 2


def test_a_vector_is_computed_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    path = _wav(tmp_path / "music" / "a.wav", 4800)
    track = WorldTrack("1" * 32, "a", "b", "c", path)
    ears, cache = _Ears(), tmp_path / "cache"
    for _ in range(2):
        heard, unreadable = with_vectors([track], ears, cache)
        assert heard[0].vector is not None
        assert heard[0].vector[0] == 4800
        assert unreadable == []
    assert ears.heard == [4800]
    _wav(path, 9600)
    os.utime(path, ns=(1, 1))
    heard, _ = with_vectors([track], ears, cache)
    assert ears.heard == [4800, 9600]
    assert heard[0].vector is not None
    assert heard[0].vector[0] == 9600


def test_a_file_without_audio_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"this is no music")
    good = _wav(tmp_path / "good.wav")
    tracks = [WorldTrack(str(i) * 32, "t", "a", "", p) for i, p in enumerate((broken, tmp_path / "gone.wav", good))]
    seen: list[str] = []
    heard, unreadable = with_vectors(tracks, _Ears(), tmp_path / "cache", done=lambda t: seen.append(t.path.name))
    assert [t.path for t in heard] == [good]
    assert [u.path.name for u in unreadable] == ["broken.mp3", "gone.wav"]
    assert "no audio" in unreadable[0].reason
    assert seen == ["broken.mp3", "gone.wav", "good.wav"]
