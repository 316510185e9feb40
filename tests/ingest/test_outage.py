"""A server that goes away in the middle of a library and stays away."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from student_clap.store import State

N_TRACKS = 520


@pytest.fixture
def world(make_world: Any) -> Any:
    world = make_world(8, generation="B")
    first = world.tracks[0]
    files = [world.media.files[t.track_id] for t in world.tracks]
    more = [dataclasses.replace(first, track_id=f"{i:08x}", item_id="") for i in range(8, N_TRACKS)]
    world.put(*more)
    world.media.files.update((t.track_id, files[i % 8]) for i, t in enumerate(more))
    return world


def test_a_server_that_stays_away_ends_the_run_with_one_error(world: Any) -> None:
    world.media.fault(f"{500:08x}", "die", times=1)
    result = world.run(ok=False)
    assert result.stderr.count("Error: ") == 1
    assert "Jellyfin at http://127.0.0.1" in result.stderr
    assert "connection refused" in result.stderr
    # As many are told one by one as it takes to ask whether the server is there, not all that are left.
    states = [row["state"] for row in world.table().values()]
    assert 490 <= states.count(State.FETCHED) <= 510
    assert states.count(State.LISTED) == N_TRACKS - states.count(State.FETCHED)
    world.media.faults.clear()
    world.media.start()
    result = world.run()
    assert f"{states.count(State.FETCHED)} already there, 0 failed" in result.stdout
    assert {row["state"] for row in world.table().values()} == {State.FETCHED}
