"""reembed killed in the middle of AudioMuse-AI's table, on the way there and on the way back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loopback.processes import started
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


# Two batches of two rows are committed; the second row of the third never ends.
HOLD = """
CREATE SEQUENCE touched;
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF nextval('touched') > 5 THEN PERFORM pg_sleep(600); END IF; RETURN NEW; END $$;
CREATE TRIGGER hold BEFORE UPDATE ON clap_embedding FOR EACH ROW EXECUTE FUNCTION hold();
"""
COMMITTED = 4
THERE = """
SELECT a.pid FROM pg_stat_activity a JOIN pg_locks l USING (pid)
WHERE a.application_name = 'student-clap' AND a.datname = current_database() AND l.locktype = 'advisory'
"""
SMALL_BATCHES = """
import sys
from student_clap.config.cli import main
from student_clap.export.app import replacement
replacement.BATCH_ROWS = 2
main(sys.argv[1:])
"""


def killed_in_the_middle(world: World, command: list[str]) -> None:
    """Run `command` until it is in the middle of its third batch, then kill it."""
    world.query(HOLD)
    null = subprocess.DEVNULL
    with started([sys.executable, "-c", SMALL_BATCHES, *command], stdout=null, stderr=null) as process:
        while world.query("SELECT last_value FROM touched") != [(6,)]:
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    # The server would end what the process had begun, but only when it wakes up.
    ((backend,),) = world.query(THERE)
    assert world.query("SELECT pg_terminate_backend(%s, 60000)", (backend,)) == [(True,)]
    assert world.query(THERE) == []
    world.query("DROP FUNCTION hold CASCADE; DROP SEQUENCE touched")


def n_changed(world: World, before: dict[str, bytes | None]) -> int:
    return sum(vector != before[item] for item, vector in world.table().items())


def test_killed_in_the_middle_and_run_again(both: World) -> None:
    world = both
    before = world.table()
    world.run()
    killed_in_the_middle(world, world.command("--write-database", "--yes"))
    assert n_changed(world, before) == COMMITTED
    (dump,) = world.dumps()
    done = world.run("--write-database", "--yes")
    assert f"{12 - COMMITTED} rows written (0 planned as new), {COMMITTED} held theirs" in done.stdout
    assert_written(world)
    assert world.dumps() == [dump]  # it had the rest too
    # And the way back, killed as well.
    written = world.table()
    command = world.command("--restore", dump, "--yes", model=False)
    killed_in_the_middle(world, command)
    assert n_changed(world, written) == COMMITTED
    assert f"put {12 - COMMITTED} rows back" in world.restore(dump).stdout
    assert world.table() == before
