"""config.yaml and --set: the first line of the input, where it begins with `--set `, is an override."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fuzz.target import Target
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.load import ConfigError, load_config, masked
from student_clap.config.schema import Config

_SET = b"--set "


def _run(data: bytes, folder: Path) -> None:
    overrides = []
    if data.startswith(_SET):
        line, _, data = data.removeprefix(_SET).partition(b"\n")
        overrides = [line.decode("utf-8", "replace")]
    path = folder / "config.yaml"
    path.write_bytes(data)
    config = load_config(path, environment={"A": "b"}, overrides=overrides)
    dump_yaml(masked(config))


def _seeds() -> Iterator[bytes]:
    yield dump_yaml(masked(Config())).encode()
    yield b"--set training.lr=3e-4\ndatabase:\n  host: ${A:-x}\n"
    yield b"a: &a [x, *a]\nb: !!int 5\n? k\n: {c: 0x1f, d: 'e', f: \"\\e\"}\n"


TARGET = Target("config_reader", _run, (ConfigError,), _seeds)
