"""A model folder like AudioMuse-AI's: what deploy and rollback leave in it, and what a fault leaves in it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.export.app import deployment
from student_clap.export.app.deployment import DeployError, choose_kept_name, choose_name, deploy, rollback
from student_clap.export.model.embedding import Embedder
from student_clap.export.model.session import StudentSession
from student_clap.featurize.onnx.input_spec import InputSpec

from ..conftest import Library, file_vector
from ..model.test_contract import model

NAME = "model_epoch_36.onnx"
DATA = NAME + ".data"
STAMP = r"\d{8}T\d{6}Z"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the app ships: a model with external data, and its neighbours."""
    folder = tmp_path / "app" / "model"
    folder.mkdir(parents=True)
    onnx.save(model(), str(folder / NAME), save_as_external_data=True, location=DATA, size_threshold=1024)
    (folder / "clap_text_model.onnx").write_bytes(b"text tower")
    return folder


@pytest.fixture
def new(tmp_path: Path) -> Path:
    path = tmp_path / "student.onnx"
    onnx.save(model(outputs=("embedding", "raw_copy")), str(path))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def loads(path: Path) -> bool:
    onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return True


def test_deploy_keeps_the_old_model_and_its_data(folder: Path, new: Path) -> None:
    before = contents(folder)
    swap = deploy(new, folder, NAME)
    after = contents(folder)
    assert swap.changed
    assert after[NAME] == new.read_bytes()
    stamps = {name.rpartition(".")[2] for name in after if name not in before}
    assert len(stamps) == 1
    stamp = stamps.pop()
    assert re.fullmatch(STAMP, stamp)
    assert set(after) == {NAME, "clap_text_model.onnx", f"{NAME}.{stamp}", f"{DATA}.{stamp}"}
    assert after[f"{NAME}.{stamp}"] == before[NAME]
    assert after[f"{DATA}.{stamp}"] == before[DATA]
    assert {path.name for path in swap.kept} == {f"{NAME}.{stamp}", f"{DATA}.{stamp}"}


def test_deploy_again_changes_nothing(folder: Path, new: Path) -> None:
    deploy(new, folder, NAME)
    before = contents(folder)
    assert not deploy(new, folder, NAME).changed
    assert not deploy(folder / NAME, folder, NAME).changed
    assert contents(folder) == before


