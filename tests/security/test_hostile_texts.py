"""Texts of strangers that a pattern would look at again and again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from student_clap.config.runtime.text import one_line
from student_clap.export.status.failures import kind_of_reason
from student_clap.ingest.sources.path_map import parse_server_path
from student_clap.ingest.sources.subsonic import parse_error
from student_clap.store.teachers import slug

MILLION = 1_000_000

pytestmark = pytest.mark.timeout(120)  # what hangs would do so for hours


@pytest.mark.parametrize(
    "read",
    [
        lambda: kind_of_reason("a" * MILLION),
        lambda: kind_of_reason("'" * MILLION),
        lambda: parse_error(b"<subsonic-response>" + b"<error " * (MILLION // 7)),
        lambda: parse_error(b'<subsonic-response><error message="' + b"'" * MILLION),
        lambda: parse_server_path("/a/.." * (MILLION // 5)),
        lambda: one_line(" \x1b" * MILLION),
        lambda: slug("a" + "-." * MILLION),
    ],
    ids=["reason", "quotes", "XML", "message", "path", "line", "name"],
)
def test_a_million_characters_are_read_at_once(read: Callable[[], object]) -> None:
    read()
