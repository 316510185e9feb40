"""What an object of a listing is, by its name."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from student_clap.store.storage.bucket import Entry


@pytest.mark.parametrize(
    ("name", "row"), [("7/0/0", 7), ("0/0/0", 0), ("foo/0/0", None), ("7/0", None), ("7/0/1", None), ("7", None)]
)
def test_the_row_whose_shard_it_is(name: str, row: int | None) -> None:
    assert Entry(name, 1, datetime.now(UTC)).row == row
