"""Batches read ahead of the trainer: by a thread of its own process, or by worker processes.

Guarantee: batches come in the order of their requests, whatever the number of workers. Workers come from a fork server,
never by fork, and open the store themselves. They live as long as the stream, end when the trainer is killed, and are
sent nothing but requests.
Cost: at most `_AHEAD` batches per worker wait in memory.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import click
from torch.utils.data import DataLoader, Dataset, Sampler

from student_clap.config.runtime.signals import children_ignore_interrupts, leave_signals_to_parent
from student_clap.train.data.batches import Batch, TrackReader
from student_clap.train.data.parts import BatchRequest

_AHEAD = 2


class BatchStream:
    """Reads the batches of a list of requests. Use as a context manager, so that workers end.

    Args:
        reader: reads one batch at a time.
        workers: processes; 0 reads in a thread.
        pin: whether batches go to page-locked memory.
    """

    def __init__(self, reader: TrackReader, *, workers: int, pin: bool) -> None:
        self._reader = reader
        self._pin = pin
        self._requests = _Requests()
        self._loader: DataLoader[Batch] | None = None
        if workers:
            self._loader = DataLoader(
                _RequestedBatches(reader),
                batch_size=None,
                sampler=self._requests,
                num_workers=workers,
                multiprocessing_context="forkserver",
                persistent_workers=True,
                prefetch_factor=_AHEAD,
                pin_memory=pin,
                collate_fn=_as_it_is,
                worker_init_fn=_begin_worker,
            )

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, *_: object) -> None:
        # Without its iterator the loader has no workers; they end when it is collected.
        self._loader = None

    def read(self, requests: Sequence[BatchRequest]) -> Generator[Batch]:
        """The batches of `requests`, in order. Close it where it is not read to its end.

        Raises:
            click.ClickException: a worker died.
        """
        if self._loader is None:
            yield from _read_ahead(self._reader, requests, pin=self._pin)
            return
        self._requests.items = list(requests)
        try:
            with children_ignore_interrupts():  # they start here, and take a second to come to `_begin_worker`
                batches = iter(self._loader)
            yield from batches
        except click.ClickException as error:
            # torch puts a worker's traceback around the message, which is its last line.
            *_, message = error.message.strip().splitlines()
            raise click.ClickException(message.partition("Error: ")[2] or message) from error
        except RuntimeError as error:
            if "DataLoader worker" not in str(error) or "exited unexpectedly" not in str(error):
                raise
            raise click.ClickException(
                f"a process that reads the store has died ({error}); out of memory is the usual reason: lower "
                "training.loader_workers or training.batch_size and run the same command again"
            ) from error


def _read_ahead(reader: TrackReader, requests: Sequence[BatchRequest], *, pin: bool) -> Generator[Batch]:
    """Read in a thread; an error there is raised here."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for request in requests:
                if stop.is_set():
                    return
                batch = reader.read(request)
                put(batch.pin_memory() if pin else batch)
            put(None)
        except BaseException as error:  # noqa: BLE001  whatever it is, the reader of the queue raises it
            put(error)

    thread = threading.Thread(target=work, name="batch-reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


class _Requests(Sampler[Any]):
    """The requests of the coming pass over the loader."""

    def __init__(self) -> None:
        self.items: list[BatchRequest] = []

    def __iter__(self) -> Iterator[BatchRequest]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class _RequestedBatches(Dataset[Batch]):
    """A data set whose keys are requests."""

    def __init__(self, reader: TrackReader) -> None:
        self._reader = reader

    def __getitem__(self, index: BatchRequest) -> Batch:
        return self._reader.read(index)


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin_worker(_worker: int) -> None:
    """Leave signals, which reach the whole process group, to the trainer; end when the trainer is killed.

    torch's own watch sees only the fork server die, and that lives as long as its children.
    """
    leave_signals_to_parent()
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        threading.Thread(target=_end_with, args=(trainer,), name="trainer-watch", daemon=True).start()


def _end_with(trainer: BaseProcess) -> None:
    trainer.join()
    os._exit(1)