def test_deploy_into_an_empty_folder(tmp_path: Path, new: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert deploy(new, tmp_path / "empty", "student.onnx").kept == ()
    assert contents(tmp_path / "empty") == {"student.onnx": new.read_bytes()}
    with pytest.raises(DeployError, match="nothing to restore"):
        rollback(tmp_path / "empty", "student.onnx")


def test_rollback_restores_what_was_there_and_it_loads(folder: Path, new: Path) -> None:
    before = contents(folder)
    deploy(new, folder, NAME)
    swap = rollback(folder, NAME)
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert loads(folder / NAME)
    kept = set(after) - set(before)
    assert kept == {path.name for path in swap.kept}
    assert [after[name] for name in kept] == [new.read_bytes()]


def test_a_second_rollback_changes_nothing(folder: Path, new: Path) -> None:
    before = contents(folder)
    deploy(new, folder, NAME)
    first = rollback(folder, NAME)
    after = contents(folder)
    for _ in range(2):
        again = rollback(folder, NAME)
        assert not again.changed
        assert [again.withdrawn] == list(first.kept)
        assert contents(folder) == after
    assert {name: after[name] for name in before} == before
    # What was withdrawn comes back by its name, and then a rollback acts again.
    assert rollback(folder, NAME, first.kept[0].name).changed
    assert (folder / NAME).read_bytes() == new.read_bytes()
    assert rollback(folder, NAME).changed
    assert contents(folder)[NAME] == before[NAME]
    assert loads(folder / NAME)


def test_a_rollback_goes_one_deploy_back_and_no_further(folder: Path, new: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer.onnx"
    onnx.save(model(outputs=("embedding", "other_copy")), str(newer))
    deploy(new, folder, NAME)
    deploy(newer, folder, NAME)
    for _ in range(3):
        rollback(folder, NAME)
        assert (folder / NAME).read_bytes() == new.read_bytes()


def test_a_kept_model_is_restored_by_its_name(folder: Path, new: Path, tmp_path: Path) -> None:
    before = contents(folder)
    newer = tmp_path / "newer.onnx"
    onnx.save(model(outputs=("embedding", "other_copy")), str(newer))
    shipped = deploy(new, folder, NAME).kept[0].name
    deploy(newer, folder, NAME)
    assert choose_kept_name(folder, None, shipped) == NAME
    assert rollback(folder, NAME, shipped).changed
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert loads(folder / NAME)
    with pytest.raises(DeployError, match=rf"keeps no {shipped}; it keeps {NAME}.*\.withdrawn, {NAME}"):
        rollback(folder, NAME, shipped)
    assert contents(folder) == after
    os.link(folder / NAME, folder / shipped)
    os.link(folder / DATA, folder / shipped.replace(NAME, DATA))
    assert not rollback(folder, NAME, shipped).changed


@pytest.mark.parametrize("exchanged", [False, True], ids=["before the data", "after the data"])
def test_a_rollback_that_was_killed_is_gone_on_from(folder: Path, new: Path, exchanged: bool) -> None:
    """What a kill leaves: the model that leaves has its second names, and perhaps the old data under its own name."""
    before = contents(folder)
    deploy(new, folder, NAME)
    kept_data = next(path for path in folder.iterdir() if re.fullmatch(rf"{DATA}\.{STAMP}", path.name))
    # A model with external data of the same name is live.
    onnx.save(
        model(outputs=("embedding", "more")),
        str(folder / NAME),
        save_as_external_data=True,
        location=DATA,
        size_threshold=1024,
    )
    (folder / DATA).write_bytes(bytes(len(before[DATA])))
    for name in (NAME, DATA):
        (folder / f"{name}.29990101T000000Z.withdrawn").write_bytes((folder / name).read_bytes())
    if exchanged:
        (folder / DATA).write_bytes(kept_data.read_bytes())
    assert rollback(folder, NAME).changed
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert loads(folder / NAME)
    assert not rollback(folder, NAME).changed


def test_two_models_whose_data_files_share_a_name(folder: Path, new: Path, tmp_path: Path) -> None:
    old = contents(folder)
    deploy(new, folder, NAME)
    # The user puts another model with external data there by hand.
    other = tmp_path / "other"
    other.mkdir()
    proto = model(outputs=("embedding", "more"))
    for tensor in proto.graph.initializer:
        if tensor.name == "w":
            tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(proto, str(other / NAME), save_as_external_data=True, location=DATA, size_threshold=1024)
    by_hand = contents(other)
    (folder / NAME).unlink()
    for name, data in by_hand.items():
        (folder / name).write_bytes(data)
    # Newest kept is the shipped one.
    rollback(folder, NAME)
    after = contents(folder)
    assert after[NAME] == old[NAME]
    assert after[DATA] == old[DATA]
    withdrawn = {name.split(".2")[0]: data for name, data in after.items() if name.endswith(".withdrawn")}
    assert withdrawn == by_hand


def test_times_grow_even_when_the_clock_does_not(
    folder: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = folder / f"{NAME}.29990101T000000Z"
    future.write_bytes(b"kept by a machine whose clock was wrong")
    old = (folder / NAME).read_bytes()
    deploy(new, folder, NAME)
    assert (folder / f"{NAME}.29990101T000001Z").read_bytes() == old
    rollback(folder, NAME)
    assert (folder / NAME).read_bytes() == old
    assert future.read_bytes() == b"kept by a machine whose clock was wrong"


def test_without_hard_links(folder: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    before = contents(folder)
    deploy(new, folder, NAME)
    rollback(folder, NAME)
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert sorted(after.values()) == sorted([*before.values(), new.read_bytes()])


def test_a_kept_file_is_not_touched_by_a_later_write_to_the_live_one(folder: Path, new: Path) -> None:
    old = (folder / NAME).read_bytes()
    kept = deploy(new, folder, NAME).kept
    with (folder / NAME).open("r+b") as live:
        live.write(b"overwritten in place")
    assert kept[0].read_bytes() == old


def test_a_full_disk_leaves_the_folder_as_it_was(folder: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(deployment, "write_bytes_atomically", full)
    before = contents(folder)
    with pytest.raises(DeployError, match="No space left on device"):
        deploy(new, folder, NAME)
    assert contents(folder) == before


def test_a_rollback_that_fails_half_way_leaves_the_live_model_whole(
    folder: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live and kept share the name of a data file; the fault comes after the data were exchanged."""
    deploy(new, folder, NAME)
    for path in contents(folder):
        if path.startswith(DATA):
            (folder / DATA).write_bytes(b"data of a model put there by hand")
    (folder / NAME).write_bytes(b"a model put there by hand that cannot be read")
    before = contents(folder)
    real: Callable[..., Path] = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.name.startswith(NAME + ".2"):
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(DeployError, match="Input/output error"):
            rollback(folder, NAME)
    assert contents(folder) == before
    assert rollback(folder, NAME).changed


def test_an_interrupt_after_the_rename_loses_nothing(folder: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = deployment.write_bytes_atomically

    def interrupted(target: Path, data: bytes, **more: Any) -> None:
        real(target, data, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(deployment, "write_bytes_atomically", interrupted)
    before = contents(folder)
    with pytest.raises(KeyboardInterrupt):
        deploy(new, folder, NAME)
    assert (folder / NAME).read_bytes() == new.read_bytes()
    kept = {name.rpartition(".")[0]: data for name, data in contents(folder).items() if name.endswith("Z")}
    assert kept == {name: before[name] for name in (NAME, DATA)}
    rollback(folder, NAME)
    after = contents(folder)
    assert {name: after[name] for name in before} == before


def test_a_kill_between_keeping_and_replacing_is_gone_on_from(folder: Path, new: Path) -> None:
    # Second names of what is live are what such a kill leaves.
    for name in (NAME, DATA):
        os.link(folder / name, folder / f"{name}.20260101T000000Z")
    old = (folder / NAME).read_bytes()
    with pytest.raises(DeployError, match="nothing to restore"):
        rollback(folder, NAME)
    deploy(new, folder, NAME)
    rollback(folder, NAME)
    assert (folder / NAME).read_bytes() == old
    assert loads(folder / NAME)


def test_a_live_model_that_is_gone_is_restored(folder: Path, new: Path) -> None:
    old = (folder / NAME).read_bytes()
    deploy(new, folder, NAME)
    (folder / NAME).unlink()
    assert rollback(folder, NAME).kept == ()
    assert (folder / NAME).read_bytes() == old


def test_a_link_is_replaced_and_comes_back_as_a_link(folder: Path, new: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.onnx"
    elsewhere.write_bytes(b"unreadable model elsewhere")
    (folder / NAME).unlink()
    (folder / NAME).symlink_to(elsewhere)
    deploy(new, folder, NAME)
    assert elsewhere.read_bytes() == b"unreadable model elsewhere"
    assert not (folder / NAME).is_symlink()
    rollback(folder, NAME)
    assert (folder / NAME).resolve() == elsewhere.resolve()


def test_data_of_a_model_that_cannot_be_read_go_by_the_customary_name(folder: Path, new: Path) -> None:
    (folder / NAME).write_bytes(b"\x00 damaged")
    swap = deploy(new, folder, NAME)
    assert [path.name.rpartition(".")[0] for path in swap.kept] == [NAME, DATA]


def test_data_of_another_model_stay(folder: Path, new: Path) -> None:
    (folder / "other.onnx.data").write_bytes(b"of another model")
    deploy(new, folder, NAME)
    assert (folder / "other.onnx.data").read_bytes() == b"of another model"


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["model_epoch_36.onnx", "clap_audio_model.onnx"], "model_epoch_36.onnx"),
        (["clap_audio_model.onnx", "clap_text_model.onnx"], "clap_audio_model.onnx"),
        (["clap_text_model.onnx"], "model_epoch_36.onnx"),
    ],
)
def test_the_default_name(present: list[str], expected: str, tmp_path: Path) -> None:
    for name in present:
        (tmp_path / name).write_bytes(b"")
    assert choose_name(tmp_path, None) == expected
    assert choose_name(tmp_path, "mine.onnx") == "mine.onnx"


@pytest.mark.parametrize("name", ["../up.onnx", "/abs.onnx", "model", ".onnx", "a/b.onnx"])
def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="--as"):
        choose_name(tmp_path, name)


def test_which_kept_model_is_meant(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="nothing to restore"):
        choose_kept_name(tmp_path, None)
    (tmp_path / "a.onnx.20260101T000000Z").write_bytes(b"")
    (tmp_path / "a.onnx.data.20260101T000000Z").write_bytes(b"")
    assert choose_kept_name(tmp_path, None) == "a.onnx"
    (tmp_path / "b.onnx.20260101T000001Z").write_bytes(b"")
    with pytest.raises(DeployError, match=r"a\.onnx, b\.onnx.*--as"):
        choose_kept_name(tmp_path, None)
    assert choose_kept_name(tmp_path, "b.onnx") == "b.onnx"
    (tmp_path / "clap_audio_model.onnx.20260101T000002Z").write_bytes(b"")
    assert choose_kept_name(tmp_path, None) == "clap_audio_model.onnx"


def test_folders_that_are_none(new: Path, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="there is no folder"):
        deploy(new, tmp_path / "absent", NAME)
    (tmp_path / NAME).mkdir()
    with pytest.raises(DeployError, match="is a folder"):
        deploy(new, tmp_path, NAME)


@pytest.fixture
def app(exported: Path, tmp_path: Path) -> Path:
    """The app's folders as its container has them, with a default model of 128 bands in two files."""
    models = tmp_path / "app" / "model"
    models.mkdir(parents=True)
    shipped = onnx.load(str(exported))
    largest = max(shipped.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights = np.frombuffer(largest.raw_data, np.float32)
    largest.raw_data = np.random.default_rng(3).permutation(weights).tobytes()
    onnx.save(shipped, str(models / NAME), save_as_external_data=True, location=DATA, size_threshold=1024)
    for name in ("clap_text_model.onnx", "clap_other_feature_text_embeddings.npz", "musicnn_embedding.onnx"):
        (models / name).write_bytes(name.encode())
    (models / "roberta-base").mkdir()
    (models / "roberta-base" / "vocab.json").write_text("{}")
    for name in ("tasks", "temp_audio"):
        (tmp_path / "app" / name).mkdir()
    return tmp_path / "app"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def what_the_app_hears(app: Path, library: Library) -> Any:
    """The default settings: CLAP_AUDIO_MODEL_PATH, 128 x 1001 mels, one session per song."""
    embedder = Embedder(StudentSession(app / "model" / NAME), InputSpec.of_recipe(library.recipe, "the app"))
    return file_vector(library.cache_dir / "t01.flac", embedder)


@pytest.mark.slow
def test_the_app_hears_the_student_after_deploy_and_the_old_model_after_rollback(
    app: Path, exported: Path, library: Library
) -> None:
    before, old = tree(app), what_the_app_hears(app, library)
    done = CliRunner().invoke(main, ["deploy", "--anyway", str(exported), "--to", str(app / "model")])
    assert done.exit_code == 0, done.output
    assert "set no CLAP_AUDIO_* variable" in done.stdout
    new = what_the_app_hears(app, library)
    assert abs(float(new @ old)) < 0.99
    assert {
        name: data for name, data in tree(app).items() if name in before and not name.startswith(f"model/{NAME}")
    } == {name: data for name, data in before.items() if not name.startswith(f"model/{NAME}")}
    assert CliRunner().invoke(main, ["rollback", "--to", str(app / "model")]).exit_code == 0
    assert {name: data for name, data in tree(app).items() if name in before} == before
    assert float(what_the_app_hears(app, library) @ old) == pytest.approx(1, abs=1e-6)
    # Once more changes nothing, and says how the student comes back.
    after = tree(app)
    again = CliRunner().invoke(main, ["rollback", "--to", str(app / "model")])
    assert again.exit_code == 0, again.output
    assert tree(app) == after
    advice = re.search(r"`student-clap (rollback --to \S+ --kept \S+)`", again.stdout)
    assert advice
    done = CliRunner().invoke(main, advice[1].split())
    assert done.exit_code == 0, done.output
    assert float(what_the_app_hears(app, library) @ new) == pytest.approx(1, abs=1e-6)
