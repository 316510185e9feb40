"""Settings are kept before the app's rows are changed, through a power cut too."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from student_clap.export.app.deployment import DeployError
from student_clap.export.app.kept_settings import keep_settings, keep_unfinished

from ...power_cut import Disk

NAME, STAMP = "model_epoch_36.onnx", "20260101T000000Z"


def test_what_is_kept_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    kept = keep_settings(tmp_path, NAME, STAMP, {"CLAP_AUDIO_N_FFT": "2048"})
    assert disk.lost(kept, tmp_path) == []
    unfinished = keep_unfinished(tmp_path, NAME, STAMP, "", {"CLAP_AUDIO_N_FFT": "1024"})
    assert disk.lost(unfinished, tmp_path) == []


def test_what_would_not_last_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose change did not come about would be taken for the settings of before."""
    real = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DeployError, match=r"cannot be written: .*; nothing was changed"):
        keep_settings(tmp_path, NAME, STAMP, {"CLAP_AUDIO_N_FFT": "2048"})
    assert list(tmp_path.iterdir()) == []
