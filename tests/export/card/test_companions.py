"""What export and evaluate leave beside a model, by their commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.export.card.companions import card_of, refresh_card, write_companions
from student_clap.export.card.sums import SUMS, is_unchanged
from student_clap.store import FeatureStore

from ..app.test_model_verdict import record_of
from ..conftest import ARTISTS, HELD_OUT, Library

pytestmark = pytest.mark.slow


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def beside(model: Path) -> list[Path]:
    return [model, card_of(model), model.with_name("space.json"), model.with_name(SUMS)]


def test_export_evaluate_and_deploy(copied_library: Library, tmp_path: Path) -> None:
    model, settings = copied_library.run.student_onnx, copied_library.settings()
    done = run("export", *settings, "--license", "cc-by-4.0")
    assert done.exit_code == 0, done.output
    assert all(path.is_file() for path in beside(model))
    first = card_of(model).read_text(encoding="utf-8")
    assert 'license: "cc-by-4.0"' in first
    assert f"`{HELD_OUT[0]}`" in first
    assert "On 6 validation" not in first
    assert run("evaluate", *settings).exit_code == 0
    second = card_of(model).read_text(encoding="utf-8")
    assert "on 6 validation tracks by 2 artists" in second
    assert 'license: "cc-by-4.0"' in second
    assert is_unchanged(model)
    assert is_unchanged(card_of(model))
    # The same bytes again: the figures stay.
    assert run("export", *settings, "--license", "cc-by-4.0").exit_code == 0
    assert card_of(model).read_text(encoding="utf-8") == second
    # A damaged copy is neither sound nor deployed.
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in beside(model):
        shutil.copy(path, copy)
    with (copy / model.name).open("r+b") as file:
        file.seek(200_000)
        file.write(b"\x00\x01\x02\x03")
    checked = run("check", copy / model.name)
    assert checked.exit_code == 1
    assert "FAIL  checksum" in checked.stdout
    assert "is not the file that SHA256SUMS beside it names" in checked.stderr
    app = tmp_path / "app"
    app.mkdir()
    deployed = run("deploy", copy / model.name, "--to", app)
    assert deployed.exit_code == 1
    assert "SHA256SUMS" in deployed.stderr
    assert list(app.iterdir()) == []


def test_without_facts_of_the_library_no_file_has_any(copied_library: Library, tmp_path: Path) -> None:
    settings, model = copied_library.settings(), tmp_path / "out" / "student.onnx"
    secret = copied_library.runs_dir / "My-secret-music"
    copied_library.run.path.rename(secret)
    checkpoint = (secret / "best.pt").rename(secret / "of-2026.pt")
    options = ("--run", secret.name, "--checkpoint", checkpoint, "--output", model, "--no-library-facts")
    done = run("export", *settings, *options)
    assert done.exit_code == 0, done.output
    folder = ("--output", model.parent / "evaluation")
    done = run("evaluate", *settings, "--run", secret.name, "--model", model, *folder)
    assert done.exit_code == 0, done.output
    with FeatureStore.open(copied_library.store) as store:
        uuid = store.uuid
    told = [uuid, secret.name, checkpoint.name, "tinyclap-audiomuse", "Tune", *(a for a in ARTISTS if len(a) > 2)]
    for path in beside(model):
        content = path.read_bytes()
        assert [word for word in told if word.encode() in content] == [], path
    text = card_of(model).read_text(encoding="utf-8")
    assert "the validation tracks, none of which" in text
    assert "--no-library-facts" in text


def test_a_card_that_was_changed_by_hand_is_left(exported: Path, library: Library, tmp_path: Path) -> None:
    model = Path(shutil.copy(exported, tmp_path / "student.onnx"))
    assert write_companions(model, library.run) == ""
    card = card_of(model)
    before = card.read_text(encoding="utf-8")
    card.write_text(before + "\nMy own words.\n", encoding="utf-8")
    assert "changed by hand" in refresh_card(model, library.run, record_of(model))
    assert card.read_text(encoding="utf-8").endswith("My own words.\n")
    # An evaluate that was killed behind the card is none: the next one makes it good.
    write_companions(model, library.run)
    sums = model.with_name(SUMS).read_bytes()
    assert refresh_card(model, library.run, record_of(model)) == ""
    model.with_name(SUMS).write_bytes(sums)
    assert refresh_card(model, library.run, record_of(model)) == ""
    assert is_unchanged(card)
    # Without a card there is nothing to do, and a file that was exchanged gets no new card.
    card.unlink()
    assert refresh_card(model, library.run, record_of(model)) == ""
    assert not card.exists()


def test_two_spaces_in_one_folder(exported: Path, library: Library, tmp_path: Path) -> None:
    one, two = (Path(shutil.copy(exported, tmp_path / name)) for name in ("one.onnx", "two.onnx"))
    run_folder = tmp_path / "run"
    shutil.copytree(library.run.path, run_folder)
    assert write_companions(one, library.run) == ""
    assert write_companions(two, library.run) == ""
    (run_folder / "run.json").write_text(json.dumps({"segment_vectors": {"name": "x", "model": "0a1b2c3d"}}))
    warned = write_companions(two, type(library.run)(run_folder))
    assert "one.onnx may be of" in warned
    assert "0a1b2c3d" in (tmp_path / "space.json").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--license", "a b"), "is not a licence's identifier"),
        (("--license", "x\ny: z"), "is not a licence's identifier"),
        (("--for", "arm64"), "needs --quantize int8"),
        (("--quantize", "fp16", "--for", "avx2"), "needs --quantize int8"),
        (("--quantize", "int8", "--for", "sparc"), "sparc"),
    ],
)
def test_a_wrong_order_is_refused_at_once(options: tuple[str, ...], said: str, library: Library) -> None:
    done = run("export", *library.settings(), *options)
    assert done.exit_code == 2
    assert said in done.stderr
