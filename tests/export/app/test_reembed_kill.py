"""reembed killed in the middle of AudioMuse-AI's table, on the way there and on the way back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from student_clap.export.demo.postgres import Database

from ..conftest import Library
from .reembed_world import World, assert_written, make_world

pytestmark = pytest.mark.slow


@pytest.fixture(params=["A", "B"])
def both(
    request: pytest.FixtureRequest, copied_library: Library, exported: Path, database: Database, tmp_path: Path
) -> World:
    """A world of each generation in turn."""
    return make_world(request.param, copied_library, exported, database, tmp_path)


SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(0.03); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE UPDATE ON clap_embedding FOR EACH ROW EXECUTE FUNCTION slow();
"""
SMALL_BATCHES = """
import sys
from student_clap.config.cli import main
from student_clap.export.app import replacement
replacement.BATCH_ROWS = 2
main(sys.argv[1:])
"""


def killed_in_the_middle(world: World, command: list[str], before: dict[str, bytes | None]) -> int:
    """Run `command` until some rows but not all have changed, then kill it. Returns how many changed."""
    world.query(SLOW)
    with subprocess.Popen(
        [sys.executable, "-c", SMALL_BATCHES, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and sum(v != before[k] for k, v in world.table().items()) < 4:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    world.query("DROP FUNCTION slow CASCADE")
    # The server ends what the process had begun.
    while world.query("SELECT FROM pg_locks WHERE locktype = 'advisory'"):
        time.sleep(0.01)
    return sum(v != before[k] for k, v in world.table().items())


def test_killed_in_the_middle_and_run_again(both: World) -> None:
    world = both
    before = world.table()
    world.run()
    changed = killed_in_the_middle(world, world.command("--write-database", "--yes"), before)
    assert 4 <= changed < 12
    assert changed % 2 == 0  # whole batches
    (dump,) = world.dumps()
    done = world.run("--write-database", "--yes")
    assert f"{12 - changed} rows written (0 planned as new), {changed} held theirs" in done.stdout
    assert_written(world)
    assert world.dumps() == [dump]  # it had the rest too
    # And the way back, killed as well.
    written = world.table()
    command = world.command("--restore", dump, "--yes", model=False)
    restored = killed_in_the_middle(world, command, written)
    assert 4 <= restored < 12
    assert f"put {12 - restored} rows back" in world.restore(dump).stdout
    assert world.table() == before
