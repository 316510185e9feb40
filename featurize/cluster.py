"""The Dask cluster that featurize runs on: one of its own on this machine, or one that runs already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.stop import children_ignore_interrupts

if TYPE_CHECKING:
    from distributed import Client


_WORKER_SETTINGS = {
    "distributed.worker.daemon": True,
    # One thread per worker, for the numeric libraries too. Dask's own default adds a low MALLOC_TRIM_THRESHOLD_, with
    # which glibc maps and unmaps every array above 128 kB: featurize then takes 1.6 times the CPU (docs/log.md).
    "distributed.nanny.pre-spawn-environ": dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
    ),
}


@contextmanager
def dask_client(config: FeaturizeConfig) -> Iterator[Client]:
    """A client of a LocalCluster on loopback, or of `config.scheduler`.

    Workers are single-threaded processes: decoders and FFTs then scale with the cores, and a crash takes one task.

    Raises:
        click.ClickException: no scheduler answers at the address.
    """
    import dask
    from distributed import Client, LocalCluster

    if config.scheduler is not None:
        try:
            client = Client(config.scheduler, timeout="20s")
        except (OSError, TimeoutError, ValueError) as error:
            raise click.ClickException(
                f"no Dask scheduler answers at {config.scheduler} ({error}); start one with `dask scheduler`, "
                "or leave --scheduler out to use this machine"
            ) from None
        with client:
            yield client
        return
    with dask.config.set(_WORKER_SETTINGS), ExitStack() as stack:
        with children_ignore_interrupts():
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=config.workers or available_cores(),
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=config.memory_limit,
                    host="127.0.0.1",
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )
            )
        yield stack.enter_context(Client(cluster))


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
