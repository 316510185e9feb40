"""The writer's lock of a store in a bucket, without conditional writes: reservations in `<store>.lock/`.

A process that wants to write puts a reservation, then lists all reservations. Alone, it holds the lock; not alone, it
removes its reservation. Of two at once the one that lists last sees the other, because S3 lists objects that were put
before: both may step back (they try again after a random time), never both stay. A thread renews the reservation. The
next writer removes one that was not renewed for `STALE_S` by the object store's clock alone (`Last-Modified`), or whose
process has ended on this host.

Guarantee: one writer, on stores that list consistently, as long as a writer that hangs for `STALE_S` does not wake
within a request. It is advisory: other programs can write regardless. A writer that lost its reservation stops writing.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from student_clap.config.formats.json_text import parse_json
from student_clap.store.storage.base import Owner
from student_clap.store.storage.errors import StoreError

if TYPE_CHECKING:
    from student_clap.store.storage.bucket import BucketStorage

logger = logging.getLogger(__name__)

RENEW_S = 15.0
STALE_S = 120.0
_DOUBT_S = 0.75 * STALE_S  # not renewed for so long, a writer stops of its own accord
_TRIES = 4
PAUSE_S = (0.1, 1.0)


class BucketLock:
    """The writer's lock of a store in a bucket, held from `take` to `release`."""

    def __init__(self, store: BucketStorage, reservation: BucketStorage, note: dict[str, Any]) -> None:
        self._store = store
        self._reservation = reservation
        self._note = note
        self._renewed = _now()
        self._lost = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="writers-lock", daemon=True)

    @classmethod
    def take(cls, store: BucketStorage) -> Self:
        """Take the lock of the store at `store`.

        Raises:
            StoreError: another process writes there, or reservations cannot be written.
        """
        reservations = _reservations(store)
        token = uuid.uuid4().hex
        note = {**asdict(Owner.here()), "pid_space": _pid_space(), "started": datetime.now(UTC).isoformat()}
        lock = cls(store, reservations / f"{token}.json", {**note, "renewals": 0})
        for attempt in range(_TRIES):
            lock._put()
            try:
                other = _look(store, reservations, f"{token}.json")
            except BaseException:
                lock._reservation.delete()
                raise
            if other is None:
                lock._thread.start()
                return lock
            lock._reservation.delete()
            # One that was never renewed may be stepping back as well.
            if attempt + 1 < _TRIES and other.get("renewals") == 0:
                time.sleep(random.uniform(*PAUSE_S))
                continue
            break
        owner = Owner.read(json.dumps(other))
        raise StoreError(
            f"{store} is being written by {owner or 'another process'}; wait for it to end, or stop it. The lock of a "
            f"writer that was killed on another host is free {STALE_S:g} s after its last sign"
        )

    @staticmethod
    def owner(store: BucketStorage) -> Owner | None:
        """The process that the newest reservation names; None where there is none."""
        for entry in sorted(_reservations(store).entries(), key=lambda entry: entry.modified, reverse=True):
            with suppress(FileNotFoundError):  # given back meanwhile
                return Owner.read((_reservations(store) / entry.name).read_bytes())
        return None

    def check(self) -> None:
        """Raise StoreError where the lock was lost, or may have been."""
        if self._lost or _now() - self._renewed > _DOUBT_S:
            raise StoreError(
                f"{self._store}: the writer's lock was lost, because this process was held up or the object store did "
                "not answer; another may be writing now. Run the same command again"
            )

    def release(self) -> None:
        """Give the lock back."""
        self._end.set()
        self._thread.join()
        if not self._lost:
            self._reservation.delete()

    def _put(self) -> None:
        begin = _now()
        self._reservation.put(json.dumps(self._note).encode())
        self._renewed = begin

    def _renew(self) -> None:
        while not self._end.wait(RENEW_S):
            try:
                if _now() - self._renewed > _DOUBT_S or not self._reservation.exists():
                    self._lost = True
                    logger.error("the writer's lock of %s was lost; nothing more is written", self._store)
                    return
                self._note["renewals"] += 1
                self._put()
            except (StoreError, OSError) as error:
                logger.warning("the writer's lock of %s could not be renewed: %s", self._store, error)


def _reservations(store: BucketStorage) -> BucketStorage:
    return store.parent / f"{store.name}.lock"


def _look(store: BucketStorage, reservations: BucketStorage, mine: str) -> dict[str, Any] | None:
    """The note of another reservation that counts; None if there is none. Removes stale ones."""
    entries = {entry.name: entry for entry in reservations.entries()}
    if mine not in entries:
        raise StoreError(
            f"{reservations} does not list the object that was just put there: that object store cannot hold a lock"
        )
    for name, entry in entries.items():
        if name == mine:
            continue
        try:
            note: dict[str, Any] = parse_json((reservations / name).read_bytes())
        except FileNotFoundError:
            continue  # given back meanwhile
        except ValueError:
            note = {}
        silent_s = (entries[mine].modified - entry.modified).total_seconds()
        if silent_s <= STALE_S and not _has_ended(note):
            return note
        owner = Owner.read(json.dumps(note)) or "a writer without a name"
        logger.warning(
            "%s, which wrote %s last, gave its last sign %.0f s ago and did not end in order; its lock is taken over",
            owner, store, silent_s,
        )  # fmt: skip
        (reservations / name).delete()
    return None


def _has_ended(note: dict[str, Any]) -> bool:
    """Whether its process ran here and is gone. Process numbers are compared within one boot and one container only."""
    owner = Owner.read(json.dumps(note))
    space = _pid_space()
    return owner is not None and space != "" and note.get("pid_space") == space and not owner.is_alive


def _pid_space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return ""


def _now() -> float:
    """Seconds that also count while the machine sleeps, and that no clock setting moves."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
