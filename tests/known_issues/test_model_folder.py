"""AudioMuse-AI's model folder as users have it: empty and mounted, under `~`, with an odd name; and two at work."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.export.app.library_file import LibraryFileError, library_file

from ..export.app.test_deployment import NAME, folder, new

__all__ = ["folder", "new"]  # fixtures: a folder as the app ships it, and a model to put there


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(autouse=True)
def of_any_mel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small model of the fixtures fails the contract in nothing that matters here."""
    monkeypatch.setattr("student_clap.export.model.contract.judge", lambda *_: [])


# --- the folder


def test_a_folder_without_the_text_model_is_not_all_that_the_app_needs(folder: Path, new: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run("deploy", "--anyway", new, "--to", empty)
    assert done.exit_code == 0, done.output
    assert f"{empty} holds no clap_text_model.onnx" in done.stderr
    assert "copy them out of the image first" in done.stderr
    assert (empty / NAME).is_file()  # the app's own name, not `student.onnx`
    whole = run("deploy", "--anyway", new, "--to", folder)
    assert "clap_text_model.onnx" not in whole.stderr


@pytest.mark.parametrize("rights", [0o644, 0o664, None])
def test_the_container_s_user_may_read_the_model(folder: Path, new: Path, rights: int | None) -> None:
    live = folder / NAME
    if rights is None:
        live.unlink()
    else:
        live.chmod(rights)
    before = os.umask(0o077)
    try:
        assert run("deploy", "--anyway", new, "--to", folder).exit_code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(live.stat().st_mode) == (rights or 0o644)


def test_an_image_s_folder_that_was_copied_out_goes_there_and_back(folder: Path, new: Path, tmp_path: Path) -> None:
    # What `docker cp "$id":/app/model/. DIR` leaves: the image's tree, with its folders and its files of other models.
    (folder / "musicnn").mkdir()
    (folder / "musicnn" / "model.onnx").write_bytes(b"another model")
    (folder / "clap_other_feature_text_embeddings.npz").write_bytes(b"the app writes this one itself")
    copied = tmp_path / "srv"
    shutil.copytree(folder, copied)
    assert run("deploy", "--anyway", new, "--to", copied).exit_code == 0
    assert (copied / NAME).read_bytes() == new.read_bytes()
    assert run("rollback", "--to", copied).exit_code == 0
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert (copied / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_container_that_mounts_the_one_file_sees_the_former_until_it_is_restarted(folder: Path, new: Path) -> None:
    with (folder / NAME).open("rb") as mounted:  # such a mount holds the file, and not its name
        former = mounted.read()
        assert run("deploy", "--anyway", new, "--to", folder).exit_code == 0
        mounted.seek(0)
        assert mounted.read() == former
    assert (folder / NAME).read_bytes() == new.read_bytes()


# --- `~`


def test_a_home_is_found_where_no_shell_has_put_it(
    folder: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(folder)
    done = run("deploy", "--anyway", f"~/{new.name}", f"--to=~/{folder.relative_to(tmp_path)}")
    assert done.exit_code == 0, done.output
    assert (folder / NAME).read_bytes() == new.read_bytes()
    assert run("rollback", f"--to=~/{folder.relative_to(tmp_path)}").exit_code == 0
    assert f"there is no model at {tmp_path / 'absent.onnx'}" in run("check", "~/absent.onnx").stderr
    assert f"{tmp_path / 'v.npz'}" in run("reembed", "--model=~/m.onnx", "--out=~/v.npz").stderr
    assert f"{tmp_path / 'dump'}" in run("reembed", "--restore=~/dump").stderr
    assert not (folder / "~").exists()


def test_a_name_that_begins_like_a_home_stays_a_name(
    new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no model at ~no-such-user.onnx" in run("check", "~no-such-user.onnx").stderr


# --- commands in messages


def test_a_command_in_a_message_can_be_pasted_into_a_shell(folder: Path, new: Path, tmp_path: Path) -> None:
    odd = tmp_path / "the app's model $HOME"
    folder.rename(odd)
    before = (odd / NAME).read_bytes()
    assert run("deploy", "--anyway", new, "--to", odd).exit_code == 0
    assert run("rollback", "--to", odd).exit_code == 0
    done = run("rollback", "--to", odd)
    assert (odd / NAME).read_bytes() == before
    program, *words = shlex.split(done.stdout.split("`")[1])
    assert program == "student-clap"
    assert run(*words).exit_code == 0
    assert (odd / NAME).read_bytes() == new.read_bytes()


# --- a second reembed

_HOLD = """
import sys, filelock
with filelock.FileLock(sys.argv[1], timeout=10):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_another_reembed_is_said_to_be_running(tmp_path: Path) -> None:
    target = tmp_path / "library.parquet"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, f"{target}.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(LibraryFileError, match=r"another reembed is running.*library\.parquet.*--out"),
            library_file(target, {}),
        ):
            pass
        other.communicate("")
    assert list(tmp_path.glob("*.parts")) == []


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr("filelock.FileLock.acquire", none)
    with pytest.raises(LibraryFileError, match=r"has no locks.*--out"), library_file(tmp_path / "v.parquet", {}):
        pass
