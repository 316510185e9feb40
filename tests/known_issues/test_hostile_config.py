"""A config.yaml that means harm, or was damaged, is one error that names the place, within a second."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES
from student_clap.config.load import ConfigError, load_config


def bomb(first: str, keys: list[str]) -> str:
    """Lists of nine aliases to the list before, one per key: 9 ** len(keys) values in a few hundred bytes."""
    lines = [f"{first}: &a0 [x, x, x, x, x, x, x, x, x]"]
    for number, key in enumerate(keys):
        lines.append(f"{key}: &a{number + 1} [{', '.join([f'*a{number}'] * 9)}]")
    return "\n".join(lines) + "\n"


def chain(n: int) -> str:
    """Each value holds the one before, in a list of its own: `n` deep once the aliases are followed."""
    return "k0: &a0 [x]\n" + "".join(f"k{i}: &a{i} [*a{i - 1}]\n" for i in range(1, n))


LETTERS = list("bcdefghij")
# What the file holds -> words of the error: the place, and what is wrong there.
HOSTILE = {
    "an alias bomb": (bomb("a", LETTERS), ("d:", "aliases")),
    "an alias bomb in a section": (
        "database:\n" + "".join(f"  {line}\n" for line in bomb("host", [f"k{i}" for i in range(8)]).splitlines()),
        ("database.k", "aliases"),
    ),
    "a chain of aliases": (chain(400), ("k", "aliases")),
    "an alias to itself": ("database: &d\n  host: *d\n", ("database.host:", "refers to itself")),
    "a list within itself": ("ingest:\n  map: &d [*d]\n", ("ingest.map:", "refers to itself")),
    "nested lists": ("a: " + "[" * 3000 + "]" * 3000, ("line 1", f"nested more than {MAX_DEPTH}")),
    "nested sections": ("{a: " * 2000 + "1" + "}" * 2000, ("line 1", f"nested more than {MAX_DEPTH}")),
    "lists that never end": ("[" * (MAX_CHARACTERS - 1), ("line 1", f"nested more than {MAX_DEPTH}")),
    "too many values": ("a: [" + "x," * 40_000 + "]", ("line 1", f"more than {MAX_VALUES} values")),
    "too many keys": ("".join(f"k{i}: 1\n" for i in range(9000)), (f"line {MAX_VALUES}", "values")),
    "a long text": ("a: " + "x " * MAX_CHARACTERS, (str(MAX_CHARACTERS), "characters")),
    "a number of 5000 digits": ("database:\n  port: " + "9" * 5000 + "\n", ("line 2", "not a whole number")),
    "a number of 5000 hex digits": ("database:\n  port: 0x" + "f" * 5000 + "\n", ("line 2", "too many digits")),
    "a number of 300 digits": ("database:\n  port: " + "9" * 300 + "\n", ("database.port:", "less than 65536")),
    "a list as a key": ("? [a, b]\n: c\n", ("line 1", "key")),
    "a section as a key": ("? {a: b}\n: c\n", ("line 1", "key")),
    "variables that never close": ("teacher:\n  nam: " + "${A:-" * 19_000 + "\n", ("teacher.nam: unknown key",)),
    "a bad !!int": ("training:\n  epochs: !!int abc\n", ("line 2", "not a whole number")),
    "an empty !!int": ('training:\n  epochs: !!int ""\n', ("line 2", "not a whole number")),
    "an !!int of underlines": ("training:\n  epochs: !!int ___\n", ("line 2", "not a whole number")),
    "a bad !!float": ("training:\n  learning_rate: !!float abc\n", ("line 2", "not a number")),
    "a bad !!bool": ("training:\n  epochs: !!bool maybe\n", ("line 2", "not true or false")),
    "a bad !!timestamp": ("teacher:\n  name: !!timestamp 2020-13-45\n", ("line 2", "!!timestamp")),
    "!!int of a list": ("training:\n  epochs: !!int [1]\n", ("line 2", "expected a scalar")),
    "!!map of a text": ("training: !!map 3\n", ("line 1", "expected a mapping")),
    "a tag that calls a function": ("a: !!python/object/apply:os.system [ls]\n", ("line 1", "!!python/object")),
    "a set": ("training: !!set {epochs}\n", ("line 1", "!!set")),
    "an escape code in a key": ('"\\e[31mdatabse": 1\n', ("?[31mdatabse: unknown key", "did you mean 'database'")),
    "an escape code in a value": ('training:\n  device: "\\e[31m"\n  epochs: "\\e[31m"\n', ("training.epochs:",)),
    "a control character": ("training:\n  device: \x01\n", ("line 2", "U+0001")),
    "no text": ("\x80\x81", ("cannot be read",)),
    "a key of 50000 letters": ("k" * 50_000 + ": 1\n", ("line 1",)),
    "one setting by two names": ("training:\n  lr: 0.1\n  learning_rate: 0.2\n", ("training:", "learning_rate and lr")),
    "a date where a number is due": ("training:\n  epochs: 2020-13-45\n", ("training.epochs:", "valid integer")),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_one_error_that_names_the_place(kind: str, tmp_path: Path) -> None:
    text, words = HOSTILE[kind]
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("latin-1" if kind == "no text" else "utf-8"))
    begin = time.process_time()
    with pytest.raises(ConfigError) as error:
        load_config(path, environment={})
    assert time.process_time() - begin < 10  # a search that goes back from every place would take minutes
    heading, *faults = error.value.message.splitlines()
    assert heading == f"{path}:"
    assert len(faults) == 1
    assert len(faults[0]) < 600
    assert faults[0].isprintable()
    for word in words:
        assert word in faults[0]


def test_a_date_is_text_where_text_is_due(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("teacher:\n  name: 2020-13-45\n")
    assert load_config(path, environment={}).teacher.name == "2020-13-45"


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("x.y={", "x: unknown key"),
        ("ingest.map={", "ingest.map:"),
        ("ingest.map=[a, b", "ingest.map:"),
        ("ingest.map=" + "[" * 5000, "ingest.map:"),
        ("model.cnn_channels=&a [*a]", "model.cnn_channels:"),
        ("model.cnn_channels=[&a [*a]]", "model.cnn_channels:"),
        ("training.epochs=" + "9" * 5000, "training.epochs:"),
        ("training.epochs=0x" + "f" * 5000, "training.epochs:"),
        ("training.epochs=!!int abc", "training.epochs:"),
        ("training.\x1b[31m=1", "training.?[31m: unknown key"),
        ("training.lr.x.y=1", "training.lr:"),
        ("a" * 50_000, "is not of the form"),
        (".".join("a" * 5000) + "=1", "unknown key"),
    ],
    ids=lambda text: "".join(c for c in text[:24] if c.isprintable()),
)
def test_a_hostile_set_is_one_error_headed_set(
    override: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["config", "--set", override])
    assert done.exit_code == 1
    heading, *faults = done.output.splitlines()
    assert heading == "Error: --set:"
    assert len(faults) == 1
    assert len(faults[0]) < 600
    assert word in faults[0]


def test_text_may_look_like_broken_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")
    config = load_config(path, ("database.password={", "database.user=[a", "teacher.name=&a *a"), environment={})
    assert config.database.password is not None
    assert config.database.password.get_secret_value() == "{"
    assert (config.database.user, config.teacher.name) == ("[a", "&a *a")
