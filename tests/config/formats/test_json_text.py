"""JSON of others: whatever is wrong with it is an error of one kind, and none of it is waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from student_clap.config.formats.json_text import MAX_FILE_BYTES, parse_json, read_json


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"a":' * 100_000, "[" * 5000 + "]" * 5000, "9" * 5000, b"\xff\xfe\xff", b"\x00"],
    ids=lambda text: str(text[:8]),
)
def test_what_is_not_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_pipes_devices_and_files_without_end_are_errors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(OSError, match="not a regular file"):
            read_json(tmp_path / name)
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(OSError, match="larger than 64"):
        read_json(tmp_path / "hole")
    (tmp_path / "real").write_text('{"a": 1}')
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert read_json(tmp_path / "link") == {"a": 1}
