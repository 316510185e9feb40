"""A value that cannot be is refused in one line, before anything begins; ~ is the home folder in every path."""

from __future__ import annotations

import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest

from student_clap.config.json_schema import sections
from student_clap.config.load import ConfigError, load_config

DIGITS = "1" * 23


def inside(annotation: Any) -> set[Any]:
    """The plain types that an annotation is made of."""
    if get_origin(annotation) is Annotated:
        return inside(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType, tuple):
        return set().union(*(inside(each) for each in get_args(annotation)))
    return {annotation}


def keys_of(kind: type) -> list[str]:
    return [
        f"{section}.{key}"
        for section, model in sections().items()
        for key, field in model.model_fields.items()
        if kind in inside(field.annotation)
    ]


NUMBERS = sorted({*keys_of(float), *keys_of(int)})
PATHS = [*keys_of(Path), "store.path"]


def refusal(text: str, tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path, environment={})
    _, *faults = error.value.message.splitlines()
    assert len(faults) == 1 or all("model.cnn_channels" in fault for fault in faults)  # a list: its value, and itself
    return faults[0]


def in_yaml(key: str, value: str) -> str:
    section, _, name = key.partition(".")
    return f"{section}:\n  {name}: {value}\n"


def test_all_paths_and_numbers_are_tried() -> None:
    expected = {
        "table.path", "table.tracks", "teacher.model", "ingest.cache_dir", "featurize.scheduler_file",
        "featurize.job_logs", "folder.path", "model.pretrained", "loss.text_vectors", "training.runs_dir", "store.path",
        "store.local_cache", "audiomuse.model_dir",
    }  # fmt: skip
    assert set(PATHS) == expected
    assert {"training.learning_rate", "training.epochs", "ingest.timeout_s", "audio.fmin", "model.cnn_channels"} <= {
        *NUMBERS
    }


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", DIGITS, "1e300", f"-{DIGITS}"])
@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_infinite_or_beyond_reason(key: str, value: str, tmp_path: Path) -> None:
    value = f"[{value}, 8, 8]" if key == "model.cnn_channels" else value
    section, _, name = key.partition(".")
    expected = rf"^  - {section}(\.|: ){name}"
    assert re.search(expected, refusal(in_yaml(key, value), tmp_path))
    with pytest.raises(ConfigError, match=rf"(?m){expected}"):
        load_config(_empty(tmp_path), (f"{key}={value}",), environment={})


def _empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    return path


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("featurize.memory_limit", "lots", "is not a size of memory; write such as 2GB"),
        ("featurize.memory_limit", "'2'", "which a worker cannot have; write such as 2GB"),
        ("featurize.memory_limit", "-2GB", "is not a size of memory"),
        ("featurize.memory_limit", "1e400GB", "is not a size of memory"),
        ("featurize.memory_per_job", "99999999 TB", "which a worker cannot have"),
        ("featurize.walltime", "soon", "is not a time as SLURM writes it; write such as 02:00:00"),
        ("featurize.walltime", "'0'", "is not a time that a job can have"),
        ("featurize.walltime", "999999999-0", "is not a time that a job can have"),
        ("store.path", "''", "is empty; name a directory or s3://BUCKET/NAME.zarr"),
        ("store.path", "' '", "is empty"),
        ("store.path", r'"a\0b"', "holds a NUL character"),
        ("ingest.cache_dir", "''", "is empty; name a path"),
        ("training.runs_dir", "''", "is empty; name a path"),
        ("training.runs_dir", "~no-such-user/runs", "~no-such-user is not the home folder of a user"),
        ("store.path", "~no-such-user/store.zarr", "~no-such-user is not the home folder of a user"),
        ("training.seed", "-1", "greater than or equal to 0"),
    ],
)
def test_other_impossible_values_are_refused(key: str, value: str, words: str, tmp_path: Path) -> None:
    fault = refusal(in_yaml(key, value), tmp_path)
    assert fault.startswith(f"  - {key}: ")
    assert words in fault


@pytest.mark.parametrize("value", ["2GB", "1500MiB", "1.5 GB", "2G", "4gib", "500M"])
def test_sizes_of_memory_are_read_as_dask_reads_them(value: str, tmp_path: Path) -> None:
    from dask.utils import parse_bytes

    from student_clap.config.quantities import memory_bytes

    assert memory_bytes(value) == parse_bytes(value)
    assert load_config(_empty(tmp_path), (f"featurize.memory_limit={value}",)).featurize.memory_limit == value


@pytest.mark.parametrize("given", ["file", "--set", "variable"])
@pytest.mark.parametrize("key", PATHS)
def test_a_tilde_is_the_home_folder(key: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    section, _, name = key.partition(".")
    path = tmp_path / "config.yaml"
    yaml = "" if given == "--set" else in_yaml(key, "~/a/b" if given == "file" else "${PLACE}")
    other = "  architecture: mobile-10\n"  # a student that can begin with a checkpoint
    path.write_text(f"{yaml or 'model:' + chr(10)}{other}" if key == "model.pretrained" else yaml)
    config = load_config(path, (f"{key}=~/a/b",) if given == "--set" else (), environment={"PLACE": "~/a/b"})
    assert str(getattr(getattr(config, section), name)) == str(tmp_path / "home/a/b")


def test_what_is_no_tilde_stays_as_it_is(tmp_path: Path) -> None:
    config = load_config(_empty(tmp_path), ("store.path=s3://bucket/~/a.zarr", "folder.path="))
    assert config.store.path == "s3://bucket/~/a.zarr"
    assert config.folder.path is None
    assert load_config(_empty(tmp_path), ("store.path=a//~b.zarr",)).store.path == "a//~b.zarr"
