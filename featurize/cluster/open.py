"""The Dask cluster that featurize runs on: this machine's cores, a scheduler that runs already, or SLURM jobs."""

from __future__ import annotations

import importlib.util
import json
import logging
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from student_clap.config.runtime.machine import available_cores
from student_clap.config.runtime.signals import children_ignore_interrupts
from student_clap.config.schema import FeaturizeConfig

if TYPE_CHECKING:
    from distributed import Client

    from student_clap.featurize.cluster.slurm import SlurmJobs

_CONNECT_S = 20
_WORKER_SETTINGS = {
    # What feeds the dashboard's profile and clocks takes 3 % of every worker's core, and as much of the driver's.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.daemon": True,
    # A track that kills its worker twice is suspect; the driver then tries it alone.
    "distributed.scheduler.allowed-failures": 1,
    # A worker that died is restarted; on a busy machine that takes longer than Dask's own patience, after which it
    # would close the nanny too, and nobody would work.
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
    jobs: SlurmJobs | None = None
    workers: int = 0  # where nobody else can join: so many were started

    def threads(self) -> dict[str, int]:
        """Worker address -> threads. Raises ClusterError if the scheduler is lost."""
        self.check()
        try:
            threads: dict[str, int] = self.client.nthreads()
        except (OSError, TimeoutError, RuntimeError) as error:
            raise self._lost() from error
        return threads

    def check(self) -> None:
        """Raise ClusterError if the scheduler is lost. Asks nobody."""
        if self.client.status != "running":
            raise self._lost()

    def _lost(self) -> ClusterError:
        return ClusterError(
            f"the connection to the Dask scheduler at {self.address} is lost: it was stopped, or its machine is "
            "unreachable. What is made is kept; start a scheduler and run the same command again"
        )


@contextmanager
def dask_cluster(config: FeaturizeConfig, say: Callable[[str], None]) -> Iterator[Cluster]:
    """The cluster that `config` names; what was started for it is stopped at the end.

    Workers of our own are single-threaded processes: decoders and FFTs then scale with the cores, and a crash takes
    one task. On this machine alone everything stays on 127.0.0.1.

    Args:
        config: `cluster`, `scheduler`, `scheduler_file` choose.
        say: told what is waited for.

    Raises:
        ClusterError: no scheduler answers, or jobs cannot be submitted.
    """
    with warnings.catch_warnings(), ExitStack() as stack:
        # Versions are compared by `crew`, which knows what matters.
        warnings.filterwarnings("ignore", message=r"\s*Mismatched versions found")
        if config.scheduler is not None:
            client = _connect(config.scheduler, min(_CONNECT_S, config.wait_s))
            if client is None:
                raise ClusterError(
                    f"no Dask scheduler answers at {config.scheduler}; start one with `dask scheduler`, "
                    "or leave --scheduler out to use this machine"
                )
            stack.callback(client.close, timeout=5)
            yield _running(client, config.scheduler, config, f"start some with `dask worker {config.scheduler}`")
        elif config.scheduler_file is not None:
            client, address = _from_file(config.scheduler_file, config.wait_s, say)
            stack.callback(client.close, timeout=5)
            hint = f"start some with `dask worker --scheduler-file {config.scheduler_file}`"
            yield _running(client, address, config, hint)
        elif config.cluster == "slurm":
            from student_clap.featurize.cluster.slurm import slurm_cluster

            yield stack.enter_context(slurm_cluster(config, say))
        else:
            workers = config.workers or available_cores()
            yield stack.enter_context(local_cluster(workers, config.memory_limit))


@contextmanager
def local_cluster(
    workers: int, memory_limit: str = "2GB", host: str | None = "127.0.0.1", interface: str | None = None
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


def _running(client: Client, address: str, config: FeaturizeConfig, hint: str) -> Cluster:
    return Cluster(client, address, _served_dashboard(client), config.wait_s, hint)


def _connect(address: str, timeout_s: float = _CONNECT_S) -> Client | None:
    """A client, or None where no scheduler answers."""
    from distributed import Client

    _quiet()
    try:
        return Client(address, timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError):
        return None


def _from_file(path: Path, wait_s: float, say: Callable[[str], None]) -> tuple[Client, str]:
    """Connect to the scheduler that `path` names. The file may appear later, or be rewritten by a new scheduler."""
    deadline = time.monotonic() + wait_s
    told = ""
    while True:
        try:
            address = str(json.loads(path.read_text(encoding="utf-8"))["address"])
        except FileNotFoundError:
            address, trouble = "", f"there is no scheduler file {path} yet"
        except (OSError, ValueError, KeyError, TypeError) as error:
            address, trouble = "", f"{path} is no scheduler file of Dask's ({type(error).__name__}: {error})"
        else:
            trouble = f"{path} names {address}, where no scheduler answers: it is left from an earlier run"
            if client := _connect(address, max(1.0, min(_CONNECT_S, deadline - time.monotonic()))):
                return client, address
        remedy = f"`dask scheduler --scheduler-file {path}` writes it"
        if time.monotonic() >= deadline:
            raise ClusterError(f"{trouble}; waited {wait_s:g} s (featurize.wait_s). {remedy}")
        if trouble != told:
            say(f"waiting at most {wait_s:g} s: {trouble}; {remedy}")
            told = trouble
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

    for name in ("distributed", "distributed.client", "distributed.comm", "distributed.deploy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
