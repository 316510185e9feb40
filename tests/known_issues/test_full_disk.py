"""A disk that is full: one line with path, reason and remedy, exit code 1, and what was there stays.

Whatever command it is that writes, and whatever it writes: a file, a temporary file, its own output.
"""

from __future__ import annotations

import logging
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from student_clap.config.cli import LazyGroup
from student_clap.config.runtime.files import atomic_file, temporary_folder, write_bytes_atomically
from student_clap.config.schema import AudioConfig, ModelConfig
from student_clap.store import Recipe
from student_clap.store.storage.copies import Copies, Version
from student_clap.store.storage.local_cache import LocalCache
from student_clap.train.runs.checkpoint import CheckpointError, CheckpointInfo, read_checkpoint, write_checkpoint
from student_clap.train.runs.history import append_metrics
from student_clap.train.students.registry import build_student

INFO = CheckpointInfo(
    epoch=1,
    model=ModelConfig(cnn_channels=(8, 16, 32), hidden_dim=32),
    recipe=Recipe.from_config(AudioConfig(n_mels=32)),
    teacher_name="synthetic",
    store_uuid="abc",
    run_name="run",
    val_cosine=0.5,
)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """The kernel's own refusal: no file may grow beyond `limit` bytes, as on a disk with a few blocks left."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("limit", [0, 4096, 100_000])
def test_a_checkpoint(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "last.pt"
    student = build_student(INFO.model, INFO.recipe.n_mels)
    write_checkpoint(path, INFO, student)
    with full_disk(limit), pytest.raises(CheckpointError) as error:
        write_checkpoint(path, INFO, student, previous=tmp_path / "previous.pt")
    assert error.value.message == (
        f"{path} cannot be written (File too large); what was there stays: make room, or see to the folder's "
        "permissions, and run the same command again"
    )
    assert read_checkpoint(path)[0] == INFO
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_copies_of_shards_stop_with_one_warning_and_the_readings_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    versions = {row: Version(f"{row:016x}", 5000) for row in range(6)}
    copies = Copies(LocalCache(tmp_path, 100_000), "s3://b/f.zarr", "features/audiomuse/mel", versions)
    with caplog.at_level(logging.WARNING):
        assert copies.fetch(0, lambda: (bytes(5000), versions[0])) == bytes(5000)
        with full_disk(4096):
            for row in (1, 2, 3):
                copies.fetch(row, lambda row=row: (bytes(5000), versions[row]))
        assert copies.read(0, 0, lambda _, size: [(0, size)]) == [bytes(5000)]  # what is there goes on being read
    (warning,) = caplog.messages
    assert "File too large" in warning
    assert "what is not there yet is read from the bucket" in warning
    assert len(list(tmp_path.glob("*/*/[0-9]*"))) == 1
    assert not list(tmp_path.rglob("*.partial"))


def test_the_line_of_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, {"epoch": 1})
    before = path.read_bytes()
    with (
        full_disk(len(before)),
        pytest.raises(click.ClickException, match=r"metrics\.jsonl cannot be written \(File too"),
    ):
        append_metrics(path, {"epoch": 2})
    assert path.read_bytes() == before


def run(folder: Path, *arguments: str, limit: int | None = None, **streams: object) -> subprocess.CompletedProcess[str]:
    """Run a command on a disk that takes no file larger than `limit` bytes."""
    code = (
        "import resource, sys\n"
        f"limit = {limit}\n"
        "if limit is not None: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "from student_clap.config.__main__ import run\n"
        "run(sys.argv[1:])\n"
    )
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", code, *arguments], cwd=folder, text=True, check=False, timeout=120, **streams
    )


def test_a_command_that_writes_a_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("old")
    done = run(tmp_path, "init", "--force", ".", limit=0)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: config.yaml: File too large; the system's limit of a file's size (ulimit -f) is too low: raise it and "
        "run the same command again\n"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "old"


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path, "init", "file/there")
    assert done.returncode == 1
    assert done.stderr == (
        "Error: file/there: Not a directory; a file lies in the place of that folder: name another one, or move it "
        "away\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("arguments", [("--help",), ("config",), ("config", "--help"), ("runs",)])
def test_the_output_itself(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(tmp_path, *arguments, stdout=full)
        assert done.returncode == 1
        # click's own help of a command says no name
        assert re.match("Error: (standard output|OSError): No space left on .*; free ", done.stderr.splitlines()[-1])
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert run(tmp_path, *arguments, stdout=full, stderr=full).returncode == 1  # `> log 2>&1`


def test_who_reads_no_further_is_no_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run(tmp_path, "config", stdout=writer)
    finally:
        os.close(writer)
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "a/b"), "a/b: Permission denied; this user may not do that there: "),
        (OSError(30, "Read-only file system", "a", None, "b"), "a -> b: Read-only file system; the file system is "),
        (OSError(122, "Disk quota exceeded", b"a"), "a: Disk quota exceeded; the quota is used up: free some space"),
        (OSError(28, "No space left on device"), "OSError: No space left on device; free some space"),
        (TimeoutError(), "TimeoutError; repair that and run the same command again"),
    ],
)
def test_whatever_nobody_on_the_way_has_put_into_words(
    error: OSError, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    @click.group(cls=LazyGroup)
    def group() -> None: ...

    @click.command()
    def fail() -> None:
        raise error

    group.get_command = lambda *_: fail  # type: ignore[method-assign]
    with caplog.at_level(logging.DEBUG, "student_clap"):
        done = CliRunner().invoke(group, ["fail"])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {line}")
    assert done.stderr.count("\n") == 1
    assert [record.message for record in caplog.records if record.exc_info] == [type(error).__name__]


def test_a_write_that_names_no_file_gets_its_name(tmp_path: Path) -> None:
    with full_disk(10), pytest.raises(OSError, match=r"File too large: .*/target'$") as error:
        write_bytes_atomically(tmp_path / "target", b"more than ten bytes")
    assert error.value.filename == str(tmp_path / "target")
    with full_disk(10), pytest.raises(OSError, match="File too large: ") as error, temporary_folder() as folder:
        (folder / "a").write_bytes(b"more than ten bytes")
    assert error.value.filename == str(folder)
    assert not folder.exists()
    with pytest.raises(FileNotFoundError) as error, atomic_file(tmp_path / "target"):
        (tmp_path / "source").read_bytes()
    assert error.value.filename == str(tmp_path / "source")
