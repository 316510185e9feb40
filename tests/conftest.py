"""What the tests of every folder share."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path

import hypothesis
import psutil
import pytest

from loopback.objectstore import ObjectServer, running_objectstore
from student_clap.export.demo.postgres import Database, PostgresServer, running_postgres

# These machines are shared; how long an example takes says nothing.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what goes on in its background with Ctrl-C ignored, and so would be what the tests start and stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)


MEMORY = Path("/dev/shm")  # noqa: S108  the tests' directories there are pytest's own
ROOM_BYTES = 8 << 30  # many times what a run has there at any time: what a passing test wrote goes with it
if MEMORY.is_dir() and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
    # The store waits for the disk after every file; tests kill processes, not machines, and need none of that.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


# The processes that tests start compute as the tests do, also under a plain `pytest`: see `one_thread`.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SLOW_FIXTURES = {"postgres_server", "object_server"}  # `database` and `bucket` ask for them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what waits for a server as slow; files that start processes or train say so themselves, by `pytestmark`."""
    for item in items:
        if isinstance(item, pytest.Function):
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            if SLOW_FIXTURES & set(item.fixturenames) or parameters.get("where") == "s3":
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL on a socket, one for the whole run."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A fresh, empty database."""
    fresh = postgres_server.create_database()
    yield fresh
    postgres_server.drop_database(fresh)


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """An S3 on loopback, one for the whole run."""
    with running_objectstore() as server:
        yield server


def stop_forkserver() -> None:
    """End the process that reading processes come from, which keeps the environment that it was started with."""
    server = forkserver._forkserver  # noqa: SLF001  Python has no public way
    if server._forkserver_pid is not None:  # noqa: SLF001
        # It ends after its children, and a reader that a test before did not close has one for as long as it is there.
        with suppress(psutil.NoSuchProcess):
            for reader in psutil.Process(server._forkserver_pid).children(recursive=True):  # noqa: SLF001
                with suppress(psutil.NoSuchProcess):
                    reader.kill()
    server._stop()  # noqa: SLF001


@pytest.fixture
def bucket(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a fresh, empty bucket; the environment leads to it."""
    stop_forkserver()
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    name = f"b{uuid.uuid4().hex}"
    object_server.create_bucket(name)
    return name


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """PyTorch computes in one thread, whatever a test before has set: the cores are shared, and what is trained in a
    test is compared with what a process of its own has trained, where two threads round otherwise."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """Our logger as it is before a command sets it up: a test neither sees nor leaves another's handlers and level."""
    logger = logging.getLogger("student_clap")
    before = (logger.handlers, logger.propagate, logger.level)
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
    yield
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])
