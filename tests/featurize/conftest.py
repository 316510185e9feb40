"""Audio files of every kind, written by soundfile and PyAV."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile


def music(duration_s: float, sample_rate: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    """A few gliding tones, bursts of noise and a silence, [sample, channel] float32 in (-1, 1)."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(duration_s * sample_rate)) / sample_rate
    out = np.zeros((len(t), channels), np.float32)
    for channel in range(channels):
        for _ in range(4):
            hz, drift = rng.uniform(60, 6000), rng.uniform(-30, 30)
            out[:, channel] += 0.15 * np.sin(2 * np.pi * (hz + drift * t) * t + rng.uniform(0, 6)).astype(np.float32)
        out[:, channel] += 0.1 * rng.standard_normal(len(t)).astype(np.float32) * (np.sin(2 * np.pi * t) > 0.5)
    out[int(0.6 * len(t)) : int(0.65 * len(t))] = 0
    return out


class Gates:
    """Files that a process which has `environment` cannot open before their gate is open: a run is held at a track.

    So a test can act in the middle of a run on a machine of any speed.
    """

    _HOOK = """
import os, sys, time
from pathlib import Path

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        gate = Path(os.environ["GATES"], Path(arguments[0]).name + ".closed")
        if Path(arguments[0]).suffix == ".wav":
            while os.path.exists(gate):
                time.sleep(0.02)

sys.addaudithook(hook)
"""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(self._HOOK)
        self._folder = folder
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {"PYTHONPATH": os.pathsep.join(paths), "GATES": str(folder)}

    def close(self, *files: Path) -> None:
        """Hold whichever process opens one of `files`."""
        for file in files:
            (self._folder / f"{file.name}.closed").touch()

    def open(self, *files: Path) -> None:
        """Let them pass."""
        for file in files:
            (self._folder / f"{file.name}.closed").unlink()


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    """Gates that are all open."""
    return Gates(tmp_path / "gates")


@pytest.fixture(scope="session")
def tunes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten files of 25 to 34 s, the same for all tests."""
    folder = tmp_path_factory.mktemp("tunes")
    paths = [folder / f"{n}.wav" for n in range(10)]
    for n, path in enumerate(paths):
        soundfile.write(path, music(25.0 + n, 44_100, 2, n), 44_100)
    return paths


@pytest.fixture
def write_audio(tmp_path: Path) -> Callable[..., Path]:
    """Write `music` as a file; the extension chooses the format."""

    def _write(name: str, duration_s: float = 3.0, sample_rate: int = 44_100, channels: int = 2, seed: int = 0) -> Path:
        path = tmp_path / name
        samples = music(duration_s, sample_rate, channels, seed)
        if path.suffix not in (".m4a", ".webm"):
            subtype = {"opus": "OPUS", "ogg": "VORBIS"}.get(path.suffix[1:])
            soundfile.write(path, samples, sample_rate, subtype=subtype, format="OGG" if subtype else None)
            return path
        codec = {".m4a": "aac", ".webm": "libopus"}[path.suffix]
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=sample_rate, layout="stereo" if channels == 2 else "mono")
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples.T), format="fltp", layout="stereo" if channels == 2 else "mono"
            )
            frame.sample_rate = sample_rate
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
        return path

    return _write
