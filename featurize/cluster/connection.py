"""A connection to a Dask scheduler: one that runs already, or one that is started in this process.

Workers of our own are single-threaded processes: decoders and FFTs then scale with the cores, and a crash takes one
task. On this machine alone everything stays on 127.0.0.1.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from student_clap.config.formats.json_text import read_json
from student_clap.config.runtime.signals import children_ignore_interrupts
from student_clap.config.runtime.text import one_line
from student_clap.config.schema import FeaturizeConfig

if TYPE_CHECKING:
    from distributed import Client

    from student_clap.featurize.cluster.jobs import BatchJobs

_CONNECT_S = 20
_LEAST_CONNECT_S = 5.0  # for a scheduler whose file came at the last moment
_WORKER_SETTINGS = {
    # What feeds the dashboard's profile and clocks takes 3 % of every worker's core, and as much of the driver's.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.daemon": True,
    # A track that kills its worker twice is quarantined; the driver then tries it alone.
    "distributed.scheduler.allowed-failures": 1,
    # A worker that died is restarted; on a busy machine that takes longer than Dask's own patience, after which it
    # would close the nanny too, and no worker would be left.
    "distributed.deploy.lost-worker-timeout": "1 hour",
    # One thread per worker, for the numeric libraries too. Dask's own default adds a low MALLOC_TRIM_THRESHOLD_, with
    # which glibc maps and unmaps every array above 128 kB: featurize then takes 1.6 times the CPU (docs/log.md).
    "distributed.nanny.pre-spawn-environ": dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
    ),
}


class ClusterError(click.ClickException):
    """The cluster cannot do the work, or is lost. What is marked stays; the next run goes on from there."""


@dataclass(frozen=True)
class Cluster:
    """A connection to a Dask scheduler, and what a person should know about it."""

    client: Client
    address: str
    dashboard: str = ""  # "" where none is served
    wait_s: float = 300.0  # for the first worker
    join_hint: str = "Dask restarts them by itself"
    jobs: BatchJobs | None = None  # that workers run in
    workers: int = 0  # where no others can join: so many were started

    def threads(self) -> dict[str, int]:
        """Worker address -> threads. Raises ClusterError if the scheduler is lost."""
        self.check()
        try:
            threads: dict[str, int] = self.client.nthreads()
        except (OSError, TimeoutError, RuntimeError) as error:
            raise self._lost() from error
        return threads

    def check(self) -> None:
        """Raise ClusterError if the scheduler is known to be lost. Sends nothing."""
        if self.client.status != "running":
            raise self._lost()

    def _lost(self) -> ClusterError:
        return ClusterError(
            f"the connection to the Dask scheduler at {self.address} is lost: it was stopped, or its machine is "
            "unreachable. What is made is kept; start a scheduler and run the same command again"
        )


@contextmanager
def local_cluster(
    workers: int,
    memory_limit: str = "2GB",
    host: str | None = "127.0.0.1",
    interface: str | None = None,
    local_directory: str | None = None,
) -> Iterator[Cluster]:
    """A scheduler in this process, which listens on `host` or `interface` alone, and `workers` on this machine."""
    import dask
    from distributed import Client, LocalCluster

    _quiet()
    # Without an address Dask takes port 8787 of the network that the scheduler listens on. The pages need bokeh.
    has_dashboard = importlib.util.find_spec("bokeh") is not None
    with dask.config.set(_WORKER_SETTINGS), ExitStack() as stack:
        with children_ignore_interrupts():
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=memory_limit,
                    local_directory=None if local_directory is None else _expanded(local_directory),
                    host=None if interface else host,
                    interface=interface,
                    dashboard_address="127.0.0.1:0",
                    worker_dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
            )
        client = stack.enter_context(Client(cluster))
        dashboard = cluster.dashboard_link if has_dashboard else ""
        yield Cluster(client, str(cluster.scheduler_address), dashboard, workers=workers)


def _expanded(folder: str) -> str:
    return os.path.expandvars(Path(folder).expanduser())


@contextmanager
def running_cluster(address: str, config: FeaturizeConfig, started_by: str = "") -> Iterator[Cluster]:
    """A scheduler that runs at `address`. Raises ClusterError if none answers, or none can be at such an address."""
    check_address(address)
    client = _connect(address, min(_CONNECT_S, config.wait_s))
    if client is None:
        raise ClusterError(
            f"no Dask scheduler answers at {address}; start one with `dask scheduler`, "
            "or leave --scheduler out to use this machine"
            if not started_by
            else f"no Dask scheduler answers at {address}; {started_by}"
        )
    hint = started_by or f"start some with `dask worker {address}`"
    with _until_closed(client, address, config, hint) as cluster:
        yield cluster


def check_address(address: str) -> None:
    """Raise ClusterError where no scheduler can have this address: Dask itself would try for its whole patience."""
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import backends

    try:
        protocol, location = parse_address(address)
        if protocol not in backends:
            raise ValueError(f"there is no protocol {protocol}://")  # noqa: TRY301
        if protocol != "inproc":
            host, port = parse_host_port(location)
            if not host or not 0 < port < 1 << 16:
                raise ValueError("host or port is missing")  # noqa: TRY301
    except ValueError as error:
        raise ClusterError(
            f"{address!r} is not the address of a Dask scheduler ({one_line(error)}); write such as "
            "tcp://10.0.0.2:8786, which `dask scheduler` prints when it starts"
        ) from None


@contextmanager
def cluster_of_a_file(
    path: Path, config: FeaturizeConfig, say: Callable[[str], None], started_by: str = ""
) -> Iterator[Cluster]:
    """The scheduler that wrote `path`, which is waited for. Raises ClusterError if none answers in time."""
    remedy = started_by or f"`dask scheduler --scheduler-file {path}` writes it"
    client, address = _from_file(path, config.wait_s, say, remedy)
    hint = started_by or f"start some with `dask worker --scheduler-file {path}`"
    with _until_closed(client, address, config, hint) as cluster:
        yield cluster


@contextmanager
def _until_closed(client: Client, address: str, config: FeaturizeConfig, hint: str) -> Iterator[Cluster]:
    try:
        yield Cluster(client, address, _served_dashboard(client), config.wait_s, hint)
    finally:
        client.close(timeout=5)


def _connect(address: str, timeout_s: float = _CONNECT_S) -> Client | None:
    """A client, or None where no scheduler answers."""
    from distributed import Client

    _quiet()
    before = set(Client._instances)  # noqa: SLF001  a client that could not connect is known to nothing else
    try:
        return Client(address, timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError):
        for half_made in set(Client._instances) - before:  # noqa: SLF001
            half_made.close(timeout=1)
        return None


def _from_file(path: Path, wait_s: float, say: Callable[[str], None], remedy: str) -> tuple[Client, str]:
    """Connect to the scheduler that `path` names. The file may appear later, or be rewritten by a new scheduler."""
    _quiet()  # what it imports takes seconds on a busy machine, which are not the scheduler's
    deadline = time.monotonic() + wait_s
    told = seen = ""
    while True:
        sure = True
        try:
            address = str(read_json(path)["address"])
            check_address(address)
        except FileNotFoundError:
            address, trouble = "", f"there is no scheduler file {path} yet"
        except ClusterError as error:
            address, trouble = "", f"{path}: {error.message}"
        except (OSError, ValueError, KeyError, TypeError) as error:
            address, trouble = "", f"{path} is not a scheduler file of Dask's ({type(error).__name__}: {error})"
            sure = trouble == seen  # one that is just being written is whole at the next look
        else:
            trouble = f"{path} names {address}, where no scheduler answers: it is left from an earlier run"
            if client := _connect(address, max(_LEAST_CONNECT_S, min(_CONNECT_S, deadline - time.monotonic()))):
                return client, address
        if time.monotonic() >= deadline:
            raise ClusterError(f"{trouble}; waited {wait_s:g} s (featurize.wait_s). {remedy}")
        if sure and trouble != told:
            say(f"waiting at most {wait_s:g} s: {trouble}; {remedy}")
            told = trouble
        seen = trouble
        time.sleep(0.2)


def _served_dashboard(client: Client) -> str:
    """The dashboard's address, where one is served; a scheduler without bokeh has a port for it all the same."""
    link = str(client.dashboard_link or "")
    if not link.startswith(("http://", "https://")):
        return ""
    try:
        with urllib.request.urlopen(link, timeout=2) as answer:  # noqa: S310 - checked above
            return link if b"bokeh" in answer.read(100_000).lower() else ""
    except (OSError, ValueError, urllib.error.URLError):
        return ""


def _quiet() -> None:
    """The driver says itself what happened to the cluster, once."""
    import distributed  # noqa: F401 - sets its loggers up when it is first imported

    # asyncio's is told of what Dask leaves behind, with a traceback: of a result, say, that went with its worker.
    for name in ("asyncio", "distributed", "distributed.client", "distributed.comm", "distributed.deploy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
